//! Backends that fail: what is asked again, who is passed over, and what a client sees of it.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::time::{Duration, Instant};

use common::proxy::Proxy;
use common::{
    cold, framed, model, ready, request, snapshot, snapshot_at, until, version, Backend, Client,
    Gateway, INFER, STREAM,
};
use stagegate_core::{EventKind, Settings};
use stagegate_table::spec::ModelSpec;

const UNAVAILABLE: &str = "status=14 the queue is full";
const STUB: &str = "status=13 message: Stub process 'digits_0_0' is not healthy.";
const GONE: &str = "status=5 Request for unknown model: 'digits.1.abc' has no available versions";

async fn two() -> (Backend, Backend, Gateway) {
    let (one, two) = (Backend::start().await, Backend::start().await);
    let gateway = Gateway::start(snapshot(&[&one, &two], vec![both()]));
    (one, two, gateway)
}

async fn one() -> (Backend, Gateway) {
    let backend = Backend::start().await;
    let gateway = Gateway::start(snapshot(&[&backend], vec![only()]));
    (backend, gateway)
}

fn both() -> ModelSpec {
    ready("digits", &["t0", "t1"])
}

fn only() -> ModelSpec {
    ready("digits", &["t0"])
}

async fn codes(client: &Client, count: usize) -> Vec<i32> {
    let mut codes = Vec::new();
    for _ in 0..count {
        codes.push(client.infer("digits", &[]).await.code());
    }
    codes
}

fn retries(gateway: &Gateway, reason: &str) -> u64 {
    let read = gateway.published.counters().retries;
    read.iter()
        .filter(|one| one.reason == reason)
        .map(|one| one.count)
        .sum()
}

fn ejected(gateway: &Gateway) -> Vec<String> {
    let read = gateway.published.counters().ejected;
    read.into_iter().map(|one| one.backend).collect()
}

fn kinds(gateway: &Gateway) -> Vec<EventKind> {
    let events = gateway.dataplane.events().drain();
    events.into_iter().map(|event| event.kind).collect()
}

/// Many calls at once, until `stop` says so; gives every code.
async fn load(gateway: &Gateway, stop: impl Fn() -> bool) -> Vec<i32> {
    let client = gateway.client().await;
    let mut codes = Vec::new();
    while !stop() {
        let calls = (0..8).map(|_| client.infer("digits", &[("x-do", "sleep=5")]));
        for answer in futures(calls.collect()).await {
            codes.push(answer.code());
        }
    }
    codes
}

async fn futures<F: std::future::Future>(futures: Vec<F>) -> Vec<F::Output> {
    let mut running: Vec<_> = futures.into_iter().map(|one| Some(Box::pin(one))).collect();
    let mut done: Vec<Option<F::Output>> = running.iter().map(|_| None).collect();
    std::future::poll_fn(|cx| {
        for (running, done) in running.iter_mut().zip(&mut done) {
            if let Some(future) = running {
                if let std::task::Poll::Ready(value) = future.as_mut().poll(cx) {
                    (*running, *done) = (None, Some(value));
                }
            }
        }
        if done.iter().all(Option::is_some) {
            std::task::Poll::Ready(())
        } else {
            std::task::Poll::Pending
        }
    })
    .await;
    done.into_iter().map(Option::unwrap).collect()
}

/// UNAVAILABLE before an answer is asked of another backend, once: no client sees it, and the backend that
/// says it five times in a row is passed over.
#[tokio::test]
async fn unavailable_is_asked_elsewhere() {
    let (one, _two, gateway) = two().await;
    one.does(UNAVAILABLE);
    let client = gateway.client().await;

    assert_eq!(vec![0; 60], codes(&client, 60).await);

    let (seen, tried) = (one.inferences(), retries(&gateway, "unavailable"));
    assert!(
        (1..=5).contains(&seen) && tried as usize == seen,
        "{seen} {tried}"
    );
}

/// Where nobody else has the version, the backend's own answer reaches the client as it is.
#[tokio::test]
async fn unavailable_of_the_only_backend_is_told_as_it_is() {
    let (backend, gateway) = one().await;
    backend.does(UNAVAILABLE);

    let answer = gateway.client().await.infer("digits", &[]).await;

    assert_eq!(
        (14, "the queue is full".to_owned()),
        (answer.code(), answer.text())
    );
    assert_eq!(
        (1, 0),
        (backend.inferences(), retries(&gateway, "unavailable"))
    );
}

