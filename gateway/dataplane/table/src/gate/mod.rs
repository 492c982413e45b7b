//! How many requests of one version are with its backends, over all threads, and who waits to be next.
//!
//! Both numbers are in one atomic word, so a request that finds room costs one exchange and its end one
//! subtraction; the queue and its lock exist only once somebody had to wait. Whoever makes room hands
//! it to the first in the queue and wakes that one alone, on whatever thread it is; while anybody waits
//! nobody else gets in.

mod pace;
mod queue;

use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::task::{ready, Context, Poll, Waker};
use std::time::{Duration, Instant};

use once_cell::race::OnceBox;
use pace::{at_least, expected, next_limit, time_for, Bounds, AIM_MICROS};
use queue::{lock, Queue, Waiter};

pub use pace::UNBOUNDED;

use crate::cell::VersionCell;

const WAITS: u64 = 1 << 32;

/// Why a request may not wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// As many wait as may.
    Full,
    /// It could not be answered before its deadline.
    Late,
    /// Its place went to a request of higher priority.
    Displaced,
    /// It waited for as long as Triton's policy for the model allows.
    Expired,
}

impl Reason {
    /// All of them, in the order of their counters.
    pub const ALL: [Self; 4] = [Self::Full, Self::Late, Self::Displaced, Self::Expired];

    /// Its word as a label.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Full => "queue_full",
            Self::Late => "deadline",
            Self::Displaced => "displaced",
            Self::Expired => "timeout",
        }
    }
}

/// A request that was not let through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refusal {
    /// Why.
    pub reason: Reason,
    /// When the queue as it is now will have been let through.
    pub room_in: Duration,
}

/// What a request says when it must wait.
#[derive(Debug, Clone, Copy)]
pub struct Ask {
    /// Lower ranks go first.
    pub rank: u32,
    /// When its client gives up.
    pub deadline: Option<Instant>,
    /// Most that may wait.
    pub most: u32,
}

/// The gate of one version.
#[derive(Debug)]
pub struct Gate {
    /// Requests that are let through in the low half, those that wait in the high half.
    state: AtomicU64,
    /// Most that are let through now.
    limit: AtomicU32,
    /// What the copies of the version work on at once, all together; 0 where that is not known.
    capacity: AtomicU32,
    /// What an answer took lately, in microseconds; 0 before the first one.
    took: AtomicU32,
    /// Least that a good answer took, in microseconds.
    shortest: AtomicU32,
    crowd: OnceBox<Mutex<Crowd>>,
}

/// What exists only where somebody had to wait, or where the limit had to move.
#[derive(Debug, Default)]
struct Crowd {
    queue: Queue,
    /// Answers since the limit was looked at last, and their time.
    answers: u32,
    micros: u64,
}

impl Default for Gate {
    fn default() -> Self {
        Self {
            state: AtomicU64::new(0),
            limit: AtomicU32::new(Bounds::of(0).first),
            capacity: AtomicU32::new(0),
            took: AtomicU32::new(0),
            shortest: AtomicU32::new(u32::MAX),
            crowd: OnceBox::new(),
        }
    }
}

impl Gate {
    /// Requests that are let through and have not ended.
    #[must_use]
    pub fn inflight(&self) -> u32 {
        self.state.load(Relaxed) as u32
    }

    /// Requests that wait.
    #[must_use]
    pub fn waiting(&self) -> u32 {
        (self.state.load(Relaxed) / WAITS) as u32
    }

    /// Most that are let through now; [`UNBOUNDED`] where nobody is held back.
    #[must_use]
    pub fn limit(&self) -> u32 {
        self.limit.load(Relaxed)
    }

    /// Tell what the copies of the version work on at once. What was measured of others is forgotten.
    pub(crate) fn set_capacity(&self, capacity: u32) {
        if self.capacity.swap(capacity, Relaxed) == capacity {
            return;
        }
        self.limit.store(Bounds::of(capacity).first, Relaxed);
        self.shortest.store(u32::MAX, Relaxed);
        if self.crowd.get().is_some() {
            self.with_crowd(|crowd| {
                (crowd.answers, crowd.micros) = (0, 0);
                self.let_through(&mut crowd.queue)
            });
        }
    }

