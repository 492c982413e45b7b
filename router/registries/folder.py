"""The folder registry: files that a person can edit.

    models/<model>/model.yaml               description, stages, aliases, tags
    models/<model>/<version>/version.yaml   format, artifact, digest, contract, metrics, tags, lineage

Every file keeps its own last good reading: a file that is cut, empty or wrong is a problem with its line,
and what it said before goes on. A model whose `model.yaml` was never readable is left out, because without
its stages nobody can say which version clients should get.
"""

from __future__ import annotations

import asyncio
import math
import os
import stat
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from pathlib import Path
from typing import cast

from router.errors import NotSupported, RegistryIncomplete, RegistryRefused, RegistryUnavailable
from router.model import (
    ModelName,
    PointerKind,
    RegistryView,
    Version,
    VersionId,
)
from router.ports import ANYTHING, Capability, Hint, NewVersion, RegistryChange, Source, Unknown
from router.registries import asking
from router.registries.documents import (
    MAX_FILE,
    ModelFiles,
    ModelSignature,
    Signature,
    decoded,
    is_new,
    is_temporary,
)
from router.registries.files import MODEL_FILE, VERSION_FILE
from router.registries.incoming import bring_in
from router.registries.manifest import (
    Complaint,
    Unreadable,
    VersionManifest,
)
from router.registries.options import Option, OptionKind, RegistryType
from router.registries.pointer_names import reference_problem
from router.registries.pointers import write_change

POLL_SECONDS = 0.25
SETTLE_SECONDS = 0.1
"""A change is told once the files have been still for this long, so that half a write is rarely read."""

LONGEST_SECONDS = 30.0
"""How long one reading may take; 10,000 models take about as long at first."""

_SETTLE_LOOKS = 3
_REST = 4
_FRESH_NS = 100_000_000
_PIECE = 1 << 16

Tree = Mapping[str, ModelSignature]


