"""How long is waited before a registry is asked again."""

from __future__ import annotations

import pytest

from router.registries.polling import pause


@pytest.mark.parametrize(
    ("failures", "took", "waited"),
    [
        (0, 0.0, 5.0),
        (0, 1.5, 3.5),  # the next question begins 5 s after the one before
        (0, 4.0, 2.0),  # who is slow rests half as long as it worked
        (0, 30.0, 5.0),  # and never longer than a poll
        (1, 4.0, 10.0),
        (9, 0.0, 60.0),
    ],
)
def test_questions_begin_a_poll_apart(failures: int, took: float, waited: float) -> None:
    """However slow the answers are; where nobody answers, less often."""
    assert pause(5.0, failures, 0.5, took) == pytest.approx(waited)


def test_gateways_do_not_ask_together() -> None:
    """A tenth more or less."""
    assert [pause(5.0, 0, chance) for chance in (0.0, 1.0)] == pytest.approx([4.5, 5.5])
