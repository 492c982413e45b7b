"""Paths inside an artifact, as strangers write them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from router.errors import ArtifactRefused
from router.ports import RemoteFile

MOST_FILES = 10_000
_LONGEST_PART = 255
_LONGEST_PATH = 1024
DEEPEST = 32
"""Parts that a path may have."""


def check_path(path: str) -> None:
    """Raises ArtifactRefused for a path that might lead out of its folder, or cannot be made."""
    parts = path.split("/")
    if any(part in ("", ".", "..") for part in parts):
        raise ArtifactRefused(f"the artifact holds {path[:200]!r}, which might lead out of its folder")
    if not path.isprintable() or "\\" in path:
        raise ArtifactRefused(f"the artifact holds {path[:200]!r}, a name with characters that are not taken")
    longest = max(len(part.encode()) for part in parts)
    if longest > _LONGEST_PART or len(path.encode()) > _LONGEST_PATH or len(parts) > DEEPEST:
        raise ArtifactRefused(f"the artifact holds a path that is too long: {path[:200]!r}")


def check_names(paths: Iterable[str]) -> None:
    """Raises ArtifactRefused where paths are unsafe, too many, come twice, or are file and folder at once."""
    files: set[str] = set()
    folders: set[str] = set()
    for path in paths:
        check_path(path)
        if path in files:
            raise ArtifactRefused(f"the artifact holds {path!r} twice")
        files.add(path)
        if len(files) > MOST_FILES:
            raise ArtifactRefused(f"the artifact holds more than {MOST_FILES} files")
        parts = path.split("/")
        folders.update("/".join(parts[:depth]) for depth in range(1, len(parts)))
    both = sorted(files & folders)
    if both:
        raise ArtifactRefused(f"the artifact holds {both[0]!r} as a file and as a folder")


def check_paths(files: Sequence[RemoteFile]) -> None:
    """`check_names` for what a store told of, and its sizes."""
    check_names(file.path for file in files)
    for file in files:
        if file.size is not None and file.size < 0:
            raise ArtifactRefused(f"{file.path} has {file.size} bytes, says its store")
