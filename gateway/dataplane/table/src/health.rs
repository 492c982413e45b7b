//! Which backends of a version are passed over because they failed it again and again.
//!
//! Shared by all threads. While nothing is wrong it costs a request one load of a number that is 0.
//! Every decision takes the time as a value.

use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use once_cell::race::OnceBox;

/// Faults in a row that eject a backend from a version.
pub const FAULTS: u32 = 5;
/// Time that the first ejection lasts, before jitter; each one that follows lasts twice as long.
pub const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// Time that an ejection lasts at most.
pub const LONGEST_PAUSE: Duration = Duration::from_mins(1);
/// Time that the probe has for itself after an ejection's end, before a client's request is the trial.
pub const PROBE_TIME: Duration = Duration::from_secs(10);
/// Time that a client's request which is the trial has, before the next one is.
pub const TRIAL_TIME: Duration = Duration::from_secs(10);
/// Connections that break within this time are one fault: they broke for one reason.
const ONE_BREAK: Duration = Duration::from_secs(1);
/// Time without ejection after which the next one lasts as long as a first one.
const FORGOTTEN: Duration = Duration::from_mins(1);

/// What a backend did wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// It answered with an error that is its own.
    Failed,
    /// It does not have the version.
    Gone,
    /// Its connection broke under the call.
    Broken,
    /// It did not answer in time; counted apart, for a deadline may be too short for a good backend.
    TimedOut,
}

/// What may be sent to a backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Admission {
    /// Anything.
    Open,
    /// One request, to see whether it is well again.
    Trial,
    /// Nothing.
    Closed,
}

/// A backend that is passed over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ejected {
    /// Since when, without interruption.
    pub since: Instant,
    /// When it is tried again.
    pub until: Instant,
    /// What it did wrong last.
    pub fault: Fault,
    /// The same in words.
    pub reason: Box<str>,
    /// When a client's request may be the trial.
    trial_at: Instant,
}

/// What a fault led to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ejection {
    /// Whether the backend was not passed over before.
    pub begins: bool,
    /// How long it is passed over from now on.
    pub pause: Duration,
}

/// What is known of one backend of a version.
#[derive(Debug)]
struct Record {
    backend: u32,
    faults: u32,
    timeouts: u32,
    broken_at: Option<Instant>,
    /// Ejections in a row, for the pause.
    ejections: u32,
    ended_at: Option<Instant>,
    ejected: Option<Ejected>,
}

/// The backends of one version that failed.
#[derive(Debug, Default)]
pub struct Health {
    /// Backends about which there is something to know.
    troubled: AtomicU32,
    records: OnceBox<Mutex<Vec<Record>>>,
}

impl Health {
    /// Whether no backend of the version has failed since its last good answer.
    #[must_use]
    pub fn is_well(&self) -> bool {
        self.troubled.load(Relaxed) == 0
    }

    /// A backend gave a good answer; whether that ends an ejection.
    pub fn succeeded(&self, backend: u32, now: Instant) -> bool {
        self.change(|records| {
            let Some(record) = records.iter_mut().find(|record| record.backend == backend) else {
                return false;
            };
            (record.faults, record.timeouts, record.broken_at) = (0, 0, None);
            let ended = record.ejected.take().is_some();
            if ended {
                record.ended_at = Some(now);
            }
            ended
        })
    }

    /// A backend answered, if only that the request is wrong: it is not frozen.
    pub fn answered(&self, backend: u32) {
        self.change(|records| {
            if let Some(record) = records.iter_mut().find(|record| record.backend == backend) {
                record.timeouts = 0;
            }
        });
    }

    /// A backend did something wrong. Gives what comes of it, where an ejection begins or goes on.
    ///
    /// `of` are all backends of the version: at most half of them are ejected while one is well.
    /// `jitter` is between 0 and 1 and makes the pause longer by up to a half.
    pub fn failed(
        &self,
        backend: u32,
        (fault, reason): (Fault, &str),
        of: &[u32],
        now: Instant,
        jitter: f64,
    ) -> Option<Ejection> {
        self.change(|records| {
            let at = place(records, backend);
            if !records[at].count(fault, now) {
                return None;
            }
            let goes_on = records[at].ejected.as_ref().map(|ejected| ejected.until);
            match goes_on {
                // Requests that were on their way when it was ejected say nothing new.
                Some(until) if now < until => return None,
                Some(_) => {}
                None if records[at].is_bad() && may_eject(records, of, backend) => {}
                None => return None,
            }
            Some(Ejection {
                begins: goes_on.is_none(),
                pause: records[at].eject(fault, reason, now, jitter),
            })
        })
    }

