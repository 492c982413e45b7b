//! `ModelStreamInfer` through the data plane.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use common::client::next_message;
use common::{
    cold, failed, framed, ready, request, snapshot, until, version, Backend, Gateway, STREAM,
};
use stagegate_table::spec::{ArmSpec, ModelSpec, VersionSpec};
use stagegate_wire::names::scan_message;
use stagegate_wire::stream::peek;

async fn two() -> (Backend, Backend, Gateway) {
    let (one, two) = (Backend::start().await, Backend::start().await);
    let models = vec![ready("digits", &["t0"]), ready("fraud", &["t1"])];
    let gateway = Gateway::start(snapshot(&[&one, &two], models));
    (one, two, gateway)
}

/// Model name, version and error of a stream's answer.
fn told(message: &[u8]) -> (String, String, String) {
    let seen = peek(message).unwrap();
    // The last infer_response holds the names that count.
    let response = stagegate_wire::fields::Fields::new(message)
        .map(Result::unwrap)
        .filter(|f| f.is(2))
        .last();
    let names = response
        .map(|field| scan_message(field.payload).unwrap())
        .unwrap_or_default();
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    (text(names.model), text(names.version), text(seen.error))
}

/// Messages of one stream go to the backend of their model; answers come as they are ready.
#[tokio::test]
async fn a_stream_may_mix_models_on_two_backends() {
    let (one, two, gateway) = two().await;
    let client = gateway.client().await;
    let mut call = client.begin(STREAM, &[]).await;
    let mut held = Vec::new();

    call.send_all(&framed(&request("digits", "", 10)), false)
        .await;
    let (_, headers, mut body) = call.head().await.unwrap();
    let first = told(&next_message(&mut body, &mut held).await.unwrap());
    call.send_all(&framed(&request("fraud", "", 10)), false)
        .await;
    let second = told(&next_message(&mut body, &mut held).await.unwrap());
    call.send_all(&framed(&request("digits", "1", 10)), true)
        .await;
    let third = told(&next_message(&mut body, &mut held).await.unwrap());

    let answer = |model: &str| (model.to_owned(), "1".to_owned(), String::new());
    assert_eq!(
        [answer("digits"), answer("fraud"), answer("digits")],
        [first, second, third]
    );
    assert_eq!("stable", headers["stagegate-arm"]);
    assert!(next_message(&mut body, &mut held).await.is_none());
    assert_eq!("0", body.trailers().await.unwrap().unwrap()["grpc-status"]);
    assert!(one.last().ended_well && two.last().ended_well);
    assert_eq!((1, 1), (one.seen().len(), two.seen().len()));
    until("it counts once", || {
        gateway.counted("digits", "stable", 0) == 1
    })
    .await;
    assert_eq!(0, gateway.counted("fraud", "stable", 0));
}

/// A stream without messages ends well.
#[tokio::test]
async fn an_empty_stream_ends_well() {
    let (_one, _two, gateway) = two().await;

    let answer = gateway.client().await.call(STREAM, &[], &[b""]).await;

    assert_eq!((0, 0), (answer.code(), answer.body.len()));
}

/// Many messages in one go come back in their order.
#[tokio::test]
async fn answers_of_one_model_keep_their_order() {
    let (_one, _two, gateway) = two().await;
    let all: Vec<u8> = (0..500)
        .flat_map(|at| framed(&request("digits", "", at * 7)))
        .collect();

    let answer = gateway.client().await.call(STREAM, &[], &[&all]).await;

    assert_eq!((0, 500), (answer.code(), answer.messages().len()));
    assert!(answer
        .messages()
        .iter()
        .all(|message| told(message).0 == "digits"));
}

/// A message that cannot be routed gets an error of its own, and the stream goes on.
#[tokio::test]
async fn an_unknown_model_is_an_answer_not_an_end() {
    let (_one, _two, gateway) = two().await;
    let all = [
        framed(&request("nope", "", 1)),
        framed(&request("digits", "", 1)),
    ]
    .concat();

    let answer = gateway.client().await.call(STREAM, &[], &[&all]).await;

    assert_eq!(0, answer.code());
    let told: Vec<_> = answer
        .messages()
        .iter()
        .map(|message| told(message))
        .collect();
    assert!(
        told.iter().any(|t| t.2.contains("unknown model: 'nope'")),
        "{told:?}"
    );
    assert!(
        told.iter().any(|t| t.0 == "digits" && t.2.is_empty()),
        "{told:?}"
    );
    assert_eq!(b"id-1".to_vec(), peek(&answer.messages()[0]).unwrap().id);
}

