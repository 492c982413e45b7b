//! What outlives one table: a model, version or arm that is published again keeps its cell, so that
//! requests which wait for a load are woken and counters go on.

use std::sync::atomic::{
    fence, AtomicBool, AtomicU32, AtomicU64,
    Ordering::{Relaxed, SeqCst},
};
use std::sync::Arc;
use std::time::Instant;

use once_cell::race::OnceBox;
use tokio::sync::futures::Notified;
use tokio::sync::Notify;

use crate::counters::VersionSeries;
use crate::gate::Gate;
use crate::health::Health;

/// Where the counters of one series are kept in every thread; empty until the first request.
#[derive(Debug, Default)]
pub struct SeriesCell(AtomicU64);

impl SeriesCell {
    /// 0 where there is no series yet.
    pub(crate) fn id(&self) -> u64 {
        self.0.load(Relaxed)
    }

    /// Only under the registry's lock.
    pub(crate) fn set(&self, id: u64) {
        self.0.store(id, Relaxed);
    }
}

/// Of a logical model.
#[derive(Debug, Default)]
pub struct ModelCell {
    waiting: AtomicU32,
    pub(crate) refused: SeriesCell,
}

impl ModelCell {
    /// Requests that wait for any version of this model to load.
    #[must_use]
    pub fn waiting(&self) -> u32 {
        self.waiting.load(Relaxed)
    }
}

/// Requests that wait for a version to load.
#[derive(Debug, Default)]
struct Cold {
    waiting: AtomicU32,
    wanted: AtomicBool,
    notify: Notify,
}

/// Of one version of a model.
#[derive(Debug, Default)]
pub struct VersionCell {
    /// Made when a request waits for the first time; most versions of most models never see one.
    cold: OnceBox<Cold>,
    /// How many of its requests are with its backends, and who waits to be next.
    pub gate: Gate,
    /// Which of its backends fail.
    pub health: Health,
    sequences: AtomicU32,
    pub(crate) pinned: SeriesCell,
    pub(crate) usage: SeriesCell,
}

impl VersionCell {
    /// Requests that wait for this version to load.
    #[must_use]
    pub fn waiting(&self) -> u32 {
        self.cold.get().map_or(0, |cold| cold.waiting.load(Relaxed))
    }

    /// Stateful sequences that have their state in this version.
    #[must_use]
    pub fn sequences(&self) -> u32 {
        self.sequences.load(Relaxed)
    }

    /// A sequence began on this version.
    pub fn sequence_opened(&self) {
        self.sequences.fetch_add(1, Relaxed);
    }

    /// A sequence that began on this version is over.
    pub fn sequence_closed(&self) {
        self.sequences.fetch_sub(1, Relaxed);
    }

    /// Completes at the next publish that touches the version.
    ///
    /// Call it (and `enable` it) before looking at the table again, else a publish in between is missed.
    pub fn changed(&self) -> Notified<'_> {
        let notified = self.cold().notify.notified();
        // Whoever publishes from now on sees that there is somebody to wake, or is seen here.
        fence(SeqCst);
        notified
    }

    /// The load that was wanted ended, one way or the other.
    pub(crate) fn settle(&self) {
        if let Some(cold) = self.cold.get() {
            cold.wanted.store(false, Relaxed);
        }
    }

    /// Let every request that waits for a change look again.
    pub fn wake(&self) {
        fence(SeqCst);
        if let Some(cold) = self.cold.get() {
            cold.notify.notify_waiters();
        }
    }

    fn cold(&self) -> &Cold {
        self.cold.get_or_init(Box::default)
    }
}

/// Of one arm of a split with the version that it names.
#[derive(Debug, Default)]
pub struct ArmCell {
    pub(crate) series: SeriesCell,
}

/// A request's place in the queue for a cold version; leaves it when dropped, and counts the time.
#[derive(Debug)]
pub struct Waiting {
    model: Arc<ModelCell>,
    version: Arc<VersionCell>,
    series: Arc<VersionSeries>,
    since: Instant,
    first: bool,
}

impl Waiting {
    /// Take a place, unless `limit` requests of the model wait already.
    pub(crate) fn enter(
        model: &Arc<ModelCell>,
        version: &Arc<VersionCell>,
        series: Arc<VersionSeries>,
        limit: u32,
    ) -> Option<Self> {
        let room = |waiting| (waiting < limit).then_some(waiting + 1);
        model.waiting.fetch_update(Relaxed, Relaxed, room).ok()?;
        let cold = version.cold();
        cold.waiting.fetch_add(1, Relaxed);
        let first = !cold.wanted.swap(true, Relaxed);
        let (model, version) = (Arc::clone(model), Arc::clone(version));
        Some(Self {
            model,
            version,
            series,
            since: Instant::now(),
            first,
        })
    }

    /// Whether this request is the one that must ask for the load.
    #[must_use]
    pub fn must_ask(&self) -> bool {
        self.first
    }

    /// The load could not be asked for: let the next request try.
    pub fn not_asked(&self) {
        self.version.settle();
    }

    /// The version's cell, to wait on.
    #[must_use]
    pub fn cell(&self) -> &Arc<VersionCell> {
        &self.version
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        // Nobody waits any more: whoever comes next asks again, in case the event got lost.
        if self.version.cold().waiting.fetch_sub(1, Relaxed) == 1 {
            self.version.settle();
        }
        self.model.waiting.fetch_sub(1, Relaxed);
        let micros = u64::try_from(self.since.elapsed().as_micros()).unwrap_or(u64::MAX);
        self.series.queue.record(micros);
    }
}
