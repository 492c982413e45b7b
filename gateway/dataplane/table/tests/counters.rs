//! Counters over threads, deltas and the end of series; and waiting for cold versions.

#![allow(clippy::unwrap_used)]

mod common;

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use common::{arm, delta, model, shadow, snapshot};
use stagegate_table::counters::{RetryReason, ShadowResult, Uncompared};
use stagegate_table::spec::ModelSpec;
use stagegate_table::{pick, Counters, Fault, Published, Table, ThreadCounters};

fn published(models: Vec<ModelSpec>) -> Arc<Published> {
    let published = Published::new();
    published.publish(snapshot(1, models)).unwrap();
    published
}

fn request(counters: &mut ThreadCounters, table: &Table, version: &[u8], code: u8) {
    let picked = pick(table, b"m", version, || 0).unwrap();
    let series = counters.series(&picked);
    series.start();
    series.finish(code, 700);
}

/// (version, arm, ended requests) of each series.
fn totals(counters: &Counters) -> Vec<(&str, &str, u64)> {
    counters
        .arms
        .iter()
        .map(|c| (&*c.version, &*c.arm, c.codes.iter().sum()))
        .collect()
}

fn put(published: &Published, spec: ModelSpec) {
    let mut change = delta(published.load().revision);
    change.put_models = vec![spec];
    published.publish_delta(change).unwrap();
}

#[test]
fn nothing_is_counted_before_the_first_request() {
    let published = published(vec![model("m")]);
    let _counters = published.thread_counters();

    let read = published.counters();

    assert_eq!(
        Counters {
            revision: 1,
            ..Counters::default()
        },
        read
    );
}

#[test]
fn threads_are_added_up() {
    let published = published(vec![model("m")]);
    let threads: Vec<_> = (0..4)
        .map(|_| {
            let published = Arc::clone(&published);
            std::thread::spawn(move || {
                let (mut counters, table) = (published.thread_counters(), published.load());
                for _ in 0..1_000 {
                    request(&mut counters, &table, b"", 0);
                    request(&mut counters, &table, b"2", 14);
                }
            })
        })
        .collect();
    for thread in threads {
        thread.join().unwrap();
    }

    let read = published.counters();

    assert_eq!(
        vec![("2", "pinned", 4_000), ("3", "stable", 4_000)],
        totals(&read)
    );
    assert_eq!(
        (4_000, 4_000),
        (read.arms[0].codes[14], read.arms[1].codes[0])
    );
    assert_eq!(
        (4_000, 4_000 * 700),
        (read.arms[1].time.counts[1], read.arms[1].time.sum_micros)
    );
}

#[test]
fn requests_under_way_are_in_flight() {
    let published = published(vec![model("m")]);
    let (mut counters, table) = (published.thread_counters(), published.load());
    let picked = pick(&table, b"m", b"", || 0).unwrap();
    let series = Arc::clone(counters.series(&picked));
    series.start();
    series.start();
    series.finish(200, 1);

    let read = published.counters();

    assert_eq!(1, read.arms[0].inflight);
    assert_eq!(
        1, read.arms[0].codes[2],
        "a code that does not exist is UNKNOWN"
    );
}

#[test]
fn counters_go_on_over_deltas() {
    let published = published(vec![model("m")]);
    let mut counters = published.thread_counters();
    for _ in 0..5 {
        request(&mut counters, &published.load(), b"", 0);
        put(&published, model("m"));
    }

    assert_eq!(vec![("3", "stable", 5)], totals(&published.counters()));
}

#[test]
fn an_arm_that_moves_to_another_version_counts_under_that_one() {
    let published = published(vec![model("m")]);
    let mut counters = published.thread_counters();
    request(&mut counters, &published.load(), b"", 0);
    let mut moved = model("m");
    moved.arms = vec![arm("stable", "2", 10_000)];
    put(&published, moved);
    request(&mut counters, &published.load(), b"", 0);

    assert_eq!(
        vec![("2", "stable", 1), ("3", "stable", 1)],
        totals(&published.counters())
    );
}

#[test]
fn counters_never_run_backwards_when_a_model_goes_and_comes_back() {
    let published = published(vec![model("m")]);
    let mut counters = published.thread_counters();
    for round in 1..=20 {
        request(&mut counters, &published.load(), b"", 0);
        assert_eq!(vec![("3", "stable", round)], totals(&published.counters()));
        let mut change = delta(published.load().revision);
        change.drop_models = vec!["m".to_owned()];
        published.publish_delta(change).unwrap();
        assert_eq!(vec![("3", "stable", round)], totals(&published.counters()));
        put(&published, model("m"));
    }
}

