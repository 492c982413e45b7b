use super::*;
use crate::encode::put_len;
use crate::params::{find, put, SequenceId, Value};

fn message(fields: &[(u32, &[u8])]) -> Vec<u8> {
    let mut out = Vec::new();
    for (number, payload) in fields {
        put_len(&mut out, *number, payload);
    }
    out
}

/// A small generator, so that runs repeat: xorshift64*.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    pub(crate) fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }

    pub(crate) fn bytes(&mut self, n: usize) -> Vec<u8> {
        (0..n).map(|_| self.next() as u8).collect()
    }

    /// A mostly well-formed message, with names anywhere in it.
    fn message(&mut self) -> Vec<u8> {
        let mut out = Vec::new();
        for _ in 0..self.below(8) {
            match self.below(6) {
                0 | 1 => {
                    let number = 1 + self.below(2) as u32;
                    let size = self.below(5);
                    let name = self.bytes(size);
                    put_len(&mut out, number, &name);
                }
                2 => {
                    let size = self.below(300);
                    let payload = self.bytes(size);
                    put_len(&mut out, 3 + self.below(40) as u32, &payload);
                }
                3 => {
                    out.push(0x20);
                    crate::encode::put_varint(&mut out, self.next());
                }
                4 => {
                    out.push(0x29);
                    out.extend(self.bytes(8));
                }
                _ => {
                    out.push(0x35);
                    out.extend(self.bytes(4));
                }
            }
        }
        if self.below(4) == 0 && !out.is_empty() {
            let at = self.below(out.len());
            out[at] = self.next() as u8;
        }
        out
    }
}

fn scan_in_pieces(msg: &[u8], random: &mut Random) -> Result<NameScanner, Malformed> {
    let mut scanner = NameScanner::new(msg.len());
    let mut rest = msg;
    while !rest.is_empty() {
        let (piece, after) = rest.split_at(1 + random.below(rest.len().min(7)));
        scanner.feed(piece)?;
        rest = after;
    }
    Ok(scanner)
}

#[test]
fn names_are_found_in_any_order_and_the_last_value_wins() {
    let msg = message(&[
        (5, b"tensor"),
        (2, b"9"),
        (1, b"old"),
        (7, b"raw"),
        (1, b"new"),
        (2, b""),
    ]);

    assert_eq!(Names::of(b"new", b""), scan_message(&msg).unwrap());
}

#[test]
fn an_empty_message_has_empty_names() {
    assert_eq!(Names::default(), scan_message(b"").unwrap());
    assert!(NameScanner::new(0).decided());
}

#[test]
fn names_of_another_wire_type_are_no_names() {
    assert_eq!(Names::default(), scan_message(b"\x08\x01\x10\x02").unwrap());
}

#[test]
fn pieces_of_any_size_give_what_the_whole_gives() {
    let mut random = Random(7);
    for _ in 0..20_000 {
        let msg = random.message();
        let whole = scan_message(&msg);
        let pieces = scan_in_pieces(&msg, &mut random);

        match (whole, pieces) {
            (Ok(names), Ok(scanner)) => {
                assert!(scanner.complete() && scanner.decided());
                if !scanner.changed_since_decided() {
                    let pieces = scanner.names();
                    assert_eq!((names.model, names.version), (pieces.model, pieces.version));
                    assert_eq!(
                        Params::scan(names.parameters),
                        Params::scan(pieces.parameters)
                    );
                }
            }
            (whole, pieces) => assert_eq!(whole.is_err(), pieces.is_err(), "{msg:?}"),
        }
    }
}

#[test]
fn random_bytes_never_panic() {
    let mut random = Random(11);
    for _ in 0..50_000 {
        let size = random.below(40);
        let msg = random.bytes(size);
        let whole = scan_message(&msg).map(|n| (n.model.to_vec(), n.version.to_vec()));
        let pieces = scan_in_pieces(&msg, &mut random);

        assert_eq!(whole.is_err(), pieces.is_err(), "{msg:?}");
    }
}

#[test]
fn names_are_decided_when_the_tensors_begin() {
    let msg = message(&[(1, b"digits"), (2, b"1"), (5, b"tensor")]);
    let mut scanner = NameScanner::new(msg.len());

    scanner.feed(&msg[..11]).unwrap();
    assert!(!scanner.decided());
    scanner.feed(&msg[11..12]).unwrap();

    assert!(scanner.decided() && !scanner.complete());
    assert_eq!(Names::of(b"digits", b"1"), scanner.names());
}

#[test]
fn tensors_before_the_model_decide_nothing() {
    let msg = message(&[(2, b"1"), (5, b"tensor"), (1, b"digits")]);
    let mut scanner = NameScanner::new(msg.len());

    scanner.feed(&msg[..msg.len() - 1]).unwrap();
    assert!(!scanner.decided());
    scanner.feed(&msg[msg.len() - 1..]).unwrap();

    assert_eq!(Names::of(b"digits", b"1"), scanner.names());
}

