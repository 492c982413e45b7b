"""Small mappings of which there are very many: a third of a dict's size, and names are held once."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import TypeVar

Value = TypeVar("Value")

_FEW = 8
_NOTHING: Mapping[str, object] = MappingProxyType({})


class Pairs(Mapping[str, Value]):
    """A frozen mapping of a few names, looked through one after the other; equal to a dict of the same.

    Args:
        found: what it is to hold.
    """

    __slots__ = ("_names", "_values")

    def __init__(self, found: Mapping[str, Value]) -> None:
        self._names = _held_once(tuple(found))
        self._values = tuple(found.values())

    def __getitem__(self, name: str) -> Value:
        try:
            return self._values[self._names.index(name)]
        except ValueError:
            raise KeyError(name) from None

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def __repr__(self) -> str:
        return repr(dict(self))


def compact(found: Mapping[str, Value]) -> Mapping[str, Value]:
    """The same mapping, frozen and small where it has few names."""
    if not found:
        return _NOTHING  # type: ignore[return-value]
    return Pairs(found) if len(found) <= _FEW else found


_HELD: dict[tuple[str, ...], tuple[str, ...]] = {}
_MOST_HELD = 4096


def _held_once(names: tuple[str, ...]) -> tuple[str, ...]:
    """The names of a mapping, mostly the same for every version: one tuple for all."""
    known = _HELD.get(names)
    if known is None:
        known = tuple(map(sys.intern, names))
        if len(_HELD) < _MOST_HELD:
            _HELD[known] = known
    return known
