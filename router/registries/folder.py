"""The folder registry: files that a person can edit.

    models/<model>/model.yaml               description, stages, aliases, tags
    models/<model>/<version>/version.yaml   format, artifact, digest, contract, metrics, tags, lineage

Every file keeps its own last good reading: a file that is cut, empty or wrong is a problem with its line,
and what it said before goes on. A model whose `model.yaml` was never readable is left out, because without
its stages nobody can say which version clients should get.
"""

from __future__ import annotations

import asyncio
import os
import stat
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Generic, TypeVar, cast

from router.alias import in_order, parse_reference
from router.errors import InvalidName, InvalidReference, NotSupported, RegistryUnavailable
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
from router.ports import ANYTHING, Capability, Hint, NewVersion, RegistryChange, Source, Unknown
from router.registries import asking
from router.registries.files import MODEL_FILE, VERSION_FILE
from router.registries.kept_text import pack, unpack
from router.registries.manifest import (
    Complaint,
    ModelManifest,
    Unreadable,
    VersionManifest,
    read_model,
    read_version,
)
from router.registries.options import Option, OptionKind, RegistryType
from router.registries.pointers import write_change

POLL_SECONDS = 0.25
SETTLE_SECONDS = 0.1
"""A change is told once the files have been still for this long, so that half a write is rarely read."""

_SETTLE_LOOKS = 3
_REST = 4
_MAX_FILE = 1 << 20
_FRESH_NS = 100_000_000
_TEMPORARY = (".tmp", ".part", ".swp", "~")

Signature = int
"""A file's ctime (which nobody can set back), inode and size, and in the lowest bit whether it changed so
recently that a further change might leave all of these as they are: a clock tick is coarser than a write.
One number, because there is one for each version of each model."""

ModelSignature = tuple[Signature | None, tuple[tuple[str, Signature | None], ...]]
"""`model.yaml`, and each version folder with its `version.yaml`; None for a file that is not there."""

Tree = Mapping[str, ModelSignature]


def is_temporary(name: str) -> bool:
    """Whether a folder is somebody's work in progress: `.name`, `name.tmp`, `name.part`, `name~`."""
    return name.startswith(".") or name.endswith(_TEMPORARY)


class FolderRegistry:
    """`ports.Registry` over a folder. Files are read and written in a thread."""

    def __init__(
        self, name: str, path: Path, *, poll: float = POLL_SECONDS, settle: float = SETTLE_SECONDS
    ) -> None:
        self._name = name
        self._path = path.absolute()
        self._poll = poll
        self._settle = settle
        self._lock = threading.Lock()
        self._scanner = _Scanner(self._path)
        self._models: dict[str, _ModelFolder] = {}
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
        """Stages and aliases are lines of `model.yaml`."""
        return frozenset({Capability.STAGES, Capability.ALIASES})

    async def read(self, hint: Hint = ANYTHING) -> RegistryView:
        """Read everything, whole; files that did not change since the last time are not read again.

        Raises:
            RegistryUnavailable: the folder is not there or cannot be listed.
        """
        return await asyncio.to_thread(self._read)

    async def get(self, model: ModelName, version: VersionId) -> Version | Unknown | None:
        """One version as it is on disk now."""
        return await asking.get(self, model, version)

    async def resolve(self, model: ModelName, kind: PointerKind, name: str) -> VersionId | Unknown | None:
        """What `model.yaml` says now."""
        return await asking.resolve(self, model, kind, name)

    async def write(self, change: RegistryChange) -> None:
        """Change `model.yaml` by one rename. Raises as the port says."""
        await asyncio.to_thread(write_change, self._name, self._path, change)

    async def register(self, new: NewVersion, progress: Callable[[str], None] | None = None) -> Version:
        """Raises NotSupported: whoever can write to the folder puts the files there."""
        raise NotSupported(f"registry {self._name!r}: versions are put into the folder by hand")

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

    def _read(self) -> RegistryView:
        with self._lock:
            try:
                tree = self._scanner.scan()
            except OSError as error:
                raise RegistryUnavailable(
                    f"registry {self._name!r}: folder {self._path} cannot be read: {error.strerror}",
                    hint="create it, or change `path`",
                ) from error
            self._models = {
                folder: self._models.get(folder) or _ModelFolder(self._name, f"{self._path}/{folder}")
                for folder in tree
            }
            for folder, signature in tree.items():
                self._models[folder].update(signature)
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
        if last is not None and last[0] == signature and not _is_new(signature):
            names = last[1]
        else:
            with os.scandir(path) as entries:
                found = sorted(e.name for e in entries if not is_temporary(e.name) and _is_folder(e))
                # Version numbers repeat in every model.
                names = tuple(map(sys.intern, found))
        self._listed[path] = (signature, names)
        return names


