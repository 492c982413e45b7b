//! The data plane alone, in front of one backend: one model, two arms 90/10 sticky by a header and with a
//! match rule, one worker thread, and everything that it does for a request (names, split, admission,
//! ejection, counters, deadline) as in a gateway.
//!
//! `serve --backend HOST:PORT [--port 0] [--model digits] [--backend-model m] [--backend-version 1]
//! [--threads 1] [--extra-models 0] [--tls-cert FILE --tls-key FILE] [--backend-http HOST:PORT]` prints
//! `{"port": P, "http": P}` when it accepts connections and ends when stdin does.
//! Extra models have three versions each and are asked by nobody. REST is served where the backend's HTTP
//! endpoint is named; else its port is 0.

#![forbid(unsafe_code)]

use std::error::Error;
use std::io::Read as _;
use std::process::ExitCode;

use stagegate_bench::{args::Args, lines, message::USER_HEADER};
use stagegate_core::{Dataplane, Secret, Settings};
use stagegate_table::spec::{
    ArmSpec, BackendSpec, ConditionSpec, MatchRuleSpec, ModelSpec, PointerSpec, Snapshot,
    VersionSpec,
};
use stagegate_table::Published;

/// The allocator that the extension brings along, so that the same is measured.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const BACKEND: &str = "t0";

fn main() -> ExitCode {
    match start() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("serve: {error}");
            ExitCode::FAILURE
        }
    }
}

/// The content of a file; nothing where none is named.
fn pem(path: &str) -> std::io::Result<Vec<u8>> {
    if path.is_empty() {
        Ok(Vec::new())
    } else {
        std::fs::read(path)
    }
}

fn start() -> Result<(), Box<dyn Error>> {
    let mut args = Args::from_env()?;
    let http: String = args.take("backend-http", String::new())?;
    let settings = Settings {
        http_host: if http.is_empty() {
            String::new()
        } else {
            "127.0.0.1".to_owned()
        },
        port: args.take("port", 0)?,
        threads: args.take("threads", 1)?,
        tls_cert: pem(&args.take("tls-cert", String::new())?)?,
        tls_key: Secret(pem(&args.take("tls-key", String::new())?)?),
        ..Settings::default()
    };
    let address = args.require("backend")?;
    let model: String = args.take("model", "digits".to_owned())?;
    let backend_model: String = args.take("backend-model", "m".to_owned())?;
    let backend_version: String = args.take("backend-version", "1".to_owned())?;
    let extra: usize = args.take("extra-models", 0)?;
    args.finish()?;
    let asked = model_spec(model, &backend_model, &backend_version);
    let published = Published::new();
    published.publish(Snapshot {
        revision: 1,
        backends: vec![BackendSpec {
            name: BACKEND.to_owned(),
            address,
            http,
        }],
        models: (0..extra).map(extra_model).chain([asked]).collect(),
    })?;
    let dataplane = Dataplane::start(settings, published)?;
    dataplane.set_ready(true);
    let (port, http) = (dataplane.port(), dataplane.http_port().unwrap_or(0));
    lines::say(&format!("{{\"port\": {port}, \"http\": {http}}}"))?;
    std::io::stdin().read_to_end(&mut Vec::new())?;
    dataplane.stop();
    Ok(())
}

/// A model as most are: one version ready, older ones cold.
fn extra_model(number: usize) -> ModelSpec {
    let name = format!("team-{}.model-{number}", number % 100);
    let version = |id: &str, state: &str, backends: Vec<String>| VersionSpec {
        version: id.to_owned(),
        state: state.to_owned(),
        backends,
        backend_model: format!("{name}.{id}.0a1b2c3d"),
        ..VersionSpec::default()
    };
    ModelSpec {
        versions: vec![
            version("1", "cold", Vec::new()),
            version("2", "cold", Vec::new()),
            version("3", "ready", vec![BACKEND.to_owned()]),
        ],
        arms: vec![ArmSpec {
            name: "stable".to_owned(),
            version: "3".to_owned(),
            weight: 10_000,
        }],
        split_reference: "3".to_owned(),
        name,
        ..ModelSpec::default()
    }
}

/// A model in the middle of a canary: two versions on the same backend, a stage and an alias.
fn model_spec(name: String, backend_model: &str, backend_version: &str) -> ModelSpec {
    let version = |id: &str| VersionSpec {
        version: id.to_owned(),
        state: "ready".to_owned(),
        backends: vec![BACKEND.to_owned()],
        backend_model: backend_model.to_owned(),
        backend_version: backend_version.to_owned(),
        ..VersionSpec::default()
    };
    let arm = |name: &str, version: &str, weight| ArmSpec {
        name: name.to_owned(),
        version: version.to_owned(),
        weight,
    };
    let pointer = |kind: &str, name: &str, version: &str| PointerSpec {
        kind: kind.to_owned(),
        name: name.to_owned(),
        version: version.to_owned(),
    };
    ModelSpec {
        name,
        versions: vec![version("1"), version("2")],
        pointers: vec![
            pointer("stage", "production", "1"),
            pointer("alias", "challenger", "2"),
        ],
        arms: vec![arm("stable", "1", 9_000), arm("canary", "2", 1_000)],
        split_reference: "production".to_owned(),
        sticky: format!("header:{USER_HEADER}"),
        rules: vec![MatchRuleSpec {
            conditions: vec![ConditionSpec {
                kind: "header".to_owned(),
                name: "x-team".to_owned(),
                value: "risk".to_owned(),
            }],
            arm: "canary".to_owned(),
        }],
        ..ModelSpec::default()
    }
}
