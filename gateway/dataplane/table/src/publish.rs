//! The shared handle: tables go in here, every thread reads from it.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arc_swap::{ArcSwap, Cache};

use crate::backends::{self, ByName};
use crate::build;
use crate::counters::{Counters, Registry, ThreadCounters};
use crate::model::{Model, State};
use crate::spec::{Delta, ModelSpec, Snapshot};
use crate::table::{shard_of, Shard, Table, SHARDS};
use crate::TableError;

/// The table that is served now, and the way to the next one.
///
/// Readers never wait for a publisher. A table that contradicts itself is refused as a whole.
#[derive(Debug)]
pub struct Published {
    current: Arc<ArcSwap<Table>>,
    writer: Mutex<Writer>,
    registry: Arc<Registry>,
}

/// What only a publisher needs.
#[derive(Debug, Default)]
struct Writer {
    backends: ByName,
    last_backend: u32,
    /// How many versions name a backend, by id: a backend in use cannot be dropped.
    used: HashMap<u32, u64>,
    /// Former tables. Kept until no reader holds them, so that a thread which serves requests is
    /// never the last owner and never frees a large table.
    former: Vec<Arc<Table>>,
}

/// Changes of [`Writer::used`], not yet applied.
type Uses = HashMap<u32, i64>;

impl Published {
    /// An empty table of revision 0.
    #[must_use]
    pub fn new() -> Arc<Self> {
        Arc::new(Self {
            current: Arc::new(ArcSwap::from_pointee(Table::empty())),
            writer: Mutex::default(),
            registry: Arc::default(),
        })
    }

    /// Replace the whole table.
    ///
    /// # Errors
    /// The snapshot contradicts itself; the old table stays.
    pub fn publish(&self, snapshot: Snapshot) -> Result<(), TableError> {
        let mut writer = self.writer();
        let old = self.current.load_full();
        let kept: HashSet<&str> = snapshot.backends.iter().map(|b| b.name.as_str()).collect();
        let names = writer.backends.keys().map(ToString::to_string);
        let drop: Vec<String> = names.filter(|name| !kept.contains(name.as_str())).collect();
        let mut last = writer.last_backend;
        let backends = backends::change(&writer.backends, snapshot.backends, &drop, &mut last)?;

        let mut uses = Uses::new();
        let mut shards = vec![Shard::new(); SHARDS];
        let len = snapshot.models.len();
        let mut put = Vec::with_capacity(len);
        for spec in snapshot.models {
            let model = build(spec, &backends, &old)?;
            count(&mut uses, &model, 1);
            let hash = old.hash(model.name.as_bytes());
            let shard = &mut shards[shard_of(hash)];
            if shard.find(hash, |other| other.name == model.name).is_some() {
                return Err(TableError(format!("model {:?} is given twice", model.name)));
            }
            put.push(Arc::clone(&model));
            insert(shard, hash, model, &old);
        }
        let gone = old.models().cloned().collect();
        let empty = Arc::new(Shard::new());
        let share = |shard: Shard| {
            if shard.is_empty() {
                Arc::clone(&empty)
            } else {
                Arc::new(shard)
            }
        };
        let next = Table {
            revision: snapshot.revision,
            len,
            shards: shards.into_iter().map(share).collect(),
            backends: backends::by_id(&backends),
            hasher: old.hasher.clone(),
        };
        writer.last_backend = last;
        writer.used.clear();
        self.commit(&mut writer, next, backends, &uses, &Touched { put, gone });
        Ok(())
    }

    /// Replace and drop some models and backends. Costs the same however large the table is.
    ///
    /// # Errors
    /// The delta does not fit the current revision, or contradicts itself or the table; the old table
    /// stays.
    pub fn publish_delta(&self, delta: Delta) -> Result<(), TableError> {
        let mut writer = self.writer();
        let old = self.current.load_full();
        check_revisions(&old, &delta)?;
        let mut last = writer.last_backend;
        let backends = backends::change(
            &writer.backends,
            delta.put_backends,
            &delta.drop_backends,
            &mut last,
        )?;

        let mut change = ModelChange::new(&old);
        for name in &delta.drop_models {
            change.drop(name)?;
        }
        for spec in delta.put_models {
            change.put(build(spec, &backends, &old)?)?;
        }
        for name in &delta.drop_backends {
            let id = writer
                .backends
                .get(name.as_str())
                .map_or(0, |backend| backend.id);
            let left = writer.used.get(&id).copied().unwrap_or(0).cast_signed()
                + change.uses.get(&id).copied().unwrap_or(0);
            if left > 0 {
                return Err(TableError(format!(
                    "backend {name:?} cannot be dropped: {left} versions still name it"
                )));
            }
        }
        let same_backends = delta.drop_backends.is_empty() && backends == writer.backends;
        let next = Table {
            revision: delta.revision,
            len: change.len,
            shards: change.shards,
            backends: if same_backends {
                Arc::clone(&old.backends)
            } else {
                backends::by_id(&backends)
            },
            hasher: old.hasher.clone(),
        };
        writer.last_backend = last;
        self.commit(&mut writer, next, backends, &change.uses, &change.touched);
        Ok(())
    }

    /// The table that is served now. Threads that serve requests have a [`Reader`] instead.
    #[must_use]
    pub fn load(&self) -> Arc<Table> {
        self.current.load_full()
    }

    /// A reader for one thread.
    #[must_use]
    pub fn reader(&self) -> Reader {
        Reader {
            cache: Cache::new(Arc::clone(&self.current)),
        }
    }

    /// Counters for one thread, which alone may count with them.
    #[must_use]
    pub fn thread_counters(&self) -> ThreadCounters {
        ThreadCounters::new(&self.registry)
    }

