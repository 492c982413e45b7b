"""Loads that failed by the fault of their backend: they wait there, and say nothing against the version.

A Triton that went away while it loaded a version is most often its own matter. One that goes away again and
again with the same version is not: then the version is held to it, lest it take one Triton after the other.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Set
from dataclasses import dataclass

from router.model import BackendId, ModelName
from router.placement.backoff import Failure, after_failure
from router.placement.residency import VersionKey as Key

CHANCES = 3
"""How often in a row Tritons may go away while they load a version until that counts as its own fault."""


@dataclass(frozen=True, slots=True)
class Fault:
    """The last load of a version that failed on a backend by the backend's fault.

    Attributes:
        failure: what the backend said, how often in a row, and before when it is not asked again.
        away: whether it went away, and said nothing.
    """

    failure: Failure
    away: bool


class Faults:
    """Remembers them by version and backend; times are monotonic seconds."""

    def __init__(self) -> None:
        self._known: dict[Key, dict[BackendId, Fault]] = {}

    def note(self, key: Key, backend: BackendId, reason: str, now: float, *, away: bool) -> Failure:
        """Remember one more."""
        there = self._known.setdefault(key, {})
        before = there[backend].failure if backend in there else None
        there[backend] = Fault(after_failure(before, reason, now), away)
        return there[backend].failure

    def times_away(self, key: Key) -> int:
        """How often in a row Tritons went away while they loaded a version; 0 where that may be chance."""
        times = sum(fault.failure.attempts for fault in self._of(key).values() if fault.away)
        return times if times >= CHANCES else 0

    def held(self, now: float) -> frozenset[tuple[Key, BackendId]]:
        """Where which version is not to be loaded now."""
        return frozenset((key, backend) for key, backend, failure in self._all() if now < failure.retry_at)

    def refusal(self, key: Key, backends: Collection[BackendId], now: float) -> str:
        """Why none of these backends, all of which answer, can load a version now; "" where one may."""
        known = self._of(key)
        refused = [
            known[backend].failure.reason
            for backend in backends
            if backend in known and not known[backend].away and now < known[backend].failure.retry_at
        ]
        return refused[0] if refused and len(refused) == len(backends) else ""

    def reason(self, key: Key) -> str:
        """What a backend said last that could not load a version; "" where none did."""
        failures = [fault.failure for fault in self._of(key).values()]
        return max(failures, key=lambda failure: failure.retry_at).reason if failures else ""

    def due(self, before: float, now: float) -> Iterator[ModelName]:
        """Models of versions that may be tried again since `before`."""
        for (model, _), _, failure in self._all():
            if before < failure.retry_at <= now:
                yield model

    def clear(self, key: Key) -> None:
        """A version was loaded, has other files now, or is gone."""
        self._known.pop(key, None)

    def keep(self, keys: Set[Key]) -> None:
        """Forget all but these versions."""
        self._known = {key: there for key, there in self._known.items() if key in keys}

    def forget_backend(self, backend: BackendId) -> None:
        """A backend is not ours to use any more."""
        for there in self._known.values():
            there.pop(backend, None)

    def _of(self, key: Key) -> Mapping[BackendId, Fault]:
        return self._known.get(key, {})

    def _all(self) -> Iterator[tuple[Key, BackendId, Failure]]:
        for key, there in self._known.items():
            for backend, fault in there.items():
                yield key, backend, fault.failure
