"""Adapters that keep desired state, and the table of their kinds."""

from __future__ import annotations

from pathlib import Path

from router.errors import InvalidInput
from router.stores.memory import MemoryStore
from router.stores.sqlite import SqliteStore

__all__ = ["MemoryStore", "SqliteStore", "open_store"]


async def open_store(kind: str, path: Path | None) -> SqliteStore | MemoryStore:
    """Open the state that the configuration names.

    Args:
        kind: `sqlite` or `memory`.
        path: the absolute path of the database file; None for memory.

    Raises:
        InvalidInput: the kind is unknown, or does not go with the path.
        StateUnavailable: see `SqliteStore.open`.
    """
    if kind == "memory" and path is None:
        return MemoryStore()
    if kind == "sqlite" and path is not None:
        return await SqliteStore.open(path)
    raise InvalidInput(f"state {kind!r} with path {path} cannot be", hint="known: sqlite with a path, memory")
