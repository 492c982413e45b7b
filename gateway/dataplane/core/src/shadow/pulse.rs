//! How much of its time a thread is at work.

use std::cell::Cell;
use std::time::{Duration, Instant};

/// Shortest time that is looked at: within less of it any thread is busy now and then.
const WINDOW: Duration = Duration::from_millis(100);

/// What was known of a thread when it was looked at last.
#[derive(Debug)]
pub(crate) struct Pulse {
    most_percent: u32,
    last: Cell<Option<(Instant, Duration)>>,
}

impl Pulse {
    /// A thread that works for more than so much of its time has enough to do.
    pub(crate) fn new(most_percent: u32) -> Self {
        Self {
            most_percent,
            last: Cell::new(None),
        }
    }

    /// Whether the thread has had enough to do since this was last answered. `busy` tells for how long it
    /// has been at work in all; it is asked once in a window only.
    pub(crate) fn is_full(&self, now: Instant, busy: impl FnOnce() -> Duration) -> bool {
        let Some((at, before)) = self.last.get() else {
            self.last.set(Some((now, busy())));
            return false;
        };
        let passed = now.saturating_duration_since(at);
        if passed < WINDOW {
            return false;
        }
        let busy = busy();
        self.last.set(Some((now, busy)));
        busy.saturating_sub(before) * 100 > passed * self.most_percent
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_is_full_when_it_works_for_more_than_its_share() {
        let (pulse, start) = (Pulse::new(80), Instant::now());
        let ms = Duration::from_millis;
        assert!(
            !pulse.is_full(start, || ms(7_000)),
            "nothing to compare with"
        );

        assert!(!pulse.is_full(start + ms(99), || unreachable!("too early")));
        assert!(!pulse.is_full(start + ms(100), || ms(7_080)));
        assert!(pulse.is_full(start + ms(200), || ms(7_161)));
        assert!(!pulse.is_full(start + ms(1_200), || ms(7_500)));
    }
}
