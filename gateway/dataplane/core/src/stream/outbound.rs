//! Answers to the client, from whichever leg has one.

use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{ready, Context, Poll};

use bytes::{Buf, Bytes};
use http::header::CONTENT_TYPE;
use http::{HeaderMap, Response, StatusCode};
use stagegate_table::counters::RetryReason;
use stagegate_table::Fault;
use stagegate_wire::text::{decode_message, encode_message, MAX_TEXT};
use tokio::time::Sleep;

use crate::client::{Answer, Client, Failure};
use crate::download::mark;
use crate::headers;
use crate::joined::Joined;
use crate::retry::Again;
use crate::status::{
    answer_head, message_value, parse_code, Code, Status, GRPC, GRPC_MESSAGE, GRPC_STATUS,
};

use super::kept::{Kept, Returned};
use super::leg::{Leg, Lost, Next};
use super::Session;

/// The state of this direction: at most one message on its way.
#[derive(Default)]
pub(super) struct Outbound {
    piece: Option<Joined>,
    /// The leg to look at first, so that none waits for ever.
    turn: usize,
    /// Trailers of the first leg that ended well.
    trailers: Option<HeaderMap>,
    untaken: Option<Pin<Box<Sleep>>>,
}

impl Outbound {
    /// Forward what there is. Ready when the stream has its status; gives its code.
    pub(super) fn poll(
        &mut self,
        session: &Session<'_>,
        client: &mut Client,
        cx: &mut Context<'_>,
    ) -> Poll<Result<u8, Failure>> {
        loop {
            ready!(self.poll_piece(session, client, cx))?;
            let local = session.local.borrow_mut().pop_front();
            if let Some(message) = local {
                begin(session, client, None)?;
                self.piece = Some(Joined::message(message, Bytes::new()));
                continue;
            }
            match self.poll_legs(session, cx) {
                Poll::Ready((leg, Ok(Next::Head(head)))) => {
                    begin(session, client, Some((head, &leg)))?;
                }
                Poll::Ready((leg, Ok(Next::Message(message)))) => {
                    if let Some((kept, status)) = leg.take_refused(session.worker, &message) {
                        session.give_back(&leg, [kept], RetryReason::Gone, &status);
                        continue;
                    }
                    begin(session, client, None)?;
                    self.piece = Some(leg.rename(session.worker, message));
                }
                Poll::Ready((leg, Ok(Next::End(trailers)))) => {
                    if let Some(code) = self.leg_ended(session, client, &leg, trailers)? {
                        return Poll::Ready(Ok(code));
                    }
                }
                Poll::Ready((leg, Err(lost))) => {
                    leg.blame(session.worker, lost.fault, &lost.status.message);
                    if !session.goes_on(&leg, &lost) {
                        return Poll::Ready(Err(lost.status.into()));
                    }
                }
                Poll::Pending if session.is_over() => {
                    return Poll::Ready(self.end(session, client))
                }
                Poll::Pending => return Poll::Pending,
            }
        }
    }

    /// Ready when the message in hand, if there is one, is with the client.
    fn poll_piece(
        &mut self,
        session: &Session<'_>,
        client: &mut Client,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), Failure>> {
        while let Some(piece) = &mut self.piece {
            match client.answer.poll_room(piece.remaining(), cx) {
                Poll::Ready(room) => client.answer.data(piece.split_to(room?))?,
                Poll::Pending => {
                    let untaken = self
                        .untaken
                        .get_or_insert_with(|| Box::pin(tokio::time::sleep(client.patience)));
                    return untaken.as_mut().poll(cx).map(|()| Err(Failure::Gone));
                }
            }
            self.untaken = None;
            if !piece.has_remaining() {
                self.piece = None;
                session.worker.totals.message_sent();
            }
        }
        Poll::Ready(Ok(()))
    }

    fn poll_legs(
        &mut self,
        session: &Session<'_>,
        cx: &mut Context<'_>,
    ) -> Poll<(Rc<Leg>, Result<Next, Lost>)> {
        let legs = session.legs.borrow();
        for step in 0..legs.len() {
            let at = (self.turn + step) % legs.len();
            if let Poll::Ready(next) = legs[at].poll_next(cx) {
                self.turn = at + 1;
                return Poll::Ready((Rc::clone(&legs[at]), next));
            }
        }
        Poll::Pending
    }

