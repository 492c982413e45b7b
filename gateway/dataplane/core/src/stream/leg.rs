//! The part of a client's stream that goes to one backend.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{ready, Context, Poll};
use std::time::Instant;

use bytes::{Buf, Bytes, BytesMut};
use h2::client::ResponseFuture;
use h2::SendStream;
use http::{HeaderMap, Response};
use stagegate_table::{Fault, Series};
use stagegate_wire::encode::put_len;
use stagegate_wire::fields::Fields;
use stagegate_wire::stream::{peek, StreamAnswer};
use stagegate_wire::text::{cut, replace_name, MAX_TEXT};

use crate::client::poll_room;
use crate::download::accept_head;
use crate::ejection::{judge, judge_text, Outcome};
use crate::exchange::fault_of;
use crate::framer::Caps;
use crate::joined::Joined;
use crate::reader::{ReadError, Reader};
use crate::routed::Routed;
use crate::sequences::Hold;
use crate::status::Status;
use crate::upstream::Lease;
use crate::worker::Worker;

use super::timing::Timing;

/// Models that one leg remembers; beyond it the oldest is forgotten.
const REMEMBERED: usize = 4096;

/// One backend's part of a stream.
pub(super) struct Leg {
    pub(super) backend: u32,
    pub(super) lease: Lease,
    send: RefCell<Option<SendStream<Joined>>>,
    receive: RefCell<Receive>,
    served: RefCell<Vec<Served>>,
    /// Requests of sequences that have no answer yet, oldest first.
    holds: RefCell<VecDeque<(Arc<Series>, Hold)>>,
    caps: Caps,
}

enum Receive {
    Head(ResponseFuture),
    Messages(Box<Reader>, HeaderMap),
    Done,
}

/// A model that this leg carries.
struct Served {
    routed: Routed,
    series: Arc<Series>,
    timing: Timing,
}

/// A leg that ended without a status, or with one that is the backend's own failure.
pub(super) struct Lost {
    pub(super) status: Status,
    pub(super) fault: Option<Fault>,
}

impl Lost {
    /// What came is no answer of gRPC.
    fn answered(status: Status) -> Self {
        let fault = judge(status.code, &status.message);
        Self { status, fault }
    }

    /// What came cannot be read.
    fn failed(status: Status) -> Self {
        let fault = Some(Fault::Failed);
        Self { status, fault }
    }
}

/// What comes from a backend.
pub(super) enum Next {
    /// The head of its answers.
    Head(Response<()>),
    /// One answer.
    Message(Bytes),
    /// The trailers.
    End(HeaderMap),
}

impl Leg {
    pub(super) fn new(
        backend: u32,
        lease: Lease,
        (response, send): (ResponseFuture, SendStream<Joined>),
        caps: Caps,
    ) -> Self {
        Self {
            backend,
            lease,
            send: RefCell::new(Some(send)),
            receive: RefCell::new(Receive::Head(response)),
            served: RefCell::default(),
            holds: RefCell::default(),
            caps,
        }
    }

    pub(super) fn name(&self) -> &str {
        self.lease.upstream().name()
    }

    /// Keep the place of a request in its sequence until it is answered.
    pub(super) fn hold(&self, series: Arc<Series>, hold: Hold) {
        let mut holds = self.holds.borrow_mut();
        if holds.len() >= REMEMBERED {
            holds.pop_front();
        }
        holds.push_back((series, hold));
    }

    /// A model answered: the oldest of its requests that belongs to a sequence is done.
    fn release_hold(&self, series: &Arc<Series>) {
        let mut holds = self.holds.borrow_mut();
        let oldest = holds
            .iter()
            .position(|(other, _)| Arc::ptr_eq(other, series));
        if let Some(at) = oldest {
            holds.remove(at);
        }
    }

    /// Note a request of that id, so that its answers are renamed and timed.
    pub(super) fn expect(&self, routed: Routed, series: Arc<Series>, id: &[u8]) {
        let mut served = self.served.borrow_mut();
        let now = Instant::now();
        let same = |known: &Served| Arc::ptr_eq(&known.series, &series);
        if let Some(known) = served.iter_mut().find(|known| same(known)) {
            known.routed = routed;
            return known.timing.asked(id, now);
        }
        if served.len() >= REMEMBERED {
            served.remove(0);
        }
        let mut timing = Timing::new(now);
        timing.asked(id, now);
        served.push(Served {
            routed,
            series,
            timing,
        });
    }

    /// Send as much of a message as the backend takes. Ready when all is sent, false where nothing can
    /// be sent any more.
    pub(super) fn poll_send(&self, piece: &mut Joined, cx: &mut Context<'_>) -> Poll<bool> {
        let mut send = self.send.borrow_mut();
        let Some(stream) = send.as_mut() else {
            return Poll::Ready(false);
        };
        while piece.has_remaining() {
            let Some(room) = ready!(poll_room(stream, piece.remaining(), cx)) else {
                *send = None;
                return Poll::Ready(false);
            };
            if stream.send_data(piece.split_to(room), false).is_err() {
                *send = None;
                return Poll::Ready(false);
            }
        }
        Poll::Ready(true)
    }

    /// The client has sent its last message.
    pub(super) fn half_close(&self) {
        if let Some(mut send) = self.send.borrow_mut().take() {
            // A stream that broke tells so on its answers' side.
            let _ = send.send_data(Joined::from(Bytes::new()), true);
        }
    }

