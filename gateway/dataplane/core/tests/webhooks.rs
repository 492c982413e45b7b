//! Notices of registries on the HTTP port, and the answers of a control plane.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::time::Instant;

use common::rest::{get, post, Caller, Message};
use common::{snapshot_at, until, Gateway};
use http::StatusCode;
use stagegate_core::{Event, EventKind, Settings, Webhook};

const PATH: &str = "/webhooks/models";
const MOST: usize = 64;

fn start() -> Gateway {
    let settings = Settings {
        http_host: "127.0.0.1".to_owned(),
        threads: 2,
        ..Settings::default()
    };
    Gateway::with(snapshot_at(&[], Vec::new()), settings)
}

async fn caller(gateway: &Gateway) -> Caller {
    Caller::connect(gateway.dataplane.http_port().unwrap()).await
}

/// The next notices, as soon as there are so many.
async fn notices(gateway: &Gateway, count: usize) -> Vec<Event> {
    let mut events = Vec::new();
    until("notices came", || {
        events.extend(gateway.dataplane.events().drain());
        events.len() == count
    })
    .await;
    assert!(events.iter().all(|event| event.kind == EventKind::Webhook));
    events
}

fn header<'a>(notice: &'a Webhook, name: &str) -> &'a str {
    let found = notice.headers.iter().find(|(known, _)| known == name);
    &found.unwrap().1
}

/// Post a notice and answer it.
async fn answered(gateway: &Gateway, status: StatusCode, text: &str) -> Message {
    let mut caller = caller(gateway).await;
    caller.send(&post(PATH, "", b"{}")).await;
    let id = notices(gateway, 1).await[0].id;
    let webhooks = gateway.dataplane.webhooks();
    assert!(webhooks.answer(id, status, text.to_owned()));
    caller.answer().await.unwrap()
}

#[tokio::test]
async fn a_notice_arrives_as_it_was_sent() {
    let gateway = start();
    let mut caller = caller(&gateway).await;
    let body = vec![0xc3; 1 << 20];
    let headers = "X-MLflow-Signature: v1,abc\r\nContent-Encoding: gzip\r\nX-A: 1\r\nX-a: 2\r\n";

    caller.send(&post(PATH, headers, &body)).await;
    let id = notices(&gateway, 1).await[0].id;
    let notice = gateway.dataplane.webhooks().take(id).unwrap();

    assert_eq!(("models", &body[..]), (&*notice.registry, &notice.body[..]));
    assert_eq!("v1,abc", header(&notice, "x-mlflow-signature"));
    assert_eq!("1, 2", header(&notice, "x-a"));
}

#[tokio::test]
async fn its_sender_gets_the_answer_of_the_control_plane() {
    let gateway = start();

    let good = answered(&gateway, StatusCode::OK, "").await;
    let bad = answered(
        &gateway,
        StatusCode::UNAUTHORIZED,
        "the \"signature\" is wrong",
    )
    .await;
    let later = answered(&gateway, StatusCode::SERVICE_UNAVAILABLE, "not now").await;

    assert_eq!((200, "{}"), (good.status(), &*good.text()));
    assert_eq!(401, bad.status());
    assert_eq!(r#"{"error":"the \"signature\" is wrong"}"#, bad.text());
    assert_eq!(None, bad.header("retry-after"));
    assert_eq!(
        (503, Some("1")),
        (later.status(), later.header("retry-after"))
    );
}

#[tokio::test]
async fn few_wait_at_once_and_hold_nobody_up() {
    let gateway = start();
    let mut callers = Vec::new();
    for _ in 0..MOST {
        let mut caller = caller(&gateway).await;
        caller.send(&post(PATH, "", b"{}")).await;
        callers.push(caller);
    }
    let events = notices(&gateway, MOST).await;

    let refused = caller(&gateway).await.call(&post(PATH, "", b"{}")).await;
    let live = caller(&gateway).await.call(&get("/v2/health/live")).await;

    assert_eq!(
        (503, Some("1")),
        (refused.status(), refused.header("retry-after"))
    );
    assert_eq!(200, live.status());
    // A sender that goes away leaves nothing behind.
    drop(callers);
    let webhooks = gateway.dataplane.webhooks();
    until("they are gone", || {
        events.iter().all(|event| webhooks.take(event.id).is_none())
    })
    .await;
    assert!(!webhooks.answer(events[0].id, StatusCode::OK, String::new()));
    assert_eq!(200, answered(&gateway, StatusCode::OK, "").await.status());
}

#[tokio::test]
async fn a_notice_that_nobody_answers_is_to_come_again() {
    let gateway = start();
    let begun = Instant::now();

    let told = caller(&gateway).await.call(&post(PATH, "", b"{}")).await;

    assert_eq!(
        (503, Some("1")),
        (told.status(), told.header("retry-after"))
    );
    assert!((4..9).contains(&begun.elapsed().as_secs()));
    let id = notices(&gateway, 1).await[0].id;
    assert_eq!(None, gateway.dataplane.webhooks().take(id));
}

#[tokio::test]
async fn what_is_no_notice_never_reaches_the_control_plane() {
    let gateway = start();
    let long = vec![b'x'; (1 << 20) + 1];
    let chunked = [
        &b"POST /webhooks/m HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n100001\r\n"[..],
        &long,
        b"\r\n0\r\n\r\n",
    ]
    .concat();
    let many = (0..63).fold(String::new(), |all, at| format!("{all}X-{at}: 1\r\n"));
    for (request, status) in [
        (get(PATH), 405),
        (post("/webhooks/", "", b""), 404),
        (post("/webhooks/a/b", "", b""), 404),
        (post("/webhooks/a%20b", "", b""), 404),
        (post(PATH, "", &long), 413),
        (chunked, 413),
        (post(PATH, &many, b""), 431),
    ] {
        let told = caller(&gateway).await.call(&request).await;
        assert_eq!(status, told.status(), "{}", told.text());
        assert!(told.text().starts_with(r#"{"error":"#));
        assert_eq!(status == 405, told.header("allow") == Some("POST"));
    }
    assert!(gateway.dataplane.events().drain().is_empty());
}
