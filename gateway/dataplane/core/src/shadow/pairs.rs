//! Two answers to one request, for the control plane to compare: a bounded queue and a descriptor that
//! wakes it. Nobody waits for the control plane; what does not fit is not compared.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use bytes::Bytes;
use rustix::event::{eventfd, EventfdFlags};

/// Pairs that wait at most.
const PAIRS: usize = 256;
/// Bytes of answers that wait at most.
const BYTES: usize = 16 << 20;
/// Pairs that are taken in a second at most: more would not tell more.
const A_SECOND: f64 = 200.0;

/// The client's answer and the shadow's, each a `ModelInferResponse` as its backend gave it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pair {
    /// Logical model.
    pub model: String,
    /// Version that answered the client.
    pub version: String,
    /// Name of the shadow.
    pub shadow: String,
    /// The shadow's version.
    pub shadow_version: String,
    /// The token that the client has for its request.
    pub request: String,
    /// The client's answer.
    pub primary: Bytes,
    /// The shadow's answer.
    pub copy: Bytes,
}

impl Pair {
    fn bytes(&self) -> usize {
        self.primary.len() + self.copy.len()
    }
}

/// The queue, shared by all threads.
#[derive(Debug)]
pub struct Pairs {
    inner: Mutex<Inner>,
    ready: OwnedFd,
}

#[derive(Debug)]
struct Inner {
    queue: VecDeque<Pair>,
    bytes: usize,
    /// How many may be taken now, as of `filled`.
    allowed: f64,
    filled: Instant,
}

impl Inner {
    fn new(now: Instant) -> Self {
        Self {
            queue: VecDeque::new(),
            bytes: 0,
            allowed: A_SECOND,
            filled: now,
        }
    }

    fn push(&mut self, pair: Pair, now: Instant) -> bool {
        let since = now.saturating_duration_since(self.filled).as_secs_f64();
        self.allowed = (self.allowed + since * A_SECOND).min(A_SECOND);
        self.filled = now;
        let full = self.queue.len() == PAIRS || self.bytes + pair.bytes() > BYTES;
        if full || self.allowed < 1.0 {
            return false;
        }
        self.allowed -= 1.0;
        self.bytes += pair.bytes();
        self.queue.push_back(pair);
        true
    }

    fn take(&mut self, most: usize) -> Vec<Pair> {
        let pairs: Vec<Pair> = self.queue.drain(..most.min(self.queue.len())).collect();
        self.bytes -= pairs.iter().map(Pair::bytes).sum::<usize>();
        pairs
    }
}

impl Pairs {
    /// An empty queue.
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self {
            inner: Mutex::new(Inner::new(Instant::now())),
            ready: eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC)?,
        })
    }

    /// The descriptor that becomes readable when there are pairs.
    #[must_use]
    pub fn fd(&self) -> RawFd {
        self.ready.as_fd().as_raw_fd()
    }

    /// Take some of the pairs. The descriptor is quiet afterwards, unless some are left.
    #[must_use]
    pub fn take(&self, most: usize) -> Vec<Pair> {
        // An error means that it was quiet already.
        let _ = rustix::io::read(&self.ready, &mut [0u8; 8]);
        let mut inner = self.lock();
        let pairs = inner.take(most);
        if !inner.queue.is_empty() {
            self.wake();
        }
        pairs
    }

    /// Hand a pair over; false where there is enough to compare already.
    pub(crate) fn push(&self, pair: Pair, now: Instant) -> bool {
        let mut inner = self.lock();
        let first = inner.queue.is_empty();
        let taken = inner.push(pair, now);
        if taken && first {
            self.wake();
        }
        taken
    }

    fn wake(&self) {
        // Fails only where the counter is at its end, and then the descriptor is readable anyway.
        let _ = rustix::io::write(&self.ready, &1u64.to_ne_bytes());
    }

    /// The queue stays consistent whatever panics, so a poisoned lock is as good as any.
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn pair(bytes: usize) -> Pair {
        let text = String::new;
        Pair {
            model: text(),
            version: text(),
            shadow: text(),
            shadow_version: text(),
            request: text(),
            primary: vec![0; bytes].into(),
            copy: Bytes::new(),
        }
    }

    #[test]
    fn more_pairs_a_second_than_are_looked_at_are_refused() {
        let start = Instant::now();
        let mut inner = Inner::new(start);
        let burst = (0..1000).filter(|_| inner.push(pair(0), start));
        assert_eq!(200, burst.count());
        inner.take(PAIRS);

        let later = start + Duration::from_millis(100);

        let more = (0..1000).filter(|_| inner.push(pair(0), later));
        assert_eq!(20, more.count());
    }

    #[test]
    fn pairs_that_nobody_takes_are_bounded_in_number_and_bytes() {
        let mut now = Instant::now();
        let mut inner = Inner::new(now);
        let mut pushed = |inner: &mut Inner, bytes: usize| {
            now += Duration::from_secs(1);
            inner.push(pair(bytes), now)
        };

        assert_eq!(
            PAIRS,
            (0..2 * PAIRS).filter(|_| pushed(&mut inner, 1)).count()
        );
        assert_eq!(PAIRS, inner.take(usize::MAX).len());
        let large = (0..100).filter(|_| pushed(&mut inner, 1 << 20));
        assert_eq!(BYTES >> 20, large.count());
        assert_eq!(3, inner.take(3).len());
        assert_eq!(3, (0..9).filter(|_| pushed(&mut inner, 1 << 20)).count());
    }

    #[test]
    fn the_descriptor_is_readable_for_as_long_as_there_are_pairs() {
        let pairs = Pairs::new().unwrap();
        let now = Instant::now();
        assert!(pairs.push(pair(1), now) && pairs.push(pair(1), now));
        let is_readable = || rustix::io::read(&pairs.ready, &mut [0u8; 8]).is_ok();

        assert_eq!(1, pairs.take(1).len());
        assert!(is_readable());
        assert_eq!(1, pairs.take(9).len());
        assert!(!is_readable());
    }
}
