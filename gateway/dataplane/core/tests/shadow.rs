//! Copies for shadows: what they get, what is given up, and that no client ever notices.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use common::{framed, request, snapshot, snapshot_at, until, version, Backend, Gateway, INFER};
use stagegate_core::Settings;
use stagegate_table::counters::{ShadowResult, Uncompared};
use stagegate_table::spec::{ArmSpec, ModelSpec, ShadowSpec, VersionSpec};
use stagegate_wire::encode::put_len;
use stagegate_wire::names::scan_message;

const PRIMARY: &str = "t0";
const SHADOW: &str = "t1";

/// Version 1 answers; the shadow `next` is version 2.
fn model(shadow: VersionSpec) -> ModelSpec {
    ModelSpec {
        name: "digits".to_owned(),
        versions: vec![version("digits", "ready", &[PRIMARY]), shadow],
        arms: vec![ArmSpec {
            name: "stable".to_owned(),
            version: "1".to_owned(),
            weight: 10_000,
        }],
        shadows: vec![ShadowSpec {
            name: "next".to_owned(),
            version: "2".to_owned(),
            sample: 10_000,
        }],
        ..ModelSpec::default()
    }
}

fn second(state: &str, backends: &[&str]) -> VersionSpec {
    VersionSpec {
        version: "2".to_owned(),
        backend_model: "digits.2.def".to_owned(),
        ..version("digits", state, backends)
    }
}

/// Nothing is given up because the machine was slow.
fn patient() -> Settings {
    Settings {
        shadow_lag_ms: 60_000,
        shadow_busy_percent: u32::MAX,
        shadow_deadline_ms: 60_000,
        ..Settings::default()
    }
}

struct Pair {
    primary: Backend,
    shadow: Backend,
    gateway: Gateway,
}

async fn start_with(settings: Settings, model: ModelSpec) -> Pair {
    let (primary, shadow) = (Backend::start().await, Backend::start().await);
    let gateway = Gateway::with(snapshot(&[&primary, &shadow], vec![model]), settings);
    Pair {
        primary,
        shadow,
        gateway,
    }
}

async fn start(settings: Settings) -> Pair {
    start_with(settings, model(second("ready", &[SHADOW]))).await
}

fn counted(gateway: &Gateway, result: ShadowResult) -> u64 {
    let counters = gateway.published.counters();
    let results = counters.shadows.iter().map(|shadow| shadow.totals.results);
    results.map(|results| results[result as usize]).sum()
}

fn sampled(gateway: &Gateway) -> u64 {
    let results = ShadowResult::ALL.map(|result| counted(gateway, result));
    results.iter().sum()
}

fn uncompared(gateway: &Gateway, why: Uncompared) -> u64 {
    let counters = gateway.published.counters();
    let shadows = counters.shadows.iter();
    shadows
        .map(|shadow| shadow.totals.uncompared[why as usize])
        .sum()
}

async fn until_counted(gateway: &Gateway, result: ShadowResult, count: u64) {
    until(&format!("{count} x {}", result.word()), || {
        counted(gateway, result) == count
    })
    .await;
}

/// The shadow gets the request under its own name and marked as a copy, without what proves who the
/// client is; the client gets the answer of its arm and nothing of the shadow.
#[tokio::test]
async fn a_copy_is_the_request_and_the_client_sees_only_its_own_answer() {
    let pair = start(patient()).await;
    let headers = [
        ("authorization", "Bearer secret"),
        ("cookie", "a=b"),
        ("x-mine", "kept"),
        ("stagegate-key", "ann"),
    ];

    let answer = pair.gateway.client().await.infer("digits", &headers).await;
    until_counted(&pair.gateway, ShadowResult::Ok, 1).await;

    assert_eq!(
        (0, ("digits".to_owned(), "1".to_owned())),
        (answer.code(), answer.names())
    );
    assert_eq!("stable", answer.headers["stagegate-arm"]);
    let (first, copy) = (pair.primary.last(), pair.shadow.last());
    let message = request("digits", "", 100);
    assert!(copy.body[5..].starts_with(&message) && copy.ended_well);
    assert_eq!(
        b"digits.2.def",
        scan_message(&copy.body[5..]).unwrap().model
    );
    assert_eq!("next", copy.headers["stagegate-shadow"]);
    assert_eq!("kept", copy.headers["x-mine"]);
    for secret in ["authorization", "cookie", "stagegate-key"] {
        assert!(!copy.headers.contains_key(secret), "{secret}");
    }
    assert!(first.headers.contains_key("authorization"));
    assert!(!first.headers.contains_key("stagegate-shadow"));
    assert_eq!(
        (1, 1),
        (pair.primary.seen().len(), pair.shadow.seen().len())
    );
    assert_eq!(1, pair.gateway.counted("digits", "stable", 0));
    assert_eq!(1, pair.gateway.counted("digits", "next", 0));
    let backends = pair.gateway.published.counters().backends;
    let times = backends.iter().map(|b| (&*b.version, &*b.backend));
    assert_eq!(vec![("1", "t0"), ("2", "t1")], times.collect::<Vec<_>>());
}

