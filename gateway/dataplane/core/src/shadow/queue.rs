//! The copies of one thread: who waits, who runs, and what is given up.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::time::{Duration, Instant};

use stagegate_table::counters::ShadowResult;
use tokio::sync::Notify;

use crate::settings::Settings;
use crate::shadow::budget::Budget;
use crate::shadow::capture::{Original, Target};
use crate::shadow::send;
use crate::worker::Worker;

/// For how long nothing is sampled after the thread was found behind.
const RESPITE: Duration = Duration::from_secs(1);

/// One copy of one request for one shadow.
pub(crate) struct Copy {
    pub(crate) original: Rc<Original>,
    pub(crate) target: Target,
    /// Its own deadline, waiting included.
    pub(crate) until: Instant,
}

/// The copies of one thread.
pub(crate) struct Shadows {
    limits: Limits,
    budget: Rc<Budget>,
    queue: RefCell<VecDeque<Copy>>,
    running: Cell<usize>,
    /// When the task that sends them was woken and did not come yet.
    woken: Cell<Option<Instant>>,
    behind_until: Cell<Option<Instant>>,
    wake: Notify,
}

struct Limits {
    waiting: usize,
    running: usize,
    time: Duration,
    lag: Duration,
}

impl Shadows {
    pub(crate) fn new(settings: &Settings) -> Self {
        Self {
            limits: Limits {
                waiting: settings.shadow_queue,
                running: settings.shadow_concurrency,
                time: Duration::from_millis(settings.shadow_deadline_ms),
                lag: Duration::from_millis(settings.shadow_lag_ms),
            },
            budget: Budget::new(settings.shadow_bytes),
            queue: RefCell::default(),
            running: Cell::new(0),
            woken: Cell::new(None),
            behind_until: Cell::new(None),
            wake: Notify::new(),
        }
    }

    pub(crate) fn budget(&self) -> &Rc<Budget> {
        &self.budget
    }

    /// Whether this thread has more to do than it can, so that nothing is to be copied.
    pub(crate) fn is_behind(&self, now: Instant) -> bool {
        self.behind_until.get().is_some_and(|until| now < until)
    }

    /// Queue a copy, unless there are too many.
    pub(crate) fn push(&self, original: &Rc<Original>, target: Target, now: Instant) {
        let mut queue = self.queue.borrow_mut();
        if queue.len() >= self.limits.waiting {
            return target.count(ShadowResult::QueueFull);
        }
        queue.push_back(Copy {
            original: Rc::clone(original),
            target,
            until: now + self.limits.time,
        });
        if self.running.get() < self.limits.running && self.woken.get().is_none() {
            self.woken.set(Some(now));
            self.wake.notify_one();
        }
    }

    /// The task that sends comes: everything that waits is given up where it took too long to come,
    /// because then clients wait for this thread too.
    fn arrive(&self, now: Instant) {
        let Some(woken) = self.woken.take() else {
            return;
        };
        if now.saturating_duration_since(woken) > self.limits.lag {
            self.behind_until.set(Some(now + RESPITE));
            for copy in self.queue.take() {
                copy.target.count(ShadowResult::Overload);
            }
        }
    }

    /// The next copy to be sent, with its place among those that run.
    fn next(&self, now: Instant) -> Option<Copy> {
        while self.running.get() < self.limits.running {
            let copy = self.queue.borrow_mut().pop_front()?;
            if now < copy.until {
                self.running.set(self.running.get() + 1);
                return Some(copy);
            }
            copy.target.count(ShadowResult::Deadline);
        }
        None
    }

    fn ended(&self) {
        self.running.set(self.running.get() - 1);
        if !self.queue.borrow().is_empty() {
            self.wake.notify_one();
        }
    }
}

/// A copy's place among those that run; given back when dropped.
pub(crate) struct Running(Rc<Worker>);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.shadows.ended();
    }
}

/// The task that sends copies; runs for as long as its thread.
pub(crate) async fn drive(worker: Rc<Worker>) {
    loop {
        worker.shadows.wake.notified().await;
        worker.shadows.arrive(Instant::now());
        while let Some(copy) = worker.shadows.next(Instant::now()) {
            let running = Running(Rc::clone(&worker));
            tokio::task::spawn_local(async move { send::send(&running.0, &copy).await });
        }
    }
}
