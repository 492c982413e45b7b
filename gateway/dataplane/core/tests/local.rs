//! Calls that the gateway answers itself, and calls that are closed.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use common::client::next_message;
use common::{cold, failed, framed, ready, request, snapshot, Backend, Gateway};
use stagegate_core::Settings;
use stagegate_wire::encode::put_len;
use stagegate_wire::fields::Fields;

const SERVICE: &str = "/inference.GRPCInferenceService";

async fn one() -> (Backend, Gateway) {
    let backend = Backend::start().await;
    let models = vec![
        ready("digits", &["t0"]),
        cold("sleepy"),
        failed("broken", "no such file"),
    ];
    let gateway = Gateway::start(snapshot(&[&backend], models));
    (backend, gateway)
}

async fn ask(gateway: &Gateway, path: &str, message: &[u8]) -> (i32, Vec<u8>) {
    let answer = gateway
        .client()
        .await
        .call(path, &[], &[&framed(message)])
        .await;
    (answer.code(), answer.messages().pop().unwrap_or_default())
}

fn texts(message: &[u8], number: u32) -> Vec<String> {
    let fields = Fields::new(message)
        .map(Result::unwrap)
        .filter(|field| field.is(number));
    fields
        .map(|field| String::from_utf8(field.payload.to_vec()).unwrap())
        .collect()
}

/// The gateway lives, and is ready when it was told so.
#[tokio::test]
async fn live_and_ready() {
    let (_backend, gateway) = one().await;

    assert_eq!(
        (0, vec![8, 1]),
        ask(&gateway, &format!("{SERVICE}/ServerLive"), b"").await
    );
    assert_eq!(
        (0, vec![8, 1]),
        ask(&gateway, &format!("{SERVICE}/ServerReady"), b"").await
    );
    gateway.dataplane.set_ready(false);
    assert_eq!(
        (0, vec![]),
        ask(&gateway, &format!("{SERVICE}/ServerReady"), b"").await
    );
}

/// Clients of Triton insist on its name.
#[tokio::test]
async fn the_server_is_called_triton() {
    let (_backend, gateway) = one().await;

    let (_, message) = ask(&gateway, &format!("{SERVICE}/ServerMetadata"), b"").await;

    assert_eq!(vec!["triton"], texts(&message, 1));
    let extensions = texts(&message, 3);
    assert!(extensions.contains(&"model_configuration".to_owned()));
    assert!(!extensions.contains(&"system_shared_memory".to_owned()));
}

/// Extensions that need open methods are told where all of these are open, by group or one by one.
#[tokio::test]
async fn open_methods_are_told_as_extensions() {
    let backend = Backend::start().await;
    for (allow, told) in [
        (
            &["repository"][..],
            vec!["model_repository", "model_repository(unload_dependents)"],
        ),
        (&["RepositoryModelLoad"], vec![]),
        (
            &["RepositoryModelUnload", "TraceSetting"],
            vec!["model_repository(unload_dependents)", "trace"],
        ),
    ] {
        let settings = Settings {
            allow: allow.iter().map(|word| (*word).to_owned()).collect(),
            ..Settings::default()
        };
        let gateway = Gateway::with(snapshot(&[&backend], vec![]), settings);

        let (_, message) = ask(&gateway, &format!("{SERVICE}/ServerMetadata"), b"").await;
        let opened = [
            "model_repository",
            "trace",
            "logging",
            "system_shared_memory",
        ];
        let found = texts(&message, 3).into_iter();
        let found = found.filter(|name| opened.iter().any(|word| name.starts_with(word)));

        assert_eq!(told, found.collect::<Vec<_>>(), "{allow:?}");
    }
}

/// A model is ready where a request would be taken; what is unknown is not ready.
#[tokio::test]
async fn model_ready_says_whether_a_request_would_be_taken() {
    let (_backend, gateway) = one().await;
    let path = format!("{SERVICE}/ModelReady");
    for (model, version, expected) in [
        ("digits", "", vec![8, 1]),
        ("digits", "1", vec![8, 1]),
        ("sleepy", "", vec![8, 1]),
        ("broken", "", vec![]),
        ("digits", "9", vec![]),
        ("nope", "", vec![]),
    ] {
        assert_eq!(
            (0, expected),
            ask(&gateway, &path, &request(model, version, 0)).await,
            "{model}"
        );
    }
    assert_eq!(3, ask(&gateway, &path, &request("a b", "", 0)).await.0);
}

