//! Connections to the HTTP endpoints of backends: kept for a while after a request, one request each.

use std::cell::{Cell, RefCell};
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::{HeaderValue, Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::http1::{handshake, SendRequest};
use stagegate_table::{Backend, Table};
use tokio::net::TcpStream;
use tokio::task::AbortHandle;
use tokio::time::timeout;

use crate::rest::io::Io;
use crate::rest::upload::Upload;
use crate::retry::PATIENCE;
use crate::tls::{self, Inside, TlsState};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// Connections without a request that are kept, of one thread to one backend.
const MOST_IDLE: usize = 64;
/// How long a connection without a request is kept.
const KEPT: Duration = Duration::from_secs(30);

/// The HTTP endpoints that one thread has to do with, made at their first use.
pub(crate) struct Pool {
    tls: Arc<TlsState>,
    /// By backend id: few, so they are searched from end to end.
    endpoints: RefCell<Vec<(u32, Rc<Endpoint>)>>,
    followed: Cell<u64>,
}

/// One HTTP endpoint.
pub(crate) struct Endpoint {
    name: Box<str>,
    address: Box<str>,
    tls: Arc<TlsState>,
    pub(crate) host: HeaderValue,
    idle: RefCell<Vec<Connection>>,
    gone: Cell<bool>,
    /// Since when it cannot be connected to.
    down_since: Cell<Option<Instant>>,
}

struct Connection {
    send: SendRequest<Upload>,
    task: AbortHandle,
    since: Instant,
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A connection that carries a request; closed unless it is given back.
pub(crate) struct Lease {
    endpoint: Rc<Endpoint>,
    connection: Connection,
    /// Whether it carried a request before.
    pub(crate) is_used: bool,
}

/// How a request failed before its answer began.
pub(crate) enum SendError {
    /// Nothing of it was sent; here it is.
    Unsent(Box<Request<Upload>>, hyper::Error),
    /// It may have been sent.
    Sent(hyper::Error),
}

impl Pool {
    pub(crate) fn new(tls: Arc<TlsState>) -> Self {
        Self {
            tls,
            endpoints: RefCell::default(),
            followed: Cell::new(0),
        }
    }

    /// The endpoint of a backend of this table. `None` where it has none that we know.
    pub(crate) fn get(&self, table: &Table, backend: &Backend) -> Option<Rc<Endpoint>> {
        self.follow(table);
        let mut endpoints = self.endpoints.borrow_mut();
        if let Some((_, endpoint)) = endpoints.iter().find(|(id, _)| *id == backend.id) {
            return Some(Rc::clone(endpoint));
        }
        if backend.http.is_empty() {
            return None;
        }
        let made = Rc::new(Endpoint {
            name: backend.name.clone(),
            address: backend.http.clone(),
            tls: Arc::clone(&self.tls),
            host: HeaderValue::from_str(&backend.http).ok()?,
            idle: RefCell::default(),
            gone: Cell::new(false),
            down_since: Cell::new(None),
        });
        endpoints.push((backend.id, Rc::clone(&made)));
        Some(made)
    }

    /// Give up what a new table no longer has, or has at another address.
    fn follow(&self, table: &Table) {
        if self.followed.replace(table.revision) == table.revision {
            return;
        }
        self.endpoints.borrow_mut().retain(|(id, endpoint)| {
            let stays = table
                .backend(*id)
                .is_some_and(|backend| *backend.http == *endpoint.address);
            if !stays {
                endpoint.give_up();
            }
            stays
        });
    }

    /// The backend of that name is spoken to in another way from now on: what is open finishes.
    pub(crate) fn reconnect(&self, name: &str) {
        self.endpoints.borrow_mut().retain(|(_, endpoint)| {
            let stays = *endpoint.name != *name;
            if !stays {
                endpoint.give_up();
            }
            stays
        });
    }

    /// Close what was not used for a while.
    pub(crate) fn sweep(&self, now: Instant) {
        for (_, endpoint) in self.endpoints.borrow().iter() {
            let mut idle = endpoint.idle.borrow_mut();
            idle.retain(|connection| connection.is_fit(now));
        }
    }
}

impl Connection {
    fn is_fit(&self, now: Instant) -> bool {
        self.send.is_ready() && now.saturating_duration_since(self.since) < KEPT
    }
}

impl Endpoint {
    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    /// No connection to it is kept from now on.
    fn give_up(&self) {
        self.gone.set(true);
        self.idle.borrow_mut().clear();
    }

    /// A connection that was used before, and seems to be open still.
    pub(crate) fn take_idle(self: &Rc<Self>, now: Instant) -> Option<Lease> {
        loop {
            let connection = self.idle.borrow_mut().pop()?;
            if connection.is_fit(now) {
                return Some(Lease {
                    endpoint: Rc::clone(self),
                    connection,
                    is_used: true,
                });
            }
        }
    }

    /// A new connection.
    pub(crate) async fn connect(self: &Rc<Self>) -> io::Result<Lease> {
        let late = || io::Error::new(io::ErrorKind::TimedOut, "no answer within 3 s");
        let opened = timeout(CONNECT_TIMEOUT, self.open()).await;
        let connection = opened.unwrap_or_else(|_| Err(late()));
        self.down_since.set(match &connection {
            Ok(_) => None,
            Err(_) => self.down_since.get().or_else(|| Some(Instant::now())),
        });
        Ok(Lease {
            endpoint: Rc::clone(self),
            connection: connection?,
            is_used: false,
        })
    }

    /// Whether it is down, and was not for long: it may just be starting anew.
    pub(crate) fn is_newly_down(&self, now: Instant) -> bool {
        let is_new = |since| now.saturating_duration_since(since) < PATIENCE;
        self.down_since.get().is_some_and(is_new)
    }

    async fn open(&self) -> io::Result<Connection> {
        let tcp = TcpStream::connect(&*self.address).await?;
        let io = tls::connect(&self.tls, &self.name, &self.address, tcp, Inside::Http1).await?;
        let shaken = handshake(Io::new(io.at_once())).await;
        let (send, connection) = shaken.map_err(io::Error::other)?;
        let task = tokio::task::spawn_local(async move {
            // Whoever waits for an answer on it is told what went wrong.
            let _ = connection.await;
        });
        Ok(Connection {
            send,
            task: task.abort_handle(),
            since: Instant::now(),
        })
    }

    /// Forget connections without a request: one of them turned out to be closed, and others may be.
    pub(crate) fn forget_idle(&self) {
        self.idle.borrow_mut().clear();
    }
}

impl Lease {
    pub(crate) async fn send(
        &mut self,
        request: Request<Upload>,
    ) -> Result<Response<Incoming>, SendError> {
        let sent = self.connection.send.try_send_request(request).await;
        sent.map_err(|mut error| match error.take_message() {
            Some(request) => SendError::Unsent(Box::new(request), error.into_error()),
            None => SendError::Sent(error.into_error()),
        })
    }

    /// The answer was read to its end: keep the connection for the next request.
    pub(crate) fn give_back(mut self) {
        // It is ready only once its task has seen the end of both messages.
        tokio::task::spawn_local(async move {
            if self.connection.send.ready().await.is_err() {
                return;
            }
            self.connection.since = Instant::now();
            let mut idle = self.endpoint.idle.borrow_mut();
            if !self.endpoint.gone.get() && idle.len() < MOST_IDLE {
                idle.push(self.connection);
            }
        });
    }
}
