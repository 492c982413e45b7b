//! Versions that are given no more than they can work on.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use common::client::{Answer, Call, Client};
use common::{
    framed, model, ready, request, snapshot, until, version, Backend, Gateway, INFER, STREAM,
};
use stagegate_core::Settings;
use stagegate_table::counters::QueueCounters;
use stagegate_table::spec::{ModelSpec, VersionSpec};
use stagegate_wire::params::{put, Value};

/// A model that works on one request at a time, so that two are let through.
fn busy() -> ModelSpec {
    let one = VersionSpec {
        capacity: 1,
        ..version("busy", "ready", &["t0"])
    };
    model("busy", one)
}

async fn started(settings: Settings) -> (Backend, Gateway) {
    let backend = Backend::start().await;
    let models = vec![busy(), ready("other", &["t0"])];
    let gateway = Gateway::with(snapshot(&[&backend], models), settings);
    (backend, gateway)
}

fn queue(gateway: &Gateway) -> QueueCounters {
    let counters = gateway.published.counters();
    let mut of_busy = counters.queues.into_iter().filter(|q| q.model == "busy");
    of_busy.next().expect("somebody waited")
}

fn queued(gateway: &Gateway) -> u64 {
    let counters = gateway.published.counters();
    counters.queues.iter().map(|queue| queue.queued).sum()
}

/// Begin an inference with that priority.
async fn ask(client: &Client, priority: u64, headers: &[(&str, &str)]) -> Call {
    let mut message = request("busy", "", 100);
    put(&mut message, b"priority", Value::Uint(priority));
    let mut call = client.begin(INFER, headers).await;
    call.send_all(&framed(&message), true).await;
    call
}

/// Fill both places with requests that the backend never answers.
async fn fill(backend: &Backend, client: &Client) -> [Call; 2] {
    let calls = [
        ask(client, 0, &[("x-do", "wait")]).await,
        ask(client, 0, &[("x-do", "wait")]).await,
    ];
    until("both are there", || backend.seen().len() == 2).await;
    calls
}

fn push_back(answer: &Answer) -> u32 {
    let value = &answer.headers["grpc-retry-pushback-ms"];
    value.to_str().unwrap().parse().unwrap()
}

/// What is beyond the capacity waits here, and goes on when there is room.
#[tokio::test]
async fn the_backend_gets_two_and_the_third_waits() {
    let (backend, gateway) = started(Settings::default()).await;
    let client = gateway.client().await;
    let [mut one, _two] = fill(&backend, &client).await;

    let third = ask(&client, 0, &[]).await;
    until("it waits", || queued(&gateway) == 1).await;
    assert_eq!(2, backend.seen().len());
    one.reset();

    assert_eq!(0, third.answer().await.unwrap().code());
    assert_eq!(1, queue(&gateway).time.count());
}

/// A backend that is passed over works on nothing: the others are not given its share.
#[tokio::test]
async fn what_is_let_through_follows_the_backends_that_are_well() {
    let (one, two) = (Backend::start().await, Backend::start().await);
    let wide = VersionSpec {
        capacity: 6,
        ..version("busy", "ready", &["t0", "t1"])
    };
    let busy = model("busy", wide);
    let gateway = Gateway::start(snapshot(&[&one, &two], vec![busy.clone()]));
    let client = gateway.client().await;
    let limit = || {
        let table = gateway.published.load();
        let (_, version) = table.version(b"busy", "1").unwrap();
        version.cell.gate.limit()
    };
    assert_eq!(12, limit());

    one.does("status=14 the queue is full");
    while gateway.published.counters().ejected.is_empty() {
        client.infer("busy", &[]).await;
    }
    assert_eq!(6, limit());
    gateway.put(busy);
    assert_eq!(6, limit());

    one.does("");
    until("it is back", || {
        gateway.published.counters().ejected.is_empty()
    })
    .await;
    until("it is given work", || limit() == 12).await;
}

/// A full queue is told at once, with the time after which to try again, and no other model notices.
#[tokio::test]
async fn a_full_queue_refuses_at_once() {
    let settings = Settings {
        queue_per_model: 1,
        ..Settings::default()
    };
    let (backend, gateway) = started(settings).await;
    let client = gateway.client().await;
    let _held = fill(&backend, &client).await;
    let _waits = ask(&client, 0, &[]).await;
    until("it waits", || queued(&gateway) == 1).await;

    let refused = client.infer("busy", &[]).await;

    assert_eq!(8, refused.code());
    assert_eq!(
        "model 'busy' version 1 is busy and 1 requests wait for it already (limits.queue_per_model)",
        refused.text()
    );
    assert!(push_back(&refused) > 0);
    assert_eq!([1, 0, 0, 0], queue(&gateway).rejected);
    assert_eq!(0, client.infer("other", &[]).await.code());
}