/// A retry budget bounds what backends get when all of them fail: attempts are at most 1.2 times the calls,
/// and the few that it holds at its start.
#[tokio::test]
async fn retries_stay_within_their_budget() {
    let (one, two, gateway) = two().await;
    let client = gateway.client().await;
    let calls = 200;
    for _ in 0..calls {
        // Every fifth is good, so that nobody is passed over.
        client.infer("digits", &[]).await;
        for _ in 0..4 {
            client.infer("digits", &[("x-do", UNAVAILABLE)]).await;
        }
    }

    let attempts = one.inferences() + two.inferences();
    let most = calls * 5 * 12 / 10 + 2 * 10 + 10;
    assert!(
        attempts > calls * 5 && attempts <= most,
        "{attempts} of {most}"
    );
}

/// All backends passed over: an answer at once, with what is wrong, since when, and when to come back; one
/// probe after each pause, and everything is well again when that is.
#[tokio::test]
async fn a_broken_model_fails_fast_and_comes_back_by_a_probe() {
    let (backend, gateway) = one().await;
    let client = gateway.client().await;
    backend.does(STUB);

    assert_eq!(vec![13; 5], codes(&client, 5).await);
    let asked = backend.inferences();
    let started = Instant::now();
    let answer = client.infer("digits", &[]).await;

    assert!(started.elapsed() < Duration::from_millis(500));
    assert_eq!(14, answer.code());
    for part in ["'digits' version 1", "'t0' since", "is not healthy"] {
        assert!(answer.text().contains(part), "{}", answer.text());
    }
    let wait: u64 = answer.headers["grpc-retry-pushback-ms"]
        .to_str()
        .unwrap()
        .parse()
        .unwrap();
    assert!((1..=1500).contains(&wait), "{wait}");
    assert_eq!(asked, backend.inferences());
    assert_eq!(vec![EventKind::Ejected], kinds(&gateway));

    until("a probe asked", || backend.inferences() > asked).await;
    assert_eq!(14, client.infer("digits", &[]).await.code());
    backend.does("");
    until("it is back", || ejected(&gateway).is_empty()).await;
    assert_eq!(0, client.infer("digits", &[]).await.code());
    assert_eq!(vec![EventKind::Recovered], kinds(&gateway));
    // The probe was a request of zeros in the shape that the model's metadata give.
    let probe = &backend.seen()[backend.seen().len() - 2];
    assert!(probe.path.ends_with("/ModelInfer") && probe.body.ends_with(b"digits.1.abc\x12\0"));
}

/// Behind a new connection may be another process: it is not kept waiting for what the old one did.
#[tokio::test]
async fn a_backend_that_is_connected_anew_is_probed_before_its_pause_is_over() {
    let (backend, gateway) = one().await;
    let address = backend.address();
    let client = gateway.client().await;
    backend.does(STUB);
    codes(&client, 5).await;
    assert_eq!(vec!["t0"], ejected(&gateway));
    // Two probes that fail: the pause that begins with the second is 4 s long at least.
    until("probes failed", || backend.inferences() >= 7).await;
    backend.stop();
    until("it is gone", || backend.connections() == 0).await;
    tokio::time::sleep(Duration::from_millis(200)).await;

    let _again = Backend::at(&address).await;
    let begun = Instant::now();
    until("it is back", || ejected(&gateway).is_empty()).await;

    assert!(
        begun.elapsed() < Duration::from_millis(2500),
        "{:?}",
        begun.elapsed()
    );
    assert_eq!(vec![0; 3], codes(&client, 3).await);
}

/// A model whose process is gone harms no other model of the same backend.
#[tokio::test]
async fn only_the_version_that_fails_is_passed_over() {
    let backend = Backend::start().await;
    let models = vec![only(), ready("other", &["t0"])];
    let gateway = Gateway::start(snapshot(&[&backend], models));
    let client = gateway.client().await;
    for _ in 0..10 {
        client.infer("digits", &[("x-do", STUB)]).await;
    }

    for _ in 0..10 {
        assert_eq!(0, client.infer("other", &[]).await.code());
    }
    assert_eq!(vec!["t0"], ejected(&gateway));
}

