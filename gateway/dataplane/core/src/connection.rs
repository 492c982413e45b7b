//! One client connection: the handshake, a task for each stream, and its end.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::atomic::Ordering::Relaxed;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use h2::server::{Builder, Connection, SendResponse};
use h2::{Reason, RecvStream};
use http::Request;
use tokio::time::timeout;

use crate::dispatch;
use crate::frame_watch::{FrameWatch, Seen};
use crate::io::{Gathered, Io};
use crate::joined::Joined;
use crate::limits::Limits;
use crate::runners;
use crate::shared::Admitted;
use crate::tls::{self, Inside};
use crate::worker::Worker;

type H2 = Connection<Io, Joined>;

pub(crate) const STREAM_WINDOW: u32 = 2 << 20;
const CONNECTION_WINDOW: u32 = 16 << 20;
/// By how many thousandths the age of a connection is made shorter or longer, so that those that came
/// together do not leave together.
const AGE_SPREAD: u32 = 100;

/// What the rest of its thread may ask of a connection.
pub(crate) struct Control {
    asked: Cell<Asked>,
    waker: RefCell<Option<Waker>>,
    streams: Cell<usize>,
    /// Whether there was a stream since it was looked over last.
    used: Cell<bool>,
    idle_since: Cell<Instant>,
    /// Since when it is asked to end.
    ending_since: Cell<Option<Instant>>,
    resets: Cell<u32>,
    resets_allowed: Cell<u32>,
    began: Instant,
    /// Thousandths of the greatest age that this one may reach.
    age_share: u32,
    /// Answers that nobody takes are to be looked for.
    look: Cell<bool>,
    seen: Rc<Seen>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Asked {
    Nothing,
    /// Finish the streams, take no new ones.
    Finish,
    /// Close at once.
    Close,
    /// Close at once, because the client does too much.
    Calm,
    /// Close without a word, because the client takes none.
    Drop,
}

impl Control {
    fn new(seen: Rc<Seen>, limits: &Limits, age_share: u32) -> Self {
        let now = Instant::now();
        Self {
            asked: Cell::new(Asked::Nothing),
            waker: RefCell::default(),
            streams: Cell::new(0),
            used: Cell::new(false),
            idle_since: Cell::new(now),
            ending_since: Cell::new(None),
            resets: Cell::new(0),
            resets_allowed: Cell::new(limits.resets_per_second),
            began: now,
            age_share,
            look: Cell::new(false),
            seen,
        }
    }

    /// Ask for a graceful end: GOAWAY in two steps, then close when the last stream is done.
    pub(crate) fn finish(&self) {
        self.ask(Asked::Finish);
    }

    /// Ask for an end at once.
    pub(crate) fn close(&self) {
        self.ask(Asked::Close);
    }

    /// A client reset a stream; too many within a second end the connection.
    pub(crate) fn count_reset(&self) {
        self.resets.set(self.resets.get() + 1);
        if self.resets.get() > self.resets_allowed.get() {
            self.ask(Asked::Calm);
        }
    }

    /// Once a second: end it if it is idle or old, if headers were begun and are not ended in time, or if
    /// the client takes no answers; and let what was counted in that second go.
    pub(crate) fn look_over(&self, now: Instant, limits: &Limits) {
        self.resets.set(0);
        self.resets_allowed.set(limits.resets_per_second);
        self.seen.forget();
        let for_long = |since: Option<Instant>, time: Duration| {
            since.is_some_and(|since| now.saturating_duration_since(since) >= time)
        };
        if for_long(self.seen.untaken_since.get(), limits.answer_timeout) {
            self.ask(Asked::Drop);
        }
        if for_long(self.seen.block_open_since.get(), limits.handshake_timeout) {
            self.close();
        }
        let age = limits.max_connection_age * self.age_share / 1_000;
        if !age.is_zero() && for_long(Some(self.began), age) {
            self.finish();
        }
        if self.used.replace(false) || self.streams.get() > 0 {
            self.idle_since.set(now);
            return;
        }
        if for_long(Some(self.idle_since.get()), limits.idle_timeout) {
            self.finish();
        }
        if for_long(Some(self.idle_since.get()), limits.answer_timeout) {
            self.look.set(true);
            self.wake();
            if for_long(self.ending_since.get(), limits.answer_timeout) {
                self.close();
            }
        }
    }

    fn ask(&self, what: Asked) {
        if what > self.asked.get() {
            self.asked.set(what);
            if self.ending_since.get().is_none() {
                self.ending_since.set(Some(Instant::now()));
            }
            self.wake();
        }
    }