/// A request that would be answered too late is refused before its deadline has passed.
#[tokio::test]
async fn a_deadline_that_cannot_be_met_refuses_at_once() {
    let (backend, gateway) = started(Settings::default()).await;
    let client = gateway.client().await;
    let slow = ask(&client, 0, &[("x-do", "sleep=200")]).await;
    assert_eq!(0, slow.answer().await.unwrap().code());
    let held = [
        ask(&client, 0, &[("x-do", "wait")]).await,
        ask(&client, 0, &[("x-do", "wait")]).await,
    ];
    until("both are there", || backend.seen().len() == 3).await;

    let refused = client.infer("busy", &[("grpc-timeout", "80m")]).await;

    assert_eq!(8, refused.code());
    assert_eq!(
        "model 'busy' version 1 is busy and would not answer before the deadline of this request",
        refused.text()
    );
    assert!(push_back(&refused) > 0);
    assert_eq!([0, 1, 0, 0], queue(&gateway).rejected);
    drop(held);
}

/// Where nothing is known yet of the time it takes, the deadline ends the wait.
#[tokio::test]
async fn the_wait_ends_with_the_deadline() {
    let (backend, gateway) = started(Settings::default()).await;
    let client = gateway.client().await;
    let _held = fill(&backend, &client).await;

    let late = client.infer("busy", &[("grpc-timeout", "30m")]).await;

    assert_eq!(
        (
            4,
            "Deadline Exceeded in the queue of model 'busy' version 1"
        ),
        (late.code(), &*late.text())
    );
    until("nobody waits", || queued(&gateway) == 0).await;
}

/// Priority 1 goes before those that wait already, and takes a place where there is none left.
#[tokio::test]
async fn priority_goes_first() {
    let settings = Settings {
        queue_per_model: 2,
        ..Settings::default()
    };
    let (backend, gateway) = started(settings).await;
    let client = gateway.client().await;
    let [mut one, _two] = fill(&backend, &client).await;
    let usual = ask(&client, 0, &[("x-do", "wait")]).await;
    until("one waits", || queued(&gateway) == 1).await;
    let last = ask(&client, 0, &[]).await;
    until("two wait", || queued(&gateway) == 2).await;

    let urgent = ask(&client, 1, &[]).await;
    let displaced = last.answer().await.unwrap();
    one.reset();

    assert_eq!(0, urgent.answer().await.unwrap().code());
    assert_eq!(8, displaced.code());
    assert!(push_back(&displaced) > 0);
    assert_eq!([0, 0, 1, 0], queue(&gateway).rejected);
    drop(usual);
}

/// Clients that go away leave the queue, and those that were let through leave their place.
#[tokio::test]
async fn those_who_leave_take_no_place() {
    let (backend, gateway) = started(Settings::default()).await;
    let client = gateway.client().await;
    let [mut one, mut two] = fill(&backend, &client).await;
    let mut gone = ask(&client, 0, &[]).await;
    until("it waits", || queued(&gateway) == 1).await;

    gone.reset();
    until("nobody waits", || queued(&gateway) == 0).await;
    one.reset();
    two.reset();

    let gate = |gateway: &Gateway| {
        let table = gateway.published.load();
        let version = table.version(b"busy", "1").unwrap().1;
        version.cell.gate.inflight()
    };
    until("nothing is held", || gate(&gateway) == 0).await;
    assert_eq!(0, client.infer("busy", &[]).await.code());
}

/// What Triton's policy for a model would refuse after a time in its queue waits here no longer, and a
/// request's own `timeout` makes that shorter where the policy allows it.
#[tokio::test]
async fn triton_s_policy_bounds_the_wait() {
    let (backend, gateway) = started(Settings::default()).await;
    gateway.put(model(
        "busy",
        VersionSpec {
            capacity: 1,
            queue_timeout_us: 30_000_000,
            timeout_override: true,
            ..version("busy", "ready", &["t0"])
        },
    ));
    let client = gateway.client().await;
    let _held = fill(&backend, &client).await;
    let mut message = request("busy", "", 100);
    put(&mut message, b"timeout", Value::Int(20_000));

    let late = client.call(INFER, &[], &[&framed(&message)]).await;

    assert_eq!(
        (14, "Request timeout expired"),
        (late.code(), &*late.text())
    );
    assert_eq!([0, 0, 0, 1], queue(&gateway).rejected);
}

/// What a client gave up may still be worked on: it keeps its place for the usual time.
#[tokio::test]
async fn what_is_given_up_keeps_its_place_for_a_while() {
    let (backend, gateway) = started(Settings::default()).await;
    let client = gateway.client().await;
    let slow = ask(&client, 0, &[("x-do", "sleep=400")]).await;
    assert_eq!(0, slow.answer().await.unwrap().code());
    let late = [("x-do", "wait"), ("grpc-timeout", "50m")];
    let calls = [ask(&client, 0, &late).await, ask(&client, 0, &late).await];
    for call in calls {
        assert_eq!(4, call.answer().await.unwrap().code());
    }

    let next = ask(&client, 0, &[]).await;
    until("it waits", || queued(&gateway) == 1).await;
    assert_eq!(0, next.answer().await.unwrap().code());
    assert_eq!(4, backend.seen().len());
}