/// A client's own mistakes never count against a backend, however many there are.
#[tokio::test]
async fn mistakes_of_clients_eject_nobody() {
    let (backend, gateway) = one().await;
    let client = gateway.client().await;
    for what in [
        "error",
        "status=5 no such customer",
        "status=13 ValueError",
        "reset=8",
    ] {
        for _ in 0..8 {
            client.infer("digits", &[("x-do", what)]).await;
        }
    }
    // On a busy machine a deadline may pass before the backend has the request: that one shows nothing.
    while backend.inferences() < 40 {
        let late = client.infer("digits", &[("x-do", "wait"), ("grpc-timeout", "5m")]);
        assert_eq!(4, late.await.code());
    }

    assert!(ejected(&gateway).is_empty());
    assert_eq!(0, client.infer("digits", &[]).await.code());
    assert_eq!(41, backend.inferences());
}

/// An OK without a message, or one that is cut, is the backend's failure.
#[tokio::test]
async fn answers_that_are_none_eject() {
    for what in ["nothing", "cut", "no-trailers"] {
        let (_backend, gateway) = one().await;
        let client = gateway.client().await;
        for _ in 0..5 {
            assert_ne!(0, client.infer("digits", &[("x-do", what)]).await.code());
        }
        assert_eq!(vec!["t0"], ejected(&gateway), "{what}");
    }
}

/// `NOT_FOUND` of a version that is deployed there is the backend's: the others are asked, and it never
/// reaches a client.
#[tokio::test]
async fn a_backend_that_lost_the_version_is_passed_by() {
    let (one, _two, gateway) = two().await;
    one.does(GONE);
    let client = gateway.client().await;

    assert_eq!(vec![0; 40], codes(&client, 40).await);

    assert!(retries(&gateway, "gone") >= 1);
}

/// With nobody else to ask, the table is given time to follow: the version turns cold, is loaded, and the
/// request goes through.
#[tokio::test]
async fn a_request_waits_for_the_table_where_the_version_is_gone() {
    let (backend, gateway) = one().await;
    backend.does(GONE);
    let client = gateway.client().await;

    let call = client.infer("digits", &[]);
    let control = async {
        until("it was refused", || backend.inferences() == 1).await;
        tokio::time::sleep(Duration::from_millis(50)).await;
        gateway.put(cold("digits"));
        until("a load is asked for", || {
            kinds(&gateway).contains(&EventKind::Cold)
        })
        .await;
        backend.does("");
        gateway.put(only());
    };
    let (answer, ()) = tokio::join!(call, control);

    assert_eq!(0, answer.code(), "{}", answer.text());
}

/// With nobody else to ask and a table that does not follow, it is UNAVAILABLE and says why.
#[tokio::test]
async fn not_found_of_the_only_backend_is_unavailable() {
    let (backend, gateway) = one().await;
    backend.does(GONE);
    let headers = [("grpc-timeout", "30S")];

    let answer = gateway.client().await.infer("digits", &headers).await;

    assert_eq!(14, answer.code());
    let text = answer.text();
    assert!(
        text.contains("'t0' does not have model 'digits' version 1 any more"),
        "{text}"
    );
}

/// GOAWAY in two steps and in one, again and again under load: nothing is lost.
#[tokio::test]
async fn goaway_under_load_loses_nothing() {
    let backend = Backend::start().await;
    let proxy = Proxy::before(backend.address()).await;
    let gateway = Gateway::start(snapshot_at(&[proxy.address()], vec![only()]));
    let over = std::cell::Cell::new(false);
    let trouble = async {
        let mut times = 0;
        // On a busy machine more often, until it has been met by enough.
        while times < 15 || (times < 150 && backend.inferences() < 200) {
            tokio::time::sleep(Duration::from_millis(40)).await;
            proxy.goaway();
            tokio::time::sleep(Duration::from_millis(40)).await;
            backend.goaway();
            times += 1;
        }
        over.set(true);
    };

    let (codes, ()) = tokio::join!(load(&gateway, || over.get()), trouble);

    assert!(codes.len() > 100, "{}", codes.len());
    assert!(codes.iter().all(|code| *code == 0), "{codes:?}");
    assert!(retries(&gateway, "refused") > 0);
}

