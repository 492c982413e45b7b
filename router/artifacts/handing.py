"""One verified file of the cache, handed out: linked where it can be, else copied.

Who opens a path twice may get two files, where somebody else may rename things beside it. So a file is opened
once, without following a link, and what that is, is looked at, copied, and compared with what was linked.
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

LINKED_FROM = 1 << 20
"""Bytes from which a file is linked, not copied."""

_CHUNK = 1 << 20
_OPEN = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_CANNOT_LINK = (errno.EXDEV, errno.EPERM, errno.EMLINK, errno.EOPNOTSUPP, errno.EACCES)
_NO_FILE = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENXIO)
_ROOT = 0


@dataclass(frozen=True, slots=True)
class Kept:
    """One file as it was when it was verified."""

    path: str
    size: int
    sha256: str
    mtime_ns: int
    inode: int


def is_own(status: os.stat_result) -> bool:
    """Whether a file belongs to us or to root, and is one."""
    return stat.S_ISREG(status.st_mode) and status.st_uid in (_ROOT, os.geteuid())


def hand_out(
    file: Path, target: Path, kept: Kept, *, own: bool, check: Callable[[], None] = lambda: None
) -> bool:
    """Put a file under another name; False where it is not what was kept, and may be there in part.

    Args:
        own: whether `kept` can be believed about the file's time and place.
        check: called again and again while it is copied; raises to give up.

    Raises:
        OSError: one of the disks refuses.
    """
    try:
        descriptor = os.open(file, _OPEN)
    except OSError as problem:
        if problem.errno in _NO_FILE:
            return False
        raise
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode) or status.st_size != kept.size:
        os.close(descriptor)
        return False
    with open(descriptor, "rb") as reader:
        own = own and is_own(status)
        known = own and (status.st_mtime_ns, status.st_ino) == (kept.mtime_ns, kept.inode)
        if own and not known and hashlib.file_digest(reader, "sha256").hexdigest() != kept.sha256:
            return False
        target.parent.mkdir(parents=True, exist_ok=True)
        if own and kept.size >= LINKED_FROM and _linked(file, target, status):
            return True
        return _copied(reader, target, kept.size, "" if own else kept.sha256, check)


def _linked(file: Path, target: Path, status: os.stat_result) -> bool:
    """Whether the file that was looked at has another name now."""
    try:
        os.link(file, target, follow_symlinks=False)
    except OSError as problem:
        if problem.errno in _CANNOT_LINK:
            return False
        raise
    if os.path.samestat(target.lstat(), status):
        return True
    target.unlink()
    return False


def _copied(reader: BinaryIO, target: Path, size: int, sha256: str, check: Callable[[], None]) -> bool:
    """Copy from the start and put it on the disk.

    Returns:
        Whether it has `size` bytes, though it may be written to meanwhile, and hashes to `sha256`, where that
        is given.
    """
    reader.seek(0)
    found, left = hashlib.sha256(), size
    with target.open("xb") as writer:
        while chunk := reader.read(_CHUNK):
            check()
            left -= len(chunk)
            if left < 0:
                return False
            if sha256:
                found.update(chunk)
            writer.write(chunk)
        writer.flush()
        os.fsync(writer.fileno())
    return not left and (not sha256 or found.hexdigest() == sha256)
