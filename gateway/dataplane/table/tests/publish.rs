//! Publishing: what is taken, what is refused, and what lives on.

// Closures that only assign read better without a block.
#![allow(clippy::unwrap_used, clippy::semicolon_if_nothing_returned)]

mod common;

use std::sync::Arc;

use common::{arm, backend, delta, model, pointer, shadow, snapshot, version};
use stagegate_table::spec::{Delta, ModelSpec, Snapshot};
use stagegate_table::{pick, Published, State};

fn published(models: Vec<ModelSpec>) -> Arc<Published> {
    let published = Published::new();
    published.publish(snapshot(1, models)).unwrap();
    published
}

#[test]
fn the_first_table_is_empty_and_of_revision_0() {
    let table = Published::new().load();

    assert_eq!((0, 0), (table.revision, table.len()));
    assert!(table.model(b"digits").is_none());
}

#[test]
fn a_snapshot_replaces_everything() {
    let published = published(vec![model("a"), model("b")]);

    published.publish(snapshot(7, vec![model("c")])).unwrap();

    let table = published.load();
    let names: Vec<_> = table
        .sorted_models()
        .iter()
        .map(|m| m.name.to_string())
        .collect();
    assert_eq!(
        (7, 1, vec!["c".to_owned()]),
        (table.revision, table.len(), names)
    );
}

#[test]
fn a_delta_replaces_only_what_it_names() {
    let published = published(vec![model("a"), model("b"), model("c")]);
    let before = published.load();
    let mut change = delta(1);
    change.put_models = vec![model("a"), model("d")];
    change.drop_models = vec!["b".to_owned()];

    published.publish_delta(change).unwrap();

    let table = published.load();
    let names: Vec<_> = table
        .sorted_models()
        .iter()
        .map(|m| m.name.to_string())
        .collect();
    assert_eq!(vec!["a", "c", "d"], names);
    assert_eq!((2, 3), (table.revision, table.len()));
    assert!(Arc::ptr_eq(
        before.model(b"c").unwrap(),
        table.model(b"c").unwrap()
    ));
    assert_eq!(1, before.revision);
    assert!(before.model(b"b").is_some());
}

#[test]
fn many_models_are_all_found() {
    let names: Vec<String> = (0..5_000).map(|n| format!("model-{n}")).collect();
    let published = published(names.iter().map(|name| model(name)).collect());

    let table = published.load();

    assert!(names
        .iter()
        .all(|name| *table.model(name.as_bytes()).unwrap().name == **name));
    assert_eq!(5_000, table.models().count());
}

/// A change of a good snapshot that makes it a contradiction.
type Spoil = fn(&mut Snapshot);

/// The same for a delta.
type SpoilDelta = fn(&mut Delta);

