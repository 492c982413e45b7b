"""Which names a registry is to take. Pure."""

from __future__ import annotations

from collections.abc import Callable
from fnmatch import fnmatchcase


def takes(globs: tuple[str, ...]) -> Callable[[str], bool]:
    """Whether a name is wanted; all are where there are no globs."""
    return lambda name: not globs or any(fnmatchcase(name, glob) for glob in globs)
