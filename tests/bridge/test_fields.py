"""The structs on both sides of the seam have the same fields in the same order."""

from __future__ import annotations

import dataclasses
import inspect

import pytest

from gateway import _dataplane, bridge, metrics
from router.traffic import table

MIRRORED = {
    cls.__name__: cls
    for cls in [bridge.Settings, *vars(table).values()]
    if inspect.isclass(cls) and dataclasses.is_dataclass(cls)
}


def test_both_sides_have_the_same_structs() -> None:
    """A dataclass that crosses has its Rust struct, and no Rust struct is left without one."""
    assert set(_dataplane.struct_fields()) == set(MIRRORED)


@pytest.mark.parametrize("name", sorted(MIRRORED))
def test_both_sides_have_the_same_fields(name: str) -> None:
    """Names and order of fields agree."""
    fields = tuple(field.name for field in dataclasses.fields(MIRRORED[name]))

    assert _dataplane.struct_fields()[name] == fields


def test_the_bounds_of_histograms_are_the_published_ones() -> None:
    """DESIGN 11's buckets, in microseconds."""
    bounds_ms = (0.5, 1, 2.5, 5, 10, 25, 50, 100, 250, 500, 1000, 2500, 5000, 10000, 30000)

    assert tuple(bound / 1000 for bound in bridge.BUCKET_BOUNDS_US) == bounds_ms


def test_the_words_of_copies_are_the_published_ones() -> None:
    """Metrics name numbers of the data plane by their place."""
    assert bridge.SHADOW_RESULTS == metrics.SHADOW_RESULTS
    assert bridge.UNCOMPARED == metrics.UNCOMPARED


def test_the_public_names_of_the_bridge_exist() -> None:
    """What `__all__` promises is there."""
    assert all(hasattr(bridge, name) for name in bridge.__all__)