    /// What may be sent to a backend now. A trial is not taken by asking.
    #[must_use]
    pub fn admission(&self, backend: u32, now: Instant) -> Admission {
        let records = self.lock();
        let found = records.iter().flat_map(|records| records.iter());
        let mut ejected =
            found.filter_map(|record| Some((record.backend, record.ejected.as_ref()?)));
        match ejected.find(|(id, _)| *id == backend) {
            None => Admission::Open,
            Some((_, ejected)) if ejected.trial_at <= now => Admission::Trial,
            Some(_) => Admission::Closed,
        }
    }

    /// Take the trial: nobody else gets it for a while. False where somebody did.
    pub fn take_trial(&self, backend: u32, now: Instant) -> bool {
        self.with_ejected(backend, |ejected| {
            let open = ejected.trial_at <= now;
            if open {
                ejected.trial_at = now + TRIAL_TIME;
            }
            open
        })
    }

    /// A probe could not tell: let a client's request be the trial.
    pub fn open_trial(&self, backend: u32, now: Instant) {
        self.with_ejected(backend, |ejected| {
            ejected.trial_at = now;
            true
        });
    }

    /// The ejection of a backend, if it is ejected.
    #[must_use]
    pub fn ejected(&self, backend: u32) -> Option<Ejected> {
        let records = self.lock()?;
        let record = records.iter().find(|record| record.backend == backend)?;
        record.ejected.clone()
    }

    /// How many of these backends are ejected.
    pub(crate) fn ejected_among(&self, backends: &[u32]) -> usize {
        if self.is_well() {
            return 0;
        }
        let records = self.lock();
        let found = records.iter().flat_map(|records| records.iter());
        found
            .filter(|record| record.ejected.is_some() && backends.contains(&record.backend))
            .count()
    }

    /// Forget a backend: it no longer has the version, or has it anew. Whether it was ejected.
    pub fn forget(&self, backend: u32) -> bool {
        if self.is_well() {
            return false;
        }
        self.change(|records| {
            let at = records.iter().position(|record| record.backend == backend);
            at.is_some_and(|at| records.swap_remove(at).ejected.is_some())
        })
    }

    /// All backends that something is known of.
    pub(crate) fn known(&self) -> Vec<u32> {
        let records = self.lock();
        let ids = records.iter().flat_map(|records| records.iter());
        ids.map(|record| record.backend).collect()
    }

    fn with_ejected(&self, backend: u32, act: impl FnOnce(&mut Ejected) -> bool) -> bool {
        let mut records = self.lock();
        let mut all = records.iter_mut().flat_map(|records| records.iter_mut());
        let found = all.find(|record| record.backend == backend);
        found
            .and_then(|record| record.ejected.as_mut())
            .is_some_and(act)
    }

    fn lock(&self) -> Option<MutexGuard<'_, Vec<Record>>> {
        Some(lock(self.records.get()?))
    }

    fn change<T>(&self, act: impl FnOnce(&mut Vec<Record>) -> T) -> T {
        let mut records = lock(self.records.get_or_init(Box::default));
        let out = act(&mut records);
        let troubled = records.iter().filter(|record| record.is_troubled()).count();
        self.troubled.store(troubled as u32, Relaxed);
        out
    }
}

/// Numbers under this lock are whole at any moment, whatever panics.
fn lock(records: &Mutex<Vec<Record>>) -> MutexGuard<'_, Vec<Record>> {
    records.lock().unwrap_or_else(PoisonError::into_inner)
}

fn place(records: &mut Vec<Record>, backend: u32) -> usize {
    let found = records.iter().position(|record| record.backend == backend);
    found.unwrap_or_else(|| {
        records.push(Record {
            backend,
            faults: 0,
            timeouts: 0,
            broken_at: None,
            ejections: 0,
            ended_at: None,
            ejected: None,
        });
        records.len() - 1
    })
}

