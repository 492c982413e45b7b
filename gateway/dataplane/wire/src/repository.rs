//! `RepositoryModelLoad` and `-Unload`: Triton's form of them, and `KServe`'s, which differs.
//!
//! Triton has `repository_name` in field 1 and `model_name` in field 2, and answers nothing. `KServe` has
//! `model_name` in field 1, and wants it back with a bool in field 2.

use bytes::{Bytes, BytesMut};

use crate::encode::{put_len, put_number};
use crate::fields::{Fields, Malformed};
use crate::names::scan_message;

/// Longest name of a file; a Triton 2.51 ends when it is asked for a longer one.
const MAX_FILE_NAME: usize = 255;

/// One request to load or unload a model, as Triton reads it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Repository {
    /// The message for Triton.
    pub message: Bytes,
    /// The answer that the client wants instead of Triton's empty one, where it speaks `KServe`'s form.
    pub answer: Option<Bytes>,
}

/// Read a request in either form.
///
/// # Errors
/// The message is malformed.
pub fn read(msg: &Bytes) -> Result<Repository, Malformed> {
    let names = scan_message(msg)?;
    if names.model.is_empty() || !names.version.is_empty() {
        return Ok(Repository {
            message: msg.clone(),
            answer: None,
        });
    }
    let (mut message, mut answer) = (BytesMut::from(&msg[..]), BytesMut::new());
    put_len(&mut message, 1, b"");
    put_len(&mut message, 2, names.model);
    put_len(&mut answer, 1, names.model);
    put_number(&mut answer, 2, 1);
    Ok(Repository {
        message: message.freeze(),
        answer: Some(answer.freeze()),
    })
}

/// A file in the parameters (`file:<path>`) of which a part of the path is longer than a file's name can
/// be: that path.
///
/// # Errors
/// The message is malformed.
pub fn impossible_file(msg: &[u8]) -> Result<Option<&[u8]>, Malformed> {
    for field in Fields::new(msg) {
        let field = field?;
        if !field.is(3) {
            continue;
        }
        for inner in Fields::new(field.payload) {
            let inner = inner?;
            let path = if inner.is(1) {
                inner.payload.strip_prefix(b"file:")
            } else {
                None
            };
            let is_long = |part: &[u8]| part.len() > MAX_FILE_NAME;
            if path.is_some_and(|path| path.split(|byte| *byte == b'/').any(is_long)) {
                return Ok(path);
            }
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(key: &str) -> Vec<u8> {
        let (mut entry, mut out) = (Vec::new(), Vec::new());
        put_len(&mut entry, 1, key.as_bytes());
        put_len(&mut entry, 2, b"");
        put_len(&mut out, 2, b"m");
        put_len(&mut out, 3, &entry);
        out
    }

    #[test]
    fn tritons_own_form_stays_as_it_is() {
        for message in [&b"\x12\x01m"[..], b"\x0a\x01r\x12\x01m", b""] {
            let message = Bytes::from_static(message);
            let expected = Repository {
                message: message.clone(),
                answer: None,
            };

            assert_eq!(Ok(expected), read(&message));
        }
    }

    #[test]
    fn kserves_form_becomes_tritons() {
        let read = read(&Bytes::from_static(b"\x0a\x01m")).unwrap();

        let names = scan_message(&read.message).unwrap();
        assert_eq!((&b""[..], &b"m"[..]), (names.model, names.version));
        assert_eq!(Some(&b"\x0a\x01m\x10\x01"[..]), read.answer.as_deref());
    }

    #[test]
    fn a_file_name_may_have_255_bytes() {
        let long = "A".repeat(256);
        for (key, found) in [
            (format!("file:1/{}", &long[1..]), None),
            (format!("file:{long}"), Some(long.clone())),
            (format!("file:1/{long}/x"), Some(format!("1/{long}/x"))),
            (format!("config{long}"), None),
        ] {
            let message = load(&key);
            let told = impossible_file(&message).unwrap();

            assert_eq!(found.as_deref().map(str::as_bytes), told, "{key}");
        }
        assert!(impossible_file(b"\x1a\x02\x0a\x7f").is_err());
    }
}
