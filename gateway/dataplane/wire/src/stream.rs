//! What must be seen of a `ModelStreamInferResponse`: whether it is an error, and of which model.

use crate::fields::{Fields, Malformed};
use crate::names::scan_message;

/// One answer on a `ModelStreamInfer` call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct StreamAnswer<'a> {
    /// Field 1: the error, empty where there is none.
    pub error: &'a [u8],
    /// Whether field 2, `infer_response`, is there at all.
    pub has_response: bool,
    /// `infer_response.model_name`, Triton's own name.
    pub model: &'a [u8],
    /// `infer_response.id`, the request's own.
    pub id: &'a [u8],
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
            answer.has_response = true;
            let model = scan_message(field.payload)?.model;
            if !model.is_empty() {
                answer.model = model;
            }
            for inner in Fields::new(field.payload) {
                let inner = inner?;
                if inner.is(3) {
                    answer.id = inner.payload;
                }
            }
        }
    }
    Ok(answer)
}

/// A `ModelStreamInferResponse` that says only what went wrong with the request of that id.
///
/// The id goes where Triton puts it: into an `infer_response` without tensors.
#[must_use]
pub fn error_answer(error: &str, id: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(error.len() + id.len() + 16);
    crate::encode::put_len(&mut out, 1, error.as_bytes());
    if !id.is_empty() {
        let mut response = Vec::with_capacity(id.len() + 4);
        crate::encode::put_len(&mut response, 3, id);
        crate::encode::put_len(&mut out, 2, &response);
    }
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
            has_response: true,
            model: b"m",
            id: b"id-1",
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
    fn an_error_answer_without_an_id_has_no_response() {
        let msg = error_answer("no", b"");

        assert!(!peek(&msg).unwrap().has_response);
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
