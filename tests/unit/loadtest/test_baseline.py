"""When an instruction count fails the check."""

from __future__ import annotations

import pytest

from loadtest.bench.baseline import Comparison, compare, environment_key


@pytest.mark.parametrize(
    ("now", "too_dear", "worth_recording"),
    [(1_029, False, False), (1_031, True, False), (971, False, False), (969, False, True)],
)
def test_three_percent_is_the_line(now: int, too_dear: bool, worth_recording: bool) -> None:
    """Dearer than +3 % fails; cheaper than -3 % asks for a new baseline."""
    comparison = Comparison("8x8", before=1_000, now=now)

    assert (comparison.too_dear, comparison.worth_recording) == (too_dear, worth_recording)


def test_only_shapes_that_both_have_are_compared() -> None:
    """A new shape has no past."""
    assert compare({"1x1": 100}, {"1x1": 101, "8x8": 90}) == [Comparison("1x1", 100, 101)]


def test_a_baseline_belongs_to_compiler_library_and_machine() -> None:
    """The compiler's commit and date say nothing more than its version."""
    key = environment_key("rustc 1.95.0 (59807616e 2026-04-14)", "glibc 2.36", "x86_64")

    assert key == "rustc 1.95.0, glibc 2.36, x86_64"
