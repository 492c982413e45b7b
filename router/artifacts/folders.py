"""Folders made durable, and made empty again."""

from __future__ import annotations

import contextlib
import os
import shutil
from pathlib import Path


def sync_folder(folder: Path) -> None:
    """Put a folder's own entries on the disk, so that a rename of it cannot be seen before its content."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_tree(folder: Path) -> None:
    """Put the entries of a folder and of all below it on the disk; their files are there already."""
    for inner, _, _ in os.walk(folder):
        sync_folder(Path(inner))


def empty(folder: Path) -> None:
    """Remove all that is in a folder, as far as that can be done."""
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for entry in list(entries):
            if entry.is_dir(follow_symlinks=False):
                shutil.rmtree(entry.path, ignore_errors=True)
            else:
                with contextlib.suppress(OSError):
                    os.unlink(entry.path)