/// Both answers come to the control plane, plain, with the token that the client has.
#[tokio::test]
async fn both_answers_are_handed_over_for_comparison() {
    for how in ["", "gzip", "split"] {
        let pair = start(patient()).await;
        let headers = [("x-do", how), ("x-do-copy", how)];

        let answer = pair.gateway.client().await.infer("digits", &headers).await;
        until_counted(&pair.gateway, ShadowResult::Ok, 1).await;

        let pairs = pair.gateway.dataplane.pairs().take(10);
        let [compared] = &pairs[..] else {
            panic!("{how}: {pairs:?}")
        };
        assert_eq!(
            ("digits", "1", "next", "2"),
            (
                &*compared.model,
                &*compared.version,
                &*compared.shadow,
                &*compared.shadow_version
            )
        );
        assert_eq!(
            answer.headers["stagegate-request"],
            compared.request.as_str()
        );
        let name = |message: &[u8]| scan_message(message).unwrap().model.to_vec();
        assert_eq!(b"digits.1.abc".to_vec(), name(&compared.primary), "{how}");
        assert_eq!(b"digits.2.def".to_vec(), name(&compared.copy), "{how}");
        assert!(pair.gateway.dataplane.pairs().take(10).is_empty());
    }
}

/// Messages of several frames and of the largest size that is kept arrive whole.
#[tokio::test]
async fn large_requests_are_copied_whole_up_to_the_cap() {
    let pair = start(patient()).await;
    let client = pair.gateway.client().await;
    for (count, size) in (1..).zip([60_000, 70_000, 1_000_000]) {
        let message = request("digits", "", size);

        client.call(INFER, &[], &[&framed(&message)]).await;

        until("the copy arrives", || pair.shadow.seen().len() == count).await;
        assert!(pair.shadow.last().body[5..].starts_with(&message), "{size}");
    }
    let message = framed(&request("digits", "", (1 << 20) + 1));
    assert_eq!(0, client.call(INFER, &[], &[&message]).await.code());
    until_counted(&pair.gateway, ShadowResult::TooLarge, 1).await;
    assert_eq!(4, sampled(&pair.gateway));
}

/// Answers beyond the cap reach the client whole, and are not compared.
#[tokio::test]
async fn answers_beyond_the_cap_are_not_compared() {
    let pair = start(patient()).await;
    let client = pair.gateway.client().await;
    let large = format!("large={}", 3 << 20);

    for headers in [[("x-do", &*large)], [("x-do-copy", &*large)]] {
        assert_eq!(0, client.infer("digits", &headers).await.code());
    }

    until_counted(&pair.gateway, ShadowResult::Ok, 2).await;
    assert_eq!(2, uncompared(&pair.gateway, Uncompared::TooLarge));
    assert!(pair.gateway.dataplane.pairs().take(10).is_empty());
}

/// A pinned version and a part of a sequence are never copied; nor is what was not sampled.
#[tokio::test]
async fn what_is_not_to_be_copied_is_not() {
    let mut never = model(second("ready", &[SHADOW]));
    never.shadows[0].sample = 0;
    let mut sequence = request("digits", "", 10);
    let mut parameter = Vec::new();
    put_len(&mut parameter, 1, b"sequence_id");
    put_len(&mut parameter, 2, b"\x10\x07");
    put_len(&mut sequence, 4, &parameter);
    let always = || model(second("ready", &[SHADOW]));
    for (what, model, message) in [
        ("pinned", always(), request("digits@1", "", 10)),
        ("sequence", always(), sequence),
        ("not sampled", never, request("digits", "", 10)),
    ] {
        let pair = start_with(patient(), model).await;
        let client = pair.gateway.client().await;

        for _ in 0..20 {
            let answer = client.call(INFER, &[], &[&framed(&message)]).await;
            assert_eq!(0, answer.code(), "{what}: {}", answer.text());
        }

        assert_eq!(0, sampled(&pair.gateway), "{what}");
        assert!(pair.shadow.seen().is_empty(), "{what}");
    }
}

