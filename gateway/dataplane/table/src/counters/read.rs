//! The sums over all threads, as the control plane reads them.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::Ordering::Relaxed;
use std::sync::Arc;

use super::histogram::Buckets;
use super::registry::{Entry, Labels};
use super::series::{RetryReason, Series, VersionSeries, CODES};
use super::shadow::ShadowTotals;
use super::thread::ThreadTotals;
use crate::gate::{Reason, UNBOUNDED};

/// Requests of one (model, version, arm).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ArmCounters {
    /// Labels; version and arm are empty for requests that reached none.
    pub model: String,
    /// Concrete version id.
    pub version: String,
    /// The arm's name, or `pinned`.
    pub arm: String,
    /// Ended requests by gRPC status code.
    pub codes: [u64; CODES],
    /// Whole time in the gateway.
    pub time: Buckets,
    /// Requests that have begun and not ended.
    pub inflight: u64,
}

/// Time that one backend took for one version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackendCounters {
    /// Labels.
    pub model: String,
    /// Concrete version id.
    pub version: String,
    /// The backend's name.
    pub backend: String,
    /// From the request sent to the answer read.
    pub time: Buckets,
}

/// Requests that waited for one version: to be loaded, or for a place at its backends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueueCounters {
    /// Labels.
    pub model: String,
    /// Concrete version id.
    pub version: String,
    /// Time waited, by requests that wait no more.
    pub time: Buckets,
    /// Requests that wait for it to load.
    pub waiting: u64,
    /// Requests that wait for a place.
    pub queued: u64,
    /// Requests that were not admitted, in the order of [`Reason::ALL`].
    pub rejected: [u64; Reason::ALL.len()],
    /// Places there are now; 0 for no bound.
    pub limit: u64,
    /// Stateful sequences that are open on it now.
    pub sequences: u64,
}

/// Messages of streams of one (model, version, arm), and their times.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StreamCounters {
    /// Labels.
    pub model: String,
    /// Concrete version id.
    pub version: String,
    /// The arm's name, or `pinned`.
    pub arm: String,
    /// To the first answer.
    pub first: Buckets,
    /// Between answers.
    pub inter: Buckets,
    /// Request messages.
    pub requests: u64,
    /// Answers that are no errors.
    pub responses: u64,
    /// Answers that are errors.
    pub errors: u64,
}

/// Copies of one (model, version, shadow).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShadowCounters {
    /// Labels.
    pub model: String,
    /// Concrete version id of the shadow.
    pub version: String,
    /// The shadow's name.
    pub shadow: String,
    /// What became of sampled requests.
    pub totals: ShadowTotals,
}

/// Requests of one version that were sent to a backend once more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RetryCounters {
    /// Labels.
    pub model: String,
    /// Concrete version id.
    pub version: String,
    /// Why, in one word.
    pub reason: &'static str,
    /// How many.
    pub count: u64,
}

/// Requests that one arm failed and another answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FallbackCounters {
    /// Labels.
    pub model: String,
    /// Concrete version id.
    pub version: String,
    /// The arm that failed.
    pub arm: String,
    /// By the gRPC status code that it failed with.
    pub codes: [u64; CODES],
}

/// A backend that is passed over for one version now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EjectedCounters {
    /// Labels.
    pub model: String,
    /// Concrete version id.
    pub version: String,
    /// The backend's name.
    pub backend: String,
    /// What it did wrong last, in words.
    pub reason: String,
    /// For how many milliseconds it has been passed over.
    pub since_ms: u64,
    /// In how many milliseconds it is tried again; 0 where that is going on.
    pub retry_ms: u64,
}

/// All counters at one moment, each list by its labels.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Counters {
    /// Of the table that is served now.
    pub revision: u64,
    /// Requests.
    pub arms: Vec<ArmCounters>,
    /// Backend times.
    pub backends: Vec<BackendCounters>,
    /// Waits for cold loads.
    pub queues: Vec<QueueCounters>,
    /// Stream times.
    pub streams: Vec<StreamCounters>,
    /// Open client connections.
    pub connections: u64,
    /// Events that the control plane did not fetch in time.
    pub events_dropped: u64,
    /// Stream messages from clients.
    pub messages_received: u64,
    /// Stream messages to clients.
    pub messages_sent: u64,
    /// Copies to shadows. Those that were sent stand in `arms` too, under the shadow's name.
    pub shadows: Vec<ShadowCounters>,
    /// Requests that were sent once more.
    pub retries: Vec<RetryCounters>,
    /// Requests that another arm answered.
    pub fallbacks: Vec<FallbackCounters>,
    /// Backends that are passed over.
    pub ejected: Vec<EjectedCounters>,
    /// Idle sequences that were forgotten before their time, for want of room.
    pub sequences_forgotten: u64,
}

