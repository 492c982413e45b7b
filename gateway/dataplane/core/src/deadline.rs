//! The deadlines of all calls on one thread, under a single timer.
//!
//! A call that waits leaves its deadline and its waker in a slot. The timer stands at the earliest
//! deadline it was told of; only an earlier one moves it. So a call on the warm path costs a slot and
//! no timer, and whatever number of calls finished in time, the timer goes off once per interval.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::pin::{pin, Pin};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Instant;

#[derive(Debug)]
enum Slot {
    Free { next: usize },
    Waiting { at: Instant, waker: Waker },
    Passed,
}

const NONE: usize = usize::MAX;

/// The slots of one thread.
#[derive(Debug)]
pub(crate) struct Deadlines {
    slots: RefCell<Vec<Slot>>,
    free: Cell<usize>,
    timer_at: Cell<Option<Instant>>,
    driver: RefCell<Option<Waker>>,
}

impl Deadlines {
    pub(crate) fn new() -> Self {
        Self {
            slots: RefCell::default(),
            free: Cell::new(NONE),
            timer_at: Cell::new(None),
            driver: RefCell::default(),
        }
    }

    /// The task that watches the slots; runs for as long as its thread.
    pub(crate) async fn drive(&self) {
        loop {
            let Some(at) = self.timer_at.get() else {
                self.changed(None).await;
                continue;
            };
            self.changed(Some(at)).await;
            if self.timer_at.get() == Some(at) {
                self.fire(Instant::now());
            }
        }
    }

    /// Wait until the timer's time has come or has been moved.
    async fn changed(&self, at: Option<Instant>) {
        let mut sleep = pin!(async {
            match at {
                Some(at) => tokio::time::sleep_until(at.into()).await,
                None => std::future::pending().await,
            }
        });
        std::future::poll_fn(|cx| {
            if self.timer_at.get() != at {
                return Poll::Ready(());
            }
            self.driver.replace(Some(cx.waker().clone()));
            sleep.as_mut().poll(cx)
        })
        .await;
    }

    fn fire(&self, now: Instant) {
        let mut earliest: Option<Instant> = None;
        let mut passed = Vec::new();
        for slot in self.slots.borrow_mut().iter_mut() {
            if let Slot::Waiting { at, .. } = slot {
                if *at > now {
                    earliest = Some(earliest.map_or(*at, |known| known.min(*at)));
                } else if let Slot::Waiting { waker, .. } = std::mem::replace(slot, Slot::Passed) {
                    passed.push(waker);
                }
            }
        }
        self.timer_at.set(earliest);
        passed.into_iter().for_each(Waker::wake);
    }

    fn take(&self, at: Instant, waker: Waker) -> usize {
        let mut slots = self.slots.borrow_mut();
        let index = self.free.get();
        let slot = Slot::Waiting { at, waker };
        let index = if let Some(Slot::Free { next }) = slots.get(index) {
            self.free.set(*next);
            slots[index] = slot;
            index
        } else {
            slots.push(slot);
            slots.len() - 1
        };
        drop(slots);
        if self.timer_at.get().is_none_or(|timer| at < timer) {
            self.timer_at.set(Some(at));
            if let Some(driver) = self.driver.take() {
                driver.wake();
            }
        }
        index
    }

    fn give_back(&self, index: usize) {
        if let Some(slot) = self.slots.borrow_mut().get_mut(index) {
            *slot = Slot::Free {
                next: self.free.get(),
            };
            self.free.set(index);
        }
    }
}

/// The deadline of one call. Takes a slot when it is first waited for.
#[derive(Debug)]
pub(crate) struct Deadline {
    deadlines: Rc<Deadlines>,
    at: Option<Instant>,
    slot: usize,
}

impl Deadline {
    /// `None` never passes.
    pub(crate) fn new(deadlines: &Rc<Deadlines>, at: Option<Instant>) -> Self {
        Self {
            deadlines: Rc::clone(deadlines),
            at,
            slot: NONE,
        }
    }

    /// When it passes.
    pub(crate) fn at(&self) -> Option<Instant> {
        self.at
    }

    /// Move it.
    pub(crate) fn set(&mut self, at: Option<Instant>) {
        if self.at != at {
            self.release();
            self.at = at;
        }
    }

    /// Ready when it has passed.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(at) = self.at else {
            return Poll::Pending;
        };
        if self.slot == NONE {
            self.slot = self.deadlines.take(at, cx.waker().clone());
            return Poll::Pending;
        }
        match self.deadlines.slots.borrow_mut().get_mut(self.slot) {
            Some(Slot::Waiting { waker, .. }) => {
                waker.clone_from(cx.waker());
                Poll::Pending
            }
            _ => Poll::Ready(()),
        }
    }

    fn release(&mut self) {
        if self.slot != NONE {
            self.deadlines.give_back(self.slot);
            self.slot = NONE;
        }
    }
}

impl Drop for Deadline {
    fn drop(&mut self) {
        self.release();
    }
}

impl Future for Deadline {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        Deadline::poll(self.get_mut(), cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    /// Run `body` beside the driver.
    fn with_driver<T>(deadlines: &Deadlines, body: impl Future<Output = T>) -> T {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .unwrap();
        runtime.block_on(async {
            tokio::select! {
                () = deadlines.drive() => unreachable!("the driver never ends"),
                out = body => out,
            }
        })
    }

    /// Which of several pass in one turn of the driver is chance; that none waits for a later one is not.
    #[test]
    fn no_deadline_waits_for_a_later_one_whatever_order_they_came_in() {
        let deadlines = Rc::new(Deadlines::new());
        let now = Instant::now();
        let after = |ms| Deadline::new(&deadlines, Some(now + Duration::from_millis(ms)));
        let mut later = after(20_000);
        let mut cx = Context::from_waker(Waker::noop());
        assert!(later.poll(&mut cx).is_pending());

        with_driver(&deadlines, async {
            tokio::join!(after(20), after(5), after(12));
            after(25).await;
        });

        assert!(later.poll(&mut cx).is_pending());
    }

    #[test]
    fn slots_are_used_again() {
        let deadlines = Rc::new(Deadlines::new());
        let far = Instant::now() + Duration::from_mins(1);
        let mut cx = Context::from_waker(Waker::noop());

        for _ in 0..100 {
            let mut a = Deadline::new(&deadlines, Some(far));
            let mut b = Deadline::new(&deadlines, Some(far));
            assert!(a.poll(&mut cx).is_pending() && b.poll(&mut cx).is_pending());
        }

        assert_eq!(2, deadlines.slots.borrow().len());
    }

    #[test]
    fn a_deadline_in_the_past_passes_at_once() {
        let deadlines = Rc::new(Deadlines::new());

        with_driver(&deadlines, Deadline::new(&deadlines, Some(Instant::now())));
    }
}
