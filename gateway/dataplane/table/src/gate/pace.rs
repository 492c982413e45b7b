//! How many requests of a version its backends are given at once, and how long the others wait. Pure.
//!
//! A backend runs requests in the order in which they come and finishes what it has begun, whoever still
//! wants the answer. So it is given only what keeps its instances busy, and the rest waits here, where it
//! can be ordered, counted and given up. Two per place in an instance do that as long as one takes longer
//! than the way there and back; of shorter ones more are under way, as many as are answered within
//! [`AIM_MICROS`]. Where a version takes long but answers many at once, whatever its configuration says,
//! that shows in times which do not grow with the number, and the number grows.

/// Time in a backend up to which more is given to it, in microseconds.
pub(crate) const AIM_MICROS: u64 = 10_000;
/// Least number where it is not known how many the copies work on.
const LEAST_UNKNOWN: u32 = 16;
/// Number to begin with there: generous, because what is measured brings it down soon where it is too large,
/// and where it is too small every request has to wait first.
const FIRST_UNKNOWN: u32 = 256;
/// Nothing that is measured leads beyond this.
const MOST: u32 = 1 << 14;

/// A version that is never held back.
pub const UNBOUNDED: u32 = u32::MAX;

/// Bounds that follow from what the copies of a version work on at once; 0 where that is not known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Bounds {
    /// Let through at least, however long they take.
    pub(crate) least: u32,
    /// Let through to begin with.
    pub(crate) first: u32,
}

impl Bounds {
    pub(crate) const fn of(capacity: u32) -> Self {
        let (least, first) = match capacity {
            0 => (LEAST_UNKNOWN, FIRST_UNKNOWN),
            UNBOUNDED => (UNBOUNDED, UNBOUNDED),
            // One is worked on while the next one is on its way.
            known => {
                let twice = known.saturating_mul(2);
                (twice, twice)
            }
        };
        Self { least, first }
    }
}

/// The next limit, after `limit` answers that took `mean` in the middle.
///
/// `shortest` is the least time that a good answer took so far, all in microseconds. `full` says whether
/// requests wait, so that more would be given if more were allowed.
pub(crate) fn next_limit(limit: u32, least: u32, mean: u64, shortest: u64, full: bool) -> u32 {
    let aim = AIM_MICROS.max(shortest.saturating_add(shortest / 2));
    let ideal = u64::from(limit).saturating_mul(aim) / mean.max(1);
    let limit = u64::from(limit);
    // Half of the way, because the answers that come next belong to the old limit still.
    let next = if ideal > limit {
        if full {
            (limit + (ideal - limit).div_ceil(2)).min(limit * 2)
        } else {
            limit
        }
    } else {
        u64::midpoint(limit, ideal)
    };
    let next = u32::try_from(next).unwrap_or(u32::MAX);
    next.clamp(least, MOST.max(least))
}

/// So many may be let through before anything is known of many at once, where one takes `took` microseconds.
pub(crate) fn at_least(capacity: u32, took: u32) -> u32 {
    let one_after_the_other = AIM_MICROS / u64::from(took).max(1);
    let all = u64::from(capacity).saturating_mul(one_after_the_other);
    u32::try_from(all).unwrap_or(MOST).min(MOST)
}

/// Time until a request is answered that has `ahead` others before it, where `limit` are worked on and
/// one takes `took` microseconds.
///
/// Only half of its own time is counted: times differ, and what might still make it is let go on.
pub(crate) fn expected(ahead: u32, limit: u32, took: u32) -> u64 {
    time_for(ahead, limit, took) + u64::from(took) / 2
}

/// Time until `count` of those that wait are let through.
pub(crate) fn time_for(count: u32, limit: u32, took: u32) -> u64 {
    u64::from(count) * u64::from(took) / u64::from(limit.max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The limit where it no longer moves, for a backend that answers `at_once` within `service` each,
    /// with requests always waiting.
    fn settled(capacity: u32, at_once: u64, service: u64, way: u64) -> u32 {
        let Bounds { least, first } = Bounds::of(capacity);
        let mut limit = first;
        for _ in 0..200 {
            let mean = (u64::from(limit) * service / at_once).max(service) + way;
            limit = next_limit(limit, least, mean, service + way, true);
        }
        limit
    }

    #[test]
    fn a_slow_instance_gets_two() {
        assert_eq!(2, settled(1, 1, 5_000, 500));
        assert_eq!(2, settled(1, 1, 80_000, 500));
    }

    #[test]
    fn batches_and_instances_count() {
        assert_eq!(128, settled(64, 64, 50_000, 500));
    }

    #[test]
    fn a_fast_instance_gets_what_it_answers_within_the_aim() {
        let limit = settled(1, 1, 50, 500);

        assert!((150..=200).contains(&limit), "{limit}");
    }

    #[test]
    fn a_version_that_answers_more_at_once_than_it_says_is_found_out() {
        assert!(settled(1, 8, 100_000, 500) >= 8);
    }

    #[test]
    fn an_unknown_version_is_not_starved_nor_let_run() {
        assert_eq!(16, settled(0, 1, 100_000, 500));
        let many = settled(0, 100, 100_000, 500);
        assert!((100..=200).contains(&many), "{many}");
    }

    #[test]
    fn a_version_that_is_known_to_be_fast_needs_not_wait_to_show_it() {
        assert_eq!(20, at_least(2, 1_000));
        assert_eq!(0, at_least(2, 20_000));
        assert_eq!(0, at_least(0, 1_000));
        assert_eq!(MOST, at_least(UNBOUNDED - 1, 0));
    }

    #[test]
    fn a_limit_that_is_not_used_does_not_grow() {
        assert_eq!(2, next_limit(2, 2, 100, 100, false));
    }

    #[test]
    fn a_version_that_turned_slow_comes_down_without_anybody_waiting() {
        assert_eq!(505, next_limit(1_000, 2, 1_000_000, 500, false));
    }

    #[test]
    fn what_is_never_held_back_stays_so() {
        assert_eq!(UNBOUNDED, next_limit(UNBOUNDED, UNBOUNDED, 1, 1, true));
        assert_eq!(
            UNBOUNDED,
            next_limit(UNBOUNDED, UNBOUNDED, u64::MAX, 1, true)
        );
    }

    #[test]
    fn the_time_to_wait_grows_with_those_ahead_and_shrinks_with_copies() {
        assert_eq!(5_000, expected(0, 2, 10_000));
        assert_eq!(55_000, expected(10, 2, 10_000));
        assert_eq!(30_000, expected(10, 4, 10_000));
    }
}
