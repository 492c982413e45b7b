//! Counters of requests: kept by each thread alone, merged when read.
//!
//! A thread finds its series by a number in the cell of what is counted: no lock, no hash, no string.
//! The first request of a series in a thread registers it, under a lock that only registering and
//! reading take. Every number has one writer, its thread, and is stored relaxed.
//!
//! A series whose cell is gone from every table is folded into `former` numbers under its labels, so
//! that counters never run backwards when a model is dropped and comes back. At most 10,000 such
//! series are kept; beyond that the oldest disappear, as series do when a process ends.

mod histogram;
mod latency;
mod read;
mod registry;
mod series;
mod shadow;
mod thread;

pub use histogram::{Buckets, Histogram, BOUNDS_MICROS, BUCKETS};
pub use latency::Latency;
pub use read::{
    ArmCounters, BackendCounters, Counters, EjectedCounters, FallbackCounters, QueueCounters,
    RetryCounters, ShadowCounters, StreamCounters,
};
pub(crate) use registry::Registry;
pub use series::{RetryReason, Series, Streams, VersionSeries, CODES};
pub use shadow::{ShadowResult, ShadowTotals, Shadowing, Uncompared, SHADOW_RESULTS, UNCOMPARED};
pub use thread::{ThreadCounters, ThreadTotals};

/// Label of requests that name no model we have.
pub const UNKNOWN_MODEL: &str = "_unknown";
