"""Follows one registry: reads it when it or a notice says that something changed, and now and then."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Coroutine, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field

from router.control.losses import LOSS_WINDOW, Loss
from router.control.readings import Readings, age_allowed
from router.errors import RegistryIncomplete, Unavailable
from router.model import ModelName, RegisteredModel, RegistryView
from router.ports import ANYTHING, Clock, Hint, Registry

LOG = logging.getLogger("stagegate.control")

READ_AGAIN_SECONDS = 10.0
"""How often a registry that is not polled is read without a hint that it changed."""

POLLS_UNTIL_READ = 2.5
"""How many polls a polled one may be silent before it is read all the same."""

TELL_SECONDS = 60.0
"""How often people are told of losses at most."""

READ_SECONDS = 300.0
"""How long one reading may take; adapters have limits of their own, far below this."""

REST = 20.0
"""One that is not polled rests this many times as long as a reading of it takes."""

GO_ON_SECONDS = 0.1
"""Pause between the readings of what takes several."""

HINTS_AT_ONCE = 8
"""Readings for single models that are under way at one time."""

HINTS_WAITING = 64
"""Single models that may wait to be read; with more, everything is read instead."""


TRY_AGAIN_SECONDS = (0.5, 1.0, 2.0)
"""Pauses before a model that could not be read by itself is asked for again; then it waits for a poll."""

CLOSE_SECONDS = 5.0
"""How long the end waits for a registry to give back what it holds."""

READING: ContextVar[str] = ContextVar("READING", default="")
"""The registry that the task under way reads: whose threads those are that hang."""


@dataclass(frozen=True, slots=True)
class ReaderHooks:
    """What a reader tells its owner.

    Attributes:
        changed: something is known that was not before: of one model, or with None of any.
        looked: a reading ended, well or not.
    """

    changed: Callable[[ModelName | None], None]
    looked: Callable[[], None]


@dataclass(slots=True)
class RegistryState:
    """One registry as last read.

    Attributes:
        poll: seconds between two looks of its own, where it is set to any.
        read_at: monotonic seconds of the last good reading of everything; None before the first.
        error: why the last reading failed; "" where it did not.
        progress: how far a reading that takes long is; "" where none is under way.
        took: seconds of the last good reading of everything.
        old: whether people were told that the last good reading is old.
        loss_window: seconds for which models, or stages and aliases, go on that it lost more than half of at
            once.
        loss_told: when people were told last that it lost so many, in monotonic seconds, by what that is.
        since: monotonic seconds from which on it is followed.
    """

    registry: Registry
    poll: float | None = None
    since: float = 0.0
    readings: Readings = field(default_factory=Readings)
    read_at: float | None = None
    error: str = ""
    progress: str = ""
    took: float = 0.0
    old: bool = False
    loss_window: float = LOSS_WINDOW
    loss_told: dict[str, float] = field(default_factory=dict)

    @property
    def view(self) -> RegistryView | None:
        """What is known of it; None before the first reading."""
        return self.readings.view

    def age(self, now: float) -> float | None:
        """Seconds since the last good reading of everything; None where there was none."""
        return None if self.read_at is None else now - self.read_at

    @property
    def pace(self) -> float:
        """Seconds after which it is read without a hint."""
        return max(READ_AGAIN_SECONDS, POLLS_UNTIL_READ * self.poll if self.poll else REST * self.took)

    def warning(self, now: float) -> str:
        """That it is old, or lost so much that it is not believed; "" for neither."""
        return self._old(now) or "; ".join(one.told(now, self.loss_window) for one in self.readings.losses)

    def _old(self, now: float) -> str:
        """That the last good reading is old, or that there is none after so long; "" while it is not."""
        known = self.since if self.read_at is None else self.read_at
        if now - known <= age_allowed(self.poll or self.pace):
            return ""
        if self.read_at is None:
            return f"was never read in {now - known:.0f} s"
        return f"was last read {now - known:.0f} s ago; what it said then goes on"

    def look(self, now: float) -> None:
        """Tell people once that it is old, and once that it is not any more."""
        warning = self._old(now)
        if warning and not self.old:
            LOG.warning("registry %s %s", self.registry.name, warning)
        elif self.old and not warning:
            LOG.info("registry %s is read again", self.registry.name)
        self.old = bool(warning)

    def note_losses(self, before: tuple[Loss, ...], now: float) -> None:
        """Tell people what it lost most of, and what came of that.

        One that says two things in turns is told of once a minute.
        """
        was, name = {loss.what: loss for loss in before}, self.registry.name
        for loss in self.readings.losses:
            long_ago = now - self.loss_told.get(loss.what, float("-inf")) >= TELL_SECONDS
            if was.pop(loss.what, None) is None and long_ago:
                self.loss_told[loss.what] = now
                LOG.warning("registry %s %s", name, loss.told(now, self.loss_window))
        for what, loss in was.items():
            if now - loss.since >= self.loss_window:
                LOG.warning("registry %s: the loss of %d %s is believed now", name, len(loss.gone), what)
            elif loss.since == self.loss_told.get(what):
                LOG.info("registry %s has most of its %s again", name, what)


class RegistryReader:
    """Reads one registry. A reading for one model never waits for a reading of everything.

    What is asked for while the same is being read is read once more afterwards, however often it was asked
    for: the reading under way may have begun before the change.
    """

    def __init__(self, state: RegistryState, clock: Clock, hooks: ReaderHooks) -> None:
        self.state = state
        self._clock = clock
        self._hooks = hooks
        self._due: dict[ModelName | None, Hint] = {}
        self._locks: dict[ModelName | None, asyncio.Lock] = {}
        self._slots = asyncio.Semaphore(HINTS_AT_ONCE)
        self._tasks: set[asyncio.Task[None]] = set()
        self._tries: dict[ModelName | None, int] = {}
        self._tried_at = float("-inf")

    async def follow(self) -> None:
        """Read everything, then whatever the registry says may have changed."""
        READING.set(f"registry {self.state.registry.name}")
        await self.read()
        async for hint in self.state.registry.changes():
            await self.read(hint)

    async def again(self) -> None:
        """Read everything now and then: hints may be lost, and an adapter's watch may break.

        A registry that polls and tells of each poll is read by that, and not once more.
        """
        while True:
            pause = self.state.pace
            await asyncio.sleep(max(0.0, self._tried_at + pause - self._clock.now()) or pause)
            pause = self.state.pace
            if self._clock.now() - self._tried_at >= pause:
                await self.read()

    def notice(self, hint: Hint) -> None:
        """Begin to read what a notice is about; returns at once."""
        self._spawn(self._in_turn(hint))

    def _spawn(self, work: Coroutine[None, None, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def read(self, hint: Hint = ANYTHING) -> None:
        """Return when a reading that covers the hint, and began after this call, has ended. Never raises.

        Who waits no longer leaves the reading to those who may wait for the same one.
        """
        await asyncio.wait({self._spawn(self._in_turn(hint))})

    async def _in_turn(self, hint: Hint) -> None:
        if hint.model is not None and (not self.state.readings.whole or len(self._due) >= HINTS_WAITING):
            hint = ANYTHING
        key = hint.model
        self._due[key] = _both(self._due.get(key, hint), hint)
        slot = contextlib.nullcontext() if key is None else self._slots
        async with self._locks.setdefault(key, asyncio.Lock()), slot:
            due = self._due.pop(key, None)
            if due is not None:
                await self._read(due)
            if key not in self._due:
                self._locks.pop(key, None)

    async def close(self) -> None:
        """End what was begun, and give the registry back."""
        tasks = tuple(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        try:
            async with asyncio.timeout(CLOSE_SECONDS):
                await self.state.registry.close()
        except TimeoutError:
            LOG.warning("registry %s: closing takes too long; it is left", self.state.registry.name)
        except Exception:  # it is not needed any more
            LOG.exception("registry %s: closing broke", self.state.registry.name)

    async def _read(self, hint: Hint) -> None:
        if hint.model is None:
            self._tried_at = self._clock.now()
        while await self._try(hint):
            pass
        self.state.progress = ""
        self._hooks.looked()

    async def _try(self, hint: Hint) -> bool:
        """Read once; whether there is more of the same to be read."""
        name = self.state.registry.name
        READING.set(f"registry {name}")
        begun, at = self.state.readings.begin(), self._clock.now()
        try:
            async with asyncio.timeout(READ_SECONDS):
                view = await self.state.registry.read(hint)
            self._take(begun, hint, _checked(view))
        except RegistryIncomplete as more:
            self.state.progress = more.message
            LOG.info("registry %s: %s", name, more.message)
            await asyncio.sleep(GO_ON_SECONDS)
            return True
        except Unavailable as problem:
            self._failed(str(problem))
            self._later(hint)
        except TimeoutError:
            self._failed(f"registry {name!r}: no answer within {READ_SECONDS:g} s")
        except Exception as problem:  # a broken adapter must not take the others down
            LOG.exception("registry %s: reading broke", name)
            self.state.error = f"internal error: {type(problem).__name__}: {problem}"
        else:
            if hint.model is None:
                self.state.took = self._clock.now() - at
                self._tries.clear()
            else:
                self._tries.pop(hint.model, None)
        return False

    def _later(self, hint: Hint) -> None:
        """What a notice was about is asked for again in a moment; the poll would be later."""
        tries = self._tries.get(hint.model, 0) if hint.model is not None else len(TRY_AGAIN_SECONDS)
        if hint.model is None or tries >= len(TRY_AGAIN_SECONDS):
            self._tries.pop(hint.model, None)
            return
        self._tries[hint.model] = tries + 1

        async def again() -> None:
            await asyncio.sleep(TRY_AGAIN_SECONDS[tries])
            await self.read(hint)

        self._spawn(again())

    def _failed(self, reason: str) -> None:
        state = self.state
        if state.error != reason:
            LOG.warning("registry %s: %s; what was read before goes on", state.registry.name, reason)
        state.error = reason

    def _take(self, begun: int, hint: Hint, view: RegistryView) -> None:
        state = self.state
        known = frozenset(state.view.problems) if state.view else frozenset()
        losses, now = state.readings.losses, self._clock.now()
        changed = state.readings.take(begun, hint, view, now, state.loss_window)
        state.note_losses(losses, now)
        for trouble in state.view.problems if state.view else ():
            if trouble not in known:
                LOG.warning("registry %s: %s: %s", state.registry.name, trouble.subject, trouble.message)
        if hint.model is None:
            state.error, state.read_at = "", now
        if changed:
            self._hooks.changed(hint.model)


def _checked(view: object) -> RegistryView:
    """What an adapter gave, which may be somebody else's. Raises TypeError where that is no reading."""
    if not isinstance(view, RegistryView) or not isinstance(view.models, Mapping):
        raise TypeError(f"the adapter gave {type(view).__name__} that is no whole RegistryView")
    if not all(isinstance(model, RegisteredModel) for model in view.models.values()):
        raise TypeError("the adapter gave models that are none")
    return view


def _both(one: Hint, other: Hint) -> Hint:
    """A hint that covers two of the same model."""
    return one if one == other else Hint(one.model)
