//! What all threads of one data plane share.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::sync::Arc;

use stagegate_table::Published;
use tokio::sync::watch;

use crate::allow::Allow;
use crate::events::Events;
use crate::settings::Settings;

/// Shared by the handle, the acceptor and the workers.
pub(crate) struct Shared {
    pub(crate) settings: Settings,
    pub(crate) allow: Allow,
    pub(crate) published: Arc<Published>,
    pub(crate) events: Arc<Events>,
    /// Whether health answers say "serving"; watchers wake when it changes.
    pub(crate) ready: watch::Sender<bool>,
    pub(crate) draining: AtomicBool,
    /// Open client connections.
    pub(crate) connections: AtomicUsize,
}

impl Shared {
    pub(crate) fn is_ready(&self) -> bool {
        *self.ready.borrow() && !self.is_draining()
    }

    pub(crate) fn is_draining(&self) -> bool {
        self.draining.load(Relaxed)
    }

    /// A place for one more client connection, unless there are too many.
    pub(crate) fn admit(self: &Arc<Self>, load: &Arc<Load>) -> Option<Admitted> {
        let most = self.settings.max_connections;
        let room = |open| (open < most).then_some(open + 1);
        self.connections.fetch_update(Relaxed, Relaxed, room).ok()?;
        load.connections.fetch_add(1, Relaxed);
        Some(Admitted {
            shared: Arc::clone(self),
            load: Arc::clone(load),
        })
    }
}

/// How much one worker has to do.
#[derive(Debug, Default)]
pub(crate) struct Load {
    pub(crate) connections: AtomicUsize,
    pub(crate) streams: AtomicUsize,
}

impl Load {
    /// Streams first: an idle connection costs nothing.
    pub(crate) fn weight(&self) -> (usize, usize) {
        (self.streams.load(Relaxed), self.connections.load(Relaxed))
    }
}

/// A client connection's place; given back when dropped.
pub(crate) struct Admitted {
    shared: Arc<Shared>,
    load: Arc<Load>,
}

impl Drop for Admitted {
    fn drop(&mut self) {
        self.shared.connections.fetch_sub(1, Relaxed);
        self.load.connections.fetch_sub(1, Relaxed);
    }
}
