"""Why versions are to be loaded, or to stay: who asks for them, and what went on from them a moment ago."""

from __future__ import annotations

from collections.abc import Iterator, Sequence, Set

from router.control.residents import Key
from router.model import ModelName, VersionId
from router.placement.residency import Left


class Demand:
    """Remembers it, with times in monotonic seconds.

    Attributes:
        cold: versions that a request waits for, with the time of the first such request.
        left: versions that clients met by a stage, alias or arm until it went to another one.
    """

    def __init__(self) -> None:
        self.cold: dict[Key, float] = {}
        self.left: dict[Key, Left] = {}
        self._routed: dict[ModelName, tuple[VersionId, ...]] = {}
        self._lost: dict[Key, float] = {}

    def ask(self, key: Key, now: float) -> None:
        """A request waits for a version."""
        self.cold.setdefault(key, now)

    def route(self, model: ModelName, versions: Sequence[VersionId]) -> None:
        """What the split of a model wants loaded unasked; nothing more than that."""
        if versions:
            self._routed[model] = tuple(versions)
        else:
            self._routed.pop(model, None)

    def lose(self, key: Key, last_use: float) -> None:
        """A backend went away with a version: it gets it back when it comes again."""
        self._lost[key] = last_use

    def leave(self, key: Key, now: float, what: str) -> None:
        """What clients met this version by went on from it: `stage production`, `arm stable`."""
        self.left[key] = Left(now, what)

    def is_ready(self, key: Key) -> None:
        """A version is loaded."""
        self.cold.pop(key, None)
        self._lost.pop(key, None)

    def has_failed(self, key: Key) -> None:
        """A version cannot be loaded now; whoever waits was told."""
        self.cold.pop(key, None)

    def forget(self, model: ModelName) -> None:
        """A model is gone."""
        self._routed.pop(model, None)
        for key in [key for key in self.cold if key[0] == model]:
            del self.cold[key]

    def keep(self, keys: Set[Key]) -> None:
        """Forget who waits for, and which backend lost, what is none of these versions."""
        self.cold = {key: since for key, since in self.cold.items() if key in keys}
        self._lost = {key: used for key, used in self._lost.items() if key in keys}

    def expire(self, now: float, window: float) -> None:
        """Forget the ways back that are over, with a rollback window of this many seconds."""
        self.left = {key: left for key, left in self.left.items() if left.remains(now, window)}

    def unasked(self) -> Iterator[Key]:
        """What routes want, then what a restarted backend had, most recently used first."""
        for model, versions in self._routed.items():
            for version in versions:
                yield model, version
        yield from sorted(self._lost, key=lambda key: -self._lost[key])
