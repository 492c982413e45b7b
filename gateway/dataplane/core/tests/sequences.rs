//! Sequences: one version and one backend from start to end, whatever happens to the weights.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use common::client::{next_message, Answer};
use common::{cold, framed, snapshot, until, version, Backend, Gateway, INFER, STREAM};
use stagegate_core::Settings;
use stagegate_table::spec::{ArmSpec, ModelSpec, PointerSpec, VersionSpec};
use stagegate_wire::encode::put_len;
use stagegate_wire::names::scan_message;
use stagegate_wire::params::{put, Value};

const START: (&str, Value<'static>) = ("sequence_start", Value::Bool(true));
const END: (&str, Value<'static>) = ("sequence_end", Value::Bool(true));
const SEVEN: (&str, Value<'static>) = ("sequence_id", Value::Int(7));

fn id(text: &str) -> (&'static str, Value<'_>) {
    ("sequence_id", Value::Text(text.as_bytes()))
}

fn number(id: i64) -> (&'static str, Value<'static>) {
    ("sequence_id", Value::Int(id))
}

/// A request with these parameters and a tensor of that many bytes.
fn message(reference: &str, parameters: &[(&str, Value<'_>)], tensor: usize) -> Vec<u8> {
    let mut out = Vec::new();
    put_len(&mut out, 1, b"digits");
    put_len(&mut out, 2, reference.as_bytes());
    for (name, value) in parameters {
        put(&mut out, name.as_bytes(), *value);
    }
    put_len(&mut out, 7, &vec![0xa5; tensor]);
    framed(&out)
}

/// Versions 1 and 2 of one model on these backends, and what share of 10,000 each has.
fn split(backends: [&[&str]; 2], weights: [u32; 2]) -> ModelSpec {
    let version = |id: &str, backends: &[&str]| VersionSpec {
        version: id.to_owned(),
        backend_model: format!("digits.{id}.abc"),
        sequence_idle_us: 60_000_000,
        ..version("digits", "ready", backends)
    };
    let arm = |name: &str, id: &str, weight| ArmSpec {
        name: name.to_owned(),
        version: id.to_owned(),
        weight,
    };
    ModelSpec {
        name: "digits".to_owned(),
        versions: vec![version("1", backends[0]), version("2", backends[1])],
        arms: vec![
            arm("stable", "1", weights[0]),
            arm("canary", "2", weights[1]),
        ],
        ..ModelSpec::default()
    }
}

const BOTH: [&[&str]; 2] = [&["t0", "t1"], &["t0", "t1"]];
const ONE: [u32; 2] = [10_000, 0];
const OTHER: [u32; 2] = [0, 10_000];

struct World {
    backends: [Backend; 2],
    gateway: Gateway,
}

impl World {
    /// Two backends that both have both versions, four threads.
    async fn new() -> Self {
        let backends = [Backend::start().await, Backend::start().await];
        let settings = Settings {
            threads: 4,
            ..Settings::default()
        };
        let table = snapshot(&[&backends[0], &backends[1]], vec![split(BOTH, ONE)]);
        let gateway = Gateway::with(table, settings);
        Self { backends, gateway }
    }

    /// Ask on a connection of its own.
    async fn ask(&self, parameters: &[(&str, Value<'_>)]) -> Answer {
        self.ask_at("", parameters).await
    }

    async fn ask_at(&self, reference: &str, parameters: &[(&str, Value<'_>)]) -> Answer {
        let frame = message(reference, parameters, 10);
        self.gateway
            .client()
            .await
            .call(INFER, &[], &[&frame])
            .await
    }

    /// Ask; gives the version and the backend that answered.
    async fn served(&self, parameters: &[(&str, Value<'_>)]) -> (String, usize) {
        let before = self.backends[1].seen().len();
        let answer = self.ask(parameters).await;
        assert_eq!(0, answer.code(), "{}", answer.text());
        let at = self.backends[1].seen().len() - before;
        (answer.names().1, at)
    }

    fn open(&self) -> u64 {
        let counters = self.gateway.published.counters();
        counters.queues.iter().map(|queue| queue.sequences).sum()
    }
}

#[tokio::test]
async fn a_sequence_stays_where_it_began_through_a_change_of_weights() {
    let world = World::new().await;
    let at = world.served(&[SEVEN, START]).await;

    world.gateway.put(split(BOTH, OTHER));

    for _ in 0..20 {
        assert_eq!(at, world.served(&[SEVEN]).await);
    }
    assert_eq!("2", world.served(&[]).await.0);
    assert_eq!(21, world.gateway.counted("digits", "stable", 0));
    assert_eq!(at, world.served(&[END, SEVEN]).await);
    assert_eq!("2", world.served(&[START, SEVEN]).await.0);
}

#[tokio::test]
async fn sequences_spread_over_the_backends_and_each_keeps_its_own() {
    let world = World::new().await;
    let mut at = Vec::new();
    for n in 1..=12 {
        at.push(world.served(&[number(n), START]).await);
    }

    assert!(at.iter().any(|at| at.1 == 0) && at.iter().any(|at| at.1 == 1));
    for (before, place) in at.iter().enumerate().rev() {
        assert_eq!(*place, world.served(&[number(before as i64 + 1)]).await);
    }
}

#[tokio::test]
async fn a_number_and_a_text_are_two_sequences_and_zero_is_none() {
    let world = World::new().await;
    world.served(&[SEVEN, START]).await;
    world.served(&[number(0), START]).await;
    world.served(&[id(""), START]).await;
    world.gateway.put(split(BOTH, OTHER));
    world.served(&[id("7"), START]).await;

    assert_eq!(2, world.open());
    assert_eq!("1", world.served(&[SEVEN]).await.0);
    assert_eq!("2", world.served(&[id("7")]).await.0);
    assert_eq!("2", world.served(&[number(0)]).await.0);
}

#[tokio::test]
async fn a_sequence_that_never_began_goes_as_any_request_does() {
    let world = World::new().await;
    world.gateway.put(split(BOTH, OTHER));

    assert_eq!("2", world.served(&[SEVEN]).await.0);

    world.gateway.put(split(BOTH, ONE));
    assert_eq!("1", world.served(&[SEVEN]).await.0);
    assert_eq!(0, world.open());
}

#[tokio::test]
async fn a_sequence_whose_backend_is_gone_fails_and_goes_nowhere_else() {
    let world = World::new().await;
    let (_, at) = world.served(&[SEVEN, START]).await;
    let left: &[&str] = if at == 0 { &["t1"] } else { &["t0"] };

    world.gateway.put(split([left, left], ONE));

    for _ in 0..2 {
        let answer = world.ask(&[SEVEN]).await;
        assert_eq!(9, answer.code());
        let text = answer.text();
        assert!(text.contains("sequence 7 to model 'digits'"), "{text}");
        assert!(text.contains("START flag"), "{text}");
    }
    assert_eq!(2, world.gateway.counted("digits", "stable", 9));
    assert_eq!(
        ("1".to_owned(), 1 - at),
        world.served(&[SEVEN, START]).await
    );
    assert_eq!(("1".to_owned(), 1 - at), world.served(&[SEVEN]).await);
}

#[tokio::test]
async fn a_sequence_whose_version_is_gone_fails() {
    let world = World::new().await;
    world.served(&[SEVEN, START]).await;

    let mut without = split(BOTH, OTHER);
    without.versions.remove(0);
    without.arms.remove(0);
    world.gateway.put(without);

    assert_eq!(9, world.ask(&[SEVEN]).await.code());
}

#[tokio::test]
async fn a_sequence_of_a_reference_stays_when_that_moves() {
    let world = World::new().await;
    let pointing = |to: &str| ModelSpec {
        pointers: vec![PointerSpec {
            kind: "alias".to_owned(),
            name: "champion".to_owned(),
            version: to.to_owned(),
        }],
        ..split(BOTH, ONE)
    };
    world.gateway.put(pointing("2"));
    let begun = world.ask_at("@champion", &[SEVEN, START]).await;
    assert_eq!("2", begun.names().1);
    // The split's sequence of the same id is another one.
    assert_eq!("1", world.ask(&[SEVEN, START]).await.names().1);

    world.gateway.put(pointing("1"));

    assert_eq!("2", world.ask_at("@champion", &[SEVEN]).await.names().1);
    assert_eq!(
        "1",
        world
            .ask_at("@champion", &[id("new"), START])
            .await
            .names()
            .1
    );
    assert_eq!("1", world.ask(&[SEVEN]).await.names().1);
}

#[tokio::test]
async fn an_idle_sequence_is_forgotten_and_no_longer_counted() {
    let world = World::new().await;
    let mut model = split(BOTH, ONE);
    model.versions[0].sequence_idle_us = 20_000;
    world.gateway.put(model);
    world.served(&[SEVEN, START]).await;

    until("the sequence is forgotten", || world.open() == 0).await;
    world.gateway.put(split(BOTH, OTHER));

    assert_eq!("2", world.served(&[SEVEN]).await.0);
}

#[tokio::test]
async fn a_sequence_in_a_large_message_is_seen_before_its_tensors() {
    let world = World::new().await;
    let (version, _) = world.served(&[SEVEN, START]).await;
    world.gateway.put(split(BOTH, OTHER));
    let client = world.gateway.client().await;
    let large = message("", &[SEVEN], 300_000);
    let pieces: Vec<&[u8]> = large.chunks(10_000).collect();

    let answer = client.call(INFER, &[], &pieces).await;

    assert_eq!((0, version), (answer.code(), answer.names().1));
}

#[tokio::test]
async fn a_sequence_that_begins_cold_waits_and_then_has_one_backend() {
    let world = World::new().await;
    world.gateway.put(cold("digits"));
    let (first, second, ()) = tokio::join!(
        world.ask(&[SEVEN, START]),
        async {
            // The other one's start is there first.
            until("one waits", || {
                let counters = world.gateway.published.counters();
                counters.queues.iter().any(|queue| queue.waiting == 1)
            })
            .await;
            world.ask(&[SEVEN]).await
        },
        async {
            until("both wait", || {
                let counters = world.gateway.published.counters();
                counters.queues.iter().any(|queue| queue.waiting == 2)
            })
            .await;
            world.gateway.put(split(BOTH, ONE));
        }
    );

    assert_eq!((0, 0), (first.code(), second.code()));
    let seen = world
        .backends
        .each_ref()
        .map(|backend| backend.seen().len());
    assert!(seen == [2, 0] || seen == [0, 2], "{seen:?}");
}

/// Version of a stream's answer.
fn told(message: &[u8]) -> String {
    let fields = stagegate_wire::fields::Fields::new(message).map(Result::unwrap);
    let last = fields.filter(|field| field.is(2)).last().unwrap();
    let names = scan_message(last.payload).unwrap();
    String::from_utf8(names.version.to_vec()).unwrap()
}

#[tokio::test]
async fn the_messages_of_a_stream_follow_their_sequences() {
    let world = World::new().await;
    let (_, at) = world.served(&[SEVEN, START]).await;
    world.gateway.put(split(BOTH, OTHER));
    let client = world.gateway.client().await;
    let mut call = client.begin(STREAM, &[]).await;
    let (mut versions, mut held) = (Vec::new(), Vec::new());
    let before = world.backends[at].seen().len();

    call.send_all(&message("", &[SEVEN], 1), false).await;
    let (_, headers, mut body) = call.head().await.unwrap();
    versions.push(told(&next_message(&mut body, &mut held).await.unwrap()));
    for parameters in [
        &[][..],
        &[SEVEN],
        &[id("new"), START],
        &[id("new"), END],
        &[SEVEN, END],
        &[SEVEN],
    ] {
        call.send_all(&message("", parameters, 1), false).await;
        versions.push(told(&next_message(&mut body, &mut held).await.unwrap()));
    }
    call.send_all(&[], true).await;
    assert!(next_message(&mut body, &mut held).await.is_none());

    assert_eq!(vec!["1", "2", "1", "2", "2", "1", "2"], versions);
    assert_eq!("1", headers["stagegate-version"]);
    assert!(world.backends[at].seen().len() > before);
    until("all are released", || world.open() == 0).await;
}

#[tokio::test]
async fn a_lost_sequence_is_told_in_the_stream_and_the_stream_goes_on() {
    let world = World::new().await;
    let (_, at) = world.served(&[SEVEN, START]).await;
    let left: &[&str] = if at == 0 { &["t1"] } else { &["t0"] };
    world.gateway.put(split([left, left], ONE));
    let client = world.gateway.client().await;
    let mut call = client.begin(STREAM, &[]).await;
    let mut held = Vec::new();

    call.send_all(&message("", &[SEVEN], 1), false).await;
    let (_, _, mut body) = call.head().await.unwrap();
    let refused = next_message(&mut body, &mut held).await.unwrap();
    call.send_all(&message("", &[SEVEN, START], 1), false).await;
    let answer = next_message(&mut body, &mut held).await.unwrap();

    let error = stagegate_wire::stream::peek(&refused)
        .unwrap()
        .error
        .to_vec();
    assert!(String::from_utf8(error).unwrap().contains("START flag"));
    assert_eq!("1", told(&answer));
}

/// What was refused was not begun; but the sequence began at this backend, and is tried there again.
#[tokio::test]
async fn a_refused_sequence_of_a_stream_goes_to_its_own_backend_again() {
    let world = World::new().await;
    let all: Vec<u8> = [&[SEVEN, START][..], &[SEVEN], &[SEVEN, END]]
        .iter()
        .flat_map(|parameters| message("", parameters, 1))
        .collect();

    let client = world.gateway.client().await;
    let answer = client
        .call(STREAM, &[("x-do", "refuse-once")], &[&all])
        .await;

    assert_eq!((0, 3), (answer.code(), answer.messages().len()));
    assert!(answer.messages().iter().all(|answer| told(answer) == "1"));
    let counters = world.gateway.published.counters();
    assert_eq!(3, counters.retries.iter().map(|c| c.count).sum::<u64>());
    until("it is released", || world.open() == 0).await;
}
