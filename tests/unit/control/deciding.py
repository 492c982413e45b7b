"""A control loop that decides and writes back, among fakes."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterable

from router.control.decide import Decider, Order, Outcome
from router.control.writebacks import WriteBacks
from router.errors import StateUnavailable
from router.model import ModelName, RegistryView
from router.ports import (
    ANYTHING,
    Capability,
    Hint,
    PointerMove,
    RegistryChange,
    TagChange,
    WriteBack,
)
from tests.unit.control.conftest import Routes, Shelf, Triton, World

M = ModelName("m")
ANA = Order("ana", "better")


class Writable(Shelf):
    """A registry that takes changes as a test lets it.

    Attributes:
        trouble: raised by each change instead of doing it.
        after: raised after a change was done, once.
        hangs: while it is set, changes wait for it, and are done then.
        changes_made: those that were done.
        lacks: what it cannot do.
    """

    def __init__(self) -> None:
        super().__init__()
        self.trouble: Exception | None = None
        self.tag_trouble: Exception | None = None
        self.after: Exception | None = None
        self.hangs: asyncio.Event | None = None
        self.asked: list[RegistryChange] = []
        self.lacks: frozenset[Capability] = frozenset()
        self.slow: RegistryView | None = None

    @property
    def capabilities(self) -> frozenset[Capability]:
        return super().capabilities - self.lacks

    async def read(self, hint: Hint = ANYTHING) -> RegistryView:
        view = await super().read(hint)
        return self.slow or view

    async def write(self, change: RegistryChange) -> None:
        self.asked.append(change)
        trouble = self.tag_trouble if isinstance(change, TagChange) else self.trouble
        if self.fault is not None:
            raise self.fault
        if trouble is not None:
            raise trouble
        if self.hangs is not None:
            await asyncio.shield(self.hangs.wait())
        await super().write(change)
        if self.after is not None:
            after, self.after = self.after, None
            raise after

    def named(self, alias: str = "champion") -> str:
        """What an alias of the model names."""
        return self.models[M].aliases.get(alias, "")

    def stage(self, name: str = "production") -> str:
        """What a stage of the model names."""
        return self.models[M].stages.get(name, "")

    def tags(self, version: str) -> dict[str, str]:
        """The tags of a version."""
        return {
            str(k): v
            for k, v in next(
                one for name, one in self.models[M].versions.items() if name == version
            ).tags.items()
        }


class Kept(Routes):
    """A store that fails when a test says so, and that outlives a control loop.

    Attributes:
        full: while it is set, nothing can be written.
        slow: where it is given, what is written waits for it.
        broken: raised by what is written; `saved` counts how often that was asked for.
    """

    def __init__(self) -> None:
        super().__init__()
        self.full = False
        self.slow: asyncio.Event | None = None
        self.broken: Exception | None = None
        self.saved = 0

    async def save_write_back(self, write: WriteBack, *, actor: str = "", reason: str = "") -> bool:
        self.saved += 1
        if self.broken is not None:
            raise self.broken
        if self.slow is not None:
            await self.slow.wait()
        if self.full:
            raise StateUnavailable("the disk is full")
        return await super().save_write_back(write, actor=actor, reason=reason)

    async def note_moves(self, moves: object) -> None:
        if self.full:
            raise StateUnavailable("the disk is full")
        await super().note_moves(moves)  # type: ignore[arg-type]

    async def moved(self, kind: str = "alias", name: str = "champion") -> list[tuple[str, str, str]]:
        """The history of a pointer, newest first."""
        found: tuple[PointerMove, ...] = await self.moves("local", M, kind, name)
        return [(one.before, one.after, one.action) for one in found]


class Desk:
    """A gateway's control loop with its worker, and the operator in front of it."""

    def __init__(self, store: Kept, shelf: Writable, triton: Triton | None = None) -> None:
        self.store, self.shelf = store, shelf
        self.world = World(store)
        self.controller = self.world.controller
        clock = self.world.clock
        self.writes = WriteBacks(self.controller, store, clock, chance=lambda: 1.0)
        self.decider = Decider(self.controller, store, self.writes, clock)
        self.triton = self.world.add_triton()
        if triton is not None:
            self.triton.loaded = triton.loaded
        self._tasks: list[asyncio.Task[None]] = []

    async def open(self) -> None:
        """Start, as a gateway does: what is in the state first."""
        await self.controller.load_routes()
        self._tasks.append(asyncio.create_task(self.controller.run()))
        self.controller.add_registry(self.shelf)
        await self.world.settle()
        self._tasks.append(asyncio.create_task(self.writes.run()))
        await self.world.settle()

    async def kill(self) -> None:
        """End at once; what is in the store stays."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks.clear()

    async def again(self, bad: Iterable[str] = ()) -> Desk:
        """Another gateway over the same state and registry, after this one was killed; `bad` do not load."""
        await self.kill()
        new = Desk(self.store, self.shelf, self.triton)
        new.triton.bad = set(bad)
        new.world.clock.time = self.world.clock.time
        await new.open()
        return new

    async def settle(self) -> None:
        """Let everything that can happen now happen."""
        await self.world.settle()

    async def later(self, seconds: float) -> None:
        """Move the clock."""
        await self.world.later(seconds)

    async def promote(self, reference: str, to: str = "@champion", order: Order = ANA) -> Outcome:
        """Ask for it, without waiting for the registry."""
        return await self.decider.promote(M, reference, to, order)

    async def rollback(self, to: str = "", name: str = "@champion") -> Outcome:
        """Ask for it, without waiting for the registry."""
        return await self.decider.rollback(M, to, ANA, name=name)

    def served(self, name: str = "champion") -> str:
        """What clients meet by a name."""
        pointers = self.world.plane.models["m"].pointers
        return next((one.version for one in pointers if one.name == name), "")

    def stable(self) -> str:
        """What clients meet without a name."""
        return self.world.plane.arms("m")["stable"][0]

    async def moved_by(self) -> list[tuple[str, str]]:
        """Moves of the alias that the store remembers, newest first."""
        return [(before, after) for before, after, _ in await self.store.moved()]

    async def ended(self) -> tuple[str, str]:
        """State and note of the write-back that was decided last."""
        newest = max(await self.store.write_backs(1_000), key=lambda one: one.id)
        return newest.state.value, newest.note


@contextlib.asynccontextmanager
async def a_desk(store: Kept | None = None, shelf: Writable | None = None) -> AsyncIterator[Desk]:
    """A running one; versions 1 to 3 are there, `@champion` and production name 1, which is loaded."""
    shelf = shelf or Writable()
    if not shelf.models:
        shelf.set("m", "123", {"production": "1"}, {"champion": "1"})
    desk = Desk(store or Kept(), shelf)
    desk.triton.loaded |= {("m.1", "1"), ("m.2", "1")}
    await desk.open()
    try:
        yield desk
    finally:
        await desk.kill()
