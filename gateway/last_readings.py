"""What registries said last, on the local disk: a gateway that starts while one is away serves that.

One file for each registry, beside the state, replaced by rename. It is a copy of what the registry says and
no state of ours: what cannot be read is told and left, and a registry that answers is always believed.
"""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import hashlib
import io
import json
import logging
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import MISSING, fields, is_dataclass
from functools import cache, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from pydantic import TypeAdapter, ValidationError

from router.model import Contract, RegistryView

if TYPE_CHECKING:
    from gateway.config.registries import RegistryConfig
    from router.control.controller import Controller
    from router.control.reader import RegistryState
    from router.ports import Clock

LOG = logging.getLogger("stagegate")

FORMAT = 1
"""A file of another format is not read."""

SAVE_SECONDS = 5.0
"""How often it is looked whether there is something new to keep."""

REST = 20.0
"""It rests this many times as long as it took: a large registry of which something always changes."""

LEND_SECONDS = 5.0
"""How long what is being written may take before another process keeps it."""

PATIENCE = 10.0
"""How long a start waits for a registry of which it knows what it said last."""

_VIEW = TypeAdapter(RegistryView)


def origin_of(section: RegistryConfig) -> str:
    """A mark of what a registry is: where its section says something else, it is another one."""
    plain = {name: str(value) for name, value in section.options.items() if not callable(value)}
    return hashlib.sha256(json.dumps([section.type, plain], sort_keys=True).encode()).hexdigest()


def encode(view: RegistryView, origin: str) -> bytes:
    """A file's content."""
    content = io.BytesIO()
    with gzip.GzipFile(fileobj=content, mode="wb", compresslevel=1, mtime=0) as file:
        for piece in _pieces(view, origin):
            file.write(piece.encode())
    return content.getvalue()


def _pieces(view: RegistryView, origin: str) -> Iterator[str]:
    """The document, model by model: while one is made nobody else gets to work in Python."""
    yield json.dumps({"format": FORMAT, "origin": origin})[:-1] + ', "view": '
    yield json.dumps({"registry": view.registry, "problems": _plain(view.problems)})[:-1] + ', "models": {'
    for number, (name, model) in enumerate(view.models.items()):
        yield f"{', ' if number else ''}{json.dumps(str(name))}: {json.dumps(_plain(model))}"
    yield "}}}"


def decode(content: bytes, origin: str) -> RegistryView | None:
    """What a file holds; None where it is of another format or of another registry.

    Raises:
        ValueError: it is damaged.
    """
    try:
        document = json.loads(gzip.decompress(content))
        if not isinstance(document, dict) or "view" not in document:
            raise ValueError("there is no reading in it")
        if (document.get("format"), document.get("origin")) != (FORMAT, origin):
            return None
        return _VIEW.validate_python(document["view"])
    except (OSError, EOFError, RecursionError, ValidationError) as problem:
        raise ValueError(str(problem).partition("\n")[0]) from problem


