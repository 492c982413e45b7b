//! The handle that the control plane holds.

use std::io;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use stagegate_table::Published;
use tokio::sync::watch;

use crate::allow::Allow;
use crate::events::Events;
use crate::listen::{self, Acceptor};
use crate::settings::Settings;
use crate::shared::Shared;
use crate::worker::{self, Command, WorkerHandle};

/// A running data plane: one acceptor thread and the workers. Dropping it stops it.
pub struct Dataplane {
    shared: Arc<Shared>,
    port: u16,
    threads: Mutex<Threads>,
}

struct Threads {
    acceptor: Acceptor,
    workers: Vec<WorkerHandle>,
}

impl Dataplane {
    /// Bind the port and start the threads; returns as soon as connections are accepted.
    ///
    /// # Errors
    /// The port is taken, the address is none, or the machine has no room for the threads.
    pub fn start(settings: Settings, published: Arc<Published>) -> io::Result<Self> {
        let listener = listen::bind(&settings.host, settings.port)?;
        let port = listener.local_addr()?.port();
        let shared = Arc::new(Shared {
            allow: Allow::new(&settings.allow),
            settings,
            published,
            events: Arc::new(Events::new()?),
            ready: watch::Sender::new(false),
            draining: false.into(),
            connections: 0.into(),
        });
        let count = shared.settings.threads.max(1);
        let workers = (0..count)
            .map(|index| worker::start(index, &shared))
            .collect::<io::Result<Vec<_>>>()?;
        let targets = workers
            .iter()
            .map(|w| (w.commands.clone(), Arc::clone(&w.load)))
            .collect();
        let acceptor = Acceptor::start(listener, targets, Arc::clone(&shared))?;
        Ok(Self {
            shared,
            port,
            threads: Mutex::new(Threads { acceptor, workers }),
        })
    }

    /// The bound port.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// What happened that the control plane should know.
    #[must_use]
    pub fn events(&self) -> &Arc<Events> {
        &self.shared.events
    }

    /// What `ServerReady` and the health service say.
    pub fn set_ready(&self, ready: bool) {
        self.shared.ready.send_replace(ready);
    }

    /// Say "not ready", accept no connections, let clients finish what they began, and close what is
    /// left after `timeout`. Returns at once.
    pub fn drain(&self, timeout: Duration) {
        self.shared.draining.store(true, Relaxed);
        self.shared.ready.send_replace(false);
        let mut threads = self.threads();
        threads.acceptor.stop();
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
        threads.acceptor.stop();
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
