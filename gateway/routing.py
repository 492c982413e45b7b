"""Routes as operators read and write them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from gateway.bridge import SHADOW_RESULTS, DataPlane
from gateway.moving import Moving
from gateway.operations import (
    AcceptedVersion,
    ArmView,
    Change,
    RouteChange,
    RouteTable,
    RouteView,
    ShadowComparison,
    ShadowView,
)
from gateway.route_lines import reference_of, route_of
from gateway.versions import Versions
from router.alias import parse_reference, resolve
from router.control.acceptance import Acceptances
from router.control.controller import Controller
from router.control.entries import ModelEntry
from router.errors import InvalidRoute, ModelNotFound, RouteNotFound
from router.model import Arm, ModelName, Route, Shadow
from router.ports import PUT_ROUTES, Accepted, Clock, Decision, StateStore, StoredRoute
from router.traffic.serving import Serving


class Routing:
    """Reads what the control loop holds; changes go through the store, and are in force when they return.

    Args:
        comparisons: what came of comparing the answers of shadows.
    """

    def __init__(
        self,
        *,
        controller: Controller,
        store: StateStore,
        data_plane: DataPlane,
        clock: Clock,
        moving: Moving,
        versions: Versions,
        comparisons: Callable[[], Sequence[ShadowComparison]],
    ) -> None:
        self._controller = controller
        self._store = store
        self._data_plane = data_plane
        self._clock = clock
        self._moving = moving
        self._versions = versions
        self._comparisons = comparisons
        self._acceptances = Acceptances(controller, store)

    def routes(self) -> RouteTable:
        """All explicit routes."""
        views = tuple(
            self._route_view(self._controller.models.get(name), stored.route, stored)
            for name, stored in sorted(self._controller.routes.items())
        )
        return RouteTable(self._controller.store_revision, views)

    def route(self, model: ModelName) -> RouteView:
        """The route in force, explicit or implicit."""
        stored = self._controller.routes.get(model)
        entry = self._controller.models.get(model)
        if stored is not None:
            return self._route_view(entry, stored.route, stored)
        if entry is None:
            raise self._controller.not_found(model)
        route = route_of(entry)
        if route is None:
            raise ModelNotFound(f"model {model!r} has no versions, so nothing to route to")
        return self._route_view(entry, route, None)

    async def apply(
        self, routes: Sequence[Route], expected_revision: int | None, change: Change, *, force: bool
    ) -> tuple[RouteChange, ...]:
        """Write all routes in one atomic change, and return when the table has them."""
        for route in routes:
            self._check(route)
        accepted = self._acceptances.of_routes(routes, force=force, reason=change.reason)
        before = {name: stored.route for name, stored in self._controller.routes.items()}
        revision = await self._write(routes, accepted, expected_revision, change)
        await self._take_over()
        return tuple(
            RouteChange(
                model=route.model,
                revision=revision,
                before=before.get(route.model),
                after=route,
                actor=change.actor,
                reason=change.reason,
                at=self._clock.unix(),
            )
            for route in routes
        )

    async def _write(
        self,
        routes: Sequence[Route],
        accepted: tuple[Accepted, ...],
        expected_revision: int | None,
        change: Change,
    ) -> int:
        who = {"actor": change.actor, "reason": change.reason}
        if not accepted:
            return await self._store.put_routes(routes, expected_revision=expected_revision, **who)
        decision = Decision(PUT_ROUTES, routes=tuple(routes), accepted=accepted)
        return await self._store.decide(decision, expected_revision=expected_revision, **who)

    async def delete(self, model: ModelName, expected_revision: int | None, change: Change) -> RouteChange:
        """Go back to the implicit route."""
        before = self._controller.routes.get(model)
        if before is None:
            raise RouteNotFound(
                f"model {model!r} has no route of its own",
                hint="`stagegate route list` shows those that have",
            )
        revision = await self._store.delete_route(
            model, expected_revision=expected_revision, actor=change.actor, reason=change.reason
        )
        await self._take_over()
        return RouteChange(
            model=model,
            revision=revision,
            before=before.route,
            after=None,
            actor=change.actor,
            reason=change.reason,
            at=self._clock.unix(),
        )

    async def accept(self, model: ModelName, reference: str, change: Change) -> AcceptedVersion:
        """Let a version take the place of any other, and return when traffic follows."""
        made = await self._acceptances.accept(model, reference, actor=change.actor, reason=change.reason)
        return AcceptedVersion(made.model, made.version, made.also, made.already, made.revision)

    async def history(self, model: ModelName, limit: int) -> tuple[RouteChange, ...]:
        """Changes of one route, newest first."""
        return tuple(
            RouteChange(
                model=model,
                revision=change.revision,
                before=change.before,
                after=change.after,
                actor=change.actor,
                reason=change.reason,
                at=change.at,
            )
            for change in await self._store.history(model, limit)
        )

    async def _take_over(self) -> None:
        await self._controller.load_routes()
        await self._controller.turned()

    def _check(self, route: Route) -> None:
        """Refuse what could never be served: unknown models, references and registries."""
        if route.registry and route.registry not in self._controller.registries:
            raise InvalidRoute(
                f"route of {route.model!r}: no registry {route.registry!r} is configured",
                hint="registries: " + (", ".join(sorted(self._controller.registries)) or "none"),
            )
        model = self._controller.registered(route)
        for arm in route.arms:
            if arm.backend_model is not None:
                continue
            if model is None:
                raise self._controller.not_found(route.model)
            resolve(model, parse_reference(arm.reference))
        for shadow in route.shadows:
            if model is None:
                raise self._controller.not_found(route.model)
            resolve(model, parse_reference(shadow.reference))

    def _route_view(self, entry: ModelEntry | None, route: Route, stored: StoredRoute | None) -> RouteView:
        arms = tuple(self._arm_view(entry, arm) for arm in route.arms)
        notes = self._moving.notes(route.model)
        if stored is None:
            return RouteView(route=route, implicit=True, arms=arms, notes=notes)
        shadows = tuple(self._shadow_view(entry, route, shadow) for shadow in route.shadows)
        return RouteView(
            route=route,
            implicit=False,
            arms=arms,
            revision=stored.revision,
            actor=stored.actor,
            reason=stored.reason,
            at=stored.at,
            shadows=shadows,
            notes=notes,
        )

    def _shadow_view(self, entry: ModelEntry | None, route: Route, shadow: Shadow) -> ShadowView:
        serving = entry.serving if entry else None
        served = next((s for s in serving.shadows if s.name == shadow.name), None) if serving else None
        version = entry.registered.versions.get(served.version) if entry and served else None
        key = (route.model, version.version if version else "", shadow.name)
        counted = [s for s in self._data_plane.counters().shadows if (s.model, s.version, s.shadow) == key]
        compared = [c for c in self._comparisons() if (c.model, c.version, c.shadow) == key]
        return ShadowView(
            name=shadow.name,
            reference=shadow.reference,
            sample=shadow.sample,
            version=version.version if version else "",
            state=self._versions.state(entry, version) if entry and version else None,
            waiting=_waiting(serving, f"shadow {shadow.name}")
            if serving
            else "no registry and no backend has this model now",
            results={
                word: count
                for one in counted
                for word, count in zip(SHADOW_RESULTS, one.results, strict=True)
                if count
            },
            comparison=compared[0] if compared else None,
        )

    def _arm_view(self, entry: ModelEntry | None, arm: Arm) -> ArmView:
        serving = entry.serving if entry else None
        served = next((a for a in serving.arms if a.name == arm.name), None) if serving else None
        version = entry.registered.versions.get(served.version) if entry and served else None
        return ArmView(
            name=arm.name,
            reference=reference_of(arm),
            weight=arm.weight,
            version=served.version if served else "",
            served_weight=served.weight if served else 0,
            state=self._versions.state(entry, version) if entry and version else None,
            waiting=_waiting(serving, f"arm {arm.name}")
            if serving
            else "no registry and no backend has this model now",
        )


def _waiting(serving: Serving, what: str) -> str:
    return next((wait.sentence for wait in serving.waiting if wait.what == what), "")
