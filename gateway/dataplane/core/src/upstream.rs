//! One backend as one thread sees it: a few connections, opened by load, never waited for without need.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use h2::client::{Connection, ResponseFuture, SendRequest};
use h2::{Ping, SendStream};
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{HeaderMap, Method, Request, Uri, Version};
use socket2::{SockRef, TcpKeepalive};
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::task::AbortHandle;
use tokio::time::timeout;

use crate::contained::{contained, contained_future};
use crate::events::Teller;
use crate::io::{Gathered, Io};
use crate::joined::Joined;
use crate::liveness::{self, Liveness};
use crate::rate::Rate;
use crate::retry::{Budget, PATIENCE};
use crate::tls::{self, Inside, TlsState};
use crate::token::Draws;

/// Streams on the least used connection from which on another connection is opened.
const BUSY: usize = 64;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// Pauses are longer by up to a half, in so many steps, so that threads do not all come at once.
const JITTER: u32 = 1_000;
/// Data that a backend does not acknowledge for this long breaks its connection.
const DEAD_AFTER: Duration = Duration::from_secs(20);
/// What one stream may hold of an answer that its client does not take.
const STREAM_WINDOW: u32 = 1 << 20;
/// As large as can be: clients share the connection, and answers that some of them leave untaken must
/// not hold up those of others.
const CONNECTION_WINDOW: u32 = (1 << 31) - 1;
/// Bytes of an answer's header list. Triton repeats what it got in its texts; they are cut on their way
/// to the client, but a list far beyond this costs the connection.
const HEADER_LIST: u32 = 2 << 20;
/// Resets that h2 remembers, so that late frames for them are no errors.
const REMEMBERED_RESETS: usize = 4096;

/// A backend that cannot be connected to, and why.
#[derive(Debug, Clone)]
pub(crate) struct Unreachable(pub(crate) Rc<str>);

struct Conn {
    send: RefCell<SendRequest<Joined>>,
    streams: Cell<usize>,
    /// Ends the connection and all that is open on it.
    driver: RefCell<Option<AbortHandle>>,
}

/// One backend with its connections.
pub(crate) struct Upstream {
    name: Box<str>,
    address: Box<str>,
    authority: Authority,
    tls: Arc<TlsState>,
    scheme: RefCell<Scheme>,
    /// How often it was begun to be spoken to in another way.
    ways: Cell<u64>,
    most: usize,
    conns: RefCell<Vec<Rc<Conn>>>,
    connecting: Cell<bool>,
    /// No further connection is tried before, while others work.
    grow_after: Cell<Option<Instant>>,
    down: RefCell<Option<Rc<str>>>,
    retired: Cell<bool>,
    inflight: Cell<usize>,
    /// Requests on its other endpoint.
    elsewhere: Cell<usize>,
    waiting: Cell<usize>,
    changed: Notify,
    teller: Teller,
    budget: Budget,
    cancels: Rate,
    discarding: Cell<usize>,
    liveness: Liveness,
    down_since: Cell<Option<Instant>>,
    /// How often it was connected while there was no connection.
    revivals: Cell<u64>,
    draws: Draws,
    /// Tells all that wait for any backend of this thread.
    connected: Rc<Notify>,
    me: Weak<Self>,
}

/// The right to one stream on one connection; counts it for as long as it lives.
pub(crate) struct Lease {
    conn: Rc<Conn>,
    upstream: Rc<Upstream>,
}

