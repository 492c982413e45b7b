"""A logical model as it is served, and what is told of the step from one settling of it to the next. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

from router.control.residents import Key
from router.model import ModelName, PointerKind, RegisteredModel, Version, VersionId
from router.ports import MOVED, PointerMove, StoredRoute
from router.traffic.overlay import Override
from router.traffic.serving import Serving, left_behind, met
from router.traffic.table import ModelSpec


@dataclass(slots=True)
class ModelEntry:
    """One logical model as served: what the registry says, what the operator says, what clients see."""

    registered: RegisteredModel
    route: StoredRoute | None
    serving: Serving
    spec: ModelSpec


Models = Mapping[ModelName, ModelEntry]
"""All logical models by name."""


def version_of(models: Models, key: Key) -> Version | None:
    """A version of a model that there is now; None where it, or its model, is gone."""
    entry = models.get(key[0])
    return entry.registered.versions.get(key[1]) if entry else None


def named_by(models: Models, key: Key) -> str:
    """What names a version, so that it stays: a stage, an alias, an arm or a shadow; "" for nothing."""
    entry = models.get(key[0])
    if entry is None:
        return ""
    for pointer in entry.serving.pointers:
        if pointer.version == key[1]:
            return f"{pointer.kind} {pointer.name}"
    for arm in entry.serving.arms:
        if arm.version == key[1]:
            return f"arm {arm.name}"
    for shadow in entry.serving.shadows:
        if shadow.version == key[1]:
            return f"shadow {shadow.name}"
    names = (*entry.registered.stages.items(), *entry.registered.aliases.items())
    return next((name for name, version in names if version == key[1]), "")


def pointed(entry: ModelEntry, kind: PointerKind, name: str) -> VersionId | None:
    """The version that clients meet by a stage or alias; None where the model has none of that name."""
    found = (one for one in entry.serving.pointers if (one.kind, one.name) == (kind, name))
    return next((one.version for one in found), None)


def gone_from(before: ModelEntry, now: ModelEntry | None) -> dict[VersionId, str]:
    """Versions that clients met a moment ago, with what went on from them. `now` is None for a model gone.

    Also those that their registry has no more: what comes and goes there is not loaded anew each time.
    """
    has = now.registered.versions if now is not None else {}
    left = {version: what for version, what in met(before.serving).items() if version not in has}
    return left if now is None else left | left_behind(before.serving, now.serving)


def moves(
    before: ModelEntry, now: ModelEntry, decided: Collection[tuple[str, Override]]
) -> Iterator[PointerMove]:
    """Stages and aliases that went to another version.

    Args:
        decided: what was decided here, by registry: a decision remembered its own moves.
    """
    registry, name = now.registered.registry, now.registered.name
    was = {(pointer.kind, pointer.name): pointer.version for pointer in before.serving.pointers}
    for pointer in now.serving.pointers:
        old = was.get((pointer.kind, pointer.name))
        mine = (registry, Override(pointer.kind, pointer.name, pointer.version))
        if old is not None and old != pointer.version and mine not in decided:
            yield PointerMove(registry, name, pointer.kind, pointer.name, old, pointer.version, MOVED)
