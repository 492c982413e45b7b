//! The parameters of a request: field 4 of `ModelInferRequest`, a map from text to `InferParameter`.
//!
//! [`Names::parameters`](crate::names::Names) gives the bytes that hold them, found in the same pass as
//! the names and empty where a request has none; nothing here is called then. An entry that is broken
//! is one that is not there: what it was meant to be is for the backend to say.

use std::io::Write as _;

use crate::encode::{len_size, put_len, put_number, put_varint};
use crate::fields::{Fields, Kind};

/// The number of the map in a `ModelInferRequest`.
pub(crate) const FIELD: u32 = 4;

/// Bytes that the longest number takes as text.
const LONGEST: usize = 32;

const KEY: u32 = 1;
const VALUE: u32 = 2;

/// The value of a parameter: what an `InferParameter` holds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Value<'a> {
    /// `bool_param`.
    Bool(bool),
    /// `int64_param`.
    Int(i64),
    /// `string_param`, not checked to be UTF-8.
    Text(&'a [u8]),
    /// `double_param`.
    Double(f64),
    /// `uint64_param`.
    Uint(u64),
}

impl Value<'_> {
    /// Look at this value as text: a text as it is, a number in decimal with as many digits as it needs,
    /// `true` or `false`. So 7, "7" and 7.0 are the same text. Allocates nothing.
    pub fn with_text<T>(&self, look: impl FnOnce(&[u8]) -> T) -> T {
        let mut held = [0; LONGEST];
        let mut rest = &mut held[..];
        // No number is longer than the room for it, so nothing fails here.
        let _ = match *self {
            Self::Text(text) => return look(text),
            Self::Bool(value) => write!(rest, "{value}"),
            Self::Int(value) => write!(rest, "{value}"),
            Self::Uint(value) => write!(rest, "{value}"),
            Self::Double(value) => write!(rest, "{value:?}"),
        };
        let left = rest.len();
        let text = &held[..LONGEST - left];
        match self {
            Self::Double(_) => look(text.strip_suffix(b".0").unwrap_or(text)),
            _ => look(text),
        }
    }

    /// A whole number that is not negative, signed or not.
    fn count(self) -> Option<u64> {
        match self {
            Self::Int(value) => u64::try_from(value).ok(),
            Self::Uint(value) => Some(value),
            _ => None,
        }
    }
}

/// The id of a sequence. Numbers and texts are different ids, also where they look the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SequenceId<'a> {
    /// Not 0, which is no sequence.
    Number(u64),
    /// Not empty, which is no sequence.
    Text(&'a [u8]),
}

impl<'a> SequenceId<'a> {
    fn of(value: Value<'a>) -> Option<Self> {
        match value {
            // Negative ids are ids too: their bits make the number, as in Triton.
            Value::Int(id) if id != 0 => Some(Self::Number(id.cast_unsigned())),
            Value::Uint(id) if id != 0 => Some(Self::Number(id)),
            Value::Text(id) if !id.is_empty() => Some(Self::Text(id)),
            _ => None,
        }
    }
}

/// The parameters that mean something to the gateway itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Params<'a> {
    /// `sequence_id`; `None` where it is absent, 0 or empty.
    pub sequence: Option<SequenceId<'a>>,
    /// `sequence_start`.
    pub start: bool,
    /// `sequence_end`.
    pub end: bool,
    /// `priority`: 0 for the model's default, 1 for the highest.
    pub priority: u64,
    /// `timeout` in microseconds, 0 for none.
    pub timeout_us: u64,
}

impl<'a> Params<'a> {
    /// Read [`Names::parameters`](crate::names::Names). Allocates nothing.
    #[must_use]
    pub fn scan(parameters: &'a [u8]) -> Self {
        let mut params = Self::default();
        for (key, value) in entries(parameters) {
            // The last entry of a key replaces those before it, also where it holds nothing.
            match key {
                b"sequence_id" => params.sequence = value.and_then(SequenceId::of),
                b"sequence_start" => params.start = value == Some(Value::Bool(true)),
                b"sequence_end" => params.end = value == Some(Value::Bool(true)),
                b"priority" => params.priority = value.and_then(Value::count).unwrap_or(0),
                b"timeout" => params.timeout_us = value.and_then(Value::count).unwrap_or(0),
                _ => {}
            }
        }
        params
    }
}

/// The value of one parameter of [`Names::parameters`](crate::names::Names).
#[must_use]
pub fn find<'a>(parameters: &'a [u8], name: &[u8]) -> Option<Value<'a>> {
    entries(parameters)
        .filter(|(key, _)| *key == name)
        .last()
        .and_then(|(_, value)| value)
}

