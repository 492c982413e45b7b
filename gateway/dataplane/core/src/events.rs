//! What the data plane tells the control plane: a bounded queue and a file descriptor that wakes it.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::event::{eventfd, EventfdFlags};
use stagegate_table::counters::ThreadTotals;

use crate::webhooks;

/// Events that wait for the control plane at most; what comes on top is counted and dropped.
pub const CAPACITY: usize = 4096;

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EventKind {
    /// A request wants a version that is not loaded.
    Cold,
    /// A backend cannot be connected to.
    BackendDown,
    /// A backend that was down is connected again.
    BackendUp,
    /// A backend is passed over for one version, because it failed again and again.
    Ejected,
    /// A backend that was passed over for a version answers again.
    Recovered,
    /// A registry posted a notice.
    Webhook,
}

impl EventKind {
    /// Its name on the Python side.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Cold => "cold",
            Self::BackendDown => "backend_down",
            Self::BackendUp => "backend_up",
            Self::Ejected => "ejected",
            Self::Recovered => "recovered",
            Self::Webhook => "webhook",
        }
    }
}

/// One event; fields that its kind does not use are empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// What happened.
    pub kind: EventKind,
    /// Logical model, for events of a version.
    pub model: String,
    /// Concrete version, for events of a version.
    pub version: String,
    /// Backend by name, for events of a backend.
    pub backend: String,
    /// Why, in words.
    pub detail: String,
    /// Of a notice, see [`Webhooks::take`](crate::Webhooks::take).
    pub id: u64,
}

impl Event {
    fn new(kind: EventKind) -> Self {
        let (model, version, backend, detail, id) = <_>::default();
        Self {
            kind,
            model,
            version,
            backend,
            detail,
            id,
        }
    }
}

/// The queue, shared by all worker threads.
#[derive(Debug)]
pub struct Events {
    queue: Mutex<VecDeque<Event>>,
    /// Backends that are down, so that threads that notice the same thing tell it once.
    down: Mutex<HashMap<String, bool>>,
    ready: OwnedFd,
}

impl Events {
    /// An empty queue.
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self {
            queue: Mutex::default(),
            down: Mutex::default(),
            ready: eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC)?,
        })
    }

    /// The descriptor that becomes readable when there are events.
    #[must_use]
    pub fn fd(&self) -> RawFd {
        self.ready.as_fd().as_raw_fd()
    }

    /// Take all events and make the descriptor quiet.
    #[must_use]
    pub fn drain(&self) -> Vec<Event> {
        // An error means that it was quiet already.
        let _ = rustix::io::read(&self.ready, &mut [0u8; 8]);
        lock(&self.queue).drain(..).collect()
    }

    fn forget_backend(&self, name: &str) {
        lock(&self.down).remove(name);
    }

    /// Note the state of a backend; whether that is news.
    fn is_news(&self, name: &str, is_down: bool) -> bool {
        let mut down = lock(&self.down);
        if down.get(name).copied().unwrap_or(false) == is_down {
            return false;
        }
        down.insert(name.to_owned(), is_down);
        true
    }

    /// Queue an event; false where there is no room, or where `most` of its kind are there.
    fn push(&self, event: Event, most: usize) -> bool {
        {
            let mut queue = lock(&self.queue);
            let same = |other: &&Event| other.kind == event.kind;
            let is_full = most < CAPACITY && queue.iter().filter(same).count() >= most;
            if is_full || queue.len() >= CAPACITY {
                return false;
            }
            queue.push_back(event);
        }
        // Fails only where the counter is at its end, and then the descriptor is readable anyway.
        let _ = rustix::io::write(&self.ready, &1u64.to_ne_bytes());
        true
    }
}

/// One thread's way to the queue.
#[derive(Debug, Clone)]
pub(crate) struct Teller {
    events: Arc<Events>,
    totals: Arc<ThreadTotals>,
}

impl Teller {
    pub(crate) fn new(events: &Arc<Events>, totals: &Arc<ThreadTotals>) -> Self {
        Self {
            events: Arc::clone(events),
            totals: Arc::clone(totals),
        }
    }

