//! What is written into a DATA frame: up to three pieces that travel as one, without being copied.

use std::cell::RefCell;
use std::io::IoSlice;

use bytes::{Buf, Bytes};
use stagegate_wire::frame::{Prefix, PREFIX};

/// Bodies from this on are worth more than a copy.
pub(crate) const LARGE: usize = 2 << 10;

thread_local! {
    /// The large body of which a slice was given out last.
    static LAST: RefCell<Bytes> = const { RefCell::new(Bytes::new()) };
}

/// The owner of a slice of a body that was given out just now, cut to that slice. It is asked once.
///
/// h2 shows a connection slices only. With their owner they can be kept until several of them are
/// written together, without being copied.
pub(crate) fn owner_of(slice: &[u8]) -> Option<Bytes> {
    if slice.len() < LARGE {
        return None;
    }
    let last = LAST.take();
    let (range, wanted) = (last.as_ptr_range(), slice.as_ptr_range());
    (range.start <= wanted.start && wanted.end <= range.end).then(|| last.slice_ref(slice))
}

/// Let go of the body that was given out last: it is written without its owner.
pub(crate) fn forget() {
    LAST.take();
}

fn show(body: &Bytes) {
    if body.len() >= LARGE {
        LAST.with_borrow_mut(|last| *last = body.clone());
    }
}

/// An optional message prefix, a body as it came, and an optional tail.
#[derive(Debug, Default)]
pub(crate) struct Joined {
    prefix: [u8; PREFIX],
    /// How much of `prefix` was taken; `PREFIX` where there is none.
    taken: u8,
    body: Bytes,
    tail: Bytes,
}

impl Joined {
    /// A whole plain message: new prefix, body, tail.
    pub(crate) fn message(body: Bytes, tail: Bytes) -> Self {
        Self::opening(body.len() + tail.len(), body, tail)
    }

    /// The start of a plain message that is `len` bytes long in all.
    pub(crate) fn opening(len: usize, body: Bytes, tail: Bytes) -> Self {
        Self::with_prefix(
            Prefix {
                compressed: 0,
                len: len as u32,
            },
            body,
            tail,
        )
    }

    /// The start of a message with a prefix of its own.
    pub(crate) fn with_prefix(prefix: Prefix, body: Bytes, tail: Bytes) -> Self {
        Self {
            prefix: prefix.write(),
            taken: 0,
            body,
            tail,
        }
    }

    /// Bytes from the middle of a message, or from its end with the tail.
    pub(crate) fn rest(body: Bytes, tail: Bytes) -> Self {
        Self {
            prefix: [0; PREFIX],
            taken: PREFIX as u8,
            body,
            tail,
        }
    }

    /// Take the first `count` bytes off, as a piece of its own. `count` is at most what remains.
    pub(crate) fn split_to(&mut self, mut count: usize) -> Self {
        let mut head = Self::rest(Bytes::new(), Bytes::new());
        let open = PREFIX - usize::from(self.taken);
        if open > 0 {
            let part = open.min(count);
            // The prefix is read up to its end, so a part of it is moved to the end of the other.
            let from = usize::from(self.taken);
            head.taken = (PREFIX - part) as u8;
            head.prefix[PREFIX - part..].copy_from_slice(&self.prefix[from..from + part]);
            self.taken += part as u8;
            count -= part;
        }
        let part = count.min(self.body.len());
        head.body = self.body.split_to(part);
        head.tail = self.tail.split_to(count - part);
        head
    }
}

impl From<Bytes> for Joined {
    fn from(body: Bytes) -> Self {
        Self::rest(body, Bytes::new())
    }
}

impl Buf for Joined {
    fn remaining(&self) -> usize {
        PREFIX - usize::from(self.taken) + self.body.len() + self.tail.len()
    }

    fn chunk(&self) -> &[u8] {
        #[cfg(feature = "failpoints")]
        crate::failpoint::looked_at();
        let prefix = &self.prefix[usize::from(self.taken)..];
        if !prefix.is_empty() {
            prefix
        } else if self.body.is_empty() {
            &self.tail
        } else {
            show(&self.body);
            &self.body
        }
    }

    fn advance(&mut self, mut count: usize) {
        let part = count.min(PREFIX - usize::from(self.taken));
        self.taken += part as u8;
        count -= part;
        let part = count.min(self.body.len());
        self.body.advance(part);
        self.tail.advance(count - part);
    }

    fn chunks_vectored<'a>(&'a self, slices: &mut [IoSlice<'a>]) -> usize {
        let pieces = [
            &self.prefix[usize::from(self.taken)..],
            &self.body,
            &self.tail,
        ];
        show(&self.body);
        let mut used = 0;
        for piece in pieces {
            if !piece.is_empty() && used < slices.len() {
                slices[used] = IoSlice::new(piece);
                used += 1;
            }
        }
        used
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Joined {
        Joined::message(Bytes::from_static(b"body"), Bytes::from_static(b"tail"))
    }

    fn bytes(mut joined: Joined) -> Vec<u8> {
        let len = joined.remaining();
        joined.copy_to_bytes(len).to_vec()
    }

    #[test]
    fn a_message_reads_as_prefix_body_and_tail() {
        assert_eq!(b"\0\0\0\0\x08bodytail".to_vec(), bytes(sample()));
    }

    #[test]
    fn split_anywhere_the_two_parts_are_the_whole() {
        let whole = bytes(sample());
        for at in 0..=whole.len() {
            let mut rest = sample();
            let head = bytes(rest.split_to(at));

            assert_eq!(whole[..at], head);
            assert_eq!(whole[at..], bytes(rest));
        }
    }

    #[test]
    fn a_part_of_a_part_of_the_prefix_is_still_right() {
        let mut rest = sample();
        rest.split_to(1);
        let mut middle = rest.split_to(3);
        let first = bytes(middle.split_to(2));

        assert_eq!((vec![0, 0], vec![0]), (first, bytes(middle)));
    }

    #[test]
    fn advance_and_vectored_agree() {
        let whole = bytes(sample());
        for at in 0..=whole.len() {
            let mut rest = sample();
            rest.advance(at);
            let mut slices = [IoSlice::new(b""), IoSlice::new(b""), IoSlice::new(b"")];
            let used = rest.chunks_vectored(&mut slices);
            let flat: Vec<u8> = slices[..used]
                .iter()
                .flat_map(|slice| slice.to_vec())
                .collect();

            assert_eq!(whole[at..], flat);
        }
    }
}
