"""Carries loads and unloads out: one at a time for each version, a few at a time on each backend."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from router.control.catalog import Seat
from router.control.residents import BackendState, Key, Residents
from router.errors import BackendUnavailable, LoadFailed, NoSpace, StagegateError
from router.model import Version
from router.ports import Clock

LOG = logging.getLogger("stagegate.residency")

LOADS_AT_ONCE = 2
"""Loads in flight on one backend; more only make each slower, and memory is claimed at once."""

DRAIN_SECONDS = 30.0
"""How long an unload waits for requests in flight before it is put off."""

DRAIN_LOOK_SECONDS = 0.05

READ_APART = 0.1
"""Seconds between the readings of two clocks at most: one request must not count as two."""


class Recorder(Protocol):
    """Where loads and unloads are counted."""

    def loaded(self, model: str, version: str, backend: str, seconds: float, *, ok: bool) -> None:
        """One load ended; `seconds` covers fetch and load."""
        ...

    def unloaded(self, model: str, version: str, backend: str, reason: str) -> None:
        """One unload ended."""
        ...


@dataclass(frozen=True, slots=True)
class LoaderHooks:
    """What the loader asks and tells its owner.

    Attributes:
        inflight: requests in flight on a version now.
        changed: a version's state on a backend changed; the table must follow.
    """

    inflight: Callable[[Key], int]
    changed: Callable[[Key], None]


class Loader:
    """Starts loads and unloads as tasks and keeps `Residents` true about them."""

    def __init__(
        self, residents: Residents, clock: Clock, recorder: Recorder, hooks: LoaderHooks, load_timeout: float
    ) -> None:
        self._residents = residents
        self._clock = clock
        self._recorder = recorder
        self._hooks = hooks
        self.load_timeout = load_timeout
        self._tasks: set[asyncio.Task[None]] = set()
        self._slots: dict[str, asyncio.Semaphore] = {}

    def load(self, key: Key, version: Version, seat: Seat, state: BackendState, why: str) -> None:
        """Begin to load a version on a backend; returns at once."""
        self._residents.loading[key] = state.name
        LOG.info("%s %s: loading on %s (%s)", *key, state.name, why)
        self._spawn(self._load(key, version, seat, state))

    def unload(self, key: Key, seat: Seat, state: BackendState, why: str) -> None:
        """Begin to unload a version from a backend; returns at once."""
        self._residents.unloading.add((seat.name, state.name))
        self._hooks.changed(key)
        self._spawn(self._unload(key, seat, state, why))

    async def close(self) -> None:
        """Give up what is under way."""
        tasks = tuple(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _spawn(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _load(self, key: Key, version: Version, seat: Seat, state: BackendState) -> None:
        started = self._clock.now()
        ok = False
        try:
            async with self._slots.setdefault(state.name, asyncio.Semaphore(LOADS_AT_ONCE)):
                await self._fetch_and_load(version, seat, state)
            ok = True
            self._residents.forgive(key)
            self._residents.last_use.setdefault(key, self._clock.now())
            LOG.info("%s %s: ready on %s after %.2f s", *key, state.name, self._clock.now() - started)
        except (BackendUnavailable, NoSpace) as problem:
            self._note_fault(key, state, problem)
        except StagegateError as problem:
            self._note_failure(key, state, str(problem))
        except Exception as problem:  # a bug or an unforeseen fault must not leave clients waiting
            LOG.exception("%s %s: load on %s broke", *key, state.name)
            self._note_failure(key, state, f"internal error: {type(problem).__name__}: {problem}")
        finally:
            self._residents.loading.pop(key, None)
            self._recorder.loaded(*key, state.name, self._clock.now() - started, ok=ok)
            self._hooks.changed(key)

    async def _fetch_and_load(self, version: Version, seat: Seat, state: BackendState) -> None:
        if state.folders is None:
            raise LoadFailed(f"backend {state.name!r} has no repository folder to load from")
        key = (version.model, version.version)
        try:
            await state.folders.put(version, seat.name, partial(self._residents.fetching.__setitem__, key))
        finally:
            self._residents.fetching.pop(key, None)
        if self._residents.backends.get(state.name) is not state:
            raise BackendUnavailable(f"backend {state.name!r} was changed or dropped while files came")
        state.asked.add(seat.name)
        await state.server.load(seat.name, timeout=self.load_timeout)
        # Asked before anybody is sent there, so that nobody is held back too much or too little, nor meets
        # a version that does not take what the one before it did.
        capacity = None
        with contextlib.suppress(BackendUnavailable):
            capacity = await state.server.capacity(seat.name, seat.version)
            await self._residents.learn_contract(version, seat, state.server)
        state.note_ready(seat, self._clock.now(), capacity)

    def _note_failure(self, key: Key, state: BackendState, reason: str) -> None:
        failure = self._residents.fail(key, reason, self._clock.now())
        wait = failure.retry_at - self._clock.now()
        LOG.warning("%s %s: load on %s failed: %s (next try in %.0f s)", *key, state.name, reason, wait)

    def _note_fault(self, key: Key, state: BackendState, problem: StagegateError) -> None:
        failure = self._residents.fail_there(key, state.name, problem, self._clock.now())
        wait = failure.retry_at - self._clock.now()
        LOG.warning(
            "%s %s: %s could not load it, and the version is not to blame: %s (not there for %.0f s)",
            *(*key, state.name, problem, wait),
        )

    async def _unload(self, key: Key, seat: Seat, state: BackendState, why: str) -> None:
        try:
            if why == "idle" and await self._used_by_others(key, seat, state):
                LOG.info("%s %s: others use it on %s; unload put off", *key, state.name)
                return
            if not await self._drained(key):
                LOG.info("%s %s: still answering requests; unload put off", *key)
                self._residents.last_use[key] = self._clock.now()
                return
            await state.server.unload(seat.name, timeout=self.load_timeout)
            state.note_gone(seat, self._clock.now())
            self._residents.unload_again.pop((seat.name, state.name), None)
            if state.folders is not None:
                await state.folders.remove(seat.name)
            self._recorder.unloaded(*key, state.name, why)
            LOG.info("%s %s: unloaded from %s (%s)", *key, state.name, why)
        except StagegateError as problem:
            LOG.warning("%s %s: unload from %s failed: %s", *key, state.name, problem)
            self._residents.fail_unload(seat.name, state.name, self._clock.now())
        except Exception:  # such as a folder that cannot be removed
            LOG.exception("%s %s: unload from %s broke", *key, state.name)
            self._residents.fail_unload(seat.name, state.name, self._clock.now())
        finally:
            self._residents.unloading.discard((seat.name, state.name))
            self._hooks.changed(key)

    async def _used_by_others(self, key: Key, seat: Seat, state: BackendState) -> bool:
        """Whether a version got requests that did not come from here: by another gateway, or none.

        Its last one counts from then on; where Triton's clock is ahead, no later than now.

        Raises:
            BackendUnavailable: its Triton does not answer.
        """
        told = await state.server.last_used(seat.name, seat.version)
        if told is None:
            return False
        now = self._clock.now()
        last = min(now, now - self._clock.unix() + told)
        if last <= self._residents.last_use.get(key, now) + READ_APART:
            return False
        self._residents.last_use[key] = last
        return True

    async def _drained(self, key: Key) -> bool:
        """Wait until nothing is in flight; the table no longer sends anything there."""
        until = self._clock.now() + DRAIN_SECONDS
        while self._hooks.inflight(key) > 0:
            if self._clock.now() >= until:
                return False
            await asyncio.sleep(DRAIN_LOOK_SECONDS)
        return True
