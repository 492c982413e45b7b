//! One client connection on the HTTP port.

use std::cell::RefCell;
use std::convert::Infallible;
use std::future::Future;
use std::pin::pin;
use std::rc::{Rc, Weak};
use std::sync::atomic::Ordering::Relaxed;
use std::sync::Arc;
use std::task::Poll;
use std::time::Instant;

use hyper::server::conn::http1::Builder;
use hyper::service::service_fn;
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::limits::Limits;
use crate::rest::calls;
use crate::rest::io::{Asked, Control, Io};
use crate::rest::pool::Pool;
use crate::shared::Admitted;
use crate::tls::{self, Inside, TlsState};
use crate::worker::Worker;

/// Header lines of a request.
const MOST_HEADERS: usize = 100;
/// hyper keeps at least this much of a connection in memory.
const LEAST_BUFFER: usize = 8 << 10;

/// The REST side of one thread.
pub(crate) struct Rest {
    pub(crate) pool: Pool,
    connections: RefCell<Vec<Weak<Control>>>,
}

impl Rest {
    pub(crate) fn new(tls: Arc<TlsState>) -> Self {
        Self {
            pool: Pool::new(tls),
            connections: RefCell::default(),
        }
    }

    /// Let every client finish what it began.
    pub(crate) fn finish(&self) {
        self.each(|control| control.ask(Asked::Finish));
    }

    /// Close every connection.
    pub(crate) fn close(&self) {
        self.each(|control| control.ask(Asked::Close));
    }

    /// Once a second: end what is idle or too slow.
    pub(crate) fn look_over(&self, now: Instant, limits: &Limits) {
        self.each(|control| control.look_over(now, limits));
        self.pool.sweep(now);
    }

    fn each(&self, mut act: impl FnMut(&Control)) {
        self.connections
            .borrow_mut()
            .retain(|weak| weak.upgrade().map(|control| act(&control)).is_some());
    }
}

/// A request that is being answered, counted for as long as it lives.
pub(crate) struct OpenRequest {
    worker: Rc<Worker>,
    control: Option<Rc<Control>>,
}

impl OpenRequest {
    fn new(worker: &Rc<Worker>, control: &Rc<Control>) -> Self {
        control.request_begins();
        let streams = &worker.load.streams;
        // Only this thread writes it.
        streams.store(streams.load(Relaxed) + 1, Relaxed);
        Self {
            worker: Rc::clone(worker),
            control: Some(Rc::clone(control)),
        }
    }

    /// The same request, in other hands.
    pub(crate) fn pass_on(&mut self) -> Self {
        Self {
            worker: Rc::clone(&self.worker),
            control: self.control.take(),
        }
    }

    /// It is answered.
    pub(crate) fn end(&mut self, now: Instant) {
        if let Some(control) = self.control.take() {
            control.request_ends(now);
            let streams = &self.worker.load.streams;
            streams.store(streams.load(Relaxed) - 1, Relaxed);
        }
    }
}

impl Drop for OpenRequest {
    fn drop(&mut self) {
        self.end(Instant::now());
    }
}

/// Serve one connection to its end.
pub(crate) async fn serve(worker: Rc<Worker>, tcp: std::net::TcpStream, admitted: Admitted) {
    // Its place is given back when this ends, whichever way.
    let _place = (admitted, worker.count_connection());
    let limits = worker.limits();
    let Ok(tcp) = TcpStream::from_std(tcp) else {
        return;
    };
    // Boxed because it is short, and would make the future of every connection larger.
    let begun = Box::pin(tls::accept(&worker.shared.tls, tcp, Inside::Http1));
    let Ok(Ok(stream)) = timeout(limits.handshake_timeout, begun).await else {
        return;
    };
    let stream = stream.at_once();
    let control = Rc::new(Control::new(Instant::now()));
    let register = Rc::downgrade(&control);
    worker.rest.connections.borrow_mut().push(register);
    if worker.shared.is_draining() {
        control.ask(Asked::Finish);
    }
    let service = service_fn(|request| {
        let open = OpenRequest::new(&worker, &control);
        let worker = Rc::clone(&worker);
        async move { Ok::<_, Infallible>(calls::answer(&worker, open, request).await) }
    });
    let io = Io::watched(stream, &control);
    let mut connection = pin!(builder(&limits).serve_connection(io, service));
    let mut finishing = false;
    std::future::poll_fn(|cx| {
        match control.asked(cx) {
            Asked::Close => return Poll::Ready(()),
            Asked::Finish if !finishing => {
                finishing = true;
                connection.as_mut().graceful_shutdown();
            }
            Asked::Finish | Asked::Nothing => {}
        }
        // How it ended is nobody's concern: what was asked on it is counted by itself.
        connection.as_mut().poll(cx).map(|_| ())
    })
    .await;
}

fn builder(limits: &Limits) -> Builder {
    let most = (limits.max_header_list as usize).max(LEAST_BUFFER);
    let mut builder = Builder::new();
    builder
        .max_headers(MOST_HEADERS)
        .max_header_size(most)
        .max_buf_size(most)
        // Heads are timed by `Control`: hyper would time the pause between two requests with them.
        .header_read_timeout(None);
    builder
}