/// Clients that ask for statuses get one.
#[tokio::test]
async fn an_unknown_model_ends_a_strict_stream() {
    let (_one, _two, gateway) = two().await;
    let message = framed(&request("nope", "", 1));

    let answer = gateway
        .client()
        .await
        .call(STREAM, &[("triton_grpc_error", "true")], &[&message])
        .await;

    assert_eq!(5, answer.code());
    assert!(answer.text().contains("'nope' is not found"));
}

/// An error that Triton puts into an answer names the logical model.
#[tokio::test]
async fn errors_in_answers_name_the_logical_model() {
    let (_one, _two, gateway) = two().await;
    let message = framed(&request("digits", "", 1));

    let answer = gateway
        .client()
        .await
        .call(STREAM, &[("x-do", "stream-error")], &[&message])
        .await;

    assert_eq!("model digits broke", told(&answer.messages()[0]).2);
}

/// The status of a backend that fails is the stream's.
#[tokio::test]
async fn the_backends_status_ends_the_stream() {
    let (_one, _two, gateway) = two().await;
    let message = framed(&request("digits", "", 1));

    let answer = gateway
        .client()
        .await
        .call(STREAM, &[("x-do", "end-badly")], &[&message])
        .await;

    assert_eq!((9, 1), (answer.code(), answer.messages().len()));
    assert_eq!("verbatim", answer.trailers["x-trailing"]);
}

/// A cancel reaches every backend of the stream.
#[tokio::test]
async fn a_cancel_reaches_all_backends() {
    let (one, two, gateway) = two().await;
    let client = gateway.client().await;
    let mut call = client.begin(STREAM, &[]).await;
    call.send_all(&framed(&request("digits", "", 1)), false)
        .await;
    call.send_all(&framed(&request("fraud", "", 1)), false)
        .await;
    until("both have a stream", || {
        one.seen().len() + two.seen().len() == 2
    })
    .await;

    call.reset();

    until("both see the cancel", || {
        one.cancelled() + two.cancelled() == 2
    })
    .await;
}

/// A cold model is waited for inside the stream.
#[tokio::test]
async fn a_stream_waits_for_a_cold_model() {
    let backend = Backend::start().await;
    let gateway = Gateway::start(snapshot(&[&backend], vec![cold("digits")]));
    let client = gateway.client().await;
    let message = framed(&request("digits", "", 1));

    let load = async {
        until("it waits", || {
            !gateway.dataplane.events().drain().is_empty()
        })
        .await;
        gateway.put(ready("digits", &["t0"]));
    };
    let frames = [&message[..]];
    let (answer, ()) = tokio::join!(client.call(STREAM, &[], &frames), load);

    assert_eq!(
        (0, "digits"),
        (answer.code(), &*told(&answer.messages()[0]).0)
    );
}

/// Messages behind one that waits for a load: those of other models go on, those of its own keep their
/// order, and the client may have ended its side long ago.
#[tokio::test]
async fn a_cold_model_holds_up_no_other() {
    let backend = Backend::start().await;
    let models = vec![
        cold("digits"),
        ready("fraud", &["t0"]),
        ready("other", &["t0"]),
    ];
    let gateway = Gateway::start(snapshot(&[&backend], models));
    let client = gateway.client().await;
    let mut call = client.begin(STREAM, &[]).await;
    let mut held = Vec::new();
    let all: Vec<u8> = ["digits", "fraud", "digits@1", "other", "fraud"]
        .iter()
        .flat_map(|model| framed(&request(model, "", 1)))
        .collect();

    call.send_all(&all, true).await;
    let (_, _, mut body) = call.head().await.unwrap();
    let mut names = Vec::new();
    for at in 0..5 {
        if at == 3 {
            gateway.put(ready("digits", &["t0"]));
        }
        names.push(told(&next_message(&mut body, &mut held).await.unwrap()).0);
    }

    assert_eq!(["fraud", "other", "fraud", "digits", "digits"], names[..]);
    assert!(next_message(&mut body, &mut held).await.is_none());
    assert_eq!("0", body.trailers().await.unwrap().unwrap()["grpc-status"]);
    assert_eq!(1, backend.seen().len());
    let first = gateway.stream_counters("digits", "stable");
    assert_eq!((1, 1, 0), (first.requests, first.responses, first.errors));
}

