"""Counters added up to the use of versions, and the values they are made of."""

from __future__ import annotations

from dataclasses import FrozenInstanceError

import pytest

from gateway.bridge import ArmCounters, Counters, Event, QueueCounters, Settings, version_use
from router.ports import VersionUse

NO_TIMES = (0,) * 16


def arm(version: str, name: str, ok: int = 0, failed: int = 0, inflight: int = 0) -> ArmCounters:
    """Requests of one arm of `digits`."""
    codes = (ok, *(0,) * 13, failed, 0, 0)
    return ArmCounters("digits", version, name, codes, NO_TIMES, 0, inflight)


def counters(*arms: ArmCounters, queues: tuple[QueueCounters, ...] = ()) -> Counters:
    """Counters of these arms and queues only."""
    return Counters(1, arms, (), queues, (), 0, 0, 0, 0, (), (), (), (), 0)


def test_arms_of_one_version_are_added_up() -> None:
    """Begun requests are those that ended, with any code, and those in flight."""
    read = counters(arm("3", "stable", ok=5, failed=2, inflight=1), arm("3", "pinned", ok=1))

    assert version_use(read) == (VersionUse("digits", "3", requests=9, inflight=1, waiting=0),)


def test_versions_are_told_apart_and_sorted() -> None:
    """One entry a version."""
    used = version_use(counters(arm("3", "stable", ok=1), arm("2", "canary", ok=4)))

    assert [(use.version, use.requests) for use in used] == [("2", 4), ("3", 1)]


def test_requests_that_reached_no_version_are_left_out() -> None:
    """Refused and unknown ones use nothing."""
    assert version_use(counters(arm("", "", failed=7))) == ()


def test_requests_that_wait_are_told() -> None:
    """Also of a version that answered none yet."""
    queue = QueueCounters("digits", "1", NO_TIMES, 0, 3, 7, (0, 0, 0, 0), 2, 0)

    assert version_use(counters(queues=(queue,))) == (VersionUse("digits", "1", 0, 0, 3),)


def test_open_sequences_use_their_version() -> None:
    """Between their requests too, so that their state is not unloaded."""
    queue = QueueCounters("digits", "1", NO_TIMES, 0, 0, 0, (0, 0, 0), 0, 5)

    used = version_use(counters(arm("1", "stable", ok=9, inflight=1), queues=(queue,)))

    assert used == (VersionUse("digits", "1", requests=10, inflight=6, waiting=0),)


def test_values_are_equal_by_their_fields() -> None:
    """Like dataclasses, and never equal to another type."""
    one, same = arm("3", "stable", ok=1), arm("3", "stable", ok=1)

    assert one == same
    assert one != arm("3", "stable", ok=2)
    assert one != "digits"
    assert Event("cold", "m", "1", "", "", None) != one


def test_values_show_their_fields() -> None:
    """As a call that would make them."""
    event = Event("backend_down", "", "", "t0", "refused", None)

    fields = "kind='backend_down', model='', version='', backend='t0', detail='refused', webhook=None"
    assert repr(event) == f"Event({fields})"


def test_values_cannot_be_changed() -> None:
    """Neither those of the extension nor the settings."""
    with pytest.raises(AttributeError):
        arm("3", "stable").inflight = 1  # type: ignore[misc]
    with pytest.raises(FrozenInstanceError):
        Settings().port = 1  # type: ignore[misc]
