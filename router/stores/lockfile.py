"""One process at a time: a lock file that names its owner and cannot outlive it."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from router.errors import StateUnavailable


class LockFile:
    """Holds an exclusive lock from construction to `release`; the kernel drops it if the process dies.

    Raises:
        StateUnavailable: another process holds it (named by its id), or it cannot be made.
    """

    def __init__(self, path: Path, subject: str) -> None:
        self._path = path
        try:
            self._descriptor = self._acquire(subject)
        except OSError as error:
            raise StateUnavailable(
                f"lock file {path} cannot be made: {error.strerror}",
                hint="the folder must exist and be writable",
            ) from error

    def release(self) -> None:
        """Remove the file and give the lock back; a second call does nothing."""
        if self._descriptor < 0:
            return
        # Removed while still held: nobody can take a lock on a file that is about to go.
        self._path.unlink(missing_ok=True)
        os.close(self._descriptor)
        self._descriptor = -1

    def _acquire(self, subject: str) -> int:
        while True:
            descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                owner = os.read(descriptor, 32).decode(errors="replace").strip() or "unknown"
                os.close(descriptor)
                raise StateUnavailable(
                    f"{subject} is in use by process {owner} (lock {self._path})",
                    hint="stop that process, or give this one its own state",
                ) from None
            if self._is_current(descriptor):
                os.ftruncate(descriptor, 0)
                os.write(descriptor, f"{os.getpid()}\n".encode())
                return descriptor
            os.close(descriptor)

    def _is_current(self, descriptor: int) -> bool:
        """Whether the file that we locked is still the one at that path: its last owner removes it."""
        try:
            there = os.stat(self._path)
        except FileNotFoundError:
            return False
        mine = os.fstat(descriptor)
        return (there.st_dev, there.st_ino) == (mine.st_dev, mine.st_ino)