/// A stream counts once; its messages, and those of them that are errors, count for their models.
#[tokio::test]
async fn messages_and_errors_are_counted_by_version() {
    let (_one, _two, gateway) = two().await;
    let all: Vec<u8> = ["digits", "digits", "fraud"]
        .iter()
        .flat_map(|model| framed(&request(model, "", 1)))
        .collect();
    let client = gateway.client().await;

    client.call(STREAM, &[], &[&all]).await;
    client
        .call(STREAM, &[("x-do", "stream-error")], &[&all])
        .await;

    let (digits, fraud) = (
        gateway.stream_counters("digits", "stable"),
        gateway.stream_counters("fraud", "stable"),
    );
    assert_eq!(
        (4, 2, 2),
        (digits.requests, digits.responses, digits.errors)
    );
    assert_eq!((2, 1, 1), (fraud.requests, fraud.responses, fraud.errors));
    assert_eq!((4, 0), (digits.first.count(), digits.inter.count()));
    until("each stream counts once", || {
        gateway.counted("digits", "stable", 0) == 2
    })
    .await;
}

/// A message that is refused after it was routed is an error of its model.
#[tokio::test]
async fn a_load_that_fails_is_an_error_of_its_model() {
    let backend = Backend::start().await;
    let models = vec![failed("digits", "no memory")];
    let gateway = Gateway::start(snapshot(&[&backend], models));
    let message = framed(&request("digits", "", 1));

    let answer = gateway.client().await.call(STREAM, &[], &[&message]).await;

    assert!(told(&answer.messages()[0]).2.contains("no memory"));
    let counted = gateway.stream_counters("digits", "stable");
    assert_eq!(
        (1, 0, 1),
        (counted.requests, counted.responses, counted.errors)
    );
}

fn split(weights: [u32; 2]) -> ModelSpec {
    let version = |id: &str| VersionSpec {
        version: id.to_owned(),
        backend_model: format!("digits.{id}.abc"),
        ..version("digits", "ready", &["t0"])
    };
    let arm = |name: &str, id: &str, weight| ArmSpec {
        name: name.to_owned(),
        version: id.to_owned(),
        weight,
    };
    ModelSpec {
        name: "digits".to_owned(),
        versions: vec![version("1"), version("2")],
        arms: vec![
            arm("stable", "1", weights[0]),
            arm("canary", "2", weights[1]),
        ],
        ..ModelSpec::default()
    }
}

/// A model keeps its arm for the stream while the arm has weight, and leaves it at once when it has none.
#[tokio::test]
async fn a_model_keeps_its_arm_while_that_has_weight() {
    let backend = Backend::start().await;
    let gateway = Gateway::start(snapshot(&[&backend], vec![split([0, 10_000])]));
    let client = gateway.client().await;
    let mut call = client.begin(STREAM, &[]).await;
    let message = framed(&request("digits", "", 1));
    let (mut held, mut versions) = (Vec::new(), Vec::new());

    call.send_all(&message, false).await;
    let (_, _, mut body) = call.head().await.unwrap();
    versions.push(told(&next_message(&mut body, &mut held).await.unwrap()).1);
    for (weights, count) in [([9_999, 1], 30), ([10_000, 0], 2)] {
        gateway.put(split(weights));
        for _ in 0..count {
            call.send_all(&message, false).await;
            versions.push(told(&next_message(&mut body, &mut held).await.unwrap()).1);
        }
    }

    assert_eq!(
        (vec!["2"; 31], vec!["1"; 2]),
        (
            versions[..31].iter().map(|v| &**v).collect(),
            versions[31..].iter().map(|v| &**v).collect()
        )
    );
}

