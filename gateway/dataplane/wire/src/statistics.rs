//! `ModelStatistics` of one version from the statistics that several backends have of it.

use bytes::Bytes;

use crate::encode::{put_len, put_number};
use crate::fields::{Field, Fields, Kind, Malformed};

/// How the values of one field become one.
#[derive(Debug, Clone, Copy)]
enum Rule {
    /// Numbers are added up.
    Sum,
    /// The largest number.
    Max,
    /// The first message's value: those of a group have it in common.
    First,
    /// Messages become one by their own rules.
    Merge(Rules),
    /// Messages that agree in these fields become one.
    Group(&'static [u32], Rules),
}

/// Rules by field number, in ascending order.
type Rules = &'static [(u32, Rule)];

const DURATION: Rules = &[(1, Rule::Sum), (2, Rule::Sum)];
const TIMES: Rule = Rule::Merge(DURATION);
/// `InferStatistics` and `InferResponseStatistics`: nothing but durations.
const INFER: Rules = &[
    (1, TIMES),
    (2, TIMES),
    (3, TIMES),
    (4, TIMES),
    (5, TIMES),
    (6, TIMES),
    (7, TIMES),
    (8, TIMES),
];
/// `InferBatchStatistics`, by their size.
const BATCH: Rules = &[(1, Rule::First), (2, TIMES), (3, TIMES), (4, TIMES)];
/// `MemoryUsage`, by type and id.
const MEMORY: Rules = &[(1, Rule::First), (2, Rule::First), (3, Rule::Sum)];
/// An entry of the map `response_stats`, by its key.
const RESPONSE: Rules = &[(1, Rule::First), (2, Rule::Merge(INFER))];
/// `ModelStatistics` but for its names: last inference, counts, times, and the repeated ones.
const MODEL: Rules = &[
    (3, Rule::Max),
    (4, Rule::Sum),
    (5, Rule::Sum),
    (6, Rule::Merge(INFER)),
    (7, Rule::Group(&[1], BATCH)),
    (8, Rule::Group(&[1, 2], MEMORY)),
    (9, Rule::Group(&[1], RESPONSE)),
];

/// One entry of `model_stats` as a backend gave it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Triton's model name.
    pub model: String,
    /// Triton's version.
    pub version: String,
    /// The entry itself.
    pub stats: Bytes,
}

/// The entries of a `ModelStatisticsResponse`.
///
/// # Errors
/// The message is malformed.
pub fn entries(msg: &Bytes) -> Result<Vec<Entry>, Malformed> {
    let stats = Fields::new(msg).filter(|field| field.as_ref().map_or(true, |field| field.is(1)));
    stats
        .map(|field| {
            let stats = msg.slice_ref(field?.payload);
            let names = crate::names::scan_message(&stats)?;
            let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
            Ok(Entry {
                model: text(names.model),
                version: text(names.version),
                stats: stats.clone(),
            })
        })
        .collect()
}

/// Append the entry of one version to a `ModelStatisticsResponse`: the sum of what its backends have,
/// all zero where there is none.
///
/// Counts and times are added up, batches by their size, memory by its kind and place, response
/// statistics by their key; the last inference is the latest.
///
/// # Errors
/// An entry is malformed.
pub fn put_entry(
    out: &mut Vec<u8>,
    model: &str,
    version: &str,
    stats: &[&[u8]],
) -> Result<(), Malformed> {
    let mut entry = Vec::new();
    put_len(&mut entry, 1, model.as_bytes());
    put_len(&mut entry, 2, version.as_bytes());
    if stats.is_empty() {
        put_len(&mut entry, 6, &no_inferences());
    }
    merge(&mut entry, MODEL, stats)?;
    put_len(out, 1, &entry);
    Ok(())
}

/// The `InferStatistics` of a version that was never asked anything: all there, and all zero.
fn no_inferences() -> Vec<u8> {
    let mut out = Vec::new();
    for (number, _) in INFER {
        put_len(&mut out, *number, b"");
    }
    out
}

/// Append the messages as one. Fields without a rule are left out.
fn merge(out: &mut Vec<u8>, rules: Rules, messages: &[&[u8]]) -> Result<(), Malformed> {
    for (number, rule) in rules {
        let mut found: Vec<Field<'_>> = Vec::new();
        for field in messages.iter().flat_map(|message| Fields::new(message)) {
            let field = field?;
            if field.number == *number {
                found.push(field);
            }
        }
        if !found.is_empty() {
            join(out, *number, *rule, &found)?;
        }
    }
    Ok(())
}

