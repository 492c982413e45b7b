//! `ModelStatistics` through the data plane: of all backends, under logical names.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use common::{cold, failed, framed, ready, request, snapshot, until, version, Backend, Gateway};
use stagegate_table::spec::{ArmSpec, ModelSpec, VersionSpec};
use stagegate_wire::fields::Fields;
use stagegate_wire::statistics::entries;

const PATH: &str = "/inference.GRPCInferenceService/ModelStatistics";

/// Two backends that both have `digits`, and one that has `fraud` too; `digits` 2 is on the first only.
async fn two() -> (Backend, Backend, Gateway) {
    let (one, two) = (Backend::start().await, Backend::start().await);
    for name in ["digits.1.abc", "digits.2.abc", "fraud.1.abc", "stranger"] {
        one.has(name);
    }
    two.has("digits.1.abc");
    let models = vec![
        digits(),
        ready("fraud", &["t0"]),
        cold("sleeper"),
        failed("broken", "no memory"),
    ];
    let gateway = Gateway::start(snapshot(&[&one, &two], models));
    (one, two, gateway)
}

fn digits() -> ModelSpec {
    let arm = |name: &str, version: &str, weight| ArmSpec {
        name: name.to_owned(),
        version: version.to_owned(),
        weight,
    };
    let second = VersionSpec {
        version: "2".to_owned(),
        backend_model: "digits.2.abc".to_owned(),
        ..version("digits", "ready", &["t0"])
    };
    ModelSpec {
        versions: vec![version("digits", "ready", &["t0", "t1"]), second],
        arms: vec![arm("stable", "1", 5_000), arm("canary", "2", 5_000)],
        split_reference: "1".to_owned(),
        ..ready("digits", &["t0"])
    }
}

/// Model, version and inference count of every entry.
fn told(message: &[u8]) -> Vec<(String, String, u64)> {
    let entries = entries(&bytes::Bytes::copy_from_slice(message)).unwrap();
    let count = |stats: &[u8]| {
        let mut fields = Fields::new(stats).map(Result::unwrap);
        fields
            .find(|field| field.number == 4)
            .and_then(|field| field.varint())
    };
    let entry = entries.into_iter().map(|entry| {
        let count = count(&entry.stats).unwrap_or(0);
        (entry.model, entry.version, count)
    });
    entry.collect()
}

fn entry(model: &str, version: &str, count: u64) -> (String, String, u64) {
    (model.to_owned(), version.to_owned(), count)
}

async fn ask(
    gateway: &Gateway,
    message: &[u8],
) -> Result<Vec<(String, String, u64)>, (i32, String)> {
    let client = gateway.client().await;
    let answer = client.call(PATH, &[], &[&framed(message)]).await;
    match answer.code() {
        0 => Ok(told(&answer.messages()[0])),
        code => Err((code, answer.text())),
    }
}

/// A version is one entry, with what all its backends counted.
#[tokio::test]
async fn what_backends_counted_adds_up() {
    let (_one, _two, gateway) = two().await;

    assert_eq!(
        Ok(vec![entry("digits", "1", 6)]),
        ask(&gateway, &request("digits", "1", 0)).await
    );
    assert_eq!(
        Ok(vec![entry("digits", "2", 3)]),
        ask(&gateway, &request("digits@2", "", 0)).await
    );
}

/// Without a version it is all versions that are loaded.
#[tokio::test]
async fn without_a_version_it_is_all_that_are_loaded() {
    let (_one, _two, gateway) = two().await;

    assert_eq!(
        Ok(vec![entry("digits", "1", 6), entry("digits", "2", 3)]),
        ask(&gateway, &request("digits", "", 0)).await
    );
}

/// Without a model it is all logical models that are loaded, and nothing else that a backend has.
#[tokio::test]
async fn without_a_model_it_is_all() {
    let (_one, _two, gateway) = two().await;

    let all = vec![
        entry("digits", "1", 6),
        entry("digits", "2", 3),
        entry("fraud", "1", 3),
    ];
    assert_eq!(Ok(all), ask(&gateway, b"").await);
}

/// A version that is not loaded has counted nothing, and is not loaded for it.
#[tokio::test]
async fn a_cold_version_is_zero() {
    let (_one, _two, gateway) = two().await;

    assert_eq!(
        Ok(vec![entry("sleeper", "1", 0)]),
        ask(&gateway, &request("sleeper", "", 0)).await
    );
    assert!(gateway.dataplane.events().drain().is_empty());
}

/// What is not there is refused in Triton's words, which are not those of other calls.
#[tokio::test]
async fn what_is_unknown_is_not_available() {
    let (_one, _two, gateway) = two().await;
    let model = |name: &str| format!("requested model '{name}' is not available");
    let version =
        |name: &str| format!("requested model version is not available for model '{name}'");

    for (name, number, text) in [
        ("nope", "", model("nope")),
        ("digits", "9", version("digits")),
        ("broken", "", version("broken")),
    ] {
        assert_eq!(
            Err((3, text)),
            ask(&gateway, &request(name, number, 0)).await
        );
    }
}

/// A backend that is gone leaves the others' numbers.
#[tokio::test]
async fn a_backend_that_is_gone_is_left_out() {
    let (_one, two, gateway) = two().await;
    let before = ask(&gateway, &request("digits", "1", 0)).await;
    assert_eq!(Ok(vec![entry("digits", "1", 6)]), before);
    two.stop();
    until("it is gone", || two.connections() == 0).await;

    assert_eq!(
        Ok(vec![entry("digits", "1", 3)]),
        ask(&gateway, &request("digits", "1", 0)).await
    );
}
