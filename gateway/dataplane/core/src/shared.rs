//! What all threads of one data plane share.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use stagegate_table::Published;
use tokio::sync::watch;

use crate::allow::Allow;
use crate::budget::Taken;
use crate::events::Events;
use crate::sequences::Sequences;
use crate::settings::Settings;
use crate::shadow::Pairs;
use crate::tls::TlsState;
use crate::webhooks::Webhooks;

/// Shared by the handle, the acceptor and the workers.
pub(crate) struct Shared {
    /// What was said at the start. Of limits each worker has today's, see `Worker::limits`.
    pub(crate) settings: Settings,
    pub(crate) tls: Arc<TlsState>,
    pub(crate) allow: Allow,
    pub(crate) published: Arc<Published>,
    pub(crate) events: Arc<Events>,
    /// Answers of shadows beside those that clients got, to be compared.
    pub(crate) pairs: Pairs,
    /// Notices of registries that wait for an answer.
    pub(crate) webhooks: Arc<Webhooks>,
    pub(crate) sequences: Arc<Sequences>,
    /// Whether health answers say "serving"; watchers wake when it changes.
    pub(crate) ready: watch::Sender<bool>,
    pub(crate) draining: AtomicBool,
    /// Bytes of requests that the threads have taken.
    pub(crate) buffered: Arc<Taken>,
    /// Connections are left waiting until there is something to answer them with.
    pub(crate) held: AtomicBool,
    /// Open client connections.
    pub(crate) connections: AtomicUsize,
    pub(crate) most: MostConnections,
    /// Open connections by address, where those are bounded.
    pub(crate) by_address: Mutex<HashMap<IpAddr, usize>>,
}

/// How many client connections there may be.
#[derive(Debug)]
pub(crate) struct MostConnections {
    in_all: AtomicUsize,
    /// 0 for no bound.
    per_address: AtomicUsize,
}

impl MostConnections {
    pub(crate) fn of(settings: &Settings) -> Self {
        Self {
            in_all: settings.max_connections.into(),
            per_address: settings.connections_per_address.into(),
        }
    }

    /// Take today's bounds; connections that are open stay.
    pub(crate) fn follow(&self, settings: &Settings) {
        self.in_all.store(settings.max_connections, Relaxed);
        self.per_address
            .store(settings.connections_per_address, Relaxed);
    }
}

impl Shared {
    pub(crate) fn is_ready(&self) -> bool {
        *self.ready.borrow() && !self.is_draining()
    }

    pub(crate) fn is_draining(&self) -> bool {
        self.draining.load(Relaxed)
    }

    /// A place for one more client connection, unless there are too many.
    pub(crate) fn admit(self: &Arc<Self>, load: &Arc<Load>, peer: IpAddr) -> Option<Admitted> {
        let per_address = self.most.per_address.load(Relaxed);
        let counted = match per_address {
            0 => None,
            most => Some(self.count(host(peer), most)?),
        };
        let most = self.most.in_all.load(Relaxed);
        let room = |open| (open < most).then_some(open + 1);
        if self
            .connections
            .fetch_update(Relaxed, Relaxed, room)
            .is_err()
        {
            counted.inspect(|host| self.discount(*host));
            return None;
        }
        load.connections.fetch_add(1, Relaxed);
        Some(Admitted {
            shared: Arc::clone(self),
            load: Arc::clone(load),
            counted,
        })
    }

    fn count(&self, host: IpAddr, most: usize) -> Option<IpAddr> {
        let mut by_address = self.by_address();
        let open = by_address.entry(host).or_default();
        (*open < most).then(|| {
            *open += 1;
            host
        })
    }

    fn discount(&self, host: IpAddr) {
        let mut by_address = self.by_address();
        if let Some(open) = by_address.get_mut(&host) {
            *open -= 1;
            if *open == 0 {
                by_address.remove(&host);
            }
        }
    }

    fn by_address(&self) -> MutexGuard<'_, HashMap<IpAddr, usize>> {
        self.by_address
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// What counts as one address. A host with IPv6 has a whole /64 to come from.
fn host(peer: IpAddr) -> IpAddr {
    match peer.to_canonical() {
        IpAddr::V6(address) => {
            let network = address.to_bits() >> 64 << 64;
            Ipv6Addr::from_bits(network).into()
        }
        address @ IpAddr::V4(_) => address,
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
    counted: Option<IpAddr>,
}

impl Drop for Admitted {
    fn drop(&mut self) {
        self.shared.connections.fetch_sub(1, Relaxed);
        self.load.connections.fetch_sub(1, Relaxed);
        if let Some(host) = self.counted {
            self.shared.discount(host);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_one_address_or_one_network_of_ipv6() {
        let host = |text: &str| host(text.parse().unwrap());

        assert_eq!(host("10.0.0.1"), host("::ffff:10.0.0.1"));
        assert_ne!(host("10.0.0.1"), host("10.0.0.2"));
        assert_eq!(host("2001:db8::1"), host("2001:db8::2:3:4:5"));
        assert_ne!(host("2001:db8::1"), host("2001:db8:0:1::1"));
    }
}
