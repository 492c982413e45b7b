"""Settles what clients see of the models that something happened to, and hands the difference on."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping

from router.control.demand import Demand
from router.control.entries import ModelEntry, gone_from, moves
from router.control.orders import Orders
from router.control.places import Places
from router.control.publisher import Publisher
from router.control.residents import Residents, files_of
from router.control.roster import Roster
from router.model import ModelName, RegisteredModel, Route, Version, VersionId
from router.ports import Clock, PointerMove
from router.traffic.compile import compile_model
from router.traffic.serving import Gate, Serving, settle, with_backend_models
from router.traffic.table import BackendSpec, ModelSpec

LOG = logging.getLogger("stagegate.control")


class Settling:
    """Keeps `models` true, and the data plane's table true to them.

    Attributes:
        refused: models that stay as they were, with what is wrong with them as they are now.
    """

    def __init__(
        self,
        *,
        models: dict[ModelName, ModelEntry],
        roster: Roster,
        orders: Orders,
        residents: Residents,
        places: Places,
        demand: Demand,
        publisher: Publisher,
        describe: Callable[[Version], bytes],
        clock: Clock,
    ) -> None:
        """`describe`: what the data plane answers to questions about a version, as an encoded message."""
        self.refused: dict[ModelName, str] = {}
        self._models = models
        self._roster = roster
        self._orders = orders
        self._residents = residents
        self._places = places
        self._demand = demand
        self._publisher = publisher
        self._describe = describe
        self._clock = clock
        self._moves: list[PointerMove] = []

    def names(self) -> set[ModelName]:
        """All models that there are, here or in the data plane."""
        return {*self._models, *map(ModelName, self._publisher.names())}

    def take_moves(self) -> tuple[PointerMove, ...]:
        """Stages and aliases that went to another version since the last call, without a decision."""
        taken, self._moves = tuple(self._moves), []
        return taken

    def gate(self, model: RegisteredModel) -> Gate:
        """What is known of the contracts of a model's versions beside what its registry says."""
        learned = {
            name: contract
            for name, version in (model.versions.items() if self._residents.contracts else ())
            if (contract := self._residents.learned(version)) is not None
        }
        return Gate(learned, self._orders.accepted_of(model, learned))

    def settle(self, names: Iterable[ModelName], *, whole: bool) -> None:
        """Settle these models and hand the difference to the data plane.

        Args:
            whole: the table is handed on also where no model differs, since the backends do.

        Raises:
            ValueError: the data plane does not even take what it took before.
        """
        put: list[ModelSpec] = []
        drop: list[ModelName] = []
        for name in names:
            self.refused.pop(name, None)
            model = self._roster.models.get(name)
            if model is None:
                self._forget(name)
                if self._publisher.model(name) is not None:
                    drop.append(name)
                continue
            spec = self._try_settle(name, model)
            if spec is not None and spec != self._publisher.model(name):
                put.append(spec)
        if put or drop or whole:
            self._publish(put, drop)

    def _publish(self, put: list[ModelSpec], drop: list[ModelName]) -> None:
        known = self._residents.backends.values()
        backends = [BackendSpec(b.name, b.backend.grpc, b.backend.http) for b in known]
        refused = self._publisher.publish(backends, put, drop)
        self.refused.update({ModelName(name): why for name, why in refused.items()})

    def _forget(self, name: ModelName) -> None:
        """A model is gone."""
        entry = self._models.pop(name, None)
        if entry is not None:
            self._note_left(entry, None)
        self._demand.forget(name)
        for version in entry.registered.versions if entry else ():
            self._residents.forgive((name, version))
            self._residents.contracts.pop((name, version), None)

    def _try_settle(self, name: ModelName, model: RegisteredModel) -> ModelSpec | None:
        """Settle one model. One that breaks stays as it was and must not hold up the others."""
        before = self._models.get(name)
        try:
            entry = self._settle(name, model, before)
        except Exception as problem:
            LOG.exception("model %s cannot be settled; what clients see of it stays", name)
            self.refused[name] = f"internal error: {type(problem).__name__}: {problem}"
            return None
        self._models[name] = entry
        if before is not None:
            self._note_left(before, entry)
            self._moves += moves(before, entry, self._orders.decided(name))
        return entry.spec

    def _note_left(self, before: ModelEntry, now: ModelEntry | None) -> None:
        """Remember what clients met a moment ago, so that it stays loaded: the way back may be wanted."""
        for version, what in gone_from(before, now).items():
            self._demand.leave((before.registered.name, version), self._clock.now(), what)

    def _settle(self, name: ModelName, chosen: RegisteredModel, before: ModelEntry | None) -> ModelEntry:
        stored = self._orders.routes.get(name)
        route = stored.route if stored else None
        model = with_backend_models(chosen, route)
        if before is not None:
            self._forget_old(before.registered, model)
        place = self._places.placement
        placements = {version.version: place(model, version) for version in model.versions.values()}
        ready = frozenset(v for v, p in placements.items() if p.state == "ready")
        failed = {v: p.reason for v, p in placements.items() if p.state == "failed"}
        gate = self.gate(model)
        previous = before.serving if before else self._met_before(model, route, ready, failed)
        serving = settle(previous, model, route, ready, failed, gate)
        spec = compile_model(serving, model, placements, self._describe)
        self._demand.route(name, serving.wanted)
        for version in ready:
            self._demand.is_ready((name, version))
        for version in failed:
            self._demand.has_failed((name, version))
        return ModelEntry(model, stored, serving, spec)

    def _met_before(
        self,
        model: RegisteredModel,
        route: Route | None,
        ready: frozenset[VersionId],
        failed: Mapping[VersionId, str],
    ) -> Serving | None:
        """What clients met before this process began, where a decision was not in force by then; else None.

        They are not to leave what a registry still names for a version that nobody loaded yet.
        """
        said = self._roster.said(model) if self._orders.never_met(model) else None
        if said is None:
            return None
        before = with_backend_models(self._orders.met(said), route)
        return settle(None, before, route, ready, failed, self.gate(before))

    def _forget_old(self, before: RegisteredModel, now: RegisteredModel) -> None:
        """Files that were replaced, or are gone, say nothing of those that come under the same version id."""
        for version, was in before.versions.items():
            then = now.versions.get(version)
            if then != was:
                self._residents.forgive((now.name, version))
            if then is None or files_of(then) != files_of(was):
                self._residents.contracts.pop((now.name, version), None)