/// Whether one more backend may be passed over: up to half of them, or any where none is well.
fn may_eject(records: &[Record], of: &[u32], backend: u32) -> bool {
    let known = |id: &u32| records.iter().find(|record| record.backend == *id);
    let ejected = of.iter().filter_map(known);
    let ejected = ejected.filter(|record| record.ejected.is_some()).count();
    let mut others = of.iter().filter(|id| **id != backend);
    let none_is_well = others.all(|id| known(id).is_some_and(Record::is_bad));
    ejected < of.len() / 2 || none_is_well
}

impl Record {
    fn is_troubled(&self) -> bool {
        self.faults > 0 || self.timeouts > 0 || self.ejected.is_some()
    }

    fn is_bad(&self) -> bool {
        self.faults >= FAULTS || self.timeouts >= FAULTS || self.ejected.is_some()
    }

    /// Count a fault; false where it belongs to one that was counted.
    fn count(&mut self, fault: Fault, now: Instant) -> bool {
        match fault {
            Fault::TimedOut => self.timeouts += 1,
            Fault::Failed | Fault::Gone => self.faults += 1,
            Fault::Broken => {
                let same = |at| now.saturating_duration_since(at) < ONE_BREAK;
                if self.broken_at.is_some_and(same) {
                    return false;
                }
                self.broken_at = Some(now);
                self.faults += 1;
            }
        }
        true
    }

    fn eject(&mut self, fault: Fault, reason: &str, now: Instant, jitter: f64) -> Duration {
        let long_ago = |at| now.saturating_duration_since(at) >= FORGOTTEN;
        if self.ejected.is_none() && self.ended_at.is_some_and(long_ago) {
            self.ejections = 0;
        }
        let pause = pause(self.ejections, jitter);
        self.ejections = self.ejections.saturating_add(1);
        let until = now + pause;
        let since = self.ejected.as_ref().map_or(now, |ejected| ejected.since);
        self.ejected = Some(Ejected {
            since,
            until,
            fault,
            reason: reason.into(),
            trial_at: until + PROBE_TIME,
        });
        pause
    }
}

/// How long a backend is passed over that was ejected so many times before.
fn pause(before: u32, jitter: f64) -> Duration {
    let doubled = FIRST_PAUSE.saturating_mul(1 << before.min(6));
    let stretched = doubled.mul_f64(1.0 + jitter.clamp(0.0, 1.0) / 2.0);
    stretched.min(LONGEST_PAUSE)
}

#[cfg(test)]
mod tests {
    use super::*;

    const WHY: (Fault, &str) = (Fault::Failed, "it broke");

    fn fail(health: &Health, backend: u32, of: &[u32], now: Instant) -> Option<Duration> {
        let ejection = health.failed(backend, WHY, of, now, 0.0)?;
        Some(ejection.pause)
    }

    /// As many faults as it takes.
    fn eject(health: &Health, backend: u32, of: &[u32], now: Instant) -> Option<Duration> {
        (0..FAULTS)
            .filter_map(|_| fail(health, backend, of, now))
            .last()
    }

    #[test]
    fn five_faults_in_a_row_eject_and_an_answer_between_starts_anew() {
        let (health, now) = (Health::default(), Instant::now());
        assert!(health.is_well());
        for _ in 0..4 {
            assert_eq!(None, fail(&health, 1, &[1, 2], now));
        }
        assert!(!health.succeeded(1, now) && health.is_well());
        for _ in 0..4 {
            assert_eq!(None, fail(&health, 1, &[1, 2], now));
        }

        assert_eq!(Some(FIRST_PAUSE), fail(&health, 1, &[1, 2], now));

        assert_eq!(Admission::Closed, health.admission(1, now));
        assert_eq!(Admission::Open, health.admission(2, now));
        assert_eq!("it broke", &*health.ejected(1).unwrap().reason);
    }

    #[test]
    fn at_most_half_are_ejected_while_one_is_well() {
        let (health, now, of) = (Health::default(), Instant::now(), [1, 2, 3]);

        assert!(eject(&health, 1, &of, now).is_some());
        assert_eq!(None, eject(&health, 2, &of, now));
        // The third is no better, so nothing is gained by keeping any.
        assert!(eject(&health, 3, &of, now).is_some());
        assert!(fail(&health, 2, &of, now).is_some());

        for backend in of {
            assert_eq!(Admission::Closed, health.admission(backend, now));
        }
    }

