//! Messages that must wait before they can be sent, such as those of a model that is being loaded: each
//! behind earlier ones of its model, and none behind another model's.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use stagegate_wire::names::scan_message;

/// Bytes of messages that may wait on one stream; with more the client is held up.
const HELD: usize = 1 << 20;
/// Messages that may wait on one stream.
const MESSAGES: usize = 1024;

/// What a message waits for.
pub(super) type Preparing<'s, T> = Pin<Box<dyn Future<Output = T> + 's>>;

/// A message that waits.
struct Waiting<'s, T> {
    model: Box<[u8]>,
    message: Bytes,
    /// What for; nothing but earlier messages of its model where there is none.
    preparing: Option<Preparing<'s, T>>,
}

/// A message that waits no more.
pub(super) enum Turn<T> {
    /// What it waited for has an outcome.
    Prepared(Bytes, T),
    /// No earlier message of its model waits; it may have to wait itself, at this place.
    Next(Bytes, usize),
}

/// All messages of a stream that wait, in the order in which they came.
pub(super) struct Lanes<'s, T> {
    waiting: VecDeque<Waiting<'s, T>>,
    bytes: usize,
}

/// The model of a message, by the name that its client gave, without a reference.
fn model_of(message: &[u8]) -> &[u8] {
    let name = scan_message(message).map_or(&b""[..], |names| names.model);
    name.split(|byte| *byte == b'@').next().unwrap_or_default()
}

impl<'s, T> Lanes<'s, T> {
    pub(super) fn new() -> Self {
        Self {
            waiting: VecDeque::new(),
            bytes: 0,
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Where the next message would stand.
    pub(super) fn end(&self) -> usize {
        self.waiting.len()
    }

    /// Whether the client's next message may be taken.
    pub(super) fn has_room(&self) -> bool {
        self.bytes < HELD && self.waiting.len() < MESSAGES
    }

    /// Put a message behind those of its model that wait. Gives it back where none does.
    pub(super) fn join(&mut self, message: Bytes) -> Option<Bytes> {
        let model = model_of(&message);
        if !self.waiting.iter().any(|other| *other.model == *model) {
            return Some(message);
        }
        self.put(self.end(), message, None);
        None
    }

    /// Let a message wait for something, at that place. It is not looked at before earlier ones of its model
    /// have left.
    pub(super) fn begin(&mut self, at: usize, message: Bytes, preparing: Preparing<'s, T>) {
        self.put(at, message, Some(preparing));
    }

    fn put(&mut self, at: usize, message: Bytes, preparing: Option<Preparing<'s, T>>) {
        self.bytes += message.len();
        let model = model_of(&message).into();
        let waiting = Waiting {
            model,
            message,
            preparing,
        };
        self.waiting.insert(at.min(self.end()), waiting);
    }

    /// The next message that waits no more; it has left then.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Turn<T>> {
        for at in 0..self.waiting.len() {
            let (before, here) = self.waiting.make_contiguous().split_at_mut(at);
            let Some(first) = here.first_mut() else { break };
            if before.iter().any(|other| other.model == first.model) {
                continue;
            }
            let outcome = match &mut first.preparing {
                Some(preparing) => match preparing.as_mut().poll(cx) {
                    Poll::Ready(outcome) => Some(outcome),
                    Poll::Pending => continue,
                },
                None => None,
            };
            let message = std::mem::take(&mut first.message);
            self.waiting.remove(at);
            self.bytes -= message.len();
            return Poll::Ready(match outcome {
                Some(outcome) => Turn::Prepared(message, outcome),
                None => Turn::Next(message, at),
            });
        }
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use stagegate_wire::encode::put_len;
    use std::cell::Cell;
    use std::future::poll_fn;
    use std::rc::Rc;
    use std::task::Waker;

    fn message(model: &str, size: usize) -> Bytes {
        let mut out = Vec::new();
        put_len(&mut out, 1, model.as_bytes());
        put_len(&mut out, 7, &vec![0; size]);
        out.into()
    }

    fn when(done: &Rc<Cell<bool>>) -> Preparing<'static, ()> {
        let done = Rc::clone(done);
        let poll = move |_: &mut Context<'_>| {
            if done.get() {
                Poll::Ready(())
            } else {
                Poll::Pending
            }
        };
        Box::pin(poll_fn(poll))
    }

    fn poll(lanes: &mut Lanes<'_, ()>) -> Option<Turn<()>> {
        match lanes.poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(turn) => Some(turn),
            Poll::Pending => None,
        }
    }

    #[test]
    fn only_messages_of_the_same_model_wait_behind_one() {
        let mut lanes = Lanes::new();
        let done = Rc::default();
        lanes.begin(0, message("cold@1", 1), when(&done));

        assert!(lanes.join(message("cold", 2)).is_none());
        assert!(lanes.join(message("warm", 3)).is_some());
        assert!(poll(&mut lanes).is_none());
        done.set(true);

        let Some(Turn::Prepared(first, ())) = poll(&mut lanes) else {
            panic!("the first waits still")
        };
        let Some(Turn::Next(second, 0)) = poll(&mut lanes) else {
            panic!("the second waits still")
        };
        assert_eq!([message("cold@1", 1), message("cold", 2)], [first, second]);
        assert!(lanes.is_empty() && lanes.bytes == 0);
    }

    #[test]
    fn what_waits_again_keeps_its_place() {
        let mut lanes = Lanes::new();
        let (one, two) = (Rc::default(), Rc::default());
        lanes.begin(0, message("a", 1), when(&one));
        lanes.join(message("a", 2));
        lanes.begin(lanes.end(), message("b", 3), when(&two));
        one.set(true);
        poll(&mut lanes);

        let Some(Turn::Next(again, at)) = poll(&mut lanes) else {
            panic!("the second waits still")
        };
        lanes.begin(at, again, when(&one));
        two.set(true);

        let order = [poll(&mut lanes), poll(&mut lanes)].map(|turn| match turn {
            Some(Turn::Prepared(message, ())) => message,
            _ => panic!("nothing is prepared"),
        });
        assert_eq!([message("a", 2), message("b", 3)], order);
    }

    #[test]
    fn what_waits_is_bounded_in_bytes_and_in_number() {
        let mut by_bytes = Lanes::new();
        by_bytes.begin(0, message("m", HELD), when(&Rc::default()));
        let mut by_number = Lanes::new();
        by_number.begin(0, message("m", 0), when(&Rc::default()));
        while by_number.has_room() {
            assert!(by_number.join(message("m", 0)).is_none());
        }

        assert!(!by_bytes.has_room());
        assert_eq!(MESSAGES, by_number.end());
    }
}
