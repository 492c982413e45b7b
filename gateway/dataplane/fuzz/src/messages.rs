//! Targets that take the bytes of one message. A target panics where something does not hold.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use stagegate_table::spec::{ArmSpec, BackendSpec, ModelSpec, PointerSpec, Snapshot, VersionSpec};
use stagegate_table::{grammar, pick, Published};
use stagegate_wire::fields::Fields;
use stagegate_wire::inflate::{inflate, Encoding};
use stagegate_wire::names::{scan_message, NameScanner, KEPT};
use stagegate_wire::params::{find, Params};
use stagegate_wire::rewrite::{names_tail, rename_config, rename_metadata, stream_answer_tail};
use stagegate_wire::timeout::{format_grpc_timeout, parse_grpc_timeout};
use stagegate_wire::{frame, local, statistics, stream, text};

use crate::random::Random;

/// What one input must satisfy.
pub type Target = fn(&[u8]);

/// All targets by name.
pub const TARGETS: &[(&str, Target)] = &[
    ("names", names),
    ("rewrite", rewrite),
    ("stream", stream_answers),
    ("statistics", statistics_of_backends),
    ("local", local_requests),
    ("inflate", inflated),
    ("text", texts),
    ("timeout", timeouts),
    ("pick", picks),
];

fn is_message(bytes: &[u8]) -> bool {
    Fields::new(bytes).all(|field| field.is_ok())
}

/// Where this input is cut; the same for the same input.
fn cuts(input: &[u8]) -> Random {
    let hash = input.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    });
    Random::new(hash)
}

/// The reader of whole messages and the one of pieces agree, wherever the pieces are cut.
fn names(input: &[u8]) {
    let whole = scan_message(input);
    let mut cuts = cuts(input);
    for most in [1, 7, 300, usize::MAX] {
        let mut scanner = NameScanner::new(input.len());
        let mut rest = input;
        let mut fed = Ok(());
        while !rest.is_empty() && fed.is_ok() {
            let (piece, after) = rest.split_at(1 + cuts.below(rest.len().min(most)));
            fed = scanner.feed(piece);
            rest = after;
        }
        let good = fed.is_ok() && scanner.complete();
        assert_eq!(whole.is_ok(), good, "pieces of {most}");
        if let (Ok(whole), false) = (&whole, scanner.changed_since_decided()) {
            let found = scanner.names();
            assert_eq!(&whole.model[..whole.model.len().min(KEPT)], found.model);
            assert_eq!(
                &whole.version[..whole.version.len().min(KEPT)],
                found.version
            );
        }
    }
    let mut short = NameScanner::new(input.len().saturating_sub(1));
    assert!(input.is_empty() || short.feed(input).is_err());
    let parameters = whole.map_or(input, |names| names.parameters);
    let params = Params::scan(parameters);
    assert!(find(parameters, b"sequence_id").is_some() || params.sequence.is_none());
}

/// What is renamed is a message, says the new names, and a tail wins over all that stands before it.
fn rewrite(input: &[u8]) {
    let rename = |name: &str| name.len().is_multiple_of(2).then(|| "logical".to_owned());
    let metadata = rename_metadata(input, "m", &["1", "2"]);
    assert_eq!(is_message(input), metadata.is_ok());
    if let Ok(metadata) = metadata {
        assert_eq!(
            b"m",
            scan_message(&metadata).map_or(&b""[..], |names| names.model)
        );
        assert_eq!(
            Ok(&metadata),
            rename_metadata(&metadata, "m", &["1", "2"]).as_ref()
        );
    }
    if let Ok(config) = rename_config(input, "m", &rename) {
        assert!(is_message(&config));
    }
    for (model, version) in [("digits.3.0a1b", ""), ("m", "1")] {
        let mut tailed = input.to_vec();
        tailed.extend_from_slice(&names_tail(model, version));
        if let (true, Ok(names)) = (is_message(input), scan_message(&tailed)) {
            assert_eq!(
                (model.as_bytes(), version.as_bytes()),
                (names.model, names.version)
            );
        }
    }
}

/// Stream answers are looked into and renamed without a change of anything else.
fn stream_answers(input: &[u8]) {
    let _ = stream::request_id(input);
    let Ok(answer) = stream::peek(input) else {
        return;
    };
    let mut renamed = input.to_vec();
    renamed.extend_from_slice(&stream_answer_tail("logical", "7"));
    let after = stream::peek(&renamed);
    assert_eq!(Ok(answer.error), after.map(|after| after.error));
    assert_eq!(Ok(&b"logical"[..]), after.map(|after| after.model));
    let text = String::from_utf8_lossy(answer.error);
    let own = stream::error_answer(&text, answer.id);
    let read = stream::peek(&own);
    assert_eq!(Ok(text.as_bytes()), read.map(|read| read.error));
    assert_eq!(Ok(answer.id), read.map(|read| read.id));
}

