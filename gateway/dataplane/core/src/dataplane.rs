//! The handle that the control plane holds.

use std::collections::HashMap;
use std::io;
use std::net::TcpListener;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use stagegate_table::Published;
use tokio::sync::watch;

use crate::allow::Allow;
use crate::events::Events;
use crate::limits::Limits;
use crate::listen::{self, Acceptor, Serve, Target};
use crate::sequences::Sequences;
use crate::settings::Settings;
use crate::shadow::Pairs;
use crate::shared::{MostConnections, Shared};
use crate::tls::{BackendTls, ServerTls, TlsState};
use crate::webhooks::Webhooks;
use crate::worker::{self, Command, WorkerHandle};

/// A running data plane: an acceptor thread a port, and the workers. Dropping it stops it.
pub struct Dataplane {
    shared: Arc<Shared>,
    port: u16,
    http_port: Option<u16>,
    threads: Mutex<Threads>,
}

struct Threads {
    acceptors: Vec<Acceptor>,
    workers: Vec<WorkerHandle>,
    /// The listening sockets once more, for who is to take them over.
    listeners: Vec<TcpListener>,
}

impl Dataplane {
    /// Bind the port and start the threads; returns as soon as connections are accepted.
    ///
    /// # Errors
    /// The port is taken, the address is none, the certificate cannot be used (`InvalidInput`), or the
    /// machine has no room for the threads.
    pub fn start(settings: Settings, published: Arc<Published>) -> io::Result<Self> {
        let started = Self::hold(settings, published, Vec::new())?;
        started.accept();
        Ok(started)
    }

    /// The same, but connections are left waiting until [`accept`](Self::accept). `inherited` are the
    /// [`listeners`](Self::listeners) of another process, taken where their port is asked for.
    ///
    /// # Errors
    /// As for [`start`](Self::start).
    pub fn hold(
        settings: Settings,
        published: Arc<Published>,
        inherited: Vec<TcpListener>,
    ) -> io::Result<Self> {
        let front = front(&settings)?;
        let mut inherited = inherited;
        let listener = listen::take_or_bind(&mut inherited, &settings.host, settings.port)?;
        let mut listeners = vec![listener.try_clone()?];
        let port = listener.local_addr()?.port();
        let rest = match &*settings.http_host {
            "" => None,
            host => Some(listen::take_or_bind(
                &mut inherited,
                host,
                settings.http_port,
            )?),
        };
        if let Some(rest) = &rest {
            listeners.push(rest.try_clone()?);
        }
        let http_port = match &rest {
            Some(rest) => Some(rest.local_addr()?.port()),
            None => None,
        };
        let shared = Arc::new(Shared {
            allow: Allow::new(&settings.allow),
            tls: Arc::new(TlsState::new(front)),
            most: MostConnections::of(&settings),
            by_address: Mutex::new(HashMap::new()),
            settings,
            published,
            events: Arc::new(Events::new()?),
            pairs: Pairs::new()?,
            webhooks: Arc::default(),
            sequences: Sequences::new(),
            ready: watch::Sender::new(false),
            draining: false.into(),
            buffered: Arc::default(),
            held: true.into(),
            connections: 0.into(),
        });
        let count = shared.settings.threads.max(1);
        let workers = (0..count)
            .map(|index| worker::start(index, &shared))
            .collect::<io::Result<Vec<_>>>()?;
        let targets: Vec<Target> = workers
            .iter()
            .map(|w| (w.commands.clone(), Arc::clone(&w.load)))
            .collect();
        let accept = |listener, serve: Serve| {
            Acceptor::start(listener, serve, targets.clone(), Arc::clone(&shared))
        };
        let mut acceptors = vec![accept(listener, Command::Accept)?];
        if let Some(rest) = rest {
            acceptors.push(accept(rest, Command::AcceptRest)?);
        }
        Ok(Self {
            shared,
            port,
            http_port,
            threads: Mutex::new(Threads {
                acceptors,
                workers,
                listeners,
            }),
        })
    }