#[test]
fn places_of_ended_series_are_used_again_and_never_mixed_up() {
    let published = published(vec![model("m")]);
    let mut threads = [published.thread_counters(), published.thread_counters()];
    for round in 0..50 {
        let mut spec = model("m");
        spec.arms = vec![arm(&format!("arm-{round}"), "3", 10_000)];
        put(&published, spec);
        for (at, thread) in threads.iter_mut().enumerate() {
            for _ in 0..=(round + at) {
                request(thread, &published.load(), b"", 0);
            }
        }
        let _ = published.counters();
    }

    let read = published.counters();

    assert_eq!(50, read.arms.len());
    for counted in &read.arms {
        let round: u64 = counted.arm[4..].parse().unwrap();
        assert_eq!(
            (round + 1) + (round + 2),
            counted.codes[0],
            "{}",
            counted.arm
        );
    }
}

#[test]
fn a_request_that_outlives_its_model_is_still_counted() {
    let published = published(vec![model("m")]);
    let mut counters = published.thread_counters();
    let series = {
        let table = published.load();
        Arc::clone(counters.series(&pick(&table, b"m", b"", || 0).unwrap()))
    };
    series.start();
    let mut change = delta(1);
    change.drop_models = vec!["m".to_owned()];
    published.publish_delta(change).unwrap();
    assert_eq!(1, published.counters().arms[0].inflight);

    series.finish(0, 1);
    drop(series);

    let read = published.counters();
    assert_eq!((1, 0), (read.arms[0].codes[0], read.arms[0].inflight));
}

#[test]
fn refused_requests_count_under_the_model_or_under_unknown() {
    let published = published(vec![model("m")]);
    let (mut counters, table) = (published.thread_counters(), published.load());
    for (name, version) in [("m", "9"), ("nope", ""), ("bad name", "")] {
        let error = pick(&table, name.as_bytes(), version.as_bytes(), || 0).unwrap_err();
        let series = counters.refused(&error);
        series.start();
        series.finish(error.code(), 5);
    }

    let read = published.counters();

    let labels: Vec<_> = read
        .arms
        .iter()
        .map(|c| (&*c.model, &*c.version, &*c.arm, c.codes[3], c.codes[5]))
        .collect();
    assert_eq!(
        vec![("_unknown", "", "", 1, 1), ("m", "", "", 0, 1)],
        labels
    );
}

#[test]
fn backend_and_stream_times_have_their_own_histograms() {
    let published = published(vec![model("m")]);
    let (mut counters, table) = (published.thread_counters(), published.load());
    let picked = pick(&table, b"m", b"", || 0).unwrap();
    let backend = table.backend(picked.version.backends[0]).unwrap();
    for _ in 0..3 {
        let took = (90_000, Instant::now());
        counters.answered(picked.model, picked.version, backend, took);
    }
    counters.series(&picked).streams().first.record(400);
    counters.series(&picked).streams().inter.record(2_000);
    let streams = counters.series(&picked).streams();
    streams.request();
    (0..2).for_each(|_| streams.response());
    (0..3).for_each(|_| streams.error());

    let read = published.counters();

    assert_eq!("t0", read.backends[0].backend);
    assert_eq!(3, read.backends[0].time.counts[7]);
    assert_eq!(
        (1, 1),
        (
            read.streams[0].first.counts[0],
            read.streams[0].inter.counts[2]
        )
    );
    let messages = &read.streams[0];
    assert_eq!(
        (1, 2, 3),
        (messages.requests, messages.responses, messages.errors)
    );
    assert!(read.queues.is_empty());
}

#[test]
fn totals_of_threads_are_added_up() {
    let published = published(vec![]);
    let threads = [published.thread_counters(), published.thread_counters()];
    for thread in &threads {
        thread.totals().connection_opened();
        thread.totals().message_received();
        thread.totals().message_sent();
        thread.totals().message_sent();
        thread.totals().event_dropped();
    }
    threads[0].totals().connection_closed();

    let read = published.counters();

    assert_eq!((1, 2), (read.connections, read.events_dropped));
    assert_eq!((2, 4), (read.messages_received, read.messages_sent));
}

