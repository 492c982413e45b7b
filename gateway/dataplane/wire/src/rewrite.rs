//! Names put into messages: appended where the field is singular, re-encoded where it is repeated.

use bytes::{Bytes, BytesMut};

use crate::encode::{len_size, put_len};
use crate::fields::{Fields, Malformed};

/// The bytes that, appended to a request or a plain answer, give it these names.
///
/// Fields 1 and 2 are the model name and version of `ModelInferRequest` and `-Response`, and of the
/// metadata, config, ready and statistics requests; the last value of a field wins. An empty version
/// is written out, so that it clears what stands before.
#[must_use]
pub fn names_tail(model: &str, version: &str) -> Bytes {
    let mut out = BytesMut::with_capacity(len_size(1, model.len()) + len_size(2, version.len()));
    put_len(&mut out, 1, model.as_bytes());
    put_len(&mut out, 2, version.as_bytes());
    out.freeze()
}

/// The bytes that, appended to a `ModelStreamInferResponse`, rename its `infer_response`.
///
/// Embedded messages merge, so a second `infer_response` that holds only names leaves the tensors as
/// they are. To be appended only where there is an `infer_response`.
#[must_use]
pub fn stream_answer_tail(model: &str, version: &str) -> Bytes {
    let names = names_tail(model, version);
    let mut out = BytesMut::with_capacity(len_size(2, names.len()));
    put_len(&mut out, 2, &names);
    out.freeze()
}

/// A `ModelMetadataResponse` under the logical name and with these versions (1: name, 2: versions).
///
/// # Errors
/// The message is malformed.
pub fn rename_metadata(msg: &[u8], logical: &str, versions: &[&str]) -> Result<Bytes, Malformed> {
    let mut out = BytesMut::with_capacity(msg.len() + logical.len() + 64);
    put_len(&mut out, 1, logical.as_bytes());
    for version in versions {
        put_len(&mut out, 2, version.as_bytes());
    }
    for field in Fields::new(msg) {
        let field = field?;
        if !field.is(1) && !field.is(2) {
            out.extend_from_slice(field.raw);
        }
    }
    Ok(out.freeze())
}

/// A `ModelConfigResponse` under the logical name, its ensemble steps renamed by `rename`.
///
/// `rename` gives the logical name for a Triton model name, or None to leave it. The name is
/// `config.name`, the steps are `config.ensemble_scheduling.step[].model_name`.
///
/// # Errors
/// The message is malformed.
pub fn rename_config(
    msg: &[u8],
    logical: &str,
    rename: &dyn Fn(&str) -> Option<String>,
) -> Result<Bytes, Malformed> {
    const CONFIG: u32 = 1;
    map_fields(msg, CONFIG, &|config| {
        config_message(config, logical, rename)
    })
    .map(Bytes::from)
}

fn config_message(
    msg: &[u8],
    logical: &str,
    rename: &dyn Fn(&str) -> Option<String>,
) -> Result<Vec<u8>, Malformed> {
    const NAME: u32 = 1;
    const ENSEMBLE: u32 = 15;
    const STEP: u32 = 1;
    let step_name = |name: &[u8]| {
        let new = std::str::from_utf8(name).ok().and_then(rename);
        Ok(new.map_or_else(|| name.to_vec(), String::into_bytes))
    };
    let mut out = Vec::with_capacity(msg.len() + logical.len());
    put_len(&mut out, NAME, logical.as_bytes());
    for field in Fields::new(msg) {
        let field = field?;
        if field.is(ENSEMBLE) {
            let ensemble = map_fields(field.payload, STEP, &|step| {
                map_fields(step, NAME, &step_name)
            })?;
            put_len(&mut out, ENSEMBLE, &ensemble);
        } else if !field.is(NAME) {
            out.extend_from_slice(field.raw);
        }
    }
    Ok(out)
}

type Map<'m> = dyn Fn(&[u8]) -> Result<Vec<u8>, Malformed> + 'm;

/// Copy a message, with the payload of every length-delimited field `number` passed through `map`.
fn map_fields(msg: &[u8], number: u32, map: &Map<'_>) -> Result<Vec<u8>, Malformed> {
    let mut out = Vec::with_capacity(msg.len() + 64);
    for field in Fields::new(msg) {
        let field = field?;
        if field.is(number) {
            put_len(&mut out, number, &map(field.payload)?);
        } else {
            out.extend_from_slice(field.raw);
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::names::{scan_message, Names};

    fn message(fields: &[(u32, &[u8])]) -> Vec<u8> {
        let mut out = Vec::new();
        for (number, payload) in fields {
            put_len(&mut out, *number, payload);
        }
        out
    }

    #[test]
    fn an_appended_tail_wins_over_what_stands_before() {
        let mut msg = message(&[(1, b"digits@production"), (2, b"production"), (7, b"raw")]);
        msg.extend_from_slice(&names_tail("digits.3.abcd", ""));

        assert_eq!(
            Names::of(b"digits.3.abcd", b""),
            scan_message(&msg).unwrap()
        );
    }

    #[test]
    fn an_empty_version_is_written_out() {
        assert_eq!(&b"\x0a\x01m\x12\x00"[..], &names_tail("m", "")[..]);
    }

    #[test]
    fn a_stream_tail_is_an_infer_response_of_names_only() {
        assert_eq!(
            &b"\x12\x06\x0a\x01m\x12\x013"[..],
            &stream_answer_tail("m", "3")[..]
        );
    }

    #[test]
    fn metadata_gets_the_logical_name_and_versions_and_keeps_the_rest() {
        let msg = message(&[(1, b"t"), (2, b"1"), (2, b"2"), (3, b"onnx"), (4, b"input")]);

        let renamed = rename_metadata(&msg, "digits", &["3", "4", "5"]).unwrap();

        let expected = message(&[
            (1, b"digits"),
            (2, b"3"),
            (2, b"4"),
            (2, b"5"),
            (3, b"onnx"),
            (4, b"input"),
        ]);
        assert_eq!(expected, renamed);
    }

    #[test]
    fn config_and_its_ensemble_steps_are_renamed() {
        let step = |name: &[u8]| message(&[(1, name), (3, b"map")]);
        let config = |name: &[u8], first: &[u8]| {
            let ensemble = message(&[(1, &step(first)), (1, &step(b"other"))]);
            message(&[(1, name), (2, b"platform"), (15, &ensemble)])
        };
        let rename = |name: &str| (name == "a.1.ff").then(|| "a".to_owned());
        let msg = message(&[(1, &config(b"e.1.00", b"a.1.ff"))]);

        let renamed = rename_config(&msg, "e", &rename).unwrap();

        assert_eq!(message(&[(1, &config(b"e", b"a"))]), renamed);
    }

    #[test]
    fn malformed_messages_are_refused_at_every_depth() {
        let nested = message(&[(1, &message(&[(15, &message(&[(1, b"\x0a\x7f")]))]))]);

        assert!(rename_config(&nested, "m", &|_| None).is_err());
        assert!(rename_metadata(b"\x0a\x7f", "m", &[]).is_err());
    }
}