    /// What comes next, or what the backend did instead.
    pub(super) fn poll_next(&self, cx: &mut Context<'_>) -> Poll<Result<Next, Lost>> {
        let mut receive = self.receive.borrow_mut();
        match &mut *receive {
            Receive::Done => Poll::Pending,
            Receive::Head(response) => {
                let response = ready!(Pin::new(response).poll(cx));
                let response = response.map_err(|error| self.broken(&error))?;
                let (head, body) = accept_head(response, self.name()).map_err(Lost::answered)?;
                if body.is_end_stream() {
                    *receive = Receive::Done;
                    return Poll::Ready(Ok(Next::End(head.into_parts().0.headers)));
                }
                let reader = Box::new(Reader::new(body, self.caps));
                *receive = Receive::Messages(reader, head.headers().clone());
                Poll::Ready(Ok(Next::Head(head)))
            }
            Receive::Messages(reader, headers) => {
                match ready!(reader.poll_message(headers, cx)) {
                    Ok(Some(message)) => return Poll::Ready(Ok(Next::Message(message))),
                    Ok(None) => {}
                    Err(ReadError::Status(status)) => {
                        return Poll::Ready(Err(Lost::failed(status)))
                    }
                    Err(ReadError::Broken(error)) => return Poll::Ready(Err(self.broken(&error))),
                }
                let trailers = ready!(reader.body().poll_trailers(cx));
                *receive = Receive::Done;
                let trailers = trailers.map_err(|error| self.broken(&error))?;
                Poll::Ready(Ok(Next::End(trailers.unwrap_or_default())))
            }
        }
    }

    fn broken(&self, error: &h2::Error) -> Lost {
        Lost {
            status: Status::of_upstream_error(error, self.name()),
            fault: fault_of(error),
        }
    }

    /// The stream is lost by the backend's fault: it counts for each version that was asked on it.
    pub(super) fn blame(&self, worker: &Worker, fault: Option<Fault>, reason: &str) {
        let outcome = fault.map_or(Outcome::Refused, |fault| Outcome::Fault(fault, reason));
        for known in self.served.borrow().iter() {
            worker.report(&known.routed, self.backend, outcome);
        }
    }

    /// Triton's model names on this leg and their logical ones.
    pub(super) fn rename_text(&self, text: &str) -> String {
        let served = self.served.borrow();
        served.iter().fold(text.to_owned(), |text, known| {
            replace_name(
                &text,
                &known.routed.version.backend_model,
                &known.routed.model.name,
            )
            .into_owned()
        })
    }

    /// An answer under its logical name, timed, and told as the backend's outcome.
    pub(super) fn rename(&self, worker: &Worker, message: Bytes) -> Joined {
        let Ok(seen) = peek(&message) else {
            return Joined::message(message, Bytes::new());
        };
        let tail = self.note_answer(worker, &seen).unwrap_or_default();
        // Some errors name no model, and then they name none here.
        let tail = if seen.model.is_empty() {
            Bytes::new()
        } else {
            tail
        };
        if seen.error.is_empty() {
            return Joined::message(message, tail);
        }
        let text = String::from_utf8_lossy(seen.error);
        let renamed = self.rename_text(&text);
        if renamed.len() <= MAX_TEXT && renamed.as_bytes() == seen.error {
            return Joined::message(message, tail);
        }
        Joined::message(with_error(&message, cut(&renamed, MAX_TEXT)), tail)
    }

    /// Count and time an answer; gives what renames it.
    fn note_answer(&self, worker: &Worker, seen: &StreamAnswer<'_>) -> Option<Bytes> {
        let mut served = self.served.borrow_mut();
        let known = asked_for(&mut served, seen)?;
        let streams = known.series.streams();
        if seen.error.is_empty() {
            streams.response();
            worker.report(&known.routed, self.backend, Outcome::Good);
        } else {
            streams.error();
            let text = String::from_utf8_lossy(seen.error);
            let fault = judge_text(&text);
            let outcome = fault.map_or(Outcome::Refused, |fault| Outcome::Fault(fault, &text));
            worker.report(&known.routed, self.backend, outcome);
        }
        known.timing.answered(seen, streams, Instant::now());
        self.release_hold(&known.series);
        Some(known.routed.version.stream_tail().clone())
    }
}

/// The model that an answer belongs to: of that name, with an open request of that id where there is one.
fn asked_for<'s>(served: &'s mut [Served], seen: &StreamAnswer<'_>) -> Option<&'s mut Served> {
    let fits = |known: &Served| {
        // Some errors name no model.
        seen.model.is_empty() || known.routed.version.backend_model.as_bytes() == seen.model
    };
    let waits = |known: &Served| fits(known) && known.timing.waits_for(seen.id);
    let at = served.iter().position(waits);
    let at = at.or_else(|| served.iter().position(fits)).unwrap_or(0);
    served.get_mut(at)
}

/// The same answer with another `error_message`.
fn with_error(message: &[u8], text: &str) -> Bytes {
    let mut out = BytesMut::with_capacity(message.len() + text.len());
    put_len(&mut out, 1, text.as_bytes());
    for field in Fields::new(message)
        .filter_map(Result::ok)
        .filter(|field| !field.is(1))
    {
        out.extend_from_slice(field.raw);
    }
    out.freeze()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_message_is_replaced_and_the_rest_stays() {
        let mut message = Vec::new();
        put_len(&mut message, 1, b"model m.1.abc broke");
        put_len(&mut message, 2, b"\x1a\x02id");

        let renamed = with_error(&message, "model m broke");

        let seen = peek(&renamed).unwrap();
        assert_eq!((&b"model m broke"[..], &b"id"[..]), (seen.error, seen.id));
    }
}
