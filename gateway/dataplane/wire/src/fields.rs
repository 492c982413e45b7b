//! The protobuf wire format without a schema: one field after the other.

use std::fmt;

/// Bytes that are no protobuf message, or that name something we refuse to guess about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Malformed(pub &'static str);

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "malformed protobuf message: {}", self.0)
    }
}

impl std::error::Error for Malformed {}

pub(crate) const VARINT_TOO_LONG: Malformed = Malformed("a varint is longer than 10 bytes");
pub(crate) const CUT_SHORT: Malformed = Malformed("it ends inside a field");
pub(crate) const BEYOND_END: Malformed = Malformed("a field is longer than the message");

/// How the payload of a field is laid out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Wire type 0.
    Varint,
    /// Wire type 1: eight bytes.
    Fixed64,
    /// Wire type 2: a length and that many bytes.
    Len,
    /// Wire type 5: four bytes.
    Fixed32,
}

/// Split a tag into field number and kind.
///
/// Groups are refused: an open group would swallow the names that are appended to a message.
///
/// # Errors
/// Field number 0, a tag beyond 32 bits, a group, or a wire type that does not exist.
pub fn split_tag(tag: u64) -> Result<(u32, Kind), Malformed> {
    let tag = u32::try_from(tag).map_err(|_| Malformed("a tag is larger than 32 bits"))?;
    let kind = match tag & 7 {
        0 => Kind::Varint,
        1 => Kind::Fixed64,
        2 => Kind::Len,
        5 => Kind::Fixed32,
        3 | 4 => return Err(Malformed("groups are not supported")),
        _ => return Err(Malformed("a wire type does not exist")),
    };
    match tag >> 3 {
        0 => Err(Malformed("field number 0 does not exist")),
        number => Ok((number, kind)),
    }
}

/// A varint that arrives byte by byte.
#[derive(Debug, Clone, Copy)]
pub(crate) struct VarintReader {
    value: u64,
    count: u8,
}

impl VarintReader {
    /// A reader before its first byte.
    pub(crate) const NEW: Self = Self { value: 0, count: 0 };

    pub(crate) fn is_new(self) -> bool {
        self.count == 0
    }

    /// Take the next byte; the value when it was the last one.
    pub(crate) fn push(&mut self, byte: u8) -> Result<Option<u64>, Malformed> {
        // The tenth byte holds bit 63 only: more would be cut off here and perhaps not elsewhere.
        if self.count == 9 && byte > 1 {
            return Err(VARINT_TOO_LONG);
        }
        self.value |= u64::from(byte & 0x7f) << (7 * u32::from(self.count));
        self.count += 1;
        Ok((byte & 0x80 == 0).then_some(self.value))
    }
}

/// Read a varint from the start of `bytes`: its value and its length.
///
/// # Errors
/// It is cut short or longer than 10 bytes.
pub fn read_varint(bytes: &[u8]) -> Result<(u64, usize), Malformed> {
    if let Some(&first) = bytes.first() {
        if first < 0x80 {
            return Ok((u64::from(first), 1));
        }
    }
    let mut reader = VarintReader::NEW;
    for (at, &byte) in bytes.iter().enumerate() {
        if let Some(value) = reader.push(byte)? {
            return Ok((value, at + 1));
        }
    }
    Err(CUT_SHORT)
}

/// One field of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Field<'a> {
    /// Its number, 1 or more.
    pub number: u32,
    /// Its layout.
    pub kind: Kind,
    /// The payload: the bytes of a `Len` field without their length, else the bytes of the value.
    pub payload: &'a [u8],
    /// All of it as it stands in the message, tag included.
    pub raw: &'a [u8],
}

impl Field<'_> {
    /// Whether this is a length-delimited field of that number: a string, bytes or a message.
    #[must_use]
    pub fn is(&self, number: u32) -> bool {
        self.number == number && self.kind == Kind::Len
    }

    /// The value of a varint field.
    #[must_use]
    pub fn varint(&self) -> Option<u64> {
        match self.kind {
            Kind::Varint => read_varint(self.payload).ok().map(|(value, _)| value),
            _ => None,
        }
    }
}

