//! The REST protocol, between a client that says what it likes and backends that do what they like.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use common::rest::{get, post, Caller, Does, Endpoint};
use common::{cold, failed, ready, until, version, Gateway};
use stagegate_core::Settings;
use stagegate_table::spec::{ArmSpec, BackendSpec, ModelSpec, Snapshot, VersionSpec};

const INFER: &str = "/v2/models/m/infer";

fn settings() -> Settings {
    Settings {
        http_host: "127.0.0.1".to_owned(),
        ..Settings::default()
    }
}

fn snapshot(endpoints: &[&str], models: Vec<ModelSpec>) -> Snapshot {
    let backend = |(at, http): (usize, &&str)| BackendSpec {
        name: format!("t{at}"),
        // Nobody listens there, and nobody is to ask.
        address: "127.0.0.1:9".to_owned(),
        http: (*http).to_owned(),
    };
    Snapshot {
        revision: 1,
        backends: endpoints.iter().enumerate().map(backend).collect(),
        models,
    }
}

/// One backend that does this, and `m` on it.
async fn one(does: Does) -> (Endpoint, Gateway) {
    one_with(does, settings()).await
}

async fn one_with(does: Does, settings: Settings) -> (Endpoint, Gateway) {
    let endpoint = Endpoint::start(does).await;
    let models = vec![ready("m", &["t0"])];
    let gateway = Gateway::with(snapshot(&[&endpoint.address], models), settings);
    (endpoint, gateway)
}

async fn caller(gateway: &Gateway) -> Caller {
    Caller::connect(gateway.dataplane.http_port().unwrap()).await
}

