"""What is loaded and unloaded, and the sentence that says why."""

from __future__ import annotations

from dataclasses import replace

import pytest

from router.model import BackendId, ModelName, VersionId
from router.placement.backoff import Failure, after_failure
from router.placement.filters import Candidate, choose
from router.placement.residency import (
    BackendView,
    Left,
    Load,
    ResidencyInput,
    Resident,
    Unload,
    VersionKey,
    plan,
    stays_for,
)

T0, T1 = BackendId("t0"), BackendId("t1")
TWO = (BackendView(T0, up=True, explicit=True, models=2), BackendView(T1, up=True, explicit=True, models=1))


def key(version: str) -> VersionKey:
    """A version of digits."""
    return ModelName("digits"), VersionId(version)


ONE, THREE = key("1"), key("3")
LOADED = ResidencyInput(now=5000.0, backends=TWO, residents=(Resident(ONE, T0),), last_use={ONE: 3000.0})
"""Version 1 was last used 2,000 s ago and nothing names it."""


def test_what_a_route_wants_is_loaded_where_fewest_models_are() -> None:
    """With the reason for both."""
    actions = plan(ResidencyInput(now=0.0, backends=TWO, wanted=(ONE,), named={ONE: "arm canary"}))

    assert actions == (Load(ONE, T1, "route", "arm canary wants it loaded; t1 has the fewest models (1)"),)


def test_requests_come_first_and_the_longest_wait_before_others() -> None:
    """A waiting client is worth more than a plan."""
    now = ResidencyInput(now=9.0, backends=TWO, wanted=(ONE,), cold={key("2"): 8.0, THREE: 7.0})

    assert [(action.key, action.cause) for action in plan(now)] == [
        (THREE, "request"),
        (key("2"), "request"),
        (ONE, "route"),
    ]


def test_loads_of_one_turn_spread_over_backends() -> None:
    """Each counts for the next choice."""
    now = ResidencyInput(now=0.0, backends=TWO, wanted=(ONE, key("2"), THREE))

    assert [action.backend for action in plan(now)] == [T1, T0, T1]


def test_a_version_is_loaded_once() -> None:
    """Neither again where it is ready, nor while a load is under way."""
    ready = ResidencyInput(
        now=0.0, backends=TWO, residents=(Resident(ONE, T0),), wanted=(ONE,), cold={ONE: 0.0}
    )
    loading = ResidencyInput(now=0.0, backends=TWO, loading={ONE: T0}, wanted=(ONE,), cold={ONE: 0.0})

    assert plan(ready) == plan(loading) == ()


def test_a_copy_that_is_leaving_does_not_count() -> None:
    """The version is loaded elsewhere, not where it is just unloaded."""
    now = ResidencyInput(
        now=0.0,
        backends=TWO,
        residents=(Resident(ONE, T1),),
        unloading=frozenset({(ONE, T1)}),
        cold={ONE: 0.0},
    )

    assert [(type(action), action.backend) for action in plan(now)] == [(Load, T0)]


def test_a_failed_load_is_tried_again_after_its_wait() -> None:
    """Not before, also not for a request."""
    now = ResidencyInput(
        now=10.0,
        backends=TWO,
        cold={ONE: 9.0},
        failures={ONE: Failure("no memory", attempts=3, retry_at=12.0)},
    )

    assert plan(now) == ()
    assert len(plan(replace(now, now=12.0))) == 1


def test_a_version_goes_elsewhere_from_where_the_backend_failed() -> None:
    """Others still go there."""
    now = ResidencyInput(now=0.0, backends=TWO, wanted=(ONE, THREE), held=frozenset({(ONE, T1)}))

    assert [(action.key, action.backend) for action in plan(now)] == [(ONE, T0), (THREE, T1)]
    assert plan(replace(now, wanted=(ONE,), held=frozenset({(ONE, T0), (ONE, T1)}))) == ()


