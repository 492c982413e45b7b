//! From names to a version.

#![allow(clippy::unwrap_used)]

mod common;

use std::sync::Arc;

use common::{arm, model, pointer, snapshot, version};
use stagegate_table::spec::ModelSpec;
use stagegate_table::{pick, Pick, PickError, PickErrorKind, Published, RefKind, Table};

fn table(models: Vec<ModelSpec>) -> Arc<Table> {
    let published = Published::new();
    published.publish(snapshot(1, models)).unwrap();
    published.load()
}

fn one(spec: ModelSpec) -> Arc<Table> {
    table(vec![spec])
}

/// Version, arm and kind of reference.
fn shown(picked: &Result<Pick<'_>, PickError>) -> (String, String, RefKind) {
    let picked = picked.as_ref().unwrap();
    (
        picked.version.id.to_string(),
        picked.arm_name().to_owned(),
        picked.reference,
    )
}

fn pinned(version: &str, kind: RefKind) -> (String, String, RefKind) {
    (version.to_owned(), "pinned".to_owned(), kind)
}

fn split(version: &str, arm: &str) -> (String, String, RefKind) {
    (version.to_owned(), arm.to_owned(), RefKind::Split)
}

fn error(table: &Table, model: &[u8], version: &[u8]) -> PickError {
    pick(table, model, version, || 0).unwrap_err()
}

#[test]
fn every_form_of_a_reference_is_resolved() {
    let table = one(model("digits"));
    for (name, reference, expected) in [
        ("digits", "", split("3", "stable")),
        ("digits", "production", split("3", "stable")),
        ("digits", "PRODUCTION", split("3", "stable")),
        ("digits@Production", "", split("3", "stable")),
        ("digits", "3", pinned("3", RefKind::Version)),
        ("digits", "1", pinned("1", RefKind::Version)),
        ("digits@1", "", pinned("1", RefKind::Version)),
        ("digits", "Staging", pinned("2", RefKind::Stage)),
        ("digits@staging", "", pinned("2", RefKind::Stage)),
        ("digits", "@champion", pinned("3", RefKind::Alias)),
        ("digits", "champion", pinned("3", RefKind::Alias)),
        ("digits@champion", "", pinned("3", RefKind::Alias)),
        ("digits@@champion", "", pinned("3", RefKind::Alias)),
        ("digits@1", "1", pinned("1", RefKind::Version)),
        ("digits@champion", "@champion", pinned("3", RefKind::Alias)),
        ("digits@production", "Production", split("3", "stable")),
    ] {
        let picked = pick(&table, name.as_bytes(), reference.as_bytes(), || 0);

        assert_eq!(expected, shown(&picked), "{name} {reference}");
    }
}

#[test]
fn a_bare_word_is_a_version_before_an_alias_before_a_stage() {
    let mut spec = model("m");
    spec.split_reference = String::new();
    spec.versions.push(version("m", "x", "cold"));
    spec.pointers = vec![
        pointer("alias", "x", "1"),
        pointer("alias", "y", "1"),
        pointer("stage", "x", "2"),
        pointer("stage", "y", "2"),
        pointer("stage", "z", "2"),
    ];
    let table = one(spec);

    assert_eq!(
        pinned("x", RefKind::Version),
        shown(&pick(&table, b"m", b"x", || 0))
    );
    assert_eq!(
        pinned("1", RefKind::Alias),
        shown(&pick(&table, b"m", b"y", || 0))
    );
    assert_eq!(
        pinned("2", RefKind::Stage),
        shown(&pick(&table, b"m", b"z", || 0))
    );
    assert_eq!(
        pinned("1", RefKind::Alias),
        shown(&pick(&table, b"m", b"@x", || 0))
    );
    assert_eq!(
        PickErrorKind::UnknownVersion,
        error(&table, b"m", b"@z").kind
    );
}

#[test]
fn an_alias_keeps_its_case() {
    let table = one(model("m"));

    assert_eq!(
        PickErrorKind::UnknownVersion,
        error(&table, b"m", b"@Champion").kind
    );
}

#[test]
fn the_reference_of_the_stable_arm_enters_the_split_whatever_it_is() {
    for reference in ["production", "@champion", "3"] {
        let mut spec = model("m");
        spec.split_reference = reference.to_owned();
        let table = one(spec);

        let canary = pick(&table, b"m", reference.as_bytes(), || 9_999);

        assert_eq!(split("2", "canary"), shown(&canary));
    }
}

#[test]
fn another_name_of_the_same_version_pins_it() {
    let table = one(model("m"));

    assert_eq!(
        pinned("3", RefKind::Alias),
        shown(&pick(&table, b"m", b"@champion", || 9_999))
    );
}

#[test]
fn a_split_reference_that_resolves_to_nothing_still_enters_the_split() {
    let mut spec = model("m");
    spec.split_reference = "@blue".to_owned();
    let table = one(spec);

    assert_eq!(
        split("3", "stable"),
        shown(&pick(&table, b"m@@blue", b"", || 0))
    );
}

#[test]
fn every_draw_goes_to_its_arm_exactly() {
    let mut spec = model("m");
    spec.arms = vec![
        arm("a", "1", 1),
        arm("none", "1", 0),
        arm("b", "2", 3_333),
        arm("c", "3", 6_666),
        arm("last", "3", 0),
    ];
    let table = one(spec);
    let mut counts = std::collections::BTreeMap::new();

    for draw in 0..10_000 {
        let picked = pick(&table, b"m", b"", || draw).unwrap();
        *counts.entry(picked.arm_name()).or_insert(0) += 1;
    }

    assert_eq!(
        [("a", 1), ("b", 3_333), ("c", 6_666)],
        *counts.into_iter().collect::<Vec<_>>()
    );
}