def _shown(name: str) -> str:
    """A file's name as text that can be printed and sent; what is no UTF-8 is written out."""
    return name if name.isprintable() else repr(name)[1:-1]


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
    changed = status.st_ctime_ns
    return ((changed << 64 | status.st_ino) << 64 | status.st_size) << 1 | (changed > horizon)


def _is_new(signature: Signature) -> bool:
    return bool(signature & 1)


_Manifest = TypeVar("_Manifest", ModelManifest, VersionManifest)


class _File(Generic[_Manifest]):
    """One manifest: its last good reading, and what is wrong with what is on disk now.

    There is one for each version of each model, so it keeps little: no path, and the text packed.
    """

    __slots__ = ("_good_text", "_signature", "broken", "complaints", "good")

    def __init__(self) -> None:
        self.good: _Manifest | None = None
        self.complaints: tuple[Complaint, ...] = ()
        self.broken = False
        self._signature: Signature | None = None
        self._good_text = b""

    @property
    def was_there(self) -> bool:
        """Whether there ever was a readable file."""
        return bool(self._good_text)

    def update(self, signature: Signature | None, path: str, read: Callable[[str], _Manifest]) -> None:
        """Read the file again if it differs from the last look."""
        if signature is not None and signature == self._signature and not _is_new(signature):
            return
        self._signature = signature
        try:
            if signature is None:
                raise Unreadable([Complaint(1, "is not there")])
            text = _read_text(path)
            _refuse_cut(text, unpack(self._good_text))
            manifest = read(text)
        except Unreadable as error:
            self.broken, self.complaints = True, error.complaints
        else:
            self.broken, self.complaints = False, manifest.complaints
            self.good, self._good_text = manifest, pack(text)


def _read_text(path: str) -> str:
    try:
        # To open a pipe waits for its other end, unless told not to.
        with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise Unreadable([Complaint(1, "is no regular file")])
            data = file.read(_MAX_FILE + 1)
    except OSError as error:
        raise Unreadable([Complaint(1, f"cannot be read: {error.strerror}")]) from error
    if len(data) > _MAX_FILE:
        raise Unreadable([Complaint(1, f"is larger than {_MAX_FILE} bytes")])
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise Unreadable([Complaint(line, "is not UTF-8 text")]) from error


def _refuse_cut(text: str, before: str) -> None:
    """A file that now stops inside a line of its former self was cut, even if it still is valid YAML."""
    if not text or len(text) >= len(before) or not before.startswith(text) or text.endswith("\n"):
        return
    if before[len(text)] != "\n":
        line = text.count("\n") + 1
        raise Unreadable([Complaint(line, "stops in the middle of a line that was longer; it looks cut")])