#[test]
fn only_the_first_of_those_who_wait_asks_for_the_load() {
    let published = published(vec![model("m")]);
    let (mut counters, table) = (published.thread_counters(), published.load());
    let picked = pick(&table, b"m", b"1", || 0).unwrap();

    let first = counters.wait(&picked, 10).unwrap();
    let second = counters.wait(&picked, 10).unwrap();

    assert!(first.must_ask() && !second.must_ask());
    first.not_asked();
    assert!(counters.wait(&picked, 10).unwrap().must_ask());
}

#[test]
fn the_queue_of_a_model_is_bounded_over_its_versions() {
    let published = published(vec![model("m")]);
    let (mut counters, table) = (published.thread_counters(), published.load());
    let places: Vec<_> = [b"1", b"2"]
        .iter()
        .map(|version| pick(&table, b"m", *version, || 0).unwrap())
        .map(|picked| counters.wait(&picked, 2).unwrap())
        .collect();
    let picked = pick(&table, b"m", b"1", || 0).unwrap();

    assert!(counters.wait(&picked, 2).is_none());
    assert_eq!(
        (2, 1),
        (picked.model.cell.waiting(), picked.version.cell.waiting())
    );
    assert_eq!(1, published.counters().queues[0].waiting);
    drop(places);

    assert!(counters.wait(&picked, 2).is_some());
    let queues = published.counters().queues;
    assert_eq!(
        vec![2, 1],
        queues
            .iter()
            .map(|queue| queue.time.count())
            .collect::<Vec<_>>()
    );
}

#[test]
fn when_nobody_waits_any_more_the_next_one_asks_again() {
    let published = published(vec![model("m")]);
    let (mut counters, table) = (published.thread_counters(), published.load());
    let picked = pick(&table, b"m", b"1", || 0).unwrap();

    drop(counters.wait(&picked, 1));

    assert!(counters.wait(&picked, 1).unwrap().must_ask());
}

/// Whether requests that wait for version 1 of `m` are woken by a change.
fn woken_by(change: impl FnOnce(&Published)) -> bool {
    let published = published(vec![model("m"), model("other")]);
    let table = published.load();
    let cell = Arc::clone(&pick(&table, b"m", b"1", || 0).unwrap().version.cell);
    let mut changed = pin!(cell.changed());
    let mut context = Context::from_waker(Waker::noop());
    assert!(changed.as_mut().poll(&mut context).is_pending());
    change(&published);
    changed.poll(&mut context) == Poll::Ready(())
}

#[test]
fn who_waits_is_woken_when_the_model_is_put_or_dropped_or_all_is_new() {
    assert!(woken_by(|published| put(published, model("m"))));
    assert!(woken_by(|published| {
        let mut change = delta(1);
        change.drop_models = vec!["m".to_owned()];
        published.publish_delta(change).unwrap();
    }));
    assert!(woken_by(|published| published
        .publish(snapshot(5, vec![]))
        .unwrap()));
    assert!(woken_by(|published| published
        .publish(snapshot(5, vec![model("m")]))
        .unwrap()));
    assert!(!woken_by(|published| put(published, model("other"))));
    assert!(!woken_by(|published| assert!(published
        .publish_delta(delta(9))
        .is_err())));
}

#[test]
fn a_version_that_was_loaded_is_asked_for_again_when_it_turns_cold() {
    let published = published(vec![model("m")]);
    let mut counters = published.thread_counters();
    let table = published.load();
    let held = counters
        .wait(&pick(&table, b"m", b"1", || 0).unwrap(), 10)
        .unwrap();
    let mut ready = model("m");
    ready.versions[0] = common::version("m", "1", "ready");
    put(&published, ready);
    put(&published, model("m"));
    let table = published.load();

    assert!(counters
        .wait(&pick(&table, b"m", b"1", || 0).unwrap(), 10)
        .unwrap()
        .must_ask());
    drop(held);
}

#[test]
fn every_one_of_very_many_series_is_read() {
    let names: Vec<String> = (0..1_300).map(|n| format!("m{n}")).collect();
    let published = published(names.iter().map(|name| model(name)).collect());
    let (mut counters, table) = (published.thread_counters(), published.load());
    for name in &names {
        let picked = pick(&table, name.as_bytes(), b"", || 0).unwrap();
        let series = counters.series(&picked);
        series.start();
        series.finish(0, 1);
    }

    let read = published.counters();

    assert_eq!(1_300, read.arms.len());
    assert!(read.arms.iter().all(|arm| arm.codes[0] == 1));
}

