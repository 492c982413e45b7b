//! A client's connection as hyper sees it, with what housekeeping wants to know of it.

use std::cell::{Cell, RefCell};
use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use hyper::rt::{Read, ReadBufCursor, Write};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::limits::Limits;

/// Read at once.
const PIECE: usize = 16 << 10;

/// What the rest of its thread may see and ask of a connection.
#[derive(Debug)]
pub(crate) struct Control {
    asked: Cell<Asked>,
    began: Instant,
    waker: RefCell<Option<Waker>>,
    /// Requests that are being answered.
    open: Cell<usize>,
    /// When the last request ended, or the connection began.
    idle_since: Cell<Instant>,
    /// When the first byte of a head came that is not whole yet.
    head_since: Cell<Option<Instant>>,
    /// Since when the client takes nothing of what is to be written.
    stuck_since: Cell<Option<Instant>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Asked {
    Nothing,
    /// Answer what is there, take no more.
    Finish,
    /// Close at once.
    Close,
}

impl Control {
    pub(crate) fn new(now: Instant) -> Self {
        Self {
            asked: Cell::new(Asked::Nothing),
            began: now,
            waker: RefCell::default(),
            open: Cell::new(0),
            idle_since: Cell::new(now),
            head_since: Cell::new(None),
            stuck_since: Cell::new(None),
        }
    }

    /// What was asked for; wakes the connection's task at the next change.
    pub(crate) fn asked(&self, cx: &Context<'_>) -> Asked {
        self.waker
            .borrow_mut()
            .get_or_insert_with(|| cx.waker().clone());
        self.asked.get()
    }

    pub(crate) fn ask(&self, what: Asked) {
        if what > self.asked.get() {
            self.asked.set(what);
            if let Some(waker) = self.waker.take() {
                waker.wake();
            }
        }
    }

    /// The head of a request is whole.
    pub(crate) fn request_begins(&self) {
        self.head_since.set(None);
        self.open.set(self.open.get() + 1);
    }

    pub(crate) fn request_ends(&self, now: Instant) {
        self.open.set(self.open.get().saturating_sub(1));
        self.idle_since.set(now);
    }

    /// Once a second: end it where the client is idle, too slow with a head or with an answer, or where
    /// the connection is old.
    pub(crate) fn look_over(&self, now: Instant, limits: &Limits) {
        let lasts = |since: Option<Instant>, most: Duration| {
            since.is_some_and(|since| now.saturating_duration_since(since) >= most)
        };
        let is_stuck = lasts(self.stuck_since.get(), limits.answer_timeout);
        if is_stuck || lasts(self.head_since.get(), limits.handshake_timeout) {
            return self.ask(Asked::Close);
        }
        let idle_since = Some(self.idle_since.get()).filter(|_| self.open.get() == 0);
        let age = limits.max_connection_age;
        let is_old = !age.is_zero() && lasts(Some(self.began), age);
        if is_old || lasts(idle_since, limits.idle_timeout) {
            self.ask(Asked::Finish);
        }
    }

    fn read(&self) {
        if self.open.get() == 0 && self.head_since.get().is_none() {
            self.head_since.set(Some(Instant::now()));
        }
    }

    fn written<T>(&self, outcome: &Poll<T>) {
        if outcome.is_ready() {
            self.stuck_since.set(None);
        } else if self.stuck_since.get().is_none() {
            self.stuck_since.set(Some(Instant::now()));
        }
    }
}

/// A stream between tokio and hyper.
#[derive(Debug)]
pub(crate) struct Io<T> {
    stream: T,
    control: Option<Rc<Control>>,
}

impl<T> Io<T> {
    /// A stream that nobody watches.
    pub(crate) fn new(stream: T) -> Self {
        Self {
            stream,
            control: None,
        }
    }

    pub(crate) fn watched(stream: T, control: &Rc<Control>) -> Self {
        Self {
            stream,
            control: Some(Rc::clone(control)),
        }
    }

    fn saw_write<O>(&self, outcome: Poll<O>) -> Poll<O> {
        if let Some(control) = &self.control {
            control.written(&outcome);
        }
        outcome
    }
}

impl<T: AsyncRead + Unpin> Read for Io<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        mut into: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        let mut space = [MaybeUninit::<u8>::uninit(); PIECE];
        let most = into.remaining().min(PIECE);
        let mut piece = ReadBuf::uninit(&mut space[..most]);
        let outcome = Pin::new(&mut self.stream).poll_read(cx, &mut piece);
        if let (Some(control), false) = (&self.control, piece.filled().is_empty()) {
            control.read();
        }
        into.put_slice(piece.filled());
        outcome
    }
}

impl<T: AsyncWrite + Unpin> Write for Io<T> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let outcome = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.saw_write(outcome)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let outcome = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.saw_write(outcome)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::Settings;

    fn asked_after(control: &Control, start: Instant, seconds: u64) -> Asked {
        let limits = Limits::of(&Settings::default());
        control.look_over(start + Duration::from_secs(seconds), &limits);
        control.asked.get()
    }

    #[test]
    fn a_connection_without_requests_ends_after_the_idle_time() {
        let start = Instant::now();
        let control = Control::new(start);

        assert_eq!(Asked::Nothing, asked_after(&control, start, 299));
        assert_eq!(Asked::Finish, asked_after(&control, start, 300));
    }

    #[test]
    fn a_request_that_is_being_answered_keeps_it_open() {
        let start = Instant::now();
        let control = Control::new(start);
        control.request_begins();

        assert_eq!(Asked::Nothing, asked_after(&control, start, 1000));
        control.request_ends(start + Duration::from_secs(1000));
        assert_eq!(Asked::Nothing, asked_after(&control, start, 1299));
        assert_eq!(Asked::Finish, asked_after(&control, start, 1300));
    }

    #[test]
    fn a_head_that_does_not_end_closes_it() {
        let control = Control::new(Instant::now());
        control.read();
        let start = control.head_since.get().unwrap();

        assert_eq!(Asked::Nothing, asked_after(&control, start, 9));
        assert_eq!(Asked::Close, asked_after(&control, start, 10));
    }

    #[test]
    fn an_answer_that_is_not_taken_closes_it() {
        let control = Control::new(Instant::now());
        control.request_begins();
        control.written(&Poll::<()>::Pending);
        let start = control.stuck_since.get().unwrap();

        assert_eq!(Asked::Nothing, asked_after(&control, start, 29));
        control.written(&Poll::Ready(()));
        assert_eq!(Asked::Nothing, asked_after(&control, start, 40));
        control.written(&Poll::<()>::Pending);
        let start = control.stuck_since.get().unwrap();
        assert_eq!(Asked::Close, asked_after(&control, start, 30));
    }
}
