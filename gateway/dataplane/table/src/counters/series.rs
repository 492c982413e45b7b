//! The numbers of one series in one thread.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use super::histogram::{add, Histogram};
use super::shadow::Shadowing;
use crate::gate::Reason;

/// gRPC status codes, 0 to 16.
pub const CODES: usize = 17;

const UNKNOWN: usize = 2;

/// Requests of one (model, version, arm). Only the thread that made it may count.
#[derive(Debug, Default)]
pub struct Series {
    pub(crate) codes: [AtomicU64; CODES],
    pub(crate) time: Histogram,
    pub(crate) started: AtomicU64,
    pub(crate) streams: OnceLock<Box<Streams>>,
    pub(crate) shadow: OnceLock<Box<Shadowing>>,
    pub(crate) fallbacks: OnceLock<Box<[AtomicU64; CODES]>>,
}

/// Messages on streams, and the times between them.
#[derive(Debug, Default)]
pub struct Streams {
    /// From the request to its first answer.
    pub first: Histogram,
    /// From one answer to the next.
    pub inter: Histogram,
    pub(crate) requests: AtomicU64,
    pub(crate) responses: AtomicU64,
    pub(crate) errors: AtomicU64,
}

impl Streams {
    /// A request message was routed here.
    pub fn request(&self) {
        add(&self.requests, 1);
    }

    /// A message went back that is no error.
    pub fn response(&self) {
        add(&self.responses, 1);
    }

    /// A message went back that is an error, or a request was refused by the gateway.
    pub fn error(&self) {
        add(&self.errors, 1);
    }

    /// Requests, good answers and errors so far.
    pub(crate) fn messages(&self) -> [u64; 3] {
        [&self.requests, &self.responses, &self.errors].map(|count| count.load(Relaxed))
    }
}

impl Series {
    /// A request begins.
    pub fn start(&self) {
        add(&self.started, 1);
    }

    /// A request that began ends with that gRPC code; `micros` is its whole time in the gateway.
    pub fn finish(&self, code: u8, micros: u64) {
        add(
            self.codes
                .get(usize::from(code))
                .unwrap_or(&self.codes[UNKNOWN]),
            1,
        );
        self.time.record(micros);
    }

    /// Histograms for streams, made at first use.
    pub fn streams(&self) -> &Streams {
        self.streams.get_or_init(Box::default)
    }

    /// What became of copies, where this is the series of a shadow; made at first use.
    pub fn shadow(&self) -> &Shadowing {
        self.shadow.get_or_init(Box::default)
    }

    /// A request that failed with that gRPC code was given to another arm.
    pub fn fell_back(&self, code: u8) {
        let fallbacks = self.fallbacks.get_or_init(Box::default);
        let code = usize::from(code);
        add(fallbacks.get(code).unwrap_or(&fallbacks[UNKNOWN]), 1);
    }

    pub(crate) fn inflight(&self) -> i64 {
        let ended: u64 = self.codes.iter().map(|code| code.load(Relaxed)).sum();
        self.started.load(Relaxed).wrapping_sub(ended).cast_signed()
    }
}

/// Why a request was sent to a backend once more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RetryReason {
    /// The backend refused the stream, or said GOAWAY before it began with it.
    Refused,
    /// The backend could not be connected to.
    Unreachable,
    /// The backend does not have the version.
    Gone,
    /// The backend answered UNAVAILABLE.
    Unavailable,
    /// The connection broke before there was an answer.
    Broken,
}

impl RetryReason {
    /// All of them, by number.
    pub const ALL: [Self; 5] = [
        Self::Refused,
        Self::Unreachable,
        Self::Gone,
        Self::Unavailable,
        Self::Broken,
    ];

    /// In one word, as a label.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Refused => "refused",
            Self::Unreachable => "unreachable",
            Self::Gone => "gone",
            Self::Unavailable => "unavailable",
            Self::Broken => "broken",
        }
    }
}

/// Times of one version that do not depend on the arm. Only the thread that made it may count.
#[derive(Debug, Default)]
pub struct VersionSeries {
    /// Time waited for a cold load, or for a place at a backend.
    pub(crate) queue: Histogram,
    /// Requests that were not admitted, by [`Reason`].
    pub(crate) rejected: [AtomicU64; Reason::ALL.len()],
    pub(crate) retries: [AtomicU64; RetryReason::ALL.len()],
    backends: Mutex<Vec<(Box<str>, Arc<Histogram>)>>,
}

impl VersionSeries {
    /// A request waits no more, after `micros`.
    pub fn waited(&self, micros: u64) {
        self.queue.record(micros);
    }

    /// A request was not admitted.
    pub fn rejected(&self, reason: Reason) {
        add(&self.rejected[reason as usize], 1);
    }

    pub(crate) fn retried(&self, reason: RetryReason) {
        add(&self.retries[reason as usize], 1);
    }

    /// The histogram of a backend's time. Takes a lock: the thread keeps what it gives.
    pub(crate) fn backend(&self, name: &str) -> Arc<Histogram> {
        let mut backends = self.backends.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, histogram)) = backends.iter().find(|(other, _)| **other == *name) {
            return Arc::clone(histogram);
        }
        let histogram = Arc::new(Histogram::default());
        backends.push((name.into(), Arc::clone(&histogram)));
        histogram
    }

    pub(crate) fn each_backend(&self, mut visit: impl FnMut(&str, &Histogram)) {
        let backends = self.backends.lock().unwrap_or_else(PoisonError::into_inner);
        for (name, histogram) in backends.iter() {
            visit(name, histogram);
        }
    }
}
