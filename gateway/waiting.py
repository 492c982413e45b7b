"""What waits, for people: things that wait for the same version tell its trouble once. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import takewhile

from router.model import ModelName
from router.traffic.serving import Waiting

_BETWEEN = "; "


def sentences(model: ModelName, waiting: Iterable[Waiting]) -> list[str]:
    """One sentence for each version that is waited for, and for each thing that waits for none.

    The first that waits for a version tells all of it; of the others only what is different with them.
    """
    found: list[tuple[Waiting, str]] = []
    for wait in waiting:
        first = next((at for at, (other, _) in enumerate(found) if _same(other, wait)), None)
        if first is None:
            found.append((wait, wait.sentence))
        else:
            other, told = found[first]
            found[first] = other, f"{told}{_BETWEEN}{_too(model, other, wait)}"
    return [told for _, told in found]


def _same(one: Waiting, other: Waiting) -> bool:
    return bool(one.version) and (one.version, one.differences) == (other.version, other.differences)


def _too(model: ModelName, first: Waiting, wait: Waiting) -> str:
    told, parts = _parts(model, first), _parts(model, wait)
    parts = parts[_alike(told, parts) :]
    rest = parts[: len(parts) - _alike(told[::-1], parts[::-1])]
    return f"{wait.what} too: {_BETWEEN.join(rest)}" if rest else f"{wait.what} too"


def _parts(model: ModelName, wait: Waiting) -> list[str]:
    return wait.sentence.removeprefix(f"{wait.what} of model {model!r}: ").split(_BETWEEN)


def _alike(one: Sequence[str], other: Sequence[str]) -> int:
    """How many parts both begin with."""
    return len(list(takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False))))