/// Sums of what [`Series`] knows of streams.
#[derive(Debug, Clone, Copy, Default)]
struct StreamTotals {
    first: Buckets,
    inter: Buckets,
    messages: [u64; 3],
}

impl StreamTotals {
    fn add(&mut self, other: &Self) {
        self.first.add(&other.first);
        self.inter.add(&other.inter);
        for (to, from) in self.messages.iter_mut().zip(other.messages) {
            *to = to.wrapping_add(from);
        }
    }
}

/// Sums of [`Series`].
#[derive(Debug, Clone, Default)]
pub(crate) struct SeriesTotals {
    codes: [u64; CODES],
    time: Buckets,
    inflight: i64,
    streams: Option<Box<StreamTotals>>,
    shadow: Option<Box<ShadowTotals>>,
    fallbacks: Option<Box<[u64; CODES]>>,
}

impl SeriesTotals {
    pub(crate) fn add(&mut self, entry: &Entry<Series>) {
        for series in &entry.threads {
            self.add_series(series);
        }
    }

    fn add_series(&mut self, series: &Series) {
        for (to, from) in self.codes.iter_mut().zip(&series.codes) {
            *to = to.wrapping_add(from.load(Relaxed));
        }
        self.time.add(&series.time.read());
        self.inflight += series.inflight();
        if let Some(streams) = series.streams.get() {
            self.add_streams(&StreamTotals {
                first: streams.first.read(),
                inter: streams.inter.read(),
                messages: streams.messages(),
            });
        }
        if let Some(shadow) = series.shadow.get() {
            self.add_shadow(&shadow.read());
        }
        if let Some(codes) = series.fallbacks.get() {
            self.add_fallbacks(&std::array::from_fn(|code| codes[code].load(Relaxed)));
        }
    }

    fn add_fallbacks(&mut self, codes: &[u64; CODES]) {
        let sums = self.fallbacks.get_or_insert_with(Box::default);
        add_all(&mut **sums, codes);
    }

    fn add_streams(&mut self, streams: &StreamTotals) {
        self.streams.get_or_insert_with(Box::default).add(streams);
    }

    fn add_shadow(&mut self, totals: &ShadowTotals) {
        self.shadow.get_or_insert_with(Box::default).add(totals);
    }

    pub(crate) fn add_totals(&mut self, other: &Self) {
        for (to, from) in self.codes.iter_mut().zip(other.codes) {
            *to = to.wrapping_add(from);
        }
        self.time.add(&other.time);
        if let Some(streams) = &other.streams {
            self.add_streams(streams);
        }
        if let Some(shadow) = &other.shadow {
            self.add_shadow(shadow);
        }
        if let Some(codes) = &other.fallbacks {
            self.add_fallbacks(codes);
        }
    }
}

fn add_all(to: &mut [u64], from: &[u64]) {
    for (to, from) in to.iter_mut().zip(from) {
        *to = to.wrapping_add(*from);
    }
}

/// Sums of [`VersionSeries`].
#[derive(Debug, Clone, Default)]
pub(crate) struct VersionTotals {
    queue: Buckets,
    waiting: u64,
    queued: u64,
    rejected: [u64; Reason::ALL.len()],
    limit: u64,
    retries: [u64; RetryReason::ALL.len()],
    sequences: u64,
    backends: BTreeMap<Box<str>, Buckets>,
}

impl VersionTotals {
    pub(crate) fn add(&mut self, entry: &Entry<VersionSeries>) {
        if let Some(cell) = entry.owner.version() {
            self.waiting += u64::from(cell.waiting());
            self.sequences += u64::from(cell.sequences());
            self.queued += u64::from(cell.gate.waiting());
            self.limit = match cell.gate.limit() {
                UNBOUNDED => 0,
                limit => u64::from(limit),
            };
        }
        for series in &entry.threads {
            self.add_series(series);
        }
    }

    fn add_series(&mut self, series: &VersionSeries) {
        self.queue.add(&series.queue.read());
        for (to, from) in self.rejected.iter_mut().zip(&series.rejected) {
            *to = to.wrapping_add(from.load(Relaxed));
        }
        let read = |at: usize| series.retries[at].load(Relaxed);
        let retries: [u64; RetryReason::ALL.len()] = std::array::from_fn(read);
        add_all(&mut self.retries, &retries);
        series.each_backend(|name, time| {
            self.backends
                .entry(name.into())
                .or_default()
                .add(&time.read());
        });
    }

