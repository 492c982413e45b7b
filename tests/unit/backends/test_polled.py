"""What a Triton's log says of folders that it could not read."""

from __future__ import annotations

from pathlib import Path

import pytest

from router.backends.polled import end_of, reason
from router.model import TritonName

NAME = TritonName("m.1.0a0a0a0a")
BEFORE = f"E1 x.cc:1] \"Poll failed for model directory '{NAME}': what was wrong before\"\n"
HINT = "its log says why"


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (f"I1 x\nE1 x.cc:1] \"Poll failed for model directory '{NAME}': count is 0\"\nI1 y\n", "count is 0"),
        (f"E1 x.cc:1] Poll failed for model directory '{NAME}.part-a': plain", "plain"),
        (f"Poll failed for model directory '{NAME}': a\nPoll failed for model directory '{NAME}': a\n", "a"),
        ("E1 x.cc:1] \"Poll failed for model directory 'm.2.0b0b0b0b': not ours\"\n", HINT),
        ("", HINT),
    ],
)
def test_only_what_was_said_since_counts(tmp_path: Path, lines: str, said: str) -> None:
    """And only of this model and its parts."""
    log = tmp_path / "triton.log"
    log.write_text(BEFORE)
    since = end_of(log)
    log.write_text(BEFORE + lines)

    assert reason(log, since, NAME).startswith(said)


def test_a_log_that_is_not_there_is_no_trouble(tmp_path: Path) -> None:
    """Nor is a Triton whose log is elsewhere."""
    assert end_of(None) == end_of(tmp_path / "gone") == 0
    assert HINT in reason(None, 0, NAME)
    assert HINT in reason(tmp_path / "gone", 0, NAME)
