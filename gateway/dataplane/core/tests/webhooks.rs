//! Notices of registries on the HTTP port, and the answers of a control plane.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::time::{Duration, Instant};

use common::rest::{get, post, Caller, Message};
use common::{snapshot_at, until, Gateway};
use http::StatusCode;
use stagegate_core::{Event, EventKind, Settings, Webhook};
use tokio::time::timeout;

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

#[tokio::test]
async fn senders_that_go_away_fill_no_queue() {
    let gateway = start();
    for _ in 0..MOST + 40 {
        let mut caller = caller(&gateway).await;
        caller.send(&post(PATH, "", b"{}")).await;
        // Long enough to be read, and nobody takes it.
        tokio::time::sleep(Duration::from_millis(10)).await;
    }

    let told = gateway.dataplane.events().drain().len();

    assert_eq!(MOST, told);
    assert_eq!(200, answered(&gateway, StatusCode::OK, "").await.status());
}

#[tokio::test]
async fn a_slow_body_has_an_end() {
    let gateway = start();
    let begun = Instant::now();
    let mut slow = caller(&gateway).await;
    slow.send(&post(PATH, "", &[b'x'; 100])[..80]).await;
    let dripping = async {
        for _ in 0..40 {
            tokio::time::sleep(Duration::from_millis(250)).await;
            slow.send(b"x").await;
            if begun.elapsed() > Duration::from_secs(6) {
                break;
            }
        }
        slow.answer().await
    };

    let told = dripping.await.unwrap();

    assert_eq!(408, told.status());
    assert!(slow.answer().await.is_none());
    assert!(gateway.dataplane.events().drain().is_empty());
}

#[tokio::test]
async fn notices_on_their_way_take_little_memory_and_none_of_requests() {
    let gateway = start();
    let whole = post(PATH, "", &vec![b'x'; 1 << 20]);
    let mut callers = Vec::new();
    for _ in 0..24 {
        let mut caller = caller(&gateway).await;
        caller.send(&whole[..whole.len() - 1]).await;
        callers.push(caller);
    }
    let mut refused = 0;
    for caller in &mut callers {
        if let Ok(told) = timeout(Duration::from_millis(200), caller.answer()).await {
            assert_eq!(503, told.unwrap().status());
            refused += 1;
        }
    }
    let live = caller(&gateway).await.call(&get("/v2/health/live")).await;

    assert!((8..24).contains(&refused), "{refused}");
    assert_eq!(200, live.status());
    drop(callers);
    let open = || gateway.published.counters().connections;
    until("they are gone", || open() == 0).await;
    assert_eq!(200, answered(&gateway, StatusCode::OK, "").await.status());
}

#[tokio::test]
async fn notices_behind_each_other_are_answered_one_by_one() {
    let gateway = start();
    let mut caller = caller(&gateway).await;
    let all: Vec<u8> = (0..3)
        .flat_map(|at| post(PATH, "", format!("{at}").as_bytes()))
        .collect();

    caller.send(&all).await;
    for at in 0..3 {
        let [event] = &notices(&gateway, 1).await[..] else {
            panic!("more than one at a time")
        };
        let webhooks = gateway.dataplane.webhooks();
        let notice = webhooks.take(event.id).unwrap();
        assert_eq!(format!("{at}"), String::from_utf8_lossy(&notice.body));
        assert!(webhooks.answer(event.id, StatusCode::OK, String::new()));
        assert_eq!(200, caller.answer().await.unwrap().status());
    }
}

#[tokio::test]
async fn a_notice_smuggles_nothing() {
    let gateway = start();
    let hidden = "POST /webhooks/hidden HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}";
    for (first, second) in [
        ("Content-Length: 5", "Transfer-Encoding: chunked"),
        ("Transfer-Encoding: chunked", "Content-Length: 5"),
    ] {
        let mut caller = caller(&gateway).await;
        let head = format!("POST {PATH} HTTP/1.1\r\nHost: x\r\n{first}\r\n{second}\r\n\r\n");
        caller
            .send(format!("{head}0\r\n\r\n{hidden}").as_bytes())
            .await;
        let id = notices(&gateway, 1).await[0].id;
        let webhooks = gateway.dataplane.webhooks();
        assert_eq!("models", webhooks.take(id).unwrap().registry);
        webhooks.answer(id, StatusCode::OK, String::new());
        assert_eq!(200, caller.answer().await.unwrap().status());
        assert!(caller.answer().await.is_none());
    }
    for head in [
        "Content-Length: 2\r\nContent-Length: 3\r\n",
        "Transfer-Encoding: chunked, gzip\r\n",
        "Transfer-Encoding: xchunked\r\n",
        "X-A: 1\r\n folded: 2\r\nContent-Length: 2\r\n",
        "Content-Length : 2\r\n",
    ] {
        let request = format!("POST {PATH} HTTP/1.1\r\nHost: x\r\n{head}\r\n{{}}{hidden}");
        let mut caller = caller(&gateway).await;
        let told = caller.call(request.as_bytes()).await;
        assert_eq!(400, told.status(), "{head}");
        assert!(caller.answer().await.is_none(), "{head}");
    }
    assert!(gateway.dataplane.events().drain().is_empty());
}
