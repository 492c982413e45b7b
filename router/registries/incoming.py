"""Brings files into the folder registry as a new version.

They are copied into a folder that nobody looks at, `.incoming-*.tmp`, and put on the disk; the manifest is
written last, and one rename makes the whole version. What a crash left there is removed by the next one.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from router.artifacts.digest import copy_file, digest_of, files_of
from router.errors import ArtifactError, InvalidInput, RegistryUnavailable
from router.model import VersionId
from router.ports import NewVersion
from router.registries.documents import decoded
from router.registries.files import VERSION_FILE
from router.registries.manifest import Unreadable, VersionManifest, read_version
from router.registries.new_version import (
    check_inside,
    check_new,
    files_folder,
    next_id,
    taken,
    version_text,
)
from router.registries.pointers import sync_folder

_PREFIX, _SUFFIX = ".incoming-", ".tmp"
_TAKEN = (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR)
_GRACE_SECONDS = 600.0
"""A folder of work in progress is not looked at for so long, so that its maker can lock it."""


def bring_in(root: Path, new: NewVersion, progress: Callable[[str], None] | None = None) -> VersionId:
    """Copy files in and return the id that they have; raises as `Registry.register` says."""
    check_new(new)
    if not root.is_dir():
        raise RegistryUnavailable(
            f"there is no folder {root}", hint="create it, or change the registry's `path`"
        )
    try:
        if new.version and (root / new.model / new.version).exists():
            return _same(root, new, new.version)
        _remove_left(root)
        with _stage(root) as stage:
            _copy(stage, new, progress)
            return _put(root, stage, new)
    except ArtifactError as error:
        raise InvalidInput(f"{new.files} cannot be registered: {error.message}", hint=error.hint) from error
    except OSError as error:
        raise RegistryUnavailable(
            f"a version of {new.model!r} cannot be written below {root}: {error.strerror}"
        ) from error


def _copy(stage: Path, new: NewVersion, progress: Callable[[str], None] | None) -> None:
    """Put the files and their manifest into `stage/version`, all on the disk."""
    found = list(files_of(new.files))
    check_inside((inside for inside, _ in found), new)
    folder = stage / "version" / files_folder(new)
    for inside, file in found:
        if progress is not None:
            progress(f"{new.model}: copying {inside}")
        copy_file(file, folder / inside)
    copied = folder / new.files.name if new.files.is_file() else folder
    if digest_of(copied) != new.digest:
        raise InvalidInput(
            f"{new.files} does not hash to {new.digest}", hint="was it changed meanwhile? try again"
        )
    artifact = copied.relative_to(stage / "version").as_posix()
    with (stage / "version" / VERSION_FILE).open("x", encoding="utf-8") as manifest:
        manifest.write(version_text(new, artifact, time.time()))
        manifest.flush()
        os.fsync(manifest.fileno())
    for below, _, _ in os.walk(stage, topdown=False):
        sync_folder(Path(below))


def _put(root: Path, stage: Path, new: NewVersion) -> VersionId:
    """One rename into the model; for a new model, one rename of a model that has this version."""
    folder = root / new.model
    while True:
        names = [entry.name for entry in os.scandir(folder)] if folder.exists() else []
        version = VersionId(new.version or next_id(names))
        try:
            if folder.exists():
                os.rename(stage / "version", folder / version)
                sync_folder(folder)
            else:
                os.rename(stage / "version", stage / version)
                sync_folder(stage)
                try:
                    os.rename(stage, folder)
                except OSError:
                    os.rename(stage / version, stage / "version")
                    raise
                sync_folder(root)
            return version
        except OSError as error:
            if error.errno not in _TAKEN:
                raise
        if new.version and (folder / version).exists():
            return _same(root, new, version)


def _same(root: Path, new: NewVersion, version: str) -> VersionId:
    """The id, where its files are these. Raises InvalidInput."""
    folder = root / new.model / version
    try:
        manifest = read_version(decoded((folder / VERSION_FILE).read_bytes()))
        there = manifest.digest or _hashed(folder, manifest)
    except (Unreadable, ArtifactError, FileNotFoundError, NotADirectoryError) as error:
        raise taken(new, version) from error
    if there != new.digest:
        raise taken(new, version)
    return VersionId(version)


def _hashed(folder: Path, manifest: VersionManifest) -> str:
    return "" if manifest.is_uri else digest_of(folder / manifest.artifact)


@contextlib.contextmanager
def _stage(root: Path) -> Iterator[Path]:
    """A folder for work in progress, locked while it is; it is gone afterwards, or has become a model."""
    stage = Path(tempfile.mkdtemp(prefix=_PREFIX, suffix=_SUFFIX, dir=root))
    descriptor = os.open(stage, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        os.fchmod(descriptor, 0o755)  # mkdtemp's folders are for their maker only
        yield stage
    finally:
        os.close(descriptor)
        shutil.rmtree(stage, ignore_errors=True)


def _remove_left(root: Path) -> None:
    """Remove what others left behind who are not there any more."""
    horizon = time.time() - _GRACE_SECONDS
    for left in root.glob(f"{_PREFIX}*{_SUFFIX}"):
        with contextlib.suppress(OSError):
            descriptor = os.open(left, os.O_RDONLY | os.O_DIRECTORY)
            try:
                if os.fstat(descriptor).st_mtime < horizon:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    shutil.rmtree(left, ignore_errors=True)
            finally:
                os.close(descriptor)