#[test]
fn a_table_that_contradicts_itself_is_refused_with_the_name_of_the_thing() {
    let cases: &[(&str, Spoil)] = &[
        ("model name \"a b\"", |s| {
            s.models[0].name = "a b".to_owned()
        }),
        ("model \"b\" is given twice", |s| {
            s.models[0].name = "b".to_owned()
        }),
        ("version \"2\" is given twice", |s| {
            s.models[0].versions[0].version = "2".to_owned()
        }),
        ("version id \"\"", |s| {
            s.models[0].versions[0].version = String::new()
        }),
        ("version id \"@x\"", |s| {
            s.models[0].versions[0].version = "@x".to_owned()
        }),
        ("state \"warm\"", |s| {
            s.models[0].versions[0].state = "warm".to_owned()
        }),
        ("version \"3\" is ready but has no backend", |s| {
            s.models[0].versions[2].backends.clear();
        }),
        ("version \"1\" is cold but has backends", |s| {
            s.models[0].versions[0].backends = vec!["t0".to_owned()];
        }),
        ("names backend \"t9\"", |s| {
            s.models[0].versions[2].backends = vec!["t9".to_owned()]
        }),
        ("names backend \"t0\" twice", |s| {
            s.models[0].versions[2].backends = vec!["t0".to_owned(), "t0".to_owned()];
        }),
        ("version \"3\" has no backend_model", |s| {
            s.models[0].versions[2].backend_model = String::new();
        }),
        ("pointer kind \"tag\"", |s| {
            s.models[0].pointers[0].kind = "tag".to_owned()
        }),
        ("stage \"Prod\" is not in lower case", |s| {
            s.models[0].pointers[0].name = "Prod".to_owned();
        }),
        ("stage \"production\" points to version \"9\"", |s| {
            s.models[0].pointers[0].version = "9".to_owned();
        }),
        ("stage \"staging\" is given twice", |s| {
            s.models[0].pointers[0] = pointer("stage", "staging", "1");
        }),
        ("sum to 9999", |s| s.models[0].arms[1].weight = 999),
        ("sum to 4294967295", |s| {
            s.models[0].arms[0].weight = u32::MAX - 1_000
        }),
        ("arm \"canary\" names version \"9\"", |s| {
            s.models[0].arms[1].version = "9".to_owned()
        }),
        ("arm \"stable\" is given twice", |s| {
            s.models[0].arms[1].name = "stable".to_owned()
        }),
        ("called \"pinned\"", |s| {
            s.models[0].arms[1].name = "pinned".to_owned()
        }),
        ("arm name \"a b\"", |s| {
            s.models[0].arms[1].name = "a b".to_owned()
        }),
        ("split_reference \"@\"", |s| {
            s.models[0].split_reference = "@".to_owned()
        }),
        ("backend \"t0\" is given twice", |s| {
            s.backends[1].name = "t0".to_owned()
        }),
        ("backend \"t01\" has no address", |s| {
            s.backends[1].address = String::new()
        }),
        ("a backend has no name", |s| {
            s.backends[1].name = String::new()
        }),
    ];
    let published = published(vec![model("old")]);
    for (expected, spoil) in cases {
        let mut bad = snapshot(2, vec![model("a"), model("b")]);
        spoil(&mut bad);

        let error = published.publish(bad).unwrap_err().to_string();

        assert!(
            error.contains(expected),
            "{error:?} does not say {expected:?}"
        );
        let table = published.load();
        assert_eq!((1, 1), (table.revision, table.len()));
    }
}

#[test]
fn shadows_that_contradict_their_model_are_refused() {
    let published = published(vec![model("old")]);
    for (expected, shadows) in [
        (
            "\"canary\" has the name of an arm",
            vec![shadow("canary", "2", 1)],
        ),
        (
            "\"next\" has the name of an arm or of another",
            vec![shadow("next", "2", 1), shadow("next", "3", 1)],
        ),
        (
            "a shadow cannot be called \"pinned\"",
            vec![shadow("pinned", "2", 1)],
        ),
        (
            "arm name \"a b\" is not allowed",
            vec![shadow("a b", "2", 1)],
        ),
        ("\"next\" names version \"9\"", vec![shadow("next", "9", 1)]),
        (
            "\"next\" samples 10001 of 10000",
            vec![shadow("next", "2", 10_001)],
        ),
    ] {
        let bad = ModelSpec {
            shadows,
            ..model("a")
        };

        let error = published
            .publish(snapshot(2, vec![bad]))
            .unwrap_err()
            .to_string();

        assert!(
            error.contains(expected),
            "{error:?} does not say {expected:?}"
        );
        assert_eq!(1, published.load().revision);
    }
}

