"""Summaries of repeated measurements."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import median
from typing import TypeVar

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Summary:
    """Least, middle and most of some values."""

    least: float
    median: float
    most: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Summary:
        """The summary of at least one value."""
        return cls(min(values), median(values), max(values))


def paired_ratio(values: Sequence[float], yardstick: Sequence[float]) -> float:
    """The median, over the rounds, of a value over the yardstick's value of the same round.

    Neighbours on the machine move both alike within a round, so this is steadier than a ratio of medians.
    """
    return median(value / other for value, other in zip(values, yardstick, strict=True))


def interleaved(rounds: int, items: Sequence[T], seed: int) -> Iterator[tuple[int, T]]:
    """Every item once a round, each round in another order; the same seed gives the same orders."""
    order = random.Random(seed)  # noqa: S311 - an order of measurements, not a secret
    for number in range(rounds):
        yield from ((number, item) for item in order.sample(list(items), len(items)))