/// About as many are copied as the sample says.
#[tokio::test]
async fn a_sample_is_a_share() {
    let mut model = model(second("ready", &[SHADOW]));
    model.shadows[0].sample = 2_500;
    let pair = start_with(patient(), model).await;
    let client = pair.gateway.client().await;

    for _ in 0..400 {
        assert_eq!(0, client.infer("digits", &[]).await.code());
    }

    let sampled = sampled(&pair.gateway);
    // Seven standard errors: never by chance.
    assert!((40..=160).contains(&sampled), "{sampled}");
}

/// Whatever the shadow does, clients get their answers and nothing else.
#[tokio::test]
async fn a_broken_shadow_is_counted_and_noticed_by_nobody() {
    let pair = start(patient()).await;
    let client = pair.gateway.client().await;
    let broken = ["error", "http=500", "reset=2", "no-trailers", "cut"];

    for (count, how) in (1..).zip(broken) {
        let answer = client.infer("digits", &[("x-do-copy", how)]).await;

        assert_eq!((0, "1"), (answer.code(), &*answer.names().1), "{how}");
        until_counted(&pair.gateway, ShadowResult::Error, count).await;
    }

    assert_eq!(5, sampled(&pair.gateway));
    assert_eq!(5, pair.gateway.counted("digits", "stable", 0));
    assert_eq!(0, pair.gateway.counted("digits", "next", 0));
    assert!(pair.gateway.dataplane.pairs().take(10).is_empty());
}

/// A shadow that hangs is given up at the copy's own deadline, which it is told; no client waits for it.
#[tokio::test]
async fn a_hanging_shadow_holds_up_nobody_and_is_given_up() {
    let settings = Settings {
        shadow_deadline_ms: 300,
        ..patient()
    };
    let pair = start(settings).await;
    let client = pair.gateway.client().await;

    for _ in 0..5 {
        let answer = client.infer("digits", &[("x-do-copy", "wait")]).await;
        assert_eq!(0, answer.code());
    }

    until_counted(&pair.gateway, ShadowResult::Timeout, 5).await;
    until("all were cancelled", || pair.shadow.cancelled() == 5).await;
    let told = pair.shadow.last().headers["grpc-timeout"].clone();
    let told = told.to_str().unwrap().trim_end_matches(char::is_alphabetic);
    assert!(told.parse::<u64>().unwrap() <= 300_000, "{told}");
    assert_eq!(5, pair.gateway.counted("digits", "next", 4));
}

/// A shadow that cannot be connected to is counted apart from one that answers badly.
#[tokio::test]
async fn a_shadow_that_is_away_is_unreachable() {
    let primary = Backend::start().await;
    let addresses = [primary.address(), "127.0.0.1:1".to_owned()];
    let model = model(second("ready", &[SHADOW]));
    let gateway = Gateway::with(snapshot_at(&addresses, vec![model]), patient());
    let client = gateway.client().await;

    for _ in 0..3 {
        assert_eq!(0, client.infer("digits", &[]).await.code());
    }

    until_counted(&gateway, ShadowResult::Unreachable, 3).await;
    assert_eq!(0, gateway.counted("digits", "next", 14));
}

/// A cold shadow is asked for by nobody, and a copy never waits for a load.
#[tokio::test]
async fn a_cold_shadow_gets_nothing_and_asks_for_no_load() {
    let pair = start_with(patient(), model(second("cold", &[]))).await;
    let client = pair.gateway.client().await;

    for _ in 0..3 {
        assert_eq!(0, client.infer("digits", &[]).await.code());
    }

    assert_eq!(3, counted(&pair.gateway, ShadowResult::NotReady));
    assert!(pair.gateway.dataplane.events().drain().is_empty());
}

/// What waits for its turn when its shadow leaves the route is given up.
#[tokio::test]
async fn a_copy_does_not_outlive_its_shadow_in_the_route() {
    let settings = Settings {
        shadow_concurrency: 1,
        ..patient()
    };
    let pair = start(settings).await;
    let client = pair.gateway.client().await;
    client.infer("digits", &[("x-do-copy", "sleep=300")]).await;
    until("the first is under way", || pair.shadow.seen().len() == 1).await;
    client.infer("digits", &[]).await;

    let mut without = model(second("ready", &[SHADOW]));
    without.shadows.clear();
    pair.gateway.put(without);

    until_counted(&pair.gateway, ShadowResult::NotReady, 1).await;
    assert_eq!(1, counted(&pair.gateway, ShadowResult::Ok));
    assert_eq!(1, pair.shadow.seen().len());
}

