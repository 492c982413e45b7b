//! What a version says of the queue for it.

#![allow(clippy::unwrap_used)]

mod common;

use std::sync::Arc;
use std::time::Duration;

use common::{model, snapshot, version};
use stagegate_table::spec::{ModelSpec, VersionSpec};
use stagegate_table::{Published, Version};

fn built(spec: VersionSpec) -> Arc<Version> {
    let published = Published::new();
    published.publish(snapshot(1, vec![one(spec)])).unwrap();
    Arc::clone(published.load().version(b"digits", "1").unwrap().1)
}

fn ready() -> VersionSpec {
    version("digits", "1", "ready")
}

#[test]
fn without_levels_the_default_is_just_behind_the_highest() {
    let version = built(ready());

    let ranks = [0, 1, 2, 3, 16, 17, u64::MAX].map(|priority| version.rank(priority));

    assert_eq!([2, 1, 2, 3, 16, 16, 16], ranks);
}

#[test]
fn levels_are_triton_s_and_what_is_no_level_is_the_default() {
    let version = built(VersionSpec {
        priority_levels: 5,
        default_priority: 3,
        ..ready()
    });

    let ranks = [0, 1, 5, 6, u64::MAX].map(|priority| version.rank(priority));

    assert_eq!([3, 1, 5, 3, 3], ranks);
}

#[test]
fn a_request_can_only_shorten_its_wait_and_only_where_it_may() {
    let policy = VersionSpec {
        queue_timeout_us: 5_000,
        ..ready()
    };
    let fixed = built(policy.clone());
    let open = built(VersionSpec {
        timeout_override: true,
        ..policy
    });

    let millis = |millis| Some(Duration::from_millis(millis));
    assert_eq!(millis(5), fixed.longest_wait(1_000));
    assert_eq!(millis(1), open.longest_wait(1_000));
    assert_eq!(millis(5), open.longest_wait(9_000));
    assert_eq!(millis(5), open.longest_wait(0));
    assert_eq!(None, built(ready()).longest_wait(1_000));
}

#[test]
fn only_a_version_that_is_ready_says_what_it_works_on() {
    let of = |capacity| VersionSpec {
        capacity,
        ..ready()
    };
    let published = Published::new();
    published.publish(snapshot(1, vec![one(of(3))])).unwrap();
    let limit = || {
        let table = published.load();
        table.version(b"digits", "1").unwrap().1.cell.gate.limit()
    };
    assert_eq!(6, limit());

    published
        .publish(snapshot(2, vec![one(version("digits", "1", "cold"))]))
        .unwrap();
    assert_eq!(6, limit());

    published.publish(snapshot(3, vec![one(of(5))])).unwrap();
    assert_eq!(10, limit());
}

fn one(spec: VersionSpec) -> ModelSpec {
    ModelSpec {
        versions: vec![spec],
        arms: Vec::new(),
        pointers: Vec::new(),
        split_reference: String::new(),
        ..model("digits")
    }
}
