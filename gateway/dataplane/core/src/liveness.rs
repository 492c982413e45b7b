//! Whether a backend that owes answers still lives. Times are values, so all of it can be tested.

use std::cell::Cell;
use std::time::{Duration, Instant};

/// Silence of a backend that owes answers, after which it is tested.
const QUIET: Duration = Duration::from_millis(750);
/// Time between two tests that went well, at most; it doubles up to here while nothing is heard.
const LONGEST: Duration = Duration::from_secs(8);
/// Time that a test has.
pub(crate) const TEST_TIME: Duration = Duration::from_secs(2);

/// What one thread has heard of one backend.
#[derive(Debug, Default)]
pub(crate) struct Liveness {
    /// Answers that began to come.
    answers: Cell<u64>,
    /// The same when it was looked at last.
    seen: Cell<u64>,
    quiet_since: Cell<Option<Instant>>,
    /// Silence before the next test; none before the first one.
    patience: Cell<Duration>,
    testing: Cell<bool>,
}

impl Liveness {
    /// An answer began to come.
    pub(crate) fn heard(&self) {
        self.answers.set(self.answers.get() + 1);
    }

    /// Whether it is being tested: another backend is to be preferred.
    pub(crate) fn is_suspect(&self) -> bool {
        self.testing.get()
    }

    /// Whether a backend with so many open requests is to be tested now.
    pub(crate) fn is_due(&self, inflight: usize, now: Instant) -> bool {
        let heard = self.seen.replace(self.answers.get()) != self.answers.get();
        if inflight == 0 || heard || self.quiet_since.get().is_none() {
            self.quiet_since.set((inflight > 0).then_some(now));
            self.patience.set(QUIET);
            return false;
        }
        let is_over = |since| now.saturating_duration_since(since) >= self.patience.get();
        !self.testing.get() && self.quiet_since.get().is_some_and(is_over)
    }

    /// A test begins.
    pub(crate) fn begin_test(&self) {
        self.testing.set(true);
    }

    /// A test ended; whether the backend is lost.
    pub(crate) fn end_test(&self, is_well: bool, now: Instant) -> bool {
        self.testing.set(false);
        let heard = self.seen.get() != self.answers.get();
        if is_well || heard || self.quiet_since.get().is_none() {
            self.quiet_since.set(self.quiet_since.get().map(|_| now));
            self.patience.set((self.patience.get() * 2).min(LONGEST));
            return false;
        }
        self.quiet_since.set(None);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STEP: Duration = Duration::from_millis(250);

    /// Look four times a second until it is due; gives how long that took.
    fn until_due(liveness: &Liveness, now: &mut Instant) -> Duration {
        let start = *now;
        while !liveness.is_due(1, *now) {
            assert!(*now - start < Duration::from_mins(1), "never due");
            *now += STEP;
        }
        *now - start
    }

    #[test]
    fn one_that_owes_nothing_is_never_tested() {
        let (liveness, now) = (Liveness::default(), Instant::now());

        assert!((0..100).all(|step| !liveness.is_due(0, now + STEP * step)));
    }

    #[test]
    fn one_that_answers_is_never_tested() {
        let (liveness, now) = (Liveness::default(), Instant::now());

        for step in 0..100 {
            liveness.heard();
            assert!(!liveness.is_due(5, now + STEP * step));
        }
    }

    #[test]
    fn silence_leads_to_tests_at_growing_distances() {
        let (liveness, mut now) = (Liveness::default(), Instant::now());
        let mut pauses = Vec::new();
        for _ in 0..6 {
            pauses.push(until_due(&liveness, &mut now).as_millis());
            liveness.begin_test();
            assert!(liveness.is_suspect() && !liveness.is_due(1, now));
            assert!(!liveness.end_test(true, now));
        }

        assert_eq!(vec![750, 1500, 3000, 6000, 8000, 8000], pauses);
    }

    #[test]
    fn a_test_that_fails_means_lost_unless_something_was_heard_meanwhile() {
        let (liveness, mut now) = (Liveness::default(), Instant::now());
        until_due(&liveness, &mut now);
        liveness.begin_test();
        liveness.heard();
        assert!(!liveness.end_test(false, now + TEST_TIME));

        until_due(&liveness, &mut now);
        liveness.begin_test();
        assert!(liveness.end_test(false, now + TEST_TIME));
        assert!(!liveness.is_suspect());
    }
}
