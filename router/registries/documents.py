"""Manifests that people edit, each with its own last good reading, and the models that they make.

Where the files are is somebody else's: a folder, or a bucket. A file that is cut, empty or wrong is a problem
with its line, and what it said before goes on. A model whose `model.yaml` was never readable is left out,
because without its stages nobody can say which version clients should get.
"""

from __future__ import annotations

import posixpath
from collections.abc import Callable, Sequence
from functools import partial
from typing import Generic, Protocol, TypeVar

from router.alias import in_order, parse_reference
from router.errors import InvalidName, InvalidReference
from router.model import (
    ModelName,
    RegisteredModel,
    RegistryProblem,
    Version,
    VersionId,
    parse_model_name,
)
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

MAX_FILE = 1 << 20
"""Bytes that a manifest may have."""

Signature = int
"""What tells one content of a file from the next; odd where it says too little, so that the file is read
again. One number, because there is one for each version of each model."""

ModelSignature = tuple[Signature | None, tuple[tuple[str, Signature | None], ...]]
"""`model.yaml`, and each version folder with its `version.yaml`; None for a file that is not there."""


class Place(Protocol):
    """Where the files of a registry are."""

    def text(self, path: str) -> str:
        """A manifest by its path in the registry. Raises Unreadable."""
        ...

    def artifact(self, path: str) -> str:
        """URI or absolute path of something by its path in the registry."""
        ...

    def check(self, folder: str, manifest: VersionManifest) -> None:
        """Look at where the artifact of the version in a folder leads. Raises Unreadable."""
        ...


def is_temporary(name: str) -> bool:
    """Whether a folder is somebody's work in progress: `.name`, `name.tmp`, `name.part`, `name~`."""
    return name.startswith(".") or name.endswith((".tmp", ".part", ".swp", "~"))


def decoded(data: bytes) -> str:
    """The text of a manifest. Raises Unreadable."""
    if len(data) > MAX_FILE:
        raise Unreadable([Complaint(1, f"is larger than {MAX_FILE} bytes")])
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise Unreadable([Complaint(line, "is not UTF-8 text")]) from error


def shown(name: str) -> str:
    """A file's name as text that can be printed and sent; what is no UTF-8 is written out."""
    return name if name.isprintable() else repr(name)[1:-1]


def is_new(signature: Signature) -> bool:
    """Whether a file may change again without a change of this number."""
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

    def update(
        self, signature: Signature | None, text_of: Callable[[], str], read: Callable[[str], _Manifest]
    ) -> None:
        """Read the file again if it differs from the last look."""
        if signature is not None and signature == self._signature and not is_new(signature):
            return
        self._signature = signature
        try:
            if signature is None:
                raise Unreadable([Complaint(1, "is not there")])
            text = text_of()
            _refuse_cut(text, unpack(self._good_text))
            manifest = read(text)
        except Unreadable as error:
            self.broken, self.complaints = True, error.complaints
        else:
            self.broken, self.complaints = False, manifest.complaints
            self.good, self._good_text = manifest, pack(text)


def _refuse_cut(text: str, before: str) -> None:
    """A file that now stops inside a line of its former self was cut, even if it still is valid YAML."""
    if not text or len(text) >= len(before) or not before.startswith(text) or text.endswith("\n"):
        return
    if before[len(text)] != "\n":
        line = text.count("\n") + 1
        raise Unreadable([Complaint(line, "stops in the middle of a line that was longer; it looks cut")])


class ModelFiles:
    """One model: its files, and the model that they make."""

    __slots__ = (
        "_folder",
        "_manifest",
        "_place",
        "_registry",
        "_signature",
        "_versions",
        "model",
        "problems",
    )

    def __init__(self, registry: str, place: Place, folder: str) -> None:
        self.model: RegisteredModel | None = None
        self.problems: tuple[RegistryProblem, ...] = ()
        self._registry = registry
        self._place = place
        self._folder = folder
        self._signature: ModelSignature | None = None
        self._manifest: _File[ModelManifest] = _File()
        self._versions: dict[str, _File[VersionManifest]] = {}

    def update(self, signature: ModelSignature) -> bool:
        """Read again what differs from the last look; whether anything did."""
        if signature == self._signature and not _is_fresh(signature):
            return False
        self._signature = signature
        model_file, version_files = signature
        text = self._place.text
        self._manifest.update(model_file, partial(text, f"{self._folder}/{MODEL_FILE}"), read_model)
        known = self._versions
        self._versions = {}
        for name, version_file in version_files:
            path = f"{self._folder}/{name}"
            file: _File[VersionManifest] = known.get(name) or _File()
            file.update(version_file, partial(text, f"{path}/{VERSION_FILE}"), partial(self._read, path))
            self._versions[name] = file
        if model_file is None and not self._manifest.was_there:
            self._manifest.good = ModelManifest()  # the file is optional where there are versions
        self._rebuild()
        return True

    def _read(self, folder: str, text: str) -> VersionManifest:
        manifest = read_version(text)
        self._place.check(folder, manifest)
        return manifest

    def _rebuild(self) -> None:
        problems: list[RegistryProblem] = []
        try:
            name = parse_model_name(self._folder)
        except InvalidName as error:
            self.problems = (RegistryProblem(shown(self._folder), f"cannot be served: {error}"),)
            return
        versions = self._good_versions(name, problems)
        manifest = self._good_manifest(versions, problems)
        before, self.model = self.model, None
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
            if self.model == before:
                self.model = before  # those who hold it need not compare it
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
            subject = f"{model}/{shown(folder)}"
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
            artifact = self._place.artifact(posixpath.normpath(f"{self._folder}/{version}/{artifact}"))
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
    return any(file is not None and is_new(file) for file in files)