impl Upstream {
    /// A backend without connections yet. `None` where the address is no `host:port`.
    pub(crate) fn new(
        name: &str,
        address: &str,
        most: usize,
        tls: &Arc<TlsState>,
        teller: Teller,
        connected: &Rc<Notify>,
    ) -> Option<Rc<Self>> {
        let authority = Authority::try_from(address).ok()?;
        Some(Rc::new_cyclic(|me| Self {
            name: name.into(),
            address: address.into(),
            authority,
            tls: Arc::clone(tls),
            scheme: RefCell::new(scheme(tls, name)),
            ways: Cell::new(0),
            most: most.max(1),
            conns: RefCell::default(),
            connecting: Cell::new(false),
            grow_after: Cell::new(None),
            down: RefCell::default(),
            retired: Cell::new(false),
            inflight: Cell::new(0),
            elsewhere: Cell::new(0),
            waiting: Cell::new(0),
            changed: Notify::new(),
            teller,
            budget: Budget::new(),
            cancels: Rate::default(),
            discarding: Cell::new(0),
            liveness: Liveness::default(),
            down_since: Cell::new(None),
            revivals: Cell::new(0),
            draws: Draws::new(),
            connected: Rc::clone(connected),
            me: me.clone(),
        }))
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    /// Requests of this thread on this backend.
    pub(crate) fn inflight(&self) -> usize {
        self.inflight.get() + self.elsewhere.get()
    }

    /// Count a request that goes to its other endpoint.
    pub(crate) fn visit(self: &Rc<Self>) -> Visit {
        self.budget.deposit();
        self.elsewhere.set(self.elsewhere.get() + 1);
        Visit(Rc::clone(self))
    }

    /// Whether there is no reason to prefer another: not where the last attempt to connect failed and
    /// nothing is connected, nor where it is not known whether it still lives.
    pub(crate) fn is_usable(&self) -> bool {
        self.down_since.get().is_none() && !self.liveness.is_suspect()
    }

    /// Whether it is down, and was not for long: it may just be starting anew.
    pub(crate) fn is_newly_down(&self, now: Instant) -> bool {
        let is_new = |since| now.saturating_duration_since(since) < PATIENCE;
        self.down_since.get().is_some_and(is_new)
    }

    /// How often it was connected while there was no connection: behind each may be another process.
    pub(crate) fn revivals(&self) -> u64 {
        self.revivals.get()
    }

    /// What requests that may have been begun here are sent once more from.
    pub(crate) fn budget(&self) -> &Budget {
        &self.budget
    }

    /// Streams of this thread that were reset here.
    pub(crate) fn cancels(&self) -> &Rate {
        &self.cancels
    }

    /// Answers that are read for nobody.
    pub(crate) fn discarding(&self) -> usize {
        self.discarding.get()
    }

    /// Count an answer that is read for nobody.
    pub(crate) fn discard(&self) -> Counted<'_> {
        Counted::new(&self.discarding)
    }

    /// An answer began to come.
    pub(crate) fn heard(&self) {
        self.liveness.heard();
    }

    /// The head of a request to a method of this backend.
    pub(crate) fn request(&self, path: PathAndQuery, headers: HeaderMap) -> Request<()> {
        let mut parts = http::uri::Parts::default();
        parts.scheme = Some(self.scheme.borrow().clone());
        parts.authority = Some(self.authority.clone());
        parts.path_and_query = Some(path);
        let mut request = Request::new(());
        *request.method_mut() = Method::POST;
        *request.version_mut() = Version::HTTP_2;
        *request.uri_mut() = Uri::from_parts(parts).unwrap_or_default();
        *request.headers_mut() = headers;
        request
    }

    /// The backend left the table: its streams finish, then its connections close.
    pub(crate) fn retire(&self) {
        self.retired.set(true);
        self.conns.borrow_mut().clear();
        self.teller.forget_backend(&self.name);
        self.changed.notify_waiters();
    }

    /// It is spoken to in another way from now on: streams finish on the connections that they have, and
    /// others are opened for what comes.
    pub(crate) fn reconnect(&self) {
        self.ways.set(self.ways.get() + 1);
        self.scheme.replace(scheme(&self.tls, &self.name));
        self.conns.borrow_mut().clear();
        self.grow_after.set(None);
        self.connect(Duration::ZERO);
    }