def test_waits_double_to_a_minute() -> None:
    """And never overflow."""
    failure, waits = None, []
    for _ in range(8):
        failure = after_failure(failure, "why", 100.0)
        waits.append(failure.retry_at - 100.0)

    assert waits == [1, 2, 4, 8, 16, 32, 60, 60]
    assert after_failure(Failure("why", 10**6, 0.0), "why", 0.0) == Failure("why", 10**6 + 1, 60.0)


@pytest.mark.parametrize(
    ("backends", "reason"),
    [
        ((), "no backend is configured"),
        (
            (Candidate(T0, False, True, 0), Candidate(T1, True, False, 0)),
            "no backend can load it: t0: it does not answer; "
            "t1: its models are not ours to load (`control: none`)",
        ),
    ],
)
def test_without_a_backend_the_reason_names_each(backends: tuple[Candidate, ...], reason: str) -> None:
    """And nothing is loaded."""
    views = tuple(BackendView(one.name, one.up, one.explicit) for one in backends)

    assert plan(ResidencyInput(now=0.0, backends=views, wanted=(ONE,))) == ()
    assert choose(backends).why == reason


def test_the_only_backend_that_can_is_said_to_be_that() -> None:
    """A choice of one is none."""
    only = Candidate(T0, up=True, explicit=True, models=7)
    leaving = Candidate(T1, up=True, explicit=True, models=0, unloading=True)

    assert choose([only, leaving]).why == "t0 is the only backend that can"


def test_an_idle_version_that_nothing_names_is_unloaded() -> None:
    """After the idle time, to the moment."""
    why = "no stage, alias or route names it, and no request came for 2000 s"

    assert plan(LOADED) == (Unload(ONE, T0, "idle", why),)
    assert len(plan(replace(LOADED, now=4800.0))) == 1
    assert plan(replace(LOADED, now=4799.9)) == ()


@pytest.mark.parametrize(
    "reason_to_stay",
    [
        {"named": {ONE: "stage staging"}},
        {"wanted": (ONE,)},
        {"cold": {ONE: 4999.0}},
        {"inflight": {ONE: 1}},
        {"last_use": {ONE: 4000.0}},
        {"last_use": {}},
        {"unloading": frozenset({(ONE, T0)})},
        {"loading": {ONE: T1}},
        {"idle_unload": 2001.0},
        {"backends": (BackendView(T0, up=True, explicit=False), TWO[1])},
        {"backends": (BackendView(T0, up=False, explicit=True), TWO[1])},
        {"backends": (TWO[1],)},
    ],
    ids=lambda change: next(iter(change)),
)
def test_a_version_in_use_stays(reason_to_stay: dict[str, object]) -> None:
    """Each of these alone keeps it."""
    changed = replace(LOADED, **reason_to_stay)  # type: ignore[arg-type]

    assert [action for action in plan(changed) if isinstance(action, Unload)] == []


def test_what_was_named_a_moment_ago_stays_for_the_rollback_window() -> None:
    """However idle it is; then it goes like anything else."""
    now = replace(LOADED, left={ONE: Left(4_500.0, "alias champion")}, rollback_window=600.0)
    later = replace(now, now=5_100.0)

    assert (plan(now), stays_for(now, ONE)) == ((), "rollback window of alias champion")
    assert [action.cause for action in plan(later)] == ["idle"]
    assert stays_for(later, ONE) == ""
    assert stays_for(replace(now, named={ONE: "stage staging"}), ONE) == "stage staging"
    assert plan(replace(now, rollback_window=0.0)) != ()


def test_stale_files_go_at_once_and_do_not_count_as_the_version() -> None:
    """The new files are loaded although the old ones are still there."""
    now = replace(LOADED, residents=(Resident(ONE, T0, stale=True),), wanted=(ONE,), last_use={ONE: 5000.0})

    assert [(type(action), action.cause) for action in plan(now)] == [(Load, "route"), (Unload, "stale")]
    assert plan(replace(now, wanted=(), inflight={ONE: 1})) == ()