fn with_shadow(version: &str) -> ModelSpec {
    ModelSpec {
        shadows: vec![shadow("next", version, 2_500)],
        ..model("m")
    }
}

fn copy(counters: &mut ThreadCounters, table: &Table) {
    let model = table.model(b"m").unwrap();
    let series = counters.shadow(model, &model.shadows[0]);
    series.start();
    series.finish(0, 700);
    series.shadow().result(ShadowResult::Ok);
    series.shadow().result(ShadowResult::QueueFull);
    series.shadow().uncompared(Uncompared::Busy);
}

#[test]
fn copies_count_under_the_name_of_their_shadow_and_by_result() {
    let published = published(vec![with_shadow("2")]);
    let mut counters = [published.thread_counters(), published.thread_counters()];
    for counters in &mut counters {
        copy(counters, &published.load());
    }

    let read = published.counters();

    assert_eq!(vec![("2", "next", 2)], totals(&read));
    let [shadow] = &read.shadows[..] else {
        panic!("{:?}", read.shadows)
    };
    assert_eq!(
        ("m", "2", "next"),
        (&*shadow.model, &*shadow.version, &*shadow.shadow)
    );
    assert_eq!(2, shadow.totals.results[ShadowResult::Ok as usize]);
    assert_eq!(2, shadow.totals.results[ShadowResult::QueueFull as usize]);
    assert_eq!(4, shadow.totals.results.iter().sum::<u64>());
    assert_eq!(2, shadow.totals.uncompared[Uncompared::Busy as usize]);
}

#[test]
fn numbers_of_a_shadow_that_is_gone_are_kept() {
    let published = published(vec![with_shadow("2")]);
    let mut counters = published.thread_counters();
    copy(&mut counters, &published.load());

    put(&published, model("m"));

    let before = published.counters().shadows;
    assert_eq!(1, before[0].totals.results[ShadowResult::Ok as usize]);
    put(&published, with_shadow("2"));
    copy(&mut counters, &published.load());
    let after = published.counters().shadows;
    assert_eq!(2, after[0].totals.results[ShadowResult::Ok as usize]);
}

#[test]
fn retries_and_fallbacks_are_counted_by_what_they_came_from() {
    let published = published(vec![model("m")]);
    let (mut counters, table) = (published.thread_counters(), published.load());
    let picked = pick(&table, b"m", b"", || 0).unwrap();
    for reason in [RetryReason::Gone, RetryReason::Broken, RetryReason::Gone] {
        counters.retried(picked.model, picked.version, reason);
    }
    counters.series(&picked).fell_back(14);

    let read = published.counters();

    let retries: Vec<_> = read.retries.iter().map(|r| (r.reason, r.count)).collect();
    assert_eq!(vec![("gone", 2), ("broken", 1)], retries);
    assert_eq!(1, read.fallbacks[0].codes[14]);
    assert_eq!(picked.arm_name(), read.fallbacks[0].arm);
}

#[test]
fn an_ejected_backend_is_shown_until_it_is_back() {
    let published = published(vec![model("m")]);
    let (counters, table) = (published.thread_counters(), published.load());
    let picked = pick(&table, b"m", b"", || 0).unwrap();
    let backend = table.backend(picked.version.backends[0]).unwrap();
    let (health, now) = (&picked.version.cell.health, Instant::now());
    let fault = (Fault::Failed, "it broke");
    let ejection = (0..5).filter_map(|_| health.failed(backend.id, fault, &[backend.id], now, 0.0));
    assert!(ejection.last().unwrap().begins);
    counters.note_ejected(picked.model, picked.version, backend);
    counters.note_ejected(picked.model, picked.version, backend);

    let shown = published.counters().ejected;

    let labels = |e: &stagegate_table::counters::EjectedCounters| {
        (e.model.clone(), e.backend.clone(), e.reason.clone())
    };
    let expected = ("m".to_owned(), "t0".to_owned(), "it broke".to_owned());
    assert_eq!(vec![expected], shown.iter().map(labels).collect::<Vec<_>>());
    assert!(shown[0].retry_ms > 0);
    assert!(health.succeeded(backend.id, now));
    assert!(published.counters().ejected.is_empty());
}
