//! A backend that does what a request's `x-do` header asks for (a copy's `x-do-copy`), a client that sees
//! everything, and the data plane between the two.
#![allow(dead_code)] // Each test file uses a part of it.

pub mod backend;
pub mod client;
pub mod proxy;
pub mod rest;

use std::sync::Arc;
use std::time::{Duration, Instant};

use stagegate_core::{Dataplane, Settings};
use stagegate_table::spec::{ArmSpec, BackendSpec, Delta, ModelSpec, Snapshot, VersionSpec};
use stagegate_table::Published;
use stagegate_wire::encode::put_len;

pub use backend::Backend;
pub use client::Client;

pub const INFER: &str = "/inference.GRPCInferenceService/ModelInfer";
pub const STREAM: &str = "/inference.GRPCInferenceService/ModelStreamInfer";

/// A data plane with a table.
pub struct Gateway {
    pub dataplane: Dataplane,
    pub published: Arc<Published>,
}

impl Gateway {
    pub fn start(snapshot: Snapshot) -> Self {
        Self::with(snapshot, Settings::default())
    }

    pub fn with(snapshot: Snapshot, settings: Settings) -> Self {
        let published = Published::new();
        published.publish(snapshot).unwrap();
        let dataplane = Dataplane::start(settings, Arc::clone(&published)).unwrap();
        dataplane.set_ready(true);
        Self {
            dataplane,
            published,
        }
    }

    pub async fn client(&self) -> Client {
        Client::connect(self.dataplane.port()).await
    }

    /// Put one model anew.
    pub fn put(&self, model: ModelSpec) {
        let base_revision = self.published.load().revision;
        let revision = base_revision + 1;
        let delta = Delta {
            base_revision,
            revision,
            put_models: vec![model],
            ..Delta::default()
        };
        self.published.publish_delta(delta).unwrap();
    }

    /// What streams of a series counted.
    pub fn stream_counters(
        &self,
        model: &str,
        arm: &str,
    ) -> stagegate_table::counters::StreamCounters {
        let counters = self.published.counters();
        let mut streams = counters.streams.into_iter();
        streams
            .find(|c| *c.model == *model && *c.arm == *arm)
            .unwrap()
    }

    /// Requests of a series that ended with that code.
    pub fn counted(&self, model: &str, arm: &str, code: usize) -> u64 {
        let counters = self.published.counters();
        let fits =
            |c: &&stagegate_table::counters::ArmCounters| *c.model == *model && *c.arm == *arm;
        counters
            .arms
            .iter()
            .filter(fits)
            .map(|c| c.codes[code])
            .sum()
    }
}

/// Wait until something holds; it is looked at again and again, for at most 10 s.
pub async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(10);
    while !holds() {
        assert!(Instant::now() < end, "not within 10 s: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// A snapshot of these backends (`t0`, `t1`, ...) and models.
pub fn snapshot(backends: &[&Backend], models: Vec<ModelSpec>) -> Snapshot {
    let addresses: Vec<String> = backends.iter().map(|backend| backend.address()).collect();
    snapshot_at(&addresses, models)
}

pub fn snapshot_at(addresses: &[String], models: Vec<ModelSpec>) -> Snapshot {
    let backend = |(at, address): (usize, &String)| BackendSpec {
        name: format!("t{at}"),
        address: address.clone(),
        ..BackendSpec::default()
    };
    Snapshot {
        revision: 1,
        backends: addresses.iter().enumerate().map(backend).collect(),
        models,
    }
}

/// A model of one ready version `1` on these backends; Triton calls it `<name>.1.abc`.
pub fn ready(name: &str, backends: &[&str]) -> ModelSpec {
    model(name, version(name, "ready", backends))
}

pub fn cold(name: &str) -> ModelSpec {
    model(name, version(name, "cold", &[]))
}

pub fn failed(name: &str, reason: &str) -> ModelSpec {
    model(
        name,
        VersionSpec {
            reason: reason.to_owned(),
            ..version(name, "failed", &[])
        },
    )
}

pub fn version(name: &str, state: &str, backends: &[&str]) -> VersionSpec {
    VersionSpec {
        version: "1".to_owned(),
        state: state.to_owned(),
        backends: backends.iter().map(|name| (*name).to_owned()).collect(),
        backend_model: format!("{name}.1.abc"),
        backend_version: String::new(),
        ..VersionSpec::default()
    }
}

pub fn model(name: &str, version: VersionSpec) -> ModelSpec {
    let arm = ArmSpec {
        name: "stable".to_owned(),
        version: version.version.clone(),
        weight: 10_000,
    };
    ModelSpec {
        name: name.to_owned(),
        versions: vec![version],
        arms: vec![arm],
        ..ModelSpec::default()
    }
}

/// A `ModelInferRequest`: names, an id, and `tensor` bytes of raw input.
pub fn request(model: &str, version: &str, tensor: usize) -> Vec<u8> {
    let mut out = Vec::new();
    put_len(&mut out, 1, model.as_bytes());
    put_len(&mut out, 2, version.as_bytes());
    put_len(&mut out, 3, b"id-1");
    put_len(&mut out, 7, &vec![0xa5; tensor]);
    out
}

/// A message with its prefix.
pub fn framed(message: &[u8]) -> Vec<u8> {
    stagegate_wire::frame::message(message).unwrap().to_vec()
}