/// The queue is bounded: what comes on top is given up at once, and what waits is sent later.
#[tokio::test]
async fn the_queue_is_bounded() {
    let settings = Settings {
        shadow_concurrency: 1,
        shadow_queue: 2,
        ..patient()
    };
    let pair = start(settings).await;
    let client = pair.gateway.client().await;
    client.infer("digits", &[("x-do-copy", "sleep=500")]).await;
    until("one is under way", || pair.shadow.seen().len() == 1).await;

    for _ in 0..6 {
        assert_eq!(0, client.infer("digits", &[]).await.code());
    }

    assert_eq!(4, counted(&pair.gateway, ShadowResult::QueueFull));
    until_counted(&pair.gateway, ShadowResult::Ok, 3).await;
    assert_eq!(3, pair.shadow.seen().len());
}

/// The bytes that copies hold are bounded; they come back when a copy ends.
#[tokio::test]
async fn the_bytes_of_copies_are_bounded_and_given_back() {
    let settings = Settings {
        shadow_bytes: 120_000,
        ..patient()
    };
    let pair = start(settings).await;
    let client = pair.gateway.client().await;
    let message = framed(&request("digits", "", 50_000));
    let slow = [("x-do-copy", "sleep=500")];
    for _ in 0..4 {
        assert_eq!(0, client.call(INFER, &slow, &[&message]).await.code());
    }
    assert_eq!(2, counted(&pair.gateway, ShadowResult::Bytes));
    until_counted(&pair.gateway, ShadowResult::Ok, 2).await;

    assert_eq!(0, client.call(INFER, &[], &[&message]).await.code());

    until_counted(&pair.gateway, ShadowResult::Ok, 3).await;
}

/// A thread that comes too late gives its copies up before anything else, and samples none for a while.
#[tokio::test]
async fn copies_are_given_up_first_when_the_thread_is_behind() {
    let settings = Settings {
        shadow_lag_ms: 0,
        ..patient()
    };
    let pair = start(settings).await;
    let client = pair.gateway.client().await;

    for _ in 0..10 {
        assert_eq!(0, client.infer("digits", &[]).await.code());
    }

    until_counted(&pair.gateway, ShadowResult::Overload, 10).await;
    assert!(pair.shadow.seen().is_empty());
}

/// A thread that has no time left for anything more gives its copies up as well.
#[tokio::test]
async fn copies_are_given_up_first_when_the_thread_is_busy() {
    let settings = Settings {
        shadow_busy_percent: 0,
        ..patient()
    };
    let pair = start(settings).await;
    let client = pair.gateway.client().await;

    let mut asked = 0;
    while counted(&pair.gateway, ShadowResult::Overload) == 0 {
        assert_eq!(0, client.infer("digits", &[]).await.code());
        asked += 1;
        assert!(asked < 100_000, "never found busy");
    }

    until("all are accounted for", || sampled(&pair.gateway) == asked).await;
}

/// A request that failed is not repeated at the shadow, whoever it failed by.
#[tokio::test]
async fn a_failed_request_is_not_copied() {
    let pair = start(patient()).await;
    let client = pair.gateway.client().await;

    assert_eq!(3, client.infer("digits", &[("x-do", "error")]).await.code());
    let mut gone = client.begin(INFER, &[("x-do", "wait")]).await;
    gone.send_all(&framed(&request("digits", "", 10)), true)
        .await;
    until("it is under way", || pair.primary.seen().len() == 2).await;
    gone.reset();

    until_counted(&pair.gateway, ShadowResult::PrimaryFailed, 2).await;
    assert!(pair.shadow.seen().is_empty());
}

/// A client that leaves after its answer does not take the copy with it.
#[tokio::test]
async fn a_copy_outlives_its_client() {
    let pair = start(patient()).await;
    let client = pair.gateway.client().await;

    client.infer("digits", &[("x-do-copy", "sleep=200")]).await;
    client.connection.abort();
    drop(client);

    until_counted(&pair.gateway, ShadowResult::Ok, 1).await;
    assert_eq!(0, pair.shadow.cancelled());
}

