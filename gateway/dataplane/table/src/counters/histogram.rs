//! A histogram of times with fixed bounds and one writer.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Upper bounds, inclusive, in microseconds: 0.5 ms to 30 s.
pub const BOUNDS_MICROS: [u64; 15] = [
    500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000,
    2_500_000, 5_000_000, 10_000_000, 30_000_000,
];

/// One bucket a bound, and one for what is longer than all.
pub const BUCKETS: usize = BOUNDS_MICROS.len() + 1;

/// Add to a number that only this thread writes.
pub(crate) fn add(number: &AtomicU64, by: u64) {
    number.store(number.load(Relaxed).wrapping_add(by), Relaxed);
}

/// Times of one kind. Only one thread may record; any may read.
#[derive(Debug, Default)]
pub struct Histogram {
    buckets: [AtomicU64; BUCKETS],
    sum_micros: AtomicU64,
}

impl Histogram {
    /// Count one time.
    pub fn record(&self, micros: u64) {
        let bucket = BOUNDS_MICROS.partition_point(|&bound| bound < micros);
        add(&self.buckets[bucket], 1);
        add(&self.sum_micros, micros);
    }

    /// What was counted so far.
    #[must_use]
    pub fn read(&self) -> Buckets {
        Buckets {
            counts: std::array::from_fn(|at| self.buckets[at].load(Relaxed)),
            sum_micros: self.sum_micros.load(Relaxed),
        }
    }
}

/// The numbers of a histogram; buckets are not cumulative.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Buckets {
    /// One for each bound, and one for longer times.
    pub counts: [u64; BUCKETS],
    /// Sum of all times.
    pub sum_micros: u64,
}

impl Buckets {
    pub(crate) fn add(&mut self, other: &Self) {
        for (to, from) in self.counts.iter_mut().zip(other.counts) {
            *to = to.wrapping_add(from);
        }
        self.sum_micros = self.sum_micros.wrapping_add(other.sum_micros);
    }

    /// How many times were counted.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_on_a_bound_is_in_the_bucket_of_that_bound() {
        let histogram = Histogram::default();
        for micros in [0, 500, 501, 30_000_000, 30_000_001, u64::MAX / 4] {
            histogram.record(micros);
        }

        let read = histogram.read();

        assert_eq!(
            (2, 1, 1, 2),
            (
                read.counts[0],
                read.counts[1],
                read.counts[14],
                read.counts[15]
            )
        );
        assert_eq!(6, read.count());
    }

    #[test]
    fn the_sum_is_of_the_times_themselves() {
        let histogram = Histogram::default();
        histogram.record(3);
        histogram.record(40_000);

        assert_eq!(40_003, histogram.read().sum_micros);
    }
}
