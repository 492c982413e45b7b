use super::*;
use std::sync::atomic::AtomicUsize;
use std::thread;

fn gate(capacity: u32) -> Arc<VersionCell> {
    let cell = Arc::new(VersionCell::default());
    cell.gate.set_capacity(capacity);
    cell
}

fn ask(rank: u32) -> Ask {
    Ask {
        rank,
        deadline: None,
        most: 10,
    }
}

fn within(millis: u64) -> Ask {
    Ask {
        deadline: Some(Instant::now() + Duration::from_millis(millis)),
        ..ask(2)
    }
}

fn poll(place: &mut Place) -> Poll<Result<Permit, Refusal>> {
    Pin::new(place).poll(&mut Context::from_waker(Waker::noop()))
}

fn permit(place: &mut Place) -> Permit {
    match poll(place) {
        Poll::Ready(Ok(permit)) => permit,
        other => panic!("not let through: {other:?}"),
    }
}

/// Two at once of capacity one; both permits.
fn filled(cell: &Arc<VersionCell>) -> [Permit; 2] {
    [(); 2].map(|()| Permit::try_new(cell).unwrap())
}

#[test]
fn so_many_are_let_through_and_no_more() {
    let cell = gate(1);
    let _held = filled(&cell);

    assert!(Permit::try_new(&cell).is_none());
    assert_eq!((2, 0), (cell.gate.inflight(), cell.gate.waiting()));
}

#[test]
fn room_goes_to_the_first_who_waits_and_to_nobody_before_him() {
    let cell = gate(1);
    let [one, _two] = filled(&cell);
    let (mut first, mut second) = (
        Place::take(&cell, ask(2)).unwrap(),
        Place::take(&cell, ask(2)).unwrap(),
    );
    assert!(poll(&mut first).is_pending() && poll(&mut second).is_pending());

    drop(one);

    assert!(Permit::try_new(&cell).is_none());
    assert!(poll(&mut second).is_pending());
    drop(permit(&mut first));
    let _second = permit(&mut second);
    assert_eq!((2, 0), (cell.gate.inflight(), cell.gate.waiting()));
}

#[test]
fn a_better_rank_goes_first() {
    let cell = gate(1);
    let [mut one, mut two] = filled(&cell);
    let mut usual = Place::take(&cell, ask(2)).unwrap();
    let mut urgent = Place::take(&cell, ask(1)).unwrap();

    one.done(5_000, true);

    let _urgent = permit(&mut urgent);
    assert!(poll(&mut usual).is_pending());
    two.done(5_000, true);
    let _usual = permit(&mut usual);
}

#[test]
fn a_full_queue_refuses_and_says_when_there_is_room() {
    let cell = gate(1);
    cell.gate.took.store(10_000, Relaxed);
    let _held = filled(&cell);
    let _queue: Vec<_> = (0..10)
        .map(|_| Place::take(&cell, ask(2)).unwrap())
        .collect();

    let refused = Place::take(&cell, ask(2)).unwrap_err();

    let expected = Refusal {
        reason: Reason::Full,
        room_in: Duration::from_millis(50),
    };
    assert_eq!(expected, refused);
    assert_eq!(10, cell.gate.waiting());
}

#[test]
fn a_better_rank_takes_the_place_of_the_last_one_in_a_full_queue() {
    let cell = gate(1);
    let [one, _two] = filled(&cell);
    let mut queue: Vec<_> = (0..10)
        .map(|_| Place::take(&cell, ask(2)).unwrap())
        .collect();

    let mut urgent = Place::take(&cell, ask(1)).unwrap();

    let Poll::Ready(Err(refusal)) = poll(&mut queue[9]) else {
        panic!("the last one still waits")
    };
    assert_eq!(Reason::Displaced, refusal.reason);
    assert!(poll(&mut queue[8]).is_pending());
    assert_eq!(10, cell.gate.waiting());
    drop(one);
    let _urgent = permit(&mut urgent);
    drop(queue);
    assert_eq!(0, cell.gate.waiting());
}

#[test]
fn what_cannot_be_answered_in_time_is_refused_at_once() {
    let cell = gate(1);
    cell.gate.took.store(20_000, Relaxed);
    let _held = filled(&cell);
    let _queue: Vec<_> = (0..5)
        .map(|_| Place::take(&cell, ask(2)).unwrap())
        .collect();

    assert_eq!(
        Some(Reason::Late),
        Place::take(&cell, within(40)).err().map(|r| r.reason)
    );
    assert!(Place::take(&cell, within(4_000)).is_ok());
}

