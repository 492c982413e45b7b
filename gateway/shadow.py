"""Compares what shadows answered with what clients got, beside everything else.

The data plane hands over pairs of answers through a bounded queue. They are read and compared on another
thread, a few at a time, so that neither the control loop nor any request waits for it; what this cannot keep
up with, the data plane gives up and counts.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from gateway.operations import Mismatch, ShadowComparison
from router.backends.answers import read_outputs
from router.errors import InvalidAnswer
from router.model import Tolerance
from router.traffic.compare import Comparison, Difference, compare

AT_ONCE = 16
"""Pairs that are taken and compared in one go."""

RECENT = 16
"""Mismatches of one shadow that are kept to be shown."""

MOST = 1_000
"""Shadows, by model and version, whose numbers are kept; beyond that the oldest are forgotten."""

LONGEST_DETAIL = 400
"""Characters of one mismatch that are kept."""


class Pair(Protocol):
    """Two answers to one request, as `gateway.bridge.ShadowPair` has them."""

    @property
    def model(self) -> str:
        """The logical model."""
        ...

    @property
    def version(self) -> str:
        """The version that answered the client."""
        ...

    @property
    def shadow(self) -> str:
        """The name of the shadow."""
        ...

    @property
    def shadow_version(self) -> str:
        """The shadow's version."""
        ...

    @property
    def request(self) -> str:
        """The token that the client has for its request."""
        ...

    @property
    def primary(self) -> bytes:
        """The client's answer."""
        ...

    @property
    def copy(self) -> bytes:
        """The shadow's answer."""
        ...


class PairSource(Protocol):
    """Gives pairs."""

    async def shadow_pairs(self, most: int) -> Sequence[Pair]:
        """Wait for pairs, and return at most so many."""
        ...


ToleranceOf = Callable[[str, str], Tolerance | None]
"""The tolerance of a model's shadow by their names; None where the route has no such shadow any more."""


@dataclass(slots=True)
class _Counted:
    compared: int = 0
    kinds: dict[str, int] = field(default_factory=dict)
    rows: int = 0
    agreed: int = 0
    recent: deque[Mismatch] = field(default_factory=lambda: deque(maxlen=RECENT))


class ShadowComparer:
    """Takes pairs for as long as it runs, and keeps what came of them. Lives on the event loop."""

    def __init__(self, source: PairSource, tolerance: ToleranceOf, unix: Callable[[], float]) -> None:
        self._source = source
        self._tolerance = tolerance
        self._unix = unix
        self._counted: dict[tuple[str, str, str], _Counted] = {}

    async def run(self) -> None:
        """Compare until cancelled."""
        while True:
            pairs = await self._source.shadow_pairs(AT_ONCE)
            # A pair that was under way when its shadow left the route is of no use to anybody.
            asked = [
                (pair, tolerance)
                for pair in pairs
                if (tolerance := self._tolerance(pair.model, pair.shadow)) is not None
            ]
            compared = await asyncio.to_thread(lambda asked=asked: [judge(*one) for one in asked])  # type: ignore[misc]
            for (pair, _), comparison in zip(asked, compared, strict=True):
                self._count(pair, comparison)

    def comparisons(self) -> tuple[ShadowComparison, ...]:
        """What came of all comparisons so far, by model, version and name of the shadow."""
        return tuple(
            ShadowComparison(
                model=model,
                version=version,
                shadow=shadow,
                compared=counted.compared,
                mismatches=dict(counted.kinds),
                rows=counted.rows,
                agreed=counted.agreed,
                recent=tuple(reversed(counted.recent)),
            )
            for (model, version, shadow), counted in sorted(self._counted.items())
        )

    def _count(self, pair: Pair, comparison: Comparison) -> None:
        key = (pair.model, pair.shadow_version, pair.shadow)
        counted = self._counted.setdefault(key, _Counted())
        if len(self._counted) > MOST:
            del self._counted[next(iter(self._counted))]
        counted.compared += 1
        counted.rows += comparison.rows
        counted.agreed += comparison.agreed
        if not comparison.differences:
            return
        worst = comparison.differences[0]
        counted.kinds[worst.kind] = counted.kinds.get(worst.kind, 0) + 1
        counted.recent.append(
            Mismatch(
                at=self._unix(),
                request=pair.request,
                version=pair.version,
                kind=worst.kind,
                output=worst.output,
                detail=worst.detail[:LONGEST_DETAIL],
                largest=worst.largest,
            )
        )


def judge(pair: Pair, tolerance: Tolerance) -> Comparison:
    """Read both answers and compare them. An answer whose bytes do not fit is a difference of its own."""
    try:
        primary = read_outputs(pair.primary)
    except InvalidAnswer as problem:
        return Comparison((Difference("", "primary_invalid", problem.message),))
    try:
        shadow = read_outputs(pair.copy)
    except InvalidAnswer as problem:
        return Comparison((Difference("", "invalid", problem.message),))
    return compare(primary, shadow, tolerance)