/// A client that does not read holds up its own stream, and nothing else; memory stays bounded.
#[tokio::test]
async fn a_client_that_does_not_read_stops_the_stream() {
    let (_one, _two, gateway) = two().await;
    let client = gateway.client().await;
    let mut call = client.begin(STREAM, &[]).await;
    // Each answer is about 40 bytes, each request 100 kB; the client never reads the answers.
    let big = framed(&request("digits", "", 100_000));
    let other = gateway.client().await;

    let flood = async {
        for _ in 0..300 {
            if call.send_all(&big, false).await.is_none() {
                break;
            }
        }
    };
    let ((), answer) = tokio::join!(flood, other.infer("digits", &[]));

    assert_eq!(0, answer.code());
}

/// Two backends with one model.
async fn pair() -> (Backend, Backend, Gateway) {
    let (one, two) = (Backend::start().await, Backend::start().await);
    let gateway = Gateway::start(snapshot(
        &[&one, &two],
        vec![ready("digits", &["t0", "t1"])],
    ));
    (one, two, gateway)
}

fn retried(gateway: &Gateway) -> u64 {
    gateway
        .published
        .counters()
        .retries
        .iter()
        .map(|c| c.count)
        .sum()
}

/// Streams one after the other, each with that many messages at once; status and answers of each.
async fn streams(gateway: &Gateway, count: usize, messages: usize) -> Vec<(i32, usize)> {
    let client = gateway.client().await;
    let all: Vec<u8> = (0..messages)
        .flat_map(|at| framed(&request("digits", "", at)))
        .collect();
    let mut out = Vec::new();
    for _ in 0..count {
        let answer = client.call(STREAM, &[], &[&all]).await;
        let messages = answer.messages();
        let good = messages.iter().filter(|message| told(message).2.is_empty());
        out.push((answer.code(), good.count()));
    }
    out
}

/// What a backend refuses it has not begun with: all that was sent there goes to another, in its order.
#[tokio::test]
async fn a_refused_stream_goes_to_another_backend_with_all_its_messages() {
    let (one, two, gateway) = pair().await;
    one.does("refuse");

    assert_eq!(vec![(0, 5); 20], streams(&gateway, 20, 5).await);

    assert_eq!(20, two.seen().len());
    assert!(one.seen().is_empty() && retried(&gateway) > 0);
}

/// Where there is no other, the same one is asked again; so is the one that has a sequence.
#[tokio::test]
async fn a_refused_stream_of_the_only_backend_is_sent_again() {
    let backend = Backend::start().await;
    let gateway = Gateway::start(snapshot(&[&backend], vec![ready("digits", &["t0"])]));
    let client = gateway.client().await;
    let message = framed(&request("digits", "", 1));

    let answer = client
        .call(STREAM, &[("x-do", "refuse-once")], &[&message])
        .await;

    assert_eq!((0, 1), (answer.code(), answer.messages().len()));
}

/// The client's stream is open still, and goes on after its first backend said no.
#[tokio::test]
async fn an_open_stream_goes_on_elsewhere() {
    for how in [
        "refuse",
        "status=14 it ends",
        "status=5 Request for unknown model: 'digits.1.abc'",
    ] {
        let (one, two, gateway) = pair().await;
        two.does(how);
        let client = gateway.client().await;
        // It is drawn often enough that the other one is the first of some.
        for _ in 0..12 {
            let mut call = client.begin(STREAM, &[]).await;
            let mut held = Vec::new();
            call.send_all(&framed(&request("digits", "", 1)), false)
                .await;
            let (_, _, mut body) = call.head().await.unwrap();
            let mut answers = vec![next_message(&mut body, &mut held).await.unwrap()];
            call.send_all(&framed(&request("digits", "", 2)), true)
                .await;
            answers.push(next_message(&mut body, &mut held).await.unwrap());

            assert!(
                answers.iter().all(|message| told(message).2.is_empty()),
                "{how}"
            );
            assert!(next_message(&mut body, &mut held).await.is_none());
            assert_eq!("0", body.trailers().await.unwrap().unwrap()["grpc-status"]);
        }
        assert_eq!(12, one.seen().iter().filter(|seen| seen.ended_well).count());
        assert!(retried(&gateway) > 0, "{how}");
    }
}

