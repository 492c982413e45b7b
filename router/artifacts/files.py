"""Artifacts on a disk of this machine, as a source."""

from __future__ import annotations

import itertools
import os
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path

from router.artifacts.digest import files_of
from router.artifacts.paths import MOST_FILES
from router.artifacts.policy import local_path
from router.errors import (
    ArtifactChanged,
    ArtifactError,
    ArtifactMissing,
    ArtifactRefused,
    ArtifactUnavailable,
)
from router.ports import RemoteFile

_PIECE = 1 << 20
_OPEN = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC


class LocalFiles:
    """`ports.Source` over folders of this machine.

    Links are followed on the way to an artifact as long as it then still is in one of the roots, and never
    inside it. Devices, pipes and sockets are refused.
    """

    def __init__(self, roots: Sequence[Path]) -> None:
        self._roots = [Path(os.path.realpath(root)) for root in roots]

    def files(self, uri: str) -> Sequence[RemoteFile]:
        """One file, or all below a folder; `uri` is a path or a file URI."""
        base = self._base(uri)
        try:
            # One more than may be is enough to be refused.
            found = itertools.islice(files_of(base), MOST_FILES + 1)
            return [_told(inside, os.lstat(path)) for inside, path in found]
        except FileNotFoundError as problem:
            raise ArtifactChanged(f"{problem.filename} went away while it was looked at") from None
        except OSError as problem:
            raise ArtifactUnavailable(f"{uri} cannot be read: {problem.strerror}") from None

    def read(self, uri: str, file: RemoteFile, start: int, end: int | None) -> Iterator[bytes]:
        """The bytes of a range, while the file is the one that was listed."""
        base = self._base(uri)
        descriptor = _open(base, file.path)
        try:
            at = start
            while end is None or at < end:
                wanted = _PIECE if end is None else min(_PIECE, end - at)
                piece = os.pread(descriptor, wanted, at)
                if _seen(os.fstat(descriptor)) != file.seen:
                    raise ArtifactChanged(f"{file.path} was changed while it was read")
                if not piece:
                    return
                yield piece
                at += len(piece)
        except OSError as problem:
            raise ArtifactUnavailable(f"{file.path} cannot be read: {problem.strerror}") from None
        finally:
            os.close(descriptor)

    def close(self) -> None:
        """Nothing is held."""

    def _base(self, uri: str) -> Path:
        path = local_path("artifact", uri)
        if path.is_symlink():
            raise ArtifactError(f"artifact {path} is a link", hint="put the files themselves there")
        real = Path(os.path.realpath(path))
        if not any(real.is_relative_to(root) for root in self._roots):
            raise ArtifactRefused(
                f"{path} leads out of its folder by a link", hint="put the files themselves there"
            )
        return real


def _told(inside: str, status: os.stat_result) -> RemoteFile:
    return RemoteFile(inside, status.st_size, seen=_seen(status))


def _seen(status: os.stat_result) -> str:
    """Changes whenever the file's bytes do; nobody can set a ctime back."""
    return f"{status.st_dev}-{status.st_ino}-{status.st_size}-{status.st_mtime_ns}-{status.st_ctime_ns}"


def _open(base: Path, inside: str) -> int:
    """Open a file step by step, so that no folder on the way is a link, whenever it was made one."""
    try:
        if base.is_file():
            descriptor = os.open(base, _OPEN | os.O_NONBLOCK)
        else:
            *folders, name = inside.split("/")
            folder = os.open(base, _OPEN | os.O_DIRECTORY)
            try:
                for part in folders:
                    inner = os.open(part, _OPEN | os.O_DIRECTORY, dir_fd=folder)
                    os.close(folder)
                    folder = inner
                descriptor = os.open(name, _OPEN | os.O_NONBLOCK, dir_fd=folder)
            finally:
                os.close(folder)
    except FileNotFoundError:
        raise ArtifactMissing(f"{inside} is not there any more") from None
    except OSError as problem:
        raise ArtifactUnavailable(f"{inside} cannot be opened: {problem.strerror}") from None
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise ArtifactError(f"{inside} is no regular file any more")
    return descriptor
