//! Several backends, and backends that go away.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::time::Duration;

use common::{ready, snapshot, snapshot_at, until, Backend, Gateway};
use stagegate_core::EventKind;

/// A port where nobody listens.
async fn nobody() -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    listener.local_addr().unwrap().to_string()
}

fn events(gateway: &Gateway) -> Vec<(EventKind, String)> {
    gateway
        .dataplane
        .events()
        .drain()
        .into_iter()
        .map(|e| (e.kind, e.backend))
        .collect()
}

/// A stream that the backend refused was not processed, so it is sent again.
#[tokio::test]
async fn a_refused_stream_is_sent_again() {
    let backend = Backend::start().await;
    let gateway = Gateway::start(snapshot(&[&backend], vec![ready("digits", &["t0"])]));

    let answer = gateway
        .client()
        .await
        .infer("digits", &[("x-do", "refuse-once")])
        .await;

    assert_eq!(0, answer.code(), "{}", answer.text());
    assert_eq!(1, gateway.counted("digits", "stable", 0));
}

/// A backend that says GOAWAY finishes what it has; what comes later goes to a new connection.
#[tokio::test]
async fn goaway_loses_no_request() {
    let backend = Backend::start().await;
    let gateway = Gateway::start(snapshot(&[&backend], vec![ready("digits", &["t0"])]));
    let client = gateway.client().await;
    client.infer("digits", &[]).await;

    let slow = async {
        client
            .infer("digits", &[("x-do", "sleep=200")])
            .await
            .code()
    };
    let later = async {
        until("the slow request is there", || backend.seen().len() == 2).await;
        backend.goaway();
        let mut codes = Vec::new();
        for _ in 0..50 {
            codes.push(client.infer("digits", &[]).await.code());
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        codes
    };
    let (slow, later) = tokio::join!(slow, later);

    assert_eq!((0, vec![0; 50]), (slow, later));
}

/// A backend that cannot be reached is passed over for another that has the version, and told once.
#[tokio::test]
async fn another_backend_takes_over() {
    let backend = Backend::start().await;
    let addresses = [nobody().await, backend.address()];
    let gateway = Gateway::start(snapshot_at(
        &addresses,
        vec![ready("digits", &["t0", "t1"])],
    ));
    let client = gateway.client().await;

    for _ in 0..30 {
        assert_eq!(0, client.infer("digits", &[]).await.code());
    }

    // By chance the dead one may not have been drawn first; then it was never needed.
    let told = events(&gateway);
    assert!(
        told.is_empty() || told == [(EventKind::BackendDown, "t0".to_owned())],
        "{told:?}"
    );
}

/// With no backend left the answer names the backend and what went wrong.
#[tokio::test]
async fn no_backend_is_unavailable_with_its_name() {
    let address = nobody().await;
    let gateway = Gateway::start(snapshot_at(&[address], vec![ready("digits", &["t0"])]));
    let client = gateway.client().await;

    for _ in 0..3 {
        let answer = client.infer("digits", &[]).await;

        assert_eq!(14, answer.code());
        assert!(
            answer
                .text()
                .contains("backend 't0' of model 'digits' version 1"),
            "{}",
            answer.text()
        );
    }
    assert_eq!(
        vec![(EventKind::BackendDown, "t0".to_owned())],
        events(&gateway)
    );
}

/// A backend that comes back is noticed without a request, and told.
#[tokio::test]
async fn a_backend_that_comes_back_is_told_and_used() {
    let backend = Backend::start().await;
    let address = backend.address();
    let gateway = Gateway::start(snapshot(&[&backend], vec![ready("digits", &["t0"])]));
    let client = gateway.client().await;
    assert_eq!(0, client.infer("digits", &[]).await.code());

    backend.stop();
    let mut told = Vec::new();
    until("down is told", || {
        told.extend(events(&gateway));
        told.len() == 1
    })
    .await;
    let _again = Backend::at(&address).await;
    until("up is told", || {
        told.extend(events(&gateway));
        told.len() == 2
    })
    .await;

    let expected = [
        (EventKind::BackendDown, "t0".to_owned()),
        (EventKind::BackendUp, "t0".to_owned()),
    ];
    assert_eq!(expected, told[..]);
    assert_eq!(0, client.infer("digits", &[]).await.code());
}

/// More streams than one connection should carry open another one, up to the limit.
#[tokio::test]
async fn connections_are_opened_by_load() {
    let backend = Backend::start().await;
    let gateway = Gateway::start(snapshot(&[&backend], vec![ready("digits", &["t0"])]));
    let client = gateway.client().await;
    client.infer("digits", &[]).await;
    assert_eq!(1, backend.connections());

    let mut calls = Vec::new();
    for _ in 0..200 {
        let mut call = client.begin(common::INFER, &[("x-do", "wait")]).await;
        call.send_all(&common::framed(&common::request("digits", "", 10)), true)
            .await;
        calls.push(call);
    }

    until("all are at the backend", || backend.seen().len() == 201).await;
    assert!(
        (2..=4).contains(&backend.connections()),
        "{}",
        backend.connections()
    );
}

/// Requests are spread over backends.
#[tokio::test]
async fn requests_are_spread() {
    let (one, two) = (Backend::start().await, Backend::start().await);
    let gateway = Gateway::start(snapshot(
        &[&one, &two],
        vec![ready("digits", &["t0", "t1"])],
    ));
    let client = gateway.client().await;

    for _ in 0..100 {
        client.infer("digits", &[]).await;
    }

    // One in 10^11 runs of fair draws gives fewer than 15 of 100.
    assert!(
        one.seen().len() >= 15 && two.seen().len() >= 15,
        "{}",
        one.seen().len()
    );
}

/// A backend that leaves the table gets nothing more and its connections end.
#[tokio::test]
async fn a_backend_that_left_the_table_is_let_go() {
    let (one, two) = (Backend::start().await, Backend::start().await);
    let gateway = Gateway::start(snapshot(&[&one], vec![ready("digits", &["t0"])]));
    let client = gateway.client().await;
    client.infer("digits", &[]).await;

    let mut next = snapshot(&[&two], vec![ready("digits", &["t1"])]);
    next.revision = 2;
    next.backends[0].name = "t1".to_owned();
    gateway.published.publish(next).unwrap();
    let answer = client.infer("digits", &[]).await;

    assert_eq!(
        (0, 1, 1),
        (answer.code(), one.seen().len(), two.seen().len())
    );
    until("its connection is closed", || one.connections() == 0).await;
}
