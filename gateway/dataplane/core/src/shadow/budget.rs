//! Bytes that the copies of one thread hold, under one cap.

use std::cell::Cell;
use std::rc::Rc;

/// The bytes of one thread.
#[derive(Debug)]
pub(crate) struct Budget {
    left: Cell<usize>,
}

impl Budget {
    pub(crate) fn new(bytes: usize) -> Rc<Self> {
        Rc::new(Self {
            left: Cell::new(bytes),
        })
    }

    /// Take so many bytes; `None` where there are not as many left.
    pub(crate) fn charge(self: &Rc<Self>, bytes: usize) -> Option<Charge> {
        let mut charge = self.nothing();
        charge.add(bytes).then_some(charge)
    }

    /// A charge to be added to.
    pub(crate) fn nothing(self: &Rc<Self>) -> Charge {
        Charge {
            budget: Rc::clone(self),
            bytes: 0,
        }
    }
}

/// Bytes that are held; given back when dropped.
#[derive(Debug)]
pub(crate) struct Charge {
    budget: Rc<Budget>,
    bytes: usize,
}

impl Charge {
    /// Take more; false, and nothing taken, where there are not as many left.
    pub(crate) fn add(&mut self, bytes: usize) -> bool {
        let Some(left) = self.budget.left.get().checked_sub(bytes) else {
            return false;
        };
        self.budget.left.set(left);
        self.bytes += bytes;
        true
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.budget.left.set(self.budget.left.get() + self.bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_charged_comes_back_and_no_more_than_all_is_given() {
        let budget = Budget::new(100);
        let mut first = budget.charge(60).unwrap();

        assert!(budget.charge(41).is_none());
        assert!(!first.add(41));
        assert!(first.add(40));
        assert!(budget.charge(1).is_none());
        drop(first);

        assert!(budget.charge(100).is_some());
        assert_eq!(100, budget.left.get());
    }
}