    /// A leg has its status. The first that is not OK ends the client's stream; gives its code then.
    fn leg_ended(
        &mut self,
        session: &Session<'_>,
        client: &mut Client,
        leg: &Rc<Leg>,
        mut trailers: HeaderMap,
    ) -> Result<Option<u8>, Failure> {
        session.forget(leg);
        let Some(code) = trailers.get(GRPC_STATUS).map(parse_code) else {
            let status = Status::of_http(StatusCode::OK, leg.name());
            leg.blame(session.worker, Some(Fault::Failed), &status.message);
            return Err(status.into());
        };
        headers::for_client(&mut trailers);
        if code == Code::Ok as u8 {
            self.trailers.get_or_insert(trailers);
            if let Some(kept) = leg.take_cut_off() {
                let status = Status::ended_early(leg.name());
                session.give_back(leg, [kept], RetryReason::Refused, &status);
            }
            return Ok(None);
        }
        let text = rename_text(&mut trailers, leg);
        let lost = Lost::answered(Status::told(code, &trailers));
        leg.blame(session.worker, lost.fault, &text);
        if session.goes_on(leg, &lost) {
            return Ok(None);
        }
        if lost.fault == Some(Fault::Gone) {
            // Which the client cannot know, nor change.
            return Err(Status::gone(leg.name(), "what was asked for", &text).into());
        }
        finish(session, client, trailers)?;
        Ok(Some(code))
    }

    fn end(&mut self, session: &Session<'_>, client: &mut Client) -> Result<u8, Failure> {
        let trailers = self
            .trailers
            .take()
            .unwrap_or_else(|| Status::ok().trailers());
        finish(session, client, trailers)?;
        Ok(Code::Ok as u8)
    }
}

impl Session<'_> {
    /// Nothing more can come.
    fn is_over(&self) -> bool {
        self.ended.get() && self.legs.borrow().is_empty() && self.local.borrow().is_empty()
    }

    fn forget(&self, leg: &Rc<Leg>) {
        self.legs
            .borrow_mut()
            .retain(|other| !Rc::ptr_eq(other, leg));
        self.stirred.set(true);
    }

    /// A leg is lost. Whether another backend gets what was sent there.
    fn goes_on(&self, leg: &Rc<Leg>, lost: &Lost) -> bool {
        let (Again::Free(why) | Again::Once(why)) = lost.again else {
            return false;
        };
        let Some(all) = leg.take_back(lost.again) else {
            return false;
        };
        self.forget(leg);
        self.give_back(leg, all, why, &lost.status);
        true
    }

    /// These messages are to be sent once more, and not to the backend of that leg.
    fn give_back(
        &self,
        leg: &Leg,
        all: impl IntoIterator<Item = Kept>,
        why: RetryReason,
        status: &Status,
    ) {
        let mut returned = self.returned.borrow_mut();
        for mut kept in all {
            kept.to.failed.push(leg.backend);
            returned.push_back(Returned {
                kept,
                why,
                status: status.clone(),
            });
        }
        self.stirred.set(true);
    }
}

/// Send the head of the answer, unless it was sent: a backend's own, or one made here.
fn begin(
    session: &Session<'_>,
    client: &mut Client,
    head: Option<(Response<()>, &Rc<Leg>)>,
) -> Result<(), Failure> {
    if !matches!(client.answer, Answer::Nothing(_)) {
        return Ok(());
    }
    let mut head = head.map_or_else(answer_head, |(head, _)| head);
    // Messages go on uncompressed.
    head.headers_mut().remove(headers::GRPC_ENCODING);
    mark(
        head.headers_mut(),
        session.worker,
        session.first.borrow().as_ref(),
    );
    client.head(head, false)
}

fn finish(session: &Session<'_>, client: &mut Client, trailers: HeaderMap) -> Result<(), Failure> {
    if !matches!(client.answer, Answer::Nothing(_)) {
        return client.trailers(trailers);
    }
    let mut head = Response::new(());
    *head.version_mut() = http::Version::HTTP_2;
    *head.headers_mut() = trailers;
    head.headers_mut().entry(CONTENT_TYPE).or_insert(GRPC);
    mark(
        head.headers_mut(),
        session.worker,
        session.first.borrow().as_ref(),
    );
    client.head(head, true)
}

/// Put the text of a status under the names that the client knows; gives it.
fn rename_text(trailers: &mut HeaderMap, leg: &Leg) -> String {
    let Some(value) = trailers.get(GRPC_MESSAGE) else {
        return String::new();
    };
    let text = decode_message(value.as_bytes());
    let renamed = leg.rename_text(&text);
    if renamed != text || value.len() > MAX_TEXT {
        trailers.insert(GRPC_MESSAGE, message_value(encode_message(&renamed)));
    }
    renamed
}
