//! Versions that are not loaded.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use common::{cold, failed, framed, ready, request, snapshot, until, Backend, Gateway, INFER};
use stagegate_core::EventKind;

async fn one() -> (Backend, Gateway) {
    let backend = Backend::start().await;
    let gateway = Gateway::start(snapshot(&[&backend], vec![cold("digits")]));
    (backend, gateway)
}

fn waiting(gateway: &Gateway) -> u64 {
    gateway
        .published
        .counters()
        .queues
        .iter()
        .map(|queue| queue.waiting)
        .sum()
}

/// Requests for a cold version wait for one load, asked for once, and then all go through.
#[tokio::test]
async fn requests_wait_for_one_load() {
    let (backend, gateway) = one().await;
    let client = gateway.client().await;

    let calls = async { tokio::join!(client.infer("digits", &[]), client.infer("digits@1", &[])) };
    let load = async {
        until("both wait", || waiting(&gateway) == 2).await;
        assert_eq!(0, backend.seen().len());
        gateway.put(ready("digits", &["t0"]));
    };
    let ((one, two), ()) = tokio::join!(calls, load);

    assert_eq!((0, 0), (one.code(), two.code()));
    let events = gateway.dataplane.events().drain();
    let told: Vec<_> = events
        .iter()
        .map(|e| (e.kind, &*e.model, &*e.version))
        .collect();
    assert_eq!(vec![(EventKind::Cold, "digits", "1")], told);
    assert_eq!(0, waiting(&gateway));
}

/// A load that fails answers everybody who waited with the reason, and those who come later.
#[tokio::test]
async fn a_failed_load_is_told_to_all() {
    let (_backend, gateway) = one().await;
    let client = gateway.client().await;

    let calls = async { tokio::join!(client.infer("digits", &[]), client.infer("digits", &[])) };
    let load = async {
        until("both wait", || waiting(&gateway) == 2).await;
        gateway.put(failed("digits", "the file is no ONNX model"));
    };
    let ((one, two), ()) = tokio::join!(calls, load);
    let later = client.infer("digits", &[]).await;

    for answer in [one, two, later] {
        assert_eq!(14, answer.code());
        assert_eq!(
            "model 'digits' version 1 cannot be loaded: the file is no ONNX model",
            answer.text()
        );
    }
}

/// A publish that concerns other models leaves those who wait where they are.
#[tokio::test]
async fn other_changes_do_not_end_the_wait() {
    let (_backend, gateway) = one().await;
    let client = gateway.client().await;

    let load = async {
        until("it waits", || waiting(&gateway) == 1).await;
        gateway.put(ready("other", &["t0"]));
        gateway.put(cold("digits"));
        gateway.put(ready("digits", &["t0"]));
    };
    let (answer, ()) = tokio::join!(client.infer("digits", &[]), load);

    assert_eq!(0, answer.code());
}

/// The wait ends with the client's deadline, and says what it waited for.
#[tokio::test]
async fn the_wait_ends_with_the_deadline() {
    let (_backend, gateway) = one().await;

    let answer = gateway
        .client()
        .await
        .infer("digits", &[("grpc-timeout", "50m")])
        .await;

    assert_eq!(4, answer.code());
    assert_eq!(
        "Deadline Exceeded while model 'digits' version 1 was being loaded",
        answer.text()
    );
    until("nobody waits", || waiting(&gateway) == 0).await;
}

/// A client that goes away leaves the queue.
#[tokio::test]
async fn a_cancel_leaves_the_queue() {
    let (_backend, gateway) = one().await;
    let client = gateway.client().await;
    let mut call = client.begin(INFER, &[]).await;
    call.send_all(&framed(&request("digits", "", 10)), true)
        .await;
    until("it waits", || waiting(&gateway) == 1).await;

    call.reset();

    until("nobody waits", || waiting(&gateway) == 0).await;
}

/// A version that is removed while somebody waits for it is not found.
#[tokio::test]
async fn a_version_that_is_removed_is_not_found() {
    let (_backend, gateway) = one().await;
    let client = gateway.client().await;

    let removal = async {
        until("it waits", || waiting(&gateway) == 1).await;
        let base_revision = gateway.published.load().revision;
        let delta = stagegate_table::spec::Delta {
            base_revision,
            revision: base_revision + 1,
            drop_models: vec!["digits".to_owned()],
            ..Default::default()
        };
        gateway.published.publish_delta(delta).unwrap();
    };
    let (answer, ()) = tokio::join!(client.infer("digits", &[]), removal);

    assert_eq!(5, answer.code());
}

/// A large request waits in the client: no more of it is taken than the window holds.
#[tokio::test]
async fn a_waiting_request_keeps_its_body_in_the_client() {
    let (_backend, gateway) = one().await;
    let client = gateway.client().await;
    let mut call = client.begin(INFER, &[]).await;
    let bytes = framed(&request("digits", "", 8 << 20));

    let sending = tokio::time::timeout(
        std::time::Duration::from_millis(300),
        call.send_all(&bytes, true),
    );

    assert!(
        sending.await.is_err(),
        "8 MiB were taken while nothing could be done with them"
    );
}