    /// Let one through, unless there are too many or somebody waits.
    fn try_enter(&self) -> bool {
        let limit = u64::from(self.limit.load(Relaxed));
        let mut seen = self.state.load(Relaxed);
        // Anybody who waits makes the word larger than any limit.
        while seen < limit {
            match self
                .state
                .compare_exchange_weak(seen, seen + 1, Relaxed, Relaxed)
            {
                Ok(_) => return true,
                Err(now) => seen = now,
            }
        }
        false
    }

    /// One that was let through ended without an answer.
    fn leave(&self) {
        if self.state.fetch_sub(1, Relaxed) >= WAITS {
            self.with_crowd(|crowd| self.let_through(&mut crowd.queue));
        }
    }

    /// One that was let through was answered.
    fn done(&self, micros: u64, good: bool) {
        let took = u32::try_from(micros).unwrap_or(u32::MAX);
        let known = self.took.load(Relaxed);
        let mean = if known == 0 {
            took
        } else {
            known - known / 8 + took / 8
        };
        // Where threads overtake each other here, a running mean misses an answer.
        self.took.store(mean, Relaxed);
        if good && took < self.shortest.load(Relaxed) {
            self.shortest.store(took, Relaxed);
        }
        let before = self.state.fetch_sub(1, Relaxed);
        if before >= WAITS || (micros > AIM_MICROS && self.may_shrink()) {
            self.with_crowd(|crowd| {
                self.measure(crowd, micros, before >= WAITS);
                self.let_through(&mut crowd.queue)
            });
        }
    }

    fn may_shrink(&self) -> bool {
        self.limit() > Bounds::of(self.capacity.load(Relaxed)).least
    }

    /// Move the limit once as many were answered as it lets through.
    fn measure(&self, crowd: &mut Crowd, micros: u64, full: bool) {
        let limit = self.limit();
        crowd.answers += 1;
        crowd.micros = crowd.micros.saturating_add(micros);
        if crowd.answers >= limit {
            let mean = crowd.micros / u64::from(crowd.answers);
            let least = Bounds::of(self.capacity.load(Relaxed)).least;
            let shortest = u64::from(self.shortest.load(Relaxed));
            self.limit
                .store(next_limit(limit, least, mean, shortest, full), Relaxed);
            (crowd.answers, crowd.micros) = (0, 0);
        }
    }

    /// A place in the queue, or the reason why there is none.
    fn enqueue(&self, ask: Ask) -> Result<Arc<Waiter>, Refusal> {
        let mut outcome = Err(self.refusal(Reason::Full, 0));
        self.with_crowd(|crowd| {
            let queue = &mut crowd.queue;
            let at_least = at_least(self.capacity.load(Relaxed), self.took.load(Relaxed));
            if self.took.load(Relaxed) > 0 && self.limit() < at_least {
                self.limit.store(at_least, Relaxed);
            }
            let ahead = queue.ahead_of(ask.rank);
            let waits = self.waiting() > 0 || self.inflight() >= self.limit();
            if waits && self.is_late(ask.deadline, ahead) {
                outcome = Err(self.refusal(Reason::Late, queue.len()));
                return Vec::new();
            }
            let mut woken = Vec::new();
            if queue.len() >= ask.most {
                let Some(last) = queue.pop_behind(ask.rank) else {
                    outcome = Err(self.refusal(Reason::Full, queue.len()));
                    return woken;
                };
                self.state.fetch_sub(WAITS, Relaxed);
                woken.extend(last.tell(Err(self.refusal(Reason::Displaced, queue.len()))));
            }
            let waiter = queue.push(ask.rank, ask.deadline);
            self.state.fetch_add(WAITS, Relaxed);
            outcome = Ok(waiter);
            // Room may have been made since it looked.
            woken.extend(self.let_through(queue));
            woken
        });
        outcome
    }

