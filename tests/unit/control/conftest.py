"""A control loop among fakes: everything happens when the test says so."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from router.control.controller import Controller, ControllerSettings
from router.control.residents import BackendState
from router.errors import BackendUnavailable, LoadFailed, StagegateError
from router.model import (
    Backend,
    BackendId,
    Capacity,
    Contract,
    Control,
    IndexEntry,
    ModelName,
    RegisteredModel,
    RegistryView,
    Route,
    TritonName,
    Version,
    VersionId,
)
from router.ports import ANYTHING, Hint, ServerInfo, StateStore
from router.stores import MemoryStore
from tests.fakes.data_plane import FakeDataPlane
from tests.fakes.registry import FakeRegistry


class ManualClock:
    """Time that a test moves."""

    def __init__(self) -> None:
        self.time = 1000.0
        self._behind = 0.0

    def now(self) -> float:
        return self.time

    def unix(self) -> float:
        return self.time - self._behind

    def set_back(self, seconds: float) -> None:
        """Somebody corrects the time of day; monotonic time goes on."""
        self._behind += seconds


class Shelf(FakeRegistry):
    """A registry whose content the test sets."""

    def __init__(self) -> None:
        super().__init__()
        self.fault: Exception | None = None
        self._rung = asyncio.Event()

    @property
    def models(self) -> dict[ModelName, RegisteredModel]:
        """What it holds now; a test may change it."""
        return self._models

    async def read(self, hint: Hint = ANYTHING) -> RegistryView:
        if self.fault is not None:
            raise self.fault
        return await super().read(hint)

    async def changes(self) -> AsyncIterator[Hint]:
        while True:
            await self._rung.wait()
            self._rung.clear()
            yield ANYTHING

    def set(
        self,
        model: str,
        versions: str,
        stages: dict[str, str] | None = None,
        aliases: dict[str, str] | None = None,
    ) -> None:
        """Register a model with one version for each letter or digit of `versions`."""
        name = ModelName(model)
        found = {
            VersionId(v): Version(self.name, name, VersionId(v), "onnx", f"/models/{model}/{v}")
            for v in versions
        }
        self.models[name] = RegisteredModel(self.name, name, found, _ids(stages), _ids(aliases))
        self._rung.set()

    def hint(self) -> None:
        """Say that something changed."""
        self._rung.set()


def _ids(names: dict[str, str] | None) -> dict[str, VersionId]:
    return {key: VersionId(value) for key, value in (names or {}).items()}


class Triton:
    """A model server that loads when the test lets it."""

    def __init__(self, name: str, control: Control) -> None:
        self.backend = Backend(BackendId(name), f"{name}:1", control=control, repository=Path("/repository"))
        self.loaded: set[tuple[str, str]] = set()
        self.arriving: set[str] = set()
        self.bad: set[str] = set()
        self.fault: StagegateError | None = None
        self.away = False
        self.hangs = False
        self.keeps = False
        self.loads: list[str] = []
        self.unloads: list[str] = []
        self.hold: asyncio.Event | None = None
        self.capacity_of: dict[str, Capacity] = {}
        self.contract_of: dict[str, Contract] = {}
        self.used: dict[str, float] = {}
        self.silent = False

    async def ready(self) -> bool:
        return not self.away

    async def info(self) -> ServerInfo:
        if self.away:
            raise BackendUnavailable(f"{self.backend.name} is away")
        return ServerInfo("triton", "2.51.0", ())

    async def index(self) -> tuple[IndexEntry, ...]:
        if self.hangs:
            await asyncio.Event().wait()
        if self.away:
            raise BackendUnavailable(f"{self.backend.name} is away")
        ready = (IndexEntry(TritonName(name), version, "READY") for name, version in self.loaded)
        return (*ready, *(IndexEntry(TritonName(name), "1", "LOADING") for name in self.arriving))

    async def load(self, name: TritonName, *, timeout: float) -> None:
        self.loads.append(name)
        if self.hold is not None:
            await self.hold.wait()
        if self.fault is not None:
            raise self.fault
        if name in self.bad:
            raise LoadFailed("this model cannot be loaded")
        self.loaded.add((name, "1"))

    async def unload(self, name: TritonName, *, timeout: float) -> None:
        self.unloads.append(name)
        if self.keeps:
            raise BackendUnavailable(f"{name} is still there")
        self.loaded.discard((name, "1"))

    async def metadata(self, name: TritonName, version: str = "") -> bytes:
        return b""

    async def contract(self, name: TritonName, version: str = "") -> Contract | None:
        if self.away:
            raise BackendUnavailable(f"{self.backend.name} is away")
        return self.contract_of.get(name)

    async def capacity(self, name: TritonName, version: str = "") -> Capacity:
        return self.capacity_of.get(name, Capacity())

    async def last_used(self, name: TritonName, version: str = "") -> float | None:
        if self.away or self.silent:
            raise BackendUnavailable(f"{self.backend.name} is away")
        return self.used.get(name)

    async def close(self) -> None:
        pass


class Folders:
    """Model folders that are always there.

    Attributes:
        hold: while it is set, files come until then, and whoever asks is told how far they are.
    """

    def __init__(self) -> None:
        self.hold: asyncio.Event | None = None

    async def put(
        self, version: Version, name: TritonName, progress: Callable[[str], None] | None = None
    ) -> Path:
        if self.hold is not None:
            assert progress is not None
            progress(f"{version.model} {version.version}: fetched 3.0 of 7.0 MiB")
            await self.hold.wait()
        return Path("/repository") / name

    async def remove(self, name: TritonName) -> None:
        pass


class Routes(MemoryStore):
    """A store in which a test puts routes without waiting."""

    def put(self, route: Route) -> None:
        """Write a route."""
        entry = self._record("put_routes", "test", "", *self._routed({route.model: route}))
        self._put([route], entry)

    def forget(self) -> None:
        """Be as new."""
        self._routes.clear()
        self._audit.clear()


@dataclass
class Records:
    """Loads and unloads as they were counted."""

    loads: list[tuple[str, str, str, bool]] = field(default_factory=list)
    unloads: list[tuple[str, str, str, str]] = field(default_factory=list)

    def loaded(self, model: str, version: str, backend: str, seconds: float, *, ok: bool) -> None:
        self.loads.append((model, version, backend, ok))

    def unloaded(self, model: str, version: str, backend: str, reason: str) -> None:
        self.unloads.append((model, version, backend, reason))


class World:
    """One control loop and all that it talks to."""

    def __init__(self, store: StateStore | None = None) -> None:
        self.clock = ManualClock()
        self.shelf = Shelf()
        self.routes = Routes()
        self.plane = FakeDataPlane()
        self.records = Records()
        self.faulty: set[str] = set()
        self.controller = Controller(
            ControllerSettings(default_registry="local", idle_unload=1800.0, load_timeout=60.0),
            store=store or self.routes,
            data_plane=self.plane,
            clock=self.clock,
            recorder=self.records,
            describe=self._describe,
            triton_name=lambda version: TritonName(f"{version.model}.{version.version}"),
        )

    def _describe(self, version: Version) -> bytes:
        if version.model in self.faulty:
            raise OverflowError("a shape beyond 64 bits")
        return b""

    def add_triton(self, name: str = "t0", control: Control = Control.EXPLICIT) -> Triton:
        """Add a backend that is up."""
        triton = Triton(name, control)
        folders = Folders() if control is Control.EXPLICIT else None
        self.controller.add_backend(BackendState(triton.backend, triton, folders))
        return triton

    async def settle(self) -> None:
        """Let everything that can happen now happen."""
        for state in self.controller.residents.backends.values():
            await self.controller.probe(state)
        for _ in range(4):
            await self.controller.turned()
            for _ in range(20):
                await asyncio.sleep(0)

    async def later(self, seconds: float) -> None:
        """Move the clock and look at what time brings."""
        self.clock.time += seconds
        self.controller.look_at_time()
        await self.settle()


@pytest.fixture
async def world() -> AsyncIterator[World]:
    """A running control loop on one folder registry."""
    world = World()
    task = asyncio.create_task(world.controller.run())
    world.controller.add_registry(world.shelf)
    yield world
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
