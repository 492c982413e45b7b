//! `ModelInfer` through the data plane: framing, names, metadata, statuses.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::time::{Duration, Instant};

use common::backend::gzip;
use common::{cold, framed, ready, request, snapshot, until, Backend, Gateway, INFER};
use stagegate_core::Settings;
use stagegate_wire::encode::put_len;
use stagegate_wire::names::scan_message;

async fn one() -> (Backend, Gateway) {
    let backend = Backend::start().await;
    let gateway = Gateway::start(snapshot(&[&backend], vec![ready("digits", &["t0"])]));
    (backend, gateway)
}

/// A request reaches Triton under its own name and comes back under the logical one.
#[tokio::test]
async fn names_are_rewritten_both_ways() {
    let (backend, gateway) = one().await;

    let answer = gateway.client().await.infer("digits", &[]).await;

    assert_eq!(
        (0, ("digits".to_owned(), "1".to_owned())),
        (answer.code(), answer.names())
    );
    let names = scan_message(&backend.last().body[5..])
        .unwrap()
        .model
        .to_vec();
    assert_eq!(b"digits.1.abc".to_vec(), names);
}

/// The bytes of the request are those that the client sent, with the names appended.
#[tokio::test]
async fn the_request_is_only_appended_to() {
    let (backend, gateway) = one().await;
    let message = request("digits", "1", 100);

    gateway
        .client()
        .await
        .call(INFER, &[], &[&framed(&message)])
        .await;

    let body = backend.last().body;
    assert!(body[5..].starts_with(&message));
    assert_eq!(
        (body.len() - 5) as u32,
        u32::from_be_bytes(body[1..5].try_into().unwrap())
    );
}

/// DATA frames may be cut anywhere, in the prefix and in the names too, and end with an empty one.
#[tokio::test]
async fn a_request_in_frames_of_any_size_is_served() {
    let (_backend, gateway) = one().await;
    let client = gateway.client().await;
    let bytes = framed(&request("digits", "", 40));
    for size in [1, 2, 3, 5, 7, bytes.len()] {
        let mut frames: Vec<&[u8]> = bytes.chunks(size).collect();
        frames.push(b"");

        let answer = client.call(INFER, &[], &frames).await;

        assert_eq!(0, answer.code(), "frames of {size}: {}", answer.text());
    }
}

/// Fields may come in any order, the names last.
#[tokio::test]
async fn names_after_the_tensors_are_found() {
    let (_backend, gateway) = one().await;
    let client = gateway.client().await;
    for tensor in [10, 200_000] {
        let mut message = Vec::new();
        put_len(&mut message, 7, &vec![1; tensor]);
        put_len(&mut message, 1, b"digits");

        let answer = client.call(INFER, &[], &[&framed(&message)]).await;

        assert_eq!(0, answer.code(), "{tensor}: {}", answer.text());
    }
}

/// Large messages pass unchanged, both ways.
#[tokio::test]
async fn large_messages_pass_both_ways() {
    let (backend, gateway) = one().await;
    let client = gateway.client().await;
    for size in [60_000, 70_000, 1 << 20, 5 << 20] {
        let message = request("digits", "", size);
        let what = format!("large={size}");

        let answer = client
            .call(INFER, &[("x-do", &what)], &[&framed(&message)])
            .await;

        assert_eq!(
            (0, size),
            (answer.code(), tensor_bytes(&answer.messages()[0])),
            "{size}"
        );
        assert!(backend.last().body[5..].starts_with(&message));
    }
}

/// With `max_message` raised, messages beyond its usual value pass both ways.
#[tokio::test]
async fn the_longest_message_is_a_setting() {
    let backend = Backend::start().await;
    let settings = Settings {
        max_message: 128 << 20,
        ..Settings::default()
    };
    let models = vec![ready("digits", &["t0"])];
    let gateway = Gateway::with(snapshot(&[&backend], models), settings);
    let size = 65 << 20;
    let what = format!("large={size}");
    let message = framed(&request("digits", "", size));

    let client = gateway.client().await;
    let answer = client.call(INFER, &[("x-do", &what)], &[&message]).await;

    assert_eq!(0, answer.code(), "{}", answer.text());
    assert!(answer.body.len() > size);
    assert!(backend.last().body.len() > size);
}

fn tensor_bytes(message: &[u8]) -> usize {
    message.split(|byte| *byte == 0x5a).count() - 1
}