class FolderRegistry:
    """`ports.Registry` over a folder. Files are read and written in a thread."""

    def __init__(
        self,
        name: str,
        path: Path,
        *,
        poll: float = POLL_SECONDS,
        settle: float = SETTLE_SECONDS,
        longest: float = LONGEST_SECONDS,
    ) -> None:
        """`longest`: seconds after which a reading is left to the next one to go on with."""
        self._name = name
        self._path = path.absolute()
        self._poll = poll
        self._settle = settle
        self._longest = longest
        self._lock = threading.Lock()
        self._scanner = _Scanner(self._path)
        self._place = _Files(self._path)
        self._models: dict[str, ModelFiles] = {}
        self._seen: Tree | None = None
        self._cost = 0.0

    @property
    def name(self) -> str:
        """Its key in the configuration."""
        return self._name

    @property
    def path(self) -> Path:
        """The folder."""
        return self._path

    @property
    def capabilities(self) -> frozenset[Capability]:
        """Stages and aliases are lines of `model.yaml`, tags of `version.yaml`; files are copied in."""
        return frozenset({Capability.STAGES, Capability.ALIASES, Capability.TAGS, Capability.REGISTER})

    async def read(self, hint: Hint = ANYTHING) -> RegistryView:
        """Read everything, whole; files that did not change since the last time are not read again.

        Raises:
            RegistryUnavailable: the folder is not there or cannot be listed.
            RegistryIncomplete: there are very many files to read.
        """
        return await asyncio.to_thread(self._read, self._longest)

    async def get(self, model: ModelName, version: VersionId) -> Version | Unknown | None:
        """One version as it is on disk now."""
        return await asking.get(self, model, version)

    async def resolve(self, model: ModelName, kind: PointerKind, name: str) -> VersionId | Unknown | None:
        """What `model.yaml` says now."""
        return await asking.resolve(self, model, kind, name)

    def pointer_problem(self, kind: PointerKind, name: str) -> str:
        """What a line of `model.yaml` cannot be called."""
        return reference_problem(name)

    async def write(self, change: RegistryChange) -> None:
        """Change `model.yaml` or `version.yaml` by one rename. Raises as the port says."""
        await asyncio.to_thread(write_change, self._path, change)

    async def register(self, new: NewVersion, progress: Callable[[str], None] | None = None) -> Version:
        """Copy files in beside their manifest, by one rename. Raises as the port says."""
        return await asyncio.to_thread(self._register, new, progress)

    def _register(self, new: NewVersion, progress: Callable[[str], None] | None) -> Version:
        version = bring_in(self._path, new, progress)
        self._read(math.inf)
        files = self._models.get(new.model)
        if files is None or files.model is None or version not in files.model.versions:
            raise RegistryRefused(
                f"registry {self._name!r} cannot read {new.model}/{version} that it took in"
            )
        return files.model.versions[version]

    def webhook(self, headers: Mapping[str, str], body: bytes, now: float) -> Sequence[Hint]:
        """Raises NotSupported: a folder sends none; its changes are seen without."""
        raise NotSupported(f"registry {self._name!r} is a folder; it sends no notices")

    def source(self, uri: str) -> Source | None:
        """None: the files of a folder's versions are read as anybody's are."""
        return None

    async def close(self) -> None:
        """Nothing is held."""

    async def changes(self) -> AsyncIterator[Hint]:
        """Yield once for each change on disk, within a second of it.

        Looking at 1,000 models of three versions takes about 15 ms of processor time; where it takes so
        long that this would be more than a fifth of a core, it looks less often.
        """
        seen = self._seen
        if seen is None:
            seen = await asyncio.to_thread(self._look)
        while True:
            await asyncio.sleep(max(self._poll, self._cost * _REST))
            now = await asyncio.to_thread(self._look, quick=True)
            if now == seen:
                continue
            for _ in range(_SETTLE_LOOKS):
                await asyncio.sleep(self._settle)
                before, now = now, await asyncio.to_thread(self._look)
                if now == before:
                    break
            seen = now
            yield ANYTHING

    def _look(self, *, quick: bool = False) -> Tree | None:
        """The tree as it is now; None where the folder cannot be listed."""
        started = time.thread_time()
        try:
            with self._lock:
                return self._scanner.scan(quick=quick)
        except OSError:
            return None
        finally:
            self._cost = time.thread_time() - started

    def _read(self, seconds: float) -> RegistryView:
        with self._lock:
            try:
                tree = self._scanner.scan()
            except OSError as error:
                raise RegistryUnavailable(
                    f"registry {self._name!r}: folder {self._path} cannot be read: {error.strerror}",
                    hint="create it, or change `path`",
                ) from error
            self._models = {
                folder: self._models.get(folder) or ModelFiles(self._name, self._place, folder)
                for folder in tree
            }
            until = time.monotonic() + seconds
            for number, (folder, signature) in enumerate(tree.items(), 1):
                read = self._models[folder].update(signature)
                if read and time.monotonic() > until and number < len(tree):
                    raise RegistryIncomplete(f"{number} of {len(tree)} models are read")
            self._seen = tree
            return self._view()

    def _view(self) -> RegistryView:
        folders = [self._models[folder] for folder in sorted(self._models)]
        return RegistryView(
            registry=self._name,
            models={folder.model.name: folder.model for folder in folders if folder.model is not None},
            problems=tuple(problem for folder in folders for problem in folder.problems),
        )


class _Scanner:
    """Looks at names and times of files.

    A folder whose own time stands is not listed again. Versions do not change once they are there, so a
    quick look asks only every other model for its `version.yaml` files, in turns.
    """

    def __init__(self, root: Path) -> None:
        self._root = str(root)
        self._listed: dict[str, tuple[Signature, tuple[str, ...]]] = {}
        self._tree: dict[str, ModelSignature] = {}
        self._turn = 0

    def scan(self, *, quick: bool = False) -> Tree:
        """All files as they are now. Raises OSError where the root cannot be listed."""
        horizon = time.time_ns() - _FRESH_NS
        before, self._tree = self._tree, {}
        known, self._listed = self._listed, {}
        self._turn ^= quick
        for index, model in enumerate(self._list(self._root, known, horizon)):
            path = f"{self._root}/{model}"
            try:
                versions = self._list(path, known, horizon)
            except OSError:
                continue  # it went away between the two looks
            skip = quick and index % 2 == self._turn and known.get(path) == self._listed[path]
            last = before.get(model)
            now: ModelSignature = (
                _signature(f"{path}/{MODEL_FILE}", horizon),
                last[1]
                if skip and last is not None
                else tuple(
                    [(name, _signature(f"{path}/{name}/{VERSION_FILE}", horizon)) for name in versions]
                ),
            )
            # Of equal ones the first is kept: those who remember it hold no second copy.
            self._tree[model] = last if last is not None and last == now else now
        return self._tree

    def _list(
        self, path: str, known: Mapping[str, tuple[Signature, tuple[str, ...]]], horizon: int
    ) -> tuple[str, ...]:
        """Names of the folders in a folder, sorted."""
        status = os.stat(path)
        signature = _signature_of(status, horizon)
        last = known.get(path)
        if last is not None and last[0] == signature and not is_new(signature):
            names = last[1]
        else:
            with os.scandir(path) as entries:
                found = sorted(e.name for e in entries if not is_temporary(e.name) and _is_folder(e))
                # Version numbers repeat in every model.
                names = tuple(map(sys.intern, found))
        self._listed[path] = (signature, names)
        return names