#[test]
fn a_name_given_again_after_the_tensors_is_told_when_it_differs() {
    for (late, changed) in [(&b"digits"[..], false), (b"other", true), (b"", true)] {
        let msg = message(&[(1, b"digits"), (5, b"tensor"), (1, late)]);
        let mut scanner = NameScanner::new(msg.len());

        scanner.feed(&msg).unwrap();

        assert_eq!(changed, scanner.changed_since_decided());
        assert_eq!(b"digits", scanner.names().model);
    }
}

#[test]
fn a_version_after_the_tensors_counts_as_a_change() {
    let msg = message(&[(1, b"digits"), (5, b"tensor"), (2, b"3")]);
    let mut scanner = NameScanner::new(msg.len());

    scanner.feed(&msg).unwrap();

    assert!(scanner.changed_since_decided());
}

#[test]
fn a_very_long_name_is_kept_only_in_part() {
    let msg = message(&[(1, &vec![b'a'; 100_000])]);
    let mut scanner = NameScanner::new(msg.len());

    scanner.feed(&msg).unwrap();

    assert_eq!(KEPT, scanner.names().model.len());
}

#[test]
fn a_length_beyond_the_message_is_refused_before_its_bytes_come() {
    let mut scanner = NameScanner::new(10);

    assert_eq!(Err(BEYOND_END), scanner.feed(b"\x2a\x7f"));
}

#[test]
fn more_bytes_than_announced_are_refused() {
    let mut scanner = NameScanner::new(2);

    assert!(scanner.feed(b"\x0a\x01a").is_err());
}

fn parameters(all: &[(&str, Value<'_>)]) -> Vec<u8> {
    let mut out = Vec::new();
    for (name, value) in all {
        put(&mut out, name.as_bytes(), *value);
    }
    out
}

#[test]
fn parameters_are_found_wherever_they_stand() {
    let first = parameters(&[("sequence_id", Value::Int(7))]);
    let second = parameters(&[("user", Value::Text(b"ann"))]);
    let mut msg = message(&[(1, b"m"), (3, b"id")]);
    msg.extend_from_slice(&first);
    msg.extend(message(&[(5, b"tensor")]));
    msg.extend_from_slice(&second);
    msg.extend(message(&[(2, b"9")]));

    let names = scan_message(&msg).unwrap();

    assert_eq!(Names::of(b"m", b"9").version, names.version);
    assert_eq!(
        Some(SequenceId::Number(7)),
        Params::scan(names.parameters).sequence
    );
    assert_eq!(Some(Value::Text(b"ann")), find(names.parameters, b"user"));
    assert!(names.parameters.len() < msg.len());
}

#[test]
fn a_message_without_parameters_says_so() {
    let msg = message(&[
        (1, b"m"),
        (2, b"9"),
        (3, b"id"),
        (5, b"tensor"),
        (7, b"raw"),
    ]);

    assert!(scan_message(&msg).unwrap().parameters.is_empty());
}

#[test]
fn parameters_are_known_when_the_names_of_a_large_message_are_decided() {
    let mut msg = message(&[(1, b"m"), (3, b"id")]);
    msg.extend(parameters(&[
        ("user", Value::Text(b"ann")),
        ("sequence_id", Value::Text(b"7")),
    ]));
    let begin = msg.len();
    msg.extend(message(&[(5, b"tensor")]));
    let mut scanner = NameScanner::new(msg.len());

    scanner.feed(&msg[..begin]).unwrap();
    assert!(!scanner.decided());
    scanner.feed(&msg[begin..=begin]).unwrap();

    assert!(scanner.decided() && !scanner.complete());
    let parameters = scanner.names().parameters;
    assert_eq!(
        Some(SequenceId::Text(b"7")),
        Params::scan(parameters).sequence
    );
    assert_eq!(Some(Value::Text(b"ann")), find(parameters, b"user"));
}

#[test]
fn a_sequence_after_the_tensors_counts_as_a_change_and_other_parameters_do_not() {
    for (late, changed) in [
        (("sequence_id", Value::Int(7)), true),
        (("sequence_id", Value::Int(0)), false),
        (("user", Value::Int(7)), false),
    ] {
        let mut msg = message(&[(1, b"m"), (5, b"tensor")]);
        msg.extend(parameters(&[late]));
        let mut scanner = NameScanner::new(msg.len());

        scanner.feed(&msg).unwrap();

        assert_eq!(changed, scanner.changed_since_decided(), "{late:?}");
        assert!(scanner.names().parameters.is_empty());
    }
}

#[test]
fn more_parameters_than_are_kept_are_passed_over() {
    let mut msg = message(&[(1, b"m")]);
    msg.extend(parameters(&[
        ("big", Value::Text(&vec![b'x'; KEPT_PARAMETERS])),
        ("small", Value::Int(1)),
    ]));
    let mut scanner = NameScanner::new(msg.len());

    scanner.feed(&msg).unwrap();

    let kept = scanner.names().parameters;
    assert!(kept.len() <= KEPT_PARAMETERS);
    assert_eq!(
        (None, Some(Value::Int(1))),
        (find(kept, b"big"), find(kept, b"small"))
    );
}
