//! What became of the requests that were to be copied to a shadow.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::histogram::add;

/// What became of one sampled request. Up to `Unreachable` the copy was sent or tried; the others were
/// dropped before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ShadowResult {
    /// The shadow answered OK.
    Ok,
    /// The shadow answered with another status, or broke its answer off.
    Error,
    /// It was sent, and no whole answer came before the copy's own deadline.
    Timeout,
    /// No backend of the shadow's version could be connected to.
    Unreachable,
    /// The shadow's version is not loaded, or no longer in the table.
    NotReady,
    /// The thread is behind or drains, or clients wait or leave no room at the backends: they come first.
    Overload,
    /// Too many copies wait already.
    QueueFull,
    /// The copies at hand hold too many bytes already.
    Bytes,
    /// The request is larger than what is kept for sending again.
    TooLarge,
    /// It waited in the queue until its own deadline.
    Deadline,
    /// The client's own answer was no OK, or the request was not read to its end.
    PrimaryFailed,
}

/// How many kinds of [`ShadowResult`] there are.
pub const SHADOW_RESULTS: usize = 11;

impl ShadowResult {
    /// All of them, in the order of the numbers.
    pub const ALL: [Self; SHADOW_RESULTS] = [
        Self::Ok,
        Self::Error,
        Self::Timeout,
        Self::Unreachable,
        Self::NotReady,
        Self::Overload,
        Self::QueueFull,
        Self::Bytes,
        Self::TooLarge,
        Self::Deadline,
        Self::PrimaryFailed,
    ];

    /// The label of metrics.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Error => "error",
            Self::Timeout => "timeout",
            Self::Unreachable => "unreachable",
            Self::NotReady => "not_ready",
            Self::Overload => "overload",
            Self::QueueFull => "queue_full",
            Self::Bytes => "bytes",
            Self::TooLarge => "too_large",
            Self::Deadline => "deadline",
            Self::PrimaryFailed => "primary_failed",
        }
    }
}

/// Why two OK answers were not handed over for comparison.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Uncompared {
    /// One of them is larger than what is kept for it.
    TooLarge,
    /// The control plane has enough to compare already.
    Busy,
    /// One of them is no whole message, or cannot be inflated.
    Unreadable,
}

/// How many kinds of [`Uncompared`] there are.
pub const UNCOMPARED: usize = 3;

impl Uncompared {
    /// All of them, in the order of the numbers.
    pub const ALL: [Self; UNCOMPARED] = [Self::TooLarge, Self::Busy, Self::Unreadable];

    /// The label of metrics.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::TooLarge => "too_large",
            Self::Busy => "busy",
            Self::Unreadable => "unreadable",
        }
    }
}

/// The numbers of one shadow in one thread. Only that thread may count.
#[derive(Debug, Default)]
pub struct Shadowing {
    results: [AtomicU64; SHADOW_RESULTS],
    uncompared: [AtomicU64; UNCOMPARED],
}

impl Shadowing {
    /// One sampled request came to this.
    pub fn result(&self, result: ShadowResult) {
        add(&self.results[result as usize], 1);
    }

    /// Two answers are not compared.
    pub fn uncompared(&self, why: Uncompared) {
        add(&self.uncompared[why as usize], 1);
    }

    pub(crate) fn read(&self) -> ShadowTotals {
        ShadowTotals {
            results: std::array::from_fn(|at| self.results[at].load(Relaxed)),
            uncompared: std::array::from_fn(|at| self.uncompared[at].load(Relaxed)),
        }
    }
}

/// Sums of [`Shadowing`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ShadowTotals {
    /// By [`ShadowResult::ALL`].
    pub results: [u64; SHADOW_RESULTS],
    /// By [`Uncompared::ALL`].
    pub uncompared: [u64; UNCOMPARED],
}

impl ShadowTotals {
    pub(crate) fn add(&mut self, other: &Self) {
        for (to, from) in self.results.iter_mut().zip(other.results) {
            *to = to.wrapping_add(from);
        }
        for (to, from) in self.uncompared.iter_mut().zip(other.uncompared) {
            *to = to.wrapping_add(from);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_and_their_numbers_agree() {
        for (at, result) in ShadowResult::ALL.into_iter().enumerate() {
            assert_eq!(at, result as usize, "{}", result.word());
        }
        for (at, why) in Uncompared::ALL.into_iter().enumerate() {
            assert_eq!(at, why as usize, "{}", why.word());
        }
    }
}
