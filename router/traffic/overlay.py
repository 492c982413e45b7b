"""What a registry says of a model, with what was decided here and is not written there yet. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from router.model import PointerKind, RegisteredModel, VersionId


@dataclass(frozen=True, slots=True)
class Override:
    """A stage (in lower case) or alias, and the version that it means here, whatever the registry names."""

    kind: PointerKind
    name: str
    version: VersionId


def overlay(model: RegisteredModel, overrides: Iterable[Override]) -> RegisteredModel:
    """A model with its pointers as they were decided; the same object where that is what it says already.

    A decision for a version that the registry does not have (any more) moves nothing.
    """
    stages, aliases = dict(model.stages), dict(model.aliases)
    for override in overrides:
        if override.version in model.versions:
            pointers = aliases if override.kind is PointerKind.ALIAS else stages
            pointers[override.name] = override.version
    if stages == model.stages and aliases == model.aliases:
        return model
    return replace(model, stages=stages, aliases=aliases)


def pointers(model: RegisteredModel, kind: PointerKind) -> Mapping[str, VersionId]:
    """The stages or the aliases of a model."""
    return model.aliases if kind is PointerKind.ALIAS else model.stages
