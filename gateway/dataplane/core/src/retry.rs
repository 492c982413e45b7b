//! When a request is sent once more, and what it waits for before that.
//!
//! What provably was not begun is sent again without asking. What a backend may have begun is sent once
//! more at most, to another backend where there is one, while the budget lasts.

use std::cell::Cell;
use std::future::{poll_fn, Future};
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use stagegate_table::counters::RetryReason;
use stagegate_table::{Fault, State};

use crate::client::{Client, Failure};
use crate::cold;
use crate::routed::Routed;
use crate::worker::Worker;

/// Time that a request waits at most for a lost backend, or for the table to say where its version is now:
/// longer than the control plane takes to find out.
pub(crate) const PATIENCE: Duration = Duration::from_secs(5);

/// One retry for so many requests.
const REQUESTS_A_RETRY: u32 = 5;
/// Retries that a budget holds at most.
const MOST: u32 = 100;
/// Retries that are there at the start, and that there are again after a while without requests.
const FLOOR: u32 = 10;
/// Time in which an empty budget is back at its floor.
const FLOOR_TIME: Duration = Duration::from_secs(10);

/// How many requests that a backend may have begun are sent once more: one of five, and a few where there
/// are hardly any requests. One thread's, for one backend.
#[derive(Debug)]
pub(crate) struct Budget {
    /// In parts of a retry, one for each request.
    held: Cell<u32>,
    /// When time gave something back last.
    refilled: Cell<Option<Instant>>,
}

impl Budget {
    pub(crate) fn new() -> Self {
        Self {
            held: Cell::new(FLOOR * REQUESTS_A_RETRY),
            refilled: Cell::new(None),
        }
    }

    /// A request was sent.
    pub(crate) fn deposit(&self) {
        self.held
            .set((self.held.get() + 1).min(MOST * REQUESTS_A_RETRY));
    }

    /// Take one retry; false where there is none.
    pub(crate) fn withdraw(&self, now: Instant) -> bool {
        self.refill(now);
        let Some(left) = self.held.get().checked_sub(REQUESTS_A_RETRY) else {
            return false;
        };
        self.held.set(left);
        true
    }

    /// What time gives back, up to the floor.
    fn refill(&self, now: Instant) {
        let floor = FLOOR * REQUESTS_A_RETRY;
        let since = self.refilled.get().unwrap_or(now);
        let passed = now.saturating_duration_since(since).min(FLOOR_TIME);
        let back = u128::from(floor) * passed.as_millis() / FLOOR_TIME.as_millis();
        if back > 0 || self.refilled.get().is_none() {
            self.refilled.set(Some(now));
        }
        let held = self.held.get();
        self.held.set(held.max((held + back as u32).min(floor)));
    }
}

/// Whether and why a failed request may be sent once more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Again {
    /// It must not.
    Never,
    /// It was not begun.
    Free(RetryReason),
    /// It may have been begun: once, while the budget lasts.
    Once(RetryReason),
}

impl Again {
    /// By what the backend did wrong, where it answered or broke.
    pub(crate) fn after(code_is_unavailable: bool, fault: Option<Fault>) -> Self {
        match fault {
            Some(Fault::Gone) => Self::Free(RetryReason::Gone),
            Some(Fault::Broken) => Self::Once(RetryReason::Broken),
            Some(_) if code_is_unavailable => Self::Once(RetryReason::Unavailable),
            _ => Self::Never,
        }
    }
}

/// What a request can wait for, when no backend can be asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum WaitFor {
    /// Another table.
    Table,
    /// Another table, or a connection to a backend.
    Connection,
}

/// Wait until it may be worth while to ask again; the failure where that does not come in time.
pub(crate) async fn wait(
    worker: &Worker,
    client: &mut Client,
    routed: &mut Routed,
    (what, until): (WaitFor, Instant),
    failure: Failure,
) -> Result<(), Failure> {
    let changed = {
        let mut waiting = Box::pin(wait_alone(worker, routed, what, until));
        client.wait(|_, cx| waiting.as_mut().poll(cx)).await?
    };
    if !changed {
        return Err(failure);
    }
    cold::look_again(worker, routed)?;
    if routed.version.state == State::Ready {
        return Ok(());
    }
    cold::ready_for(worker, client, routed).await
}

