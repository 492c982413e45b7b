"""The load test's own decisions: how many users, and whether a run passed."""

from __future__ import annotations

import pytest

from loadtest.report import Answers, Limits, Totals, problems, table

LIMITS = Limits(max_failures=0.01, max_p99_ms=100.0)


@pytest.mark.parametrize(
    ("totals", "count"),
    [
        (Totals(requests=1_000, failures=10, p99_ms=100.0), 0),
        (Totals(requests=1_000, failures=11, p99_ms=100.0), 1),
        (Totals(requests=1_000, failures=0, p99_ms=101.0), 1),
        (Totals(requests=1_000, failures=500, p99_ms=900.0), 2),
    ],
)
def test_a_run_passes_within_its_limits_only(totals: Totals, count: int) -> None:
    """Each limit that is not kept is one line."""
    assert len(problems(totals, LIMITS)) == count


def test_a_run_without_requests_has_not_passed() -> None:
    """A gateway that nobody reached is no success."""
    assert problems(Totals(0, 0, 0.0), LIMITS) == ["no request was sent"]


def test_versions_are_listed_with_their_share_and_how_often_they_were_right() -> None:
    """This is where a split, and a bad version, can be seen."""
    answers = Answers()
    for version, right in [("1", True), ("1", True), ("1", False), ("2", True)]:
        answers.add(version, right=right)

    rows = list(zip(*(column.cells for column in table(answers).columns), strict=True))

    assert rows == [("1", "3", "75.0%", "66.7%"), ("2", "1", "25.0%", "100.0%")]