/// Names are logical, lengths fit, and the rest of an answer is as it was.
#[tokio::test]
async fn answers_have_logical_names_wherever_these_stand() {
    for does in [
        Does::Answer,
        Does::Binary,
        Does::NamesLast,
        Does::BinaryNamesLast,
    ] {
        let (endpoint, gateway) = one(does).await;
        let mut caller = caller(&gateway).await;
        for _ in 0..2 {
            let told = caller.call(&post(INFER, "", b"{}")).await;
            let text = told.text();
            assert_eq!(200, told.status(), "{does:?}");
            assert!(
                text.contains(r#""model_name":"m","model_version":"1""#),
                "{does:?}"
            );
            assert!(!text.contains("m.1.abc"));
            assert_eq!(Some("1"), told.header("stagegate-version"));
            assert_eq!(Some("stable"), told.header("stagegate-arm"));
            if let Some(length) = told.header("inference-header-content-length") {
                let (json, tensors) = text.split_at(length.parse().unwrap());
                assert!(json.ends_with('}'));
                assert_eq!("tensors!", tensors);
            }
        }
        let seen = endpoint.seen();
        assert_eq!("POST /v2/models/m.1.abc/infer HTTP/1.1", seen[0].first);
        assert_eq!(Some(&*endpoint.address), seen[0].header("host"));
        assert_eq!(1, endpoint.connections(), "the connection was kept");
        assert_eq!(2, gateway.counted("m", "stable", 0));
    }
}

/// What a client sends arrives, but for what is not for backends.
#[tokio::test]
async fn bodies_and_headers_arrive_as_they_were() {
    let (endpoint, gateway) = one(Does::Answer).await;
    let body: Vec<u8> = (0..3_000_000u32).map(|n| (n % 251) as u8).collect();
    let headers = "X-Mine: 1\r\nstagegate-key: u1\r\nAccept-Encoding: gzip\r\nInference-Header-Content-Length: 0\r\n";
    let told = caller(&gateway)
        .await
        .call(&post(INFER, headers, &body))
        .await;

    assert_eq!(200, told.status());
    let seen = endpoint.seen().pop().unwrap();
    assert!(seen.body == body);
    assert_eq!(Some("1"), seen.header("x-mine"));
    assert_eq!(Some("0"), seen.header("inference-header-content-length"));
    assert_eq!(None, seen.header("stagegate-key"));
    assert_eq!(None, seen.header("accept-encoding"));
    assert_eq!(None, seen.header("transfer-encoding"));
}

fn chunk(body: &[u8]) -> Vec<u8> {
    let head = format!(
        "POST {INFER} HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n{:x}\r\n",
        body.len()
    );
    [head.as_bytes(), body, b"\r\n0\r\n\r\n"].concat()
}

fn chunked(chunks: usize, size: usize) -> Vec<u8> {
    let mut request =
        format!("POST {INFER} HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n").into_bytes();
    for _ in 0..chunks {
        request.extend_from_slice(format!("{size:x}\r\n{}\r\n", "a".repeat(size)).as_bytes());
    }
    request.extend_from_slice(b"0\r\n\r\n");
    request
}

/// However small a client makes its chunks, the backend gets large ones where it gets them as they come; a
/// flood of them is ended.
#[tokio::test]
async fn a_backend_never_meets_a_flood_of_chunks() {
    let (endpoint, gateway) = one(Does::Answer).await;

    let told = caller(&gateway).await.call(&chunked(3000, 1000)).await;
    assert_eq!(200, told.status());
    let seen = endpoint.seen().pop().unwrap();
    assert_eq!(3_000_000, seen.body.len());
    let (_, whole) = seen.chunks.split_last().unwrap();
    assert!(
        whole.iter().all(|size| *size >= 16 << 10),
        "{:?}",
        seen.chunks
    );

    let told = caller(&gateway).await.call(&chunked(20_000, 1)).await;
    assert_eq!(413, told.status());
    assert_eq!(1, gateway.counted("m", "stable", 8));
}

/// Triton's own errors pass, under the names that the client knows.
#[tokio::test]
async fn an_error_keeps_its_status_and_loses_tritons_name() {
    for (status, code) in [(400, 3), (500, 13), (501, 12)] {
        let (_endpoint, gateway) = one(Does::Refuse(status)).await;
        let told = caller(&gateway).await.call(&post(INFER, "", b"{}")).await;

        assert_eq!(status, told.status());
        assert_eq!(r#"{"error":"model 'm' said \"no\""}"#, told.text());
        assert_eq!(1, gateway.counted("m", "stable", code));
    }
}

/// Backends that fail a version, or do not have it, are passed over; no client sees them.
#[tokio::test]
async fn another_backend_answers_for_one_that_fails() {
    for does in [Does::Refuse(503), Does::Forget, Does::HangUp] {
        let (bad, good) = (
            Endpoint::start(does).await,
            Endpoint::start(Does::Answer).await,
        );
        let models = vec![ready("m", &["t0", "t1"])];
        let gateway = Gateway::with(snapshot(&[&bad.address, &good.address], models), settings());
        let mut caller = caller(&gateway).await;
        for _ in 0..30 {
            let told = caller.call(&post(INFER, "", b"{}")).await;
            assert_eq!(
                200,
                told.status(),
                "{does:?}: {} {}",
                told.text(),
                bad.seen().len()
            );
        }
        assert!((1..10).contains(&bad.seen().len()), "{}", bad.seen().len());
    }
}

/// A backend that cannot be reached by HTTP is tried last and blamed by name.
#[tokio::test]
async fn a_backend_that_is_not_there_is_named() {
    let models = vec![ready("m", &["t0"]), ready("n", &["t1"])];
    let mut limits = settings();
    limits.default_deadline_ms = 300;
    let gateway = Gateway::with(snapshot(&["127.0.0.1:9", ""], models), limits);
    let mut caller = caller(&gateway).await;

    let told = caller.call(&post(INFER, "", b"{}")).await;
    assert_eq!(504, told.status());
    let told = caller.call(&post("/v2/models/n/infer", "", b"{}")).await;
    assert_eq!(503, told.status());
    assert!(
        told.text()
            .contains("set 'http' beside 'grpc' in backends[]"),
        "{}",
        told.text()
    );
}

/// A kept connection that the backend closed meanwhile costs no request.
#[tokio::test]
async fn a_stale_connection_is_nobodys_error() {
    let (endpoint, gateway) = one(Does::AnswerAndHangUp).await;
    let mut caller = caller(&gateway).await;

    for _ in 0..20 {
        assert_eq!(200, caller.call(&post(INFER, "", b"{}")).await.status());
    }
    assert_eq!(20, endpoint.seen().len());
}

/// The deadline of a route or of the gateway ends a request, here and at the backend.
#[tokio::test]
async fn a_deadline_ends_a_request_everywhere() {
    let mut limits = settings();
    limits.default_deadline_ms = 200;
    let (endpoint, gateway) = one_with(Does::Nothing, limits).await;

    let told = caller(&gateway).await.call(&post(INFER, "", b"{}")).await;

    assert_eq!(504, told.status());
    assert_eq!(r#"{"error":"Deadline Exceeded"}"#, told.text());
    until("the backend's connection is closed", || {
        endpoint.open() == 0
    })
    .await;
    assert_eq!(1, gateway.counted("m", "stable", 4));
}

/// A client that goes away ends its request at the backend.
#[tokio::test]
async fn a_client_that_goes_away_cancels() {
    let (endpoint, gateway) = one(Does::Nothing).await;
    let mut caller = caller(&gateway).await;
    caller.send(&post(INFER, "", b"{}")).await;
    until("the backend has it", || endpoint.seen().len() == 1).await;

    drop(caller);

    until("the backend's connection is closed", || {
        endpoint.open() == 0
    })
    .await;
    until("it is counted", || gateway.counted("m", "stable", 1) == 1).await;
}

/// Half an answer is told by a closed connection, never by a whole one.
#[tokio::test]
async fn half_an_answer_is_not_passed_off_as_one() {
    let (_endpoint, gateway) = one(Does::Half).await;
    let mut caller = caller(&gateway).await;
    caller.send(&post(INFER, "", b"{}")).await;

    assert!(caller.answer().await.is_none());
    until("it is counted", || gateway.counted("m", "stable", 14) == 1).await;
}

/// Heads that others may read in another way are refused or end the connection; none reaches a backend
/// as two requests.
#[tokio::test]
async fn ambiguous_requests_are_one_request_or_none() {
    let (endpoint, gateway) = one(Does::Answer).await;
    let smuggled = format!("GET {INFER} HTTP/1.1\r\n\r\n");
    for (first, second) in [
        ("Content-Length: 6", "Transfer-Encoding: chunked"),
        ("Transfer-Encoding: chunked", "Content-Length: 6"),
    ] {
        let request =
            format!("POST {INFER} HTTP/1.1\r\n{first}\r\n{second}\r\n\r\n0\r\n\r\n{smuggled}");
        let mut caller = caller(&gateway).await;
        let told = caller.call(request.as_bytes()).await;
        assert_eq!(
            (200, Some("close")),
            (told.status(), told.header("connection"))
        );
        assert!(caller.answer().await.is_none());
    }
    let before = endpoint.seen().len();
    assert_eq!(2, before);
    for (head, status) in [
        ("Content-Length: 1\r\nContent-Length: 2\r\n", 400),
        ("Content-Length: -1\r\n", 400),
        ("Content-Length: 99999999999999999999\r\n", 400),
        ("Transfer-Encoding: chunked, gzip\r\n", 400),
        ("X : 1\r\n", 400),
        ("X: a\0b\r\n", 400),
    ] {
        let mut caller = caller(&gateway).await;
        let request = format!("POST {INFER} HTTP/1.1\r\n{head}\r\n");
        assert_eq!(
            status,
            caller.call(request.as_bytes()).await.status(),
            "{head}"
        );
        assert!(caller.answer().await.is_none());
    }
    assert_eq!(before, endpoint.seen().len());
}

/// A head has its bounds: bytes, lines, and time.
#[tokio::test]
async fn heads_are_bounded() {
    let mut limits = settings();
    limits.handshake_timeout_ms = 500;
    let (_endpoint, gateway) = one_with(Does::Answer, limits).await;
    let long = format!("X: {}\r\n", "a".repeat(20_000));
    let many = "X: 1\r\n".repeat(101);
    for head in [long, many] {
        let told = caller(&gateway)
            .await
            .call(&post(INFER, &head, b"{}"))
            .await;
        assert_eq!(431, told.status());
    }
    let mut slow = caller(&gateway).await;
    slow.send(b"GET /v2 HTTP/1.1\r\nHost").await;
    let mut idle = caller(&gateway).await;
    slow.closed().await;
    assert_eq!(200, idle.call(&get("/v2")).await.status());
}

/// While it is cold a version is waited for, within the deadline; what failed is told.
#[tokio::test]
async fn cold_versions_are_waited_for() {
    let mut limits = settings();
    limits.default_deadline_ms = 200;
    let endpoint = Endpoint::start(Does::Answer).await;
    let models = vec![cold("sleepy"), failed("broken", "no such file"), cold("m")];
    let gateway = Gateway::with(snapshot(&[&endpoint.address], models), limits);
    let mut caller = caller(&gateway).await;

    let told = caller
        .call(&post("/v2/models/sleepy/infer", "", b"{}"))
        .await;
    assert_eq!(504, told.status());
    assert!(told.text().contains("was being loaded"));
    let told = caller
        .call(&post("/v2/models/broken/infer", "", b"{}"))
        .await;
    assert_eq!(503, told.status());
    assert!(told.text().contains("no such file"));
    caller.send(&post(INFER, "", b"{}")).await;
    gateway.put(ready("m", &["t0"]));
    assert_eq!(200, caller.answer().await.unwrap().status());
}

/// Health answers what the control plane said; a drain lets requests finish and closes what is idle.
#[tokio::test]
async fn health_and_drain() {
    let (_endpoint, gateway) = one(Does::Answer).await;
    let mut caller = caller(&gateway).await;
    let told = caller.call(&get("/v2/health/ready")).await;
    assert_eq!((200, r#"{"ready":true}"#), (told.status(), &*told.text()));
    gateway.dataplane.set_ready(false);
    let told = caller.call(&get("/v2/health/ready")).await;
    assert_eq!((400, r#"{"ready":false}"#), (told.status(), &*told.text()));
    assert_eq!(200, caller.call(&get("/v2/health/live")).await.status());

    gateway.dataplane.drain(std::time::Duration::from_secs(10));

    caller.closed().await;
    until("no connection is left", || gateway.dataplane.drained()).await;
}

/// What does not show its length and turns out to be too long to be kept arrives as it was sent.
#[tokio::test]
async fn a_long_chunked_body_arrives_in_order() {
    let backend = Endpoint::start(Does::Answer).await;
    let models = vec![ready("m", &["t0"])];
    let gateway = Gateway::with(snapshot(&[&backend.address], models), settings());
    let body: Vec<u8> = (0..3_000_000u32)
        .flat_map(u32::to_le_bytes)
        .take(3 << 20)
        .collect();

    let told = caller(&gateway).await.call(&chunk(&body)).await;

    assert_eq!(200, told.status());
    assert!(backend.seen()[0].body == body);
}

/// All requests of a sequence go to one backend, whichever parameter form names it.
#[tokio::test]
async fn a_sequence_stays_on_one_backend() {
    let (a, b) = (
        Endpoint::start(Does::Answer).await,
        Endpoint::start(Does::Answer).await,
    );
    let models = vec![ready("m", &["t0", "t1"])];
    let gateway = Gateway::with(snapshot(&[&a.address, &b.address], models), settings());
    let mut caller = caller(&gateway).await;
    let step = |start: bool, end: bool| {
        format!(
            r#"{{"inputs":[],"parameters":{{"sequence_id":7,"sequence_start":{start},"sequence_end":{end}}}}}"#
        )
    };
    for at in 0..30 {
        let body = step(at == 0, at == 29);
        // Whether its length is told at the beginning or shows at the end is all the same.
        let request = match at % 2 {
            0 => post(INFER, "", body.as_bytes()),
            _ => chunk(body.as_bytes()),
        };
        assert_eq!(200, caller.call(&request).await.status());
    }
    let seen = [a.seen().len(), b.seen().len()];
    assert!(seen.contains(&30) && seen.contains(&0), "{seen:?}");
}

/// Where a route has a fallback, another arm answers for the one that fails, and that counts its failure.
#[tokio::test]
async fn another_arm_answers_for_one_that_fails() {
    let (bad, good) = (
        Endpoint::start(Does::Refuse(500)).await,
        Endpoint::start(Does::Answer).await,
    );
    let mut spec = ready("m", &["t1"]);
    spec.versions.push(VersionSpec {
        version: "2".to_owned(),
        backend_model: "m.2.abc".to_owned(),
        ..version("m", "ready", &["t0"])
    });
    spec.arms[0].weight = 0;
    spec.arms.push(ArmSpec {
        name: "canary".to_owned(),
        version: "2".to_owned(),
        weight: 10_000,
    });
    spec.fallback_codes = vec!["INTERNAL".to_owned()];
    spec.fallback_to = "stable".to_owned();
    let snapshot = snapshot(&[&bad.address, &good.address], vec![spec]);
    let gateway = Gateway::with(snapshot, settings());

    let told = caller(&gateway).await.call(&post(INFER, "", b"{}")).await;

    assert_eq!(
        (200, Some("1")),
        (told.status(), told.header("stagegate-version"))
    );
    assert_eq!((1, 1), (bad.seen().len(), good.seen().len()));
    assert_eq!(1, gateway.counted("m", "canary", 13));
}
