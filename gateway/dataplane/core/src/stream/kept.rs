//! Messages that a backend has not answered yet: what it provably did not begin with goes to another one.

use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use stagegate_table::counters::RetryReason;
use stagegate_table::Series;
use stagegate_wire::stream::{request_id, StreamAnswer};

use crate::budget::{Budget, Held};
use crate::routed::Routed;
use crate::sequences::Hold;
use crate::status::Status;

/// Messages that are kept of one leg at most.
const MESSAGES: usize = 256;
/// Backends that one message is sent to at most.
pub(super) const TRIES: usize = 4;

/// Where a message goes.
pub(super) struct To {
    pub(super) routed: Routed,
    /// The arm that was drawn; none for a pinned version.
    pub(super) arm: Option<Box<str>>,
    pub(super) series: Arc<Series>,
    /// Its place in a sequence.
    pub(super) hold: Option<Hold>,
    /// Whether an open sequence decided, which says nothing about other messages.
    pub(super) continued: bool,
    /// Backends that it was sent to in vain.
    pub(super) failed: Vec<u32>,
    /// Whether it was sent once more although it may have been begun.
    pub(super) retried: bool,
}

impl To {
    /// The backends that are not to be tried while there are others.
    pub(super) fn avoided(&self) -> &[u32] {
        let is_left = |id: &u32| !self.failed.contains(id);
        if self.routed.backends().iter().any(is_left) {
            &self.failed
        } else {
            &[]
        }
    }
}

/// A message that a backend has, or had.
pub(super) struct Kept {
    pub(super) message: Bytes,
    pub(super) to: To,
}

impl Kept {
    fn is_of(&self, series: &Arc<Series>) -> bool {
        Arc::ptr_eq(&self.to.series, series)
    }

    fn has_id(&self, id: &[u8]) -> bool {
        request_id(&self.message).unwrap_or_default() == id
    }

    /// Whether it may be sent to yet another backend.
    pub(super) fn may_go_on(&self) -> bool {
        self.to.failed.len() + 1 < TRIES
    }

    /// Whether it may be sent once more although it may have been begun.
    pub(super) fn may_be_repeated(&self) -> bool {
        self.to.hold.is_none() && !self.to.retried
    }
}

/// A message that is to be sent once more.
pub(super) struct Returned {
    pub(super) kept: Kept,
    pub(super) why: RetryReason,
    /// What the client is told where nobody takes it.
    pub(super) status: Status,
}

/// The messages of a leg that have no answer yet, oldest first.
pub(super) struct Unanswered {
    messages: VecDeque<Kept>,
    held: Held,
    bytes: usize,
    most: usize,
    /// Whether all of them are here: they are let go when they are too many.
    whole: bool,
}

impl Unanswered {
    /// Of at most that many bytes.
    pub(super) fn new(budget: &Rc<Budget>, most: usize) -> Self {
        Self {
            messages: VecDeque::new(),
            held: Held::new(budget),
            bytes: 0,
            most,
            whole: true,
        }
    }

    /// Keep one more. Gives all of them where there is no room: none is sent again then.
    pub(super) fn keep(&mut self, kept: Kept) -> VecDeque<Kept> {
        let size = kept.message.len();
        let has_room = self.messages.len() < MESSAGES && self.bytes + size <= self.most;
        if self.whole && has_room && self.held.add(size).is_ok() {
            self.bytes += size;
            self.messages.push_back(kept);
            return VecDeque::new();
        }
        self.whole = false;
        let mut all = self.take_all();
        all.push_back(kept);
        all
    }

    /// Whether every message without an answer is here.
    pub(super) fn is_whole(&self) -> bool {
        self.whole
    }

    pub(super) fn is_empty(&self) -> bool {
        self.messages.is_empty()
    }

    pub(super) fn all_may_go_on(&self) -> bool {
        self.messages.iter().all(Kept::may_go_on)
    }

    /// All that are here, which are then no longer.
    pub(super) fn take_all(&mut self) -> VecDeque<Kept> {
        self.held.sub(std::mem::take(&mut self.bytes));
        std::mem::take(&mut self.messages)
    }

    /// The newest.
    pub(super) fn take_last(&mut self) -> Option<Kept> {
        self.messages
            .len()
            .checked_sub(1)
            .and_then(|at| self.remove(at))
    }

    /// The one that is here, where it is the only one.
    pub(super) fn only(&self) -> Option<&Kept> {
        match self.messages.len() {
            1 if self.whole => self.messages.front(),
            _ => None,
        }
    }

    /// An answer came to one of that version. False where that is not known here.
    pub(super) fn answered(&mut self, series: &Arc<Series>, seen: &StreamAnswer<'_>) -> bool {
        if seen.id.is_empty() && seen.last == Some(false) {
            // Its further answers cannot be told from those to others.
            self.whole = false;
        }
        let fits = |kept: &Kept| kept.is_of(series) && kept.has_id(seen.id);
        if let Some(at) = self.messages.iter().position(fits) {
            return self.remove(at).is_some();
        }
        // Some errors say no id, and some servers another one than they were given.
        let holds = |kept: &&mut Kept| kept.is_of(series) && kept.to.hold.is_some();
        let oldest = self.messages.iter_mut().find(holds);
        let hold = oldest.and_then(|kept| kept.to.hold.take());
        self.whole &= hold.is_none() && !seen.id.is_empty();
        hold.is_some()
    }

    /// The one of that version and id, where there can be no doubt which one that is.
    pub(super) fn take(
        &mut self,
        series: &Arc<Series>,
        id: &[u8],
        may: impl Fn(&Kept) -> bool,
    ) -> Option<Kept> {
        if !self.whole {
            return None;
        }
        let of_it = |at: &usize| self.messages[*at].is_of(series);
        let mut all = (0..self.messages.len()).filter(of_it);
        let mut named = (0..self.messages.len())
            .filter(of_it)
            .filter(|at| self.messages[*at].has_id(id));
        let at = match (all.next(), all.next()) {
            (Some(only), None) => only,
            _ => match (named.next(), named.next()) {
                (Some(only), None) if !id.is_empty() => only,
                _ => return None,
            },
        };
        may(&self.messages[at]).then(|| self.remove(at))?
    }

    fn remove(&mut self, at: usize) -> Option<Kept> {
        let kept = self.messages.remove(at)?;
        let size = kept.message.len();
        self.bytes -= size;
        self.held.sub(size);
        Some(kept)
    }
}
