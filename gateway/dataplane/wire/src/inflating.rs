//! A compressed body that passes by: inflated piece by piece to know its size, and thrown away.

use std::io::{self, Write};

use flate2::write::{MultiGzDecoder, ZlibDecoder};

use crate::inflate::{InflateError, RATIO_FLOOR};

/// Bytes of what was inflated that are kept for [`Inflating::begin`].
pub const KEPT: usize = 64 << 10;

/// First byte of RFC 1952; a zlib stream never begins with it.
const GZIP: u8 = 0x1f;

/// Counts what a gzip or zlib stream inflates to; which of the two it is is seen at its first byte.
#[derive(Debug)]
pub struct Inflating {
    decoder: Decoder,
    max_len: usize,
    max_ratio: usize,
    /// Compressed bytes: all of them where the length is known, else those that came.
    base: usize,
    length_known: bool,
}

#[derive(Debug)]
enum Decoder {
    Nothing,
    Gzip(Box<MultiGzDecoder<Counter>>),
    Deflate(Box<ZlibDecoder<Counter>>),
}

/// Takes what was inflated, up to a cap.
#[derive(Debug, Default)]
struct Counter {
    len: usize,
    cap: usize,
    exceeded: bool,
    /// The first bytes.
    kept: Vec<u8>,
}

impl Write for Counter {
    fn write(&mut self, piece: &[u8]) -> io::Result<usize> {
        if piece.len() > self.cap.saturating_sub(self.len) {
            self.exceeded = true;
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        self.len += piece.len();
        let room = KEPT - self.kept.len().min(KEPT);
        self.kept.extend_from_slice(&piece[..room.min(piece.len())]);
        Ok(piece.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Inflating {
    /// `length` is that of the compressed body, where it is known. The caps are those of
    /// [`crate::inflate::inflate`].
    #[must_use]
    pub fn new(length: Option<usize>, max_len: usize, max_ratio: usize) -> Self {
        Self {
            decoder: Decoder::Nothing,
            max_len,
            max_ratio,
            base: length.unwrap_or(0),
            length_known: length.is_some(),
        }
    }

    /// How what was inflated so far begins: at most [`KEPT`] bytes.
    #[must_use]
    pub fn begin(&self) -> &[u8] {
        match &self.decoder {
            Decoder::Nothing => b"",
            Decoder::Gzip(decoder) => &decoder.get_ref().kept,
            Decoder::Deflate(decoder) => &decoder.get_ref().kept,
        }
    }

    /// The next piece of the body.
    ///
    /// # Errors
    /// The body is corrupt, or is more than a cap with this piece.
    pub fn feed(&mut self, piece: &[u8]) -> Result<(), InflateError> {
        let Some(first) = piece.first() else {
            return Ok(());
        };
        if !self.length_known {
            self.base += piece.len();
        }
        let by_ratio = self.base.saturating_mul(self.max_ratio).max(RATIO_FLOOR);
        let cap = self.max_len.min(by_ratio);
        if matches!(self.decoder, Decoder::Nothing) {
            self.decoder = if *first == GZIP {
                Decoder::Gzip(Box::new(MultiGzDecoder::new(Counter::default())))
            } else {
                Decoder::Deflate(Box::new(ZlibDecoder::new(Counter::default())))
            };
        }
        let (outcome, counter) = match &mut self.decoder {
            Decoder::Nothing => return Ok(()),
            Decoder::Gzip(decoder) => {
                decoder.get_mut().cap = cap;
                let outcome = decoder.write_all(piece).and_then(|()| decoder.flush());
                (outcome, decoder.get_ref())
            }
            Decoder::Deflate(decoder) => {
                decoder.get_mut().cap = cap;
                let outcome = decoder.write_all(piece).and_then(|()| decoder.flush());
                (outcome, decoder.get_ref())
            }
        };
        match outcome {
            Ok(()) => Ok(()),
            Err(_) if counter.exceeded && self.max_len <= by_ratio => {
                Err(InflateError::TooLarge(self.max_len))
            }
            Err(_) if counter.exceeded => Err(InflateError::Ratio(self.max_ratio)),
            Err(_) => Err(InflateError::Corrupt),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use flate2::write::{GzEncoder, ZlibEncoder};
    use flate2::Compression;

    fn gzip(body: &[u8]) -> Vec<u8> {
        let mut writer = GzEncoder::new(Vec::new(), Compression::default());
        writer.write_all(body).unwrap();
        writer.finish().unwrap()
    }

    fn zlib(body: &[u8]) -> Vec<u8> {
        let mut writer = ZlibEncoder::new(Vec::new(), Compression::default());
        writer.write_all(body).unwrap();
        writer.finish().unwrap()
    }

    fn fed(packed: &[u8], piece: usize, known: bool, max_len: usize) -> Result<(), InflateError> {
        let mut inflating = Inflating::new(known.then_some(packed.len()), max_len, 100);
        packed
            .chunks(piece)
            .try_for_each(|piece| inflating.feed(piece))
    }

    #[test]
    fn what_stays_below_the_caps_passes_however_it_is_cut() {
        let body: Vec<u8> = (0..50_000u32)
            .flat_map(|n| n.wrapping_mul(n).to_le_bytes())
            .collect();
        for packed in [gzip(&body), zlib(&body), [gzip(b"a"), gzip(b"b")].concat()] {
            for piece in [1, 7, 4096, packed.len()] {
                assert_eq!(Ok(()), fed(&packed, piece, true, body.len()));
                assert_eq!(Ok(()), fed(&packed, piece, false, body.len()));
            }
        }
    }

    #[test]
    fn the_begin_is_kept() {
        let body: Vec<u8> = (0..100_000u32)
            .map(|n| (n.wrapping_mul(n) >> 7) as u8)
            .collect();
        for packed in [gzip(&body), zlib(&body)] {
            let mut inflating = Inflating::new(None, body.len(), 100);
            assert!(inflating.begin().is_empty());
            for piece in packed.chunks(1000) {
                inflating.feed(piece).unwrap();
            }
            assert_eq!(&body[..KEPT], inflating.begin());
        }
    }

    #[test]
    fn the_longest_length_is_exact() {
        for packed in [gzip(&vec![7; 60_000]), zlib(&vec![7; 60_000])] {
            assert_eq!(Ok(()), fed(&packed, 10, true, 60_000));
            assert_eq!(
                Err(InflateError::TooLarge(59_999)),
                fed(&packed, 10, true, 59_999)
            );
        }
    }

    #[test]
    fn a_bomb_is_seen_before_all_of_it_came() {
        let packed = gzip(&vec![0; 20 << 20]);
        let mut inflating = Inflating::new(Some(packed.len()), 64 << 20, 100);

        let at = packed
            .chunks(100)
            .position(|piece| inflating.feed(piece) == Err(InflateError::Ratio(100)));

        assert!(at.unwrap() < packed.len() / 100 / 5);
    }

    #[test]
    fn other_bytes_are_corrupt() {
        for packed in [&b"hello hello"[..], b"\x1f\x8bxxxxxxxxxxxxxx", b"{}"] {
            assert_eq!(
                Err(InflateError::Corrupt),
                fed(packed, packed.len(), true, 1000)
            );
        }
    }
}
