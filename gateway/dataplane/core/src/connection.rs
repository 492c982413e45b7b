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
use crate::header_watch::{HeaderWatch, OpenSince};
use crate::io::Io;
use crate::joined::Joined;
use crate::runners;
use crate::settings::Settings;
use crate::shared::Admitted;
use crate::worker::Worker;

type H2 = Connection<Io, Joined>;

const STREAM_WINDOW: u32 = 2 << 20;
const CONNECTION_WINDOW: u32 = 16 << 20;
/// Streams that a client may reset within a second.
const RESETS_A_SECOND: u32 = 200;

/// What the rest of its thread may ask of a connection.
pub(crate) struct Control {
    asked: Cell<Asked>,
    waker: RefCell<Option<Waker>>,
    streams: Cell<usize>,
    /// Whether there was a stream since it was looked over last.
    used: Cell<bool>,
    idle_since: Cell<Instant>,
    resets: Cell<u32>,
    headers_open: OpenSince,
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
}

impl Control {
    fn new(headers_open: OpenSince) -> Self {
        Self {
            headers_open,
            asked: Cell::new(Asked::Nothing),
            waker: RefCell::default(),
            streams: Cell::new(0),
            used: Cell::new(false),
            idle_since: Cell::new(Instant::now()),
            resets: Cell::new(0),
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
        if self.resets.get() > RESETS_A_SECOND {
            self.ask(Asked::Calm);
        }
    }

    /// Once a second: end it if it is idle, or if headers were begun and are not ended within `patience`;
    /// and let the resets of that second go.
    pub(crate) fn look_over(&self, now: Instant, idle: Duration, patience: Duration) {
        self.resets.set(0);
        let lasts = |since: Instant| now.saturating_duration_since(since) >= patience;
        if self.headers_open.get().is_some_and(lasts) {
            self.close();
        }
        if self.used.replace(false) || self.streams.get() > 0 {
            self.idle_since.set(now);
        } else if now.saturating_duration_since(self.idle_since.get()) >= idle {
            self.finish();
        }
    }

    fn ask(&self, what: Asked) {
        if what > self.asked.get() {
            self.asked.set(what);
            if let Some(waker) = self.waker.take() {
                waker.wake();
            }
        }
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
    let patience = Duration::from_millis(worker.shared.settings.handshake_timeout_ms);
    let Ok(Ok(io)) = tokio::net::TcpStream::from_std(tcp).map(Io::new) else {
        return;
    };
    let watch = HeaderWatch::new();
    let control = Rc::new(Control::new(watch.open_since()));
    let io = io.watched_by(watch);
    let gathered = io.gathered();
    let handshake = builder(&worker.shared.settings).handshake(io);
    let Ok(Ok(mut h2)) = timeout(patience, handshake).await else {
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

/// Drive the connection; ready when it is over.
fn poll(
    worker: &Rc<Worker>,
    control: &Rc<Control>,
    h2: &mut H2,
    done: &mut Asked,
    cx: &mut Context<'_>,
) -> Poll<()> {
    loop {
        let asked = control.asked.get();
        if asked > *done {
            *done = asked;
            match asked {
                Asked::Nothing => {}
                Asked::Finish => h2.graceful_shutdown(),
                Asked::Close => h2.abrupt_shutdown(Reason::NO_ERROR),
                Asked::Calm => h2.abrupt_shutdown(Reason::ENHANCE_YOUR_CALM),
            }
        }
        match h2.poll_accept(cx) {
            Poll::Ready(Some(Ok((request, respond)))) => spawn(worker, control, request, respond),
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

fn builder(settings: &Settings) -> Builder {
    let mut builder = Builder::new();
    builder
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_concurrent_streams(settings.max_streams)
        .max_header_list_size(settings.max_header_list)
        .max_frame_size(settings.max_frame.clamp(16 << 10, (1 << 24) - 1))
        .max_send_buffer_size(1 << 20)
        // Small messages of a stream that is still open count against this until they are read.
        .data_frame_budget(1024 * settings.max_streams as usize)
        .max_concurrent_reset_streams(settings.max_streams as usize)
        // Resets are limited by their rate, in `Control`; a long life is no offence.
        .max_local_error_reset_streams(Some(1 << 20));
    builder
}
