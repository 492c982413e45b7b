"""Which backend may take a load, and which is best; each answer comes with a sentence. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from router.model import BackendId


@dataclass(frozen=True, slots=True)
class Candidate:
    """A backend as the choice sees it.

    Attributes:
        up: whether it answers.
        explicit: whether we may load there.
        models: models that are ready or loading there, other people's included.
        unloading: whether it is just unloading the version in question.
        held: whether it could not load that version a moment ago, by a fault of its own.
    """

    name: BackendId
    up: bool
    explicit: bool
    models: int
    unloading: bool = False
    held: bool = False


def _loads_for_us(candidate: Candidate) -> str:
    return "" if candidate.explicit else "its models are not ours to load (`control: none`)"


def _is_up(candidate: Candidate) -> str:
    return "" if candidate.up else "it does not answer"


def _is_free(candidate: Candidate) -> str:
    return "it is still unloading this version" if candidate.unloading else ""


def _is_able(candidate: Candidate) -> str:
    return "it could not load this version a moment ago" if candidate.held else ""


FILTERS: tuple[Callable[[Candidate], str], ...] = (_loads_for_us, _is_up, _is_free, _is_able)
"""Each gives "" for yes, or why not; the first no counts."""


@dataclass(frozen=True, slots=True)
class Choice:
    """The backend to load on, or None; `why` says how it was chosen or why there is none."""

    backend: BackendId | None
    why: str


def choose(candidates: Sequence[Candidate]) -> Choice:
    """The backend that may take a load and has the fewest models; ties go by name."""
    if not candidates:
        return Choice(None, "no backend is configured")
    refusals = {
        candidate.name: next((why for allowed in FILTERS if (why := allowed(candidate))), "")
        for candidate in candidates
    }
    fit = [candidate for candidate in candidates if not refusals[candidate.name]]
    if not fit:
        said = "; ".join(f"{name}: {why}" for name, why in sorted(refusals.items()))
        return Choice(None, f"no backend can load it: {said}")
    best = min(fit, key=lambda candidate: (candidate.models, candidate.name))
    if len(fit) == 1:
        return Choice(best.name, f"{best.name} is the only backend that can")
    return Choice(best.name, f"{best.name} has the fewest models ({best.models})")
