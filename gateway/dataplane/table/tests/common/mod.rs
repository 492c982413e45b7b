//! Small tables to test with.

#![allow(dead_code, unreachable_pub)]

use stagegate_table::spec::{
    ArmSpec, BackendSpec, Delta, ModelSpec, PointerSpec, ShadowSpec, Snapshot, VersionSpec,
};

pub fn backend(name: &str) -> BackendSpec {
    BackendSpec {
        name: name.to_owned(),
        address: format!("127.0.0.1:{}", 9000 + name.len()),
        ..BackendSpec::default()
    }
}

pub fn version(model: &str, id: &str, state: &str) -> VersionSpec {
    VersionSpec {
        version: id.to_owned(),
        state: state.to_owned(),
        backends: if state == "ready" {
            vec!["t0".to_owned()]
        } else {
            Vec::new()
        },
        backend_model: format!("{model}.{id}.0a1b2c3d"),
        backend_version: String::new(),
        reason: if state == "failed" {
            "no such file".to_owned()
        } else {
            String::new()
        },
        metadata: Vec::new(),
        ..VersionSpec::default()
    }
}

pub fn pointer(kind: &str, name: &str, version: &str) -> PointerSpec {
    PointerSpec {
        kind: kind.to_owned(),
        name: name.to_owned(),
        version: version.to_owned(),
    }
}

pub fn arm(name: &str, version: &str, weight: u32) -> ArmSpec {
    ArmSpec {
        name: name.to_owned(),
        version: version.to_owned(),
        weight,
    }
}

pub fn shadow(name: &str, version: &str, sample: u32) -> ShadowSpec {
    ShadowSpec {
        name: name.to_owned(),
        version: version.to_owned(),
        sample,
    }
}

/// Three versions; production is 3 and takes the split together with the challenger, 2.
pub fn model(name: &str) -> ModelSpec {
    ModelSpec {
        name: name.to_owned(),
        versions: vec![
            version(name, "1", "cold"),
            version(name, "2", "ready"),
            version(name, "3", "ready"),
        ],
        pointers: vec![
            pointer("stage", "production", "3"),
            pointer("stage", "staging", "2"),
            pointer("alias", "champion", "3"),
            pointer("alias", "challenger", "2"),
        ],
        arms: vec![arm("stable", "3", 9_000), arm("canary", "2", 1_000)],
        split_reference: "production".to_owned(),
        ..ModelSpec::default()
    }
}

pub fn snapshot(revision: u64, models: Vec<ModelSpec>) -> Snapshot {
    Snapshot {
        revision,
        backends: vec![backend("t0"), backend("t01")],
        models,
    }
}

pub fn delta(base_revision: u64) -> Delta {
    Delta {
        base_revision,
        revision: base_revision + 1,
        ..Delta::default()
    }
}
