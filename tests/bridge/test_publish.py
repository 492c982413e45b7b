"""What is refused leaves the old table as it was."""

from __future__ import annotations

from dataclasses import replace

import pytest

from gateway.bridge import DataPlane
from router.traffic.table import Delta, PointerSpec, Snapshot
from tests.bridge.tables import T0, delta, digits, snapshot, version, with_arms


@pytest.mark.parametrize(
    ("bad", "expected"),
    [
        (snapshot(digits(), digits(), revision=2), 'model "digits" is given twice'),
        (replace(snapshot(digits(), revision=2), backends=(T0, T0)), 'backend "t0" is given twice'),
        (replace(snapshot(digits(), revision=2), backends=(T0,)), 'names backend "t1"'),
        (snapshot(with_arms(digits(), ("stable", "3", 9_999)), revision=2), "sum to 9999"),
        (snapshot(with_arms(digits(), ("stable", "9", 10_000)), revision=2), 'names version "9"'),
        (
            snapshot(replace(digits(), pointers=(PointerSpec("stage", "production", "9"),)), revision=2),
            'points to version "9"',
        ),
        (
            snapshot(replace(digits(), versions=(version("digits", "3", state="ready"),)), revision=2),
            "ready but has no backend",
        ),
        (snapshot(digits("no such name"), revision=2), '"no such name" is not allowed'),
    ],
)
def test_a_snapshot_that_contradicts_itself_changes_nothing(
    plane: DataPlane, bad: Snapshot, expected: str
) -> None:
    """ValueError names the object, and requests go on by the old table."""
    plane.publish(snapshot(digits()))

    with pytest.raises(ValueError, match=expected):
        plane.publish(bad)

    assert plane.counters().revision == 1
    assert plane.explain("digits").version == "3"


@pytest.mark.parametrize(
    ("bad", "expected"),
    [
        (delta(0, digits()), "on revision 0, but the table is at revision 1"),
        (delta(1, drop=("fraud",)), '"fraud" cannot be dropped: there is none'),
        (delta(1, digits(), drop=("digits",)), '"digits" is named twice'),
        (replace(delta(1), drop_backends=("t0",)), '"t0" cannot be dropped: 2 versions still name it'),
        (replace(delta(1), revision=1), "is not after its base revision"),
    ],
)
def test_a_delta_that_does_not_fit_changes_nothing(plane: DataPlane, bad: Delta, expected: str) -> None:
    """ValueError names the object, and requests go on by the old table."""
    plane.publish(snapshot(digits()))

    with pytest.raises(ValueError, match=expected):
        plane.publish_delta(bad)

    assert plane.counters().revision == 1
    assert plane.explain("digits").version == "3"


def test_a_delta_moves_a_stage(plane: DataPlane) -> None:
    """What is put is live when the call returns."""
    plane.publish(snapshot(digits()))
    moved = with_arms(digits(), ("stable", "2", 10_000))

    plane.publish_delta(delta(1, moved))

    assert plane.explain("digits").version == "2"
    assert plane.counters().revision == 2
