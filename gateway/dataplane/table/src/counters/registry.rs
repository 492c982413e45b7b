//! Where the series of all threads are known, and what became of those that ended.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use super::read::{Counters, EjectedCounters, SeriesTotals, Sums, VersionTotals};
use super::series::{Series, VersionSeries};
use super::thread::ThreadTotals;
use crate::cell::{ArmCell, ModelCell, SeriesCell, VersionCell};
use crate::model::{Model, Version};
use crate::table::Backend;

/// Most ended series whose numbers are kept, of each kind.
pub(crate) const FORMER: usize = 10_000;

#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Labels {
    pub(crate) model: Box<str>,
    pub(crate) version: Box<str>,
    pub(crate) arm: Box<str>,
}

impl Labels {
    pub(crate) fn new(model: &str, version: &str, arm: &str) -> Self {
        Self {
            model: model.into(),
            version: version.into(),
            arm: arm.into(),
        }
    }
}

/// What keeps a series alive.
#[derive(Debug)]
pub(crate) enum Owner {
    Model(Weak<ModelCell>),
    Version(Weak<VersionCell>),
    Arm(Weak<ArmCell>),
    Process,
}

impl Owner {
    fn is_gone(&self) -> bool {
        match self {
            Self::Model(cell) => cell.strong_count() == 0,
            Self::Version(cell) => cell.strong_count() == 0,
            Self::Arm(cell) => cell.strong_count() == 0,
            Self::Process => false,
        }
    }

    /// The version that owns the series, while it is in a table.
    pub(crate) fn version(&self) -> Option<Arc<VersionCell>> {
        match self {
            Self::Version(cell) => cell.upgrade(),
            _ => None,
        }
    }
}

/// A series in all threads that count it.
#[derive(Debug)]
pub(crate) struct Entry<S> {
    pub(crate) labels: Arc<Labels>,
    pub(crate) owner: Owner,
    pub(crate) threads: Vec<Arc<S>>,
}

impl<S> Entry<S> {
    /// Nobody can count it any more: its cell is gone, and nobody but us and the one thread that
    /// made it holds it.
    fn is_over(&self) -> bool {
        self.owner.is_gone()
            && self
                .threads
                .iter()
                .all(|series| Arc::strong_count(series) <= 2)
    }
}

/// All series of one kind. A place is used again after its series ended, under a new generation: a
/// thread that still remembers the old series there sees that the number differs.
#[derive(Debug)]
pub(crate) struct Family<S> {
    places: Vec<(u32, Option<Entry<S>>)>,
    free: Vec<u32>,
}

impl<S> Default for Family<S> {
    fn default() -> Self {
        Self {
            places: Vec::new(),
            free: Vec::new(),
        }
    }
}

impl<S: Default> Family<S> {
    fn register(&mut self, cell: &SeriesCell, owner: Owner, labels: Labels) -> (u64, Arc<S>) {
        let series = Arc::new(S::default());
        let id = cell.id();
        if id != 0 {
            let at = (id as u32 - 1) as usize;
            if let Some((_, Some(entry))) = self.places.get_mut(at) {
                entry.threads.push(Arc::clone(&series));
                return (id, series);
            }
        }
        let entry = Entry {
            labels: Arc::new(labels),
            owner,
            threads: vec![Arc::clone(&series)],
        };
        let id = self.place(entry);
        cell.set(id);
        (id, series)
    }

    fn place(&mut self, entry: Entry<S>) -> u64 {
        let at = self.free.pop().unwrap_or_else(|| {
            self.places.push((0, None));
            self.places.len() as u32 - 1
        });
        let place = &mut self.places[at as usize];
        place.0 = place.0.wrapping_add(1);
        place.1 = Some(entry);
        u64::from(place.0) << 32 | u64::from(at + 1)
    }

    /// Show the entries at some places; what is over is taken out and shown as such. False at the end.
    pub(crate) fn visit(
        &mut self,
        places: std::ops::Range<usize>,
        mut live: impl FnMut(&Entry<S>),
        mut over: impl FnMut(&Entry<S>),
    ) -> bool {
        let end = places.end.min(self.places.len());
        for at in places.start..end {
            let entry = &mut self.places[at].1;
            if entry.as_ref().is_some_and(Entry::is_over) {
                if let Some(ended) = entry.take() {
                    over(&ended);
                }
                self.free.push(at as u32);
            } else if let Some(entry) = entry {
                live(entry);
            }
        }
        end < self.places.len()
    }
}

/// The numbers of ended series, the oldest given up first.
#[derive(Debug)]
pub(crate) struct Former<T> {
    totals: HashMap<Arc<Labels>, T>,
    order: VecDeque<Arc<Labels>>,
}

impl<T> Default for Former<T> {
    fn default() -> Self {
        Self {
            totals: HashMap::new(),
            order: VecDeque::new(),
        }
    }
}

impl<T: Default> Former<T> {
    pub(crate) fn of(&mut self, labels: &Arc<Labels>) -> &mut T {
        if !self.totals.contains_key(labels) {
            if self.order.len() >= FORMER {
                if let Some(oldest) = self.order.pop_front() {
                    self.totals.remove(&oldest);
                }
            }
            self.order.push_back(Arc::clone(labels));
        }
        self.totals.entry(Arc::clone(labels)).or_default()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&Arc<Labels>, &T)> {
        self.totals.iter()
    }
}

