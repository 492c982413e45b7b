//! Which arm a request gets: forced, by rule, by key, by chance.

#![allow(clippy::unwrap_used)]

mod common;

use std::sync::Arc;

use common::{arm, model, snapshot};
use http::{HeaderMap, HeaderName, HeaderValue};
use stagegate_table::spec::{BucketRunSpec, ConditionSpec, MatchRuleSpec, ModelSpec};
use stagegate_table::{pick_for, Decision, PickErrorKind, Published, Table, WHOLE};
use stagegate_wire::names::Names;
use stagegate_wire::params::{put, Value};

fn table(spec: ModelSpec) -> Arc<Table> {
    let published = Published::new();
    published.publish(snapshot(1, vec![spec])).unwrap();
    published.load()
}

fn refused(spec: ModelSpec) -> String {
    let error = Published::new().publish(snapshot(1, vec![spec]));
    error.unwrap_err().0
}

fn headers(all: &[(&str, &str)]) -> HeaderMap {
    all.iter()
        .map(|(name, value)| {
            let name = HeaderName::from_bytes(name.as_bytes()).unwrap();
            (name, HeaderValue::from_str(value).unwrap())
        })
        .collect()
}

/// Arm and what decided; a draw is always the canary's.
fn decide(
    table: &Table,
    reference: &str,
    said: &[(&str, &str)],
    parameters: &[(&str, Value<'_>)],
) -> (String, Decision) {
    let mut held = Vec::new();
    for (name, value) in parameters {
        put(&mut held, name.as_bytes(), *value);
    }
    let names = Names {
        parameters: &held,
        ..Names::of(b"m", reference.as_bytes())
    };
    let (pick, decision) = pick_for(table, names, &headers(said), || WHOLE - 1).unwrap();
    (pick.arm_name().to_owned(), decision)
}

fn arm_of_key(table: &Table, key: &str) -> String {
    let (arm, decision) = decide(table, "", &[("stagegate-key", key)], &[]);
    assert!(
        matches!(decision, Decision::Bucket(_, true)),
        "{decision:?}"
    );
    arm
}

fn runs(all: &[(&str, u32)]) -> Vec<BucketRunSpec> {
    let run = |(arm, length): &(&str, u32)| BucketRunSpec {
        arm: (*arm).to_owned(),
        length: *length,
    };
    all.iter().map(run).collect()
}

fn rule(conditions: &[(&str, &str, &str)], arm: &str) -> MatchRuleSpec {
    let condition = |(kind, name, value): &(&str, &str, &str)| ConditionSpec {
        kind: (*kind).to_owned(),
        name: (*name).to_owned(),
        value: (*value).to_owned(),
    };
    MatchRuleSpec {
        conditions: conditions.iter().map(condition).collect(),
        arm: arm.to_owned(),
    }
}

fn weighted(canary: u32, buckets: Vec<BucketRunSpec>) -> ModelSpec {
    ModelSpec {
        arms: vec![
            arm("stable", "3", WHOLE - canary),
            arm("canary", "2", canary),
        ],
        buckets,
        ..model("m")
    }
}

#[test]
fn keys_spread_over_the_arms_as_the_weights_say() {
    for canary in [100, 1_000, 5_000] {
        let table = table(weighted(canary, Vec::new()));
        let share = f64::from(canary) / f64::from(WHOLE);
        for kind in ["user-", "0000-", "ünïcode ", ""] {
            let keys = 10_000;
            let found = (0..keys).filter(|n| arm_of_key(&table, &format!("{kind}{n}")) == "canary");

            let found = found.count() as f64;

            // Four standard errors of a binomial count.
            let off = (found - share * f64::from(keys)).abs();
            let error = (f64::from(keys) * share * (1.0 - share)).sqrt();
            assert!(off <= 4.0 * error, "{kind} {canary}: {found}, {off} off");
        }
    }
}

#[test]
fn every_bucket_gets_its_keys() {
    let table = table(weighted(5_000, Vec::new()));
    let mut seen = vec![0u32; WHOLE as usize];
    for key in 0..100_000 {
        let key = format!("key {key}");
        let (_, decision) = decide(&table, "", &[("stagegate-key", &key)], &[]);
        let Decision::Bucket(bucket, _) = decision else {
            panic!("{decision:?}")
        };
        seen[bucket as usize] += 1;
    }

    // Ten a bucket are expected: chi-squared has the buckets' number as mean and its double as variance.
    let chi: f64 = seen
        .iter()
        .map(|n| (f64::from(*n) - 10.0).powi(2) / 10.0)
        .sum();
    let (mean, deviation) = (9_999.0, 2.0f64.sqrt() * 9_999.0f64.sqrt());
    assert!((chi - mean).abs() <= 4.0 * deviation, "{chi}");
}

#[test]
fn raising_a_weight_moves_the_surplus_and_nobody_else() {
    let before = table(weighted(
        1_000,
        runs(&[("stable", 9_000), ("canary", 1_000)]),
    ));
    let after = table(weighted(
        2_000,
        runs(&[("stable", 8_000), ("canary", 2_000)]),
    ));
    let mut moved = 0;
    for key in 0..10_000 {
        let key = format!("user-{key}");
        let (was, is) = (arm_of_key(&before, &key), arm_of_key(&after, &key));

        assert!(was == is || (was, is) == ("stable".to_owned(), "canary".to_owned()));
        moved += u32::from(arm_of_key(&before, &key) != arm_of_key(&after, &key));
    }

    // A tenth of all keys, within four standard errors.
    assert!((880..=1_120).contains(&moved), "{moved}");
}

#[test]
fn a_key_has_its_bucket_in_every_process_and_release() {
    let table = table(weighted(5_000, Vec::new()));

    let buckets = (0..8).map(|n| {
        let key = format!("user-{n}");
        decide(&table, "", &[("stagegate-key", &key)], &[]).1
    });

    // From another implementation. Gateways of different releases serve side by side.
    let expected = [1549, 7337, 9711, 1146, 809, 5885, 8527, 1198];
    let expected = expected.map(|bucket| Decision::Bucket(bucket, true));
    assert_eq!(expected.to_vec(), buckets.collect::<Vec<_>>());
}

#[test]
fn a_salt_draws_the_keys_anew() {
    let plain = table(weighted(5_000, Vec::new()));
    let salted = table(ModelSpec {
        salt: "second".to_owned(),
        ..weighted(5_000, Vec::new())
    });

    let same = (0..1_000).filter(|n| {
        let key = format!("user-{n}");
        arm_of_key(&plain, &key) == arm_of_key(&salted, &key)
    });

    assert!((430..=570).contains(&same.count()));
}

#[test]
fn buckets_in_many_pieces_find_their_arms() {
    let pieces = [
        ("canary", 1),
        ("stable", 4_999),
        ("canary", 999),
        ("stable", 4_001),
    ];
    let table = table(weighted(1_000, runs(&pieces)));
    for key in 0..5_000 {
        let key = key.to_string();
        let (arm, decision) = decide(&table, "", &[("stagegate-key", &key)], &[]);
        let Decision::Bucket(bucket, _) = decision else {
            panic!("{decision:?}")
        };

        let expected = matches!(bucket, 0 | 5_000..=5_998);

        assert_eq!(expected, arm == "canary", "{bucket}");
    }
}

#[test]
fn the_routes_key_comes_from_a_header_or_a_parameter() {
    let by = |sticky: &str| {
        table(ModelSpec {
            sticky: sticky.to_owned(),
            ..weighted(5_000, Vec::new())
        })
    };
    let expected = decide(&by(""), "", &[("stagegate-key", "42")], &[]);
    let Decision::Bucket(bucket, true) = expected.1 else {
        panic!("{expected:?}")
    };
    let expected = (expected.0, Decision::Bucket(bucket, false));

    let header = by("header:x-user-id");
    let parameter = by("parameter:user");

    assert_eq!(expected, decide(&header, "", &[("x-user-id", "42")], &[]));
    for value in [
        Value::Int(42),
        Value::Uint(42),
        Value::Text(b"42"),
        Value::Double(42.0),
    ] {
        assert_eq!(
            expected,
            decide(&parameter, "", &[], &[("user", value)]),
            "{value:?}"
        );
    }
}

#[test]
fn the_requests_own_key_beats_the_routes() {
    let table = table(ModelSpec {
        sticky: "header:x-user-id".to_owned(),
        ..weighted(5_000, Vec::new())
    });

    let own = decide(&table, "", &[("stagegate-key", "a")], &[]);
    let both = decide(
        &table,
        "",
        &[("stagegate-key", "a"), ("x-user-id", "b")],
        &[],
    );

    assert_eq!(own, both);
}

#[test]
fn without_a_key_it_is_chance() {
    let table = table(ModelSpec {
        sticky: "parameter:user".to_owned(),
        ..weighted(1_000, Vec::new())
    });
    let chance = ("canary".to_owned(), Decision::Chance);

    assert_eq!(chance, decide(&table, "", &[], &[]));
    assert_eq!(chance, decide(&table, "", &[("stagegate-key", "")], &[]));
    assert_eq!(
        chance,
        decide(&table, "", &[], &[("user", Value::Text(b""))])
    );
    assert_eq!(chance, decide(&table, "", &[], &[("other", Value::Int(1))]));
}

#[test]
fn the_first_rule_that_fits_comes_before_the_key() {
    let table = table(ModelSpec {
        arms: vec![
            arm("stable", "3", WHOLE),
            arm("canary", "2", 0),
            arm("next", "1", 0),
        ],
        rules: vec![
            rule(
                &[("header", "X-Team", "risk"), ("parameter", "tier", "7")],
                "next",
            ),
            rule(&[("header", "x-team", "risk")], "canary"),
            rule(&[("parameter", "on", "true")], "canary"),
        ],
        ..model("m")
    });
    let risk = ("x-team", "risk");

    let both = decide(&table, "", &[risk], &[("tier", Value::Int(7))]);
    let one = decide(
        &table,
        "",
        &[risk, ("stagegate-key", "a")],
        &[("tier", Value::Int(8))],
    );
    let third = decide(&table, "", &[], &[("on", Value::Bool(true))]);
    let second_value = decide(&table, "", &[("x-team", "other"), risk], &[]);
    let none = decide(
        &table,
        "",
        &[("x-team", "Risk"), ("stagegate-key", "a")],
        &[],
    );

    assert_eq!(("next".to_owned(), Decision::Rule(0)), both);
    assert_eq!(("canary".to_owned(), Decision::Rule(1)), one);
    assert_eq!(("canary".to_owned(), Decision::Rule(2)), third);
    assert_eq!(("canary".to_owned(), Decision::Rule(1)), second_value);
    assert_eq!("stable", none.0);
    assert!(matches!(none.1, Decision::Bucket(..)));
}

#[test]
fn a_header_forces_an_arm_only_where_the_route_is_open_for_it() {
    let open = table(ModelSpec {
        arms: vec![arm("stable", "3", WHOLE), arm("canary", "2", 0)],
        rules: vec![rule(&[("header", "x-team", "risk")], "stable")],
        arm_header: true,
        ..model("m")
    });
    let closed = table(weighted(0, Vec::new()));
    let forced = [("stagegate-arm", "canary"), ("x-team", "risk")];

    assert_eq!(
        ("canary".to_owned(), Decision::Forced),
        decide(&open, "", &forced, &[])
    );
    assert_eq!(
        ("stable".to_owned(), Decision::Chance),
        decide(&closed, "", &forced, &[])
    );

    let unknown = headers(&[("stagegate-arm", "cánary")]);
    let error = pick_for(&open, Names::of(b"m", b""), &unknown, || 0).unwrap_err();
    assert_eq!((PickErrorKind::UnknownArm, 3), (error.kind, error.code()));
    assert!(
        error.message.ends_with("there are stable, canary"),
        "{}",
        error.message
    );
    assert!(error.model.is_some());
}

#[test]
fn a_version_that_is_named_is_pinned_whatever_else_is_said() {
    let table = table(ModelSpec {
        rules: vec![rule(&[("header", "x-team", "risk")], "canary")],
        arm_header: true,
        ..weighted(5_000, Vec::new())
    });
    let said = [
        ("x-team", "risk"),
        ("stagegate-arm", "canary"),
        ("stagegate-key", "a"),
    ];

    assert_eq!(
        ("pinned".to_owned(), Decision::Pinned),
        decide(&table, "1", &said, &[])
    );
    // What the stable arm itself names is the split.
    assert_eq!(
        ("canary".to_owned(), Decision::Forced),
        decide(&table, "production", &said, &[])
    );
}

#[test]
fn one_arm_leaves_nothing_to_decide() {
    let table = table(ModelSpec {
        arms: vec![arm("stable", "3", WHOLE)],
        sticky: "header:x-user-id".to_owned(),
        ..model("m")
    });

    let decided = decide(
        &table,
        "",
        &[("x-user-id", "a"), ("stagegate-key", "b")],
        &[],
    );

    assert_eq!(("stable".to_owned(), Decision::Only), decided);
}

#[test]
fn what_contradicts_itself_is_refused() {
    let with = |change: fn(&mut ModelSpec)| {
        let mut spec = weighted(1_000, Vec::new());
        change(&mut spec);
        refused(spec)
    };
    for (expected, message) in [
        (
            "has 9999 buckets and weight 9000",
            with(|spec| spec.buckets = runs(&[("stable", 9_999), ("canary", 1)])),
        ),
        (
            "arm \"blue\" is named and not there",
            with(|spec| spec.buckets = runs(&[("blue", 10_000)])),
        ),
        (
            "are not 10000 in all",
            with(|spec| spec.buckets = runs(&[("stable", u32::MAX), ("canary", 1_000)])),
        ),
        (
            "are not 10000 in all",
            with(|spec| {
                spec.buckets = runs(&[("stable", 9_000), ("canary", 1_000), ("stable", 0)]);
            }),
        ),
        (
            "neither header:NAME nor parameter:NAME",
            with(|spec| spec.sticky = "cookie:a".to_owned()),
        ),
        (
            "is no name of a header",
            with(|spec| spec.sticky = "header:a b".to_owned()),
        ),
        (
            "has no condition",
            with(|spec| spec.rules = vec![rule(&[], "canary")]),
        ),
        (
            "kind \"cookie\" is not known",
            with(|spec| spec.rules = vec![rule(&[("cookie", "a", "b")], "canary")]),
        ),
        (
            "arm \"blue\" is named and not there",
            with(|spec| spec.rules = vec![rule(&[("header", "a", "b")], "blue")]),
        ),
    ] {
        assert!(
            message.contains("model \"m\"") && message.contains(expected),
            "{message}"
        );
    }
}