    /// All counters, over all threads. Also frees what no reader holds any more.
    #[must_use]
    pub fn counters(&self) -> Counters {
        let former = self.writer().take_unread();
        drop(former);
        let mut counters = self.registry.read();
        counters.revision = self.current.load().revision;
        counters
    }

    fn commit(
        &self,
        writer: &mut Writer,
        next: Table,
        backends: ByName,
        uses: &Uses,
        touched: &Touched,
    ) {
        writer.apply(uses);
        writer.backends = backends;
        let old = self.current.swap(Arc::new(next));
        writer.former.push(old);
        drop(writer.take_unread());
        touched.wake();
    }

    fn writer(&self) -> MutexGuard<'_, Writer> {
        // A publisher that panicked left the writer as it was before its commit.
        self.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Models that a change put in or took away, also those that it replaced.
#[derive(Debug, Default)]
struct Touched {
    put: Vec<Arc<Model>>,
    gone: Vec<Arc<Model>>,
}

impl Touched {
    /// Let every request that waits look at the table again.
    fn wake(&self) {
        for version in self.put.iter().flat_map(|model| &model.versions) {
            // What is no longer cold can be asked for anew when it turns cold again.
            if version.state != State::Cold {
                version.cell.settle();
            }
            // Of one that is nowhere ready nothing is known; it may come back as it was.
            if version.state == State::Ready {
                version.fit_gate();
            }
        }
        for version in self
            .put
            .iter()
            .chain(&self.gone)
            .flat_map(|model| &model.versions)
        {
            version.cell.wake();
        }
    }
}

impl Writer {
    fn apply(&mut self, uses: &Uses) {
        for (id, change) in uses {
            let versions = self.used.entry(*id).or_default();
            *versions = versions.saturating_add_signed(*change);
            if *versions == 0 {
                self.used.remove(id);
            }
        }
    }

    fn take_unread(&mut self) -> Vec<Arc<Table>> {
        let (unread, held) = self
            .former
            .drain(..)
            .partition(|table| Arc::strong_count(table) == 1);
        self.former = held;
        unread
    }
}

fn check_revisions(old: &Table, delta: &Delta) -> Result<(), TableError> {
    if delta.base_revision != old.revision {
        return Err(TableError(format!(
            "delta on revision {}, but the table is at revision {}",
            delta.base_revision, old.revision
        )));
    }
    if delta.revision <= delta.base_revision {
        return Err(TableError(format!(
            "delta to revision {} is not after its base revision {}",
            delta.revision, delta.base_revision
        )));
    }
    Ok(())
}

fn build(spec: ModelSpec, backends: &ByName, old: &Table) -> Result<Arc<Model>, TableError> {
    let before = old.model(spec.name.as_bytes());
    build::model(spec, backends, before).map(Arc::new)
}

fn count(uses: &mut Uses, model: &Model, by: i64) {
    for version in &model.versions {
        for id in &version.backends {
            *uses.entry(*id).or_default() += by;
        }
    }
}

fn insert(shard: &mut Shard, hash: u64, model: Arc<Model>, table: &Table) {
    shard.insert_unique(hash, model, |model| table.hash(model.name.as_bytes()));
}

/// The models of the next table while a delta is applied.
struct ModelChange<'t> {
    old: &'t Table,
    shards: Box<[Arc<Shard>]>,
    len: usize,
    uses: Uses,
    touched: Touched,
    named: HashSet<Box<str>>,
}

impl<'t> ModelChange<'t> {
    fn new(old: &'t Table) -> Self {
        Self {
            old,
            shards: old.shards.clone(),
            len: old.len,
            uses: Uses::new(),
            touched: Touched::default(),
            named: HashSet::new(),
        }
    }

    fn drop(&mut self, name: &str) -> Result<(), TableError> {
        self.name_once(name)?;
        if self.remove(name) {
            return Ok(());
        }
        Err(TableError(format!(
            "model {name:?} cannot be dropped: there is none"
        )))
    }

    fn put(&mut self, model: Arc<Model>) -> Result<(), TableError> {
        self.name_once(&model.name)?;
        self.remove(&model.name);
        count(&mut self.uses, &model, 1);
        let hash = self.old.hash(model.name.as_bytes());
        self.touched.put.push(Arc::clone(&model));
        // The first change of a shard copies it; later ones find it unshared.
        insert(
            Arc::make_mut(&mut self.shards[shard_of(hash)]),
            hash,
            model,
            self.old,
        );
        self.len += 1;
        Ok(())
    }

    fn remove(&mut self, name: &str) -> bool {
        let hash = self.old.hash(name.as_bytes());
        let shard = &mut self.shards[shard_of(hash)];
        if shard.find(hash, |model| *model.name == *name).is_none() {
            return false;
        }
        let entry = Arc::make_mut(shard).find_entry(hash, |model| *model.name == *name);
        let Ok(entry) = entry else { return false };
        let (model, _) = entry.remove();
        count(&mut self.uses, &model, -1);
        self.touched.gone.push(model);
        self.len -= 1;
        true
    }

    fn name_once(&mut self, name: &str) -> Result<(), TableError> {
        if self.named.insert(name.into()) {
            return Ok(());
        }
        Err(TableError(format!(
            "model {name:?} is named twice in one delta"
        )))
    }
}

/// A thread's view of the table; costs one load of a pointer while nothing changes.
#[derive(Debug)]
pub struct Reader {
    cache: Cache<Arc<ArcSwap<Table>>, Arc<Table>>,
}

impl Reader {
    /// The table that is served now.
    pub fn table(&mut self) -> &Arc<Table> {
        self.cache.load()
    }
}
