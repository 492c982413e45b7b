//! Which of several backends is asked: of two that are drawn the one that has less to do.
//!
//! What is chosen here and what is told by [`Worker::report`](crate::ejection) do not depend on how a
//! backend is spoken to.

use std::rc::Rc;
use std::time::Instant;

use stagegate_table::{Admission, Table, ThreadCounters};

use crate::routed::Routed;
use crate::token::Draws;
use crate::upstream::Upstream;
use crate::worker::Worker;

/// Answers that differ by less are equally quick, in microseconds.
const NOISE: u64 = 250;

/// A backend to ask.
pub(crate) struct Choice {
    /// Its id in the table.
    pub(crate) backend: u32,
    /// This thread's way to it; nothing is connected by choosing it.
    pub(crate) upstream: Rc<Upstream>,
}

/// Why there is no backend to ask.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NoChoice {
    /// None is left that was not tried.
    Tried,
    /// Those that are left are passed over.
    Ejected,
}

/// How busy a backend is, as one thread sees it.
#[derive(Debug, Clone, Copy)]
struct Load {
    inflight: usize,
    /// How long its answers take of late; `None` where that is not known.
    micros: Option<u64>,
}

impl Load {
    /// Whether a request has less to wait for here. How quick the two are matters only where one takes
    /// more than twice as long as the other.
    fn is_less(self, other: Self) -> bool {
        let (own, others) = (self.inflight as u64 + 1, other.inflight as u64 + 1);
        if let (Some(here), Some(there)) = (self.micros, other.micros) {
            let (here, there) = (here + NOISE, there + NOISE);
            if here > 2 * there || there > 2 * here {
                return here.saturating_mul(own) < there.saturating_mul(others);
            }
        }
        own < others
    }
}

impl Worker {
    /// The backend that is asked next.
    ///
    /// `ids` are those that may answer, `tried` those of them that may not any more. With a version the
    /// backends that fail it are passed over, and a backend on trial gets its one request.
    pub(crate) fn choose(
        &self,
        ids: &[u32],
        version: Option<&Routed>,
        tried: &[u32],
    ) -> Result<Choice, NoChoice> {
        let is_well = version.is_none_or(|routed| routed.version.cell.health.is_well());
        self.with_counters(|table, counters| {
            let choosing = Choosing {
                worker: self,
                table,
                counters,
                version,
            };
            match (ids, tried) {
                ([id], []) if is_well => choosing.at(*id).ok_or(NoChoice::Tried),
                (_, []) if is_well => choosing
                    .quickly(ids)
                    .map_or_else(|| choosing.carefully(ids, tried), Ok),
                _ => choosing.carefully(ids, tried),
            }
        })
    }
}

struct Choosing<'w> {
    worker: &'w Worker,
    table: &'w Table,
    counters: &'w ThreadCounters,
    version: Option<&'w Routed>,
}

impl Choosing<'_> {
    fn at(&self, backend: u32) -> Option<Choice> {
        let upstream = self.worker.pool.get(self.table.backend(backend)?)?;
        Some(Choice { backend, upstream })
    }

    /// Of two that are drawn from all, where both can be used.
    fn quickly(&self, ids: &[u32]) -> Option<Choice> {
        let (first, other) = two_of(ids.len(), &self.worker.draws)?;
        let (first, other) = (self.at(ids[first])?, self.at(ids[other])?);
        let usable = first.upstream.is_usable() && other.upstream.is_usable();
        usable.then(|| self.less_busy(first, other))
    }

    /// Looking at each of them.
    fn carefully(&self, ids: &[u32], tried: &[u32]) -> Result<Choice, NoChoice> {
        let now = Instant::now();
        let left = ids.iter().filter(|id| !tried.contains(id));
        let (mut open, mut ejected) = (Vec::new(), false);
        for choice in left.filter_map(|id| self.at(*id)) {
            match self.admission(choice.backend, now) {
                Admission::Open => open.push(choice),
                Admission::Trial if self.takes_trial(&choice, now) => return Ok(choice),
                Admission::Trial | Admission::Closed => ejected = true,
            }
        }
        if open.iter().any(|choice| choice.upstream.is_usable()) {
            open.retain(|choice| choice.upstream.is_usable());
        }
        let Some((first, other)) = two_of(open.len(), &self.worker.draws) else {
            let none = if ejected {
                NoChoice::Ejected
            } else {
                NoChoice::Tried
            };
            return open.pop().ok_or(none);
        };
        let (late, early) = (first.max(other), first.min(other));
        let (late, early) = (open.swap_remove(late), open.swap_remove(early));
        Ok(if first < other {
            self.less_busy(early, late)
        } else {
            self.less_busy(late, early)
        })
    }

    fn admission(&self, backend: u32, now: Instant) -> Admission {
        self.version.map_or(Admission::Open, |routed| {
            routed.version.cell.health.admission(backend, now)
        })
    }

    fn takes_trial(&self, choice: &Choice, now: Instant) -> bool {
        choice.upstream.is_usable()
            && self
                .version
                .is_some_and(|routed| routed.version.cell.health.take_trial(choice.backend, now))
    }

    /// `first`, unless `other` is less busy.
    fn less_busy(&self, first: Choice, other: Choice) -> Choice {
        let now = Instant::now();
        if self.load(&other, now).is_less(self.load(&first, now)) {
            other
        } else {
            first
        }
    }

    fn load(&self, choice: &Choice, now: Instant) -> Load {
        let micros = self
            .version
            .and_then(|routed| self.counters.latency(&routed.version, choice.backend, now));
        Load {
            inflight: choice.upstream.inflight(),
            micros,
        }
    }
}

/// Two different random places below `count`; `None` where there are no two.
fn two_of(count: usize, draws: &Draws) -> Option<(usize, usize)> {
    if count < 2 {
        return None;
    }
    let first = draws.below(count as u32) as usize;
    let step = 1 + draws.below(count as u32 - 1) as usize;
    Some((first, (first + step) % count))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(inflight: usize, micros: Option<u64>) -> Load {
        Load { inflight, micros }
    }

    #[test]
    fn of_equally_quick_ones_the_one_with_fewer_requests_is_less_busy() {
        for (here, there) in [
            (None, None),
            (Some(5_000), None),
            (Some(9_000), Some(5_000)),
            // Below the noise a tenfold difference means nothing.
            (Some(100), Some(10)),
        ] {
            assert!(load(1, here).is_less(load(2, there)), "{here:?} {there:?}");
            assert!(!load(2, here).is_less(load(2, there)), "{here:?} {there:?}");
        }
    }

    #[test]
    fn a_slow_one_is_as_busy_as_many_requests_on_a_quick_one() {
        let slow = load(0, Some(500_000));

        assert!(load(50, Some(5_000)).is_less(slow));
        assert!(slow.is_less(load(200, Some(5_000))));
    }

    #[test]
    fn two_different_places_are_drawn_and_every_pair_at_times() {
        let draws = Draws::new();
        let mut seen = [[false; 4]; 4];
        for _ in 0..2_000 {
            if let Some((first, other)) = two_of(4, &draws) {
                seen[first][other] = true;
            }
        }

        for (first, row) in seen.iter().enumerate() {
            for (other, seen) in row.iter().enumerate() {
                assert_eq!(first != other, *seen, "{first} {other}");
            }
        }
        assert_eq!(None, two_of(1, &draws));
    }
}