/// Wait, at a place in the queue of the version, until it may be worth while to ask again. False where that
/// does not come in time, or where there is no place.
pub(crate) async fn wait_alone(
    worker: &Worker,
    routed: &Routed,
    what: WaitFor,
    until: Instant,
) -> bool {
    let limit = u32::try_from(worker.limits().queue_per_model).unwrap_or(u32::MAX);
    let place = worker.with_counters(|_, counters| counters.wait(&routed.pick(), limit));
    let Some(place) = place else {
        return false;
    };
    // No load is asked for here: it is ready as far as we know.
    place.not_asked();
    change(worker, routed, what, until).await
}

/// Wait for a change of the version, or for a connection; false where the time is over.
pub(crate) async fn change(
    worker: &Worker,
    routed: &Routed,
    what: WaitFor,
    until: Instant,
) -> bool {
    let cell = Arc::clone(&routed.version.cell);
    let mut changed = pin!(cell.changed());
    changed.as_mut().enable();
    let mut connected = pin!(worker.pool.connected());
    connected.as_mut().enable();
    let mut late = pin!(tokio::time::sleep_until(until.into()));
    // What happened between the failure and here was not told to anybody.
    let model = routed.model.name.as_bytes();
    let now = worker.with_table(|table| {
        table
            .version(model, &routed.version.id)
            .map(|found| Arc::clone(found.1))
    });
    if !now.is_some_and(|now| Arc::ptr_eq(&now, &routed.version)) {
        return true;
    }
    poll_fn(|cx| {
        if changed.as_mut().poll(cx).is_ready() {
            return Poll::Ready(true);
        }
        if what == WaitFor::Connection && connected.as_mut().poll(cx).is_ready() {
            return Poll::Ready(true);
        }
        late.as_mut().poll(cx).map(|()| false)
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(budget: &Budget, now: Instant) -> u32 {
        (0..1_000).take_while(|_| budget.withdraw(now)).count() as u32
    }

    #[test]
    fn a_new_budget_holds_its_floor() {
        let (budget, now) = (Budget::new(), Instant::now());

        assert_eq!(FLOOR, taken(&budget, now));
        assert!(!budget.withdraw(now));
    }

    #[test]
    fn one_of_five_requests_may_be_sent_once_more() {
        let (budget, now) = (Budget::new(), Instant::now());
        taken(&budget, now);
        let mut retries = 0;
        for _ in 0..1_000 {
            budget.deposit();
            retries += u32::from(budget.withdraw(now));
        }

        assert_eq!(200, retries);
    }

    #[test]
    fn what_is_not_used_is_kept_up_to_a_bound() {
        let (budget, now) = (Budget::new(), Instant::now());
        for _ in 0..100_000 {
            budget.deposit();
        }

        assert_eq!(MOST, taken(&budget, now));
    }

    #[test]
    fn an_empty_budget_is_back_at_its_floor_with_time_and_no_higher() {
        let (budget, now) = (Budget::new(), Instant::now());
        taken(&budget, now);

        assert_eq!(FLOOR / 2, taken(&budget, now + FLOOR_TIME / 2));
        assert_eq!(FLOOR, taken(&budget, now + FLOOR_TIME * 10));
    }

    #[test]
    fn what_was_not_begun_is_free_and_what_may_have_been_begun_is_sent_once() {
        let after = Again::after;

        assert_eq!(
            Again::Free(RetryReason::Gone),
            after(false, Some(Fault::Gone))
        );
        assert_eq!(
            Again::Once(RetryReason::Broken),
            after(true, Some(Fault::Broken))
        );
        assert_eq!(
            Again::Once(RetryReason::Unavailable),
            after(true, Some(Fault::Failed))
        );
        // A model whose process died, perhaps of this very request.
        assert_eq!(Again::Never, after(false, Some(Fault::Failed)));
        assert_eq!(Again::Never, after(false, None));
    }
}