/// A version that is unloaded and loaded again while requests wait is waited for.
#[tokio::test]
async fn those_who_wait_follow_the_version() {
    let (backend, gateway) = started(Settings::default()).await;
    let client = gateway.client().await;
    let [mut one, _two] = fill(&backend, &client).await;
    let third = ask(&client, 0, &[]).await;
    until("it waits", || queued(&gateway) == 1).await;

    gateway.put(model("busy", version("busy", "cold", &[])));
    one.reset();
    until("it waits for the load", || queue(&gateway).waiting == 1).await;
    gateway.put(busy());

    assert_eq!(0, third.answer().await.unwrap().code());
}

/// Of many threads together no more than two requests are with the backend, and every one is answered. It
/// works on one at a time: of one that answers many in the time of one, more would be let through.
#[tokio::test]
async fn threads_share_the_bound() {
    let settings = Settings {
        threads: 3,
        ..Settings::default()
    };
    let (backend, gateway) = started(settings).await;
    let mut clients = Vec::new();
    for _ in 0..6 {
        clients.push(gateway.client().await);
    }
    let mut calls = Vec::new();
    for number in 0..60 {
        calls.push(ask(&clients[number % 6], 0, &[("x-do", "work=10")]).await);
    }
    for call in calls {
        assert_eq!(0, call.answer().await.unwrap().code());
    }

    assert_eq!(2, backend.most_at_once());
    assert_eq!((0, 2), (queued(&gateway), queue(&gateway).limit));
}

/// A large message is read before it takes a place, so that a slow sender holds none.
#[tokio::test]
async fn a_message_on_its_way_holds_no_place() {
    let (_backend, gateway) = started(Settings::default()).await;
    let client = gateway.client().await;
    let message = framed(&request("busy", "", 200_000));
    let mut slow = Vec::new();
    for _ in 0..3 {
        let mut call = client.begin(INFER, &[]).await;
        call.send_all(&message[..100_000], false).await;
        slow.push(call);
    }

    assert_eq!(0, client.infer("busy", &[]).await.code());
    for mut call in slow {
        call.send_all(&message[100_000..], true).await;
        assert_eq!(0, call.answer().await.unwrap().code());
    }
}

/// A message too large to be waited for holds a place, but not for as long as its client likes.
#[tokio::test]
async fn a_very_large_message_on_its_way_loses_its_place() {
    let (_backend, gateway) = started(Settings::default()).await;
    let client = gateway.client().await;
    let message = framed(&request("busy", "", 3 << 20));
    let mut slow = Vec::new();
    for _ in 0..2 {
        let mut call = client.begin(INFER, &[]).await;
        call.send_all(&message[..200_000], false).await;
        slow.push(call);
    }

    let quick = ask(&gateway.client().await, 0, &[]).await;
    until("it waits", || queued(&gateway) == 1).await;
    assert_eq!(0, quick.answer().await.unwrap().code());
    for mut call in slow {
        call.send_all(&message[200_000..], true).await;
        assert_eq!(0, call.answer().await.unwrap().code());
    }
}

/// Messages that wait are held under one bound, and what is beyond it is refused.
#[tokio::test]
async fn all_waiting_messages_together_have_a_bound() {
    let settings = Settings {
        max_buffered: 4 << 20,
        ..Settings::default()
    };
    let (backend, gateway) = started(settings).await;
    let client = gateway.client().await;
    let [mut one, mut two] = fill(&backend, &client).await;
    let message = framed(&request("busy", "", 900_000));
    let mut calls = Vec::new();
    for _ in 0..8 {
        let mut call = client.begin(INFER, &[]).await;
        call.send_all(&message, true).await;
        calls.push(call);
    }
    until("four wait", || queued(&gateway) == 4).await;
    one.reset();
    two.reset();

    let mut codes = Vec::new();
    for call in calls {
        let answer = call.answer().await.unwrap();
        if answer.code() == 8 {
            assert_eq!(
                "the gateway holds 4194304 bytes of requests already (limits.max_buffered)",
                answer.text()
            );
        }
        codes.push(answer.code());
    }
    codes.sort_unstable();
    assert_eq!(vec![0, 0, 0, 0, 8, 8, 8, 8], codes);
    assert_eq!(0, client.infer("busy", &[]).await.code());
}

/// The bound holds for messages of streams that come in pieces as well.
#[tokio::test]
async fn messages_of_streams_count() {
    let settings = Settings {
        max_buffered: 1 << 20,
        ..Settings::default()
    };
    let (_backend, gateway) = started(settings).await;
    let client = gateway.client().await;
    let message = framed(&request("other", "", 3 << 20));
    let mut call = client.begin(STREAM, &[]).await;
    call.send_all(&message[..2 << 20], false).await;

    assert_eq!(8, call.answer().await.unwrap().code());
    let small = framed(&request("other", "", 100));
    assert_eq!(0, client.call(STREAM, &[], &[&small]).await.code());
}