/// Statistics of several backends add up to a message, or are refused.
fn statistics_of_backends(input: &[u8]) {
    let input = Bytes::copy_from_slice(input);
    let Ok(entries) = statistics::entries(&input) else {
        return;
    };
    let mut out = Vec::new();
    for entry in &entries {
        let both = [&entry.stats[..], &entry.stats[..]];
        let mut sum = Vec::new();
        if statistics::put_entry(&mut sum, "m", "1", &both).is_ok() {
            assert!(is_message(&sum));
            out.extend_from_slice(&sum);
        }
    }
    let again = statistics::entries(&Bytes::from(out));
    assert!(again.is_ok_and(|again| again.iter().all(|entry| entry.model == "m")));
}

/// Requests that the gateway answers itself.
fn local_requests(input: &[u8]) {
    let _ = (
        local::health_service(input),
        local::index_wants_ready(input),
        local::reflection_request(input),
        frame::message(input),
    );
    assert!(is_message(&local::reflection_error(input, 5, "none")) || !is_message(input));
}

/// No compressed message becomes larger than its caps.
fn inflated(input: &[u8]) {
    for encoding in [Encoding::Gzip, Encoding::Deflate] {
        for (most, ratio) in [(100, 100), (1 << 16, 2), (1 << 16, 1000)] {
            if let Ok(out) = inflate(encoding, input, most, ratio) {
                assert!(out.len() <= most);
            }
        }
    }
    let _ = Encoding::parse(input);
}

/// Texts from anywhere fit into a header, and names in them are replaced.
fn texts(input: &[u8]) {
    let decoded = text::decode_message(input);
    let encoded = text::encode_message(&decoded);
    assert!(encoded.len() <= text::MAX_TEXT);
    assert!(encoded.iter().all(|byte| (0x20..=0x7e).contains(byte)));
    if let Some(rewritten) = text::rewrite_message(input, "digits.3.0a1b2c3d", "digits") {
        assert!(rewritten.len() <= text::MAX_TEXT);
    }
    if !decoded.contains('\u{1}') {
        let replaced = text::replace_name(&decoded, "digits.3.0a1b2c3d", "\u{1}");
        assert_eq!(decoded, replaced.replace('\u{1}', "digits.3.0a1b2c3d"));
    }
}

/// A timeout reads back as at most itself.
fn timeouts(input: &[u8]) {
    let time = parse_grpc_timeout(input);
    assert!(time.is_none() || (2..=9).contains(&input.len()));
    if let Some(time) = time {
        let back = parse_grpc_timeout(format_grpc_timeout(time).as_bytes());
        assert!(back.is_some_and(
            |back| back <= time && (back > Duration::ZERO || time < Duration::from_micros(2))
        ));
    }
}

/// Only well-formed names are looked up, and what is found is what was asked for.
fn picks(input: &[u8]) {
    let (model, version) = match scan_message(input) {
        Ok(names) => (names.model, names.version),
        Err(_) => input.split_at(input.len() / 2),
    };
    let mut reader = table().reader();
    let picked = pick(reader.table(), model, version, || 0);
    let bare = model.split(|byte| *byte == b'@').next().unwrap_or_default();
    match picked {
        Ok(picked) => {
            assert!(grammar::is_model_name(bare));
            assert_eq!(picked.model.name.as_bytes(), bare);
        }
        Err(error) => assert!(matches!(error.code(), 3 | 5), "{}", error.code()),
    }
}

thread_local! {
    static TABLE: Arc<Published> = published("127.0.0.1:1").unwrap_or_else(|error| panic!("{error}"));
}

fn table() -> Arc<Published> {
    TABLE.with(Arc::clone)
}

/// A table with the model `digits`, versions 3 and 4, on one backend.
///
/// # Errors
/// The table is refused.
pub fn published(backend: &str) -> Result<Arc<Published>, stagegate_table::TableError> {
    let version = |id: &str| VersionSpec {
        version: id.to_owned(),
        state: "ready".to_owned(),
        backends: vec!["t0".to_owned()],
        backend_model: format!("digits.{id}.0a1b2c3d"),
        ..VersionSpec::default()
    };
    let arm = |name: &str, version: &str, weight| ArmSpec {
        name: name.to_owned(),
        version: version.to_owned(),
        weight,
    };
    let published = Published::new();
    published.publish(Snapshot {
        revision: 1,
        backends: vec![BackendSpec {
            name: "t0".to_owned(),
            address: backend.to_owned(),
            ..BackendSpec::default()
        }],
        models: vec![ModelSpec {
            name: "digits".to_owned(),
            versions: vec![version("3"), version("4")],
            pointers: vec![PointerSpec {
                kind: "alias".to_owned(),
                name: "champion".to_owned(),
                version: "3".to_owned(),
            }],
            arms: vec![arm("stable", "3", 9_000), arm("canary", "4", 1_000)],
            ..ModelSpec::default()
        }],
    })?;
    Ok(published)
}
