"""Writes decisions into the files of the folder registry, each by one rename.

Stages and aliases are lines of `model.yaml`, tags of a version are lines of its `version.yaml`.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from router.alias import parse_reference
from router.errors import (
    InvalidInput,
    InvalidReference,
    ModelNotFound,
    RegistryUnavailable,
    VersionNotFound,
)
from router.model import ModelName, VersionId
from router.ports import AliasChange, RegistryChange, TagChange
from router.registries.documents import decoded, is_temporary
from router.registries.edits import NOTHING, with_change, with_tag
from router.registries.files import MODEL_FILE, VERSION_FILE
from router.registries.manifest import Unreadable
from router.registries.pointer_names import reference_problem


def write_change(root: Path, change: RegistryChange) -> None:
    """Carry a decision out, in one rename. The file is on disk when this returns.

    Other processes that use this function wait for each other.

    Raises:
        ModelNotFound, VersionNotFound: there is no such folder.
        InvalidReference: a name that cannot be one.
        InvalidInput: the file cannot be read now; it is left as it is.
        Conflict: the stage or alias names another version than expected.
        RegistryUnavailable: it cannot be written.
    """
    folder = _folder(root, change.model)
    _check_version(folder, change.model, change.version)
    if isinstance(change, TagChange):
        manifest = folder / change.version / VERSION_FILE
        _rewrite(folder, manifest, lambda text: with_tag(str(manifest), text, change.key, change.value))
        return
    name = change.alias if isinstance(change, AliasChange) else change.stage
    if name or isinstance(change, AliasChange):
        check_pointer(name)
    path = folder / MODEL_FILE
    _rewrite(folder, path, lambda text: with_change(str(path), text, change))


def check_pointer(name: str) -> None:
    """Raises InvalidReference for what can be no stage and no alias."""
    problem = reference_problem(name)
    if problem:
        raise InvalidReference(problem)


def _folder(root: Path, model: ModelName) -> Path:
    folder = root / model
    if is_temporary(model) or not folder.is_dir():
        raise ModelNotFound(f"registry folder {root} has no model {model!r}")
    return folder


def _check_version(folder: Path, model: ModelName, version: VersionId | None) -> None:
    if version is None:
        return
    parse_reference(version)
    if "/" in version or is_temporary(version) or not (folder / version / VERSION_FILE).is_file():
        raise VersionNotFound(
            f"model {model!r} has no version {version!r}", hint=f"looked for {version}/{VERSION_FILE}"
        )


def _rewrite(folder: Path, path: Path, edit: Callable[[str], str]) -> None:
    """Change one file of a model's folder, one writer of that model at a time."""
    try:
        with _locked(folder):
            before = decoded(path.read_bytes()) if path.exists() else NOTHING
            after = edit(before)
            if after != before:
                _replace(folder, path, after)
    except Unreadable as error:
        raise InvalidInput(f"{path} cannot be read, so it is not changed: {error}", hint="mend it") from error
    except OSError as error:
        raise RegistryUnavailable(f"{path} cannot be written: {error.strerror}") from error


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """One writer at a time. The lock is on the folder itself, so no file is left behind."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _replace(folder: Path, path: Path, text: str) -> None:
    """One rename. The new file is made in the model's folder: a version's may be an artifact as a whole."""
    mode = path.stat().st_mode & 0o777 if path.exists() else 0o644
    descriptor, beside = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=folder)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fchmod(file.fileno(), mode)
            os.fsync(file.fileno())
        os.replace(beside, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(beside)
        raise
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Put a folder's own entries on the disk."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