/// Append one parameter, as it stands in a `ModelInferRequest`.
pub fn put(out: &mut Vec<u8>, name: &[u8], value: Value<'_>) {
    let mut held = Vec::with_capacity(16);
    match value {
        Value::Bool(value) => put_varint_field(&mut held, 1, u64::from(value)),
        Value::Int(value) => put_varint_field(&mut held, 2, value.cast_unsigned()),
        Value::Text(text) => put_len(&mut held, 3, text),
        Value::Double(value) => {
            put_varint(&mut held, 4 << 3 | 1);
            held.extend_from_slice(&value.to_le_bytes());
        }
        Value::Uint(value) => put_varint_field(&mut held, 5, value),
    }
    let size = len_size(KEY, name.len()) + len_size(VALUE, held.len());
    let mut entry = Vec::with_capacity(size);
    put_len(&mut entry, KEY, name);
    put_len(&mut entry, VALUE, &held);
    put_len(out, FIELD, &entry);
}

/// A member of a oneof is written also where it is 0.
fn put_varint_field(out: &mut Vec<u8>, number: u32, value: u64) {
    if value == 0 {
        put_varint(out, u64::from(number) << 3);
        out.push(0);
    } else {
        put_number(out, number, value);
    }
}

/// All entries, in order; `None` for a value that holds nothing that is known.
fn entries(parameters: &[u8]) -> impl Iterator<Item = (&[u8], Option<Value<'_>>)> {
    Fields::new(parameters)
        .map_while(Result::ok)
        .filter(|field| field.is(FIELD))
        .filter_map(|field| entry(field.payload))
}

/// `None` where it is no map entry to its very end.
fn entry(bytes: &[u8]) -> Option<(&[u8], Option<Value<'_>>)> {
    let (mut key, mut held) = (&b""[..], None);
    for field in Fields::new(bytes) {
        let field = field.ok()?;
        if field.is(KEY) {
            key = field.payload;
        } else if field.is(VALUE) {
            held = value(field.payload).ok()?.or(held);
        }
    }
    Some((key, held))
}