/// A stream that ends more than once costs neither its own call nor those beside it.
#[tokio::test]
async fn a_stream_that_ends_again_costs_no_call() {
    let backend = Backend::start().await;
    let proxy = Proxy::before(backend.address()).await;
    let gateway = Gateway::start(snapshot_at(&[proxy.address()], vec![only()]));
    proxy.end_again();
    let late = async {
        let client = gateway.client().await;
        for _ in 0..20 {
            let answer = client.infer("digits", &[("x-do", "status=4 too late")]);
            assert_eq!(4, answer.await.code());
        }
    };

    let usual = load(&gateway, || proxy.ended_again() >= 20);
    let (codes, ()) = tokio::join!(usual, late);

    assert!(codes.iter().all(|code| *code == 0), "{codes:?}");
    assert_eq!((0, 1), (retries(&gateway, "broken"), backend.connections()));
    assert_eq!(codes.len() + 20, backend.inferences());
}

/// A connection that breaks under calls: they are sent once more, on a new connection where there is no
/// other backend.
#[tokio::test]
async fn calls_on_a_connection_that_breaks_are_sent_once_more() {
    let (one, two, gateway) = two().await;
    let client = gateway.client().await;
    codes(&client, 20).await;

    let calls = (0..10).map(|_| client.infer("digits", &[("x-do", "sleep=300")]));
    let kill = async {
        until("all are there", || {
            one.inferences() + two.inferences() == 30
        })
        .await;
        one.stop();
    };
    let (answers, ()) = tokio::join!(futures(calls.collect()), kill);

    assert!(answers.iter().all(|answer| answer.code() == 0));
    assert!(retries(&gateway, "broken") > 0);
}

/// A backend that is lost and comes back while requests come in: they wait for it.
#[tokio::test]
async fn requests_wait_for_the_only_backend_to_come_back() {
    let (backend, gateway) = one().await;
    let client = gateway.client().await;
    codes(&client, 1).await;
    let address = backend.address();
    backend.stop();
    until("it is gone", || backend.connections() == 0).await;

    let calls = (0..20).map(|_| client.infer("digits", &[]));
    let restart = async {
        tokio::time::sleep(Duration::from_millis(700)).await;
        Backend::at(&address).await
    };
    let (answers, _again) = tokio::join!(futures(calls.collect()), restart);

    let codes: Vec<i32> = answers.iter().map(common::client::Answer::code).collect();
    assert_eq!(vec![0; 20], codes);
}

/// Once an answer has begun nothing is sent again: the client is told that it broke.
#[tokio::test]
async fn nothing_is_sent_again_behind_the_head_of_an_answer() {
    let backend = Backend::start().await;
    let proxy = Proxy::before(backend.address()).await;
    let gateway = Gateway::start(snapshot_at(&[proxy.address()], vec![only()]));
    let client = gateway.client().await;
    for _ in 0..5 {
        assert_eq!(0, client.infer("digits", &[]).await.code());
        proxy.cut();
        assert_eq!(14, client.infer("digits", &[]).await.code());
    }

    assert_eq!((5, 10), (proxy.cuts(), backend.inferences()));
}

/// A message beyond the replay cap is sent once.
#[tokio::test]
async fn a_large_message_is_sent_once() {
    let (one, two, gateway) = two().await;
    one.does(UNAVAILABLE);
    two.does(UNAVAILABLE);
    let client = gateway.client().await;
    let message = framed(&request("digits", "", 2 << 20));

    let answer = client.call(INFER, &[], &[&message]).await;

    assert_eq!(14, answer.code());
    assert_eq!(1, one.inferences() + two.inferences());
}

/// A backend that stops in the middle of its work without closing anything: its calls are ended and asked
/// elsewhere, and it gets no more.
#[tokio::test]
async fn a_frozen_backend_is_found_out() {
    let (one, two, gateway) = two().await;
    let client = gateway.client().await;
    codes(&client, 20).await;
    one.freeze();
    let started = Instant::now();

    let calls = (0..8).map(|_| client.infer("digits", &[("grpc-timeout", "20S")]));
    let answers = futures(calls.collect()).await;

    assert!(answers.iter().all(|answer| answer.code() == 0));
    assert!(
        started.elapsed() < Duration::from_secs(8),
        "{:?}",
        started.elapsed()
    );
    let before = two.inferences();
    assert_eq!(vec![0; 20], codes(&client, 20).await);
    assert_eq!(before + 20, two.inferences());
    assert!(kinds(&gateway).contains(&EventKind::BackendDown));
    one.thaw();
    until("it is back", || {
        kinds(&gateway).contains(&EventKind::BackendUp)
    })
    .await;
}

