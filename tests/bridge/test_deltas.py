"""A table made by deltas is the table that was published whole."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.bridge import DataPlane, Explanation, Settings
from router.traffic.table import ArmSpec, Delta, ModelSpec, PointerSpec, Snapshot
from tests.bridge.tables import T0, T1, version

NAMES = ("a", "b", "c", "d")
NUMBERS = ("1", "2", "3")
REFERENCES = ("", *NUMBERS, "production", "@champion")


@st.composite
def models(draw: st.DrawFn, name: str) -> ModelSpec:
    """A model with some versions, perhaps pointers, perhaps a split."""
    numbers = draw(st.lists(st.sampled_from(NUMBERS), unique=True))
    versions = tuple(
        version(name, number, *draw(st.lists(st.sampled_from(["t0", "t1"]), unique=True)))
        for number in numbers
    )
    some_version = st.sampled_from(numbers)
    weight = draw(st.integers(0, 10_000))
    pointed = bool(numbers) and draw(st.booleans())
    routed = bool(numbers) and draw(st.booleans())
    return ModelSpec(
        name=name,
        versions=versions,
        pointers=(
            PointerSpec("stage", "production", draw(some_version)),
            PointerSpec("alias", "champion", draw(some_version)),
        )
        if pointed
        else (),
        arms=(
            ArmSpec("stable", draw(some_version), weight),
            ArmSpec("canary", draw(some_version), 10_000 - weight),
        )
        if routed
        else (),
        split_reference=draw(st.sampled_from(["", "production", "@champion", "1"])),
        deadline_ms=0,
        unroutable="" if routed else "nothing to route",
    )


# Each step gives every name a new model, none at all, or leaves it as it is.
steps = st.lists(
    st.fixed_dictionaries({}, optional={name: st.none() | models(name) for name in NAMES}), max_size=6
)


def explained(plane: DataPlane) -> list[Explanation]:
    """What every name, with every reference, at both ends of the draw leads to."""
    return [
        plane.explain(name, reference, draw)
        for name in NAMES
        for reference in REFERENCES
        for draw in (0, 9_999)
    ]


@pytest.fixture(scope="module")
def planes() -> Iterator[tuple[DataPlane, DataPlane]]:
    """Two data planes, for all examples: each example begins with a whole table."""
    pair = DataPlane(Settings()), DataPlane(Settings())
    yield pair
    for plane in pair:
        plane.stop()


@given(steps=steps)
def test_deltas_give_what_the_whole_gives(
    planes: tuple[DataPlane, DataPlane], steps: list[dict[str, ModelSpec | None]]
) -> None:
    """After any deltas every request is answered as by a snapshot of the same models."""
    whole, stepwise = planes
    revision = 1
    now: dict[str, ModelSpec] = {}
    stepwise.publish(Snapshot(revision=revision, backends=(T0, T1), models=()))
    for step in steps:
        put = tuple(model for model in step.values() if model is not None)
        drop = tuple(name for name, model in step.items() if model is None and name in now)
        stepwise.publish_delta(Delta(revision, revision + 1, (), (), put, drop))
        revision += 1
        now = {name: model for name, model in now.items() if name not in drop}
        now |= {model.name: model for model in put}

    whole.publish(Snapshot(revision=revision, backends=(T0, T1), models=tuple(now.values())))

    assert explained(stepwise) == explained(whole)
    assert stepwise.counters().revision == whole.counters().revision
