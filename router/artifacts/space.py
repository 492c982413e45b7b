"""Room on disks: asked before bytes are written, and held for whoever was promised it."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from router.errors import ArtifactError, NoSpace

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class DiskFailed(ArtifactError):
    """A disk of this machine refused, and not for want of room."""


def free_bytes(folder: Path) -> int:
    """Bytes that this process may still write to a folder's disk."""
    return shutil.disk_usage(folder).free


def of_disk(what: str, problem: OSError) -> ArtifactError:
    """What a disk of this machine said, as an error of ours; `what` cannot be done."""
    said = f"{what}: {problem.strerror or problem}"
    if problem.errno in _FULL:
        return NoSpace(said, hint="free some of the disk, or let it have a larger one")
    return DiskFailed(said)


@dataclass
class Space:
    """The room of all disks of this machine, as this process has promised it.

    A promise is held in full until it is given back, although some of it may have been written by then:
    with several fetches at once this errs towards refusing the last one.

    Attributes:
        reserve: bytes of each disk that are left free.
        free: bytes that may still be written to a folder's disk.
    """

    reserve: int = 0
    free: Callable[[Path], int] = free_bytes
    _promised: dict[int, int] = field(default_factory=dict, init=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False)

    @contextlib.contextmanager
    def claim(self, folder: Path, size: int, what: str) -> Iterator[Callable[[int], None]]:
        """Hold room for `size` bytes; yields a call that holds more once those are written.

        Raises:
            NoSpace: it would not fit.
        """
        disk = os.stat(folder).st_dev
        held = 0

        def more(count: int) -> None:
            nonlocal held
            with self._lock:
                others = self._promised.get(disk, 0) - held
                room = self.free(folder) - self.reserve - others
                if count > room:
                    raise NoSpace(
                        f"{what} needs {count} bytes on the disk of {folder}; there are {max(room, 0)}",
                        hint="free some of the disk; artifacts.reserve says how much of it stays free",
                    )
                self._promised[disk], held = others + count, count

        try:
            more(size)
            yield more
        finally:
            with self._lock:
                self._promised[disk] = self._promised.get(disk, 0) - held
