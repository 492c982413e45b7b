"""Writes decisions about stages and aliases back to their registries, until each registry says the same.

A decision is in the store before anything else happens (`router.control.decide`), and traffic follows it at
once. The registry is written after clients meet the version, and for a promotion after it is loaded, so that
a version that cannot be loaded never gets there. A write-back ends when the registry's own reading says the
same: whatever happens in between, the process included, the next try finds out how things stand and goes on
from there. Who moved the pointer in the registry meanwhile wins; that is told, and never written over.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections import Counter, deque
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import TypeVar

from router.control.controller import Controller
from router.control.reader import RegistryState
from router.errors import (
    Conflict,
    InvalidInput,
    InvalidName,
    InvalidReference,
    ModelNotFound,
    NotFound,
    NotSupported,
    RegistryRefused,
    StagegateError,
    StateUnavailable,
    Unavailable,
    VersionNotFound,
)
from router.model import ModelName, PointerKind, RegisteredModel, VersionId
from router.ports import (
    PROMOTE,
    Capability,
    Clock,
    Hint,
    PointerMove,
    RegistryChange,
    StateStore,
    TagChange,
    Unknown,
    WriteBack,
    WriteState,
)
from router.traffic.overlay import pointers

LOG = logging.getLogger("stagegate.writes")

AT_ONCE = 8
"""Models whose registries are written at the same time."""

TRY_SECONDS = 30.0
"""How long one question to a registry may take."""

FIRST_PAUSE = 0.5
LONGEST_PAUSE = 30.0
"""Seconds between two tries: doubled each time, up to the longest; up to a half less, by chance."""

LOOKS_AFTER_YES = 6
"""How often a registry may name the old version after it said yes to the new one."""

TAG_TRIES = 6
"""How often tags are tried; they are remarks, and traffic does not depend on them."""

_MOST_TEXT = 500
_LOST = 20
_MOST_MOVES = 1_000
_NEEDED = {PointerKind.STAGE: Capability.STAGES, PointerKind.ALIAS: Capability.ALIASES}
_REFUSALS = (NotSupported, RegistryRefused, InvalidReference, InvalidName)

_Answer = TypeVar("_Answer")

Key = tuple[str, ModelName]


class _LaterError(Exception):
    """It cannot be done now; the text says why."""


class WriteBacks:
    """The worker: carries out what is open in the store, model by model."""

    def __init__(
        self,
        controller: Controller,
        store: StateStore,
        clock: Clock,
        *,
        chance: Callable[[], float] = random.random,
    ) -> None:
        """`chance` gives numbers from 0 to 1, for the pauses."""
        self.results: Counter[tuple[str, str, str]] = Counter()
        self.lost: deque[WriteBack] = deque(maxlen=_LOST)
        self._controller = controller
        self._store = store
        self._clock = clock
        self._chance = chance
        self._wake = asyncio.Event()
        self._running: dict[Key, asyncio.Task[None]] = {}
        self._late: dict[Key, asyncio.Future[None]] = {}
        self._away: set[str] = set()
        self._hurried: set[int] = set()
        self._clearing: set[int] = set()
        self._moves: tuple[PointerMove, ...] = ()
        self._moves_wait = False
        self._paused = False
        controller.after_turn = self._wake.set

    # What others ask; `lost` are those that came to nothing, and `results` counts what registries said

    async def run(self) -> None:
        """Work until cancelled."""
        self._paused = False
        try:
            while True:
                await self._wake.wait()
                self._wake.clear()
                await self._note_moves()
                self.look()
        finally:
            await self.pause()

    async def pause(self) -> None:
        """Begin nothing more, and return when nothing runs; what a registry was asked may still be done."""
        self._paused = True
        tasks = (*self._running.values(), *self._late.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def clear(self, number: int, *, actor: str, reason: str) -> WriteBack:
        """Give an open one up: traffic follows the registry again.

        Raises:
            NotFound: there is no open one of that number.
            Unavailable: it is being written this moment.
            StateUnavailable: the store cannot be written now.
        """
        write = self._open(number)
        running = self._running.get(_key(write))
        if running is not None:
            await asyncio.wait({running}, timeout=TRY_SECONDS)
        write = self._open(number)
        if _key(write) in self._running or _key(write) in self._late:
            raise Unavailable(f"write {number} is under way at this moment", hint="try again")
        note = f"given up by {actor}" + (f": {reason}" if reason else "")
        cleared = replace(write, state=WriteState.CLEARED, note=note)
        self._clearing.add(number)
        try:
            if not await self._store.save_write_back(cleared, actor=actor, reason=reason):
                raise _no_write(number)
            await self._controller.load_routes()
        finally:
            self._clearing.discard(number)
            self._wake.set()
        await self._controller.turned()
        return cleared

    def named(self, write: WriteBack) -> str:
        """What the registry named when it was read last; "" for nothing."""
        state = self._controller.registries.get(write.registry)
        view = state.view if state else None
        model = view.models.get(write.model) if view else None
        return pointers(model, write.kind).get(write.name, VersionId("")) if model else ""

    def waits(self, write: WriteBack) -> str:
        """What must happen to clients before the registry is written, as a sentence; "" for nothing."""
        served = self._controller.served(write.registry, write.model, write.kind, write.name)
        entry = self._controller.models.get(write.model)
        if served is None or entry is None:
            return ""
        if served == write.version:
            return self._not_loaded(write, entry.registered) if write.action == PROMOTE else ""
        if pointers(entry.registered, write.kind).get(write.name) != write.version:
            return ""  # there is no such version, which the registry shall say
        what = f"{write.kind} {write.name}"
        told = (wait.sentence for wait in entry.serving.waiting if wait.what == what)
        return next(told, f"{what} of model {write.model!r}: not in force yet")

    def _not_loaded(self, write: WriteBack, model: RegisteredModel) -> str:
        """That a promoted version is nowhere ready although nothing is served in its place."""
        version = model.versions.get(write.version)
        placement = None if version is None else self._controller.places.placement(model, version)
        if placement is None or placement.state == "ready":
            return ""
        what = f"{write.kind} {write.name} of model {write.model!r}"
        failure = self._failure(write)
        if failure or placement.reason:
            again = "; it is tried again" if failure else ""
            return f"{what}: version {write.version} cannot be loaded: {failure or placement.reason}{again}"
        trouble = self._controller.residents.trouble((write.model, write.version))
        why = f": {trouble}" if trouble else ""
        return f"{what}: waits for version {write.version} to be loaded{why}"

    def _failure(self, write: WriteBack) -> str:
        """Why a decided version could not be loaded, by a fault of its own; "" where that is not so."""
        failure = self._controller.residents.failures.get((write.model, write.version))
        return failure.reason if failure is not None else ""

    def sentence(self, write: WriteBack) -> str:
        """How it stands, for people; "" where nothing is to be told."""
        what = f"{write.kind} {write.name}"
        if write.state is WriteState.TAGGING:
            return ""
        waits = self.waits(write)
        if waits:
            clear = f"; `stagegate writes clear {write.id}` gives it up" if self._failure(write) else ""
            told = f"{write.action} to version {write.version}: {waits}; the registry is written after that"
            return told + clear
        named = self.named(write) or "nothing"
        why = f": {write.note}" if write.note else ""
        if named == write.version and write.state is WriteState.PENDING:
            return (
                f"{what}: {write.action} to version {write.version} is being confirmed by the registry{why}"
            )
        stands = "is not written yet" if write.state is WriteState.PENDING else "cannot be written"
        return (
            f"{what}: registry {write.registry!r} names {named}, traffic follows {write.version}, "
            f"because the {write.action} by {write.actor or 'somebody'} {stands}{why}"
        )

    # Which are due

    def look(self) -> None:
        """Begin every try that is due: one at a time for a model, in the order of the decisions."""
        if self._paused:
            return
        self._note_returns()
        held: set[Key] = set()
        for write in self._controller.writes:
            key = _key(write)
            if key in held or key in self._running or key in self._late:
                continue
            if write.id in self._clearing:
                held.add(key)
                continue
            if len(self._running) < AT_ONCE and self._due(write):
                self._start(key, write)
            elif write.state is WriteState.PENDING and self._pauses(write):
                held.add(key)  # its registry is away: what was decided later comes later

    def _note_returns(self) -> None:
        """What waits for a registry need not wait its pause out once that answers again."""
        self._hurried.intersection_update(write.id for write in self._controller.writes)
        for name, state in self._controller.registries.items():
            if state.error:
                self._away.add(name)
            elif name in self._away:
                self._away.discard(name)
                self._hurried.update(w.id for w in self._controller.writes if w.registry == name)

    def _pauses(self, write: WriteBack) -> bool:
        # More than the longest pause is left only where the time of day was set back.
        left = write.next_try - self._clock.unix()
        return write.id not in self._hurried and 0.0 < left <= LONGEST_PAUSE

    def _due(self, write: WriteBack) -> bool:
        if self._pauses(write):
            return False
        if write.state is WriteState.TAGGING:
            return True
        named = self.named(write)
        if named == write.version or named not in write.before:
            return True  # it is so there already, or somebody else moved it
        return write.state is WriteState.PENDING and not self.waits(write)

    def _start(self, key: Key, write: WriteBack) -> None:
        self._hurried.discard(write.id)
        task = asyncio.create_task(self._try(write), name=f"write back {write.id}")
        self._running[key] = task
        task.add_done_callback(lambda _: self._finished(key))

    def _finished(self, key: Key) -> None:
        self._running.pop(key, None)
        self._wake.set()

    # One try

    async def _try(self, write: WriteBack) -> None:
        try:
            after = await (self._tag(write) if write.state is WriteState.TAGGING else self._move(write))
        except (_LaterError, StateUnavailable) as problem:
            after = self._later(write, str(problem))
        except Exception as problem:  # a broken adapter must not take the others down
            LOG.exception("write %d: broke", write.id)
            after = self._later(write, f"internal error: {type(problem).__name__}: {problem}")
        await self._save(write, after)

    async def _move(self, write: WriteBack) -> WriteBack:
        """Bring the pointer in the registry to where it was decided."""
        state = self._state(write)
        named = await self._ask(write, state)
        if named == write.version:
            return await self._confirmed(write, state)
        if named not in write.before:
            return await self._overtaken(write, named)
        if write.written:
            return await self._taken_back(write, named)
        if self.waits(write) or write.state is WriteState.REFUSED:
            await self._read(write)  # what was read last was old, or it would not have come to this
            return replace(write, next_try=self._clock.unix() + FIRST_PAUSE)
        return await self._set(write, state, named)

    async def _set(self, write: WriteBack, state: RegistryState, named: str) -> WriteBack:
        if _NEEDED[write.kind] not in state.registry.capabilities:
            what = "stages" if write.kind is PointerKind.STAGE else "aliases"
            return self._refused(write, f"registry {write.registry!r} lets nobody set {what}")
        try:
            await self._write(write, replace(write.change, expected=named))
        except Conflict as problem:
            raise _LaterError(str(problem)) from problem  # the next try finds out who
        except (ModelNotFound, VersionNotFound) as problem:
            return self._ended(write, WriteState.GONE, f"{problem}; traffic follows the registry")
        except _REFUSALS as problem:
            return self._refused(write, str(problem))
        except InvalidInput as problem:  # a file there that somebody has to mend
            raise _LaterError(str(problem)) from problem
        write = replace(write, written=True, attempts=0, note="")
        await self._store.save_write_back(write)  # from here on, the old version is somebody's move back
        try:
            return await self._confirmed(write, state)
        except _LaterError as problem:
            return self._later(write, str(problem))

    def _state(self, write: WriteBack) -> RegistryState:
        state = self._controller.registries.get(write.registry)
        if state is None:
            raise _LaterError(f"no registry {write.registry!r} is configured")
        losses = state.readings.losses
        if losses:  # what it names now is nobody's move
            raise _LaterError(f"registry {write.registry!r} is not believed: {losses[0].sentence}")
        return state

    async def _ask(self, write: WriteBack, state: RegistryState) -> str:
        """What the registry names at this moment."""
        found = await self._in_time(state.registry.resolve(write.model, write.kind, write.name))
        if isinstance(found, Unknown):
            raise _LaterError(found.reason)
        return found or ""

    async def _read(self, write: WriteBack) -> str:
        """What the registry names by a reading that traffic follows as well."""
        alias = write.name if write.kind is PointerKind.ALIAS else None
        await self._in_time(self._controller.read(write.registry, Hint(write.model, alias)))
        return self.named(write)

    async def _confirmed(self, write: WriteBack, state: RegistryState) -> WriteBack:
        """Let traffic follow the registry again, once it reads as decided."""
        named = await self._read(write)
        if named != write.version:
            raise _LaterError(f"written, and a reading still names {named or 'nothing'}")
        LOG.info(
            "model %s: %s %s names version %s in registry %s, as decided by %s (%s)",
            *(write.model, write.kind, write.name, write.version, write.registry),
            *(write.actor or "somebody", write.reason or "no reason given"),
        )
        tags = write.tags and Capability.TAGS in state.registry.capabilities
        return self._ended(write, WriteState.TAGGING if tags else WriteState.AGREED, "")

    async def _overtaken(self, write: WriteBack, named: str) -> WriteBack:
        """Somebody else moved it in the registry: traffic follows, once the reading says so too."""
        if await self._read(write) != named:
            raise _LaterError(f"registry {write.registry!r} is being changed by somebody else")
        note = (
            f"registry {write.registry!r} names {named or 'nothing'} now, which was not decided here; "
            "traffic follows it"
        )
        return self._ended(write, WriteState.OVERTAKEN, note)

    async def _taken_back(self, write: WriteBack, named: str) -> WriteBack:
        """It said yes and names the old version: it is slow to show it, or somebody moved it back."""
        if write.attempts < LOOKS_AFTER_YES:
            raise _LaterError(f"written, and registry {write.registry!r} still names {named or 'nothing'}")
        return await self._overtaken(write, named)

    async def _tag(self, write: WriteBack) -> WriteBack:
        """Remarks on versions; what cannot be written is left out, and told."""
        trouble = []
        for tag in write.tags:
            try:
                await self._write(write, tag)
            except _LaterError as problem:
                if write.attempts + 1 < TAG_TRIES:
                    raise
                trouble.append(f"{tag.key}: {problem}")
            except (NotFound, InvalidInput, *_REFUSALS) as problem:
                trouble.append(f"{tag.key}: {problem}")
        note = f"without tags: {'; '.join(trouble)}" if trouble else ""
        return self._ended(write, WriteState.AGREED, note)

    async def _write(self, write: WriteBack, change: RegistryChange) -> None:
        """Ask the registry for a change, and count what came of it.

        One that does not come back in time is left alone: nothing else is written for that model before it
        did, or an old change could land on a new one.
        """
        kind = "tag" if isinstance(change, TagChange) else write.kind.value
        asked = asyncio.ensure_future(self._state(write).registry.write(change))
        try:
            done, _ = await asyncio.wait({asked}, timeout=TRY_SECONDS)
            if not done:
                self._late[_key(write)] = asked
                asked.add_done_callback(lambda late: self._came_late(write, late))
                raise Unavailable(f"it does not answer within {TRY_SECONDS:g} s")
            asked.result()
        except asyncio.CancelledError:
            asked.cancel()
            raise
        except Unavailable as problem:
            self.results[write.registry, kind, "unavailable"] += 1
            raise _LaterError(str(problem)) from problem
        except Conflict:
            self.results[write.registry, kind, "conflict"] += 1
            raise
        except StagegateError:
            self.results[write.registry, kind, "refused"] += 1
            raise
        except Exception:
            self.results[write.registry, kind, "error"] += 1
            raise
        self.results[write.registry, kind, "success"] += 1

    def _came_late(self, write: WriteBack, late: asyncio.Future[None]) -> None:
        self._late.pop(_key(write), None)
        if not late.cancelled():
            LOG.warning("write %d: its registry answered after all: %s", write.id, late.exception() or "done")
        self._wake.set()

    @staticmethod
    async def _in_time(question: Awaitable[_Answer]) -> _Answer:
        try:
            return await asyncio.wait_for(question, TRY_SECONDS)
        except TimeoutError:
            raise _LaterError(f"it does not answer within {TRY_SECONDS:g} s") from None

    # What came of it

    def _later(self, write: WriteBack, why: str) -> WriteBack:
        pause = min(FIRST_PAUSE * 2 ** min(write.attempts, 16), LONGEST_PAUSE) * (0.5 + self._chance() / 2)
        if write.note != why[:_MOST_TEXT]:
            LOG.warning("write %d (%s): %s; it is tried again", write.id, _what(write), why)
        return replace(
            write,
            attempts=write.attempts + 1,
            next_try=self._clock.unix() + pause,
            note=why[:_MOST_TEXT],
        )

    def _refused(self, write: WriteBack, why: str) -> WriteBack:
        LOG.warning(
            "write %d (%s) cannot be done: %s; traffic follows it until `stagegate writes clear %d`",
            *(write.id, _what(write), why, write.id),
        )
        return replace(
            write, state=WriteState.REFUSED, attempts=write.attempts + 1, next_try=0.0, note=why[:_MOST_TEXT]
        )

    @staticmethod
    def _ended(write: WriteBack, state: WriteState, note: str) -> WriteBack:
        if state is not WriteState.TAGGING and note:
            LOG.warning("write %d (%s): %s", write.id, _what(write), note)
        tries = 0 if state is WriteState.TAGGING else write.attempts + 1
        return replace(write, state=state, attempts=tries, next_try=0.0, note=note[:_MOST_TEXT])

    async def _save(self, before: WriteBack, after: WriteBack) -> None:
        """Keep what came of a try; where the store cannot, in memory, and the same is tried again."""
        try:
            kept = await self._store.save_write_back(after, actor=before.actor, reason=after.note)
            if kept and after.state in (WriteState.OVERTAKEN, WriteState.GONE):
                self.lost.append(replace(after, ended=self._clock.unix()))
            await self._controller.load_routes()
        except Exception as problem:
            # What is no trouble of the disk's is a bug, which must not be tried without a pause either.
            known_trouble = isinstance(problem, StateUnavailable)
            LOG.warning("write %d: %s; it is tried again", before.id, problem, exc_info=not known_trouble)
            again = self._later(before, str(problem))
            known = self._controller.writes
            self._controller.set_writes(again if one.id == before.id else one for one in known)

    async def _note_moves(self) -> None:
        self._moves = (*self._moves, *self._controller.take_moves())[-_MOST_MOVES:]
        if not self._moves:
            return
        try:
            await self._store.note_moves(self._moves)
        except StateUnavailable as problem:
            if not self._moves_wait:
                LOG.warning("moves of stages and aliases are not remembered yet: %s", problem)
            self._moves_wait = True
        else:
            self._moves, self._moves_wait = (), False

    def _open(self, number: int) -> WriteBack:
        found = next((one for one in self._controller.writes if one.id == number), None)
        if found is None:
            raise _no_write(number)
        return found


def _key(write: WriteBack) -> Key:
    return write.registry, write.model


def _what(write: WriteBack) -> str:
    where = f"in registry {write.registry}"
    return f"{write.kind} {write.name} of model {write.model} to version {write.version} {where}"


def _no_write(number: int) -> NotFound:
    return NotFound(f"there is no open write {number}", hint="`stagegate writes` lists them")