/// The value of an `InferParameter`: of the members of its oneof the last one is the one that is set.
fn value(bytes: &[u8]) -> Result<Option<Value<'_>>, crate::Malformed> {
    let mut set = None;
    for field in Fields::new(bytes) {
        let field = field?;
        let found = match (field.number, field.kind) {
            (1, Kind::Varint) => field.varint().map(|value| Value::Bool(value != 0)),
            (2, Kind::Varint) => field.varint().map(|value| Value::Int(value.cast_signed())),
            (3, Kind::Len) => Some(Value::Text(field.payload)),
            (4, Kind::Fixed64) => field
                .payload
                .first_chunk()
                .map(|bytes| Value::Double(f64::from_le_bytes(*bytes))),
            (5, Kind::Varint) => field.varint().map(Value::Uint),
            _ => None,
        };
        set = found.or(set);
    }
    Ok(set)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::names::scan_message;

    fn of(all: &[(&str, Value<'_>)]) -> Vec<u8> {
        let mut out = Vec::new();
        for (name, value) in all {
            put(&mut out, name.as_bytes(), *value);
        }
        out
    }

    #[test]
    fn a_value_of_each_kind_is_found_as_it_was_put() {
        for value in [
            Value::Bool(true),
            Value::Bool(false),
            Value::Int(0),
            Value::Int(-7),
            Value::Int(i64::MAX),
            Value::Text(b""),
            Value::Text("ünïcode".as_bytes()),
            Value::Double(-2.5),
            Value::Uint(0),
            Value::Uint(u64::MAX),
        ] {
            let bytes = of(&[("before", Value::Int(1)), ("it", value)]);

            assert_eq!(Some(value), find(&bytes, b"it"));
            assert_eq!(None, find(&bytes, b"other"));
        }
    }

    #[test]
    fn a_value_has_one_text_whatever_its_type() {
        let text =
            |value: Value<'_>| value.with_text(|text| String::from_utf8_lossy(text).into_owned());

        for value in [
            Value::Int(7),
            Value::Uint(7),
            Value::Double(7.0),
            Value::Text(b"7"),
        ] {
            assert_eq!("7", text(value));
        }
        assert_eq!("true", text(Value::Bool(true)));
        assert_eq!("-2.5", text(Value::Double(-2.5)));
        assert_eq!(i64::MIN.to_string(), text(Value::Int(i64::MIN)));
        assert_eq!(u64::MAX.to_string(), text(Value::Uint(u64::MAX)));
        for long in [
            f64::MIN_POSITIVE,
            -f64::MIN_POSITIVE,
            f64::MAX,
            -1.0 / 3.0,
            5e-324,
        ] {
            assert_eq!(format!("{long:?}"), text(Value::Double(long)));
        }
    }

    #[test]
    fn bytes_are_those_that_other_clients_write() {
        // {"sequence_id": {int64_param: 300}} as the protobuf runtime serialises it.
        let known = b"\x22\x12\x0a\x0bsequence_id\x12\x03\x10\xac\x02";

        assert_eq!(known.to_vec(), of(&[("sequence_id", Value::Int(300))]));
    }

    #[test]
    fn what_the_gateway_knows_is_read_in_one_scan() {
        let bytes = of(&[
            ("custom", Value::Text(b"x")),
            ("timeout", Value::Int(2_000)),
            ("sequence_end", Value::Bool(true)),
            ("priority", Value::Uint(1)),
            ("sequence_id", Value::Text(b"7")),
        ]);

        let expected = Params {
            sequence: Some(SequenceId::Text(b"7")),
            start: false,
            end: true,
            priority: 1,
            timeout_us: 2_000,
        };
        assert_eq!(expected, Params::scan(&bytes));
    }

    #[test]
    fn numbers_and_texts_are_different_sequences_and_nothing_is_none() {
        let sequence = |value| {
            Params::scan(&of(&[("sequence_id", value)]))
                .sequence
                .map(|id| format!("{id:?}"))
        };

        assert_ne!(sequence(Value::Int(7)), sequence(Value::Text(b"7")));
        assert_eq!(sequence(Value::Int(7)), sequence(Value::Uint(7)));
        assert!(sequence(Value::Int(-1)).is_some());
        for none in [
            Value::Int(0),
            Value::Uint(0),
            Value::Text(b""),
            Value::Bool(true),
            Value::Double(1.0),
        ] {
            assert_eq!(None, sequence(none));
        }
    }

    #[test]
    fn the_last_entry_of_a_key_counts() {
        let mut bytes = of(&[
            ("sequence_id", Value::Int(7)),
            ("sequence_id", Value::Int(8)),
        ]);
        assert_eq!(Some(SequenceId::Number(8)), Params::scan(&bytes).sequence);

        // An entry with a key and no value sets the parameter to nothing.
        let mut entry = Vec::new();
        put_len(&mut entry, KEY, b"sequence_id");
        put_len(&mut bytes, FIELD, &entry);
        assert_eq!(None, Params::scan(&bytes).sequence);
    }

    #[test]
    fn a_value_before_its_key_and_fields_that_are_not_known_are_no_trouble() {
        let mut entry = Vec::new();
        put_number(&mut entry, 9, 5);
        put_len(&mut entry, VALUE, b"\x10\x07");
        put_len(&mut entry, KEY, b"sequence_id");
        let mut bytes = of(&[("a", Value::Int(1))]);
        put_len(&mut bytes, 5, b"a tensor in between");
        put_len(&mut bytes, FIELD, &entry);

        assert_eq!(Some(SequenceId::Number(7)), Params::scan(&bytes).sequence);
    }

    #[test]
    fn a_negative_priority_or_timeout_is_none() {
        let bytes = of(&[("priority", Value::Int(-1)), ("timeout", Value::Int(-5))]);

        assert_eq!(Params::default(), Params::scan(&bytes));
    }

    #[test]
    fn a_broken_entry_is_passed_over() {
        let mut bytes = Vec::new();
        put_len(&mut bytes, FIELD, b"\x0a\x7fsequence_id");
        put_len(&mut bytes, FIELD, b"\x0a\x0bsequence_id\x12\x01\x10");
        bytes.extend(of(&[("sequence_end", Value::Bool(true))]));

        let params = Params::scan(&bytes);

        assert_eq!((None, true), (params.sequence, params.end));
    }

    #[test]
    fn any_bytes_give_an_answer_and_never_a_panic() {
        let mut random = crate::names::tests::Random(23);
        let good = of(&[
            ("sequence_id", Value::Int(7)),
            ("k", Value::Double(0.5)),
            ("priority", Value::Uint(2)),
            ("name", Value::Text(b"value")),
        ]);
        for _ in 0..50_000 {
            let mut bytes = if random.below(2) == 0 {
                let size = random.below(40);
                random.bytes(size)
            } else {
                good.clone()
            };
            for _ in 0..random.below(4) {
                if !bytes.is_empty() {
                    let at = random.below(bytes.len());
                    bytes[at] = random.bytes(1)[0];
                }
            }
            let cut = random.below(bytes.len() + 1);

            for bytes in [&bytes[..], &bytes[..cut]] {
                let params = Params::scan(bytes);
                let found = find(bytes, b"sequence_id").and_then(SequenceId::of);
                assert_eq!(params.sequence, found, "{bytes:?}");
                if let Ok(names) = scan_message(bytes) {
                    assert_eq!(params, Params::scan(names.parameters), "{bytes:?}");
                }
            }
        }
    }
}
