use std::time::Duration;

use super::*;
use stagegate_table::spec::{ArmSpec, ModelSpec, Snapshot, VersionSpec};
use stagegate_table::Published;

fn version() -> Arc<Version> {
    let published = Published::new();
    let version = VersionSpec {
        version: "1".to_owned(),
        state: "cold".to_owned(),
        backend_model: "m.1".to_owned(),
        sequence_idle_us: 2_000_000,
        ..VersionSpec::default()
    };
    let arm = ArmSpec {
        name: "stable".to_owned(),
        version: "1".to_owned(),
        weight: 10_000,
    };
    let model = ModelSpec {
        name: "m".to_owned(),
        versions: vec![version],
        arms: vec![arm],
        ..ModelSpec::default()
    };
    let snapshot = Snapshot {
        revision: 1,
        models: vec![model],
        ..Snapshot::default()
    };
    published.publish(snapshot).unwrap();
    let table = published.load();
    Arc::clone(table.version(b"m", "1").unwrap().1)
}

fn pin(version: &Arc<Version>) -> Pin {
    Pin {
        version: Arc::clone(version),
        arm: Some("stable".into()),
        backend: None,
    }
}

struct World {
    sequences: Arc<Sequences>,
    version: Arc<Version>,
    now: Instant,
}

impl World {
    fn new(most: usize) -> Self {
        Self {
            sequences: Arc::new(Sequences::of(most)),
            version: version(),
            now: Instant::now() + Duration::from_hours(1),
        }
    }

    fn key(&self, id: u64) -> Key {
        self.sequences.key("m", "", SequenceId::Number(id))
    }

    fn begin(&self, id: u64, ends: bool) -> Option<(Hold, bool)> {
        let key = self.key(id);
        match self
            .sequences
            .begin(key, pin(&self.version), ends, self.now)
        {
            Begun::Open(hold, forgotten) => Some((hold, forgotten)),
            Begun::Full => None,
        }
    }

    fn find(&self, id: u64, ends: bool) -> Option<Hold> {
        let found = self.sequences.find(self.key(id), ends, self.now);
        found.map(|(_, hold)| hold)
    }

    /// The request is over, now.
    fn end(&self, hold: Hold) {
        hold.release(self.now);
        // Released already: the drop at the end of the test must not count again.
        std::mem::forget(hold);
    }

    fn wait(&mut self, millis: u64) {
        self.now += Duration::from_millis(millis);
    }

    fn open(&self) -> (usize, u32) {
        (
            self.sequences.open.load(Relaxed),
            self.version.cell.sequences(),
        )
    }
}

#[test]
fn a_sequence_is_open_from_its_start_to_its_end() {
    let world = World::new(4);
    assert!(world.find(7, false).is_none());

    let (first, forgotten) = world.begin(7, false).unwrap();
    assert!(!forgotten);
    world.end(first);
    let second = world.find(7, false).unwrap();
    world.end(second);
    let last = world.find(7, true).unwrap();
    assert_eq!((1, 1), world.open());
    world.end(last);

    assert!(world.find(7, false).is_none());
    assert_eq!((0, 0), world.open());
}

#[test]
fn a_sequence_of_one_request_leaves_nothing() {
    let world = World::new(4);

    let (only, _) = world.begin(7, true).unwrap();
    world.end(only);

    assert_eq!((0, 0), world.open());
}

#[test]
fn an_end_waits_for_the_requests_before_it() {
    let world = World::new(4);
    let (first, _) = world.begin(7, false).unwrap();
    let last = world.find(7, true).unwrap();

    world.end(last);
    assert_eq!((1, 1), world.open());
    assert!(world.find(7, false).is_none());
    world.end(first);

    assert_eq!((0, 0), world.open());
}

#[test]
fn an_idle_sequence_is_over_and_each_request_makes_it_last_longer() {
    let mut world = World::new(4);
    let (first, _) = world.begin(7, false).unwrap();
    world.end(first);
    for _ in 0..3 {
        world.wait(1_500);
        let next = world.find(7, false).unwrap();
        world.end(next);
    }

    world.wait(2_001);

    assert!(world.find(7, false).is_none());
    world.sequences.sweep(world.now);
    assert_eq!((0, 0), world.open());
}

#[test]
fn a_request_on_its_way_keeps_its_sequence_open_however_long_it_takes() {
    let mut world = World::new(4);
    let (first, _) = world.begin(7, false).unwrap();

    world.wait(60_000);
    world.sequences.sweep(world.now);
    let second = world.find(7, false).unwrap();

    world.end(first);
    world.end(second);
    assert_eq!((1, 1), world.open());
}

#[test]
fn ids_of_other_kinds_models_and_references_are_other_sequences() {
    let sequences = Sequences::new();
    let keys = [
        sequences.key("m", "", SequenceId::Number(7)),
        sequences.key("m", "", SequenceId::Text(b"7")),
        sequences.key("m", "3", SequenceId::Number(7)),
        sequences.key("n", "", SequenceId::Number(7)),
        sequences.key("m", "", SequenceId::Number(8)),
    ];

    for (at, key) in keys.iter().enumerate() {
        assert!(keys[at + 1..].iter().all(|other| other != key));
    }
    assert_eq!(keys[1], sequences.key("m", "", SequenceId::Text(b"7")));
}

#[test]
fn the_first_backend_that_is_chosen_stays() {
    let world = World::new(4);
    let (first, _) = world.begin(7, false).unwrap();
    let second = world.find(7, false).unwrap();

    assert_eq!(3, world.sequences.backend_or(second.place(), 3));
    assert_eq!(3, world.sequences.backend_or(first.place(), 5));

    let (pin, third) = world
        .sequences
        .find(world.key(7), false, world.now)
        .unwrap();
    assert_eq!(Some(3), pin.backend);
    drop((first, second, third));
}

#[test]
fn a_new_start_takes_the_place_of_an_old_sequence_and_of_its_late_requests() {
    let world = World::new(4);
    let (old, _) = world.begin(7, true).unwrap();
    world.sequences.backend_or(old.place(), 3);

    let (new, _) = world.begin(7, false).unwrap();
    assert_eq!((1, 1), world.open());
    assert_eq!(5, world.sequences.backend_or(new.place(), 5));
    assert_eq!(9, world.sequences.backend_or(old.place(), 9));
    world.end(old);

    let (pin, third) = world
        .sequences
        .find(world.key(7), false, world.now)
        .unwrap();
    assert_eq!(Some(5), pin.backend);
    world.end(third);
    world.end(new);
}

/// Ids whose keys share a shard.
fn neighbours(world: &World, count: usize) -> Vec<u64> {
    let shard = |id: &u64| (world.key(*id).0 as usize).is_multiple_of(SHARDS);
    (1..).filter(shard).take(count).collect()
}

#[test]
fn where_there_is_no_room_the_oldest_idle_one_goes() {
    let mut world = World::new(2);
    let ids = neighbours(&world, 4);
    let (running, _) = world.begin(ids[0], false).unwrap();
    world.wait(10);
    let (idle, _) = world.begin(ids[1], false).unwrap();
    world.end(idle);

    let (third, forgotten) = world.begin(ids[2], false).unwrap();
    assert!(forgotten);
    assert!(world.find(ids[1], false).is_none());
    assert_eq!((2, 2), world.open());

    assert!(world.begin(ids[3], false).is_none());
    assert_eq!((2, 2), world.open());
    world.end(third);
    world.wait(2_001);
    let (fourth, forgotten) = world.begin(ids[3], false).unwrap();
    // The third was over by then, so nothing was forgotten before its time.
    assert!(!forgotten);
    drop((running, fourth));
}
