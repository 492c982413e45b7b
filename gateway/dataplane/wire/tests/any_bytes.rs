//! Any bytes give an answer or an error: no reader panics, and what is rewritten can be read.

#![allow(clippy::unwrap_used)]

use bytes::Bytes;
use stagegate_wire::fields::Fields;
use stagegate_wire::inflate::{inflate, Encoding};
use stagegate_wire::local::{health_service, index_wants_ready, reflection_request};
use stagegate_wire::rewrite::{rename_config, rename_metadata};
use stagegate_wire::statistics::{entries, put_entry};
use stagegate_wire::text::{
    decode_message, encode_message, replace_name, rewrite_message, MAX_TEXT,
};
use stagegate_wire::timeout::{format_grpc_timeout, parse_grpc_timeout};
use stagegate_wire::{encode, stream, Malformed};

/// A small generator, so that runs repeat: xorshift64*.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }

    fn bytes(&mut self, most: usize) -> Vec<u8> {
        (0..self.below(most)).map(|_| self.next() as u8).collect()
    }

    /// Nested messages with small field numbers, sometimes with one byte changed.
    fn message(&mut self, depth: usize) -> Vec<u8> {
        let mut out = Vec::new();
        for _ in 0..self.below(5) {
            let number = [1, 1, 2, 3, 7, 15][self.below(6)];
            if self.below(4) == 0 {
                encode::put_number(&mut out, number, self.next());
            } else {
                let payload = if depth > 0 {
                    self.message(depth - 1)
                } else {
                    self.bytes(6)
                };
                encode::put_len(&mut out, number, &payload);
            }
        }
        if self.below(8) == 0 && !out.is_empty() {
            let at = self.below(out.len());
            out[at] = self.next() as u8;
        }
        out
    }
}

/// The statistics of a version from one message, and from the same twice.
fn statistics(msg: &[u8]) -> Result<Bytes, Malformed> {
    let mut out = Vec::new();
    put_entry(&mut out, "m", "1", &[msg])?;
    put_entry(&mut out, "m", "2", &[msg, msg])?;
    Ok(out.into())
}

fn is_message(bytes: &[u8]) -> bool {
    Fields::new(bytes).all(|field| field.is_ok())
}

#[test]
fn no_message_makes_a_reader_panic_and_what_is_renamed_is_a_message() {
    let mut random = Random(3);
    for _ in 0..30_000 {
        let msg = random.message(4);
        let rename = |name: &str| name.len().is_multiple_of(2).then(|| "logical".to_owned());

        let renamed = [
            rename_metadata(&msg, "m", &["1", "2"]),
            rename_config(&msg, "m", &rename),
            statistics(&msg),
        ];

        assert_eq!(is_message(&msg), renamed[0].is_ok());
        assert!(
            renamed.iter().flatten().all(|out| is_message(out)),
            "{msg:?}"
        );
        let _ = (
            stream::peek(&msg),
            stream::request_id(&msg),
            entries(&Bytes::from(msg.clone())),
            reflection_request(&msg),
        );
        let _ = (health_service(&msg), index_wants_ready(&msg));
    }
}

#[test]
fn metadata_renamed_twice_is_as_renamed_once() {
    let mut random = Random(5);
    for _ in 0..5_000 {
        let msg = random.message(1);
        if let Ok(once) = rename_metadata(&msg, "m", &["1"]) {
            assert_eq!(once, rename_metadata(&once, "m", &["1"]).unwrap());
        }
    }
}

#[test]
fn texts_of_any_bytes_can_be_header_values_and_are_short() {
    let mut random = Random(7);
    for round in 0..20_000 {
        let most = if round % 100 == 0 { 9_000 } else { 40 };
        let value = random.bytes(most);
        let text = decode_message(&value);

        let again = encode_message(&text);

        assert!(again.len() <= MAX_TEXT);
        assert!(again.iter().all(|byte| (0x20..=0x7e).contains(byte)));
        if again.len() + 12 < MAX_TEXT {
            assert_eq!(text, decode_message(&again));
        }
        if let Some(rewritten) = rewrite_message(&value, "a", "bb") {
            assert!(rewritten.len() <= MAX_TEXT);
        }
    }
}

#[test]
fn a_replaced_name_changes_nothing_but_the_name() {
    let mut random = Random(9);
    let alphabet = ["t.1", "t", ".", "1", " ", "_0", "-", "'", "é", "x"];
    for _ in 0..50_000 {
        let text: String = (0..random.below(9))
            .map(|_| alphabet[random.below(10)])
            .collect();

        let replaced = replace_name(&text, "t.1", "<logical>");

        assert_eq!(text, replaced.replace("<logical>", "t.1"));
    }
}

#[test]
fn any_bytes_are_a_timeout_that_reads_back_or_none() {
    let mut random = Random(11);
    for _ in 0..100_000 {
        let mut text = random.bytes(10);
        for byte in &mut text {
            *byte = b"0123456789HMSmun-"[usize::from(*byte) % 17];
        }
        if let Some(time) = parse_grpc_timeout(&text) {
            let back = parse_grpc_timeout(format_grpc_timeout(time).as_bytes()).unwrap();
            assert!(back <= time);
        }
    }
}

#[test]
fn random_bytes_do_not_inflate_beyond_the_cap() {
    let mut random = Random(13);
    for _ in 0..20_000 {
        let mut body = vec![0x78, 0x9c];
        body.extend(random.bytes(60));
        for encoding in [Encoding::Gzip, Encoding::Deflate] {
            if let Ok(out) = inflate(encoding, &body, 100, 100) {
                assert!(out.len() <= 100);
            }
        }
    }
}
