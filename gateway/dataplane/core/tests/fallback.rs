//! A canary that fails, and the stable version that answers instead.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use common::{snapshot, version, Backend, Gateway};
use stagegate_table::spec::{ArmSpec, ModelSpec, VersionSpec};

/// Everything goes to the canary, version 2 on `t1`; what it fails is answered by version 1 on `t0`.
fn split(codes: &[&str]) -> ModelSpec {
    let second = VersionSpec {
        version: "2".to_owned(),
        backend_model: "digits.2.def".to_owned(),
        ..version("digits", "ready", &["t1"])
    };
    let arm = |name: &str, version: &str, weight| ArmSpec {
        name: name.to_owned(),
        version: version.to_owned(),
        weight,
    };
    ModelSpec {
        name: "digits".to_owned(),
        versions: vec![version("digits", "ready", &["t0"]), second],
        arms: vec![arm("stable", "1", 0), arm("canary", "2", 10_000)],
        fallback_codes: codes.iter().map(|code| (*code).to_owned()).collect(),
        fallback_to: "stable".to_owned(),
        ..ModelSpec::default()
    }
}

async fn start(codes: &[&str]) -> (Backend, Backend, Gateway) {
    let (stable, canary) = (Backend::start().await, Backend::start().await);
    let gateway = Gateway::start(snapshot(&[&stable, &canary], vec![split(codes)]));
    (stable, canary, gateway)
}

fn fell_back(gateway: &Gateway) -> Vec<(String, u64)> {
    let read = gateway.published.counters().fallbacks;
    read.into_iter()
        .map(|one| (one.arm, one.codes.iter().sum()))
        .collect()
}

/// Stable answers, and says so; the failure counts for the canary.
#[tokio::test]
async fn stable_answers_for_a_canary_that_fails() {
    let (stable, canary, gateway) = start(&["UNAVAILABLE", "INTERNAL"]).await;
    canary.does("status=13 ValueError");

    let answer = gateway.client().await.infer("digits", &[]).await;

    assert_eq!(
        (0, ("digits".to_owned(), "1".to_owned())),
        (answer.code(), answer.names())
    );
    assert_eq!(
        ("1", "stable"),
        (
            &*text(&answer, "stagegate-version"),
            &*text(&answer, "stagegate-arm")
        )
    );
    assert_eq!((1, 1), (canary.inferences(), stable.inferences()));
    assert_eq!(
        (0, 1),
        (
            gateway.counted("digits", "canary", 0),
            gateway.counted("digits", "canary", 13)
        )
    );
    assert_eq!(0, gateway.counted("digits", "stable", 0));
    assert_eq!(vec![("canary".to_owned(), 1)], fell_back(&gateway));
}

fn text(answer: &common::client::Answer, name: &str) -> String {
    answer.headers[name].to_str().unwrap().to_owned()
}

/// A canary that cannot be reached at all, and one that is not loaded and never will be.
#[tokio::test]
async fn stable_answers_for_a_canary_that_is_not_there() {
    let (_stable, canary, gateway) = start(&["UNAVAILABLE"]).await;
    let client = gateway.client().await;
    let mut failed = split(&["UNAVAILABLE"]);
    failed.versions[1].state = "failed".to_owned();
    failed.versions[1].backends.clear();
    gateway.put(failed);
    assert_eq!(0, client.infer("digits", &[]).await.code());

    gateway.put(split(&["UNAVAILABLE"]));
    canary.stop();
    assert_eq!(0, client.infer("digits", &[]).await.code());

    assert_eq!(2, gateway.counted("digits", "canary", 14));
}

/// Other codes, good answers and what a client pins itself are left alone.
#[tokio::test]
async fn only_the_codes_of_the_route_fall_back() {
    let (stable, canary, gateway) = start(&["UNAVAILABLE"]).await;
    let client = gateway.client().await;

    assert_eq!(3, client.infer("digits", &[("x-do", "error")]).await.code());
    assert_eq!(0, client.infer("digits", &[]).await.code());
    canary.does("status=14 the queue is full");
    assert_eq!(14, client.infer("digits@2", &[]).await.code());

    assert_eq!((3, 0), (canary.inferences(), stable.inferences()));
    assert!(fell_back(&gateway).is_empty());
}

/// Where stable fails as well, its failure is what the client gets, and the canary's what is counted.
#[tokio::test]
async fn a_failure_of_both_is_told() {
    let (_stable, _canary, gateway) = start(&["INTERNAL"]).await;
    let answer = gateway
        .client()
        .await
        .infer("digits", &[("x-do", "status=13 broke")])
        .await;

    assert_eq!(
        (13, "1"),
        (answer.code(), &*text(&answer, "stagegate-version"))
    );
    assert_eq!(1, gateway.counted("digits", "canary", 13));
}

/// A name that is no failure's is refused, and so nothing is published.
#[tokio::test]
async fn codes_are_names_of_failures() {
    let (_stable, _canary, gateway) = start(&["UNAVAILABLE"]).await;
    for code in ["OK", "unavailable", "14"] {
        let mut next = snapshot(&[], vec![]);
        next.models = vec![split(&[code])];
        next.models[0].versions.iter_mut().for_each(|version| {
            version.state = "cold".to_owned();
            version.backends.clear();
        });
        let refused = gateway.published.publish(next).unwrap_err();
        assert!(refused.0.contains("fallback_codes"), "{}", refused.0);
    }
}
