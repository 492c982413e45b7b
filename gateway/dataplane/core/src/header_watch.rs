//! Watches what a client sends for a header block that is begun and not ended.
//!
//! h2 waits for the end of a block for as long as it takes and tells nobody, so the frames are followed
//! here: nine bytes of each are looked at, nothing is kept.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Instant;

const PREFACE: usize = 24;
const FRAME_HEAD: usize = 9;
const HEADERS: u8 = 1;
const CONTINUATION: u8 = 9;
const END_HEADERS: u8 = 4;

/// Since when a header block, or the head of a frame, is incomplete.
pub(crate) type OpenSince = Rc<Cell<Option<Instant>>>;

/// Follows the frames of one connection.
#[derive(Debug)]
pub(crate) struct HeaderWatch {
    head: [u8; FRAME_HEAD],
    have: usize,
    /// Bytes of the current payload that are to come.
    left: usize,
    /// The current frame belongs to a header block.
    in_block: bool,
    /// The current frame is the last of its block.
    ends_block: bool,
    open_since: OpenSince,
}

impl HeaderWatch {
    /// For a connection of which nothing was read yet. The preface, which a first frame must follow,
    /// counts as a block.
    pub(crate) fn new() -> Self {
        Self {
            head: [0; FRAME_HEAD],
            have: 0,
            left: PREFACE,
            in_block: true,
            ends_block: false,
            open_since: OpenSince::default(),
        }
    }

    /// What it finds.
    pub(crate) fn open_since(&self) -> OpenSince {
        Rc::clone(&self.open_since)
    }

    /// The next bytes of the connection.
    pub(crate) fn feed(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            if self.left > 0 {
                let part = bytes.len().min(self.left);
                self.left -= part;
                bytes = &bytes[part..];
            } else {
                let part = bytes.len().min(FRAME_HEAD - self.have);
                self.head[self.have..self.have + part].copy_from_slice(&bytes[..part]);
                self.have += part;
                bytes = &bytes[part..];
                if self.have == FRAME_HEAD {
                    self.begin_frame();
                }
            }
            if self.left == 0 && self.have == 0 && !self.is_open() {
                self.open_since.set(None);
            }
        }
        if !self.is_open() {
            self.open_since.set(None);
        } else if self.open_since.get().is_none() {
            self.open_since.set(Some(Instant::now()));
        }
    }

    fn begin_frame(&mut self) {
        let [high, middle, low, kind, flags, ..] = self.head;
        self.have = 0;
        self.left = usize::from(high) << 16 | usize::from(middle) << 8 | usize::from(low);
        self.in_block = matches!(kind, HEADERS | CONTINUATION);
        self.ends_block = flags & END_HEADERS != 0;
    }

    fn is_open(&self) -> bool {
        self.have > 0 || (self.in_block && (self.left > 0 || !self.ends_block))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
        let mut out = vec![0, 0, payload.len() as u8, kind, flags, 0, 0, 0, 1];
        out.extend_from_slice(payload);
        out
    }

    fn begun() -> HeaderWatch {
        let mut watch = HeaderWatch::new();
        watch.feed(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
        watch.feed(&frame(4, 0, b""));
        watch
    }

    #[test]
    fn a_preface_without_a_frame_is_open() {
        let mut watch = HeaderWatch::new();
        watch.feed(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");

        assert!(watch.open_since().get().is_some());
    }

    #[test]
    fn whole_frames_leave_nothing_open_wherever_they_are_cut() {
        let bytes = [
            frame(1, 0, b"half"),
            frame(9, 4, b"rest"),
            frame(0, 1, b"data"),
            frame(1, 4, b""),
            frame(6, 0, b"12345678"),
        ]
        .concat();
        for cut in 1..=bytes.len() {
            let mut watch = begun();
            bytes.chunks(cut).for_each(|part| watch.feed(part));

            assert_eq!(None, watch.open_since().get(), "{cut}");
        }
    }

    #[test]
    fn a_block_is_open_until_its_last_byte() {
        let bytes = [frame(1, 0, b"half"), frame(9, 4, b"rest")].concat();
        for cut in 1..bytes.len() {
            let mut watch = begun();
            watch.feed(&bytes[..cut]);

            assert!(watch.open_since().get().is_some(), "{cut}");
        }
    }

    #[test]
    fn half_a_payload_of_data_is_not_open() {
        let mut watch = begun();
        watch.feed(&frame(0, 0, b"data")[..11]);

        assert_eq!(None, watch.open_since().get());
    }

    #[test]
    fn the_time_of_one_block_is_not_that_of_the_next() {
        let mut watch = begun();
        watch.feed(&frame(1, 4, b"half")[..10]);
        let first = watch.open_since().get();
        watch.feed(&[&b"alf"[..], &frame(1, 4, b"half")[..10]].concat());

        assert!(watch.open_since().get() > first);
    }
}