#[test]
fn one_arm_needs_no_draw() {
    let mut spec = model("m");
    spec.arms = vec![arm("stable", "3", 10_000)];
    let table = one(spec);

    let picked = pick(&table, b"m", b"", || unreachable!("nothing to draw"));

    assert_eq!(split("3", "stable"), shown(&picked));
}

#[test]
fn two_references_that_disagree_are_refused_with_both_named() {
    let table = one(model("digits"));
    for (name, reference) in [
        ("digits@staging", "production"),
        ("digits@production", "3"),
        ("digits@champion", "challenger"),
        ("digits@nope", "3"),
        ("digits@nope", "other"),
    ] {
        let error = error(&table, name.as_bytes(), reference.as_bytes());

        assert_eq!((PickErrorKind::Disagree, 3), (error.kind, error.code()));
        assert!(error.message.contains(name) && error.message.contains(reference));
    }
}

#[test]
fn malformed_names_are_refused_before_any_look_up() {
    let table = one(model("digits"));
    for (name, reference) in [
        (&b""[..], &b""[..]),
        (b"dig its", b""),
        (b"digits\n", b""),
        (b"digits@", b""),
        (b"nope@@", b""),
        (b"\xff\xfe", b""),
        (b"digits", b"\xff"),
        (b"digits", b"a\x00b"),
        (&[b'a'; 257], b""),
        (&[b'a'; 10_000], b""),
        (b"digits", &[b'1'; 129]),
    ] {
        let error = error(&table, name, reference);

        assert_eq!((PickErrorKind::Malformed, 3), (error.kind, error.code()));
        assert!(error.message.len() < 500, "{}", error.message);
        assert!(!error.message.chars().any(char::is_control));
    }
}

#[test]
fn an_unknown_model_is_told_in_tritons_words_with_what_is_near() {
    let table = table(vec![model("digits"), model("fraud")]);

    let error = error(&table, b"digist", b"7");

    assert_eq!((PickErrorKind::UnknownModel, 5), (error.kind, error.code()));
    let expected = "Request for unknown model: 'digist' is not found; near it: 'digits'";
    assert_eq!(expected, error.message);
    assert!(error.model.is_none());
}

#[test]
fn a_large_table_is_not_searched_for_near_names() {
    let table = table((0..513).map(|n| model(&format!("m{n}"))).collect());

    assert_eq!(
        "Request for unknown model: 'm9999' is not found",
        error(&table, b"m9999", b"").message
    );
}

#[test]
fn an_unknown_version_is_told_with_what_there_is() {
    let table = one(model("digits"));

    let error = error(&table, b"digits", b"7");

    assert_eq!(
        (PickErrorKind::UnknownVersion, 5),
        (error.kind, error.code())
    );
    let expected = "Request for unknown model: 'digits' version 7 is not found; \
                    there are @challenger, @champion, production, staging, 3, 2, 1";
    assert_eq!(expected, error.message);
    assert_eq!("digits", &*error.model.unwrap().name);
}

#[test]
fn a_list_of_references_is_short_however_many_there_are() {
    let mut spec = model("m");
    for n in 4..400 {
        spec.versions.push(version("m", &n.to_string(), "cold"));
        spec.pointers
            .push(pointer("alias", &format!("{n}{}", "x".repeat(100)), "1"));
    }
    let table = one(spec);

    let error = error(&table, b"m", b"nope");

    assert!(
        error.message.ends_with(" and 791 more"),
        "{}",
        error.message
    );
    assert!(error.message.len() < 1_000);
    assert_eq!(
        pinned("399", RefKind::Version),
        shown(&pick(&table, b"m", b"399", || 0))
    );
}

#[test]
fn a_model_without_arms_says_why() {
    let mut spec = model("m");
    spec.arms.clear();
    spec.unroutable = "its stage production names no version".to_owned();
    let mut bare = model("bare");
    bare.versions.clear();
    bare.pointers.clear();
    bare.arms.clear();
    let table = table(vec![spec, bare]);

    let (some, none) = (error(&table, b"m", b""), error(&table, b"bare", b""));

    let expected = "Request for unknown model: 'm' has no available versions: its stage production names no version";
    assert_eq!(
        (PickErrorKind::Unroutable, 9, expected),
        (some.kind, some.code(), &*some.message)
    );
    assert_eq!(5, none.code());
    assert_eq!(
        pinned("1", RefKind::Version),
        shown(&pick(&table, b"m", b"1", || 0))
    );
}

#[test]
fn a_long_reason_is_cut_at_4_kib() {
    let mut spec = model("m");
    spec.arms.clear();
    spec.unroutable = "é".repeat(10_000);

    assert!(error(&one(spec), b"m", b"").message.len() <= 4096);
}

#[test]
fn a_stream_stays_on_its_arm_while_that_has_weight() {
    let mut spec = model("m");
    spec.arms = vec![arm("stable", "3", 10_000), arm("canary", "2", 0)];
    let table = one(spec);

    assert_eq!(
        "3",
        &*Pick::on_arm(&table, "m", "stable").unwrap().version.id
    );
    assert!(Pick::on_arm(&table, "m", "canary").is_none());
    assert!(Pick::on_arm(&table, "m", "gone").is_none());
}

#[test]
fn arms_are_told_in_headers() {
    let mut spec = model("m");
    spec.arms = vec![arm("blue", "3", 5_000), arm("canary", "2", 5_000)];
    let table = one(spec);
    let header = |version: &[u8], draw| pick(&table, b"m", version, || draw).unwrap().arm_header();

    assert_eq!(
        ["blue", "canary", "pinned"],
        [header(b"", 0), header(b"", 5_000), header(b"1", 0)]
    );
}
