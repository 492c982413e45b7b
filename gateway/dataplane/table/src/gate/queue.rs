//! Those who wait at a gate: by rank, and first come, first served within one.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use super::Refusal;

/// One request that waits; shared by its task and by whoever lets it through.
#[derive(Debug)]
pub(crate) struct Waiter {
    pub(crate) rank: u32,
    number: u64,
    pub(crate) deadline: Option<Instant>,
    told: Mutex<Told>,
}

/// What became of a waiter.
#[derive(Debug)]
enum Told {
    Nothing(Option<Waker>),
    Go,
    No(Refusal),
}

impl Waiter {
    /// Ready when it may go on, or must not.
    pub(crate) fn poll(&self, cx: &mut Context<'_>) -> Poll<Result<(), Refusal>> {
        match &mut *lock(&self.told) {
            Told::Nothing(waker) => {
                match waker {
                    Some(known) => known.clone_from(cx.waker()),
                    None => *waker = Some(cx.waker().clone()),
                }
                Poll::Pending
            }
            Told::Go => Poll::Ready(Ok(())),
            Told::No(refusal) => Poll::Ready(Err(*refusal)),
        }
    }

    /// Whether it was let through.
    pub(crate) fn may_go(&self) -> bool {
        matches!(*lock(&self.told), Told::Go)
    }

    /// Tell it, once. The waker is for after the queue's lock.
    pub(crate) fn tell(&self, outcome: Result<(), Refusal>) -> Option<Waker> {
        let told = match outcome {
            Ok(()) => Told::Go,
            Err(refusal) => Told::No(refusal),
        };
        match std::mem::replace(&mut *lock(&self.told), told) {
            Told::Nothing(waker) => waker,
            Told::Go | Told::No(_) => None,
        }
    }
}

/// The waiters of one gate.
#[derive(Debug, Default)]
pub(crate) struct Queue {
    /// No lane is empty.
    lanes: BTreeMap<u32, VecDeque<Arc<Waiter>>>,
    len: u32,
    next: u64,
}

impl Queue {
    pub(crate) fn len(&self) -> u32 {
        self.len
    }

    /// How many go before one of that rank that comes now.
    pub(crate) fn ahead_of(&self, rank: u32) -> u32 {
        let ahead: usize = self.lanes.range(..=rank).map(|(_, lane)| lane.len()).sum();
        u32::try_from(ahead).unwrap_or(u32::MAX)
    }

    pub(crate) fn push(&mut self, rank: u32, deadline: Option<Instant>) -> Arc<Waiter> {
        self.next += 1;
        self.len += 1;
        let waiter = Arc::new(Waiter {
            rank,
            number: self.next,
            deadline,
            told: Mutex::new(Told::Nothing(None)),
        });
        let lane = self.lanes.entry(rank).or_default();
        lane.push_back(Arc::clone(&waiter));
        waiter
    }

    /// The one to let through next.
    pub(crate) fn pop_first(&mut self) -> Option<Arc<Waiter>> {
        let mut lane = self.lanes.first_entry()?;
        let waiter = lane.get_mut().pop_front();
        if lane.get().is_empty() {
            lane.remove();
        }
        self.len -= u32::from(waiter.is_some());
        waiter
    }

    /// The last one of the last rank, if that is behind `rank`.
    pub(crate) fn pop_behind(&mut self, rank: u32) -> Option<Arc<Waiter>> {
        let mut lane = self.lanes.last_entry()?;
        if *lane.key() <= rank {
            return None;
        }
        let waiter = lane.get_mut().pop_back();
        if lane.get().is_empty() {
            lane.remove();
        }
        self.len -= u32::from(waiter.is_some());
        waiter
    }

    /// Take one out that no longer waits; whether it was still there.
    pub(crate) fn remove(&mut self, waiter: &Waiter) -> bool {
        let Some(lane) = self.lanes.get_mut(&waiter.rank) else {
            return false;
        };
        let Ok(at) = lane.binary_search_by_key(&waiter.number, |known| known.number) else {
            return false;
        };
        lane.remove(at);
        if lane.is_empty() {
            self.lanes.remove(&waiter.rank);
        }
        self.len -= 1;
        true
    }
}

/// What is under these locks is never left half done by a panic.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_go_in_order_and_each_in_the_order_of_coming() {
        let mut queue = Queue::default();
        for rank in [2, 1, 2, 3, 1] {
            queue.push(rank, None);
        }

        let order: Vec<_> = std::iter::from_fn(|| queue.pop_first())
            .map(|waiter| (waiter.rank, waiter.number))
            .collect();

        assert_eq!(vec![(1, 2), (1, 5), (2, 1), (2, 3), (3, 4)], order);
        assert_eq!(0, queue.len());
    }

    #[test]
    fn the_last_of_the_last_rank_makes_room_for_a_better_one_only() {
        let mut queue = Queue::default();
        queue.push(2, None);
        queue.push(2, None);

        assert!(queue.pop_behind(2).is_none());
        assert_eq!(Some(2), queue.pop_behind(1).map(|waiter| waiter.number));
        assert_eq!(1, queue.len());
    }

    #[test]
    fn one_that_leaves_is_gone_once() {
        let mut queue = Queue::default();
        let (first, second) = (queue.push(2, None), queue.push(2, None));

        assert!(queue.remove(&first));
        assert!(!queue.remove(&first));
        assert_eq!(1, queue.ahead_of(2));
        assert_eq!(0, queue.ahead_of(1));
        assert!(queue.remove(&second));
        assert_eq!(0, queue.len());
    }
}
