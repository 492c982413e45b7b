"""A running gateway as operators see it: `Operations` over the control loop and the data plane."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from gateway.bridge import DataPlane
from gateway.catalogue import Catalogue
from gateway.certificates import Certificates
from gateway.config import Address
from gateway.moving import Moving
from gateway.operations import (
    NOTHING,
    AcceptedVersion,
    Change,
    Gauges,
    ModelSummary,
    ModelVersions,
    Moved,
    Readiness,
    ReloadReport,
    Resolution,
    RouteChange,
    RouteTable,
    RouteView,
    Said,
    ShadowComparison,
    StatusReport,
    VersionDetail,
    WriteRow,
)
from gateway.resolving import Resolving
from gateway.routing import Routing
from gateway.standing import Addresses, Standing
from gateway.versions import Versions
from router.control.controller import Controller
from router.model import ModelName, Route
from router.ports import Clock, StateStore

_Answer = TypeVar("_Answer")


class RunningGateway:
    """Answers operators from what the control loop holds now; changes go through the store.

    Attributes:
        moving: promotions, rollbacks and what registries are still to be told.
        standing: what it is reached at, and whether it serves.
    """

    def __init__(
        self,
        *,
        controller: Controller,
        store: StateStore,
        data_plane: DataPlane,
        clock: Clock,
        addresses: Addresses,
        registry_types: Mapping[str, str],
        reload: Callable[[], Coroutine[None, None, ReloadReport]],
        certificates: Certificates | None = None,
        comparisons: Callable[[], Sequence[ShadowComparison]] = tuple,
    ) -> None:
        versions = Versions(controller)
        self.moving = Moving(controller, store, clock)
        self.standing = Standing(
            controller=controller,
            data_plane=data_plane,
            clock=clock,
            addresses=addresses,
            registry_types=registry_types,
            moving=self.moving,
            certificates=certificates,
            comparisons=comparisons,
        )
        self._catalogue = Catalogue(controller, data_plane, self.moving, versions)
        self._resolving = Resolving(controller, data_plane, versions)
        self._routing = Routing(
            controller=controller,
            store=store,
            data_plane=data_plane,
            clock=clock,
            moving=self.moving,
            versions=versions,
            comparisons=comparisons,
        )
        self._reload = reload
        self._changes: set[asyncio.Task[Any]] = set()

    def listens(self, *, metrics: Address | None = None, admin: Address | None = None) -> None:
        """Note where a listener was bound; a configuration may ask for any free port."""
        if metrics is not None:
            self.standing.addresses = replace(self.standing.addresses, metrics=str(metrics))
        if admin is not None:
            self.standing.addresses = replace(self.standing.addresses, admin=str(admin))

    # Catalogue

    async def models(self) -> tuple[ModelSummary, ...]:
        """All models by name, those that cannot be served included, with the reason."""
        return await self._catalogue.models()

    async def versions(self, model: ModelName) -> ModelVersions:
        """One model with all its versions. Raises ModelNotFound."""
        return self._catalogue.versions(model)

    async def describe(self, model: ModelName, reference: str) -> VersionDetail:
        """All that is known of the version that a reference names in the registry; "" for the stable one."""
        return await self._catalogue.describe(model, reference)

    async def resolve(self, model: ModelName, reference: str, said: Said = NOTHING) -> Resolution:
        """What a request would meet; by the same code as the hot path, without sending anything."""
        return self._resolving.resolve(model, reference, said)

    # Routing

    async def routes(self) -> RouteTable:
        """All explicit routes."""
        return self._routing.routes()

    async def route(self, model: ModelName) -> RouteView:
        """The route in force, explicit or implicit."""
        return self._routing.route(model)

    async def apply_routes(
        self, routes: Sequence[Route], *, expected_revision: int | None, change: Change, force: bool = False
    ) -> tuple[RouteChange, ...]:
        """Write all routes in one atomic change, and return when the table has them."""
        return await self._through(self._routing.apply(routes, expected_revision, change, force=force))

    async def delete_route(
        self, model: ModelName, *, expected_revision: int | None, change: Change
    ) -> RouteChange:
        """Go back to the implicit route."""
        return await self._through(self._routing.delete(model, expected_revision, change))

    async def accept(self, model: ModelName, reference: str, *, change: Change) -> AcceptedVersion:
        """Let a version take the place of any other, and return when traffic follows."""
        return await self._through(self._routing.accept(model, reference, change))

    async def history(self, model: ModelName, limit: int) -> tuple[RouteChange, ...]:
        """Changes of one route, newest first."""
        return await self._routing.history(model, limit)

    # Promotions and rollbacks

    async def promote(
        self,
        model: ModelName,
        reference: str,
        to: str,
        *,
        keep_existing: bool,
        force: bool,
        change: Change,
    ) -> Moved:
        """Let a stage or `@alias` name a version, and return when traffic follows it."""
        work = self.moving.promote(
            model, reference, to, keep_existing=keep_existing, force=force, change=change
        )
        return await self._through(work)

    async def rollback(self, model: ModelName, pointer: str, version: str, *, change: Change) -> Moved:
        """Bring traffic and registry back, and return when traffic has gone."""
        return await self._through(self.moving.rollback(model, pointer, version, change))

    async def writes(self, ended: int) -> tuple[WriteRow, ...]:
        """Open registry changes, oldest first, then the newest ended ones."""
        return await self.moving.writes(ended)

    async def clear_write(self, number: int, *, change: Change) -> WriteRow:
        """Give an open registry change up."""
        return await self._through(self.moving.clear(number, change))

    # Process

    async def status(self) -> StatusReport:
        """Everything at a glance."""
        return self.standing.status()

    async def readiness(self) -> Readiness:
        """Whether this gateway should get traffic."""
        return self.standing.readiness()

    async def gauges(self) -> Gauges:
        """Numbers for `/metrics`."""
        return self.standing.gauges()

    async def reload(self) -> ReloadReport:
        """Read the configuration file again and take what changed, or refuse all of it."""
        return await self._through(self._reload())

    async def _through(self, work: Coroutine[None, None, _Answer]) -> _Answer:
        """Carry a change through to its end, also where whoever asked for it goes away meanwhile."""
        task = asyncio.create_task(work)
        self._changes.add(task)
        task.add_done_callback(self._changes.discard)
        return await asyncio.shield(task)
