//! What a large table costs: bytes a version and milliseconds for one change.
//!
//! `cargo run --release --example scale [models] [versions]`. Bytes are the process's resident set
//! before and after, so they hold everything: allocator, hash tables, cells.

#![allow(clippy::unwrap_used, clippy::cast_precision_loss)]

use std::time::Instant;

use stagegate_table::spec::{
    ArmSpec, BackendSpec, Delta, ModelSpec, PointerSpec, Snapshot, VersionSpec,
};
use stagegate_table::{pick, Published};

fn resident() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    statm.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4096
}

fn model(number: usize, versions: usize) -> ModelSpec {
    let name = format!("team-{}.model-{number}", number % 100);
    let version = |id: usize| VersionSpec {
        version: id.to_string(),
        state: if id == versions { "ready" } else { "cold" }.to_owned(),
        backends: if id == versions {
            vec![format!("triton-{}", number % 16)]
        } else {
            Vec::new()
        },
        backend_model: format!("{name}.{id}.0a1b2c3d"),
        backend_version: String::new(),
        reason: String::new(),
        metadata: if id == versions {
            Vec::new()
        } else {
            b"what a contract of three tensors says".repeat(3)
        },
        ..VersionSpec::default()
    };
    let pointer = |kind: &str, name: &str| PointerSpec {
        kind: kind.to_owned(),
        name: name.to_owned(),
        version: versions.to_string(),
    };
    let arm = ArmSpec {
        name: "stable".to_owned(),
        version: versions.to_string(),
        weight: 10_000,
    };
    ModelSpec {
        versions: (1..=versions).map(version).collect(),
        pointers: vec![pointer("stage", "production"), pointer("alias", "champion")],
        arms: vec![arm],
        split_reference: "production".to_owned(),
        name,
        ..ModelSpec::default()
    }
}

fn backends() -> Vec<BackendSpec> {
    (0..16)
        .map(|n| BackendSpec {
            name: format!("triton-{n}"),
            address: format!("10.0.0.{n}:8001"),
            ..BackendSpec::default()
        })
        .collect()
}

fn main() {
    let mut arguments = std::env::args()
        .skip(1)
        .map(|text| text.parse::<usize>().unwrap());
    let models = arguments.next().unwrap_or(100_000);
    let versions = arguments.next().unwrap_or(3);
    let published = Published::new();
    published
        .publish(Snapshot {
            revision: 1,
            backends: backends(),
            models: Vec::new(),
        })
        .unwrap();

    // In pieces, so that the input does not stand in memory beside the table.
    let (before, start) = (resident(), Instant::now());
    let mut revision = 1;
    let put = |revision: &mut u64, put_models: Vec<ModelSpec>| {
        let base_revision = *revision;
        *revision += 1;
        let change = Delta {
            base_revision,
            revision: *revision,
            put_models,
            ..Delta::default()
        };
        published.publish_delta(change).unwrap();
    };
    for first in (0..models).step_by(500) {
        let last = models.min(first + 500);
        put(
            &mut revision,
            (first..last)
                .map(|number| model(number, versions))
                .collect(),
        );
    }
    let bytes = resident() - before;
    println!(
        "{models} models x {versions} versions, built in {:?}",
        start.elapsed()
    );
    println!("{} bytes a version", bytes / (models * versions).max(1));

    let mut times: Vec<_> = (0..200)
        .map(|n| {
            let change = vec![model(n * 37 % models, versions)];
            let start = Instant::now();
            put(&mut revision, change);
            start.elapsed()
        })
        .collect();
    times.sort_unstable();
    println!(
        "one change of one model: median {:?}, worst of 200 {:?}",
        times[100], times[199]
    );

    let mut reader = published.reader();
    let names: Vec<String> = (0..1_000).map(|n| model(n * 97 % models, 0).name).collect();
    let start = Instant::now();
    let mut found = 0u32;
    for _ in 0..1_000 {
        for name in &names {
            found += u32::from(pick(reader.table(), name.as_bytes(), b"", || 0).is_ok());
        }
    }
    let nanos = start.elapsed().as_nanos() as f64 / 1e6;
    println!("one pick: {nanos:.0} ns ({found} of 1000000 found)");

    let start = Instant::now();
    let all = (0..models).map(|number| model(number, versions)).collect();
    let built = start.elapsed();
    let start = Instant::now();
    published
        .publish(Snapshot {
            revision: revision + 1,
            backends: backends(),
            models: all,
        })
        .unwrap();
    println!(
        "the whole table at once: {:?} (after {built:?} to write it)",
        start.elapsed()
    );
}
