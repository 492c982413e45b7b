//! A mistake in here costs the request that met it, at most its connection.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use common::{framed, ready, snapshot, until, Backend, Gateway};

const INTERNAL: i32 = 13;
const LIVE: &str = "/inference.GRPCInferenceService/ServerLive";

async fn one() -> (Backend, Gateway) {
    let backend = Backend::start().await;
    let gateway = Gateway::start(snapshot(&[&backend], vec![ready("digits", &["t0"])]));
    (backend, gateway)
}

/// Others on the same connection, the same thread and the same task go on.
#[tokio::test]
async fn a_panic_is_internal_for_its_call_only() {
    let (backend, gateway) = one().await;
    let client = gateway.client().await;
    let slow = client.infer("digits", &[("x-do", "sleep=300")]);
    let broken = async {
        until("it is at the backend", || backend.seen().len() == 1).await;
        client.infer("digits", &[("x-failpoint", "panic")]).await
    };
    let (slow, broken) = tokio::join!(slow, broken);

    assert_eq!(0, slow.code());
    assert_eq!(INTERNAL, broken.code());
    assert!(broken.text().contains("the gateway made a mistake"));
    for _ in 0..10 {
        assert_eq!(0, client.infer("digits", &[]).await.code());
    }
}

/// h2 cannot go on with a connection whose lock was held during a panic; all others do.
#[tokio::test]
async fn a_panic_inside_h2_ends_its_connection_only() {
    let (_backend, gateway) = one().await;
    let (other, broken) = (gateway.client().await, gateway.client().await);
    assert_eq!(0, other.infer("digits", &[]).await.code());

    let mut call = broken.begin(LIVE, &[("x-failpoint", "h2")]).await;
    call.send_all(&framed(&[]), true).await;
    assert!(call.answer().await.is_err());

    let totals = || gateway.published.counters().connections;
    until("only the other connection is left", || totals() == 1).await;
    for _ in 0..10 {
        assert_eq!(0, other.infer("digits", &[]).await.code());
    }
    assert_eq!(0, gateway.client().await.infer("digits", &[]).await.code());
}

/// The call ends with its deadline at the latest, and the next gets a new connection to the backend.
#[tokio::test]
async fn a_panic_inside_h2_costs_a_backend_its_connection_only() {
    let (_backend, gateway) = one().await;
    let client = gateway.client().await;
    assert_eq!(0, client.infer("digits", &[]).await.code());

    let asked = [("x-failpoint", "h2"), ("grpc-timeout", "300m")];
    let broken = client.infer("digits", &asked).await;

    assert_ne!(0, broken.code());
    for _ in 0..10 {
        assert_eq!(0, client.infer("digits", &[]).await.code());
    }
}
