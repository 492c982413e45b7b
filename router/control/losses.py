"""What a registry lost so much of at once that it is not believed at first: models, stages and aliases. Pure.

A folder that is not mounted, a bucket that is another one, a database that began anew: all answer well, and
say that there is nothing; half a file or half an answer may have all models and nothing that points to their
versions. What is served must not go by that, as it would not where nobody answers.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from router.model import ModelName, PointerKind, RegisteredModel, RegistryView
from router.traffic.overlay import pointers

LOSS_WINDOW = 3_600.0
"""Default seconds for which models go on that a registry lost more than half of at once."""

POINTERS = "stages and aliases"
"""What a `Loss` is about that is not about models."""

_NAMED = 3
_FEWEST = 2


@dataclass(frozen=True, slots=True)
class Loss:
    """What a registry lost, and is not believed yet.

    Attributes:
        since: when the first reading without them ended, in monotonic seconds.
        gone: what it had and has no more; models also where they have no version any more.
        of: how many it had.
        what: what that is, in the plural.
    """

    since: float
    gone: tuple[str, ...]
    of: int
    what: str = "models"

    @property
    def sentence(self) -> str:
        """What is gone."""
        some = ", ".join(self.gone[:_NAMED])
        more = f" and {len(self.gone) - _NAMED} more" if len(self.gone) > _NAMED else ""
        return f"lost {len(self.gone)} of {self.of} {self.what} at once ({some}{more})"

    def told(self, now: float, window: float) -> str:
        """It, for people."""
        left = max(0.0, self.since + window - now)
        until = "only" if left == float("inf") else f"in {left:.0f} s, or at once"
        return (
            f"{self.sentence}; they go on as they were; "
            f"believed {until} with `residency.loss_window: 0s` and a reload"
        )


def weigh(
    before: RegistryView | None, now: RegistryView, known: Loss | None, at: float, window: float
) -> tuple[RegistryView, Loss | None]:
    """What is to be believed of a reading, and what it lost that is not.

    More than half of the models must be gone: a few that were deleted, or all versions of one, are what
    somebody did. What it still tells, and tells anew, counts at once.

    Args:
        before: what was believed until now, with what was kept; None before the first reading.
        known: what was lost until now and is not believed.
        at: monotonic seconds.
        window: seconds for which a loss is not believed.
    """
    gone = tuple(name for name, was, there in _changed(before, now) if was.versions and not _has_any(there))
    if before is None or not gone:
        return now, None
    had = sum(1 for model in before.models.values() if model.versions)
    if len(gone) * 2 <= had:
        return now, None
    loss = Loss(at if known is None else known.since, gone, had)
    if at - loss.since >= window:
        return now, None
    models = {**now.models, **{name: before.models[name] for name in gone}}
    return replace(now, models=models), loss


def weigh_pointers(
    before: RegistryView | None, now: RegistryView, known: Loss | None, at: float, window: float
) -> tuple[RegistryView, Loss | None]:
    """What is to be believed of the stages and aliases in a reading, and which it lost that are not.

    More than half of them, and more than one, must be gone from models that are there. Those that went with
    their version, or whose version has a new name, are what somebody did.

    Args:
        As those of `weigh`; `now` is what that believes.
    """
    gone = [
        (name, kind, pointer)
        for name, was, there in _changed(before, now)
        if there is not None
        for kind, pointer in _lasting(was, there)
        if _is_gone(kind, pointer, was, there)
    ]
    if before is None or len(gone) < _FEWEST:
        return now, None
    had = sum(
        len(list(_lasting(was, there)))
        for name, was in before.models.items()
        if (there := now.models.get(name)) is not None
    )
    if len(gone) * 2 <= had:
        return now, None
    told = tuple(f"{kind} {name} of {model}" for model, kind, name in gone)
    loss = Loss(at if known is None else known.since, told, had, POINTERS)
    if at - loss.since >= window:
        return now, None
    models = dict(now.models)
    for model, kind, name in gone:
        models[model] = _with_pointer(models[model], before.models[model], kind, name)
    return replace(now, models=models), loss


def _changed(
    before: RegistryView | None, now: RegistryView
) -> Iterator[tuple[ModelName, RegisteredModel, RegisteredModel | None]]:
    """Models of before that may differ now, with what they are now: those that are the very same do not.

    A registry of very many models is read again and again, and hardly anything in it changes.
    """
    for name, was in before.models.items() if before is not None else ():
        there = now.models.get(name)
        if there is not was:
            yield name, was, there


def _has_any(model: RegisteredModel | None) -> bool:
    return model is not None and bool(model.versions)


def _lasting(was: RegisteredModel, there: RegisteredModel) -> Iterator[tuple[PointerKind, str]]:
    """Stages and aliases of a model that could still name what they named."""
    for kind in PointerKind:
        for pointer, version in sorted(pointers(was, kind).items()):
            if version in there.versions:
                yield kind, pointer


def _is_gone(kind: PointerKind, name: str, was: RegisteredModel, there: RegisteredModel) -> bool:
    """Whether a stage or alias is not there any more, and its version has no new one instead."""
    before, now = pointers(was, kind), pointers(there, kind)
    new = {version for pointer, version in now.items() if pointer not in before}
    return name not in now and before[name] not in new


def _with_pointer(
    model: RegisteredModel, before: RegisteredModel, kind: PointerKind, name: str
) -> RegisteredModel:
    kept = {**pointers(model, kind), name: pointers(before, kind)[name]}
    return replace(model, aliases=kept) if kind is PointerKind.ALIAS else replace(model, stages=kept)