class LastReadings:
    """Keeps what the registries of a controller said last.

    Args:
        folder: where; it is made where there is something to keep. None keeps nothing.
        sections: the registries as they are configured now.
    """

    def __init__(
        self,
        folder: Path | None,
        controller: Controller,
        clock: Clock,
        sections: Mapping[str, RegistryConfig],
    ) -> None:
        self._folder = folder
        self._controller = controller
        self._clock = clock
        self._origins = {name: origin_of(section) for name, section in sections.items()}
        self._kept: dict[str, tuple[str, RegistryView]] = {}
        self._found: dict[str, tuple[RegistryView, float] | None] = {}
        self._told: set[str] = set()
        self._saving = asyncio.Lock()
        self._lent = False

    async def lend(self) -> None:
        """Keep nothing more until `take_back`: another process does, over the same folder."""
        self._lent = True
        with contextlib.suppress(TimeoutError):  # a disk that hangs holds up no takeover
            async with asyncio.timeout(LEND_SECONDS), self._saving:
                self._kept.clear()

    def take_back(self) -> None:
        """Keep it again after `lend`, whatever the other process left."""
        self._lent = False

    def configure(self, sections: Mapping[str, RegistryConfig]) -> None:
        """Take a changed configuration over; nothing is kept of registries that are not in it."""
        for name in self._origins.keys() - sections.keys():
            self._kept.pop(name, None)
            self._remove(name)
        self._origins = {name: origin_of(section) for name, section in sections.items()}

    def _remove(self, name: str) -> None:
        if self._folder is None:
            return
        try:
            self._path(name).unlink(missing_ok=True)
        except OSError as problem:
            LOG.warning("registry %s: what was kept of it cannot be removed: %s", name, problem)

    def can_go_on(self, state: RegistryState) -> bool:
        """Whether a start need not wait any longer for a registry, since it is known what it said last."""
        return self._clock.now() - state.since >= PATIENCE and self._find(state.registry.name) is not None

    def recall(self) -> None:
        """Give the controller what those registries said last that were never read."""
        for name, state in self._controller.registries.items():
            found = None if state.view is not None else self._find(name)
            if found is not None:
                view, at = found
                age = max(0.0, self._clock.unix() - at)
                LOG.warning("registry %s cannot be read; what it said %.0f s ago goes on", name, age)
                self._controller.recall(name, view, age)
        self._found.clear()

    async def run(self) -> None:
        """Keep what is new, until cancelled; what takes long is kept less often."""
        while True:
            begun = self._clock.now()
            await self.save()
            await asyncio.sleep(max(SAVE_SECONDS, REST * (self._clock.now() - begun)))

    async def save(self) -> None:
        """Keep what is new. A disk that takes nothing is told once."""
        async with self._saving:
            await self._save()

    async def _save(self) -> None:
        now = self._clock.now()
        for name, state in tuple(self._controller.registries.items()):
            view, age, origin = state.view, state.age(now), self._origins.get(name)
            if self._lent:
                return
            if self._folder is None or view is None or age is None or origin is None:
                continue
            if not state.readings.whole:
                continue  # it is from there
            try:
                await asyncio.to_thread(self._write, name, view, origin, self._clock.unix() - age)
            except OSError as problem:
                if name not in self._told:
                    LOG.warning("registry %s: what it says cannot be kept: %s", name, problem)
                self._told.add(name)
            else:
                self._told.discard(name)

    def _path(self, name: str) -> Path:
        return (self._folder or Path()) / f"{quote(name, safe='')}.json.gz"

    def _find(self, name: str) -> tuple[RegistryView, float] | None:
        """What was kept of a registry and when it said that; read once in a start."""
        if name not in self._found:
            self._found[name] = None if self._folder is None else self._read(name, self._path(name))
        return self._found[name]

    def _read(self, name: str, path: Path) -> tuple[RegistryView, float] | None:
        try:
            view = decode(path.read_bytes(), self._origins.get(name, ""))
            return None if view is None else (view, path.stat().st_mtime)
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as problem:
            LOG.warning("registry %s: what was kept of it in %s cannot be read: %s", name, path, problem)
            return None

    def _write(self, name: str, view: RegistryView, origin: str, at: float) -> None:
        path = self._path(name)
        if self._kept.get(name) == (origin, view) and path.exists():
            os.utime(path, (at, at))
            return
        path.parent.mkdir(mode=0o700, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=".", delete=False) as file:
            try:
                file.write(encode(view, origin))
                file.flush()
                os.fsync(file.fileno())
                os.utime(file.name, (at, at))
                os.replace(file.name, path)
            except BaseException:
                os.unlink(file.name)
                raise
        self._kept[name] = (origin, view)


def _plain(value: object) -> object:
    """A value as JSON knows it; fields that hold their default are left out."""
    if value is None or isinstance(value, str | float):
        return value
    if isinstance(value, Contract):
        return _contract(value)
    if is_dataclass(value):
        plain = {}
        kind: type = type(value)
        for name, default in _fields(kind):
            held = getattr(value, name)
            # All defaults say nothing; to compare what says something takes a while.
            if held or held != default:
                plain[name] = _plain(held)
        return plain
    if isinstance(value, Mapping):
        return {str(name): _plain(held) for name, held in value.items()}
    if isinstance(value, Sequence):
        return [_plain(held) for held in value]
    return value


@lru_cache(maxsize=1024)
def _contract(contract: Contract) -> object:
    """One for all that are equal: the versions of a model mostly have the same contract."""
    return {side: [_plain(tensor) for tensor in getattr(contract, side)] for side in ("inputs", "outputs")}


@cache
def _fields(kind: type) -> tuple[tuple[str, object], ...]:
    """Names and defaults of a class's fields."""
    return tuple((field.name, _default(field)) for field in fields(kind))


def _default(field: object) -> object:
    factory = getattr(field, "default_factory", MISSING)
    return getattr(field, "default", MISSING) if factory is MISSING else factory()
