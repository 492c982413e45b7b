"""What operators want, as the state said last: routes, decisions about pointers, contracts accepted."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TypeVar

from router.model import Contract, ModelName, RegisteredModel, Tolerance, VersionId
from router.ports import PROMOTE, Accepted, StoredRoute, WriteBack, WriteState
from router.traffic.accepting import still_holds
from router.traffic.overlay import Override, overlay

_T = TypeVar("_T")

Overrides = tuple[tuple[str, Override], ...]
"""What was decided about the stages and aliases of one model, each with the registry that it concerns."""


class Orders:
    """Remembers them; each setter tells which models are concerned.

    Attributes:
        revision: of the state that the routes are from.
        routes: by model.
        writes: decisions on their way to a registry, and those that wait there.
        accepted: versions that may serve though their contract differs, by registry and model, as they were
            then.
    """

    def __init__(self) -> None:
        self.revision = 0
        self.routes: dict[ModelName, StoredRoute] = {}
        self.writes: tuple[WriteBack, ...] = ()
        self.accepted: dict[tuple[str, ModelName], dict[VersionId, Accepted]] = {}
        self._overrides: dict[ModelName, Overrides] = {}

    def set_routes(self, revision: int, routes: dict[ModelName, StoredRoute]) -> set[ModelName]:
        """Take over all routes; the models whose route changed."""
        before, self.routes, self.revision = self.routes, routes, revision
        return set(_changed(before, routes))

    def set_writes(self, writes: Iterable[WriteBack]) -> set[ModelName]:
        """Take over what is to be written to registries; the models whose pointers this changes."""
        self.writes = tuple(writes)
        overrides: dict[ModelName, Overrides] = {}
        for write in self.writes:
            if write.state.overrides:
                override = write.registry, Override(write.kind, write.name, write.version)
                overrides[write.model] = (*overrides.get(write.model, ()), override)
        before, self._overrides = self._overrides, overrides
        return set(_changed(before, overrides))

    def set_accepted(self, accepted: Iterable[Accepted]) -> set[ModelName]:
        """Take over which contracts were accepted; the models that this concerns."""
        found: dict[tuple[str, ModelName], dict[VersionId, Accepted]] = {}
        for one in accepted:
            found.setdefault((one.registry, one.model), {})[one.version] = one
        before, self.accepted = self.accepted, found
        return {model for _, model in _changed(before, found)}

    def accepted_of(
        self, model: RegisteredModel, learned: Mapping[VersionId, Contract]
    ) -> frozenset[VersionId]:
        """Versions of a model that somebody accepted as they are now.

        `learned`: contracts of versions as Tritons told them.
        """
        return frozenset(
            name
            for name, one in self.accepted.get((model.registry, model.name), {}).items()
            if (version := model.versions.get(name)) is not None
            and still_holds(one.files, one.contract, version, learned.get(name))
        )

    def about(self) -> set[ModelName]:
        """Models of which a stage or alias was decided here, until the registry says the same."""
        return set(self._overrides)

    def decided(self, model: ModelName) -> Overrides:
        """What was decided about a model's stages and aliases and holds until the registry says it."""
        return self._overrides.get(model, ())

    def overlaid(self, model: RegisteredModel) -> RegisteredModel:
        """A model of a registry with what was decided here about its stages and aliases."""
        decided = self.decided(model.name)
        return overlay(model, (override for registry, override in decided if registry == model.registry))

    def never_met(self, model: RegisteredModel) -> bool:
        """Whether something was decided about a model's pointers that nobody tried to write so far.

        What was tried is what clients met, in this process or in one before it.
        """
        return any(not (write.attempts or write.written) for write in self._overriding(model))

    def met(self, said: RegisteredModel) -> RegisteredModel:
        """A model as its registry says it, with only what `never_met` is not about laid over it."""
        tried = (write for write in self._overriding(said) if write.attempts or write.written)
        return overlay(said, (Override(write.kind, write.name, write.version) for write in tried))

    def _overriding(self, model: RegisteredModel) -> Iterator[WriteBack]:
        for write in self.writes:
            if write.state.overrides and (write.registry, write.model) == (model.registry, model.name):
                yield write

    def promised(self) -> Iterator[WriteBack]:
        """Promotions whose registries are told when their versions are loaded."""
        for write in self.writes:
            if write.state is WriteState.PENDING and write.action == PROMOTE:
                yield write

    def to_backend_models(self) -> set[ModelName]:
        """Models of which a route sends some requests to what a backend has under a name of its own."""
        return {
            name
            for name, stored in self.routes.items()
            if any(arm.backend_model is not None for arm in stored.route.arms)
        }

    def tolerance(self, model: ModelName, shadow: str) -> Tolerance | None:
        """How far the answers of a shadow may lie from the clients'; None where no route has that shadow."""
        stored = self.routes.get(model)
        shadows = stored.route.shadows if stored else ()
        return next((one.tolerance for one in shadows if one.name == shadow), None)


def _changed(before: Mapping[_T, object], now: Mapping[_T, object]) -> Iterable[_T]:
    """Keys that are new, gone or different; what is the very same thing is not compared."""
    for key in before.keys() | now.keys():
        old, new = before.get(key), now.get(key)
        if old is not new and old != new:
            yield key
