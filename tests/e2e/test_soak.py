"""Calls that are given up leave nothing behind: the short form of `python -m loadtest.soak`."""

from __future__ import annotations

from pathlib import Path

from loadtest.bench.footprint import Footprint
from loadtest.soak import Outcome, Report, soak


def test_nothing_stays_of_five_thousand_calls_with_cancels(tmp_path: Path) -> None:
    """In flight back to zero on both sides, memory, descriptors and threads as before."""
    report = soak(5_000, tmp_path)

    assert report.faults() == []
    assert report.outcome.good + report.outcome.cancelled == 5_000
    assert report.outcome.cancelled > 400


def test_a_soak_tells_what_stayed() -> None:
    """A report that finds nothing wrong must be able to."""
    before, after = Footprint(1 << 20, 20, 5), Footprint(1 << 20, 40, 15)
    grown = tuple(number << 20 for number in range(100))
    report = Report(
        outcome=Outcome(good=1, cancelled=0, failures=["UNAVAILABLE: x"]),
        seconds=1.0,
        inflight=1,
        running=2,
        cancelled_there=0,
        resident=grown,
        before=before,
        after=after,
    )

    assert len(report.faults()) == 8
    assert report.growth == 50 << 20
