"""What the residency plan promises, for any situation."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from router.model import BackendId, ModelName, VersionId
from router.placement.backoff import Failure, after_failure
from router.placement.residency import (
    Action,
    BackendView,
    Left,
    Load,
    ResidencyInput,
    Resident,
    Unload,
    VersionKey,
    plan,
)

keys = st.builds(lambda v: (ModelName("m"), VersionId(v)), st.sampled_from("12345"))
backend_ids = st.sampled_from(["t0", "t1", "t2"]).map(BackendId)
times = st.floats(0, 10_000)
situations = st.builds(
    ResidencyInput,
    now=times,
    backends=st.lists(
        st.builds(BackendView, backend_ids, st.booleans(), st.booleans(), st.integers(0, 5)),
        unique_by=lambda view: view.name,
        max_size=3,
    ).map(tuple),
    residents=st.lists(
        st.builds(Resident, keys, backend_ids, st.booleans()),
        unique_by=lambda r: (r.key, r.backend),
        max_size=6,
    ).map(tuple),
    wanted=st.lists(keys, max_size=4).map(tuple),
    cold=st.dictionaries(keys, times, max_size=3),
    named=st.dictionaries(keys, st.just("stage production"), max_size=3),
    left=st.dictionaries(keys, st.builds(Left, times, st.just("alias champion")), max_size=3),
    last_use=st.dictionaries(keys, times),
    inflight=st.dictionaries(keys, st.integers(0, 2)),
    loading=st.dictionaries(keys, backend_ids, max_size=2),
    unloading=st.frozensets(st.tuples(keys, backend_ids), max_size=2),
    failures=st.dictionaries(keys, st.builds(Failure, st.just("no"), st.integers(1, 9), times), max_size=3),
)


def loads(actions: tuple[Action, ...]) -> list[Load]:
    """The loads among them."""
    return [action for action in actions if isinstance(action, Load)]


def unloads(actions: tuple[Action, ...]) -> list[Unload]:
    """The unloads among them."""
    return [action for action in actions if isinstance(action, Unload)]


@given(situations)
def test_loads_are_asked_for_single_and_possible(now: ResidencyInput) -> None:
    """One for each version at most, where it can be, never within its wait."""
    found = loads(plan(now))
    usable = {view.name for view in now.backends if view.up and view.explicit}
    kept = {r.key for r in now.residents if not r.stale and (r.key, r.backend) not in now.unloading}

    assert len({load.key for load in found}) == len(found)
    for load in found:
        assert load.key in now.wanted or load.key in now.cold
        assert load.key not in now.loading
        assert load.key not in kept
        assert load.backend in usable
        assert (load.key, load.backend) not in now.unloading
        assert load.key not in now.failures or now.failures[load.key].retry_at <= now.now


@given(situations)
def test_everything_asked_for_is_there_under_way_or_planned_where_it_can_be(now: ResidencyInput) -> None:
    """Nothing is forgotten but what waits after a failure, or has no backend to go to."""
    kept = {r.key for r in now.residents if not r.stale and (r.key, r.backend) not in now.unloading}
    planned = {load.key for load in loads(plan(now))}

    asked: set[VersionKey] = {*now.wanted, *now.cold}
    waits = {key for key, failure in now.failures.items() if failure.retry_at > now.now}
    usable = {view.name for view in now.backends if view.up and view.explicit}
    homeless = {key for key in asked if usable <= {name for k, name in now.unloading if k == key}}
    assert planned == asked - kept - now.loading.keys() - waits - homeless


@given(situations)
def test_unloads_touch_only_idle_copies_of_ours(now: ResidencyInput) -> None:
    """Never what is named, wanted, waited for, recent or in flight; never a backend that is not ours."""
    for unload in unloads(plan(now)):
        resident = next(r for r in now.residents if (r.key, r.backend) == (unload.key, unload.backend))
        view = next(view for view in now.backends if view.name == unload.backend)
        assert view.up
        assert view.explicit
        assert (unload.key, unload.backend) not in now.unloading
        assert now.inflight.get(unload.key, 0) == 0
        if not resident.stale:
            assert unload.key not in {*now.named, *now.wanted, *now.cold, *now.loading}
            assert now.now - now.last_use[unload.key] >= now.idle_unload
            left = now.left.get(unload.key)
            assert left is None or now.now - left.at >= now.rollback_window


@given(situations)
def test_a_plan_that_was_begun_leaves_nothing_to_do(now: ResidencyInput) -> None:
    """Loads are then under way and so are unloads."""
    actions = plan(now)
    begun = replace(
        now,
        loading={**now.loading, **{load.key: load.backend for load in loads(actions)}},
        unloading=now.unloading | {(unload.key, unload.backend) for unload in unloads(actions)},
    )

    assert unloads(plan(begun)) == []
    leaving = {unload.key for unload in unloads(actions)}
    assert [load for load in loads(plan(begun)) if load.key not in leaving] == []


@given(situations)
def test_every_action_says_why(now: ResidencyInput) -> None:
    """In a sentence, under a word of a short list."""
    for action in plan(now):
        assert action.why
        assert action.cause in ({"request", "route"} if isinstance(action, Load) else {"idle", "stale"})


@given(st.integers(1, 10**9), times)
def test_a_wait_is_between_a_second_and_a_minute(attempts: int, now: float) -> None:
    """However often it failed."""
    failure = after_failure(Failure("x", attempts, 0.0), "x", now)

    assert 1.0 <= round(failure.retry_at - now, 6) <= 60.0