#[test]
fn what_became_too_late_is_passed_over() {
    let cell = gate(1);
    let [mut one, _two] = filled(&cell);
    let mut late = Place::take(&cell, within(1_000)).unwrap();
    let mut next = Place::take(&cell, ask(2)).unwrap();

    one.done(16_000_000, true);

    assert!(matches!(poll(&mut late), Poll::Ready(Err(r)) if r.reason == Reason::Late));
    let _next = permit(&mut next);
    assert_eq!((2, 0), (cell.gate.inflight(), cell.gate.waiting()));
}

#[test]
fn one_that_leaves_makes_no_trouble_whenever_it_leaves() {
    let cell = gate(1);
    let [one, two] = filled(&cell);
    let (early, late) = (
        Place::take(&cell, ask(2)).unwrap(),
        Place::take(&cell, ask(2)).unwrap(),
    );
    let mut last = Place::take(&cell, ask(2)).unwrap();

    drop(early);
    drop(one);
    // It was let through and does not know it yet.
    drop(late);

    let _last = permit(&mut last);
    drop(two);
    assert_eq!((1, 0), (cell.gate.inflight(), cell.gate.waiting()));
}

#[test]
fn a_second_copy_lets_more_through_at_once() {
    let cell = gate(1);
    let _held = filled(&cell);
    let mut waiting = Place::take(&cell, ask(2)).unwrap();

    cell.gate.set_capacity(2);

    let _third = permit(&mut waiting);
    assert_eq!((3, 4), (cell.gate.inflight(), cell.gate.limit()));
}

#[test]
fn a_burst_finds_the_room_that_a_fast_version_has() {
    let cell = gate(1);
    let mut one = Permit::try_new(&cell).unwrap();
    one.done(1_000, true);

    let _held = filled(&cell);
    let mut third = Place::take(&cell, ask(2)).unwrap();

    let _third = permit(&mut third);
    assert_eq!((3, 10), (cell.gate.inflight(), cell.gate.limit()));
}

#[test]
fn a_fast_version_is_given_more_while_requests_wait() {
    let cell = gate(1);
    let mut held: Vec<_> = filled(&cell).into_iter().collect();
    for _ in 0..200 {
        let mut queue = vec![Place::take(
            &cell,
            Ask {
                most: 1_000,
                ..ask(2)
            },
        )
        .unwrap()];
        while let Some(mut permit) = held.pop() {
            queue.push(
                Place::take(
                    &cell,
                    Ask {
                        most: 1_000,
                        ..ask(2)
                    },
                )
                .unwrap(),
            );
            permit.done(500, true);
        }
        held = queue
            .into_iter()
            .filter_map(|mut place| match poll(&mut place) {
                Poll::Ready(outcome) => outcome.ok(),
                Poll::Pending => None,
            })
            .collect();
    }

    assert!(cell.gate.limit() > 100, "{}", cell.gate.limit());
    drop(held);
    assert_eq!((0, 0), (cell.gate.inflight(), cell.gate.waiting()));
}

/// Wakes a thread.
struct Unpark(thread::Thread);

impl std::task::Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

fn block_on(mut place: Place) -> Result<Permit, Refusal> {
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    loop {
        match Pin::new(&mut place).poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(outcome) => return outcome,
            Poll::Pending => thread::park(),
        }
    }
}

#[test]
fn threads_share_one_bound_and_nobody_is_forgotten() {
    const EACH: usize = 5_000;
    let cell = gate(1);
    let (inside, most) = (AtomicUsize::new(0), AtomicUsize::new(0));
    thread::scope(|scope| {
        for number in 0..4 {
            let (cell, inside, most) = (&cell, &inside, &most);
            scope.spawn(move || {
                for turn in 0..EACH {
                    let permit = Permit::try_new(cell).or_else(|| {
                        let place = Place::take(
                            cell,
                            Ask {
                                most: 100,
                                ..ask(2)
                            },
                        )
                        .unwrap();
                        // Some go away while they wait.
                        ((turn + number) % 7 != 0).then(|| block_on(place).unwrap())
                    });
                    let Some(mut permit) = permit else { continue };
                    most.fetch_max(inside.fetch_add(1, Relaxed) + 1, Relaxed);
                    inside.fetch_sub(1, Relaxed);
                    // So slow that the limit stays at its least.
                    permit.done(50_000, false);
                }
            });
        }
    });

    assert!(most.load(Relaxed) <= 2, "{most:?} at once");
    assert_eq!((0, 0), (cell.gate.inflight(), cell.gate.waiting()));
}