/// A call that takes long is left alone: the backend answers when it is tested.
#[tokio::test]
async fn a_long_call_is_no_frozen_backend() {
    let (backend, gateway) = one().await;
    let client = gateway.client().await;

    let answer = client.infer("digits", &[("x-do", "sleep=4000")]).await;

    assert_eq!((0, 1), (answer.code(), backend.inferences()));
    assert!(kinds(&gateway).is_empty());
}

/// A slow backend is asked less.
#[tokio::test]
async fn a_slow_backend_is_asked_less() {
    let (one, two) = (Backend::start().await, Backend::start().await);
    let proxy = Proxy::before(one.address()).await;
    let gateway = Gateway::start(snapshot_at(&[proxy.address(), two.address()], vec![both()]));
    let client = gateway.client().await;
    codes(&client, 20).await;
    proxy.delay(Duration::from_millis(100));
    let before = (one.inferences(), two.inferences());

    codes(&client, 200).await;

    let (slow, quick) = (one.inferences() - before.0, two.inferences() - before.1);
    assert!(slow <= 20, "{slow} of {}", slow + quick);
}

/// Cancels beyond the rate are not passed on: the backend finishes, and nobody gets its answer.
#[tokio::test]
async fn cancels_beyond_the_rate_are_not_passed_on() {
    let backend = Backend::start().await;
    let settings = Settings {
        cancels_per_second: 3,
        ..Settings::default()
    };
    let gateway = Gateway::with(snapshot(&[&backend], vec![only()]), settings);
    let client = gateway.client().await;
    let mut calls = Vec::new();
    for _ in 0..20 {
        let mut call = client.begin(INFER, &[("x-do", "wait")]).await;
        call.send_all(&framed(&request("digits", "", 10)), true)
            .await;
        calls.push(call);
    }
    until("all are there", || backend.inferences() == 20).await;

    calls.iter_mut().for_each(common::client::Call::reset);

    until("three are told", || backend.cancelled() == 3).await;
    assert_eq!(0, client.infer("digits", &[]).await.code());
    assert_eq!(3, backend.cancelled());
}

/// What is pinned to a version that is gone from one backend of two is served by the other, and a table
/// that brings it back there brings it back into use.
#[tokio::test]
async fn a_version_that_comes_back_is_not_held_to_its_past() {
    let (one, two, gateway) = two().await;
    let client = gateway.client().await;
    one.does(GONE);
    codes(&client, 60).await;
    gateway.put(model("digits", version("digits", "ready", &["t1"])));
    one.does("");
    assert!(ejected(&gateway).is_empty());
    gateway.put(both());
    let before = one.inferences();

    two.does(UNAVAILABLE);
    assert_eq!(vec![0; 10], codes(&client, 10).await);

    assert!(one.inferences() > before);
}

/// Five streams that break, or one in which five answers say that the model's process is gone.
#[tokio::test]
async fn streams_that_fail_count_against_their_backend() {
    let stub = "stream-error=message: Stub process 'digits_0_0' is not healthy.";
    for (what, streams, messages) in [("reset=2", 5, 1), (stub, 1, 5)] {
        let (_backend, gateway) = one().await;
        let client = gateway.client().await;
        let message = framed(&request("digits", "", 1)).repeat(messages);

        for _ in 0..streams {
            assert!(ejected(&gateway).is_empty(), "{what}");
            client.call(STREAM, &[("x-do", what)], &[&message]).await;
        }

        assert_eq!(vec!["t0"], ejected(&gateway), "{what}");
        assert_eq!(14, client.infer("digits", &[]).await.code());
    }
}

/// What a model says of a request in a stream is no fault, and a good answer in one ends a row of faults.
#[tokio::test]
async fn a_stream_that_is_answered_speaks_for_its_backend() {
    let (_backend, gateway) = one().await;
    let client = gateway.client().await;
    let message = framed(&request("digits", "", 1));
    for what in ["reset=2", "stream-error", "reset=2", ""].repeat(4) {
        client.call(STREAM, &[("x-do", what)], &[&message]).await;
    }

    assert!(ejected(&gateway).is_empty());
}
