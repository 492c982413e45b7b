"""What the control loop knows of every backend: what is ready there, what is under way, what failed."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence, Set
from dataclasses import dataclass, field

from router.control.catalog import Seat
from router.control.faults import Faults
from router.errors import BackendUnable, BackendUnavailable, StagegateError
from router.model import (
    Backend,
    BackendId,
    Capacity,
    Contract,
    Control,
    IndexEntry,
    ModelName,
    TritonName,
    Version,
    VersionId,
    together,
)
from router.placement.backoff import Failure, after_failure
from router.ports import ModelFolders, ModelServer

Key = tuple[ModelName, VersionId]
"""One version of one logical model."""

Files = tuple[str, str, str]
"""What tells one content of a version from the next: its format, artifact and digest."""

UNLOAD_AGAIN_SECONDS = 5.0
"""How long after an unload that failed the next one is tried."""


def files_of(version: Version) -> Files:
    """The files that a version has now."""
    return version.format, version.artifact, version.digest


@dataclass(slots=True)
class BackendState:
    """One Triton as last seen.

    Attributes:
        up: whether its last index was read; a backend that is not up takes no traffic and no loads.
        ready: Triton's model name and version of all that is ready there.
        had: what was ready when it went away, until it is asked again.
        reason: why it is not up, for people.
        touched: monotonic seconds of our own last load or unload there; an index that was asked for
            before that is stale.
        misses: failed looks in a row.
        capacities: what the copies work on at once, of those that were asked; asked longest ago first.
        asked: names that we, or a process of this gateway before, had loaded there and did not unload.
        foreign: names that somebody else had loaded there while we were there.
    """

    backend: Backend
    server: ModelServer
    folders: ModelFolders | None
    up: bool = False
    ready: frozenset[Seat] = frozenset()
    had: frozenset[Seat] = frozenset()
    index: tuple[IndexEntry, ...] = ()
    reason: str = "not asked yet"
    touched: float = 0.0
    misses: int = 0
    server_name: str = ""
    server_version: str = ""
    capacities: dict[Seat, Capacity] = field(default_factory=dict)
    asked: set[TritonName] = field(default_factory=set)
    foreign: frozenset[TritonName] = frozenset()

    @property
    def name(self) -> BackendId:
        """Its name in the configuration."""
        return self.backend.name

    def has(self, seat: Seat) -> bool:
        """Whether the version is ready there; a seat without a version takes any."""
        if seat.version:
            return seat in self.ready
        return any(held.name == seat.name for held in self.ready)

    def capacity(self, seat: Seat) -> Capacity:
        """What its copy of a version works on at once; for a seat without a version, that of any."""
        if seat.version or seat in self.capacities:
            return self.capacities.get(seat, Capacity())
        found = (known for held, known in self.capacities.items() if held.name == seat.name)
        return next(found, Capacity())

    def to_ask(self, most: int) -> tuple[Seat, ...]:
        """Copies whose capacity is to be asked for: those that never were, else the one asked longest ago."""
        new = [seat for seat in self.ready if seat not in self.capacities]
        return tuple(new[:most] or list(self.capacities)[:1])

    def note_capacity(self, seat: Seat, capacity: Capacity) -> bool:
        """Remember what a copy works on at once; whether that is news."""
        before = self.capacities.pop(seat, None)
        if seat in self.ready:
            self.capacities[seat] = capacity
        return seat in self.ready and before != capacity

    def note_ready(self, seat: Seat, now: float, capacity: Capacity | None = None) -> None:
        """A load of ours ended well."""
        self.ready |= {seat}
        self.capacities.pop(seat, None)
        if capacity is not None:
            self.capacities[seat] = capacity
        self.touched = now

    def note_gone(self, seat: Seat, now: float) -> None:
        """An unload of ours ended."""
        self.ready -= {seat}
        self.asked.discard(seat.name)
        self.capacities.pop(seat, None)
        self.touched = now

    @property
    def loads_for_us(self) -> bool:
        """Whether we may load and unload there."""
        return self.backend.control is Control.EXPLICIT and self.folders is not None


@dataclass(slots=True)
class Residents:
    """All backends, loads and unloads under way, failures, and when a version was last used.

    Attributes:
        fetching: how far the files of a version that is being loaded are, in words.
        contracts: what versions take and give, as a Triton that had them told, with the files that it had:
            of those whose registry does not say it.
        overlap: monotonic seconds until which another process of this same gateway may have copies loaded:
            they are as those that this one asked for.
        failures: the last loads that failed by a fault of the version.
        faults: those that failed by a fault of their backend.
    """

    backends: dict[BackendId, BackendState] = field(default_factory=dict)
    loading: dict[Key, BackendId] = field(default_factory=dict)
    fetching: dict[Key, str] = field(default_factory=dict)
    unloading: set[tuple[TritonName, BackendId]] = field(default_factory=set)
    failures: dict[Key, Failure] = field(default_factory=dict)
    faults: Faults = field(default_factory=Faults)
    last_use: dict[Key, float] = field(default_factory=dict)
    seats: dict[TritonName, Key] = field(default_factory=dict)
    unload_again: dict[tuple[TritonName, BackendId], float] = field(default_factory=dict)
    contracts: dict[Key, tuple[Files, Contract]] = field(default_factory=dict)
    overlap: float = -math.inf

    def holders(self, seat: Seat) -> tuple[BackendId, ...]:
        """Backends where a version can take requests now."""
        return tuple(
            state.name
            for state in self.backends.values()
            if state.up and state.has(seat) and (seat.name, state.name) not in self.unloading
        )

    def capacity(self, seat: Seat, holders: Sequence[BackendId]) -> Capacity:
        """What the copies of a version on these backends work on at once, all together."""
        return together([self.backends[name].capacity(seat) for name in holders])

    def contract_of(self, version: Version) -> Contract | None:
        """What a version takes and gives, by its registry, else by a Triton that had it; None if unknown."""
        return version.contract or self.learned(version)

    def learned(self, version: Version) -> Contract | None:
        """What a Triton told that had these very files; None where none did."""
        files, told = self.contracts.get((version.model, version.version), (None, None))
        return told if files == files_of(version) else None

    async def learn_contract(self, version: Version, seat: Seat, server: ModelServer) -> None:
        """Ask a Triton that has a version what it takes and gives, where that is not known.

        Raises:
            BackendUnavailable: it does not answer.
        """
        if self.contract_of(version) is None:
            told = await server.contract(seat.name, seat.version)
            if told is not None:
                self.contracts[version.model, version.version] = files_of(version), told

    def ours(self) -> Iterator[tuple[Key, Seat, BackendId]]:
        """Every copy of a registry version that is ready on a backend whose loads are ours."""
        for state in self.backends.values():
            if not (state.up and state.loads_for_us):
                continue
            for seat in state.ready:
                key = self.seats.get(seat.name)
                if key is not None:
                    yield key, seat, state.name

    def known(self) -> int:
        """Of how many copies or versions something is known, those gone included."""
        return max(len(self.seats), len(self.last_use))

    def forget(self, versions: Set[Key], names: Set[TritonName]) -> bool:
        """Keep only what is known of these versions, of copies under these names, and of what is ready.

        What was ready on a backend that is away counts as ready there. Nothing is forgotten, and False given,
        while a load or unload is under way.
        """
        if self.loading or self.unloading:
            return False
        held = names | {seat.name for state in self.backends.values() for seat in state.ready | state.had}
        self.seats = {name: key for name, key in self.seats.items() if name in held}
        keys = versions | set(self.seats.values())
        self.failures = {key: failure for key, failure in self.failures.items() if key in keys}
        self.faults.keep(keys)
        self.last_use = {key: at for key, at in self.last_use.items() if key in keys}
        self.contracts = {key: told for key, told in self.contracts.items() if key in keys}
        for state in self.backends.values():
            state.asked &= self.seats.keys()
        self.unload_again = {copy: at for copy, at in self.unload_again.items() if copy[0] in self.seats}
        return True

    def fail(self, key: Key, reason: str, now: float) -> Failure:
        """Remember a load that failed by a fault of the version."""
        failure = after_failure(self.failures.get(key), reason, now)
        self.failures[key] = failure
        return failure

    def fail_there(self, key: Key, backend: BackendId, problem: StagegateError, now: float) -> Failure:
        """Remember a load that failed by a fault of its backend."""
        away = isinstance(problem, BackendUnavailable) and not isinstance(problem, BackendUnable)
        failure = self.faults.note(key, backend, str(problem), now, away=away)
        times = self.faults.times_away(key) if away else 0
        if times:
            self.fail(key, f"Triton went away in each of the last {times} loads of it: {problem}", now)
        return failure

    def forgive(self, key: Key) -> None:
        """A version was loaded, has other files now, or is gone: what failed before says nothing any more."""
        self.failures.pop(key, None)
        self.faults.clear(key)

    def trouble(self, key: Key) -> str:
        """Why the last load of a version failed, whoever's fault it was; "" where it did not."""
        failure = self.failures.get(key)
        return failure.reason if failure is not None else self.faults.reason(key)

    def fail_unload(self, name: TritonName, backend: BackendId, now: float) -> None:
        """Remember a failed unload."""
        self.unload_again[name, backend] = now + UNLOAD_AGAIN_SECONDS

    def may_unload(self, name: TritonName, backend: BackendId, now: float) -> bool:
        """Whether an unload may be tried: none failed there a moment ago."""
        return self.unload_again.get((name, backend), now) <= now