    fn wake(&self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    /// What to do that was not done yet.
    fn next(&self, h2: &H2, done: Asked) -> Option<Asked> {
        if self.seen.flooded.get() {
            self.ask(Asked::Calm);
        }
        // Every call was answered, and yet there are streams: answers that wait for room for ever.
        if self.look.replace(false) && self.streams.get() == 0 && h2.has_streams() {
            self.ask(Asked::Close);
        }
        Some(self.asked.get()).filter(|asked| *asked > done)
    }
}

/// One open stream, counted for as long as it lives.
pub(crate) struct OpenStream {
    worker: Rc<Worker>,
    pub(crate) control: Rc<Control>,
}

impl OpenStream {
    fn new(worker: &Rc<Worker>, control: &Rc<Control>) -> Self {
        control.streams.set(control.streams.get() + 1);
        control.used.set(true);
        worker
            .load
            .streams
            .store(worker.load.streams.load(Relaxed) + 1, Relaxed);
        Self {
            worker: Rc::clone(worker),
            control: Rc::clone(control),
        }
    }
}

impl Drop for OpenStream {
    fn drop(&mut self) {
        self.control.streams.set(self.control.streams.get() - 1);
        // Only this thread writes it.
        self.worker
            .load
            .streams
            .store(self.worker.load.streams.load(Relaxed) - 1, Relaxed);
    }
}

/// Serve one connection to its end.
pub(crate) async fn serve(worker: Rc<Worker>, tcp: std::net::TcpStream, admitted: Admitted) {
    // Its place is given back when this ends, whichever way.
    let _place = (admitted, worker.count_connection());
    let limits = worker.limits();
    let watch = FrameWatch::new();
    let age_share = 1_000 - AGE_SPREAD + worker.draws.below(2 * AGE_SPREAD + 1);
    let control = Rc::new(Control::new(Rc::clone(&watch.seen), &limits, age_share));
    let begun = Box::pin(begin(&worker, tcp, watch, &limits));
    let Ok(Some((mut h2, gathered))) = timeout(limits.handshake_timeout, begun).await else {
        return;
    };
    worker.register(&control);
    if worker.shared.draining.load(Relaxed) {
        control.finish();
    }
    let mut done = Asked::Nothing;
    std::future::poll_fn(|cx| loop {
        let over = poll(&worker, &control, &mut h2, &mut done, cx);
        if over.is_ready() || !gathered.again() {
            return over;
        }
    })
    .await;
}

/// The handshakes of TLS, where there is TLS, and of HTTP/2.
async fn begin(
    worker: &Worker,
    tcp: std::net::TcpStream,
    watch: FrameWatch,
    limits: &Limits,
) -> Option<(H2, Gathered)> {
    let tcp = tokio::net::TcpStream::from_std(tcp).ok()?;
    let io = tls::accept(&worker.shared.tls, tcp, Inside::H2)
        .await
        .ok()?;
    let gathered = io.gathered();
    let h2 = builder(limits).handshake(io.watched_by(watch)).await;
    Some((h2.ok()?, gathered))
}

/// Drive the connection; ready when it is over.
fn poll(
    worker: &Rc<Worker>,
    control: &Rc<Control>,
    h2: &mut H2,
    done: &mut Asked,
    cx: &mut Context<'_>,
) -> Poll<()> {
    loop {
        if let Some(asked) = control.next(h2, *done) {
            *done = asked;
            match asked {
                Asked::Nothing => {}
                Asked::Drop => return Poll::Ready(()),
                Asked::Finish => h2.graceful_shutdown(),
                Asked::Close => h2.abrupt_shutdown(Reason::NO_ERROR),
                Asked::Calm => h2.abrupt_shutdown(Reason::ENHANCE_YOUR_CALM),
            }
        }
        match h2.poll_accept(cx) {
            Poll::Ready(Some(Ok((request, respond)))) => {
                control.seen.accepted();
                spawn(worker, control, request, respond);
            }
            Poll::Ready(Some(Err(_)) | None) => return Poll::Ready(()),
            Poll::Pending => break,
        }
    }
    let mut waker = control.waker.borrow_mut();
    if waker.is_none() {
        *waker = Some(cx.waker().clone());
    }
    Poll::Pending
}

fn spawn(
    worker: &Rc<Worker>,
    control: &Rc<Control>,
    request: Request<RecvStream>,
    respond: SendResponse<Joined>,
) {
    if let Some(client) = dispatch::admit(worker, request, respond) {
        let open = OpenStream::new(worker, control);
        runners::start(worker, (open, client));
    }
}

fn builder(limits: &Limits) -> Builder {
    let mut builder = Builder::new();
    builder
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_concurrent_streams(limits.max_streams)
        .max_header_list_size(limits.max_header_list)
        .max_frame_size(limits.max_frame.clamp(16 << 10, (1 << 24) - 1))
        .max_send_buffer_size(1 << 20)
        // Small messages of a stream that is still open count against this until they are read.
        .data_frame_budget(1024 * limits.max_streams as usize)
        .max_concurrent_reset_streams(limits.max_streams as usize)
        // Resets of streams that were not looked at yet are bounded as all others are.
        .max_pending_accept_reset_streams(limits.resets_per_second as usize)
        // Resets are limited by their rate, in `Control`; a long life is no offence.
        .max_local_error_reset_streams(Some(1 << 20));
    builder
}