    pub(crate) fn add_totals(&mut self, other: &Self) {
        self.queue.add(&other.queue);
        for (to, from) in self.rejected.iter_mut().zip(other.rejected) {
            *to = to.wrapping_add(from);
        }
        add_all(&mut self.retries, &other.retries);
        for (name, time) in &other.backends {
            self.backends.entry(name.clone()).or_default().add(time);
        }
    }
}

/// Sums by label.
#[derive(Debug, Default)]
pub(crate) struct Sums {
    series: HashMap<Arc<Labels>, SeriesTotals>,
    versions: HashMap<Arc<Labels>, VersionTotals>,
}

impl Sums {
    pub(crate) fn series(&mut self, labels: &Arc<Labels>) -> &mut SeriesTotals {
        self.series.entry(Arc::clone(labels)).or_default()
    }

    pub(crate) fn version(&mut self, labels: &Arc<Labels>) -> &mut VersionTotals {
        self.versions.entry(Arc::clone(labels)).or_default()
    }

    pub(crate) fn counters(self, threads: &[Arc<ThreadTotals>]) -> Counters {
        let mut counters = Counters::default();
        for (labels, totals) in sorted(self.series) {
            push_series(&mut counters, &labels, &totals);
        }
        for (labels, totals) in sorted(self.versions) {
            push_version(&mut counters, &labels, &totals);
        }
        let mut connections = 0;
        for thread in threads {
            let (received, sent) = thread.messages();
            connections += thread.connections();
            counters.events_dropped += thread.events_dropped();
            counters.messages_received += received;
            counters.messages_sent += sent;
            counters.sequences_forgotten += thread.sequences_forgotten();
        }
        counters.connections = u64::try_from(connections).unwrap_or(0);
        counters
    }
}

fn sorted<T>(sums: HashMap<Arc<Labels>, T>) -> Vec<(Arc<Labels>, T)> {
    let mut list: Vec<_> = sums.into_iter().collect();
    list.sort_unstable_by(|a, b| a.0.cmp(&b.0));
    list
}

fn push_series(counters: &mut Counters, labels: &Labels, totals: &SeriesTotals) {
    let (model, version, arm) = (
        labels.model.to_string(),
        labels.version.to_string(),
        labels.arm.to_string(),
    );
    if let Some(streams) = &totals.streams {
        counters.streams.push(StreamCounters {
            model: model.clone(),
            version: version.clone(),
            arm: arm.clone(),
            first: streams.first,
            inter: streams.inter,
            requests: streams.messages[0],
            responses: streams.messages[1],
            errors: streams.messages[2],
        });
    }
    if let Some(shadow) = &totals.shadow {
        counters.shadows.push(ShadowCounters {
            model: model.clone(),
            version: version.clone(),
            shadow: arm.clone(),
            totals: **shadow,
        });
    }
    if let Some(codes) = &totals.fallbacks {
        counters.fallbacks.push(FallbackCounters {
            model: model.clone(),
            version: version.clone(),
            arm: arm.clone(),
            codes: **codes,
        });
    }
    counters.arms.push(ArmCounters {
        model,
        version,
        arm,
        codes: totals.codes,
        time: totals.time,
        inflight: u64::try_from(totals.inflight).unwrap_or(0),
    });
}

fn push_version(counters: &mut Counters, labels: &Labels, totals: &VersionTotals) {
    for (backend, time) in &totals.backends {
        counters.backends.push(BackendCounters {
            model: labels.model.to_string(),
            version: labels.version.to_string(),
            backend: backend.to_string(),
            time: *time,
        });
    }
    for (reason, count) in RetryReason::ALL.into_iter().zip(totals.retries) {
        if count > 0 {
            counters.retries.push(RetryCounters {
                model: labels.model.to_string(),
                version: labels.version.to_string(),
                reason: reason.word(),
                count,
            });
        }
    }
    let waits = totals.waiting + totals.queued + totals.sequences;
    let rejected: u64 = totals.rejected.iter().sum();
    if totals.queue.count() + waits + rejected > 0 {
        counters.queues.push(QueueCounters {
            model: labels.model.to_string(),
            version: labels.version.to_string(),
            time: totals.queue,
            waiting: totals.waiting,
            queued: totals.queued,
            rejected: totals.rejected,
            limit: totals.limit,
            sequences: totals.sequences,
        });
    }
}
