//! A client that checks every answer while it loads a gRPC server in a closed loop.
//!
//! It opens its connections, sends `--warmup` requests, prints `{"ready": true}`, and then, for each line
//! `N` on stdin, sends N requests and prints one line of figures. The end of stdin ends it. So whoever
//! runs it can read the proxy's CPU time just before and just after, and keep two clients in turns.

#![forbid(unsafe_code)]

use std::error::Error;
use std::process::ExitCode;
use std::time::Duration;

use tokio::task::LocalSet;

use stagegate_bench::args::Args;
use stagegate_bench::lines;
use stagegate_bench::load::{Load, Plan, Users};
use stagegate_bench::message::{request, Expected};
use stagegate_bench::trust::Trust;

fn main() -> ExitCode {
    match start() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("check-client: {error}");
            ExitCode::FAILURE
        }
    }
}

fn start() -> Result<(), Box<dyn Error>> {
    let mut args = Args::from_env()?;
    let model: String = args.take("model", "digits".to_owned())?;
    let expected_model: String = args.take("expect-model", model.clone())?;
    let answer_bytes: usize = args.take("answer-bytes", 64)?;
    let backend_model: String = args.take("backend-model", "m".to_owned())?;
    let backend_version: String = args.take("backend-version", "1".to_owned())?;
    let plan = Plan {
        target: args.require("target")?,
        tls: match args.take("tls-ca", String::new())?.as_str() {
            "" => None,
            path => Some(Trust::from_file(path)?),
        },
        connections: args.take("connections", 1)?,
        streams: args.take("streams", 1)?,
        body: request(&model, args.take("request-bytes", 150)?),
        early: args.take("early", false)?,
        users: Users::new(args.take("users", 1_000)?),
        expected: Expected::of(
            &backend_model,
            &backend_version,
            answer_bytes,
            &expected_model,
        ),
        limit: Duration::from_secs(args.take("limit-seconds", 60)?),
    };
    let warmup = args.take("warmup", 100)?;
    args.finish()?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    LocalSet::new().block_on(&runtime, serve(plan, warmup))
}

async fn serve(plan: Plan, warmup: u64) -> Result<(), Box<dyn Error>> {
    let load = Load::connect(plan).await?;
    if let Some(text) = load.run(warmup).await.first_bad {
        return Err(format!("warming up: {text}").into());
    }
    lines::say("{\"ready\": true}")?;
    let mut commands = lines::commands();
    while let Some(line) = commands.recv().await {
        let requests = line
            .trim()
            .parse()
            .map_err(|_| format!("not a number of requests: {line:?}"))?;
        lines::say(&load.run(requests).await.to_json())?;
    }
    Ok(())
}