/// Many large requests at once on one connection do not starve each other of window.
#[tokio::test]
async fn many_large_requests_on_one_connection_all_finish() {
    let (_backend, gateway) = one().await;
    let client = gateway.client().await;
    let message = framed(&request("digits", "", 900_000));

    let frames = [&message[..]];
    let calls = (0..40).map(|_| client.call(INFER, &[("x-do", "sleep=100")], &frames));
    let answers = join_all(calls).await;

    assert!(answers.iter().all(|answer| answer.code() == 0));
}

async fn join_all<F: std::future::Future>(futures: impl Iterator<Item = F>) -> Vec<F::Output> {
    let mut pending: Vec<_> = futures.map(Box::pin).map(Some).collect();
    let mut done: Vec<Option<F::Output>> = pending.iter().map(|_| None).collect();
    std::future::poll_fn(|cx| {
        for (future, done) in pending.iter_mut().zip(&mut done) {
            if let Some(running) = future {
                if let std::task::Poll::Ready(value) = running.as_mut().poll(cx) {
                    *done = Some(value);
                    *future = None;
                }
            }
        }
        if pending.iter().all(Option::is_none) {
            std::task::Poll::Ready(())
        } else {
            std::task::Poll::Pending
        }
    })
    .await;
    done.into_iter().flatten().collect()
}

/// A backend may answer before it has read the request, and want none of it.
#[tokio::test]
async fn an_early_answer_is_forwarded() {
    let (_backend, gateway) = one().await;
    let client = gateway.client().await;
    let message = framed(&request("digits", "", 1 << 20));
    for _ in 0..20 {
        let answer = client.call(INFER, &[("x-do", "early")], &[&message]).await;

        assert_eq!(0, answer.code());
    }
}

/// An answer may come in frames of one byte.
#[tokio::test]
async fn an_answer_in_single_bytes_is_renamed() {
    let (_backend, gateway) = one().await;

    let answer = gateway
        .client()
        .await
        .infer("digits", &[("x-do", "split")])
        .await;

    assert_eq!("digits", answer.names().0);
}

/// The answer says which version and arm it is of, and has a token; a backend cannot forge them.
#[tokio::test]
async fn answers_carry_version_arm_and_token() {
    let (_backend, gateway) = one().await;

    let answer = gateway.client().await.infer("digits", &[]).await;

    let all: Vec<_> = answer.headers.get_all("stagegate-version").iter().collect();
    assert_eq!(vec!["1"], all);
    assert_eq!("stable", answer.headers["stagegate-arm"]);
    assert_eq!(16, answer.headers["stagegate-request"].len());
}

/// Metadata passes both ways; what is reserved or of one hop does not.
#[tokio::test]
async fn metadata_passes_both_ways() {
    let (backend, gateway) = one().await;
    let sent = [
        ("x-one", "1"),
        ("x-one", "2"),
        ("x-raw-bin", "AAEC//8"),
        ("stagegate-key", "k"),
        ("grpc-previous-rpc-attempts", "3"),
        ("content-length", "131"),
        ("user-agent", "a test"),
    ];
    let message = framed(&request("digits", "", 100));
    let length = message.len().to_string();
    let sent = sent.map(|(name, value)| {
        if name == "content-length" {
            (name, &*length)
        } else {
            (name, value)
        }
    });

    let answer = gateway.client().await.call(INFER, &sent, &[&message]).await;

    assert_eq!(0, answer.code(), "{}", answer.text());
    let headers = backend.last().headers;
    let ones: Vec<_> = headers.get_all("x-one").iter().collect();
    assert_eq!(vec!["1", "2"], ones);
    assert_eq!(
        ("AAEC//8", "a test"),
        (
            headers["x-raw-bin"].to_str().unwrap(),
            headers["user-agent"].to_str().unwrap()
        )
    );
    assert_eq!("trailers", headers["te"]);
    for name in [
        "stagegate-key",
        "grpc-previous-rpc-attempts",
        "content-length",
    ] {
        assert!(!headers.contains_key(name), "{name}");
    }
    assert_eq!("from the backend", answer.headers["x-initial"]);
    assert_eq!("verbatim", answer.trailers["x-trailing"]);
    assert_eq!("AAEC", answer.trailers["x-trailing-bin"]);
}

