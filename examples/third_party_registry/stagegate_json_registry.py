"""A registry in one JSON file: what it takes to teach Stagegate a registry that it does not know.

    {"digits": {"versions": {"1": {"format": "onnx", "artifact": "/srv/models/digits-1.onnx"},
                             "2": {"format": "onnx", "artifact": "/srv/models/digits-2.onnx"}},
                "stages": {"production": "1"},
                "aliases": {"champion": "2"}}}

Four promises matter most: a view is whole; a model that cannot be read now keeps its last good reading
and is a problem; nothing readable at all is RegistryUnavailable; and "I cannot" is said by NotSupported.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import tempfile
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from router.alias import in_order, parse_reference
from router.errors import (
    Conflict,
    InvalidName,
    InvalidReference,
    ModelNotFound,
    NotSupported,
    RegistryUnavailable,
    VersionNotFound,
)
from router.model import (
    ModelName,
    PointerKind,
    RegisteredModel,
    RegistryProblem,
    RegistryView,
    Version,
    VersionId,
    parse_model_name,
)
from router.ports import (
    ANYTHING,
    AliasChange,
    Capability,
    Hint,
    NewVersion,
    Registry,
    RegistryChange,
    Source,
    TagChange,
    Unknown,
)
from router.registries import asking
from router.registries.options import Option, OptionKind, RegistryType

POLL = 5.0
MOST = 16 << 20
"""Bytes of the file: what others write is bounded."""


class JsonRegistry:
    """`router.ports.Registry` over one file. Nothing blocks the loop: the file is read in a thread."""

    def __init__(self, name: str, path: Path, poll: float) -> None:
        self._name = name
        self._path = path
        self._poll = poll
        self._good: dict[ModelName, RegisteredModel] = {}
        self._writing = asyncio.Lock()

    @property
    def name(self) -> str:
        """Its key in the configuration."""
        return self._name

    @property
    def capabilities(self) -> frozenset[Capability]:
        """What `write` can do; everything else raises NotSupported."""
        return frozenset({Capability.STAGES, Capability.ALIASES})

    async def read(self, hint: Hint = ANYTHING) -> RegistryView:
        """The whole file. A hint could save work where asking for one model is cheaper than for all."""
        found = await asyncio.to_thread(self._load)
        models: dict[ModelName, RegisteredModel] = {}
        problems: list[RegistryProblem] = []
        for key, entry in found.items():
            try:
                model = self._model(key, entry)
            except (InvalidName, InvalidReference, ValueError) as error:
                problems.append(RegistryProblem(key[:256], f"cannot be read: {error}"[:500]))
                if key in self._good:
                    models[ModelName(key)] = self._good[ModelName(key)]
                continue
            # An equal object is kept, so that who compares two views is done at once.
            before = self._good.get(model.name)
            models[model.name] = before if before is not None and before == model else model
        self._good = models
        return RegistryView(self._name, dict(models), tuple(problems))

    async def get(self, model: ModelName, version: VersionId) -> Version | Unknown | None:
        """One version; `asking` does it by reading, for registries that have nothing cheaper."""
        return await asking.get(self, model, version)

    async def resolve(self, model: ModelName, kind: PointerKind, name: str) -> VersionId | Unknown | None:
        """What a stage or alias names now."""
        return await asking.resolve(self, model, kind, name)

    async def changes(self) -> AsyncIterator[Hint]:
        """A hint each time the file may have changed, went away or came back."""
        seen = self._mark()
        while True:
            await asyncio.sleep(self._poll * random.uniform(0.9, 1.1))  # noqa: S311 - no secret
            now = await asyncio.to_thread(self._mark)
            if now != seen:
                seen = now
                yield ANYTHING

    def pointer_problem(self, kind: PointerKind, name: str) -> str:
        """What clients could not name; JSON itself takes any text."""
        if name.startswith("@"):
            return f"{name!r}: write the name without '@'"
        try:
            parse_reference(name)
        except InvalidReference as problem:
            return problem.message
        return ""

    async def write(self, change: RegistryChange) -> None:
        """Move a stage or an alias. What already is so is left as it is."""
        if isinstance(change, TagChange):
            raise NotSupported(f"registry {self._name!r} keeps no tags")
        async with self._writing:
            await asyncio.to_thread(self._write, change)

    async def register(self, new: NewVersion, progress: Callable[[str], None] | None = None) -> Version:
        """Not here: who may write the file writes it."""
        raise NotSupported(f"registry {self._name!r}: versions are written into {self._path.name} by hand")

    def webhook(self, headers: Mapping[str, str], body: bytes, now: float) -> Sequence[Hint]:
        """A file sends none. Where a registry does: check signature, time and replay, then return hints."""
        raise NotSupported(f"registry {self._name!r} sends no notices")

    def source(self, uri: str) -> Source | None:
        """None: paths, s3:// and https:// are fetched as anybody's, where `artifacts.allow` lists them."""
        return None

    async def close(self) -> None:
        """Nothing is held."""

    def _load(self) -> dict[str, Any]:
        try:
            with self._path.open("rb") as file:
                data = file.read(MOST + 1)
        except OSError as error:
            raise RegistryUnavailable(f"registry {self._name!r}: {self._path}: {error.strerror}") from error
        try:
            found = json.loads(data)
        except (ValueError, RecursionError):
            found = None
        if len(data) > MOST or not isinstance(found, dict):
            raise RegistryUnavailable(f"registry {self._name!r}: {self._path} is no JSON object of our size")
        return found

    def _mark(self) -> tuple[int, int, int] | None:
        try:
            status = self._path.stat()
        except OSError:
            return None
        return status.st_mtime_ns, status.st_ino, status.st_size

    def _model(self, key: str, entry: object) -> RegisteredModel:
        """One model; raises ValueError, InvalidName, InvalidReference where it is not as it should be."""
        name = parse_model_name(key)
        found = _mapping(entry, "model")
        versions = [
            self._version(name, *item) for item in _mapping(found.get("versions"), "versions").items()
        ]
        known = {str(version.version) for version in versions}
        pointers: dict[str, dict[str, VersionId]] = {}
        for kind in ("stages", "aliases"):
            pointers[kind] = {}
            for pointer, to in _mapping(found.get(kind, {}), kind).items():
                parse_reference(pointer)
                if to not in known:
                    raise ValueError(f"{kind}: {pointer!r} names {to!r}, which is no version")
                pointers[kind][pointer.lower() if kind == "stages" else pointer] = VersionId(to)
        return RegisteredModel(self._name, name, in_order(versions), pointers["stages"], pointers["aliases"])

    def _version(self, model: ModelName, version: str, entry: object) -> Version:
        parse_reference(version)
        found = _mapping(entry, f"version {version!r}")
        form, artifact, digest = (found.get(key, "") for key in ("format", "artifact", "digest"))
        if not (isinstance(form, str) and isinstance(artifact, str) and isinstance(digest, str) and artifact):
            raise ValueError(f"version {version!r} needs format and artifact as texts")
        return Version(self._name, model, VersionId(version), form, artifact, digest)

    def _write(self, change: RegistryChange) -> None:
        found = self._load()
        entry = found.get(change.model)
        if not isinstance(entry, dict):
            raise ModelNotFound(f"registry {self._name!r} has no model {change.model!r}")
        if change.version is not None and change.version not in entry.get("versions", {}):
            raise VersionNotFound(f"model {change.model!r} has no version {change.version!r}")
        alias = isinstance(change, AliasChange)
        pointers = entry.setdefault("aliases" if alias else "stages", {})
        name = change.alias if isinstance(change, AliasChange) else getattr(change, "stage", "").lower()
        kind = PointerKind.ALIAS if alias else PointerKind.STAGE
        problem = self.pointer_problem(kind, name) if name else ""
        if problem:
            raise InvalidReference(problem)
        expected = getattr(change, "expected", None)
        if expected is not None and pointers.get(name, "") not in (expected, change.version):
            raise Conflict(f"{name!r} names {pointers.get(name)!r}, not {expected!r}", current_revision=0)
        before = dict(pointers)
        if not name:  # a version leaves its stages
            kept = {stage: to for stage, to in pointers.items() if to != change.version}
            pointers.clear()
            pointers.update(kept)
        elif change.version is None:
            pointers.pop(name, None)
        else:
            pointers[name] = change.version
        if pointers != before:
            self._replace(json.dumps(found, indent=2))

    def _replace(self, text: str) -> None:
        """By one rename, so that nobody reads half a file."""
        try:
            descriptor, beside = tempfile.mkstemp(dir=self._path.parent)
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            os.replace(beside, self._path)
        except OSError as error:
            raise RegistryUnavailable(f"{self._path} cannot be written: {error.strerror}") from error


def _mapping(value: object, what: str) -> dict[str, object]:
    if not isinstance(value, dict):
        raise ValueError(f"{what} is no mapping")
    return value


def _open(name: str, options: Mapping[str, object]) -> Registry:
    return JsonRegistry(name, cast(Path, options["path"]), cast(float, options["poll"]))


TYPE = RegistryType(
    about="models in one JSON file",
    options=(
        Option("path", OptionKind.PATH, "the file", required=True),
        Option("poll", OptionKind.DURATION, "time between looks", default=POLL),
    ),
    open=_open,
)