    /// A stream at once, on the connection with the fewest.
    pub(crate) fn try_open(&self) -> Option<Lease> {
        let mut tried = 0u64;
        loop {
            let (index, conn) = self.least_used(tried)?;
            // Everything that waits here waits for `changed`, so nobody needs this waker.
            let ready = contained(|| {
                let mut send = conn.send.borrow_mut();
                send.poll_ready(&mut Context::from_waker(Waker::noop()))
            });
            match ready {
                Ok(Poll::Ready(Ok(()))) => return self.lease(conn),
                // A panic: the lock of the connection was held during another one.
                Ok(Poll::Ready(Err(_))) | Err(_) => self.remove(&conn),
                Ok(Poll::Pending) => {
                    tried |= 1 << index;
                    self.grow();
                }
            }
        }
    }

    /// A stream, after waiting for a connection or for room on one if need be.
    pub(crate) async fn open(&self) -> Result<Lease, Unreachable> {
        loop {
            let changed = self.changed.notified();
            if let Some(lease) = self.try_open() {
                return Ok(lease);
            }
            if self.conns.borrow().is_empty() {
                if let Some(reason) = self.down.borrow().clone() {
                    return Err(Unreachable(reason));
                }
                if self.retired.get() {
                    return Err(Unreachable("it is no longer in the routing table".into()));
                }
                self.connect(Duration::ZERO);
            }
            let _counted = Counted::new(&self.waiting);
            changed.await;
        }
    }

    fn least_used(&self, tried: u64) -> Option<(usize, Rc<Conn>)> {
        let conns = self.conns.borrow();
        let open = conns
            .iter()
            .enumerate()
            .filter(|(index, _)| tried & (1 << index) == 0);
        let (index, conn) = open.min_by_key(|(_, conn)| conn.streams.get())?;
        Some((index, Rc::clone(conn)))
    }

    fn lease(&self, conn: Rc<Conn>) -> Option<Lease> {
        let streams = conn.streams.get();
        if streams >= BUSY {
            self.grow();
        }
        self.budget.deposit();
        conn.streams.set(streams + 1);
        self.inflight.set(self.inflight.get() + 1);
        Some(Lease {
            conn,
            upstream: self.me.upgrade()?,
        })
    }

    fn grow(&self) {
        if self.conns.borrow().len() >= self.most || self.connecting.get() {
            return;
        }
        if self
            .grow_after
            .get()
            .is_none_or(|after| after <= Instant::now())
        {
            self.connect(Duration::ZERO);
        }
    }

    fn connect(&self, pause: Duration) {
        if !self.connecting.replace(true) {
            tokio::task::spawn_local(keep_connecting(
                self.me.clone(),
                self.address.clone(),
                pause,
            ));
        }
    }

    fn connected(&self, send: SendRequest<Joined>) -> Rc<Conn> {
        let conn = Rc::new(Conn {
            send: RefCell::new(send),
            streams: Cell::new(0),
            driver: RefCell::default(),
        });
        if self.conns.borrow().is_empty() {
            self.revivals.set(self.revivals.get() + 1);
        }
        self.conns.borrow_mut().push(Rc::clone(&conn));
        self.connecting.set(false);
        self.down_since.set(None);
        if self.down.take().is_some() {
            self.teller.backend(&self.name, false, "");
        }
        self.changed.notify_waiters();
        self.connected.notify_waiters();
        conn
    }

    /// Note a failed attempt; returns whether to go on trying.
    fn failed(&self, error: &io::Error) -> bool {
        if !self.conns.borrow().is_empty() {
            self.grow_after.set(Some(Instant::now() + LONGEST_PAUSE));
            self.connecting.set(false);
            return false;
        }
        self.note_down(format!("cannot connect to {}: {error}", self.address).into());
        true
    }

    fn note_down(&self, reason: Rc<str>) {
        self.teller.backend(&self.name, true, &reason);
        self.down.replace(Some(reason));
        if self.down_since.get().is_none() {
            self.down_since.set(Some(Instant::now()));
        }
        self.changed.notify_waiters();
    }

    /// It does not answer, and does not take a connection: end all that is open.
    fn lost(&self) {
        let conns = std::mem::take(&mut *self.conns.borrow_mut());
        self.note_down("it owes answers, and a new connection got none either".into());
        for conn in conns {
            if let Some(driver) = conn.driver.take() {
                driver.abort();
            }
        }
        self.connect(Duration::ZERO);
    }

