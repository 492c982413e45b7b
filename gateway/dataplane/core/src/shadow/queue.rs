//! The copies of one thread: who waits, who runs, and what is given up.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::time::{Duration, Instant};

use stagegate_table::counters::ShadowResult;
use tokio::runtime::Handle;
use tokio::sync::Notify;

use crate::settings::Settings;
use crate::shadow::budget::Budget;
use crate::shadow::capture::{Original, Target};
use crate::shadow::pulse::Pulse;
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
    pulse: Pulse,
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
            pulse: Pulse::new(settings.shadow_busy_percent),
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

    /// The task that sends comes: everything that waits is given up where it took too long to come, or
    /// where the thread has no time left, because then clients wait for this thread too. `busy` tells for
    /// how long it has been at work in all.
    fn arrive(&self, now: Instant, busy: impl FnOnce() -> Duration) {
        let late = |woken| now.saturating_duration_since(woken) > self.limits.lag;
        let is_late = self.woken.take().is_some_and(late);
        if is_late || self.pulse.is_full(now, busy) {
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
        let busy = || Handle::current().metrics().worker_total_busy_duration(0);
        worker.shadows.arrive(Instant::now(), busy);
        while let Some(copy) = worker.shadows.next(Instant::now()) {
            let running = Running(Rc::clone(&worker));
            tokio::task::spawn_local(async move { send::send(&running.0, &copy).await });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shadow::kept::Kept;
    use bytes::Bytes;
    use http::HeaderMap;
    use stagegate_table::spec::{ModelSpec, ShadowSpec, Snapshot, VersionSpec};
    use stagegate_table::Published;
    use std::sync::Arc;

    const TIME: Duration = Duration::from_secs(1);
    const LAG: Duration = Duration::from_millis(50);

    /// Copies for the shadow of one model, and what became of them.
    struct Source {
        published: Arc<Published>,
        counters: stagegate_table::ThreadCounters,
        original: Rc<Original>,
    }

    impl Source {
        fn new() -> Self {
            let version = VersionSpec {
                version: "1".to_owned(),
                state: "cold".to_owned(),
                backend_model: "m.1".to_owned(),
                ..VersionSpec::default()
            };
            let shadow = ShadowSpec {
                name: "next".to_owned(),
                version: "1".to_owned(),
                sample: 10_000,
            };
            let model = ModelSpec {
                name: "m".to_owned(),
                versions: vec![version],
                shadows: vec![shadow],
                ..ModelSpec::default()
            };
            let published = Published::new();
            published
                .publish(Snapshot {
                    revision: 1,
                    models: vec![model],
                    ..Snapshot::default()
                })
                .unwrap();
            let original = Original {
                model: Arc::clone(published.load().model(b"m").unwrap()),
                headers: HeaderMap::new(),
                body: Bytes::new(),
                answer: Kept::new(0),
                version: None,
                token: None,
                _charge: Budget::new(0).nothing(),
            };
            Self {
                counters: published.thread_counters(),
                published,
                original: Rc::new(original),
            }
        }

        fn push(&mut self, shadows: &Shadows, now: Instant) {
            let model = &self.original.model;
            let series = Arc::clone(self.counters.shadow(model, &model.shadows[0]));
            shadows.push(&self.original, Target { at: 0, series }, now);
        }

        fn counted(&self, result: ShadowResult) -> u64 {
            let shadows = self.published.counters().shadows;
            shadows
                .iter()
                .map(|shadow| shadow.totals.results[result as usize])
                .sum()
        }
    }

    fn shadows(waiting: usize, running: usize) -> Shadows {
        Shadows::new(&Settings {
            shadow_queue: waiting,
            shadow_concurrency: running,
            shadow_deadline_ms: TIME.as_millis() as u64,
            shadow_lag_ms: LAG.as_millis() as u64,
            ..Settings::default()
        })
    }

    #[test]
    fn copies_go_in_their_order_as_many_at_once_as_may() {
        let (mut source, shadows, now) = (Source::new(), shadows(8, 2), Instant::now());
        for at in 0..3 {
            source.push(&shadows, now + Duration::from_millis(at));
        }

        let first = shadows.next(now).unwrap();
        let second = shadows.next(now).unwrap();

        assert!(first.until < second.until);
        assert!(shadows.next(now).is_none());
        shadows.ended();
        assert!(shadows.next(now).is_some());
    }

    #[test]
    fn what_does_not_fit_the_queue_is_given_up() {
        let (mut source, shadows, now) = (Source::new(), shadows(2, 1), Instant::now());

        for _ in 0..5 {
            source.push(&shadows, now);
        }

        assert_eq!(3, source.counted(ShadowResult::QueueFull));
    }

    #[test]
    fn what_waited_until_its_deadline_is_not_sent() {
        let (mut source, shadows, now) = (Source::new(), shadows(8, 8), Instant::now());
        source.push(&shadows, now);
        source.push(&shadows, now + TIME / 2);

        let next = shadows.next(now + TIME);

        assert_eq!(Some(now + TIME + TIME / 2), next.map(|copy| copy.until));
        assert_eq!(1, source.counted(ShadowResult::Deadline));
    }

    #[test]
    fn a_thread_that_comes_late_gives_up_all_that_waits_and_takes_none_for_a_while() {
        let (mut source, shadows, now) = (Source::new(), shadows(8, 8), Instant::now());
        source.push(&shadows, now);
        shadows.arrive(now + LAG, Duration::default);
        assert!(!shadows.is_behind(now + LAG));
        source.push(&shadows, now);
        source.push(&shadows, now + LAG);

        let late = now + LAG + Duration::from_millis(1);
        shadows.arrive(late, Duration::default);

        assert_eq!(3, source.counted(ShadowResult::Overload));
        assert!(shadows.next(late).is_none());
        assert!(shadows.is_behind(late + RESPITE / 2));
        assert!(!shadows.is_behind(late + RESPITE));
    }

    #[test]
    fn a_thread_without_time_gives_up_all_that_waits() {
        let (mut source, shadows, now) = (Source::new(), shadows(8, 8), Instant::now());
        source.push(&shadows, now);
        shadows.arrive(now, Duration::default);
        assert!(shadows.next(now).is_some());

        source.push(&shadows, now + TIME);
        shadows.arrive(now + TIME, || TIME);

        assert_eq!(1, source.counted(ShadowResult::Overload));
        assert!(shadows.next(now + TIME).is_none() && shadows.is_behind(now + TIME));
    }
}
