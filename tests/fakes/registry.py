"""A registry that a test fills by hand."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import replace

from router.errors import (
    Conflict,
    ModelNotFound,
    NotSupported,
    RegistryRefused,
    RegistryUnavailable,
    VersionNotFound,
    WebhookRefused,
)
from router.model import (
    ModelName,
    PointerKind,
    RegisteredModel,
    RegistryProblem,
    RegistryView,
    Version,
    VersionId,
)
from router.ports import (
    ANYTHING,
    AliasChange,
    Capability,
    Hint,
    NewVersion,
    RegistryChange,
    Source,
    TagChange,
    Unknown,
)
from router.registries import asking


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
        self.hints: list[Hint] = []
        self.closed = False

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

    @property
    def capabilities(self) -> frozenset[Capability]:
        return frozenset(Capability) - {Capability.REGISTER}

    async def read(self, hint: Hint = ANYTHING) -> RegistryView:
        self.reads += 1
        self.hints.append(hint)
        if self._down:
            raise RegistryUnavailable(f"registry {self._name!r}: {self._down}")
        return RegistryView(self._name, dict(self._models), self._problems)

    async def get(self, model: ModelName, version: VersionId) -> Version | Unknown | None:
        return await asking.get(self, model, version)

    async def resolve(self, model: ModelName, kind: PointerKind, name: str) -> VersionId | Unknown | None:
        return await asking.resolve(self, model, kind, name)

    def pointer_problem(self, kind: PointerKind, name: str) -> str:
        return f"{name!r} is forbidden here; take 'allowed'" if name.startswith("forbidden") else ""

    async def write(self, change: RegistryChange) -> None:
        if self._down:
            raise RegistryUnavailable(f"registry {self._name!r}: {self._down}")
        model = self._models.get(change.model)
        if model is None:
            raise ModelNotFound(f"registry {self._name!r} has no model {change.model!r}")
        changed = self._changed(model, change)
        if changed != model:
            await self.put(changed)

    @staticmethod
    def _changed(model: RegisteredModel, change: RegistryChange) -> RegisteredModel:
        if change.version is not None and change.version not in model.versions:
            raise VersionNotFound(f"model {model.name!r} has no version {change.version!r}")
        if isinstance(change, TagChange):
            version = model.versions[change.version]
            tags = {key: value for key, value in version.tags.items() if key != change.key}
            if change.value is not None:
                tags[change.key] = change.value
            return replace(model, versions={**model.versions, change.version: replace(version, tags=tags)})
        alias = isinstance(change, AliasChange)
        name = change.alias if isinstance(change, AliasChange) else change.stage.lower()
        if name.startswith("forbidden"):
            raise RegistryRefused(f"{name!r} is forbidden here")
        pointers = dict(model.aliases if alias else model.stages)
        if change.expected is not None and pointers.get(name, "") not in (change.expected, change.version):
            raise Conflict(f"{name!r} names {pointers.get(name)!r}", current_revision=0)
        if change.version is None:
            pointers.pop(name, None)
        elif not name:
            pointers = {stage: to for stage, to in pointers.items() if to != change.version}
        else:
            pointers[name] = change.version
        return replace(model, aliases=pointers) if alias else replace(model, stages=pointers)

    async def register(self, new: NewVersion, progress: Callable[[str], None] | None = None) -> Version:
        raise NotSupported(f"registry {self._name!r} takes no files")

    def webhook(self, headers: Mapping[str, str], body: bytes, now: float) -> Sequence[Hint]:
        """The body is `model` or `model alias`, the signature the word `signed`."""
        if headers.get("x-signature") != "signed":
            raise WebhookRefused("the signature is wrong")
        model, _, alias = body.decode().partition(" ")
        return [Hint(ModelName(model), alias or None)]

    def source(self, uri: str) -> Source | None:
        return None

    async def close(self) -> None:
        self.closed = True

    async def changes(self) -> AsyncIterator[Hint]:
        seen = self._moves
        while True:
            async with self._moved:
                while self._moves == seen:
                    await self._moved.wait()
                seen = self._moves
            yield ANYTHING

    async def _tell(self) -> None:
        async with self._moved:
            self._moves += 1
            self._moved.notify_all()
