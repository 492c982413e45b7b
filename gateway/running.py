"""A running gateway as operators see it: `Operations` over the control loop and the data plane."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from gateway import __version__
from gateway.bridge import SHADOW_RESULTS, Counters, DataPlane, EjectedCounters, Explanation
from gateway.certificates import Certificates
from gateway.config import Address
from gateway.detail import stable_version, version_detail
from gateway.moving import Moving
from gateway.operations import (
    NOTHING,
    AcceptedVersion,
    ArmView,
    BackendStatus,
    Change,
    Gauges,
    ModelSummary,
    ModelVersions,
    Moved,
    Problem,
    Readiness,
    ReferenceKind,
    RegistryGauge,
    RegistryStatus,
    ReloadReport,
    Resolution,
    RouteChange,
    RouteTable,
    RouteView,
    RouteWeight,
    Said,
    ShadowComparison,
    ShadowView,
    Share,
    StatusReport,
    Totals,
    VersionDetail,
    VersionRow,
    VersionState,
    WebhookCount,
    WriteRow,
)
from gateway.waiting import sentences
from router.alias import parse_reference, resolve
from router.control.acceptance import Acceptances
from router.control.controller import Controller
from router.control.entries import ModelEntry
from router.errors import (
    InvalidInput,
    InvalidReference,
    InvalidRoute,
    ModelNotFound,
    RouteNotFound,
    Unavailable,
    VersionNotFound,
)
from router.model import WHOLE, Arm, ModelName, Route, Shadow, Version, VersionId, format_weight
from router.ports import PUT_ROUTES, Accepted, Clock, Decision, StateStore, StoredRoute
from router.traffic.compile import VersionPlacement
from router.traffic.serving import Serving, implicit_route

_Answer = TypeVar("_Answer")

INVALID_ARGUMENT = 3
NOT_FOUND = 5


@dataclass(frozen=True, slots=True)
class Addresses:
    """What the process listens on, as bound, and where its configuration and state are."""

    inference: str
    metrics: str
    admin: str
    config: str
    state: str
    http: str = ""


class RunningGateway:
    """Answers operators from what the control loop holds now; changes go through the store."""

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
        self._controller = controller
        self._store = store
        self._data_plane = data_plane
        self._clock = clock
        self.addresses = addresses
        self._registry_types = registry_types
        self._reload = reload
        self._certificates = certificates
        self._comparisons = comparisons
        self._acceptances = Acceptances(controller, store)
        self.moving = Moving(controller, store, clock)
        self._changes: set[asyncio.Task[Any]] = set()
        self._started = clock.unix()
        self._started_at = clock.now()
        self.draining = False
        self.synced = False

    def listens(self, *, metrics: Address | None = None, admin: Address | None = None) -> None:
        """Note where a listener was bound; a configuration may ask for any free port."""
        if metrics is not None:
            self.addresses = replace(self.addresses, metrics=str(metrics))
        if admin is not None:
            self.addresses = replace(self.addresses, admin=str(admin))

    # Catalogue

    async def models(self) -> tuple[ModelSummary, ...]:
        """All models by name, those that cannot be served included, with the reason."""
        served = [self._summary(entry) for entry in self._controller.models.values()]
        names = {summary.name for summary in served}
        unserved = [
            ModelSummary(name=problem.subject, registry="", versions=(), problem=problem.message)
            for problem in self._problems()
            if problem.subject not in names and "/" not in problem.subject
        ]
        return tuple(sorted((*served, *unserved), key=lambda summary: summary.name))

    def _summary(self, entry: ModelEntry) -> ModelSummary:
        model, serving = entry.registered, entry.serving
        ready = tuple(spec.version for spec in entry.spec.versions if spec.state == "ready")
        return ModelSummary(
            name=model.name,
            registry=model.registry,
            versions=tuple(model.versions),
            stages=dict(model.stages),
            aliases=dict(model.aliases),
            ready=ready,
            route=_route_line(self._route_of(entry)),
            implicit=serving.implicit,
            problem=self._problem(entry),
        )

    async def versions(self, model: ModelName) -> ModelVersions:
        """One model with all its versions. Raises ModelNotFound."""
        entry = self._entry(model)
        rows = tuple(self._row(entry, version) for version in entry.registered.versions.values())
        return ModelVersions(
            name=model,
            registry=entry.registered.registry,
            description=entry.registered.description,
            versions=rows,
            problem=self._problem(entry),
        )

    def _problem(self, entry: ModelEntry) -> str:
        """Why clients cannot use a model now, what waits, and where its registry says something else."""
        waits = sentences(entry.registered.name, entry.serving.waiting)
        notes = self.moving.notes(entry.registered.name)
        return "; ".join(([entry.serving.unroutable] if entry.serving.unroutable else waits) + list(notes))

    def _row(self, entry: ModelEntry, version: Version) -> VersionRow:
        model = entry.registered
        spec = next(spec for spec in entry.spec.versions if spec.version == version.version)
        return VersionRow(
            version=version.version,
            state=self._state(entry, version),
            stages=_names_of(model.stages, version.version),
            aliases=_names_of(model.aliases, version.version),
            arms=tuple(arm.name for arm in entry.serving.arms if arm.version == version.version),
            format=version.format,
            backends=spec.backends,
            backend_model=spec.backend_model,
            metrics=version.metrics,
            digest=version.digest,
            reason=self._reason(entry, version),
            created=version.created,
            kept=self._controller.kept((model.name, version.version)) if spec.state == "ready" else "",
        )

    def _placement(self, entry: ModelEntry, version: Version) -> VersionPlacement:
        return self._controller.places.placement(entry.registered, version)

    def _state(self, entry: ModelEntry, version: Version) -> VersionState:
        state = self._placement(entry, version).state
        key = (entry.registered.name, version.version)
        if state != "ready" and key in self._controller.residents.loading:
            return VersionState.LOADING
        if state == "cold" and key in self._controller.residents.failures:
            return VersionState.FAILED
        return VersionState(state)

    def _reason(self, entry: ModelEntry, version: Version) -> str:
        key = (entry.registered.name, version.version)
        residents = self._controller.residents
        if key in residents.fetching:
            return residents.fetching[key]
        return self._placement(entry, version).reason or residents.trouble(key)

    async def describe(self, model: ModelName, reference: str) -> VersionDetail:
        """All that is known of the version that a reference names in the registry; "" for the stable one."""
        entry = self._entry(model)
        registered = entry.registered
        asked = resolve(registered, parse_reference(reference)).version if reference else None
        version = registered.versions[asked or stable_version(entry)]
        row = self._row(entry, version)
        counters = self._data_plane.counters()
        return await asyncio.to_thread(version_detail, self._controller, entry, version, row, counters)

    async def resolve(self, model: ModelName, reference: str, said: Said = NOTHING) -> Resolution:
        """What a request would meet; by the same code as the hot path, without sending anything."""
        headers, parameters = tuple(said.headers.items()), tuple(said.parameters.items())
        try:
            told = self._data_plane.explain(model, reference, 0, headers, parameters)
        except ValueError as error:
            raise InvalidInput(f"a request cannot say that: {error}") from error
        name = told.model or model
        entry = self._controller.models.get(ModelName(name))
        if told.code == INVALID_ARGUMENT:
            raise InvalidReference(told.message)
        if told.code == NOT_FOUND:
            raise (VersionNotFound if entry else ModelNotFound)(told.message)
        if entry is None or told.code:
            raise Unavailable(told.message or f"model {model!r} cannot be answered now")
        kind = ReferenceKind(told.reference_kind)
        split = kind is ReferenceKind.SPLIT
        arms = entry.serving.arms if split else ()
        # By chance it may be any: the stable one is shown.
        name_of_arm = "stable" if told.decided_by == "chance" else told.arm
        shown = next((arm for arm in arms if arm.name == name_of_arm), arms[0] if arms else None)
        version = entry.registered.versions[VersionId(shown.version if shown else told.version)]
        placement = self._placement(entry, version)
        return Resolution(
            model=name,
            registry=entry.registered.registry,
            reference=reference or model.partition("@")[2],
            kind=kind,
            arm=shown.name if shown else told.arm,
            version=version.version,
            state=self._state(entry, version),
            backends=placement.backends,
            backend_model=placement.backend_model,
            shares=tuple(Share(arm.name, arm.version, arm.weight) for arm in arms),
            why=(
                *self._why_version(entry, kind, reference or model.partition("@")[2]),
                *_why_arm(told, entry.serving, said),
                *self._why_state(entry, version, placement),
            ),
            decided_by=told.decided_by,
            rule=told.rule,
            bucket=told.bucket,
        )

    def _why_version(self, entry: ModelEntry, kind: ReferenceKind, reference: str) -> list[str]:
        """What the reference means, in sentences."""
        serving = entry.serving
        if kind is not ReferenceKind.SPLIT:
            said = [f"{reference!r} is {_article(kind)} of {entry.registered.name}, so it pins a version"]
        else:
            origin = "implicit route" if serving.implicit else "route in the store"
            asked = f"{reference!r} is what the stable arm names" if reference else "no reference"
            said = [f"{asked}: the {origin} decides, {_route_line(self._route_of(entry))}"]
        return said + [wait.sentence for wait in serving.waiting]

    def _why_state(self, entry: ModelEntry, version: Version, placement: VersionPlacement) -> list[str]:
        """Where the version is."""
        if placement.backends:
            return [f"version {version.version} is ready on {', '.join(placement.backends)}"]
        reason = self._reason(entry, version) or "a request would load it"
        return [f"version {version.version} is {self._state(entry, version)}: {reason}"]

    # Routing

    async def routes(self) -> RouteTable:
        """All explicit routes."""
        views = tuple(
            self._route_view(self._controller.models.get(name), stored.route, stored)
            for name, stored in sorted(self._controller.routes.items())
        )
        return RouteTable(self._controller.store_revision, views)

    async def route(self, model: ModelName) -> RouteView:
        """The route in force, explicit or implicit."""
        stored = self._controller.routes.get(model)
        entry = self._controller.models.get(model)
        if stored is not None:
            return self._route_view(entry, stored.route, stored)
        if entry is None:
            raise self._controller.not_found(model)
        route = self._route_of(entry)
        if route is None:
            raise ModelNotFound(f"model {model!r} has no versions, so nothing to route to")
        return self._route_view(entry, route, None)

    async def apply_routes(
        self, routes: Sequence[Route], *, expected_revision: int | None, change: Change, force: bool = False
    ) -> tuple[RouteChange, ...]:
        """Write all routes in one atomic change, and return when the table has them."""
        return await self._through(self._apply_routes(routes, expected_revision, change, force))

    async def _apply_routes(
        self, routes: Sequence[Route], expected_revision: int | None, change: Change, force: bool
    ) -> tuple[RouteChange, ...]:
        for route in routes:
            self._check(route)
        accepted = self._acceptances.of_routes(routes, force=force, reason=change.reason)
        before = {name: stored.route for name, stored in self._controller.routes.items()}
        revision = await self._write_routes(routes, accepted, expected_revision, change)
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

    async def _write_routes(
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

    async def accept(self, model: ModelName, reference: str, *, change: Change) -> AcceptedVersion:
        """Let a version take the place of any other, and return when traffic follows."""
        made = await self._through(
            self._acceptances.accept(model, reference, actor=change.actor, reason=change.reason)
        )
        return AcceptedVersion(made.model, made.version, made.also, made.already, made.revision)

    async def delete_route(
        self, model: ModelName, *, expected_revision: int | None, change: Change
    ) -> RouteChange:
        """Go back to the implicit route."""
        return await self._through(self._delete_route(model, expected_revision, change))

    async def _delete_route(
        self, model: ModelName, expected_revision: int | None, change: Change
    ) -> RouteChange:
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

    def _route_of(self, entry: ModelEntry) -> Route | None:
        return entry.route.route if entry.route else implicit_route(entry.registered)

    def _route_view(self, entry: ModelEntry | None, route: Route, stored: StoredRoute | None) -> RouteView:
        arms = tuple(self._arm_view(entry, arm) for arm in route.arms)
        notes = self.moving.notes(route.model)
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
            state=self._state(entry, version) if entry and version else None,
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
            reference=_reference(arm),
            weight=arm.weight,
            version=served.version if served else "",
            served_weight=served.weight if served else 0,
            state=self._state(entry, version) if entry and version else None,
            waiting=_waiting(serving, f"arm {arm.name}")
            if serving
            else "no registry and no backend has this model now",
        )

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
        readiness = await self.readiness()
        counters = self._data_plane.counters()
        now = self._clock.now()
        return StatusReport(
            version=__version__,
            started=self._started,
            uptime=now - self._started_at,
            ready=readiness.ready,
            reasons=readiness.reasons,
            config=self.addresses.config,
            state=self.addresses.state,
            revision=self._controller.store_revision,
            inference=self.addresses.inference,
            metrics=self.addresses.metrics,
            admin=self.addresses.admin,
            connections=counters.connections,
            requests=_finished(counters),
            totals=self._totals(),
            backends=self._backends(),
            registries=self._registries(now),
            problems=tuple(Problem(item.subject, item.reason) for item in self._controller.unservable)
            + self.moving.problems()
            + self._held()
            + tuple(_passed_over(one) for one in counters.ejected),
        )

    def _held(self) -> tuple[Problem, ...]:
        """What registries or routes want, and clients do not meet yet."""
        return tuple(
            Problem(f"model {name}", sentence)
            for name, entry in self._controller.models.items()
            for sentence in sentences(name, entry.serving.waiting)
        )

    def _totals(self) -> Totals:
        entries = self._controller.models.values()
        states = [spec.state for entry in entries for spec in entry.spec.versions]
        return Totals(
            models=len(self._controller.models),
            versions=len(states),
            ready=states.count("ready"),
            loading=len(self._controller.residents.loading),
            failed=len(self._controller.residents.failures),
            routes=len(self._controller.routes),
        )

    def _backends(self) -> tuple[BackendStatus, ...]:
        return tuple(
            BackendStatus(
                name=state.name,
                address=state.backend.grpc,
                control=state.backend.control.value,
                up=state.up,
                models=len(state.ready),
                reason=state.reason,
                server=f"{state.server_name} {state.server_version}".strip(),
            )
            for state in self._controller.residents.backends.values()
        )

    def _registries(self, now: float) -> tuple[RegistryStatus, ...]:
        return tuple(
            RegistryStatus(
                name=name,
                type=self._registry_types.get(name, ""),
                models=len(state.view.models) if state.view else 0,
                age=state.age(now),
                reason="; ".join(filter(None, (state.error, state.warning(now)))),
                problems=tuple(Problem(p.subject, p.message) for p in state.view.problems)
                if state.view
                else (),
            )
            for name, state in self._controller.registries.items()
        )

    def _gauge(self, status: RegistryStatus) -> RegistryGauge:
        readings = self._controller.registries[status.name].readings
        lost, unpointed = (len(loss.gone) if loss else 0 for loss in (readings.loss, readings.unpointed))
        return RegistryGauge(status.name, status.age, len(status.problems), lost, unpointed)

    def _problems(self) -> list[Problem]:
        found = [Problem(item.subject, item.reason) for item in self._controller.unservable]
        for state in self._controller.registries.values():
            if state.view is not None:
                found += [Problem(p.subject, p.message) for p in state.view.problems]
        return found

    async def readiness(self) -> Readiness:
        """Whether this gateway should get traffic."""
        reasons = []
        if self.draining:
            reasons.append("draining: this gateway is about to stop")
        if not self.synced:
            reasons.append("starting: registries and backends have not all been read yet")
        backends = self._controller.residents.backends.values()
        if backends and not any(state.up for state in backends):
            reasons += [f"backend {state.name}: {state.reason}" for state in backends]
        if not backends:
            reasons.append("no backend is configured")
        return Readiness(not reasons, tuple(reasons))

    async def gauges(self) -> Gauges:
        """Numbers for `/metrics`."""
        now = self._clock.now()
        return Gauges(
            revision=self._controller.store_revision,
            weights=tuple(
                RouteWeight(name, arm.name, arm.version, arm.weight)
                for name, entry in self._controller.models.items()
                for arm in entry.serving.arms
            ),
            backends={state.name: state.up for state in self._controller.residents.backends.values()},
            registries=tuple(map(self._gauge, self._registries(now))),
            certificates=self._certificates.expiry if self._certificates else {},
            certificates_refused=self._certificates.refused if self._certificates else 0,
            shadows=tuple(self._comparisons()),
            writes=self.moving.counts(),
            webhooks=tuple(
                WebhookCount(*key, count) for key, count in self._controller.webhooks.results.items()
            ),
            writes_pending=self.moving.pending(),
        )

    async def reload(self) -> ReloadReport:
        """Read the configuration file again and take what changed, or refuse all of it."""
        return await self._through(self._reload())

    async def _through(self, work: Coroutine[None, None, _Answer]) -> _Answer:
        """Carry a change through to its end, also where whoever asked for it goes away meanwhile."""
        task = asyncio.create_task(work)
        self._changes.add(task)
        task.add_done_callback(self._changes.discard)
        return await asyncio.shield(task)

    def _entry(self, model: ModelName) -> ModelEntry:
        entry = self._controller.models.get(model)
        if entry is None:
            raise self._controller.not_found(model)
        return entry


def _finished(counters: Counters) -> int:
    """Requests of clients that ended; copies for shadows are none."""
    shadows = {(one.model, one.version, one.shadow) for one in counters.shadows}
    return sum(sum(arm.codes) for arm in counters.arms if (arm.model, arm.version, arm.arm) not in shadows)


def _passed_over(ejected: EjectedCounters) -> Problem:
    """A backend that the data plane asks nothing for one version, with what it did and when that ends."""
    retry = f"tried again in {ejected.retry_ms / 1000:.1f} s" if ejected.retry_ms else "being tried again"
    return Problem(
        f"{ejected.model}/{ejected.version} on {ejected.backend}",
        f"passed over for {ejected.since_ms / 1000:.1f} s, {retry}: {ejected.reason}",
    )


def _names_of(pointers: Mapping[str, VersionId], version: VersionId) -> tuple[str, ...]:
    return tuple(sorted(name for name, target in pointers.items() if target == version))


def _reference(arm: Arm) -> str:
    target = arm.backend_model
    return arm.reference if target is None else f"{target.name}/{target.version}".rstrip("/")


def _route_line(route: Route | None) -> str:
    if route is None:
        return ""
    return " ".join(f"{arm.name}={_reference(arm)}:{format_weight(arm.weight)}" for arm in route.arms)


def _waiting(serving: Serving, what: str) -> str:
    return next((wait.sentence for wait in serving.waiting if wait.what == what), "")


def _why_arm(told: Explanation, serving: Serving, said: Said) -> list[str]:
    """What decided on the arm, in a sentence; nothing where there was no choice."""
    sticky = serving.assignment.sticky
    match told.decided_by:
        case "forced":
            return [f"the header stagegate-arm asks for arm {told.arm}, and the route is open for it"]
        case "rule" if told.rule is not None:
            when = " and ".join(
                f"{c.kind} {c.name} = {c.value!r}" for c in serving.assignment.rules[told.rule].conditions
            )
            return [f"match rule {told.rule + 1} fits ({when}): arm {told.arm}"]
        case "bucket":
            own = any(name.lower() == "stagegate-key" and value for name, value in said.headers.items())
            key = "header:stagegate-key" if own or sticky is None else sticky.by
            return [f"the key of {key} is in bucket {told.bucket} of {WHOLE}, which is arm {told.arm}'s"]
        case "chance" if sticky is not None and sticky.by:
            return [f"the request has no key ({sticky.by}): chance decides, by weight"]
        case "chance":
            return ["chance decides on the arm, by weight"]
        case _:
            return []


def _article(kind: ReferenceKind) -> str:
    return f"an {kind}" if kind is ReferenceKind.ALIAS else f"a {kind}"