/// An error of the backend stays one HEADERS frame, with its details, and names the logical model.
#[tokio::test]
async fn an_error_of_the_backend_comes_as_it_is_but_for_the_name() {
    let (_backend, gateway) = one().await;

    let answer = gateway
        .client()
        .await
        .infer("digits", &[("x-do", "error")])
        .await;

    assert!(answer.trailers_only);
    assert_eq!(3, answer.code());
    assert_eq!(
        "expected 2 inputs but got 0 inputs for model 'digits' at 50%",
        answer.text()
    );
    assert_eq!("AAE", answer.headers["grpc-status-details-bin"]);
    assert_eq!(1, gateway.counted("digits", "stable", 3));
}

/// An answer without a status gets one; a reset is never a good end.
#[tokio::test]
async fn what_a_backend_leaves_out_is_told() {
    let (_backend, gateway) = one().await;
    let client = gateway.client().await;
    for (what, code) in [
        ("no-trailers", 2),
        ("cut", 13),
        ("empty", 13),
        ("nothing", 13),
        ("twice", 13),
        ("http=400", 13),
        ("http=403", 7),
        ("http=429", 14),
        ("http=502", 14),
        ("http=504", 14),
        ("http=500", 2),
        ("http=503", 14),
        ("http=404", 12),
        ("http=401", 16),
        ("reset=8", 1),
        ("reset=11", 8),
        ("reset=2", 13),
        ("reset=0", 13),
        ("reset=12", 7),
    ] {
        let answer = client.infer("digits", &[("x-do", what)]).await;

        assert_eq!(code, answer.code(), "{what}: {}", answer.text());
        assert!(answer.text().contains("'t0'"), "{}", answer.text());
        // A good one between, so that the backend is not passed over for failing again and again.
        assert_eq!(0, client.infer("digits", &[]).await.code());
    }
}

/// Requests that break the rules of gRPC get the code that gRPC has for it.
#[tokio::test]
async fn broken_requests_are_refused() {
    let (backend, gateway) = one().await;
    let client = gateway.client().await;
    let good = framed(&request("digits", "", 10));
    let twice = [&good[..], &good].concat();
    let mut bad_flag = good.clone();
    bad_flag[0] = 2;
    let mut marked = good.clone();
    marked[0] = 1;
    let broken = framed(b"\x0a\x7fshort");
    let frames: [(&str, &[u8], i32); 7] = [
        ("empty", b"", 13),
        ("half a prefix", &good[..3], 13),
        ("half a message", &good[..20], 13),
        ("two messages", &twice, 13),
        ("flag 2", &bad_flag, 13),
        ("compressed without an encoding", &marked, 13),
        ("no protobuf", &broken, 13),
    ];
    for (what, bytes, code) in frames {
        let answer = client.call(INFER, &[], &[bytes]).await;

        assert_eq!(code, answer.code(), "{what}");
        assert!(answer.trailers_only && !answer.text().is_empty(), "{what}");
    }
    assert_eq!(0, backend.seen().len());
    assert_eq!(7, gateway.counted("_unknown", "", 13));
}

/// A large message that ends early never ends well upstream.
#[tokio::test]
async fn a_large_message_cut_short_is_cancelled_upstream() {
    let (backend, gateway) = one().await;
    let bytes = framed(&request("digits", "", 2 << 20));

    let answer = gateway
        .client()
        .await
        .call(INFER, &[], &[&bytes[..300_000]])
        .await;

    assert_eq!(13, answer.code());
    common::until("the backend sees the cancel", || backend.cancelled() == 1).await;
}

/// A large message cannot name one model before its tensors and another one after.
#[tokio::test]
async fn a_name_that_changes_late_is_refused() {
    let backend = Backend::start().await;
    let models = vec![ready("digits", &["t0"]), ready("other", &["t0"])];
    let gateway = Gateway::start(snapshot(&[&backend], models));
    let mut message = request("digits", "", 2 << 20);
    put_len(&mut message, 1, b"other");

    let answer = gateway
        .client()
        .await
        .call(INFER, &[], &[&framed(&message)])
        .await;

    assert_eq!(3, answer.code(), "{}", answer.text());
}

/// Messages beyond the limit are refused by their prefix alone.
#[tokio::test]
async fn a_message_that_is_too_long_is_refused_at_once() {
    let backend = Backend::start().await;
    let settings = Settings {
        max_message: 1000,
        ..Settings::default()
    };
    let gateway = Gateway::with(
        snapshot(&[&backend], vec![ready("digits", &["t0"])]),
        settings,
    );

    let answer = gateway
        .client()
        .await
        .call(INFER, &[], &[b"\0\0\0\x10\0"])
        .await;

    assert_eq!(8, answer.code());
    assert!(
        answer.text().contains("limits.max_message"),
        "{}",
        answer.text()
    );
}