/// A model that a backend does not have any more, in the middle of a stream: the backend's fault.
#[tokio::test]
async fn a_model_that_is_gone_from_a_backend_is_asked_of_another_within_a_stream() {
    let (one, two, gateway) = pair().await;
    let client = gateway.client().await;
    let mut call = client.begin(STREAM, &[]).await;
    let mut held = Vec::new();
    call.send_all(&framed(&request("digits", "", 1)), false)
        .await;
    let (_, _, mut body) = call.head().await.unwrap();
    let mut errors = vec![told(&next_message(&mut body, &mut held).await.unwrap()).2];
    let (first, other) = if one.seen().is_empty() {
        (&two, &one)
    } else {
        (&one, &two)
    };

    first.does("stream-error=Request for unknown model: 'digits.1.abc' has no available versions");
    for size in 0..20 {
        call.send_all(&framed(&request("digits", "", size)), size == 19)
            .await;
        errors.push(told(&next_message(&mut body, &mut held).await.unwrap()).2);
    }

    assert_eq!(vec![String::new(); 21], errors);
    assert!(next_message(&mut body, &mut held).await.is_none());
    assert_eq!((1, 1), (first.seen().len(), other.seen().len()));
}

/// Where no backend has it, the client is told whose fault that is, and the stream goes on.
#[tokio::test]
async fn a_model_that_is_gone_from_all_backends_is_no_not_found() {
    let (one, two, gateway) = pair().await;
    let gone = "stream-error=Request for unknown model: 'digits.1.abc' has no available versions";
    one.does(gone);
    two.does(gone);
    let client = gateway.client().await;
    let message = framed(&request("digits", "", 1));

    let started = std::time::Instant::now();
    let answer = client.call(STREAM, &[], &[&message]).await;

    assert_eq!(0, answer.code());
    let [message] = &answer.messages()[..] else {
        panic!("{answer:?}")
    };
    let error = told(message).2;
    assert!(
        error.contains("does not have model 'digits' version 1 any more"),
        "{error}"
    );
    assert!(started.elapsed() < std::time::Duration::from_secs(9));
}

/// A connection that breaks: the one message may have been begun, so it is sent once more and no further.
#[tokio::test]
async fn one_message_is_sent_once_more_when_its_backend_dies() {
    let (one, two, gateway) = pair().await;
    one.does("wait");
    two.does("wait");
    let client = gateway.client().await;
    let mut call = client.begin(STREAM, &[]).await;
    call.send_all(&framed(&request("digits", "", 1)), true)
        .await;
    until("it is there", || one.seen().len() + two.seen().len() == 1).await;
    let (first, other) = if one.seen().is_empty() {
        (&two, &one)
    } else {
        (&one, &two)
    };

    other.does("");
    first.stop();
    let answer = call.answer().await.unwrap();

    assert_eq!((0, 1), (answer.code(), answer.messages().len()));
    assert_eq!(1, retried(&gateway));
}

/// Two messages, or one above the cap: nobody knows what was done, and nothing is sent again.
#[tokio::test]
async fn more_than_one_message_or_a_large_one_is_not_sent_again() {
    for sizes in [&[1, 1][..], &[(1 << 20) + 1]] {
        let (one, two, gateway) = pair().await;
        one.does("wait");
        two.does("wait");
        let client = gateway.client().await;
        let mut call = client.begin(STREAM, &[]).await;
        for size in sizes {
            call.send_all(&framed(&request("digits", "", *size)), false)
                .await;
        }
        until("it is there", || one.seen().len() + two.seen().len() == 1).await;

        one.stop();
        two.stop();
        let answer = call.answer().await.unwrap();

        assert_eq!(14, answer.code(), "{}", answer.text());
        assert_eq!(0, retried(&gateway));
    }
}

/// A backend that is not there is waited for, as a request waits.
#[tokio::test]
async fn a_stream_waits_for_a_backend_that_is_started_again() {
    let backend = Backend::start().await;
    let address = backend.address();
    let gateway = Gateway::start(snapshot(&[&backend], vec![ready("digits", &["t0"])]));
    assert_eq!(vec![(0, 1)], streams(&gateway, 1, 1).await);
    backend.stop();
    until("it is noticed", || backend.connections() == 0).await;

    let again = async {
        tokio::time::sleep(std::time::Duration::from_millis(300)).await;
        Backend::at(&address).await
    };
    let (outcome, _backend) = tokio::join!(streams(&gateway, 1, 1), again);

    assert_eq!(vec![(0, 1)], outcome);
}