    #[test]
    fn the_only_backend_can_be_ejected() {
        let (health, now) = (Health::default(), Instant::now());

        assert_eq!(Some(FIRST_PAUSE), eject(&health, 7, &[7], now));
    }

    #[test]
    fn a_pause_that_ends_in_a_fault_doubles_up_to_the_longest() {
        let (health, mut now) = (Health::default(), Instant::now());
        let mut pauses = vec![eject(&health, 1, &[1], now).unwrap()];
        for _ in 0..7 {
            // Before the end nothing counts.
            assert_eq!(None, fail(&health, 1, &[1], now));
            now += *pauses.last().unwrap();
            pauses.push(fail(&health, 1, &[1], now).unwrap());
        }

        let seconds: Vec<u64> = pauses.iter().map(Duration::as_secs).collect();
        assert_eq!(vec![1, 2, 4, 8, 16, 32, 60, 60], seconds);
    }

    #[test]
    fn jitter_makes_a_pause_longer_by_up_to_a_half() {
        assert_eq!(Duration::from_millis(1500), pause(0, 1.0));
        assert_eq!(Duration::from_millis(2500), pause(1, 0.5));
        assert_eq!(LONGEST_PAUSE, pause(30, 1.0));
    }

    #[test]
    fn after_the_pause_the_probe_has_its_time_and_then_one_request_is_the_trial() {
        let (health, now) = (Health::default(), Instant::now());
        eject(&health, 1, &[1], now);
        let over = now + FIRST_PAUSE;
        assert_eq!(Admission::Closed, health.admission(1, over));

        let later = over + PROBE_TIME;
        assert_eq!(Admission::Trial, health.admission(1, later));
        assert!(health.take_trial(1, later) && !health.take_trial(1, later));
        assert_eq!(Admission::Closed, health.admission(1, later));
        assert_eq!(Admission::Trial, health.admission(1, later + TRIAL_TIME));

        assert!(health.succeeded(1, later));
        assert_eq!(Admission::Open, health.admission(1, later));
        assert!(health.is_well());
    }

    #[test]
    fn a_probe_that_cannot_tell_opens_the_trial_at_once() {
        let (health, now) = (Health::default(), Instant::now());
        eject(&health, 1, &[1], now);
        let over = now + FIRST_PAUSE;

        health.open_trial(1, over);

        assert_eq!(Admission::Trial, health.admission(1, over));
    }

    #[test]
    fn connections_that_break_together_are_one_fault() {
        let (health, mut now) = (Health::default(), Instant::now());
        let broken = (Fault::Broken, "gone");
        for _ in 0..100 {
            assert_eq!(None, health.failed(1, broken, &[1], now, 0.0));
        }
        for _ in 0..3 {
            now += ONE_BREAK;
            assert_eq!(None, health.failed(1, broken, &[1], now, 0.0));
        }
        now += ONE_BREAK;

        assert!(health.failed(1, broken, &[1], now, 0.0).is_some());
    }

    #[test]
    fn timeouts_count_apart_and_any_answer_starts_them_anew() {
        let (health, now) = (Health::default(), Instant::now());
        let late = (Fault::TimedOut, "no answer");
        for _ in 0..4 {
            health.failed(1, late, &[1], now, 0.0);
            fail(&health, 1, &[1], now);
        }
        health.answered(1);
        assert_eq!(None, health.failed(1, late, &[1], now, 0.0));

        assert!(fail(&health, 1, &[1], now).is_some());
    }

    #[test]
    fn an_ejection_long_after_the_last_is_a_first_one() {
        let (health, now) = (Health::default(), Instant::now());
        eject(&health, 1, &[1], now);
        health.succeeded(1, now);
        assert_eq!(Some(FIRST_PAUSE * 2), eject(&health, 1, &[1], now));
        health.succeeded(1, now);

        assert_eq!(Some(FIRST_PAUSE), eject(&health, 1, &[1], now + FORGOTTEN));
    }

    #[test]
    fn what_is_forgotten_is_open() {
        let (health, now) = (Health::default(), Instant::now());
        eject(&health, 1, &[1], now);

        assert!(health.forget(1) && health.is_well());
        assert_eq!(Admission::Open, health.admission(1, now));
    }
}
