//! How long a backend takes for a version of late, as one thread sees it.

use std::time::{Duration, Instant};

/// Time in which a peak is half forgotten.
const HALF_LIFE: Duration = Duration::from_secs(3);

/// A moving average that follows a slower answer at once and a quicker one with time.
#[derive(Debug, Clone, Copy, Default)]
pub struct Latency(Option<(u64, Instant)>);

impl Latency {
    /// An answer took that long.
    pub fn note(&mut self, micros: u64, now: Instant) {
        let above = match self.0 {
            Some((held, at)) => faded(held.saturating_sub(micros), at, now),
            None => 0,
        };
        self.0 = Some((micros + above, now));
    }

    /// Microseconds as of now; the longer there was no answer, the less is held against a backend. `None`
    /// where there never was one.
    #[must_use]
    pub fn micros(&self, now: Instant) -> Option<u64> {
        self.0.map(|(held, at)| faded(held, at, now))
    }
}

/// What is left of a value after some time: halved for each half-life, straight between.
fn faded(value: u64, since: Instant, now: Instant) -> u64 {
    const LIFE: u64 = HALF_LIFE.as_micros() as u64;
    let passed = now.saturating_duration_since(since).as_micros() as u64;
    let halved = value.checked_shr((passed / LIFE) as u32).unwrap_or(0);
    halved - halved.saturating_mul(passed % LIFE) / (2 * LIFE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slower_answer_counts_at_once_and_fades() {
        let (mut latency, now) = (Latency::default(), Instant::now());
        assert_eq!(None, latency.micros(now));
        latency.note(1_000, now);
        latency.note(500_000, now);
        assert_eq!(Some(500_000), latency.micros(now));

        assert_eq!(Some(250_000), latency.micros(now + HALF_LIFE));
        assert_eq!(Some(375_000), latency.micros(now + HALF_LIFE / 2));
        assert_eq!(Some(0), latency.micros(now + HALF_LIFE * 100));
    }

    #[test]
    fn quicker_answers_take_over_with_time() {
        let (mut latency, now) = (Latency::default(), Instant::now());
        latency.note(100_000, now);
        latency.note(2_000, now);
        assert_eq!(Some(100_000), latency.micros(now));

        latency.note(2_000, now + HALF_LIFE);

        assert_eq!(Some(2_000 + 49_000), latency.micros(now + HALF_LIFE));
    }
}
