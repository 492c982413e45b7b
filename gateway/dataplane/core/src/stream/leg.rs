//! The part of a client's stream that goes to one backend.

use std::cell::{Cell, RefCell};
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
use stagegate_table::counters::RetryReason;
use stagegate_table::{Fault, Series};
use stagegate_wire::encode::put_len;
use stagegate_wire::fields::Fields;
use stagegate_wire::stream::{peek, StreamAnswer};
use stagegate_wire::text::{cut, replace_name, MAX_TEXT};

use crate::client::poll_room;
use crate::download::accept_head;
use crate::ejection::{judge, judge_text, Outcome};
use crate::exchange::{again_after, fault_of};
use crate::framer::Caps;
use crate::joined::Joined;
use crate::reader::{ReadError, Reader};
use crate::retry::Again;
use crate::routed::Routed;
use crate::sequences::Hold;
use crate::status::{Code, Status};
use crate::upstream::Lease;
use crate::worker::Worker;

use super::kept::{Kept, To, Unanswered};
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
    unanswered: RefCell<Unanswered>,
    /// Requests of sequences that have no answer yet and are not kept, oldest first.
    holds: RefCell<VecDeque<(Arc<Series>, Hold)>>,
    /// Whether a head of answers came.
    begun: Cell<bool>,
    /// Whether the backend stopped taking in the middle of the last message.
    cut: Cell<bool>,
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
    pub(super) again: Again,
}

impl Lost {
    /// What came is no answer of gRPC.
    pub(super) fn answered(status: Status) -> Self {
        let fault = judge(status.code, &status.message);
        let again = Again::after(status.code == Code::Unavailable as u8, fault);
        Self {
            status,
            fault,
            again,
        }
    }

    /// What came cannot be read.
    fn failed(status: Status) -> Self {
        Self {
            status,
            fault: Some(Fault::Failed),
            again: Again::Never,
        }
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
        unanswered: Unanswered,
        caps: Caps,
    ) -> Self {
        Self {
            backend,
            lease,
            send: RefCell::new(Some(send)),
            receive: RefCell::new(Receive::Head(response)),
            served: RefCell::default(),
            unanswered: RefCell::new(unanswered),
            holds: RefCell::default(),
            begun: Cell::new(false),
            cut: Cell::new(false),
            caps,
        }
    }

    pub(super) fn name(&self) -> &str {
        self.lease.upstream().name()
    }

    /// Keep a message, and its place in its sequence, until it is answered.
    pub(super) fn keep(&self, message: Bytes, to: To) {
        let let_go = self.unanswered.borrow_mut().keep(Kept { message, to });
        for Kept { to, .. } in let_go {
            if let Some(hold) = to.hold {
                self.hold(to.series, hold);
            }
        }
    }

    fn hold(&self, series: Arc<Series>, hold: Hold) {
        let mut holds = self.holds.borrow_mut();
        if holds.len() >= REMEMBERED {
            holds.pop_front();
        }
        holds.push_back((series, hold));
    }

    /// Whether messages may still be sent.
    pub(super) fn is_open(&self) -> bool {
        self.send.borrow().is_some()
    }

    /// Whether messages may have to be sent elsewhere.
    pub(super) fn may_give_back(&self) -> bool {
        let unanswered = self.unanswered.borrow();
        unanswered.is_whole() && !unanswered.is_empty()
    }

    /// The backend takes no more, in the middle of the last message. False where that one is not kept.
    pub(super) fn cut_off(&self) -> bool {
        self.cut.set(true);
        self.may_give_back()
    }

    /// The leg has ended well: the message that it was not given in whole.
    pub(super) fn take_cut_off(&self) -> Option<Kept> {
        let mut unanswered = self.unanswered.borrow_mut();
        let may = self.cut.get() && unanswered.is_whole();
        may.then(|| unanswered.take_last())?
    }

    /// The leg is lost in that way: the messages that can be sent elsewhere, where all of them can.
    pub(super) fn take_back(&self, again: Again) -> Option<VecDeque<Kept>> {
        let mut unanswered = self.unanswered.borrow_mut();
        let may = match again {
            Again::Never => false,
            _ if self.begun.get() || !unanswered.is_whole() => false,
            // It is said of one of them.
            Again::Free(RetryReason::Gone) => unanswered.only().is_some(),
            Again::Free(_) => true,
            Again::Once(_) => unanswered.only().is_some_and(Kept::may_be_repeated),
        };
        let may = may && unanswered.all_may_go_on();
        let budget = self.lease.upstream().budget();
        if !may || matches!(again, Again::Once(_)) && !budget.withdraw(Instant::now()) {
            return None;
        }
        let mut all = unanswered.take_all();
        for kept in &mut all {
            kept.to.retried |= matches!(again, Again::Once(_));
        }
        Some(all)
    }

    /// The request that an answer belongs to, where that says that its model is not there any more.
    pub(super) fn take_refused(&self, worker: &Worker, message: &Bytes) -> Option<(Kept, Status)> {
        let seen = peek(message).ok()?;
        if seen.error.is_empty() {
            return None;
        }
        let text = String::from_utf8_lossy(seen.error);
        if judge_text(&text) != Some(Fault::Gone) {
            return None;
        }
        let mut served = self.served.borrow_mut();
        let known = asked_for(&mut served, &seen)?;
        let kept = self
            .unanswered
            .borrow_mut()
            .take(&known.series, seen.id, Kept::may_go_on)?;
        known.timing.forget(seen.id);
        let outcome = Outcome::Fault(Fault::Gone, &text);
        worker.report(&known.routed, self.backend, outcome);
        let what = known.routed.what();
        drop(served);
        let said = self.rename_text(&text);
        Some((kept, Status::gone(self.name(), &what, &said)))
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
                self.begun.set(true);
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
        let fault = fault_of(error);
        Lost {
            status: Status::of_upstream_error(error, self.name()),
            fault,
            again: again_after(error, fault),
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
        let mut renamed = self.rename_text(&text);
        if judge_text(&text) == Some(Fault::Gone) {
            let served = self.served.borrow();
            let what =
                asked_of(&served, &seen).map_or_else(String::new, |at| served[at].routed.what());
            renamed = Status::gone(self.name(), &what, &renamed)
                .message
                .into_owned();
        }
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
        if !self.unanswered.borrow_mut().answered(&known.series, seen) {
            self.release_hold(&known.series);
        }
        Some(known.routed.version.stream_tail().clone())
    }
}

/// The model that an answer belongs to: of that name, with an open request of that id where there is one.
fn asked_for<'s>(served: &'s mut [Served], seen: &StreamAnswer<'_>) -> Option<&'s mut Served> {
    asked_of(served, seen).and_then(|at| served.get_mut(at))
}

fn asked_of(served: &[Served], seen: &StreamAnswer<'_>) -> Option<usize> {
    let fits = |known: &Served| {
        // Some errors name no model.
        seen.model.is_empty() || known.routed.version.backend_model.as_bytes() == seen.model
    };
    let waits = |known: &Served| fits(known) && known.timing.waits_for(seen.id);
    let at = served.iter().position(waits);
    let at = at.or_else(|| served.iter().position(fits)).unwrap_or(0);
    (at < served.len()).then_some(at)
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