    /// Hand what room there is to the first in the queue. The lock is held, so nobody joins or leaves it,
    /// and while somebody waits nobody enters but through here: the numbers only get better meanwhile.
    fn let_through(&self, queue: &mut Queue) -> Vec<Waker> {
        let mut woken = Vec::new();
        while self.inflight() < self.limit() {
            let Some(first) = queue.pop_first() else {
                break;
            };
            if self.is_late(first.deadline, 0) {
                self.state.fetch_sub(WAITS, Relaxed);
                woken.extend(first.tell(Err(self.refusal(Reason::Late, queue.len()))));
            } else {
                self.state.fetch_sub(WAITS - 1, Relaxed);
                woken.extend(first.tell(Ok(())));
            }
        }
        woken
    }

    /// Whether the answer would come after the deadline, as far as can be said.
    fn is_late(&self, deadline: Option<Instant>, ahead: u32) -> bool {
        deadline.is_some_and(|deadline| {
            let micros = expected(ahead, self.limit(), self.took.load(Relaxed));
            Instant::now() + Duration::from_micros(micros) > deadline
        })
    }

    fn refusal(&self, reason: Reason, waiting: u32) -> Refusal {
        let micros = time_for(waiting, self.limit(), self.took.load(Relaxed));
        Refusal {
            reason,
            room_in: Duration::from_micros(micros),
        }
    }

    /// Do something under the queue's lock, and wake who is told by it after that.
    fn with_crowd(&self, act: impl FnOnce(&mut Crowd) -> Vec<Waker>) {
        let woken = act(&mut lock(self.crowd.get_or_init(Box::default)));
        woken.into_iter().for_each(Waker::wake);
    }
}

/// The right to one request at the backends of a version; given back when dropped.
#[derive(Debug)]
pub struct Permit {
    cell: Arc<VersionCell>,
    answered: bool,
}

impl Permit {
    /// One at once, unless there are too many or somebody waits.
    #[must_use]
    pub fn try_new(cell: &Arc<VersionCell>) -> Option<Self> {
        cell.gate.try_enter().then(|| Self::held(cell))
    }

    fn held(cell: &Arc<VersionCell>) -> Self {
        Self {
            cell: Arc::clone(cell),
            answered: false,
        }
    }

    /// What a request of this version took lately at its backends; nothing before the first answer.
    #[must_use]
    pub fn usual_time(&self) -> Duration {
        Duration::from_micros(self.cell.gate.took.load(Relaxed).into())
    }

    /// The backend is done with the request, after `micros`; `good` where its answer is OK. Only the first
    /// call counts.
    pub fn done(&mut self, micros: u64, good: bool) {
        if !self.answered {
            self.answered = true;
            self.cell.gate.done(micros, good);
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        if !self.answered {
            self.cell.gate.leave();
        }
    }
}

/// A place in the queue of a version; left when dropped. Completes when the request may go on, or must
/// not.
#[derive(Debug)]
pub struct Place {
    cell: Arc<VersionCell>,
    waiter: Arc<Waiter>,
    over: bool,
}

impl Place {
    /// Join the queue.
    ///
    /// # Errors
    /// The request is not to wait.
    pub fn take(cell: &Arc<VersionCell>, ask: Ask) -> Result<Self, Refusal> {
        let waiter = cell.gate.enqueue(ask)?;
        Ok(Self {
            cell: Arc::clone(cell),
            waiter,
            over: false,
        })
    }
}

impl Future for Place {
    type Output = Result<Permit, Refusal>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let outcome = ready!(self.waiter.poll(cx));
        self.over = true;
        Poll::Ready(outcome.map(|()| Permit::held(&self.cell)))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if self.over {
            return;
        }
        let gate = &self.cell.gate;
        let mut left = false;
        gate.with_crowd(|crowd| {
            left = crowd.queue.remove(&self.waiter);
            if left {
                gate.state.fetch_sub(WAITS, Relaxed);
            }
            Vec::new()
        });
        if !left && self.waiter.may_go() {
            // It was let through and will not go: the next one may.
            gate.leave();
        }
    }
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
