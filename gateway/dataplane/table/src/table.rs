//! One immutable routing table.

use std::sync::Arc;

use ahash::RandomState;
use hashbrown::HashTable;

use crate::model::{Model, Version};
use crate::nearest;

/// A change of one model copies one shard of this many, so its cost does not grow with the table.
pub(crate) const SHARDS: usize = 1024;

pub(crate) type Shard = HashTable<Arc<Model>>;

/// One Triton endpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Backend {
    /// The same for as long as the name is published; never given to another name.
    pub id: u32,
    /// Its name in the configuration.
    pub name: Box<str>,
    /// `host:port`. It may change while name and id stay.
    pub address: Box<str>,
    /// `host:port` of its HTTP endpoint; empty where none is known.
    pub http: Box<str>,
}

/// What requests are routed by; never changes once it is published.
#[derive(Debug)]
pub struct Table {
    /// The control plane's number of this table; 0 before the first one.
    pub revision: u64,
    pub(crate) len: usize,
    pub(crate) shards: Box<[Arc<Shard>]>,
    pub(crate) backends: Arc<[Arc<Backend>]>,
    // Keyed at random in each process: names come from clients, who could make them collide.
    pub(crate) hasher: RandomState,
}

impl Table {
    pub(crate) fn empty() -> Self {
        let empty = Arc::new(Shard::new());
        Self {
            revision: 0,
            len: 0,
            shards: vec![empty; SHARDS].into(),
            backends: Arc::new([]),
            hasher: RandomState::new(),
        }
    }

    /// The model of that logical name.
    #[must_use]
    pub fn model(&self, name: &[u8]) -> Option<&Arc<Model>> {
        let hash = self.hash(name);
        self.shards[shard_of(hash)].find(hash, |model| model.name.as_bytes() == name)
    }

    /// A version of a model, by its id.
    #[must_use]
    pub fn version(&self, model: &[u8], id: &str) -> Option<(&Arc<Model>, &Arc<Version>)> {
        let model = self.model(model)?;
        Some((model, model.version(id)?))
    }

    /// The backend of that id.
    #[must_use]
    pub fn backend(&self, id: u32) -> Option<&Arc<Backend>> {
        let at = self
            .backends
            .binary_search_by_key(&id, |backend| backend.id)
            .ok()?;
        self.backends.get(at)
    }

    /// All backends, by id.
    #[must_use]
    pub fn backends(&self) -> &[Arc<Backend>] {
        &self.backends
    }

    /// All models, in no order.
    pub fn models(&self) -> impl Iterator<Item = &Arc<Model>> {
        self.shards.iter().flat_map(|shard| shard.iter())
    }

    /// All models, by name.
    #[must_use]
    pub fn sorted_models(&self) -> Vec<&Arc<Model>> {
        let mut models: Vec<_> = self.models().collect();
        models.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        models
    }

    /// How many models there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is no model.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// At most three names near one that is not found; none in a table of more than 512 models.
    #[must_use]
    pub fn nearest(&self, name: &str) -> Vec<&str> {
        if self.len > nearest::SEARCHED {
            return Vec::new();
        }
        nearest::nearest(name, self.models().map(|model| &*model.name))
    }

    pub(crate) fn hash(&self, name: &[u8]) -> u64 {
        self.hasher.hash_one(name)
    }
}

/// Bits that the shard's own table does not use: it takes the low ones and the top seven.
pub(crate) fn shard_of(hash: u64) -> usize {
    (hash >> 40) as usize % SHARDS
}
