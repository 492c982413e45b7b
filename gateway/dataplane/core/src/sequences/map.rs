//! Which sequences are open, and where: one map for all threads, touched by requests of sequences only.

use std::collections::hash_map::RandomState;
use std::collections::HashMap;
use std::hash::BuildHasher;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use stagegate_table::Version;
use stagegate_wire::params::SequenceId;

/// Locks, so that threads rarely meet.
const SHARDS: usize = 64;
/// Sequences that are open at once in one shard.
const MOST: usize = 1024;

/// A sequence of a model: a hash of 128 bits that nobody outside can foresee, so ids of any length take
/// the same room, and no two meet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Key(u64, u64);

/// Where a sequence is.
#[derive(Debug, Clone)]
pub(crate) struct Pin {
    /// The version that its first request got, as it was then.
    pub(crate) version: Arc<Version>,
    /// The arm that it got it by; none for a pinned reference.
    pub(crate) arm: Option<Box<str>>,
    /// Id of the one backend that has its state; none until it was chosen.
    pub(crate) backend: Option<u32>,
}

#[derive(Debug)]
struct Entry {
    pin: Pin,
    /// Apart from another sequence of the same id, before or after.
    generation: u64,
    /// Requests on their way.
    running: usize,
    /// When its last request came or ended.
    last: Instant,
    ended: bool,
}

impl Entry {
    fn is_over(&self, now: Instant) -> bool {
        let quiet = now.saturating_duration_since(self.last);
        self.running == 0 && (self.ended || quiet > self.pin.version.sequence_idle())
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.pin.version.cell.sequence_closed();
    }
}

type Shard = HashMap<Key, Entry>;

/// All open sequences of one data plane.
#[derive(Debug)]
pub(crate) struct Sequences {
    shards: Box<[Mutex<Shard>]>,
    hashers: [RandomState; 2],
    generation: AtomicU64,
    open: AtomicUsize,
    most: usize,
}

/// What came of a new sequence.
pub(crate) enum Begun {
    /// It is open; whether another one, which was idle, was forgotten for it.
    Open(Hold, bool),
    /// There is no room: all that are open have requests on their way.
    Full,
}

impl Sequences {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self::of(MOST))
    }

    fn of(most: usize) -> Self {
        Self {
            shards: (0..SHARDS).map(|_| Mutex::default()).collect(),
            hashers: [RandomState::new(), RandomState::new()],
            generation: AtomicU64::new(0),
            open: AtomicUsize::new(0),
            most,
        }
    }

    /// The key of a sequence. `reference` is empty where the model's split answers, so that the sequence
    /// of a version that was named and the split's are two.
    pub(crate) fn key(&self, model: &str, reference: &str, id: SequenceId<'_>) -> Key {
        let id = match id {
            SequenceId::Number(number) => (Some(number), &b""[..]),
            SequenceId::Text(text) => (None, text),
        };
        let [first, second] = &self.hashers;
        let all = (model, reference, id);
        Key(first.hash_one(all), second.hash_one(all))
    }

    /// Where an open sequence is, with its request counted as on its way.
    pub(crate) fn find(
        self: &Arc<Self>,
        key: Key,
        ends: bool,
        now: Instant,
    ) -> Option<(Pin, Hold)> {
        if self.open.load(Relaxed) == 0 {
            return None;
        }
        let mut shard = self.shard(key);
        let entry = shard.get_mut(&key)?;
        if entry.ended || entry.is_over(now) {
            return None;
        }
        entry.running += 1;
        entry.last = now;
        Some((entry.pin.clone(), self.hold(key, entry.generation, ends)))
    }

    /// Open a sequence, in the place of one of the same key.
    pub(crate) fn begin(self: &Arc<Self>, key: Key, pin: Pin, ends: bool, now: Instant) -> Begun {
        let mut shard = self.shard(key);
        let before = shard.len();
        let mut forgotten = false;
        if before >= self.most && !shard.contains_key(&key) {
            shard.retain(|_, entry| !entry.is_over(now));
            if shard.len() >= self.most {
                let Some(oldest) = oldest_idle(&shard) else {
                    self.count(before, shard.len());
                    return Begun::Full;
                };
                shard.remove(&oldest);
                forgotten = true;
            }
        }
        let generation = self.generation.fetch_add(1, Relaxed);
        pin.version.cell.sequence_opened();
        let entry = Entry {
            pin,
            generation,
            running: 1,
            last: now,
            ended: false,
        };
        shard.insert(key, entry);
        self.count(before, shard.len());
        Begun::Open(self.hold(key, generation, ends), forgotten)
    }

    /// Forget what is over. Cheap where nothing is open.
    pub(crate) fn sweep(&self, now: Instant) {
        if self.open.load(Relaxed) == 0 {
            return;
        }
        for shard in &self.shards {
            let mut shard = lock(shard);
            let before = shard.len();
            shard.retain(|_, entry| !entry.is_over(now));
            self.count(before, shard.len());
        }
    }

    /// The backend of a sequence: the one that was chosen before, else this one from now on; this one also
    /// where another sequence took its place.
    pub(crate) fn backend_or(&self, place: Place, chosen: u32) -> u32 {
        let mut shard = self.shard(place.key);
        entry_of(&mut shard, place).map_or(chosen, |entry| *entry.pin.backend.get_or_insert(chosen))
    }

    fn hold(self: &Arc<Self>, key: Key, generation: u64, ends: bool) -> Hold {
        Hold {
            sequences: Arc::clone(self),
            place: Place { key, generation },
            ends,
        }
    }

    fn shard(&self, key: Key) -> MutexGuard<'_, Shard> {
        lock(&self.shards[key.0 as usize % SHARDS])
    }

    fn count(&self, before: usize, after: usize) {
        // Wraps where there are fewer, which adds up all the same.
        self.open.fetch_add(after.wrapping_sub(before), Relaxed);
    }
}

fn lock(shard: &Mutex<Shard>) -> MutexGuard<'_, Shard> {
    shard.lock().unwrap_or_else(PoisonError::into_inner)
}

fn oldest_idle(shard: &Shard) -> Option<Key> {
    let idle = shard.iter().filter(|(_, entry)| entry.running == 0);
    idle.min_by_key(|(_, entry)| entry.last)
        .map(|(key, _)| *key)
}

/// One sequence, apart from those of the same key before and after it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Place {
    key: Key,
    generation: u64,
}

/// A request of a sequence that is on its way; the last one releases a sequence that has ended.
#[derive(Debug)]
pub(crate) struct Hold {
    sequences: Arc<Sequences>,
    place: Place,
    ends: bool,
}

impl Hold {
    pub(crate) fn place(&self) -> Place {
        self.place
    }

    fn release(&self, now: Instant) {
        let mut shard = self.sequences.shard(self.place.key);
        let Some(entry) = entry_of(&mut shard, self.place) else {
            return;
        };
        entry.running = entry.running.saturating_sub(1);
        entry.last = now;
        entry.ended |= self.ends;
        if entry.ended && entry.running == 0 {
            shard.remove(&self.place.key);
            self.sequences.count(1, 0);
        }
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.release(Instant::now());
    }
}

fn entry_of(shard: &mut Shard, place: Place) -> Option<&mut Entry> {
    shard
        .get_mut(&place.key)
        .filter(|entry| entry.generation == place.generation)
}

#[cfg(test)]
#[path = "map_tests.rs"]
mod tests;