/// Append one field from its values.
fn join(out: &mut Vec<u8>, number: u32, rule: Rule, found: &[Field<'_>]) -> Result<(), Malformed> {
    let numbers = found.iter().filter_map(Field::varint);
    match rule {
        Rule::Sum => put_number(out, number, numbers.fold(0, u64::wrapping_add)),
        Rule::Max => put_number(out, number, numbers.max().unwrap_or(0)),
        Rule::First => out.extend_from_slice(found[0].raw),
        Rule::Merge(rules) => put_message(out, number, rules, &payloads(found.iter()))?,
        Rule::Group(keys, rules) => {
            for (_, group) in grouped(found, keys)? {
                put_message(out, number, rules, &payloads(group.into_iter()))?;
            }
        }
    }
    Ok(())
}

fn payloads<'f, 'm: 'f>(found: impl Iterator<Item = &'f Field<'m>>) -> Vec<&'m [u8]> {
    let messages = found.filter(|field| field.kind == Kind::Len);
    messages.map(|field| field.payload).collect()
}

fn put_message(
    out: &mut Vec<u8>,
    number: u32,
    rules: Rules,
    messages: &[&[u8]],
) -> Result<(), Malformed> {
    let mut message = Vec::new();
    merge(&mut message, rules, messages)?;
    put_len(out, number, &message);
    Ok(())
}

type Groups<'f, 'm> = Vec<(Vec<u8>, Vec<&'f Field<'m>>)>;

/// Fields by the values of their keys, in the order in which these come first.
fn grouped<'f, 'm>(found: &'f [Field<'m>], keys: &[u32]) -> Result<Groups<'f, 'm>, Malformed> {
    let mut groups: Groups<'f, 'm> = Vec::new();
    for field in found {
        let mut key = Vec::new();
        for inner in Fields::new(field.payload) {
            let inner = inner?;
            if keys.contains(&inner.number) {
                key.extend_from_slice(inner.raw);
            }
        }
        match groups.iter_mut().find(|(known, _)| *known == key) {
            Some((_, group)) => group.push(field),
            None => groups.push((key, vec![field])),
        }
    }
    Ok(groups)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fields::read_varint;

    fn number(number: u32, value: u64) -> Vec<u8> {
        let mut out = Vec::new();
        put_number(&mut out, number, value);
        out
    }

    fn message(number: u32, parts: &[Vec<u8>]) -> Vec<u8> {
        let mut out = Vec::new();
        put_len(&mut out, number, &parts.concat());
        out
    }

    fn times(field: u32, count: u64, ns: u64) -> Vec<u8> {
        message(field, &[number(1, count), number(2, ns)])
    }

    fn text(field: u32, text: &str) -> Vec<u8> {
        message(field, &[text.as_bytes().to_vec()])
    }

    /// Statistics of `count` requests, in batches of that size.
    fn stats(model: &str, count: u64, batch: u64, last: u64) -> Vec<u8> {
        [
            text(1, model),
            text(2, "1"),
            number(3, last),
            number(4, count * batch),
            number(5, count),
            message(6, &[times(1, count, count * 10), times(2, 0, 0)]),
            message(7, &[number(1, batch), times(3, count, 7)]),
            message(8, &[text(1, "GPU"), number(2, 1), number(3, 100)]),
            message(9, &[text(1, "0"), message(2, &[times(1, count, 5)])]),
        ]
        .concat()
    }

    fn merged(stats: &[&[u8]]) -> Bytes {
        let mut out = Vec::new();
        put_entry(&mut out, "m", "7", stats).unwrap();
        let all = entries(&out.into()).unwrap();
        assert_eq!(("m", "7"), (&*all[0].model, &*all[0].version));
        all[0]
            .stats
            .slice(all[0].stats.len() - body(&all[0].stats)..)
    }

    /// Bytes behind the names.
    fn body(entry: &[u8]) -> usize {
        let names = Fields::new(entry)
            .take(2)
            .map(|field| field.unwrap().raw.len());
        entry.len() - names.sum::<usize>()
    }

    fn without_names(entry: &[u8]) -> &[u8] {
        &entry[entry.len() - body(entry)..]
    }

    #[test]
    fn one_backends_statistics_stay_as_they_are() {
        let one = stats("m.7.ab", 3, 4, 99);

        assert_eq!(without_names(&one), merged(&[&one]));
    }

    #[test]
    fn two_backends_add_up() {
        let (one, two) = (stats("m", 3, 4, 99), stats("m", 2, 4, 55));
        let expected = [
            number(3, 99),
            number(4, 20),
            number(5, 5),
            message(6, &[times(1, 5, 50), times(2, 0, 0)]),
            message(7, &[number(1, 4), times(3, 5, 14)]),
            message(8, &[text(1, "GPU"), number(2, 1), number(3, 200)]),
            message(9, &[text(1, "0"), message(2, &[times(1, 5, 10)])]),
        ];

        assert_eq!(expected.concat(), merged(&[&one, &two]));
    }

    #[test]
    fn batches_of_different_sizes_stay_apart() {
        let (one, two) = (stats("m", 3, 4, 99), stats("m", 2, 8, 55));

        let sizes = Fields::new(&merged(&[&one, &two]))
            .map(Result::unwrap)
            .filter(|field| field.is(7))
            .map(|field| read_varint(&field.payload[1..]).unwrap().0)
            .collect::<Vec<_>>();

        assert_eq!(vec![4, 8], sizes);
    }

    #[test]
    fn a_version_that_nobody_has_is_all_zero() {
        let zero = merged(&[]);

        let inner = Fields::new(&zero[2..]).map(|field| field.unwrap().payload.len());
        assert_eq!(vec![0; 8], inner.collect::<Vec<_>>());
    }

    #[test]
    fn malformed_statistics_are_refused_at_every_depth() {
        for broken in [&b"\x32\x7f"[..], b"\x32\x02\x0a\x7f", b"\x3a\x02\x12\x7f"] {
            assert!(put_entry(&mut Vec::new(), "m", "1", &[broken]).is_err());
        }
        assert!(entries(&Bytes::from_static(b"\x0a\x02\x0a\x7f")).is_err());
    }
}