#[test]
fn a_delta_that_does_not_fit_is_refused_and_changes_nothing() {
    let cases: &[(&str, SpoilDelta)] = &[
        ("on revision 0, but the table is at revision 1", |d| {
            d.base_revision = 0
        }),
        ("on revision 2, but the table is at revision 1", |d| {
            d.base_revision = 2
        }),
        ("is not after its base revision", |d| d.revision = 1),
        ("model \"b\" cannot be dropped: there is none", |d| {
            d.drop_models = vec!["b".to_owned()]
        }),
        ("model \"a\" is named twice", |d| {
            d.drop_models = vec!["a".to_owned()]
        }),
        ("model \"c\" is named twice", |d| {
            d.put_models.push(model("c"))
        }),
        ("backend \"t9\" cannot be dropped: there is none", |d| {
            d.drop_backends = vec!["t9".to_owned()];
        }),
        ("backend \"t0\" cannot be dropped", |d| {
            d.put_models.clear();
            d.drop_backends = vec!["t0".to_owned()]
        }),
        ("backend \"t01\" is both put and dropped", |d| {
            d.drop_backends = vec!["t01".to_owned()];
            d.put_backends = vec![backend("t01")];
        }),
        ("names backend \"t9\"", |d| {
            d.put_models[0].versions[1].backends = vec!["t9".to_owned()]
        }),
    ];
    let published = published(vec![model("a")]);
    let before = published.load();
    for (expected, spoil) in cases {
        let mut bad = delta(1);
        bad.put_models = vec![model("a"), model("c")];
        spoil(&mut bad);

        let error = published.publish_delta(bad).unwrap_err().to_string();

        assert!(
            error.contains(expected),
            "{error:?} does not say {expected:?}"
        );
        assert!(Arc::ptr_eq(&before, &published.load()));
    }
}

#[test]
fn a_backend_can_be_dropped_with_the_last_version_that_names_it() {
    let published = published(vec![model("a"), model("b")]);
    let mut change = delta(1);
    change.drop_backends = vec!["t0".to_owned()];
    change.drop_models = vec!["a".to_owned()];
    let mut moved = model("b");
    for version in &mut moved.versions[1..] {
        version.backends = vec!["t01".to_owned()];
    }
    change.put_models = vec![moved];

    published.publish_delta(change).unwrap();

    let table = published.load();
    let ids = &table.model(b"b").unwrap().versions[2].backends;
    assert_eq!("t01", &*table.backend(ids[0]).unwrap().name);
    assert_eq!(1, table.backends().len());
}

fn id_of(published: &Published, name: &str) -> u32 {
    let table = published.load();
    let found = table
        .backends()
        .iter()
        .find(|backend| *backend.name == *name);
    found.unwrap().id
}

#[test]
fn the_id_of_a_backend_stays_while_its_name_does() {
    let published = published(vec![model("a")]);
    let id = id_of(&published, "t0");
    let mut change = delta(1);
    let mut moved = backend("t0");
    moved.address = "127.0.0.1:1".to_owned();
    change.put_backends = vec![moved, backend("t1")];
    published.publish_delta(change).unwrap();
    published.publish(snapshot(9, vec![model("b")])).unwrap();

    assert_eq!(id, id_of(&published, "t0"));
    assert_eq!(
        id,
        published.load().model(b"b").unwrap().versions[2].backends[0]
    );
}

#[test]
fn the_id_of_a_dropped_backend_is_never_given_again() {
    let published = published(vec![model("a")]);
    let id = id_of(&published, "t01");
    let mut change = delta(1);
    change.drop_backends = vec!["t01".to_owned()];
    published.publish_delta(change).unwrap();
    let mut change = delta(2);
    change.put_backends = vec![backend("t01"), backend("t2")];
    published.publish_delta(change).unwrap();

    assert_ne!(id, id_of(&published, "t01"));
    assert_ne!(id, id_of(&published, "t2"));
    assert!(published.load().backend(id).is_none());
}

