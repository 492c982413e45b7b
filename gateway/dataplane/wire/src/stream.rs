//! What must be seen of a `ModelStreamInferResponse`: whether it is an error, and of which model.

use crate::fields::{Fields, Malformed};
use crate::names::scan_message;

/// One answer on a `ModelStreamInfer` call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct StreamAnswer<'a> {
    /// Field 1: the error, empty where there is none.
    pub error: &'a [u8],
    /// `infer_response.model_name`, Triton's own name.
    pub model: &'a [u8],
    /// `infer_response.id`, the request's own.
    pub id: &'a [u8],
    /// Whether it is the last answer to its request, where it says so.
    pub last: Option<bool>,
    /// Whether there are outputs; an answer may say no more than that it is the last.
    pub has_outputs: bool,
}

/// Read a whole `ModelStreamInferResponse`; tensors are skipped by length.
///
/// # Errors
/// The bytes are no protobuf message.
pub fn peek(msg: &[u8]) -> Result<StreamAnswer<'_>, Malformed> {
    let mut answer = StreamAnswer::default();
    for field in Fields::new(msg) {
        let field = field?;
        if field.is(1) {
            answer.error = field.payload;
        } else if field.is(2) {
            let model = scan_message(field.payload)?.model;
            if !model.is_empty() {
                answer.model = model;
            }
            for inner in Fields::new(field.payload) {
                let inner = inner?;
                match inner.number {
                    3 if inner.is(3) => answer.id = inner.payload,
                    4 if inner.is(4) => answer.last = last(inner.payload)?.or(answer.last),
                    5 => answer.has_outputs = true,
                    _ => {}
                }
            }
        }
    }
    Ok(answer)
}

/// The value of the parameter `triton_final_response`, where an entry of the parameters is that one.
fn last(entry: &[u8]) -> Result<Option<bool>, Malformed> {
    const NAME: &[u8] = b"triton_final_response";
    let (mut named, mut value) = (false, false);
    for field in Fields::new(entry) {
        let field = field?;
        match field.number {
            1 => named = field.payload == NAME,
            2 if field.is(2) && named => {
                for inner in Fields::new(field.payload) {
                    let inner = inner?;
                    if inner.number == 1 {
                        value = inner.varint().unwrap_or(0) != 0;
                    }
                }
            }
            _ => {}
        }
    }
    Ok(named.then_some(value))
}

/// A `ModelStreamInferResponse` that says only what went wrong with the request of that id.
///
/// The id goes where Triton puts it: into an `infer_response` without tensors, which is always there.
#[must_use]
pub fn error_answer(error: &str, id: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(error.len() + id.len() + 16);
    crate::encode::put_len(&mut out, 1, error.as_bytes());
    let mut response = Vec::with_capacity(id.len() + 4);
    if !id.is_empty() {
        crate::encode::put_len(&mut response, 3, id);
    }
    crate::encode::put_len(&mut out, 2, &response);
    out
}

/// The id of a `ModelInferRequest` (field 3), empty where there is none.
///
/// # Errors
/// The bytes are no protobuf message.
pub fn request_id(msg: &[u8]) -> Result<&[u8], Malformed> {
    let mut id: &[u8] = b"";
    for field in Fields::new(msg) {
        let field = field?;
        if field.is(3) {
            id = field.payload;
        }
    }
    Ok(id)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::encode::put_len;
    use crate::rewrite::stream_answer_tail;

    fn answer(error: &[u8], model: &[u8]) -> Vec<u8> {
        let mut response = Vec::new();
        put_len(&mut response, 1, model);
        put_len(&mut response, 3, b"id-1");
        put_len(&mut response, 6, &[0x0b; 100]);
        let mut out = Vec::new();
        if !error.is_empty() {
            put_len(&mut out, 1, error);
        }
        put_len(&mut out, 2, &response);
        out
    }

    #[test]
    fn error_model_and_id_are_seen() {
        let msg = answer(b"broken", b"m");

        let seen = peek(&msg).unwrap();

        let expected = StreamAnswer {
            error: b"broken",
            model: b"m",
            id: b"id-1",
            ..StreamAnswer::default()
        };
        assert_eq!(expected, seen);
    }

    #[test]
    fn a_renamed_answer_shows_the_appended_name() {
        let mut msg = answer(b"", b"digits.3.abcd");
        msg.extend_from_slice(&stream_answer_tail("digits", "3"));

        assert_eq!(b"digits", peek(&msg).unwrap().model);
    }

    #[test]
    fn an_error_answer_carries_the_id_of_its_request() {
        let msg = error_answer("no", b"id-7");

        let seen = peek(&msg).unwrap();

        assert_eq!((&b"no"[..], &b"id-7"[..]), (seen.error, seen.id));
    }

    #[test]
    fn an_error_answer_without_an_id_has_an_empty_response() {
        assert_eq!(&b"\x0a\x02no\x12\x00"[..], error_answer("no", b""));
    }

    #[test]
    fn the_last_answer_is_told_by_its_parameter() {
        let entry = |name: &[u8], value: u64| {
            let (mut entry, mut parameter) = (Vec::new(), Vec::new());
            crate::encode::put_number(&mut parameter, 1, value);
            put_len(&mut entry, 1, name);
            put_len(&mut entry, 2, &parameter);
            entry
        };
        let answer = |entries: &[Vec<u8>]| {
            let (mut response, mut out) = (Vec::new(), Vec::new());
            for entry in entries {
                put_len(&mut response, 4, entry);
            }
            put_len(&mut out, 2, &response);
            out
        };
        let name = &b"triton_final_response"[..];
        for (entries, expected) in [
            (vec![], None),
            (vec![entry(b"other", 1)], None),
            (vec![entry(name, 1), entry(b"other", 0)], Some(true)),
            (vec![entry(b"other", 1), entry(name, 0)], Some(false)),
        ] {
            let msg = answer(&entries);
            let seen = peek(&msg).unwrap();

            assert_eq!((expected, false), (seen.last, seen.has_outputs));
        }
    }

    #[test]
    fn the_id_of_a_request_is_its_field_3() {
        let mut msg = Vec::new();
        put_len(&mut msg, 1, b"m");
        put_len(&mut msg, 3, b"id-9");

        assert_eq!(b"id-9", request_id(&msg).unwrap());
        assert!(request_id(b"\x1a\x7f").is_err());
    }

    #[test]
    fn broken_answers_are_malformed() {
        assert!(peek(b"\x12\x02\x0a\x7f").is_err());
    }
}
