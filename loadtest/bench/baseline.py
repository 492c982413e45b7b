"""The committed instruction counts, and what a new count means beside them. Decides; touches nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

TOLERANCE = 0.03


@dataclass(frozen=True, slots=True)
class Comparison:
    """One shape: instructions a request before and now."""

    shape: str
    before: float
    now: float

    @property
    def change(self) -> float:
        """+0.01 is one percent dearer."""
        return self.now / self.before - 1

    @property
    def too_dear(self) -> bool:
        """Whether the check must fail."""
        return self.change > TOLERANCE

    @property
    def worth_recording(self) -> bool:
        """Whether it has become so much cheaper that the baseline should follow."""
        return self.change < -TOLERANCE


def compare(before: Mapping[str, float], now: Mapping[str, float]) -> list[Comparison]:
    """Every shape that both have."""
    return [Comparison(shape, before[shape], count) for shape, count in now.items() if shape in before]


def environment_key(rustc: str, libc: str, arch: str) -> str:
    """What a baseline belongs to: the compiler and the C library decide what is executed.

    Args:
        rustc: as `rustc --version` says it, commit and date included.
        libc: such as `glibc 2.36`.
        arch: such as `x86_64`.
    """
    return ", ".join((rustc.partition(" (")[0], libc, arch))
