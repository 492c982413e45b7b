//! Serves one model from one or more running backends, for measuring the data plane alone.
//!
//! `serve LOGICAL TRITON-NAME BACKEND [BACKEND...]` prints the port and runs until its input ends.

use std::error::Error;
use std::io::Read as _;

use stagegate_core::{Dataplane, Settings};
use stagegate_table::spec::{ArmSpec, BackendSpec, ModelSpec, Snapshot, VersionSpec};
use stagegate_table::Published;

fn main() -> Result<(), Box<dyn Error>> {
    let mut words = std::env::args().skip(1);
    let usage = "usage: serve LOGICAL TRITON-NAME BACKEND [BACKEND...]";
    let (logical, triton) = (words.next().ok_or(usage)?, words.next().ok_or(usage)?);
    let name = |number: usize| format!("t{number}");
    let backends: Vec<_> = words
        .enumerate()
        .map(|(number, address)| BackendSpec {
            name: name(number),
            address,
            ..BackendSpec::default()
        })
        .collect();
    let version = VersionSpec {
        version: "1".to_owned(),
        state: "ready".to_owned(),
        backends: backends
            .iter()
            .map(|backend| backend.name.clone())
            .collect(),
        backend_model: triton,
        backend_version: "1".to_owned(),
        ..VersionSpec::default()
    };
    let arm = ArmSpec {
        name: "stable".to_owned(),
        version: "1".to_owned(),
        weight: 10_000,
    };
    let model = ModelSpec {
        name: logical,
        versions: vec![version],
        arms: vec![arm],
        ..ModelSpec::default()
    };
    let published = Published::new();
    published.publish(Snapshot {
        revision: 1,
        backends,
        models: vec![model],
    })?;
    let threads = std::env::var("THREADS")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(1);
    let dataplane = Dataplane::start(
        Settings {
            threads,
            ..Settings::default()
        },
        published,
    )?;
    dataplane.set_ready(true);
    println!("{}", dataplane.port());
    std::io::stdin().read_to_end(&mut Vec::new())?;
    dataplane.stop();
    Ok(())
}
