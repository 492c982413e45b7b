"""Temporary folders that are known to be in use or left behind, also by processes of other containers.

Each is locked by who works in it: a lock ends with its process, however that ends, and says nothing wrong
where a process id would, which others may have by then.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

_PREFIX = ".stagegate-"


@contextlib.contextmanager
def temporary(folder: Path) -> Iterator[Path]:
    """A new empty folder inside a folder, hidden, and gone after the block. Raises OSError."""
    path, held = _made(folder)
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)
        os.close(held)


def aside(path: Path) -> None:
    """Let a folder vanish as a whole, by one rename, and delete it then. Raises OSError."""
    away = path.with_name(f"{_PREFIX}{secrets.token_hex(8)}")
    path.rename(away)
    shutil.rmtree(away, ignore_errors=True)


def sweep(folder: Path) -> None:
    """Delete what processes that are gone left in a folder."""
    for left in folder.glob(f"{_PREFIX}*"):
        with contextlib.suppress(OSError):
            held = _lock(left)
            shutil.rmtree(left, ignore_errors=True)
            os.close(held)


def _made(folder: Path) -> tuple[Path, int]:
    while True:
        path = folder / f"{_PREFIX}{secrets.token_hex(8)}"
        path.mkdir()
        # Another process may sweep between the two steps.
        with contextlib.suppress(FileNotFoundError, BlockingIOError):
            held = _lock(path)
            if path.is_dir():
                return path, held
            os.close(held)


def _lock(path: Path) -> int:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor
