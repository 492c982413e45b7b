//! Notices that registries post, and the answers that the control plane gives to them.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use bytes::Bytes;
use http::StatusCode;
use tokio::sync::oneshot;

use crate::budget::Taken;
use crate::rate::Rate;

/// Notices that wait for an answer at most, of all threads together.
pub(crate) const MOST: usize = 64;
/// Notices that are handed over within a second at most: each costs the control plane time, whoever sent it.
const MOST_A_SECOND: usize = 200;
/// Bytes of notices that are on their way or wait for an answer, of all threads together.
pub(crate) const MOST_BYTES: usize = 16 << 20;

/// One notice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Webhook {
    /// Name of the registry, as the path has it.
    pub registry: String,
    /// Names in lower case, each once.
    pub headers: Vec<(String, String)>,
    /// As it was sent.
    pub body: Bytes,
}

/// What the control plane says to a notice.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    /// What is wrong; empty where nothing is.
    pub(crate) text: String,
}

/// Notices that wait for an answer.
#[derive(Debug, Default)]
pub struct Webhooks {
    state: Mutex<State>,
    /// Bytes of notices that the threads have taken.
    pub(crate) buffered: Arc<Taken>,
}

#[derive(Debug, Default)]
struct State {
    last: u64,
    waiting: HashMap<u64, Waiting>,
    rate: Rate,
}

#[derive(Debug)]
struct Waiting {
    /// None once the control plane has it.
    notice: Option<Webhook>,
    answer: oneshot::Sender<Answer>,
}

impl Webhooks {
    /// A place for one more notice, unless too many wait or came just now.
    pub(crate) fn enter(self: &Arc<Self>, notice: Webhook, now: Instant) -> Option<Place> {
        let mut state = self.state();
        if state.waiting.len() >= MOST || !state.rate.is_within(MOST_A_SECOND, now) {
            return None;
        }
        state.last += 1;
        let id = state.last;
        let (answer, answered) = oneshot::channel();
        let notice = Some(notice);
        state.waiting.insert(id, Waiting { notice, answer });
        Some(Place {
            webhooks: Arc::clone(self),
            id,
            answered,
        })
    }

    /// The notice of an event. `None` where nobody waits for its answer any more.
    #[must_use]
    pub fn take(&self, id: u64) -> Option<Webhook> {
        self.state().waiting.get_mut(&id)?.notice.take()
    }

    /// Answer a notice with this status, and what is wrong with it; empty where nothing is. False where
    /// nobody waits for it any more.
    pub fn answer(&self, id: u64, status: StatusCode, text: String) -> bool {
        let waiting = self.state().waiting.remove(&id);
        waiting.is_some_and(|waiting| waiting.answer.send(Answer { status, text }).is_ok())
    }

    /// It stays consistent whatever panics.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The place of a notice, given back when it is dropped.
#[derive(Debug)]
pub(crate) struct Place {
    webhooks: Arc<Webhooks>,
    id: u64,
    answered: oneshot::Receiver<Answer>,
}

impl Place {
    pub(crate) fn id(&self) -> u64 {
        self.id
    }

    /// Wait for the answer. `None` where there will be none.
    pub(crate) async fn answer(&mut self) -> Option<Answer> {
        (&mut self.answered).await.ok()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.webhooks.state().waiting.remove(&self.id);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn notice() -> Webhook {
        Webhook {
            registry: "models".to_owned(),
            headers: Vec::new(),
            body: Bytes::from_static(b"{}"),
        }
    }

    #[tokio::test]
    async fn an_answer_reaches_its_notice_once() {
        let webhooks = Arc::new(Webhooks::default());
        let mut one = webhooks.enter(notice(), Instant::now()).unwrap();
        let two = webhooks.enter(notice(), Instant::now()).unwrap();

        assert_eq!(Some(notice()), webhooks.take(one.id()));
        assert_eq!(None, webhooks.take(one.id()));
        assert!(webhooks.answer(one.id(), StatusCode::CONFLICT, "old".to_owned()));
        assert!(!webhooks.answer(one.id(), StatusCode::OK, String::new()));
        let answer = one.answer().await.unwrap();
        assert_eq!(
            (StatusCode::CONFLICT, "old"),
            (answer.status, &*answer.text)
        );

        let id = two.id();
        drop(two);
        assert_eq!(None, webhooks.take(id));
        assert!(!webhooks.answer(id, StatusCode::OK, String::new()));
    }

    #[test]
    fn few_wait() {
        let webhooks = Arc::new(Webhooks::default());
        let mut places: Vec<_> = (0..MOST)
            .map(|_| webhooks.enter(notice(), Instant::now()).unwrap())
            .collect();

        assert!(webhooks.enter(notice(), Instant::now()).is_none());
        places.pop();
        assert!(webhooks.enter(notice(), Instant::now()).is_some());
    }

    #[test]
    fn few_come_in_a_second() {
        let (webhooks, start) = (Arc::new(Webhooks::default()), Instant::now());
        let enters = |now| {
            (0..1_000)
                .filter(|_| webhooks.enter(notice(), now).is_some())
                .count()
        };

        assert_eq!(MOST_A_SECOND, enters(start));
        assert_eq!(0, enters(start + Duration::from_millis(500)));
        assert_eq!(MOST_A_SECOND, enters(start + Duration::from_secs(1)));
    }
}
