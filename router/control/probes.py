"""Looks at backends: whether they answer, what is ready there, and what its copies work on at once."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from router.control.catalog import Seat
from router.control.residents import BackendState, Key, Residents
from router.errors import BackendUnavailable
from router.model import IndexEntry, Version
from router.ports import Clock

LOG = logging.getLogger("stagegate.control")

PROBE_SECONDS = 1.0
"""How often each backend is asked for its index."""

MISSES_ALLOWED = 2
"""Failed looks in a row before a backend counts as down; one, where the data plane lost it as well."""

ASKED_AT_ONCE = 200
"""Copies whose capacity is asked for between two looks at a backend."""

SUSPECT_SECONDS = 2.0
"""How long a backend that the data plane lost may take to answer a look."""


@dataclass(frozen=True, slots=True)
class ProbeHooks:
    """What a look asks and tells its owner.

    Attributes:
        version: a version by its key; None where it is gone.
        changed: copies came or went on a backend, or are other than they were.
        lost: copies are gone from a backend without a word of ours.
        learned: a Triton told what a version takes and gives.
        looked: a look brought something.
    """

    version: Callable[[Key], Version | None]
    changed: Callable[[BackendState, Iterable[Seat]], None]
    lost: Callable[[BackendState, Iterable[Seat]], None]
    learned: Callable[[Key], None]
    looked: Callable[[], None]


class Probes:
    """Keeps what is known of each backend true."""

    def __init__(self, residents: Residents, clock: Clock, hooks: ProbeHooks) -> None:
        self._residents = residents
        self._clock = clock
        self._hooks = hooks

    async def follow(self, state: BackendState, *, suspect: bool = False) -> None:
        """Look at a backend until cancelled; `suspect` is about the first look, see `probe`."""
        await self.probe(state, suspect=suspect)
        while True:
            await self.ask_capacities(state)
            await asyncio.sleep(PROBE_SECONDS)
            await self.probe(state)

    async def ask_capacities(self, state: BackendState) -> None:
        """Ask what the copies work on at once: of all that is new, and once more of one that is known."""
        changed = []
        for seat in state.to_ask(ASKED_AT_ONCE):
            try:
                capacity = await state.server.capacity(seat.name, seat.version)
                await self._learn_contract(state, seat)
            except BackendUnavailable:
                break  # the next look tells
            if state.note_capacity(seat, capacity):
                changed.append(seat)
        if changed:
            self._hooks.changed(state, changed)
            self._hooks.looked()

    async def _learn_contract(self, state: BackendState, seat: Seat) -> None:
        """Of what was loaded before we came, or by another gateway."""
        key = self._residents.seats.get(seat.name)
        version = self._hooks.version(key) if key is not None else None
        if version is None or self._residents.contract_of(version) is not None:
            return
        await self._residents.learn_contract(version, seat, state.server)
        if self._residents.contract_of(version) is not None:
            self._hooks.learned((version.model, version.version))

    async def probe(self, state: BackendState, *, suspect: bool = False) -> None:
        """Ask a backend for its index and note what changed; `suspect` counts a miss as down at once."""
        started = self._clock.now()
        try:
            async with asyncio.timeout(SUSPECT_SECONDS if suspect else None):
                index = await self._ask(state)
        except (BackendUnavailable, TimeoutError) as problem:
            state.misses += 1
            state.reason = str(problem) or f"no answer within {SUSPECT_SECONDS:g} s"
            if state.up and (suspect or state.misses >= MISSES_ALLOWED):
                LOG.warning("backend %s: away: %s", state.name, state.reason)
                self.note_lost(state)
            self._hooks.looked()
            return
        self._note_index(state, index, started)

    @staticmethod
    async def _ask(state: BackendState) -> tuple[IndexEntry, ...]:
        if not state.server_version:
            info = await state.server.info()
            state.server_name, state.server_version = info.name, info.version
        return await state.server.index()

    def note_lost(self, state: BackendState) -> None:
        """A backend is away, or not ours to use any more."""
        state.up = False
        state.server_version = ""
        self._hooks.lost(state, state.ready)
        self._hooks.changed(state, state.ready)
        state.had, state.ready, state.index = state.had | state.ready, frozenset(), ()
        state.capacities.clear()
        self._hooks.looked()

    def _note_index(self, state: BackendState, index: tuple[IndexEntry, ...], started: float) -> None:
        ready = frozenset(Seat(entry.name, entry.version or "1") for entry in index if entry.ready)
        state.misses = 0
        stale = started < state.touched
        if state.up and (stale or ready == state.ready):
            return
        if not state.up:
            LOG.info("backend %s: up (%s %s)", state.name, state.server_name, state.server_version)
        if state.up and state.loads_for_us:
            self._hooks.lost(state, state.ready - ready)
        if not state.up:  # as what is ready when we come, what is on its way then
            state.asked |= {entry.name for entry in index if entry.loading}
        changed = ready ^ state.ready
        self._note_foreign(state, ready)
        state.up, state.reason, state.ready, state.index = True, "", ready, index
        state.had = frozenset()
        for seat in changed:
            state.capacities.pop(seat, None)
        self._hooks.changed(state, changed)
        self._hooks.looked()

    def _note_foreign(self, state: BackendState, ready: frozenset[Seat]) -> None:
        """Who loads a version unloads it; what was there when we came may be an earlier process's of ours."""
        came = {seat.name for seat in ready - state.ready} if state.up and state.loads_for_us else set()
        unasked = came - state.asked
        for key in filter(None, map(self._residents.seats.get, unasked)):
            self._residents.last_use[key] = self._clock.now()
        if self._clock.now() <= self._residents.overlap:
            state.asked |= unasked
        foreign = (state.foreign if state.up else frozenset()) | (came - state.asked)
        state.foreign = foreign & {seat.name for seat in ready}
        for name in unasked & state.foreign & self._residents.seats.keys():
            key = self._residents.seats[name]
            LOG.info("%s %s: somebody else loaded it on %s, and unloads it", *key, state.name)