/// Whatever ends early on either side, nothing stays in flight and every byte is given back.
#[tokio::test]
async fn nothing_leaks_when_clients_and_shadows_break_off() {
    let settings = Settings {
        shadow_bytes: 1_000_000,
        ..patient()
    };
    let pair = start(settings).await;
    let client = pair.gateway.client().await;
    let message = framed(&request("digits", "", 10_000));
    let ways = ["", "reset=2", "cut", "error", "large=100000", "sleep=5"];
    for at in 0..120 {
        let headers = [("x-do", ways[at % 6]), ("x-do-copy", ways[at / 6 % 6])];
        let mut call = client.begin(INFER, &headers).await;
        call.send_all(&message, true).await;
        if at % 7 == 0 {
            call.reset();
        } else {
            let _ = call.answer().await;
        }
    }

    until("all are accounted for", || {
        let arms = pair.gateway.published.counters().arms;
        let ended = |name: &str| -> u64 {
            let codes = arms.iter().filter(|arm| arm.arm == name);
            codes.flat_map(|arm| arm.codes).sum()
        };
        let sent: u64 = [ShadowResult::Ok, ShadowResult::Error]
            .map(|result| counted(&pair.gateway, result))
            .iter()
            .sum();
        // Those that were reset before they were read belong to no arm.
        arms.iter().all(|arm| arm.inflight == 0)
            && ended("stable") + ended("") == 120
            && ended("stable") == sampled(&pair.gateway)
            && ended("next") == sent
    })
    .await;
    let before = counted(&pair.gateway, ShadowResult::Ok);
    let large = framed(&request("digits", "", 990_000));
    assert_eq!(0, client.call(INFER, &[], &[&large]).await.code());
    until_counted(&pair.gateway, ShadowResult::Ok, before + 1).await;
    assert_eq!(0, counted(&pair.gateway, ShadowResult::Bytes));
}

/// The end of the gateway waits for no copy.
#[tokio::test]
async fn a_drain_waits_for_no_copy() {
    let pair = start(patient()).await;
    let client = pair.gateway.client().await;
    client.infer("digits", &[("x-do-copy", "wait")]).await;
    until("it is under way", || pair.shadow.seen().len() == 1).await;

    pair.gateway
        .dataplane
        .drain(std::time::Duration::from_mins(1));

    until("it is drained", || pair.gateway.dataplane.drained()).await;
    pair.gateway.dataplane.stop();
    until("the copy is over", || pair.shadow.connections() == 0).await;
}

/// A version of which its backends work on one at a time.
fn of_one(version: VersionSpec) -> VersionSpec {
    VersionSpec {
        capacity: 1,
        ..version
    }
}

/// Copies take the places that clients leave: where they leave none for a while, a copy is given up; where
/// they do in time, it is sent.
#[tokio::test]
async fn clients_of_the_shadows_version_come_first() {
    let pair = start_with(patient(), model(of_one(second("ready", &[SHADOW])))).await;
    let client = pair.gateway.client().await;
    let mut busy = client.begin(INFER, &[("x-do", "wait")]).await;
    busy.send_all(&framed(&request("digits@2", "", 10)), true)
        .await;
    until("it is busy", || pair.shadow.seen().len() == 1).await;

    assert_eq!(0, client.infer("digits", &[]).await.code());
    until_counted(&pair.gateway, ShadowResult::Overload, 1).await;
    assert_eq!(0, client.infer("digits", &[]).await.code());
    busy.reset();

    until_counted(&pair.gateway, ShadowResult::Ok, 1).await;
    assert_eq!(2, pair.shadow.seen().len());
}

/// While clients wait in the queue of their own version, nothing is copied.
#[tokio::test]
async fn nothing_is_copied_while_clients_wait_for_their_version() {
    let mut model = model(second("ready", &[SHADOW]));
    model.versions[0] = of_one(model.versions[0].clone());
    let pair = start_with(patient(), model).await;
    let client = pair.gateway.client().await;
    let slow = [("x-do", "sleep=100")];

    let answers = tokio::join!(
        client.infer("digits", &slow),
        client.infer("digits", &slow),
        client.infer("digits", &slow),
        client.infer("digits", &slow),
        client.infer("digits", &slow),
        client.infer("digits", &slow),
    );

    let answers = [
        answers.0, answers.1, answers.2, answers.3, answers.4, answers.5,
    ];
    assert!(answers.iter().all(|answer| answer.code() == 0));
    until("all are accounted for", || sampled(&pair.gateway) == 6).await;
    let given_up = counted(&pair.gateway, ShadowResult::Overload);
    assert!((1..=5).contains(&given_up), "{given_up}");
    assert_eq!(6 - given_up, counted(&pair.gateway, ShadowResult::Ok));
}
