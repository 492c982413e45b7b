//! Writers for protobuf fields.

use bytes::{BufMut, Bytes};

/// Append a varint.
pub fn put_varint(out: &mut impl BufMut, mut value: u64) {
    while value >= 0x80 {
        // The mask keeps seven bits, so the cast loses nothing.
        out.put_u8((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    out.put_u8((value & 0x7f) as u8);
}

/// Length of a varint in bytes, 1 to 10.
#[must_use]
pub fn varint_len(value: u64) -> usize {
    (64 - (value | 1).leading_zeros() as usize).div_ceil(7)
}

/// Append a string, bytes or message field, also where it is empty.
pub fn put_len(out: &mut impl BufMut, number: u32, payload: &[u8]) {
    put_varint(out, u64::from(number) << 3 | 2);
    put_varint(out, payload.len() as u64);
    out.put_slice(payload);
}

/// Append a string field unless it is empty, as proto3 does.
pub fn put_text(out: &mut impl BufMut, number: u32, text: &str) {
    if !text.is_empty() {
        put_len(out, number, text.as_bytes());
    }
}

/// Append a varint field unless it is 0, as proto3 does.
pub fn put_number(out: &mut impl BufMut, number: u32, value: u64) {
    if value != 0 {
        put_varint(out, u64::from(number) << 3);
        put_varint(out, value);
    }
}

/// Bytes that a string, bytes or message field takes.
#[must_use]
pub fn len_size(number: u32, payload: usize) -> usize {
    varint_len(u64::from(number) << 3) + varint_len(payload as u64) + payload
}

/// A message of one bool field with number 1: `ServerLive`, `ServerReady` and `ModelReady` answers.
#[must_use]
pub fn bool_answer(value: bool) -> Bytes {
    Bytes::from_static(if value { b"\x08\x01" } else { b"" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn varint_len_is_the_length_that_is_written() {
        for shift in 0..64 {
            for value in [1u64 << shift, (1u64 << shift) - 1] {
                let mut out = Vec::new();
                put_varint(&mut out, value);

                assert_eq!(out.len(), varint_len(value), "{value}");
            }
        }
    }

    #[test]
    fn len_size_is_the_size_that_is_written() {
        for (number, size) in [(1, 0), (15, 127), (16, 128), (2048, 20_000)] {
            let mut out = Vec::new();
            put_len(&mut out, number, &vec![0; size]);

            assert_eq!(out.len(), len_size(number, size));
        }
    }

    #[test]
    fn defaults_are_left_out() {
        let mut out = Vec::new();
        put_text(&mut out, 1, "");
        put_number(&mut out, 2, 0);

        assert!(out.is_empty() && bool_answer(false).is_empty());
    }
}
