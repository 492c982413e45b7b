//! What one thread counts with.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::Arc;
use std::time::Instant;

use super::histogram::{add, Histogram};
use super::latency::Latency;
use super::registry::{Labels, Owner, Registry};
use super::series::{RetryReason, Series, VersionSeries};
use super::UNKNOWN_MODEL;
use crate::cell::{SeriesCell, Waiting};
use crate::model::{Model, Shadow, Version};
use crate::pick::{Pick, PickError};
use crate::table::Backend;
use crate::PINNED;

/// Numbers of a whole thread.
#[derive(Debug, Default)]
pub struct ThreadTotals {
    connections_opened: AtomicU64,
    connections_closed: AtomicU64,
    events_dropped: AtomicU64,
    messages_received: AtomicU64,
    messages_sent: AtomicU64,
    sequences_forgotten: AtomicU64,
}

impl ThreadTotals {
    /// A client connection was accepted.
    pub fn connection_opened(&self) {
        add(&self.connections_opened, 1);
    }

    /// A client connection ended.
    pub fn connection_closed(&self) {
        add(&self.connections_closed, 1);
    }

    /// An event could not be kept for the control plane.
    pub fn event_dropped(&self) {
        add(&self.events_dropped, 1);
    }

    /// A message of a client stream arrived.
    pub fn message_received(&self) {
        add(&self.messages_received, 1);
    }

    /// A message of a stream was sent to a client.
    pub fn message_sent(&self) {
        add(&self.messages_sent, 1);
    }

    /// An idle sequence was forgotten before its time, for want of room.
    pub fn sequence_forgotten(&self) {
        add(&self.sequences_forgotten, 1);
    }

    pub(crate) fn sequences_forgotten(&self) -> u64 {
        self.sequences_forgotten.load(Relaxed)
    }

    pub(crate) fn connections(&self) -> i64 {
        let closed = self.connections_closed.load(Relaxed);
        self.connections_opened
            .load(Relaxed)
            .wrapping_sub(closed)
            .cast_signed()
    }

    pub(crate) fn events_dropped(&self) -> u64 {
        self.events_dropped.load(Relaxed)
    }

    pub(crate) fn messages(&self) -> (u64, u64) {
        (
            self.messages_received.load(Relaxed),
            self.messages_sent.load(Relaxed),
        )
    }
}

/// A series at its place; the id is 0 where this thread has none.
#[derive(Debug)]
struct Known {
    id: u64,
    series: Arc<Series>,
}

#[derive(Debug)]
struct KnownVersion {
    id: u64,
    series: Arc<VersionSeries>,
    backends: Vec<KnownBackend>,
}

#[derive(Debug)]
struct KnownBackend {
    id: u32,
    time: Arc<Histogram>,
    latency: Latency,
}

/// The counters of one thread; made by [`crate::Published::thread_counters`].
#[derive(Debug)]
pub struct ThreadCounters {
    registry: Arc<Registry>,
    totals: Arc<ThreadTotals>,
    unknown: Option<Arc<Series>>,
    series: Vec<Known>,
    versions: Vec<KnownVersion>,
    // What stands at places that this thread never counted; one for all of them.
    blank: (Arc<Series>, Arc<VersionSeries>),
}

/// A cell's number is its place (from 1) below its generation, see the registry.
fn place(id: u64) -> usize {
    (id as u32 as usize).wrapping_sub(1)
}

impl ThreadCounters {
    pub(crate) fn new(registry: &Arc<Registry>) -> Self {
        Self {
            totals: registry.thread(),
            registry: Arc::clone(registry),
            unknown: None,
            series: Vec::new(),
            versions: Vec::new(),
            blank: <_>::default(),
        }
    }

    /// Numbers of the whole thread.
    #[must_use]
    pub fn totals(&self) -> &Arc<ThreadTotals> {
        &self.totals
    }

    /// The series of a picked version and arm.
    pub fn series(&mut self, pick: &Pick<'_>) -> &Arc<Series> {
        let (model, version) = (pick.model, pick.version);
        match pick.arm {
            Some(arm) => self.find(
                &arm.cell.series,
                || Owner::Arm(Arc::downgrade(&arm.cell)),
                || Labels::new(&model.name, &version.id, &arm.name),
            ),
            None => self.find(
                &version.cell.pinned,
                || Owner::Version(Arc::downgrade(&version.cell)),
                || Labels::new(&model.name, &version.id, PINNED),
            ),
        }
    }

    /// The series of a shadow; its name stands in the place of an arm's.
    pub fn shadow(&mut self, model: &Model, shadow: &Shadow) -> &Arc<Series> {
        self.find(
            &shadow.cell.series,
            || Owner::Arm(Arc::downgrade(&shadow.cell)),
            || Labels::new(&model.name, &model.shadow_version(shadow).id, &shadow.name),
        )
    }