#[test]
fn cells_live_on_where_model_version_and_arm_go_on() {
    let mut first = model("a");
    first.shadows = vec![shadow("moved", "2", 1), shadow("same", "1", 1)];
    let published = published(vec![first]);
    let before = published.load();
    let mut changed = model("a");
    changed.versions[0].state = "failed".to_owned();
    changed.arms = vec![arm("canary", "3", 1_000), arm("stable", "3", 9_000)];
    changed.shadows = vec![shadow("same", "1", 9), shadow("moved", "3", 9)];
    let mut change = delta(1);
    change.put_models = vec![changed];

    published.publish_delta(change).unwrap();

    let after = published.load();
    let (old, new) = (before.model(b"a").unwrap(), after.model(b"a").unwrap());
    assert!(Arc::ptr_eq(&old.cell, &new.cell));
    for (old, new) in old.versions.iter().zip(&new.versions) {
        assert!(Arc::ptr_eq(&old.cell, &new.cell));
    }
    let cells = |arm| (&old.arm(arm).unwrap().cell, &new.arm(arm).unwrap().cell);
    let (old_stable, new_stable) = cells("stable");
    let (old_canary, new_canary) = cells("canary");
    assert!(Arc::ptr_eq(old_stable, new_stable));
    assert!(
        !Arc::ptr_eq(old_canary, new_canary),
        "canary names another version now"
    );
    let cells = |name| {
        (
            &old.shadow(name).unwrap().cell,
            &new.shadow(name).unwrap().cell,
        )
    };
    let (old_same, new_same) = cells("same");
    let (old_moved, new_moved) = cells("moved");
    assert!(Arc::ptr_eq(old_same, new_same));
    assert!(!Arc::ptr_eq(old_moved, new_moved));
}

#[test]
fn tails_and_headers_are_made_beforehand() {
    let published = published(vec![model("digits")]);
    let table = published.load();
    let version = &table.model(b"digits").unwrap().versions[2];

    assert_eq!(
        &b"\x0a\x11digits.3.0a1b2c3d\x12\x00"[..],
        &version.request_tail[..]
    );
    assert_eq!(&b"\x0a\x06digits\x12\x013"[..], &version.answer_tail[..]);
    assert_eq!(
        &b"\x12\x0b\x0a\x06digits\x12\x013"[..],
        &version.stream_tail()[..]
    );
    assert_eq!("3", version.version_header);
}

#[test]
fn a_version_id_that_is_not_ascii_is_escaped_in_the_header() {
    let mut spec = model("digits");
    spec.versions.push(version("digits", "vé", "cold"));
    let published = published(vec![spec]);
    let table = published.load();

    assert_eq!(
        "v%C3%A9",
        table.model(b"digits").unwrap().versions[3].version_header
    );
}

#[test]
fn states_and_deadlines_are_taken_over() {
    let mut spec = model("a");
    spec.versions[1] = version("a", "2", "failed");
    spec.arms = vec![arm("stable", "3", 10_000)];
    spec.deadline_ms = 2_500;
    let published = published(vec![spec, model("b")]);
    let table = published.load();
    let a = table.model(b"a").unwrap();

    let states: Vec<_> = a
        .versions
        .iter()
        .map(|version| version.state.clone())
        .collect();
    assert_eq!(
        vec![
            State::Cold,
            State::Failed("no such file".into()),
            State::Ready
        ],
        states
    );
    assert_eq!(2_500, a.deadline.unwrap().as_millis());
    assert_eq!(None, table.model(b"b").unwrap().deadline);
}

#[test]
fn a_reader_sees_the_new_table_at_its_next_look() {
    let published = published(vec![model("a")]);
    let mut reader = published.reader();
    assert_eq!(1, reader.table().revision);

    published.publish(snapshot(2, vec![])).unwrap();

    assert_eq!(2, reader.table().revision);
}

#[test]
fn a_table_is_freed_by_the_publisher_and_not_by_its_last_reader() {
    let published = published(vec![model("a")]);
    let mut reader = published.reader();
    let weak = Arc::downgrade(reader.table());
    published.publish(snapshot(2, vec![])).unwrap();
    reader.table();
    assert!(
        weak.upgrade().is_some(),
        "the reader must not be the one who frees it"
    );

    let _ = published.counters();

    assert!(weak.upgrade().is_none());
}

#[test]
fn a_table_in_use_is_kept_until_its_reader_lets_go() {
    let published = published(vec![model("a")]);
    let held = published.load();
    let weak = Arc::downgrade(&held);
    published.publish(snapshot(2, vec![])).unwrap();
    let _ = published.counters();
    assert!(pick(&held, b"a", b"", || 0).is_ok());

    drop(held);
    let _ = published.counters();

    assert!(weak.upgrade().is_none());
}
