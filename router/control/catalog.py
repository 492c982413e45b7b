"""Which models exist, put together from registries, routes and what backends bring themselves. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from router.errors import InvalidName, ModelNotFound
from router.model import (
    BackendId,
    IndexEntry,
    ModelName,
    RegisteredModel,
    RegistryView,
    Route,
    TritonName,
    Version,
    VersionId,
    parse_model_name,
)
from router.ports import StoredRoute
from router.traffic.compile import Unservable

BROUGHT = "(backend)"
"""Registry name of models that a `control: none` backend serves under its own names."""

BACKEND_VERSION = "backend/"
"""How the version ids of `backend_model` arms begin; see `router.traffic.serving`."""


def unknown_model(model: ModelName, views: Mapping[str, RegistryView]) -> ModelNotFound:
    """What is told of a model that clients cannot name, by the registries as they were read last."""
    where = next((registry for registry, view in sorted(views.items()) if model in view.models), "")
    if where:
        return ModelNotFound(
            f"model {model!r} is in registry {where!r}, which is not the default one, and has no route",
            hint=f"`stagegate route set {model} stable=VERSION:100 --registry {where}` serves it",
        )
    return ModelNotFound(
        f"no registry and no backend has a model {model!r}", hint="`stagegate models` lists what there is"
    )


@dataclass(frozen=True, slots=True)
class Seat:
    """Where a version's copy is found on any backend that has it: Triton's name and version for it."""

    name: TritonName
    version: str


def brought_models(
    indexes: Mapping[BackendId, Iterable[IndexEntry]],
) -> tuple[dict[ModelName, RegisteredModel], tuple[Unservable, ...]]:
    """Models that backends nobody controls have ready: Triton's name and version as they are.

    The same name and version on two backends is one version with two copies.
    """
    versions: dict[ModelName, dict[VersionId, Version]] = {}
    refused: dict[str, Unservable] = {}
    for entry in sorted((e for entries in indexes.values() for e in entries if e.ready), key=_version_order):
        try:
            model = parse_model_name(entry.name)
        except InvalidName as problem:
            refused[entry.name] = Unservable(entry.name, str(problem))
            continue
        version = VersionId(entry.version or "1")
        versions.setdefault(model, {})[version] = Version(BROUGHT, model, version)
    models = {name: RegisteredModel(BROUGHT, name, found) for name, found in versions.items()}
    return models, tuple(refused.values())


def _version_order(entry: IndexEntry) -> tuple[str, int, str]:
    return entry.name, int(entry.version) if entry.version.isdecimal() else 0, entry.version


@dataclass(frozen=True, slots=True)
class Sources:
    """Where models come from.

    Attributes:
        views: registries as last read.
        default_registry: where models without a route resolve.
        brought: what backends that nobody controls have ready.
    """

    views: Mapping[str, RegistryView]
    default_registry: str
    brought: Mapping[ModelName, RegisteredModel]


def choose_model(sources: Sources, name: ModelName, route: Route | None) -> RegisteredModel | None:
    """The one model behind a logical name; None where there is none.

    A route names its registry; without one the default registry decides, and what a backend brings
    itself comes last: a registry model wins a clash of names. A route may also be all that makes a name
    known, where its arms say which models of backends they mean.
    """
    view = sources.views.get(route.registry) if route and route.registry else None
    if view is not None and name in view.models:
        return view.models[name]
    elsewhere = route is not None and route.registry not in ("", sources.default_registry)
    if not elsewhere:
        default = sources.views.get(sources.default_registry)
        found = default.models.get(name) if default is not None else None
        found = found or sources.brought.get(name)
        if found is not None:
            return found
    if route is not None and any(arm.backend_model for arm in route.arms):
        return RegisteredModel(BROUGHT, name, {})
    return None


def choose_models(
    sources: Sources, routes: Mapping[ModelName, StoredRoute]
) -> dict[ModelName, RegisteredModel]:
    """The model behind each logical name that there is."""
    chosen: dict[ModelName, RegisteredModel] = dict(sources.brought)
    default = sources.views.get(sources.default_registry)
    if default is not None:
        chosen.update(default.models)
    for name, stored in routes.items():
        model = choose_model(sources, name, stored.route)
        if model is not None:
            chosen[name] = model
        else:
            chosen.pop(name, None)
    return chosen


def brought_seat(model: ModelName, version: VersionId) -> Seat:
    """Where a version without files lives: under its own name, or as its `backend_model` arm says.

    A seat without a version means whatever version that backend holds highest.
    """
    if not version.startswith(BACKEND_VERSION):
        return Seat(TritonName(model), version)
    name, _, number = version.removeprefix(BACKEND_VERSION).partition("/")
    return Seat(TritonName(name), number)