    /// The series of a refused request: of its model without version and arm, or of `_unknown`.
    pub fn refused(&mut self, error: &PickError) -> &Arc<Series> {
        match &error.model {
            Some(model) => self.find(
                &model.cell.refused,
                || Owner::Model(Arc::downgrade(&model.cell)),
                || Labels::new(&model.name, "", ""),
            ),
            None => self.unknown(),
        }
    }

    /// The series of requests that name no model we have.
    pub fn unknown(&mut self) -> &Arc<Series> {
        let registry = &self.registry;
        self.unknown
            .get_or_insert_with(|| registry.series_for_ever(Labels::new(UNKNOWN_MODEL, "", "")))
    }

    /// A backend took that long to answer a request of a version.
    pub fn answered(
        &mut self,
        model: &Model,
        version: &Version,
        backend: &Backend,
        (micros, now): (u64, Instant),
    ) {
        let known = self.backend(model, version, backend);
        known.time.record(micros);
        // With one backend there is no choice that this could serve.
        if version.backends.len() > 1 {
            known.latency.note(micros, now);
        }
    }

    /// How long a backend takes for a version of late, in microseconds; `None` where this thread does
    /// not know.
    #[must_use]
    pub fn latency(&self, version: &Version, backend: u32, now: Instant) -> Option<u64> {
        let id = version.cell.usage.id();
        let known = self
            .versions
            .get(place(id))
            .filter(|known| known.id == id)?;
        let backend = known.backends.iter().find(|known| known.id == backend)?;
        backend.latency.micros(now)
    }

    /// A request of a version is sent to a backend once more.
    pub fn retried(&mut self, model: &Model, version: &Version, reason: RetryReason) {
        self.version(model, version).series.retried(reason);
    }

    /// A backend is passed over for a version from now on; shown for as long as it is.
    pub fn note_ejected(&self, model: &Model, version: &Version, backend: &Backend) {
        self.registry.note_ejected(model, version, backend);
    }

    fn backend(
        &mut self,
        model: &Model,
        version: &Version,
        backend: &Backend,
    ) -> &mut KnownBackend {
        let known = self.version(model, version);
        let found = known
            .backends
            .iter()
            .position(|known| known.id == backend.id);
        let at = found.unwrap_or_else(|| {
            known.backends.push(KnownBackend {
                id: backend.id,
                time: known.series.backend(&backend.name),
                latency: Latency::default(),
            });
            known.backends.len() - 1
        });
        &mut known.backends[at]
    }

    /// A place in the queue for a cold version; `None` where `limit` requests of the model wait.
    ///
    /// It must be dropped on this thread, which counts the time waited.
    pub fn wait(&mut self, pick: &Pick<'_>, limit: u32) -> Option<Waiting> {
        let series = Arc::clone(&self.version(pick.model, pick.version).series);
        Waiting::enter(&pick.model.cell, &pick.version.cell, series, limit)
    }

    /// What is counted by version, whatever the arm. To be written on this thread only.
    pub fn of_version(&mut self, model: &Model, version: &Version) -> &VersionSeries {
        &self.version(model, version).series
    }

    fn find(
        &mut self,
        cell: &SeriesCell,
        owner: impl FnOnce() -> Owner,
        labels: impl FnOnce() -> Labels,
    ) -> &Arc<Series> {
        let mut at = place(cell.id());
        if self
            .series
            .get(at)
            .is_none_or(|known| known.id != cell.id())
        {
            let (id, series) = self.registry.series(cell, owner(), labels());
            at = place(id);
            if self.series.len() <= at {
                let blank = || Known {
                    id: 0,
                    series: Arc::clone(&self.blank.0),
                };
                self.series.resize_with(at + 1, blank);
            }
            self.series[at] = Known { id, series };
        }
        &self.series[at].series
    }

    fn version(&mut self, model: &Model, version: &Version) -> &mut KnownVersion {
        let cell = &version.cell.usage;
        let mut at = place(cell.id());
        if self
            .versions
            .get(at)
            .is_none_or(|known| known.id != cell.id())
        {
            let owner = Owner::Version(Arc::downgrade(&version.cell));
            let labels = Labels::new(&model.name, &version.id, "");
            let (id, series) = self.registry.version(cell, owner, labels);
            at = place(id);
            if self.versions.len() <= at {
                let blank = || Arc::clone(&self.blank.1);
                let blank = || KnownVersion {
                    id: 0,
                    series: blank(),
                    backends: Vec::new(),
                };
                self.versions.resize_with(at + 1, blank);
            }
            self.versions[at] = KnownVersion {
                id,
                series,
                backends: Vec::new(),
            };
        }
        &mut self.versions[at]
    }
}