def _is_folder(entry: os.DirEntry[str]) -> bool:
    """Whether it is a folder, or a link to one; a link that leads nowhere or round in a circle is none."""
    try:
        return entry.is_dir()
    except OSError:
        return False


def _signature(path: str, horizon: int) -> Signature | None:
    try:
        status = os.stat(path)
    except OSError:
        return None
    return _signature_of(status, horizon)


def _signature_of(status: os.stat_result, horizon: int) -> Signature:
    """A file's ctime (which nobody can set back), inode and size, and in the lowest bit whether it changed so
    recently that a further change might leave all of these as they are: a clock tick is coarser than a write.
    """
    changed = status.st_ctime_ns
    return ((changed << 64 | status.st_ino) << 64 | status.st_size) << 1 | (changed > horizon)


def _read_text(path: str) -> str:
    try:
        # To open a pipe waits for its other end, unless told not to.
        file = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            status = os.fstat(file)
            if not stat.S_ISREG(status.st_mode):
                raise Unreadable([Complaint(1, "is no regular file")])
            data = _read_all(file, status.st_size)
        finally:
            os.close(file)
    except OSError as error:
        raise Unreadable([Complaint(1, f"cannot be read: {error.strerror}")]) from error
    return decoded(data)


def _read_all(file: int, size: int) -> bytes:
    """All of a regular file of about this size, or more than a manifest may have."""
    data = b""
    # One byte more than there should be: an answer that is shorter than asked for was the last.
    asked = min(size, MAX_FILE) + 1
    while len(data) <= MAX_FILE:
        more = os.read(file, asked)
        data += more
        # Disks over a network may give less than there is.
        if not more or (len(more) < asked and len(data) >= size):
            break
        asked = _PIECE
    return data


class _Files:
    """`documents.Place` of a folder."""

    def __init__(self, root: Path) -> None:
        self._root = str(root)

    def text(self, path: str) -> str:
        return _read_text(f"{self._root}/{path}")

    def artifact(self, path: str) -> str:
        return f"{self._root}/{path}"

    def check(self, folder: str, manifest: VersionManifest) -> None:
        """A path stays in its folder, through links too."""
        if manifest.is_uri:
            return
        whole = f"{self._root}/{folder}"
        if not _is_linked(whole, manifest.artifact):
            return
        real = Path(os.path.realpath(f"{whole}/{manifest.artifact}"))
        if not real.is_relative_to(os.path.realpath(whole)):
            raise Unreadable([Complaint(1, f"artifact: {manifest.artifact!r} is a link out of the folder")])


def _is_linked(folder: str, path: str) -> bool:
    """Whether anything on the way from a folder along a path without `..` is a link."""
    while True:
        if os.path.islink(f"{folder}/{path}"):
            return True
        path, separator, _ = path.rpartition("/")
        if not separator:
            return False


def _open(name: str, options: Mapping[str, object]) -> FolderRegistry:
    return FolderRegistry(name, cast(Path, options["path"]))


TYPE = RegistryType(
    about="a folder of `<model>/model.yaml` and `<model>/<version>/version.yaml`",
    options=(Option("path", OptionKind.PATH, "the folder that holds the models", required=True),),
    open=_open,
)
"""`type: folder`."""
