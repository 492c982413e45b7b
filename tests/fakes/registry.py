"""A registry that a test fills by hand."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping

from router.errors import RegistryUnavailable
from router.model import ModelName, RegisteredModel, RegistryProblem, RegistryView


class FakeRegistry:
    """`ports.Registry` in memory. `put`, `drop` and `fail` are what the outside world does to it."""

    def __init__(self, name: str = "local") -> None:
        self._name = name
        self._models: dict[ModelName, RegisteredModel] = {}
        self._problems: tuple[RegistryProblem, ...] = ()
        self._down = ""
        self._moves = 0
        self._moved = asyncio.Condition()
        self.reads = 0

    @property
    def name(self) -> str:
        return self._name

    @property
    def models(self) -> Mapping[ModelName, RegisteredModel]:
        """What it holds now."""
        return self._models

    async def put(self, model: RegisteredModel, *problems: RegistryProblem) -> None:
        """Register or replace a model."""
        self._models[model.name] = model
        self._problems = problems
        await self._tell()

    async def drop(self, model: ModelName) -> None:
        """Delete a model."""
        del self._models[model]
        await self._tell()

    async def fail(self, reason: str) -> None:
        """Be unreadable; "" ends it."""
        self._down = reason
        await self._tell()

    async def read(self) -> RegistryView:
        self.reads += 1
        if self._down:
            raise RegistryUnavailable(f"registry {self._name!r}: {self._down}")
        return RegistryView(self._name, dict(self._models), self._problems)

    async def changes(self) -> AsyncIterator[None]:
        seen = self._moves
        while True:
            async with self._moved:
                while self._moves == seen:
                    await self._moved.wait()
                seen = self._moves
            yield

    async def _tell(self) -> None:
        async with self._moved:
            self._moves += 1
            self._moved.notify_all()