    /// Ask for a load; false where the event could not be kept.
    pub(crate) fn cold(&self, model: &str, version: &str) -> bool {
        self.tell(Event {
            model: model.to_owned(),
            version: version.to_owned(),
            ..Event::new(EventKind::Cold)
        })
    }

    /// Tell that a notice waits for an answer; false where the event could not be kept. Whoever posts
    /// notices and goes away is to take no place of other events.
    pub(crate) fn webhook(&self, id: u64) -> bool {
        let event = Event::new(EventKind::Webhook);
        self.events.push(Event { id, ..event }, webhooks::MOST)
    }

    /// Tell that a backend went down or came up, unless that was told already.
    pub(crate) fn backend(&self, name: &str, is_down: bool, detail: &str) {
        if self.events.is_news(name, is_down) {
            let kind = if is_down {
                EventKind::BackendDown
            } else {
                EventKind::BackendUp
            };
            self.tell(Event {
                backend: name.to_owned(),
                detail: detail.to_owned(),
                ..Event::new(kind)
            });
        }
    }

    /// Tell that a backend is passed over for a version; names are those of model, version and backend.
    pub(crate) fn ejected(&self, names: (&str, &str, &str), reason: &str) {
        self.copy(EventKind::Ejected, names, reason);
    }

    /// Tell that a backend which was passed over answers again.
    pub(crate) fn recovered(&self, names: (&str, &str, &str)) {
        self.copy(EventKind::Recovered, names, "");
    }

    fn copy(&self, kind: EventKind, (model, version, backend): (&str, &str, &str), detail: &str) {
        self.tell(Event {
            model: model.to_owned(),
            version: version.to_owned(),
            backend: backend.to_owned(),
            detail: detail.to_owned(),
            ..Event::new(kind)
        });
    }

    /// Forget what was told of a backend that is gone from the table.
    pub(crate) fn forget_backend(&self, name: &str) {
        self.events.forget_backend(name);
    }

    fn tell(&self, event: Event) -> bool {
        let kept = self.events.push(event, CAPACITY);
        if !kept {
            self.totals.event_dropped();
        }
        kept
    }
}

/// These maps stay consistent whatever panics, so a poisoned lock is as good as any.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn teller() -> (Arc<Events>, Teller) {
        let events = Arc::new(Events::new().unwrap());
        let teller = Teller::new(&events, &Arc::default());
        (events, teller)
    }

    #[test]
    fn a_backend_is_told_down_and_up_once_per_change() {
        let (events, teller) = teller();

        teller.backend("t0", false, "");
        teller.backend("t0", true, "refused");
        teller.backend("t0", true, "refused again");
        teller.backend("t0", false, "");

        let kinds: Vec<_> = events.drain().into_iter().map(|event| event.kind).collect();
        assert_eq!(vec![EventKind::BackendDown, EventKind::BackendUp], kinds);
    }

    #[test]
    fn events_beyond_the_capacity_are_refused() {
        let (events, teller) = teller();
        for _ in 0..CAPACITY {
            assert!(teller.cold("m", "1"));
        }

        assert!(!teller.cold("m", "1"));
        assert_eq!(CAPACITY, events.drain().len());
    }

    #[test]
    fn notices_take_few_of_the_places() {
        let (events, teller) = teller();
        let told = (0..CAPACITY as u64)
            .filter(|id| teller.webhook(*id))
            .count();

        assert_eq!(webhooks::MOST, told);
        assert!(teller.cold("m", "1"));
        let _ = events.drain();
        assert!(teller.webhook(0));
    }

    #[test]
    fn the_descriptor_is_quiet_after_a_drain() {
        let (events, teller) = teller();
        teller.cold("m", "1");
        let _ = events.drain();

        let again = rustix::io::read(&events.ready, &mut [0u8; 8]);

        assert_eq!(Err(rustix::io::Errno::AGAIN), again.map(|_| ()));
    }
}
