//! The 5-byte prefix before every gRPC message: a compressed flag and a big-endian length.

use bytes::{BufMut, Bytes, BytesMut};

/// Length of a prefix.
pub const PREFIX: usize = 5;

/// The prefix of one message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Prefix {
    /// 0 for plain, 1 for compressed with the call's `grpc-encoding`; others are errors.
    pub compressed: u8,
    /// Length of the message that follows.
    pub len: u32,
}

impl Prefix {
    /// Read a prefix; every five bytes are one.
    #[must_use]
    pub fn read(bytes: &[u8; PREFIX]) -> Self {
        let [compressed, a, b, c, d] = *bytes;
        Self {
            compressed,
            len: u32::from_be_bytes([a, b, c, d]),
        }
    }

    /// The five bytes of this prefix.
    #[must_use]
    pub fn write(&self) -> [u8; PREFIX] {
        let [a, b, c, d] = self.len.to_be_bytes();
        [self.compressed, a, b, c, d]
    }
}

/// A plain message with its prefix, in one piece. `None` where it is longer than a prefix can say.
#[must_use]
pub fn message(body: &[u8]) -> Option<Bytes> {
    let len = u32::try_from(body.len()).ok()?;
    let mut out = BytesMut::with_capacity(PREFIX + body.len());
    out.put_slice(&Prefix { compressed: 0, len }.write());
    out.put_slice(body);
    Some(out.freeze())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_reads_back_as_written() {
        for len in [0, 1, 255, 256, 65_536, u32::MAX] {
            for compressed in [0, 1, 7] {
                let prefix = Prefix { compressed, len };

                assert_eq!(prefix, Prefix::read(&prefix.write()));
            }
        }
    }

    #[test]
    fn a_message_is_its_prefix_and_its_body() {
        assert_eq!(&b"\0\0\0\0\x03abc"[..], &message(b"abc").unwrap()[..]);
        assert_eq!(&b"\0\0\0\0\0"[..], &message(b"").unwrap()[..]);
    }
}
