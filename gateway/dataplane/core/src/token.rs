//! Cheap values that are made per request: draws of the split and request tokens.

use std::cell::{Cell, RefCell};
use std::hash::{BuildHasher, Hasher, RandomState};

use bytes::{BufMut, Bytes, BytesMut};
use http::HeaderValue;

/// A seed that differs between threads and processes.
fn seed() -> u64 {
    RandomState::new().build_hasher().finish() | 1
}

/// A small pseudo-random generator (xorshift64*), for splits and load balancing, never for secrets.
#[derive(Debug)]
pub(crate) struct Draws(Cell<u64>);

impl Draws {
    pub(crate) fn new() -> Self {
        Self(Cell::new(seed()))
    }

    /// A value below `bound`; `bound` is not 0.
    pub(crate) fn below(&self, bound: u32) -> u32 {
        let mut state = self.0.get();
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        self.0.set(state);
        let high = state.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 32;
        ((high * u64::from(bound)) >> 32) as u32
    }
}

const TOKEN: usize = 16;
const BATCH: u32 = 256;

/// Tokens that name one request each: 8 hex digits of the thread, 8 that count.
#[derive(Debug)]
pub(crate) struct Tokens {
    thread: Cell<u32>,
    next: Cell<u32>,
    batch: RefCell<Bytes>,
}

impl Tokens {
    pub(crate) fn new() -> Self {
        Self {
            thread: Cell::new((seed() >> 16) as u32),
            next: Cell::new(0),
            batch: RefCell::default(),
        }
    }

    /// The next token. Never indexed by header compression, because it comes only once.
    pub(crate) fn next(&self) -> HeaderValue {
        let mut batch = self.batch.borrow_mut();
        if batch.is_empty() {
            *batch = self.write_batch();
        }
        let token = batch.split_to(TOKEN);
        let mut value =
            HeaderValue::from_maybe_shared(token).unwrap_or_else(|_| HeaderValue::from_static("0"));
        value.set_sensitive(true);
        value
    }

    /// Many tokens in one allocation.
    fn write_batch(&self) -> Bytes {
        let mut out = BytesMut::with_capacity(TOKEN * BATCH as usize);
        let first = self.next.get();
        let thread = self.thread.get();
        for count in 0..BATCH {
            put_hex(&mut out, thread);
            put_hex(&mut out, first + count);
        }
        let (next, wrapped) = first.overflowing_add(BATCH);
        self.next.set(next);
        if wrapped {
            self.thread.set((seed() >> 16) as u32);
        }
        out.freeze()
    }
}

fn put_hex(out: &mut BytesMut, value: u32) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    for shift in (0..8).rev() {
        out.put_u8(DIGITS[(value >> (shift * 4) & 15) as usize]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn draws_stay_below_their_bound_and_spread() {
        let draws = Draws::new();
        let mut counts = [0u32; 10];

        for _ in 0..100_000 {
            counts[draws.below(10_000) as usize / 1000] += 1;
        }

        // Ten standard errors of a fair draw: never in a lifetime by chance.
        assert!(
            counts.iter().all(|count| count.abs_diff(10_000) < 950),
            "{counts:?}"
        );
    }

    #[test]
    fn tokens_are_sixteen_hex_digits_and_never_come_twice() {
        let tokens = Tokens::new();
        let mut seen = HashSet::new();

        for _ in 0..1000 {
            let token = tokens.next().to_str().unwrap().to_owned();
            assert!(token.len() == TOKEN && token.bytes().all(|byte| byte.is_ascii_hexdigit()));
            assert!(seen.insert(token));
        }
    }
}