/// Names that lead nowhere are told in Triton's words, and count as unknown.
#[tokio::test]
async fn unknown_and_malformed_names() {
    let (_backend, gateway) = one().await;
    let client = gateway.client().await;
    for (model, code, part) in [
        ("nope", 5, "Request for unknown model: 'nope' is not found"),
        (
            "digits@9",
            5,
            "Request for unknown model: 'digits' version 9 is not found",
        ),
        ("", 3, "model_name is empty"),
        ("a b", 3, "model_name 'a b' is not allowed"),
    ] {
        let answer = client.infer(model, &[]).await;

        assert_eq!(code, answer.code(), "{model}");
        assert!(answer.text().starts_with(part), "{}", answer.text());
    }
    assert_eq!(1, gateway.counted("_unknown", "", 5));
}

/// A compressed request is inflated and goes on plain.
#[tokio::test]
async fn a_compressed_request_is_inflated() {
    let (backend, gateway) = one().await;
    let message = request("digits", "", 5000);
    let mut bytes = framed(&gzip(&message));
    bytes[0] = 1;

    let answer = gateway
        .client()
        .await
        .call(INFER, &[("grpc-encoding", "gzip")], &[&bytes])
        .await;

    assert_eq!(0, answer.code(), "{}", answer.text());
    assert!(backend.last().body[5..].starts_with(&message));
    assert_eq!(0, backend.last().body[0]);
    assert!(!backend.last().headers.contains_key("grpc-encoding"));
}

/// An encoding that is not supported is told together with those that are.
#[tokio::test]
async fn an_unknown_encoding_is_unimplemented() {
    let (_backend, gateway) = one().await;

    let answer = gateway
        .client()
        .await
        .call(INFER, &[("grpc-encoding", "snappy")], &[b"\x01\0\0\0\x01a"])
        .await;

    assert_eq!(12, answer.code());
    assert_eq!(
        "identity, deflate, gzip",
        answer.headers["grpc-accept-encoding"]
    );
}

/// A small message that inflates to a huge one is refused.
#[tokio::test]
async fn a_bomb_is_refused() {
    let (_backend, gateway) = one().await;
    let mut bytes = framed(&gzip(&vec![0; 30 << 20]));
    bytes[0] = 1;

    let answer = gateway
        .client()
        .await
        .call(INFER, &[("grpc-encoding", "gzip")], &[&bytes])
        .await;

    assert_eq!(8, answer.code(), "{}", answer.text());
}

/// A compressed answer is inflated, because it must be renamed.
#[tokio::test]
async fn a_compressed_answer_is_renamed() {
    let (_backend, gateway) = one().await;

    let answer = gateway
        .client()
        .await
        .infer("digits", &[("x-do", "gzip")])
        .await;

    assert_eq!("digits", answer.names().0);
}

/// Other content types and methods are refused as the specification says.
#[tokio::test]
async fn what_is_no_grpc_request_is_refused() {
    let (_backend, gateway) = one().await;
    let client = gateway.client().await;
    let bytes = framed(&request("digits", "", 10));

    let json = client
        .call(INFER, &[("content-type", "application/json")], &[&bytes])
        .await;
    let get = client.call(INFER, &[(":method", "GET")], &[b""]).await;

    assert_eq!(415, json.http.as_u16());
    assert_eq!((200, 12), (get.http.as_u16(), get.code()));
}

/// The deadline of the client is enforced here, and cancels the backend's work.
#[tokio::test]
async fn a_deadline_ends_the_call_on_both_sides() {
    let (backend, gateway) = one().await;

    let answer = gateway
        .client()
        .await
        .infer("digits", &[("x-do", "wait"), ("grpc-timeout", "50m")])
        .await;

    assert_eq!(4, answer.code());
    common::until("the backend sees the cancel", || backend.cancelled() == 1).await;
    assert_eq!(1, gateway.counted("digits", "stable", 4));
}