    fn remove(&self, conn: &Rc<Conn>) {
        let mut conns = self.conns.borrow_mut();
        conns.retain(|known| !Rc::ptr_eq(known, conn));
    }

    /// A connection ended. With none left, another is tried at once, to know whether the backend is.
    fn ended(&self, conn: &Weak<Conn>) {
        if let Some(conn) = conn.upgrade() {
            self.remove(&conn);
        }
        self.changed.notify_waiters();
        if self.conns.borrow().is_empty() && !self.retired.get() {
            self.connect(Duration::ZERO);
        }
    }
}

impl Lease {
    pub(crate) fn upstream(&self) -> &Rc<Upstream> {
        &self.upstream
    }

    /// Open the stream. To be called before anything is awaited.
    pub(crate) fn send(
        &self,
        request: Request<()>,
        end: bool,
    ) -> Result<(ResponseFuture, SendStream<Joined>), h2::Error> {
        self.conn.send.borrow_mut().send_request(request, end)
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.conn.streams.set(self.conn.streams.get() - 1);
        self.upstream.inflight.set(self.upstream.inflight.get() - 1);
        if self.upstream.waiting.get() > 0 {
            self.upstream.changed.notify_waiters();
        }
    }
}

/// A request on a backend's other endpoint, counted for as long as it lives.
pub(crate) struct Visit(Rc<Upstream>);

impl Drop for Visit {
    fn drop(&mut self) {
        self.0.elsewhere.set(self.0.elsewhere.get() - 1);
    }
}

/// Counts for as long as it lives.
pub(crate) struct Counted<'c>(&'c Cell<usize>);