/// The fields of a message, in order; ends after the first error.
#[derive(Debug, Clone)]
pub struct Fields<'a> {
    rest: &'a [u8],
}

impl<'a> Fields<'a> {
    /// Iterate over the fields of a whole message.
    #[must_use]
    pub fn new(message: &'a [u8]) -> Self {
        Self { rest: message }
    }

    /// Bytes that are not yet read.
    pub(crate) fn left(&self) -> usize {
        self.rest.len()
    }

    fn read(&mut self) -> Result<Field<'a>, Malformed> {
        let (tag, tag_len) = read_varint(self.rest)?;
        let (number, kind) = split_tag(tag)?;
        let after = &self.rest[tag_len..];
        let (head, size) = match kind {
            Kind::Varint => (0, read_varint(after)?.1),
            Kind::Fixed64 => (0, 8),
            Kind::Fixed32 => (0, 4),
            Kind::Len => {
                let (len, head) = read_varint(after)?;
                (head, usize::try_from(len).map_err(|_| BEYOND_END)?)
            }
        };
        let payload = after[head..].get(..size).ok_or(BEYOND_END)?;
        let (raw, rest) = self.rest.split_at(tag_len + head + size);
        self.rest = rest;
        Ok(Field {
            number,
            kind,
            payload,
            raw,
        })
    }
}

impl<'a> Iterator for Fields<'a> {
    type Item = Result<Field<'a>, Malformed>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let field = self.read();
        if field.is_err() {
            self.rest = &[];
        }
        Some(field)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn varint(mut value: u64) -> Vec<u8> {
        let mut out = Vec::new();
        while value >= 0x80 {
            out.push((value & 0x7f) as u8 | 0x80);
            value >>= 7;
        }
        out.push(value as u8);
        out
    }

    #[test]
    fn varints_read_back_at_every_size() {
        for shift in 0..64 {
            for value in [1u64 << shift, (1u64 << shift) - 1, u64::MAX >> shift] {
                let bytes = varint(value);

                assert_eq!(Ok((value, bytes.len())), read_varint(&bytes));
            }
        }
    }

    #[test]
    fn a_varint_beyond_64_bits_is_malformed() {
        assert_eq!(Err(VARINT_TOO_LONG), read_varint(&[0xff; 11]));
        let mut ten = vec![0xff; 9];
        ten.push(2);
        assert_eq!(Err(VARINT_TOO_LONG), read_varint(&ten));
    }

    #[test]
    fn fields_of_all_kinds_are_walked_in_order() {
        let message = b"\x0a\x01a\x10\x96\x01\x19\0\0\0\0\0\0\0\0\x25\0\0\0\0";

        let numbers: Vec<_> = Fields::new(message).map(|f| f.unwrap().number).collect();

        assert_eq!(vec![1, 2, 3, 4], numbers);
    }

    #[test]
    fn raw_pieces_put_together_are_the_message() {
        let message = b"\x0a\x01a\x10\x96\x01\x19\0\0\0\0\0\0\0\0\x25\0\0\0\0";

        let joined: Vec<u8> = Fields::new(message)
            .flat_map(|f| f.unwrap().raw.to_vec())
            .collect();

        assert_eq!(message.to_vec(), joined);
    }

    #[test]
    fn what_cannot_be_a_field_is_malformed() {
        for bad in [
            &b"\x0a"[..],                                    // no length
            b"\x0a\x05ab",                                   // longer than the message
            b"\x0b\x0c",                                     // a group
            b"\x0e\x00",                                     // wire type 6
            b"\x02\x00",                                     // field 0
            b"\x0d\0\0",                                     // half of four bytes
            b"\x09\0\0",                                     // half of eight bytes
            b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", // a length of 2^64-1
        ] {
            assert!(Fields::new(bad).any(|f| f.is_err()), "{bad:?}");
        }
    }
}
