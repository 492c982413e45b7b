"""What h2spec counted is read as it was meant."""

from __future__ import annotations

import pytest

from loadtest.bench.errors import BenchError
from loadtest.conformance import Summary, parse_summary


def test_the_count_is_found_below_everything_else() -> None:
    """The last line of a run."""
    text = "Generic tests\n  1: x\n\nFinished in 0.1386 seconds\n146 tests, 145 passed, 1 skipped, 0 failed\n"

    assert parse_summary(text) == Summary(tests=146, passed=145, skipped=1, failed=0)


@pytest.mark.parametrize(
    ("summary", "good"),
    [
        (Summary(146, 146, 0, 0), True),
        (Summary(146, 145, 1, 0), True),
        (Summary(146, 145, 0, 1), False),
        (Summary(147, 145, 2, 0), False),
        (Summary(3, 3, 0, 0), False),
    ],
)
def test_good_is_all_cases_with_at_most_one_skipped(summary: Summary, good: bool) -> None:
    """A run that left cases out is not a good one."""
    assert summary.good is good


def test_no_count_is_an_error_that_shows_what_was_said() -> None:
    """Such as a port that nobody listens on."""
    with pytest.raises(BenchError, match="connection refused"):
        parse_summary("Error: dial tcp: connection refused")