impl<'c> Counted<'c> {
    fn new(count: &'c Cell<usize>) -> Self {
        count.set(count.get() + 1);
        Self(count)
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

fn scheme(tls: &TlsState, backend: &str) -> Scheme {
    if tls.has_backend(backend) {
        Scheme::HTTPS
    } else {
        Scheme::HTTP
    }
}

/// Try until there is a connection, with growing pauses; each failure is noted.
async fn keep_connecting(upstream: Weak<Upstream>, address: Box<str>, mut pause: Duration) {
    let mut jitter = 0;
    loop {
        if !pause.is_zero() {
            tokio::time::sleep(pause + pause * jitter / (2 * JITTER)).await;
        }
        if upstream
            .upgrade()
            .is_none_or(|upstream| upstream.retired.get())
        {
            return;
        }
        let outcome = match timeout(CONNECT_TIMEOUT, open_connection(&upstream, &address)).await {
            Ok(outcome) => outcome,
            Err(_) => Err(io::Error::new(
                io::ErrorKind::TimedOut,
                "no answer within 3 s",
            )),
        };
        let Err(error) = outcome else { return };
        if !upstream
            .upgrade()
            .is_some_and(|upstream| upstream.failed(&error))
        {
            return;
        }
        pause = (pause * 2).clamp(FIRST_PAUSE, LONGEST_PAUSE);
        jitter = upstream
            .upgrade()
            .map_or(0, |upstream| upstream.draws.below(JITTER));
    }
}

/// Keep an eye on a backend that owes answers: called a few times a second.
///
/// One that was silent for a while is asked for a connection of its own. A ping on the old one would do as
/// well, but a gRPC server closes a connection that pings it more than twice between two answers, and an
/// inference may take long. A backend that does not even do that in time is frozen or cut off: what is
/// open there is ended, so that it can be asked elsewhere.
pub(crate) fn look_after(upstream: &Rc<Upstream>, now: Instant) {
    if upstream.liveness.is_due(upstream.inflight.get(), now) {
        upstream.liveness.begin_test();
        tokio::task::spawn_local(test(Rc::downgrade(upstream), upstream.address.clone()));
    }
}

async fn test(upstream: Weak<Upstream>, address: Box<str>) {
    let outcome = timeout(liveness::TEST_TIME, handshake(&upstream, &address)).await;
    let Some(upstream) = upstream.upgrade() else {
        return;
    };
    let is_well = matches!(outcome, Ok(Ok(_)));
    if upstream.liveness.end_test(is_well, Instant::now()) {
        upstream.lost();
    }
}

/// One attempt. A connection counts once the peer answered a ping, which only an HTTP/2 server does
/// and which brings its settings with it.
async fn open_connection(upstream: &Weak<Upstream>, address: &str) -> io::Result<()> {
    let ways = || upstream.upgrade().map(|upstream| upstream.ways.get());
    let (send, connection, gathered) = loop {
        let before = ways();
        let outcome = handshake(upstream, address).await;
        // Whatever came of it, it was tried in a way that is no longer the right one.
        if before == ways() {
            break outcome?;
        }
    };
    if let Some(upstream) = upstream.upgrade() {
        let conn = upstream.connected(send);
        let (me, weak) = (upstream.me.clone(), Rc::downgrade(&conn));
        let driver = drive(connection, gathered, me, weak);
        let driver = tokio::task::spawn_local(driver).abort_handle();
        conn.driver.replace(Some(driver));
    }
    Ok(())
}

async fn handshake(
    upstream: &Weak<Upstream>,
    address: &str,
) -> io::Result<(SendRequest<Joined>, Connection<Io, Joined>, Gathered)> {
    let tcp = TcpStream::connect(address).await?;
    let socket = SockRef::from(&tcp);
    socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(DEAD_AFTER))?;
    socket.set_tcp_user_timeout(Some(DEAD_AFTER))?;
    let Some((tls, name)) = upstream
        .upgrade()
        .map(|upstream| (Arc::clone(&upstream.tls), upstream.name.clone()))
    else {
        return Err(io::ErrorKind::NotConnected.into());
    };
    let io = tls::connect(&tls, &name, address, tcp, Inside::H2).await?;
    let io = io.of_backend();
    let gathered = io.gathered();
    let (send, mut connection) = builder().handshake(io).await.map_err(io::Error::other)?;
    let mut pings = connection
        .ping_pong()
        .ok_or_else(|| io::Error::other("no pings"))?;
    pings.send_ping(Ping::opaque()).map_err(io::Error::other)?;
    std::future::poll_fn(|cx| match pings.poll_pong(cx) {
        Poll::Ready(outcome) => Poll::Ready(outcome.map(|_| ()).map_err(io::Error::other)),
        Poll::Pending => match Pin::new(&mut connection).poll(cx) {
            Poll::Ready(Ok(())) => Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into())),
            Poll::Ready(Err(error)) => Poll::Ready(Err(io::Error::other(error))),
            Poll::Pending => pings
                .poll_pong(cx)
                .map(|pong| pong.map(|_| ()).map_err(io::Error::other)),
        },
    })
    .await?;
    Ok((send, connection, gathered))
}

/// Run a connection to its end. It closes by itself when nobody holds it, so nothing here does.
async fn drive(
    mut connection: Connection<Io, Joined>,
    gathered: Gathered,
    upstream: Weak<Upstream>,
    conn: Weak<Conn>,
) {
    let driving = std::future::poll_fn(|cx| loop {
        let over = Pin::new(&mut connection).poll(cx).map(|_| ());
        if over.is_ready() || !gathered.again() {
            return over;
        }
    });
    let _ = contained_future(driving).await;
    if let Some(upstream) = upstream.upgrade() {
        upstream.ended(&conn);
    }
}

fn builder() -> h2::client::Builder {
    let mut builder = h2::client::Builder::new();
    builder
        .enable_push(false)
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_frame_size(1 << 20)
        .max_header_list_size(HEADER_LIST)
        .max_send_buffer_size(1 << 20)
        // Small answers are followed by trailers, so each counts against this until it is read.
        .data_frame_budget(256 << 20)
        .max_concurrent_reset_streams(REMEMBERED_RESETS)
        // Clients that cancel must not cost the backend its connection, however long it lives.
        .max_local_error_reset_streams(None);
    builder
}
