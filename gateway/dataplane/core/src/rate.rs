//! How often something happens within a second.

use std::cell::Cell;
use std::time::{Duration, Instant};

/// Counts events of one thread, second by second.
#[derive(Debug, Default)]
pub(crate) struct Rate {
    count: Cell<usize>,
    since: Cell<Option<Instant>>,
}

impl Rate {
    /// Count one event; whether there were at most `limit` in its second.
    pub(crate) fn is_within(&self, limit: usize, now: Instant) -> bool {
        let is_over = |since| now.saturating_duration_since(since) >= Duration::from_secs(1);
        if self.since.get().is_none_or(is_over) {
            self.since.set(Some(now));
            self.count.set(0);
        }
        self.count.set(self.count.get().saturating_add(1));
        self.count.get() <= limit
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn so_many_a_second_and_as_many_in_the_next() {
        let (rate, now) = (Rate::default(), Instant::now());
        let within = |now| (0..10).filter(|_| rate.is_within(3, now)).count();

        assert_eq!(3, within(now));
        assert_eq!(0, within(now + Duration::from_millis(999)));
        assert_eq!(3, within(now + Duration::from_secs(1)));
    }
}