/// The index lists logical models with state and reason, or only what is ready.
#[tokio::test]
async fn the_index_lists_logical_models() {
    let (_backend, gateway) = one().await;
    let path = format!("{SERVICE}/RepositoryIndex");

    let (_, all) = ask(&gateway, &path, b"").await;
    let (_, some) = ask(&gateway, &path, b"\x10\x01").await;

    let names = |message: &[u8]| -> Vec<(String, String)> {
        Fields::new(message)
            .map(|field| field.unwrap().payload)
            .map(|line| (texts(line, 1).concat(), texts(line, 3).concat()))
            .collect()
    };
    let pair = |name: &str, state: &str| (name.to_owned(), state.to_owned());
    let expected = [
        pair("broken", "UNAVAILABLE"),
        pair("digits", "READY"),
        pair("sleepy", "UNAVAILABLE"),
    ];
    assert_eq!(
        (expected.to_vec(), vec![pair("digits", "READY")]),
        (names(&all), names(&some))
    );
}

/// Metadata of a ready version comes from its backend, under the logical name and the one version.
#[tokio::test]
async fn metadata_is_re_encoded() {
    let (backend, gateway) = one().await;
    let answer = gateway.client().await;
    let answer = answer
        .call(
            &format!("{SERVICE}/ModelMetadata"),
            &[],
            &[&framed(&request("digits", "", 0))],
        )
        .await;

    assert_eq!(0, answer.code(), "{}", answer.text());
    let message = &answer.messages()[0];
    assert_eq!(
        (vec!["digits".to_owned()], vec!["1".to_owned()]),
        (texts(message, 1), texts(message, 2))
    );
    assert_eq!(format!("{SERVICE}/ModelMetadata"), backend.last().path);
    assert_eq!("1", answer.headers["stagegate-version"]);
}

/// Metadata of a cold version comes from its contract, without a load.
#[tokio::test]
async fn metadata_of_a_cold_version_needs_no_load() {
    let backend = Backend::start().await;
    let mut model = cold("sleepy");
    put_len(&mut model.versions[0].metadata, 1, b"sleepy");
    put_len(&mut model.versions[0].metadata, 3, b"onnx");
    let gateway = Gateway::start(snapshot(&[&backend], vec![model]));

    let (code, message) = ask(
        &gateway,
        &format!("{SERVICE}/ModelMetadata"),
        &request("sleepy", "", 0),
    )
    .await;

    assert_eq!((0, vec!["onnx".to_owned()]), (code, texts(&message, 3)));
    assert!(gateway.dataplane.events().drain().is_empty());
}

/// A refusal of the backend passes, under the logical name.
#[tokio::test]
async fn a_refused_config_passes() {
    let (_backend, gateway) = one().await;
    let client = gateway.client().await;

    let message = framed(&request("digits", "", 0));
    let answer = client
        .call(
            &format!("{SERVICE}/ModelConfig"),
            &[("x-do", "error")],
            &[&message],
        )
        .await;

    assert_eq!(3, answer.code());
    assert!(
        answer.text().contains("'digits'") && !answer.text().contains("abc"),
        "{}",
        answer.text()
    );
}

/// What is closed names the key that opens it; opened, it goes to the one backend as it is.
#[tokio::test]
async fn closed_calls_name_their_key() {
    let (backend, gateway) = one().await;
    let path = format!("{SERVICE}/RepositoryModelLoad");
    let client = gateway.client().await;

    let closed = client.call(&path, &[], &[&framed(b"\x12\x01m")]).await;

    assert_eq!(12, closed.code());
    assert!(
        closed.text().contains("protocol.allow"),
        "{}",
        closed.text()
    );
    let settings = Settings {
        allow: vec!["repository".to_owned()],
        ..Settings::default()
    };
    let open = Gateway::with(snapshot(&[&backend], vec![]), settings);
    assert_eq!(0, ask(&open, &path, b"\x12\x01m").await.0);
    assert_eq!(
        b"\0\0\0\0\x03\x12\x01m".to_vec(),
        backend.last().body.to_vec()
    );
}

fn all_open() -> Settings {
    Settings {
        allow: ["repository", "log"].map(str::to_owned).to_vec(),
        ..Settings::default()
    }
}

/// What is opened goes to every backend, since each has models and settings of its own.
#[tokio::test]
async fn open_calls_go_to_all_backends() {
    let (one, two) = (Backend::start().await, Backend::start().await);
    let gateway = Gateway::with(snapshot(&[&one, &two], vec![]), all_open());
    for method in [
        "RepositoryModelLoad",
        "RepositoryModelUnload",
        "LogSettings",
    ] {
        let path = format!("{SERVICE}/{method}");

        assert_eq!(0, ask(&gateway, &path, b"\x12\x01m").await.0, "{method}");
        for backend in [&one, &two] {
            assert_eq!(b"\0\0\0\0\x03\x12\x01m"[..], backend.last().body);
            assert_eq!(path, backend.last().path);
        }
    }

    let client = gateway.client().await;
    let load = format!("{SERVICE}/RepositoryModelLoad");
    let refused = client
        .call(&load, &[("x-do", "error")], &[&framed(b"\x12\x01m")])
        .await;
    assert_eq!(3, refused.code());
    assert!(
        refused.text().ends_with("(backend 't0')"),
        "{}",
        refused.text()
    );
}

