//! One call of a client: its request, where its answer goes, and everything that can end it early.

use std::future::{poll_fn, Future};
use std::pin::pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::{Buf, Bytes};
use h2::server::SendResponse;
use h2::{RecvStream, SendStream};
use http::uri::PathAndQuery;
use http::{HeaderMap, Response};

use crate::budget::Held;
use crate::deadline::Deadline;
use crate::download::Rest;
use crate::joined::Joined;
use crate::message::Message;
use crate::shadow::Capture;
use crate::status::{answer_head, Status};
use crate::upload::Upload;
use crate::worker::Worker;

/// Pieces up to this are handed to h2 without asking for room, once a call.
pub(crate) const SMALL: usize = 16 << 10;

/// Why a call ends other than by a forwarded answer.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The client gets this status.
    Status(Status),
    /// The client is gone, or takes nothing: there is nobody to tell.
    Gone,
}

impl From<Status> for Failure {
    fn from(status: Status) -> Self {
        Self::Status(status)
    }
}

/// How far the answer is.
pub(crate) enum Answer {
    Nothing(SendResponse<Joined>),
    Begun(SendStream<Joined>),
    Done,
}

impl Answer {
    fn poll_reset(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match self {
            Self::Nothing(respond) => respond.poll_reset(cx).map(|_| ()),
            Self::Begun(send) => send.poll_reset(cx).map(|_| ()),
            Self::Done => Poll::Pending,
        }
    }

    /// Room for a part of `want` bytes.
    pub(crate) fn poll_room(
        &mut self,
        want: usize,
        cx: &mut Context<'_>,
    ) -> Poll<Result<usize, Failure>> {
        match self {
            Self::Begun(send) => poll_room(send, want, cx).map(|room| room.ok_or(Failure::Gone)),
            _ => Poll::Ready(Err(Failure::Gone)),
        }
    }

    pub(crate) fn data(&mut self, piece: Joined) -> Result<(), Failure> {
        match self {
            Self::Begun(send) => send.send_data(piece, false).map_err(|_| Failure::Gone),
            _ => Err(Failure::Gone),
        }
    }
}

/// Room to send on a stream: bytes, at least one. `None` where nothing can be sent any more.
pub(crate) fn poll_room(
    send: &mut SendStream<Joined>,
    want: usize,
    cx: &mut Context<'_>,
) -> Poll<Option<usize>> {
    send.reserve_capacity(want);
    loop {
        // What was granted before and not used is not told again by `poll_capacity`.
        let room = send.capacity();
        if room > 0 {
            return Poll::Ready(Some(room.min(want)));
        }
        match send.poll_capacity(cx) {
            Poll::Ready(Some(Ok(_))) => {}
            Poll::Ready(_) => return Poll::Ready(None),
            Poll::Pending => return Poll::Pending,
        }
    }
}

/// One client that waits for an answer. All that a call needs is in here, once, so that the futures
/// that answer it are small: they are moved for every request.
pub(crate) struct Client {
    pub(crate) answer: Answer,
    pub(crate) deadline: Deadline,
    /// Whether the deadline is the client's own.
    pub(crate) has_deadline: bool,
    pub(crate) started: Instant,
    /// The gRPC code with which the arm failed that was chosen first, where another one answers.
    pub(crate) fell_back: Option<u8>,
    /// When a backend's answer had been forwarded.
    pub(crate) answered: Option<Instant>,
    pub(crate) path: PathAndQuery,
    pub(crate) headers: HeaderMap,
    pub(crate) message: Message,
    /// The message on its way to a backend; goes on while the answer comes.
    pub(crate) upload: Option<Upload>,
    /// The answer that is being forwarded.
    pub(crate) rest: Option<Rest>,
    /// How long the client may leave an answer untaken.
    pub(crate) patience: Duration,
    /// What is kept for shadows, where they get a copy of this call.
    pub(crate) capture: Option<Box<Capture>>,
}

