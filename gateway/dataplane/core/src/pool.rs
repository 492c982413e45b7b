//! The backends that one thread has to do with.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use stagegate_table::{Backend, Table};
use tokio::sync::futures::Notified;
use tokio::sync::Notify;

use crate::events::Teller;
use crate::tls::TlsState;
use crate::upstream::{self, Upstream};

/// How often it is looked whether backends that owe answers still live.
const LOOK: Duration = Duration::from_millis(250);

/// The upstreams of one thread, made at their first use.
pub(crate) struct Pool {
    most: usize,
    tls: Arc<TlsState>,
    teller: Teller,
    connected: Rc<Notify>,
    /// By backend id: few and sorted by nothing, so they are searched from end to end.
    upstreams: RefCell<Vec<(u32, Rc<Upstream>)>>,
    followed: Cell<u64>,
}

impl Pool {
    /// `most` connections to each backend.
    pub(crate) fn new(most: usize, tls: Arc<TlsState>, teller: Teller) -> Self {
        Self {
            most,
            tls,
            teller,
            connected: Rc::default(),
            upstreams: RefCell::default(),
            followed: Cell::new(0),
        }
    }

    /// Give up what a new table no longer has, or has at another address.
    pub(crate) fn follow(&self, table: &Table) {
        if self.followed.replace(table.revision) == table.revision {
            return;
        }
        self.upstreams.borrow_mut().retain(|(id, upstream)| {
            let stays = table
                .backend(*id)
                .is_some_and(|backend| *backend.address == *upstream.address());
            if !stays {
                upstream.retire();
            }
            stays
        });
    }

    /// The upstream of a backend of the table that was followed last. `None` where its address is no
    /// `host:port`.
    pub(crate) fn get(&self, backend: &Backend) -> Option<Rc<Upstream>> {
        let mut upstreams = self.upstreams.borrow_mut();
        if let Some((_, upstream)) = upstreams.iter().find(|(id, _)| *id == backend.id) {
            return Some(Rc::clone(upstream));
        }
        let made = Upstream::new(
            &backend.name,
            &backend.address,
            self.most,
            &self.tls,
            self.teller.clone(),
            &self.connected,
        )?;
        upstreams.push((backend.id, Rc::clone(&made)));
        Some(made)
    }

    /// The backend of that name is spoken to in another way from now on.
    pub(crate) fn reconnect(&self, name: &str) {
        for (_, upstream) in &*self.upstreams.borrow() {
            if upstream.name() == name {
                upstream.reconnect();
            }
        }
    }

    /// What is notified when any backend is connected anew.
    pub(crate) fn connections(&self) -> Rc<Notify> {
        Rc::clone(&self.connected)
    }

    /// Completes when any backend is connected anew.
    pub(crate) fn connected(&self) -> Notified<'_> {
        self.connected.notified()
    }

    /// Keep an eye on the backends that owe answers, for as long as the thread runs.
    pub(crate) async fn look_after(&self) {
        loop {
            tokio::time::sleep(LOOK).await;
            let now = Instant::now();
            for (_, upstream) in &*self.upstreams.borrow() {
                upstream::look_after(upstream, now);
            }
        }
    }
}
