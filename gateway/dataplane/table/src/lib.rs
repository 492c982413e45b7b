//! The routing table: what the control plane publishes and what a request needs of it.
//!
//! - [`spec`]: the table as it crosses from Python; plain owned data, nothing checked.
//! - [`Published`]: the shared handle. Checks a [`spec::Snapshot`] or a [`spec::Delta`], builds the next
//!   [`Table`] beside the running one and swaps it in at once, or changes nothing and says why.
//! - [`Table`], [`Model`], [`Version`]: the immutable result, with everything a request needs made before.
//! - [`pick()`]: names of a request in, one version out, or the error for the client.
//! - [`assign`]: which arm of a split a request gets.
//! - [`cell`]: what lives on when a model is published again: who waits for a load, and the counters.
//! - [`gate`]: how many requests of a version are with its backends at once, and who waits.
//! - [`health`]: which backends of a version are passed over because they fail.
//! - [`counters`]: numbers kept per thread without locks, merged when read.

#![cfg_attr(
    test,
    allow(clippy::unwrap_used, clippy::expect_used, clippy::cast_sign_loss)
)]

pub mod assign;
pub mod cell;
pub mod counters;
pub mod gate;
pub mod grammar;
pub mod health;
pub mod model;
pub mod pick;
pub mod publish;
pub mod spec;
pub mod table;

mod backends;
mod build;
mod nearest;
mod siphash;

pub use assign::{Caller, Decision};
pub use cell::{ArmCell, ModelCell, VersionCell, Waiting};
pub use counters::{Counters, Histogram, Series, ThreadCounters};
pub use health::{Admission, Ejected, Fault, Health};
pub use model::{Arm, Fallback, Model, Shadow, State, Version};
pub use pick::{pick, pick_for, Pick, PickError, PickErrorKind, RefKind};
pub use publish::{Published, Reader};
pub use table::{Backend, Table};

use std::fmt;

/// Weights are whole hundredths of a percent; a split sums to this.
pub const WHOLE: u32 = 10_000;

/// Reserved arm label of requests that name a version outside the split.
pub const PINNED: &str = "pinned";

/// Why a table was not taken: one sentence that names the object. Nothing was changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TableError(pub String);

impl fmt::Display for TableError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for TableError {}
