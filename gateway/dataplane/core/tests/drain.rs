//! Starting, draining and stopping.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::time::Duration;

use common::{framed, ready, request, snapshot, until, Backend, Client, Gateway, INFER};
use stagegate_core::{Dataplane, Settings};
use stagegate_table::Published;

async fn one(settings: Settings) -> (Backend, Gateway) {
    let backend = Backend::start().await;
    let gateway = Gateway::with(
        snapshot(&[&backend], vec![ready("digits", &["t0"])]),
        settings,
    );
    (backend, gateway)
}

/// A drain fails no request: what was begun is finished, then the connection closes.
#[tokio::test]
async fn a_drain_fails_no_request() {
    let (backend, gateway) = one(Settings {
        threads: 2,
        ..Settings::default()
    })
    .await;
    let client = gateway.client().await;
    let idle = gateway.client().await;
    idle.infer("digits", &[]).await;

    let slow = client.infer("digits", &[("x-do", "sleep=300")]);
    let drain = async {
        until("it is at the backend", || backend.seen().len() == 2).await;
        gateway.dataplane.drain(Duration::from_secs(10));
        assert!(!gateway.dataplane.drained());
    };
    let (answer, ()) = tokio::join!(slow, drain);

    assert_eq!(0, answer.code());
    until("all is closed", || gateway.dataplane.drained()).await;
    let port = gateway.dataplane.port();
    assert!(tokio::net::TcpStream::connect(("127.0.0.1", port))
        .await
        .is_err());
}

/// What is not finished in time is cut off.
#[tokio::test]
async fn a_drain_ends_in_time() {
    let (backend, gateway) = one(Settings::default()).await;
    let client = gateway.client().await;
    let mut call = client.begin(INFER, &[("x-do", "wait")]).await;
    call.send_all(&framed(&request("digits", "", 1)), true)
        .await;
    until("it is at the backend", || backend.seen().len() == 1).await;

    gateway.dataplane.drain(Duration::from_millis(50));

    until("all is closed", || gateway.dataplane.drained()).await;
    until("the backend sees the cancel", || backend.cancelled() == 1).await;
}

/// Stopping twice is as good as once, and ends all threads.
#[tokio::test]
async fn stop_ends_everything() {
    let (_backend, gateway) = one(Settings {
        threads: 3,
        ..Settings::default()
    })
    .await;
    let client = gateway.client().await;
    client.infer("digits", &[]).await;

    gateway.dataplane.stop();
    gateway.dataplane.stop();

    until("the connection ends", || client.connection.is_finished()).await;
}

/// A port that is taken is an error at the start.
#[tokio::test]
async fn a_taken_port_is_told() {
    let (_backend, gateway) = one(Settings::default()).await;
    let settings = Settings {
        port: gateway.dataplane.port(),
        ..Settings::default()
    };

    let error = Dataplane::start(settings, Published::new()).err().unwrap();

    assert_eq!(std::io::ErrorKind::AddrInUse, error.kind());
}

/// Connections beyond the cap are closed; those below it are served, also later.
#[tokio::test]
async fn connections_beyond_the_cap_are_closed() {
    let (_backend, gateway) = one(Settings {
        max_connections: 1,
        ..Settings::default()
    })
    .await;
    let first = gateway.client().await;
    assert_eq!(0, first.infer("digits", &[]).await.code());

    let second = Client::connect(gateway.dataplane.port()).await;

    until("it is closed", || second.connection.is_finished()).await;
    assert_eq!(0, first.infer("digits", &[]).await.code());
    first.connection.abort();
    until("there is room again", || {
        gateway.published.counters().connections == 0
    })
    .await;
    assert_eq!(0, gateway.client().await.infer("digits", &[]).await.code());
}

/// A connection that never says the preface is closed.
#[tokio::test]
async fn a_silent_connection_is_closed() {
    let (_backend, gateway) = one(Settings {
        handshake_timeout_ms: 50,
        ..Settings::default()
    })
    .await;
    let mut tcp = tokio::net::TcpStream::connect(("127.0.0.1", gateway.dataplane.port()))
        .await
        .unwrap();

    let mut rest = Vec::new();
    let end = tokio::io::AsyncReadExt::read_to_end(&mut tcp, &mut rest);

    tokio::time::timeout(Duration::from_secs(10), end)
        .await
        .expect("closed in time")
        .unwrap();
}

/// A connection with nothing open is closed after a while; one with an open call is not.
#[tokio::test]
async fn an_idle_connection_is_closed() {
    let (_backend, gateway) = one(Settings {
        idle_timeout_ms: 100,
        ..Settings::default()
    })
    .await;
    let idle = gateway.client().await;
    idle.infer("digits", &[]).await;
    let busy = gateway.client().await;

    let answer = busy.infer("digits", &[("x-do", "sleep=2500")]).await;

    assert_eq!(0, answer.code());
    until("the idle one is closed", || idle.connection.is_finished()).await;
}

/// A client that resets streams in a storm loses its connection, not the gateway.
#[tokio::test]
async fn a_storm_of_resets_ends_its_connection() {
    let (_backend, gateway) = one(Settings::default()).await;
    let bad = gateway.client().await;
    let storm = async {
        for _ in 0..2000 {
            if bad.connection.is_finished() {
                break;
            }
            let begun = tokio::time::timeout(
                Duration::from_secs(1),
                bad.begin(INFER, &[("x-do", "wait")]),
            );
            let Ok(mut call) = begun.await else { break };
            let _ = call
                .send_all(&framed(&request("digits", "", 1)), true)
                .await;
            call.reset();
            tokio::task::yield_now().await;
        }
    };
    storm.await;

    until("its connection is closed", || bad.connection.is_finished()).await;
    assert_eq!(0, gateway.client().await.infer("digits", &[]).await.code());
}