/// The backend is told the time that is left, also where the client brought no deadline.
#[tokio::test]
async fn the_backend_knows_the_deadline() {
    let (backend, gateway) = one().await;
    let client = gateway.client().await;

    client.infer("digits", &[]).await;
    let usual = backend.last().headers["grpc-timeout"].clone();
    client.infer("digits", &[("grpc-timeout", "7S")]).await;

    let own = backend.last().headers["grpc-timeout"].clone();
    for (value, most) in [(usual, 30), (own, 7)] {
        let left = stagegate_wire::timeout::parse_grpc_timeout(value.as_bytes())
            .unwrap()
            .as_secs_f64();
        assert!(left > 0.0 && left <= f64::from(most), "{value:?}");
    }
}

/// The deadline of a model's route holds where the client brings none.
#[tokio::test]
async fn the_routes_deadline_beats_the_default() {
    let backend = Backend::start().await;
    let model = stagegate_table::spec::ModelSpec {
        deadline_ms: 40,
        ..ready("digits", &["t0"])
    };
    let gateway = Gateway::start(snapshot(&[&backend], vec![model]));

    let answer = gateway
        .client()
        .await
        .infer("digits", &[("x-do", "wait")])
        .await;

    assert_eq!(4, answer.code());
}

/// A client that gives up cancels the backend's work at once.
#[tokio::test]
async fn a_cancel_reaches_the_backend() {
    let (backend, gateway) = one().await;
    let client = gateway.client().await;
    let mut call = client.begin(INFER, &[("x-do", "wait")]).await;
    call.send_all(&framed(&request("digits", "", 10)), true)
        .await;
    common::until("the backend has the request", || backend.seen().len() == 1).await;

    call.reset();

    common::until("the backend sees the cancel", || backend.cancelled() == 1).await;
    common::until("it counts as cancelled", || {
        gateway.counted("digits", "stable", 1) == 1
    })
    .await;
}

/// A cancel reaches the backend at once, of unary calls and of streams. It may take 50 ms in the median;
/// the bound here is four times that, for the sake of busy machines.
#[tokio::test]
async fn cancels_are_passed_on_at_once() {
    let (backend, gateway) = one().await;
    let client = gateway.client().await;
    for path in [INFER, common::STREAM] {
        let mut times = Vec::new();
        for _ in 0..15 {
            let before = (backend.seen().len(), backend.cancelled());
            let mut call = client.begin(path, &[("x-do", "wait")]).await;
            call.send_all(&framed(&request("digits", "", 10)), path == INFER)
                .await;
            until("it is there", || backend.seen().len() > before.0).await;

            let cancelled = Instant::now();
            call.reset();
            until("it is gone", || backend.cancelled() > before.1).await;
            times.push(cancelled.elapsed());
        }
        times.sort_unstable();

        assert!(times[7] < Duration::from_millis(200), "{path}: {times:?}");
    }
}

/// A client whose connection breaks cancels too.
#[tokio::test]
async fn a_broken_connection_reaches_the_backend() {
    let (backend, gateway) = one().await;
    let client = gateway.client().await;
    let mut call = client.begin(INFER, &[("x-do", "wait")]).await;
    call.send_all(&framed(&request("digits", "", 10)), true)
        .await;
    common::until("the backend has the request", || backend.seen().len() == 1).await;

    client.connection.abort();

    common::until("the backend sees the cancel", || backend.cancelled() == 1).await;
}

/// Counters follow every request to its end.
#[tokio::test]
async fn requests_are_counted_by_code_and_nothing_stays_in_flight() {
    let (_backend, gateway) = one().await;
    let client = gateway.client().await;
    for _ in 0..10 {
        client.infer("digits", &[]).await;
    }

    common::until("ten are counted", || {
        gateway.counted("digits", "stable", 0) == 10
    })
    .await;

    let counters = gateway.published.counters();
    assert!(counters.arms.iter().all(|arm| arm.inflight == 0));
    assert_eq!(
        10,
        counters
            .backends
            .iter()
            .map(|b| b.time.count())
            .sum::<u64>()
    );
}

/// A cold model with room for nobody refuses at once.
#[tokio::test]
async fn a_full_queue_is_resource_exhausted() {
    let backend = Backend::start().await;
    let settings = Settings {
        queue_per_model: 0,
        ..Settings::default()
    };
    let gateway = Gateway::with(snapshot(&[&backend], vec![cold("digits")]), settings);

    let answer = gateway.client().await.infer("digits", &[]).await;

    assert_eq!(8, answer.code());
    assert!(
        answer.text().contains("limits.queue_per_model"),
        "{}",
        answer.text()
    );
}
