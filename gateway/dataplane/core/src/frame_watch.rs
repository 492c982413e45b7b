//! Watches what a client sends for what h2 tells nobody about: a header block that is begun and not
//! ended, and frames that keep a connection busy without carrying a call.
//!
//! Nine bytes of each frame are looked at, nothing is kept.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Instant;

const PREFACE: usize = 24;
const FRAME_HEAD: usize = 9;
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const SETTINGS: u8 = 4;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;
/// Of a SETTINGS frame.
const ACK: u8 = 1;
const END_HEADERS: u8 = 4;

/// PING, `RST_STREAM`, PRIORITY and unknown frames within a second. Clients measure the bandwidth with a
/// ping a round trip, which is some thousands on a short way.
const CONTROL_A_SECOND: u32 = 10_000;
/// SETTINGS frames within a second; good clients send one or two in their life.
const SETTINGS_A_SECOND: u32 = 100;
/// Streams within a second that are begun and never become a request, being malformed or too many.
const STILLBORN_A_SECOND: i32 = 1_000;

/// What is known of one connection; shared by its socket, the task that serves it, and housekeeping.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    /// Since when a header block, or the head of a frame, is incomplete.
    pub(crate) block_open_since: Cell<Option<Instant>>,
    /// Since when the peer takes nothing of what is written.
    pub(crate) untaken_since: Cell<Option<Instant>>,
    /// Whether there were too many frames without a call.
    pub(crate) flooded: Cell<bool>,
    control: Cell<u32>,
    settings: Cell<u32>,
    stillborn: Cell<i32>,
}

impl Seen {
    /// A stream became a request.
    pub(crate) fn accepted(&self) {
        self.stillborn.set(self.stillborn.get() - 1);
    }

    /// A second is over.
    pub(crate) fn forget(&self) {
        self.control.set(0);
        self.settings.set(0);
        self.stillborn.set(0);
    }

    fn count(&self, kind: u8, flags: u8) {
        let too_many = match kind {
            DATA | WINDOW_UPDATE | CONTINUATION => false,
            HEADERS => {
                self.stillborn.set(self.stillborn.get() + 1);
                self.stillborn.get() > STILLBORN_A_SECOND
            }
            SETTINGS if flags & ACK == 0 => {
                self.settings.set(self.settings.get() + 1);
                self.settings.get() > SETTINGS_A_SECOND
            }
            _ => {
                self.control.set(self.control.get() + 1);
                self.control.get() > CONTROL_A_SECOND
            }
        };
        if too_many {
            self.flooded.set(true);
        }
    }
}

/// Follows the frames of one connection.
#[derive(Debug)]
pub(crate) struct FrameWatch {
    head: [u8; FRAME_HEAD],
    have: usize,
    /// Bytes of the current payload that are to come.
    left: usize,
    /// The current frame belongs to a header block.
    in_block: bool,
    /// The current frame is the last of its block.
    ends_block: bool,
    pub(crate) seen: Rc<Seen>,
}

impl FrameWatch {
    /// For a connection of which nothing was read yet. The preface, which a first frame must follow,
    /// counts as a block.
    pub(crate) fn new() -> Self {
        Self {
            head: [0; FRAME_HEAD],
            have: 0,
            left: PREFACE,
            in_block: true,
            ends_block: false,
            seen: Rc::default(),
        }
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
                self.seen.block_open_since.set(None);
            }
        }
        if !self.is_open() {
            self.seen.block_open_since.set(None);
        } else if self.seen.block_open_since.get().is_none() {
            self.seen.block_open_since.set(Some(Instant::now()));
        }
    }

    fn begin_frame(&mut self) {
        let [high, middle, low, kind, flags, ..] = self.head;
        self.have = 0;
        self.left = usize::from(high) << 16 | usize::from(middle) << 8 | usize::from(low);
        self.in_block = matches!(kind, HEADERS | CONTINUATION);
        self.ends_block = flags & END_HEADERS != 0;
        self.seen.count(kind, flags);
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

    fn begun() -> FrameWatch {
        let mut watch = FrameWatch::new();
        watch.feed(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
        watch.feed(&frame(4, 0, b""));
        watch
    }

    #[test]
    fn a_preface_without_a_frame_is_open() {
        let mut watch = FrameWatch::new();
        watch.feed(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");

        assert!(watch.seen.block_open_since.get().is_some());
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

            assert_eq!(None, watch.seen.block_open_since.get(), "{cut}");
        }
    }

    #[test]
    fn a_block_is_open_until_its_last_byte() {
        let bytes = [frame(1, 0, b"half"), frame(9, 4, b"rest")].concat();
        for cut in 1..bytes.len() {
            let mut watch = begun();
            watch.feed(&bytes[..cut]);

            assert!(watch.seen.block_open_since.get().is_some(), "{cut}");
        }
    }

    #[test]
    fn half_a_payload_of_data_is_not_open() {
        let mut watch = begun();
        watch.feed(&frame(0, 0, b"data")[..11]);

        assert_eq!(None, watch.seen.block_open_since.get());
    }

    #[test]
    fn the_time_of_one_block_is_not_that_of_the_next() {
        let mut watch = begun();
        watch.feed(&frame(1, 4, b"half")[..10]);
        let first = watch.seen.block_open_since.get();
        watch.feed(&[&b"alf"[..], &frame(1, 4, b"half")[..10]].concat());

        assert!(watch.seen.block_open_since.get() > first);
    }

    fn is_flooded_by(frame: &[u8], times: usize) -> bool {
        let mut watch = begun();
        watch.feed(&frame.repeat(times));
        watch.seen.flooded.get()
    }

    #[test]
    fn frames_without_a_call_are_bounded_by_their_kind() {
        let ping = frame(6, 0, b"12345678");
        assert!(!is_flooded_by(&ping, 10_000));
        assert!(is_flooded_by(&ping, 10_001));
        let settings = frame(4, 0, b"");
        assert!(!is_flooded_by(&settings, 99));
        assert!(is_flooded_by(&settings, 100));
        let unknown = frame(0x42, 0, b"x");
        assert!(is_flooded_by(&unknown, 10_001));
    }

    #[test]
    fn data_and_window_updates_are_no_flood() {
        assert!(!is_flooded_by(&frame(0, 0, b"x"), 200_000));
        assert!(!is_flooded_by(&frame(8, 0, b"1234"), 200_000));
    }

    #[test]
    fn streams_that_become_requests_are_no_flood() {
        let mut watch = begun();
        for _ in 0..5_000 {
            watch.feed(&frame(1, 4, b"call"));
            watch.seen.accepted();
        }
        assert!(!watch.seen.flooded.get());

        watch.feed(&frame(1, 4, b"junk").repeat(1_001));
        assert!(watch.seen.flooded.get());
    }

    #[test]
    fn a_new_second_begins_at_nothing() {
        let mut watch = begun();
        let ping = frame(6, 0, b"12345678").repeat(9_000);
        watch.feed(&ping);
        watch.seen.forget();
        watch.feed(&ping);

        assert!(!watch.seen.flooded.get());
    }
}
