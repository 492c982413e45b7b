"""How a version answered, from the data plane's counters."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from gateway.bridge import BUCKET_BOUNDS_US, Counters
from gateway.detail import measured, quantile
from gateway.operations import Measured
from tests.fakes.counters import BUCKETS, ArmCounters


def counters(*arms: ArmCounters) -> Counters:
    """The data plane's, with nothing but arms."""
    return cast(Counters, cast(Any, SimpleNamespace(arms=arms)))


def test_all_arms_of_a_version_count_together() -> None:
    """And no other version's."""
    found = measured(
        counters(
            ArmCounters(), ArmCounters(arm="pinned"), ArmCounters(version="2"), ArmCounters(model="other")
        ),
        "digits",
        "1",
    )

    assert (found.requests, found.failed) == (20, 2)
    assert found.mean == pytest.approx(0.15)


def test_what_nobody_asked_for_has_no_times() -> None:
    """Zero would look fast."""
    assert measured(counters(), "digits", "1") == Measured()


@pytest.mark.parametrize(
    ("share", "seconds"),
    [
        (0.1, BUCKET_BOUNDS_US[0]),
        (0.2, BUCKET_BOUNDS_US[0] + (BUCKET_BOUNDS_US[1] - BUCKET_BOUNDS_US[0]) / 2),
        (0.6, BUCKET_BOUNDS_US[2]),
        (0.99, BUCKET_BOUNDS_US[-1]),
    ],
)
def test_quantiles_are_prometheus_own(share: float, seconds: float) -> None:
    """Linear within a bucket; above the last bound that bound, as `histogram_quantile` has it."""
    assert quantile(share, BUCKETS) == pytest.approx(seconds / 1_000_000)


def test_there_is_no_quantile_of_nothing() -> None:
    """None, not zero."""
    assert quantile(0.5, [0] * (len(BUCKET_BOUNDS_US) + 1)) is None
