//! The bytes of requests that all threads together hold, under one bound.
//!
//! A thread takes from the bound in steps and counts single messages against what it took, so that a
//! small request touches nothing that threads share. What a thread has taken counts as held, so the
//! bound holds always, and the last few steps of it may go unused.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::Arc;

use crate::status::{Code, Status};

/// Most that a thread takes beyond what it needs.
const STEP: usize = 1 << 20;

/// What all threads have taken.
pub(crate) type Taken = AtomicUsize;

/// One thread's part.
#[derive(Debug)]
pub(crate) struct Budget {
    taken: Arc<Taken>,
    threads: usize,
    most: Cell<usize>,
    step: Cell<usize>,
    /// Taken and not used.
    spare: Cell<usize>,
}

impl Budget {
    /// Of `most` bytes for `threads` threads.
    pub(crate) fn new(taken: &Arc<Taken>, threads: usize, most: usize) -> Rc<Self> {
        let budget = Self {
            taken: Arc::clone(taken),
            threads,
            most: Cell::new(0),
            step: Cell::new(0),
            spare: Cell::new(0),
        };
        budget.follow(most);
        Rc::new(budget)
    }

    /// Follow a bound that changed; what is held stays.
    pub(crate) fn follow(&self, most: usize) {
        self.most.set(most);
        // Of a small bound no thread is to keep a large part for nothing.
        self.step.set(STEP.min(most / self.threads.max(1) / 8));
    }

    fn take(&self, bytes: usize) -> bool {
        let spare = self.spare.get();
        if bytes <= spare {
            self.spare.set(spare - bytes);
            return true;
        }
        let need = bytes - spare;
        for more in [need.saturating_add(self.step.get()), need] {
            let room = |taken: usize| {
                taken
                    .checked_add(more)
                    .filter(|all| *all <= self.most.get())
            };
            if self.taken.fetch_update(Relaxed, Relaxed, room).is_ok() {
                self.spare.set(more - need);
                return true;
            }
        }
        false
    }

    fn give_back(&self, bytes: usize) {
        let (spare, step) = (self.spare.get() + bytes, self.step.get());
        if spare <= 2 * step {
            self.spare.set(spare);
        } else {
            self.spare.set(step);
            self.taken.fetch_sub(spare - step, Relaxed);
        }
    }

    fn refusal(&self) -> Status {
        let most = self.most.get();
        Status::new(
            Code::ResourceExhausted,
            format!("the gateway holds {most} bytes of requests already (limits.max_buffered)"),
        )
    }
}

impl Drop for Budget {
    fn drop(&mut self) {
        self.taken.fetch_sub(self.spare.get(), Relaxed);
    }
}

/// Bytes that are held; given back when dropped.
#[derive(Debug)]
pub(crate) struct Held {
    budget: Rc<Budget>,
    bytes: usize,
}

impl Held {
    /// Nothing yet.
    pub(crate) fn new(budget: &Rc<Budget>) -> Self {
        Self {
            budget: Rc::clone(budget),
            bytes: 0,
        }
    }

    /// Hold more, unless that is too much.
    pub(crate) fn add(&mut self, bytes: usize) -> Result<(), Status> {
        if self.budget.take(bytes) {
            self.bytes += bytes;
            Ok(())
        } else {
            Err(self.budget.refusal())
        }
    }

    /// Hold less.
    pub(crate) fn sub(&mut self, bytes: usize) {
        let bytes = bytes.min(self.bytes);
        self.bytes -= bytes;
        self.budget.give_back(bytes);
    }

    /// As much more for another purpose, unless that is too much.
    pub(crate) fn another(&self, bytes: usize) -> Result<Self, Status> {
        let mut held = Self::new(&self.budget);
        held.add(bytes)?;
        Ok(held)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.budget.give_back(self.bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn held(budget: &Rc<Budget>, bytes: usize) -> Result<Held, Status> {
        let mut held = Held::new(budget);
        held.add(bytes).map(|()| held)
    }

    #[test]
    fn what_all_threads_hold_stays_below_the_bound() {
        let taken = Arc::default();
        let (one, two) = (Budget::new(&taken, 2, 1_000), Budget::new(&taken, 2, 1_000));

        let first = held(&one, 600).unwrap();
        assert!(held(&two, 500).is_err());
        let second = held(&two, 300).unwrap();
        drop(first);

        let third = held(&two, 500).unwrap();
        drop((second, third, one, two));
        assert_eq!(0, taken.load(Relaxed));
    }

    #[test]
    fn the_whole_bound_can_be_held_by_one() {
        let taken = Arc::default();
        let budget = Budget::new(&taken, 4, 1_000);

        let all = held(&budget, 1_000).unwrap();

        assert!(held(&budget, 1).is_err());
        drop(all);
        assert!(held(&budget, 1_000).is_ok());
    }

    #[test]
    fn small_ones_touch_the_shared_number_once_a_step() {
        let taken = Arc::default();
        let budget = Budget::new(&taken, 1, 1 << 30);
        let first = held(&budget, 100).unwrap();
        let before = taken.load(Relaxed);

        for _ in 0..1_000 {
            drop(held(&budget, 1_000).unwrap());
        }

        assert_eq!(before, taken.load(Relaxed));
        drop(first);
    }

    #[test]
    fn a_thread_keeps_no_more_than_two_steps_for_itself() {
        let taken = Arc::default();
        let budget = Budget::new(&taken, 1, 1 << 30);

        drop(held(&budget, 100 << 20).unwrap());

        assert!(taken.load(Relaxed) <= 2 * STEP);
    }

    #[test]
    fn a_bound_that_shrinks_holds_for_what_comes() {
        let taken = Arc::default();
        let budget = Budget::new(&taken, 1, 1_000);
        let mut known = held(&budget, 900).unwrap();

        budget.follow(500);

        assert!(known.add(200).is_err());
        known.sub(800);
        assert!(known.add(200).is_ok());
    }
}
