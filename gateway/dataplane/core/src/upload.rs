//! A request message on its way to a backend: new prefix, the bytes as they came, the backend's names.

use std::task::{ready, Context, Poll};

use bytes::{Buf, Bytes};
use h2::SendStream;

use crate::client::{poll_room, Failure, SMALL};
use crate::joined::Joined;
use crate::message::Message;

/// One message being sent.
pub(crate) struct Upload {
    tail: Bytes,
    send: Option<SendStream<Joined>>,
    number: usize,
    taken: usize,
    piece: Joined,
    last: bool,
}

impl Upload {
    /// Begin to send. A small message goes out at once, in one DATA frame; then there is nothing left
    /// to do.
    pub(crate) fn start(
        message: &Message,
        tail: &Bytes,
        mut send: SendStream<Joined>,
    ) -> Option<Self> {
        if let Some(body) = message.small(SMALL) {
            // A stream that cannot be written to any more says why on its answer's side.
            let _ = send.send_data(Joined::message(body.clone(), tail.clone()), true);
            return None;
        }
        Some(Self {
            tail: tail.clone(),
            send: Some(send),
            number: 0,
            taken: 0,
            piece: Joined::from(Bytes::new()),
            last: false,
        })
    }

    /// Send on as far as both sides allow. Ready when all is sent, when the backend wants no more, or
    /// when the client's request turns out to be broken.
    pub(crate) fn poll(
        &mut self,
        message: &mut Message,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), Failure>> {
        loop {
            if self.send.is_some() && !self.piece.has_remaining() {
                (self.piece, self.last) = ready!(self.poll_piece(message, cx))?;
            }
            let Some(send) = &mut self.send else {
                return Poll::Ready(Ok(()));
            };
            if self.last && !self.piece.has_remaining() {
                let _ = send.send_data(Joined::from(Bytes::new()), true);
                self.send = None;
                continue;
            }
            let Some(room) = ready!(poll_room(send, self.piece.remaining(), cx)) else {
                // The backend answered early, or the stream broke: its answer tells which.
                self.send = None;
                continue;
            };
            let part = self.piece.split_to(room);
            let done = !self.piece.has_remaining();
            if send.send_data(part, done && self.last).is_err() || (done && self.last) {
                self.send = None;
            }
            if done {
                message.release(self.taken);
            }
        }
    }

    fn poll_piece(
        &mut self,
        message: &mut Message,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(Joined, bool), Failure>> {
        let len = message.len();
        if self.taken < len || self.number == 0 {
            let body = ready!(message.poll_piece(self.number, cx))?.unwrap_or_default();
            self.taken += body.len();
            self.number += 1;
            let piece = if self.number == 1 {
                Joined::opening(len + self.tail.len(), body, Bytes::new())
            } else {
                Joined::from(body)
            };
            return Poll::Ready(Ok((piece, false)));
        }
        // Only now is it known that the request is a whole one, so only now may it end upstream.
        ready!(message.poll_end(cx))?;
        Poll::Ready(Ok((Joined::from(self.tail.clone()), true)))
    }
}
