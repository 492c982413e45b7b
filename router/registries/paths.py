"""Paths that somebody else wrote. Pure."""

from __future__ import annotations

import posixpath


class OddPath(ValueError):
    """A path that is absolute, leads out, or is written as nobody honest writes it."""


def path_inside(path: str, folder: str = "") -> str:
    """A relative path of a folder, from the top of what holds both, in its plain form. Raises OddPath."""
    if not path or path.startswith("/") or "\\" in path or not path.isprintable() or "//" in path:
        raise OddPath(f"path {path[:120]!r} is not a plain relative path")
    joined = posixpath.normpath(posixpath.join(folder, path))
    if joined in (".", "..") or joined.startswith(("../", "/")):
        raise OddPath(f"path {path[:120]!r} leads out of the repository")
    return joined