/// A client of `KServe` names the model in another field, and wants it back.
#[tokio::test]
async fn a_load_in_kserves_form_is_understood() {
    let backend = Backend::start().await;
    let gateway = Gateway::with(snapshot(&[&backend], vec![]), all_open());
    let path = format!("{SERVICE}/RepositoryModelLoad");

    let (code, answer) = ask(&gateway, &path, b"\x0a\x01m").await;

    assert_eq!((0, b"\x0a\x01m\x10\x01".to_vec()), (code, answer));
    assert_eq!(vec!["m"], texts(&backend.last().body[5..], 2));
}

/// A file name that would end a Triton never reaches it.
#[tokio::test]
async fn a_file_name_that_cannot_be_is_refused() {
    let backend = Backend::start().await;
    let gateway = Gateway::with(snapshot(&[&backend], vec![]), all_open());
    let (mut entry, mut message) = (Vec::new(), Vec::new());
    let key = format!("file:{}", "A".repeat(256));
    stagegate_wire::encode::put_len(&mut entry, 1, key.as_bytes());
    stagegate_wire::encode::put_len(&mut message, 2, b"m");
    stagegate_wire::encode::put_len(&mut message, 3, &entry);
    let client = gateway.client().await;
    let path = format!("{SERVICE}/RepositoryModelLoad");

    let answer = client.call(&path, &[], &[&framed(&message)]).await;

    assert_eq!(13, answer.code());
    assert!(
        answer.text().contains("Invalid file path"),
        "{}",
        answer.text()
    );
    assert!(backend.seen().is_empty());
}

/// A method that does not exist is unimplemented, also without a message.
#[tokio::test]
async fn an_unknown_method_is_unimplemented() {
    let (_backend, gateway) = one().await;

    let answer = gateway.client().await.call("/a.B/C", &[], &[b""]).await;

    assert!(answer.trailers_only);
    assert_eq!(
        (12, "the method /a.B/C does not exist here"),
        (answer.code(), &*answer.text())
    );
}

/// Health checks know the server, models, and what there is not.
#[tokio::test]
async fn health_checks() {
    let (_backend, gateway) = one().await;
    let path = "/grpc.health.v1.Health/Check";
    for (service, code, body) in [
        ("", 0, vec![8, 1]),
        ("inference.GRPCInferenceService", 0, vec![8, 1]),
        ("digits", 0, vec![8, 1]),
        ("broken", 0, vec![8, 2]),
        ("nope", 5, vec![]),
    ] {
        let mut message = Vec::new();
        put_len(&mut message, 1, service.as_bytes());

        assert_eq!(
            (code, body),
            ask(&gateway, path, &message).await,
            "{service}"
        );
    }
}

/// A watcher hears of every change, and is sent away by a drain.
#[tokio::test]
async fn health_is_watched() {
    let (_backend, gateway) = one().await;
    let client = gateway.client().await;
    let mut call = client.begin("/grpc.health.v1.Health/Watch", &[]).await;
    call.send_all(&framed(b""), true).await;
    let (_, _, mut body) = call.head().await.unwrap();
    let mut held = Vec::new();

    let first = next_message(&mut body, &mut held).await;
    gateway.dataplane.set_ready(false);
    let second = next_message(&mut body, &mut held).await;
    gateway.dataplane.drain(std::time::Duration::from_secs(5));
    let third = next_message(&mut body, &mut held).await;

    assert_eq!(
        (Some(vec![8, 1]), Some(vec![8, 2]), None),
        (first, second, third)
    );
    assert_eq!("14", body.trailers().await.unwrap().unwrap()["grpc-status"]);
}

/// Reflection answers several questions on one stream, in both versions.
#[tokio::test]
async fn reflection_lists_and_describes() {
    let (_backend, gateway) = one().await;
    for version in ["v1", "v1alpha"] {
        let path = format!("/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo");
        let mut symbol = Vec::new();
        put_len(&mut symbol, 4, b"inference.GRPCInferenceService");
        let all = [framed(b"\x3a\x00"), framed(&symbol)].concat();

        let answer = gateway.client().await.call(&path, &[], &[&all]).await;

        assert_eq!((0, 2), (answer.code(), answer.messages().len()));
        let holds = |at: usize, part: &str| {
            answer.messages()[at]
                .windows(part.len())
                .any(|w| w == part.as_bytes())
        };
        assert!(holds(0, "inference.GRPCInferenceService") && holds(1, "ModelInferRequest"));
    }
}
