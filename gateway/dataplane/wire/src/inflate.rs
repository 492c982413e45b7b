//! Compressed messages, opened in pieces and under a cap.

use std::fmt;
use std::io::Read;

use bytes::Bytes;
use flate2::bufread::{GzDecoder, ZlibDecoder};

/// Sizes up to this are inflated whatever their ratio: a small tensor of zeros is no attack.
pub const RATIO_FLOOR: usize = 64 * 1024;

const PIECE: usize = 16 * 1024;

/// The encodings of `grpc-encoding` that we open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encoding {
    /// RFC 1952.
    Gzip,
    /// gRPC's `deflate`: zlib, RFC 1950.
    Deflate,
}

impl Encoding {
    /// What a `grpc-encoding` header names; `None` for `identity` and for what we cannot open.
    #[must_use]
    pub fn parse(value: &[u8]) -> Option<Self> {
        match value {
            b"gzip" => Some(Self::Gzip),
            b"deflate" => Some(Self::Deflate),
            _ => None,
        }
    }
}

/// Why a message was not inflated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InflateError {
    /// It is broken, cut short, or followed by other bytes.
    Corrupt,
    /// It is larger than the cap, in bytes.
    TooLarge(usize),
    /// It is more than that many times its compressed size.
    Ratio(usize),
}

impl fmt::Display for InflateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Corrupt => write!(f, "the compressed message is corrupt"),
            Self::TooLarge(cap) => {
                write!(
                    f,
                    "the message is larger than limits.max_message ({cap} bytes) when inflated"
                )
            }
            Self::Ratio(ratio) => {
                write!(
                    f,
                    "the message inflates to more than {ratio} times its size"
                )
            }
        }
    }
}

impl std::error::Error for InflateError {}

/// Inflate a message, reading in pieces, and stop as soon as it passes a cap.
///
/// `max_len` caps the result in bytes; `max_ratio` caps it in multiples of `body`, from
/// [`RATIO_FLOOR`] on. Memory never exceeds the smaller cap by more than one piece.
///
/// # Errors
/// The body is corrupt or passes a cap.
pub fn inflate(
    encoding: Encoding,
    body: &[u8],
    max_len: usize,
    max_ratio: usize,
) -> Result<Bytes, InflateError> {
    let by_ratio = body.len().saturating_mul(max_ratio).max(RATIO_FLOOR);
    let cap = max_len.min(by_ratio);
    let too_much = if max_len <= by_ratio {
        InflateError::TooLarge(max_len)
    } else {
        InflateError::Ratio(max_ratio)
    };
    let (out, rest) = match encoding {
        Encoding::Gzip => {
            let mut reader = GzDecoder::new(body);
            (
                read_capped(&mut reader, cap, too_much)?,
                reader.into_inner(),
            )
        }
        Encoding::Deflate => {
            let mut reader = ZlibDecoder::new(body);
            (
                read_capped(&mut reader, cap, too_much)?,
                reader.into_inner(),
            )
        }
    };
    if rest.is_empty() {
        Ok(out.into())
    } else {
        Err(InflateError::Corrupt)
    }
}

fn read_capped(
    reader: &mut impl Read,
    cap: usize,
    too_much: InflateError,
) -> Result<Vec<u8>, InflateError> {
    let mut out = Vec::new();
    let mut piece = [0; PIECE];
    loop {
        let count = reader.read(&mut piece).map_err(|_| InflateError::Corrupt)?;
        if count == 0 {
            return Ok(out);
        }
        if count > cap - out.len() {
            return Err(too_much);
        }
        out.extend_from_slice(&piece[..count]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use flate2::write::{GzEncoder, ZlibEncoder};
    use flate2::Compression;
    use std::io::Write;

    fn pack(encoding: Encoding, body: &[u8]) -> Vec<u8> {
        let level = Compression::default();
        match encoding {
            Encoding::Gzip => {
                let mut writer = GzEncoder::new(Vec::new(), level);
                writer.write_all(body).unwrap();
                writer.finish().unwrap()
            }
            Encoding::Deflate => {
                let mut writer = ZlibEncoder::new(Vec::new(), level);
                writer.write_all(body).unwrap();
                writer.finish().unwrap()
            }
        }
    }

    const BOTH: [Encoding; 2] = [Encoding::Gzip, Encoding::Deflate];

    #[test]
    fn messages_come_back_as_they_were() {
        let body: Vec<u8> = (0..100_000u32)
            .flat_map(|n| n.wrapping_mul(n).to_le_bytes())
            .collect();
        for encoding in BOTH {
            for size in [0, 1, 1000, PIECE, PIECE + 1, body.len()] {
                let packed = pack(encoding, &body[..size]);

                assert_eq!(
                    &body[..size],
                    &inflate(encoding, &packed, body.len(), 100).unwrap()[..]
                );
            }
        }
    }

    #[test]
    fn the_cap_is_exact() {
        for encoding in BOTH {
            let packed = pack(encoding, &[7; 1000]);

            assert!(inflate(encoding, &packed, 1000, 100).is_ok());
            assert_eq!(
                Err(InflateError::TooLarge(999)),
                inflate(encoding, &packed, 999, 100)
            );
        }
    }

    #[test]
    fn a_bomb_is_refused_by_its_ratio() {
        let packed = pack(Encoding::Gzip, &vec![0; 10 << 20]);

        assert_eq!(
            Err(InflateError::Ratio(100)),
            inflate(Encoding::Gzip, &packed, 64 << 20, 100)
        );
    }

    #[test]
    fn a_small_tensor_of_zeros_is_no_bomb() {
        let packed = pack(Encoding::Gzip, &vec![0; RATIO_FLOOR]);

        assert!(inflate(Encoding::Gzip, &packed, 64 << 20, 100).is_ok());
    }

    #[test]
    fn broken_bodies_are_corrupt() {
        for encoding in BOTH {
            let packed = pack(encoding, &[7; 5000]);
            let mut flipped = packed.clone();
            flipped[packed.len() / 2] ^= 0x55;
            let mut trailing = packed.clone();
            trailing.push(0);

            for bad in [
                &packed[..packed.len() - 3],
                &flipped,
                &trailing,
                b"",
                b"plain text",
            ] {
                assert_eq!(
                    Err(InflateError::Corrupt),
                    inflate(encoding, bad, 1 << 20, 100)
                );
            }
        }
    }

    #[test]
    fn encodings_are_known_by_their_header_values() {
        assert_eq!(Some(Encoding::Gzip), Encoding::parse(b"gzip"));
        assert_eq!(Some(Encoding::Deflate), Encoding::parse(b"deflate"));
        assert_eq!(None, Encoding::parse(b"identity"));
    }
}