#[derive(Debug, Default)]
struct Inner {
    series: Family<Series>,
    versions: Family<VersionSeries>,
    threads: Vec<Arc<ThreadTotals>>,
}

/// The numbers of ended series; locked for a whole reading, so that there is one at a time.
#[derive(Debug, Default)]
struct Ended {
    series: Former<SeriesTotals>,
    versions: Former<VersionTotals>,
}

/// Places that are read while the lock is held: registering waits for these at most.
const AT_ONCE: usize = 512;

/// Shared by all threads. Its lock is taken to register a series, and in short pieces to read.
#[derive(Debug, Default)]
pub(crate) struct Registry {
    inner: Mutex<Inner>,
    ended: Mutex<Ended>,
    ejected: Mutex<Vec<EjectedEntry>>,
}

/// A backend that was passed over when it was noted here; its version's cell tells whether it still is.
#[derive(Debug)]
struct EjectedEntry {
    labels: Labels,
    backend: (u32, Box<str>),
    cell: Weak<VersionCell>,
}

impl EjectedEntry {
    fn is_of(&self, cell: &Arc<VersionCell>, backend: &Backend) -> bool {
        self.backend.0 == backend.id && std::ptr::eq(self.cell.as_ptr(), Arc::as_ptr(cell))
    }

    fn read(&self, now: Instant) -> Option<EjectedCounters> {
        let ejected = self.cell.upgrade()?.health.ejected(self.backend.0)?;
        let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        Some(EjectedCounters {
            model: self.labels.model.to_string(),
            version: self.labels.version.to_string(),
            backend: self.backend.1.to_string(),
            reason: ejected.reason.to_string(),
            since_ms: millis(now.saturating_duration_since(ejected.since)),
            retry_ms: millis(ejected.until.saturating_duration_since(now)),
        })
    }
}

impl Registry {
    /// Remember that a backend is passed over for a version, to be shown while it is.
    pub(crate) fn note_ejected(&self, model: &Model, version: &Version, backend: &Backend) {
        let now = Instant::now();
        let mut ejected = lock(&self.ejected);
        ejected.retain(|entry| entry.read(now).is_some() && !entry.is_of(&version.cell, backend));
        ejected.push(EjectedEntry {
            labels: Labels::new(&model.name, &version.id, ""),
            backend: (backend.id, backend.name.clone()),
            cell: Arc::downgrade(&version.cell),
        });
    }

    fn read_ejected(&self) -> Vec<EjectedCounters> {
        let now = Instant::now();
        let mut read = Vec::new();
        lock(&self.ejected).retain(|entry| {
            let shown = entry.read(now);
            let stays = shown.is_some();
            read.extend(shown);
            stays
        });
        let key =
            |one: &EjectedCounters| (one.model.clone(), one.version.clone(), one.backend.clone());
        read.sort_unstable_by_key(key);
        read
    }

    pub(crate) fn series(
        &self,
        cell: &SeriesCell,
        owner: Owner,
        labels: Labels,
    ) -> (u64, Arc<Series>) {
        lock(&self.inner).series.register(cell, owner, labels)
    }

    pub(crate) fn series_for_ever(&self, labels: Labels) -> Arc<Series> {
        self.series(&SeriesCell::default(), Owner::Process, labels)
            .1
    }

    pub(crate) fn version(
        &self,
        cell: &SeriesCell,
        owner: Owner,
        labels: Labels,
    ) -> (u64, Arc<VersionSeries>) {
        lock(&self.inner).versions.register(cell, owner, labels)
    }

    pub(crate) fn thread(&self) -> Arc<ThreadTotals> {
        let totals = Arc::new(ThreadTotals::default());
        lock(&self.inner).threads.push(Arc::clone(&totals));
        totals
    }

    /// The sums over all threads, by label.
    pub(crate) fn read(&self) -> Counters {
        let mut ended = lock(&self.ended);
        let mut sums = Sums::default();
        for start in (0..).step_by(AT_ONCE) {
            let live = |entry: &Entry<Series>| sums.series(&entry.labels).add(entry);
            let over = |entry: &Entry<Series>| ended.series.of(&entry.labels).add(entry);
            if !lock(&self.inner)
                .series
                .visit(start..start + AT_ONCE, live, over)
            {
                break;
            }
        }
        for start in (0..).step_by(AT_ONCE) {
            let live = |entry: &Entry<VersionSeries>| sums.version(&entry.labels).add(entry);
            let over = |entry: &Entry<VersionSeries>| ended.versions.of(&entry.labels).add(entry);
            if !lock(&self.inner)
                .versions
                .visit(start..start + AT_ONCE, live, over)
            {
                break;
            }
        }
        for (labels, totals) in ended.series.iter() {
            sums.series(labels).add_totals(totals);
        }
        for (labels, totals) in ended.versions.iter() {
            sums.version(labels).add_totals(totals);
        }
        let threads = lock(&self.inner).threads.clone();
        let mut counters = sums.counters(&threads);
        counters.ejected = self.read_ejected();
        counters
    }
}

/// Nothing under these locks is left half done by a panic: numbers may miss one request at most.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