impl Client {
    pub(crate) fn new(
        path: PathAndQuery,
        headers: HeaderMap,
        body: RecvStream,
        respond: SendResponse<Joined>,
        worker: &Worker,
    ) -> Self {
        Self {
            answer: Answer::Nothing(respond),
            deadline: Deadline::new(&worker.deadlines, None),
            has_deadline: false,
            started: Instant::now(),
            fell_back: None,
            answered: None,
            path,
            headers,
            message: Message::new(body, Held::new(&worker.budget)),
            upload: None,
            rest: None,
            patience: worker.limits().answer_timeout,
            capture: None,
        }
    }

    /// Wait for something, unless the deadline passes, the client goes away, or its request turns out
    /// to be broken.
    pub(crate) async fn wait<T>(
        &mut self,
        mut poll: impl FnMut(&mut Self, &mut Context<'_>) -> Poll<T>,
    ) -> Result<T, Failure> {
        poll_fn(|cx| {
            if let Poll::Ready(value) = poll(self, cx) {
                return Poll::Ready(Ok(value));
            }
            self.poll_stop(cx).map(Err)
        })
        .await
    }

    /// Ready when the call must end.
    pub(crate) fn poll_stop(&mut self, cx: &mut Context<'_>) -> Poll<Failure> {
        if let Some(upload) = &mut self.upload {
            if let Poll::Ready(Err(failure)) = upload.poll(&mut self.message, cx) {
                return Poll::Ready(failure);
            }
        }
        if self.deadline.poll(cx).is_ready() {
            return Poll::Ready(Status::deadline().into());
        }
        self.answer.poll_reset(cx).map(|()| Failure::Gone)
    }

    /// Begin the answer; with `end` that is all of it.
    pub(crate) fn head(&mut self, response: Response<()>, end: bool) -> Result<(), Failure> {
        let Answer::Nothing(respond) = &mut self.answer else {
            return Err(Failure::Gone);
        };
        let send = respond
            .send_response(response, end)
            .map_err(|_| Failure::Gone)?;
        self.answer = if end {
            Answer::Done
        } else {
            Answer::Begun(send)
        };
        Ok(())
    }

    /// Send a piece as the client takes it.
    pub(crate) async fn send(&mut self, mut piece: Joined) -> Result<(), Failure> {
        if let Answer::Begun(send) = &mut self.answer {
            send.reserve_capacity(piece.remaining());
            if send.capacity() >= piece.remaining() {
                return self.answer.data(piece);
            }
        }
        while piece.has_remaining() {
            // Boxed because it is rare: it would make the future of every call larger.
            let room = Box::pin(self.room(piece.remaining())).await?;
            self.answer.data(piece.split_to(room))?;
        }
        Ok(())
    }

    async fn room(&mut self, want: usize) -> Result<usize, Failure> {
        let mut untaken = pin!(tokio::time::sleep(self.patience));
        self.wait(|client, cx| match client.answer.poll_room(want, cx) {
            Poll::Pending => untaken.as_mut().poll(cx).map(|()| Err(Failure::Gone)),
            ready @ Poll::Ready(_) => ready,
        })
        .await?
    }

    /// End the answer.
    pub(crate) fn trailers(&mut self, trailers: HeaderMap) -> Result<(), Failure> {
        match std::mem::replace(&mut self.answer, Answer::Done) {
            Answer::Begun(mut send) => send.send_trailers(trailers).map_err(|_| Failure::Gone),
            _ => Err(Failure::Gone),
        }
    }

    /// End the call with a status, however far its answer is.
    pub(crate) fn finish(&mut self, status: &Status) {
        let _ = match &self.answer {
            Answer::Nothing(_) => self.head(status.trailers_only(), true),
            Answer::Begun(_) => self.trailers(status.trailers()),
            Answer::Done => Ok(()),
        };
    }

    /// A whole answer that is made here: one message and OK.
    pub(crate) async fn reply(&mut self, message: Bytes) -> Result<(), Failure> {
        self.head(answer_head(), false)?;
        self.send(Joined::message(message, Bytes::new())).await?;
        self.trailers(Status::ok().trailers())
    }
}
