//! The parameters of a request, where routing wants them: `sequence_id`, `priority`, and those that a route
//! names.
//!
//! They are written as a message of gRPC has them, so that everything behind reads but one form.

use serde_json::Value;
use stagegate_wire::params::{put, Value as Parameter};

use crate::rest::path::ModelCall;

/// Longest value that is looked at.
const MOST: usize = 16 << 10;

/// The parameters in a request's JSON, which may be cut short: what is not there any more is not seen.
pub(crate) fn of(json: &[u8], call: ModelCall) -> Vec<u8> {
    let mut out = Vec::new();
    let is_generate = call != ModelCall::Infer;
    for (key, raw) in Members::of(json).filter(|(_, raw)| raw.len() <= MOST) {
        if key == b"parameters" {
            if let Ok(Value::Object(given)) = serde_json::from_slice(raw) {
                given.iter().for_each(|(key, value)| {
                    put_scalar(&mut out, key.as_bytes(), value);
                });
            }
        } else if is_generate {
            // What names no input is a parameter there.
            if let Ok(value) = serde_json::from_slice(raw) {
                put_scalar(&mut out, key, &value);
            }
        }
    }
    out
}

fn put_scalar(out: &mut Vec<u8>, key: &[u8], value: &Value) {
    let parameter = match value {
        Value::Bool(value) => Parameter::Bool(*value),
        Value::String(text) => Parameter::Text(text.as_bytes()),
        Value::Number(number) => match (number.as_i64(), number.as_u64(), number.as_f64()) {
            (Some(value), _, _) => Parameter::Int(value),
            (_, Some(value), _) => Parameter::Uint(value),
            (_, _, Some(value)) => Parameter::Double(value),
            _ => return,
        },
        Value::Null | Value::Array(_) | Value::Object(_) => return,
    };
    put(out, key, parameter);
}

/// The members of a top-level object: keys between their quotes, values as they stand.
struct Members<'a> {
    rest: &'a [u8],
}

impl<'a> Members<'a> {
    fn of(json: &'a [u8]) -> Self {
        let rest = json.trim_ascii_start();
        Self {
            rest: rest.strip_prefix(b"{").unwrap_or_default(),
        }
    }
}

impl<'a> Iterator for Members<'a> {
    type Item = (&'a [u8], &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let rest = self.rest.trim_ascii_start();
        let rest = rest.strip_prefix(b",").unwrap_or(rest).trim_ascii_start();
        let (key, rest) = rest.split_at_checked(text_len(rest)?)?;
        let rest = rest.trim_ascii_start().strip_prefix(b":")?;
        let rest = rest.trim_ascii_start();
        let (value, rest) = rest.split_at_checked(value_len(rest)?)?;
        self.rest = rest;
        Some((&key[1..key.len() - 1], value))
    }
}

/// The length of a string with its quotes; `None` where it does not end, or there is none.
fn text_len(json: &[u8]) -> Option<usize> {
    let mut escaped = false;
    for (at, byte) in json.strip_prefix(b"\"")?.iter().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'"' => return Some(at + 2),
            _ => {}
        }
    }
    None
}

/// The length of any value; `None` where it does not end.
fn value_len(json: &[u8]) -> Option<usize> {
    let (mut at, mut depth) = (0, 0usize);
    loop {
        match *json.get(at)? {
            b'"' => {
                at += text_len(&json[at..])?;
                if depth == 0 {
                    return Some(at);
                }
                continue;
            }
            b'{' | b'[' => depth += 1,
            b'}' | b']' | b',' if depth == 0 => return Some(at),
            b'}' | b']' => {
                depth -= 1;
                if depth == 0 {
                    return Some(at + 1);
                }
            }
            _ => {}
        }
        at += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use stagegate_wire::params::{find, Params, SequenceId};

    #[test]
    fn parameters_stand_wherever_they_like() {
        for json in [
            r#"{"parameters":{"sequence_id":77,"sequence_start":true,"priority":2},"inputs":[]}"#,
            r#" { "inputs" : [{"data":["}",{"parameters":{}}]}], "id":"a\"b",
                "parameters" : {"sequence_id" : 77, "sequence_start": true, "priority": 2}}"#,
        ] {
            let parameters = of(json.as_bytes(), ModelCall::Infer);
            let params = Params::scan(&parameters);
            assert_eq!(Some(SequenceId::Number(77)), params.sequence);
            assert_eq!(
                (true, false, 2),
                (params.start, params.end, params.priority)
            );
        }
    }

    #[test]
    fn values_keep_their_kind() {
        let json =
            br#"{"parameters":{"a":"7","b":7,"c":0.5,"d":false,"e":18446744073709551615,"f":[1]}}"#;
        let parameters = of(json, ModelCall::Infer);

        assert_eq!(Some(Parameter::Text(b"7")), find(&parameters, b"a"));
        assert_eq!(Some(Parameter::Int(7)), find(&parameters, b"b"));
        assert_eq!(Some(Parameter::Double(0.5)), find(&parameters, b"c"));
        assert_eq!(Some(Parameter::Bool(false)), find(&parameters, b"d"));
        assert_eq!(Some(Parameter::Uint(u64::MAX)), find(&parameters, b"e"));
        assert_eq!(None, find(&parameters, b"f"));
    }

    #[test]
    fn of_generate_every_member_may_be_one() {
        let json = br#"{"text_input":"hi","sequence_id":"five","parameters":{"user":"u1"}}"#;
        let parameters = of(json, ModelCall::Generate);

        assert_eq!(
            Some(SequenceId::Text(b"five")),
            Params::scan(&parameters).sequence
        );
        assert_eq!(Some(Parameter::Text(b"u1")), find(&parameters, b"user"));
        assert!(of(json, ModelCall::Infer).len() < parameters.len());
    }

    #[test]
    fn what_is_broken_or_cut_has_none() {
        let whole = br#"{"parameters":{"sequence_id":77}}"#;
        for at in 0..whole.len() - 1 {
            assert!(of(&whole[..at], ModelCall::Infer).is_empty(), "{at}");
        }
        for json in [
            &b"[]"[..],
            b"7",
            b"{]",
            b"{\"parameters\":7}",
            b"{\"parameters\":{}",
        ] {
            assert!(of(json, ModelCall::Infer).is_empty());
        }
    }
}
