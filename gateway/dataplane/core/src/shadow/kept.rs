//! The DATA of one answer, kept as it passes.

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderValue};
use stagegate_table::counters::Uncompared;
use stagegate_wire::frame::{Prefix, PREFIX};
use stagegate_wire::inflate::{inflate, Encoding};

use crate::framer::Caps;
use crate::headers::GRPC_ENCODING;
use crate::shadow::budget::Charge;

/// DATA frames of one answer that are kept; each may hold on to a whole read buffer.
const PIECES: usize = 1024;

/// An answer as far as it came, or why it is not kept.
#[derive(Debug)]
pub(crate) struct Kept {
    pieces: Vec<Bytes>,
    len: usize,
    /// Bytes that are kept.
    most: usize,
    encoding: Option<Encoding>,
    gave_up: Option<Uncompared>,
}

impl Kept {
    /// Of an answer that is to come; a message of more than `most` bytes is not kept.
    pub(crate) fn new(most: usize) -> Self {
        Self {
            pieces: Vec::new(),
            len: 0,
            most,
            encoding: None,
            gave_up: None,
        }
    }

    /// The answer begins; its headers tell how its message is compressed.
    pub(crate) fn begin(&mut self, headers: &HeaderMap) {
        let encoding = headers.get(GRPC_ENCODING).map(HeaderValue::as_bytes);
        *self = Self {
            encoding: encoding.and_then(Encoding::parse),
            ..Self::new(self.most)
        };
    }

    /// Keep one more DATA frame, unless that is too much.
    pub(crate) fn push(&mut self, data: &Bytes, charge: &mut Charge) {
        if self.gave_up.is_some() || data.is_empty() {
            return;
        }
        self.len += data.len();
        if self.len > self.most + PREFIX || self.pieces.len() == PIECES {
            self.give_up(Uncompared::TooLarge);
        } else if !charge.add(data.len()) {
            self.give_up(Uncompared::Busy);
        } else {
            self.pieces.push(data.clone());
        }
    }

    fn give_up(&mut self, why: Uncompared) {
        self.gave_up = Some(why);
        self.pieces = Vec::new();
    }

    /// The one message of the answer, plain.
    pub(crate) fn message(&self, caps: Caps) -> Result<Bytes, Uncompared> {
        if let Some(why) = self.gave_up {
            return Err(why);
        }
        let mut all = match &self.pieces[..] {
            [one] => one.clone(),
            pieces => {
                let mut all = BytesMut::with_capacity(self.len);
                for piece in pieces {
                    all.extend_from_slice(piece);
                }
                all.freeze()
            }
        };
        let start: [u8; PREFIX] = all
            .get(..PREFIX)
            .and_then(|start| start.try_into().ok())
            .ok_or(Uncompared::Unreadable)?;
        let prefix = Prefix::read(&start);
        let body = all.split_off(PREFIX);
        match (prefix.compressed, self.encoding) {
            _ if prefix.len as usize != body.len() => Err(Uncompared::Unreadable),
            (0, _) => Ok(body),
            (1, Some(encoding)) => {
                inflate(encoding, &body, self.most, caps.ratio).map_err(|_| Uncompared::Unreadable)
            }
            _ => Err(Uncompared::Unreadable),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shadow::budget::Budget;

    const MOST: usize = 1 << 20;
    const CAPS: Caps = Caps {
        message: 64 << 20,
        ratio: 100,
    };

    fn kept(frames: &[&[u8]], bytes: usize) -> Kept {
        let mut kept = Kept::new(MOST);
        let mut charge = Budget::new(bytes).nothing();
        for frame in frames {
            kept.push(&Bytes::copy_from_slice(frame), &mut charge);
        }
        kept
    }

    #[test]
    fn a_message_in_any_frames_is_put_together() {
        for frames in [
            &[&b"\0\0\0\0\x03abc"[..]][..],
            &[&b"\0\0"[..], &b"\0\0\x03a"[..], &b""[..], &b"bc"[..]][..],
        ] {
            let message = kept(frames, 100).message(CAPS);

            assert_eq!(Ok(Bytes::from_static(b"abc")), message);
        }
    }

    #[test]
    fn what_is_not_one_whole_message_is_unreadable() {
        for broken in [
            &b""[..],
            &b"\0\0\0"[..],
            &b"\0\0\0\0\x04abc"[..],
            &b"\0\0\0\0\x02abc"[..],
            &b"\x01\0\0\0\x03abc"[..],
            &b"\x02\0\0\0\x03abc"[..],
        ] {
            let message = kept(&[broken], 100).message(CAPS);

            assert_eq!(Err(Uncompared::Unreadable), message, "{broken:?}");
        }
    }

    #[test]
    fn too_much_is_given_up_and_let_go() {
        let large = vec![0; MOST + PREFIX + 1];
        let too_large = kept(&[&large], usize::MAX);
        let busy = kept(&[&large[..51], &large[..50]], 100);
        let tiny = vec![&b"x"[..]; PIECES + 1];

        assert_eq!(Err(Uncompared::TooLarge), too_large.message(CAPS));
        assert_eq!(Err(Uncompared::Busy), busy.message(CAPS));
        assert_eq!(
            Err(Uncompared::TooLarge),
            kept(&tiny, usize::MAX).message(CAPS)
        );
        assert!(too_large.pieces.is_empty() && busy.pieces.is_empty());
    }
}