    /// The bound port.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The bound port of the REST protocol, where it is served.
    #[must_use]
    pub fn http_port(&self) -> Option<u16> {
        self.http_port
    }

    /// Begin to accept connections; some may wait already.
    pub fn accept(&self) {
        self.shared.held.store(false, Relaxed);
    }

    /// Descriptors of the listening sockets, for another process to take over; none once it drains.
    #[must_use]
    pub fn listeners(&self) -> Vec<RawFd> {
        let threads = self.threads();
        threads.listeners.iter().map(AsRawFd::as_raw_fd).collect()
    }

    /// What happened that the control plane should know.
    #[must_use]
    pub fn events(&self) -> &Arc<Events> {
        &self.shared.events
    }

    /// Answers of shadows beside those that clients got, for the control plane to compare.
    #[must_use]
    pub fn pairs(&self) -> &Pairs {
        &self.shared.pairs
    }

    /// Notices of registries, for the control plane to answer.
    #[must_use]
    pub fn webhooks(&self) -> &Webhooks {
        &self.shared.webhooks
    }

    /// What `ServerReady` and the health service say.
    pub fn set_ready(&self, ready: bool) {
        self.shared.ready.send_replace(ready);
    }

    /// Keep the limits of these settings from now on; what else they say stays as it was at the start.
    pub fn set_limits(&self, settings: &Settings) {
        self.shared.most.follow(settings);
        let limits = Limits::of(settings);
        for worker in &self.threads().workers {
            let _ = worker.commands.send(Command::Limit(limits));
        }
    }

    /// Show this certificate to clients that connect from now on. Without effect on a data plane that was
    /// started without one: nobody could tell which clients speak TLS.
    pub fn set_tls(&self, tls: ServerTls) {
        if !self.shared.settings.tls_cert.is_empty() {
            self.shared.tls.set_front(tls);
        }
    }

    /// Speak TLS on connections to the backend of that name from now on, or (`None`) plaintext. To be
    /// told before a table names the backend. Connections that it has finish what is open on them, and take
    /// nothing new.
    pub fn set_backend_tls(&self, name: &str, tls: Option<BackendTls>) {
        self.shared.tls.set_backend(name, tls);
        let name: Arc<str> = name.into();
        for worker in &self.threads().workers {
            let _ = worker.commands.send(Command::Reconnect(Arc::clone(&name)));
        }
    }

    /// Say "not ready", accept no connections, let clients finish what they began, and close what is
    /// left after `timeout`. Returns at once.
    pub fn drain(&self, timeout: Duration) {
        self.shared.draining.store(true, Relaxed);
        self.shared.ready.send_replace(false);
        let mut threads = self.threads();
        threads.acceptors.iter_mut().for_each(Acceptor::stop);
        threads.listeners.clear();
        let until = Instant::now() + timeout;
        for worker in &threads.workers {
            let _ = worker.commands.send(Command::Drain(until));
        }
    }

    /// Whether a drain was asked for and the last client connection is closed.
    #[must_use]
    pub fn drained(&self) -> bool {
        self.shared.draining.load(Relaxed) && self.shared.connections.load(Relaxed) == 0
    }

    /// Close everything and end the threads. Idempotent.
    pub fn stop(&self) {
        let mut threads = self.threads();
        threads.acceptors.iter_mut().for_each(Acceptor::stop);
        threads.listeners.clear();
        for worker in threads.workers.drain(..) {
            let _ = worker.commands.send(Command::Stop);
            // A worker that panicked has nothing more to say.
            let _ = worker.thread.join();
        }
    }

    fn threads(&self) -> MutexGuard<'_, Threads> {
        self.threads.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Dataplane {
    fn drop(&mut self) {
        self.stop();
    }
}

/// The certificate that settings hold.
fn front(settings: &Settings) -> io::Result<Option<ServerTls>> {
    if settings.tls_cert.is_empty() {
        return Ok(None);
    }
    ServerTls::new(
        &settings.tls_cert,
        &settings.tls_key.0,
        &settings.tls_client_ca,
    )
    .map(Some)
    .map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))
}