class _ModelFolder:
    """One model: its files, and the model that they make."""

    __slots__ = ("_manifest", "_path", "_registry", "_signature", "_versions", "model", "problems")

    def __init__(self, registry: str, path: str) -> None:
        self.model: RegisteredModel | None = None
        self.problems: tuple[RegistryProblem, ...] = ()
        self._registry = registry
        self._path = path
        self._signature: ModelSignature | None = None
        self._manifest: _File[ModelManifest] = _File()
        self._versions: dict[str, _File[VersionManifest]] = {}

    @property
    def _folder(self) -> str:
        return self._path.rpartition("/")[2]

    def update(self, signature: ModelSignature) -> None:
        """Read again what differs from the last look."""
        if signature == self._signature and not _is_fresh(signature):
            return
        self._signature = signature
        model_file, version_files = signature
        self._manifest.update(model_file, f"{self._path}/{MODEL_FILE}", read_model)
        known = self._versions
        self._versions = {}
        for name, version_file in version_files:
            path = f"{self._path}/{name}"
            file: _File[VersionManifest] = known.get(name) or _File()
            file.update(version_file, f"{path}/{VERSION_FILE}", partial(_read_version, path))
            self._versions[name] = file
        if model_file is None and not self._manifest.was_there:
            self._manifest.good = ModelManifest()  # the file is optional where there are versions
        self._rebuild()

    def _rebuild(self) -> None:
        problems: list[RegistryProblem] = []
        try:
            name = parse_model_name(self._folder)
        except InvalidName as error:
            self.problems = (RegistryProblem(_shown(self._folder), f"cannot be served: {error}"),)
            return
        versions = self._good_versions(name, problems)
        manifest = self._good_manifest(versions, problems)
        self.model = None
        if manifest is not None:
            self.model = RegisteredModel(
                registry=self._registry,
                name=name,
                versions=in_order(versions),
                stages=manifest.stages,
                aliases=manifest.aliases,
                description=manifest.description,
                tags=manifest.tags,
            )
            problems += _dangling(self.model)
        self.problems = tuple(problems)

    def _good_manifest(
        self, versions: Sequence[Version], problems: list[RegistryProblem]
    ) -> ModelManifest | None:
        file, folder = self._manifest, self._folder
        if file.was_there or self._has_file():
            problems += _complain(folder, f"{folder}/{MODEL_FILE}", file, "the model is left out")
            return file.good
        if not versions:
            text = f"has neither {MODEL_FILE} nor a version that can be read; the model is left out"
            problems.append(RegistryProblem(folder, text))
            return None
        return file.good

    def _has_file(self) -> bool:
        return self._signature is not None and self._signature[0] is not None

    def _good_versions(self, model: ModelName, problems: list[RegistryProblem]) -> list[Version]:
        found: list[Version] = []
        for folder, file in self._versions.items():
            subject = f"{model}/{_shown(folder)}"
            try:
                parse_reference(folder)
                if folder.startswith("@"):
                    raise InvalidReference("a version id cannot begin with '@'")
            except InvalidReference as error:
                problems.append(RegistryProblem(subject, f"cannot be a version id: {error}"))
                continue
            problems += _complain(subject, f"{subject}/{VERSION_FILE}", file, "the version is left out")
            if file.good is not None:
                found.append(self._version(model, VersionId(folder), file.good))
        return found

    def _version(self, model: ModelName, version: VersionId, manifest: VersionManifest) -> Version:
        artifact = manifest.artifact
        if not manifest.is_uri:
            artifact = os.path.normpath(f"{self._path}/{version}/{artifact}")
        return Version(
            registry=self._registry,
            model=model,
            version=version,
            format=manifest.format,
            artifact=artifact,
            digest=manifest.digest,
            contract=manifest.contract,
            metrics=manifest.metrics,
            tags=manifest.tags,
            lineage=manifest.lineage,
            created=manifest.created,
        )


def _read_version(folder: str, text: str) -> VersionManifest:
    """Read `version.yaml` and check that a path stays in its folder, through links too. Raises Unreadable."""
    manifest = read_version(text)
    if not manifest.is_uri:
        real = Path(os.path.realpath(f"{folder}/{manifest.artifact}"))
        if not real.is_relative_to(os.path.realpath(folder)):
            raise Unreadable([Complaint(1, f"artifact: {manifest.artifact!r} is a link out of the folder")])
    return manifest


def _complain(
    subject: str, path: str, file: _File[ModelManifest] | _File[VersionManifest], without: str
) -> list[RegistryProblem]:
    if not file.broken:
        outcome = ""
    else:
        outcome = f"; {without}" if file.good is None else "; the last good reading goes on"
    return [
        RegistryProblem(subject, f"{path}:{complaint.line}: {complaint.message}{outcome}")
        for complaint in file.complaints
    ]


def _dangling(model: RegisteredModel) -> list[RegistryProblem]:
    pointers = [("stage", name, to) for name, to in model.stages.items()]
    pointers += [("alias", name, to) for name, to in model.aliases.items()]
    return [
        RegistryProblem(
            model.name,
            f"{model.name}/{MODEL_FILE}: {kind} {name!r} points to version {version!r}, which does not exist",
        )
        for kind, name, version in pointers
        if version not in model.versions
    ]


def _is_fresh(signature: ModelSignature) -> bool:
    model_file, version_files = signature
    files = (model_file, *(file for _, file in version_files))
    return any(file is not None and _is_new(file) for file in files)


def _open(name: str, options: Mapping[str, object]) -> FolderRegistry:
    return FolderRegistry(name, cast(Path, options["path"]))


TYPE = RegistryType(
    about="a folder of `<model>/model.yaml` and `<model>/<version>/version.yaml`",
    options=(Option("path", OptionKind.PATH, "the folder that holds the models", required=True),),
    open=_open,
)
"""`type: folder`."""
