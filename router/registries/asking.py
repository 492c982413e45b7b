"""Questions about one model, for registries that answer them by a reading of it."""

from __future__ import annotations

from router.errors import RegistryIncomplete, StagegateError
from router.model import ModelName, PointerKind, RegisteredModel, RegistryView, Version, VersionId
from router.ports import ANYTHING, Hint, Registry, Unknown


async def read_on(registry: Registry, hint: Hint = ANYTHING) -> RegistryView:
    """`Registry.read`, however many readings that takes. Raises RegistryUnavailable."""
    while True:
        try:
            return await registry.read(hint)
        except RegistryIncomplete:
            continue


async def model_of(registry: Registry, hint: Hint) -> RegisteredModel | Unknown | None:
    """The model of a hint as the source has it now.

    A model that cannot be read now is unknown, though its last good reading goes on elsewhere.
    """
    try:
        view = await registry.read(hint)
    except StagegateError as problem:  # away, a program or package that is missing, ...
        return Unknown(str(problem))
    for trouble in view.problems:
        if trouble.subject == hint.model:
            return Unknown(trouble.message)
    return view.models.get(hint.model) if hint.model is not None else None


async def get(registry: Registry, model: ModelName, version: VersionId) -> Version | Unknown | None:
    """`Registry.get` by reading that model."""
    found = await model_of(registry, Hint(model))
    return found.versions.get(version) if isinstance(found, RegisteredModel) else found


async def resolve(
    registry: Registry, model: ModelName, kind: PointerKind, name: str
) -> VersionId | Unknown | None:
    """`Registry.resolve` by reading that model, or only that alias."""
    alias = name if kind is PointerKind.ALIAS else None
    found = await model_of(registry, Hint(model, alias))
    if not isinstance(found, RegisteredModel):
        return found
    return found.aliases.get(name) if kind is PointerKind.ALIAS else found.stages.get(name.lower())
