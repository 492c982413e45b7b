"""The loop that keeps the data plane true to registries, routes and backends.

One task owns all state here; watchers only put new readings in and wake it. Each turn looks at the models
that something happened to (`_dirty`), settles what clients of each see now, hands the difference to the
data plane as one delta, and starts the loads and unloads that the plan asks for.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial

from router.control.catalog import (
    Seat,
    Sources,
    brought_models,
    brought_seat,
    choose_model,
    choose_models,
    unknown_model,
)
from router.control.loader import Loader, LoaderHooks, Recorder
from router.control.losses import LOSS_WINDOW
from router.control.publisher import Publisher
from router.control.reader import ReaderHooks, RegistryReader, RegistryState
from router.control.readings import Readings
from router.control.residents import BackendState, Key, Residents, files_of
from router.control.watchers import Watchers
from router.control.webhooks import Webhooks
from router.errors import BackendUnavailable, ModelNotFound, Unavailable
from router.model import (
    BackendId,
    IndexEntry,
    ModelName,
    PointerKind,
    RegisteredModel,
    RegistryView,
    Route,
    Tolerance,
    TritonName,
    Version,
    VersionId,
)
from router.placement.residency import (
    ROLLBACK_WINDOW,
    Action,
    BackendView,
    Left,
    Load,
    ResidencyInput,
    Resident,
    plan,
)
from router.ports import (
    ANYTHING,
    MOVED,
    Accepted,
    BackendDown,
    BackendUp,
    Clock,
    ColdWanted,
    CopyEjected,
    CopyRecovered,
    DataPlane,
    DataPlaneEvent,
    Hint,
    PointerMove,
    Registry,
    StateStore,
    StoredRoute,
    WebhookArrived,
    WriteBack,
)
from router.traffic.compile import Unservable, VersionPlacement, compile_model
from router.traffic.overlay import Override, overlay
from router.traffic.serving import Gate, Serving, left_behind, met, settle, with_backend_models
from router.traffic.table import BackendSpec, ModelSpec

LOG = logging.getLogger("stagegate.control")

PROBE_SECONDS = 1.0
"""How often each backend is asked for its index, and idle versions and retries are looked at."""

MISSES_ALLOWED = 2
"""Failed looks in a row before a backend counts as down; one, where the data plane lost it as well."""

ASKED_AT_ONCE = 200
"""Copies whose capacity is asked for between two looks at a backend."""

SUSPECT_SECONDS = 2.0
"""How long a backend that the data plane lost may take to answer a look."""


FORGET_BEYOND = 1_000
"""Copies, beside twice as many as there were last, that are remembered before it is looked which are gone."""


@dataclass(frozen=True, slots=True)
class ControllerSettings:
    """What an operator may set.

    Attributes:
        default_registry: where models without a route resolve; "" for none.
        idle_unload: seconds without a request after which an unnamed version is unloaded.
        load_timeout: seconds that one load may take.
        rollback_window: seconds for which a version stays loaded that a stage, alias or arm went away from.
        loss_window: seconds for which models go on that their registry lost more than half of at once.
    """

    default_registry: str
    idle_unload: float
    load_timeout: float
    rollback_window: float = ROLLBACK_WINDOW
    loss_window: float = LOSS_WINDOW


@dataclass(slots=True)
class ModelEntry:
    """One logical model as served: what the registry says, what the operator says, what clients see."""

    registered: RegisteredModel
    route: StoredRoute | None
    serving: Serving
    spec: ModelSpec


class Controller:
    """Owns the routing table; everything that changes traffic goes through here."""

    def __init__(
        self,
        settings: ControllerSettings,
        *,
        store: StateStore,
        data_plane: DataPlane,
        clock: Clock,
        recorder: Recorder,
        describe: Callable[[Version], bytes],
        triton_name: Callable[[Version], TritonName],
    ) -> None:
        self.settings = settings
        self.registries: dict[str, RegistryState] = {}
        self.residents = Residents()
        self.models: dict[ModelName, ModelEntry] = {}
        self.routes: dict[ModelName, StoredRoute] = {}
        self.store_revision = 0
        self.writes: tuple[WriteBack, ...] = ()
        self.after_turn: Callable[[], None] = lambda: None
        self.accepted: dict[tuple[str, ModelName], frozenset[VersionId]] = {}
        self._overrides: dict[ModelName, tuple[tuple[str, Override], ...]] = {}
        self._moves: list[PointerMove] = []
        self._store = store
        self._data_plane = data_plane
        self._publisher = Publisher(data_plane)
        self._clock = clock
        self._describe = describe
        self._triton_name = triton_name
        hooks = LoaderHooks(inflight=self._inflight, changed=self._version_changed)
        self._loader = Loader(self.residents, clock, recorder, hooks, settings.load_timeout)
        self._chosen: dict[ModelName, RegisteredModel] = {}
        self._brought: dict[ModelName, RegisteredModel] = {}
        self._cold: dict[Key, float] = {}
        self._restore: dict[Key, float] = {}
        self._wanted: dict[ModelName, tuple[VersionId, ...]] = {}
        self._left: dict[Key, Left] = {}
        self._counts: dict[Key, int] = {}
        self._seats_left = 0
        self._looked_at = clock.now()
        self._unnamed: tuple[Unservable, ...] = ()
        self._refused: dict[ModelName, str] = {}
        self._dirty: set[ModelName] = set()
        self._sources_changed = True
        self._rerouted: set[ModelName] = set()
        self._backends_changed = True
        self._wake = asyncio.Event()
        self._turned = asyncio.Condition()
        self._turns = 0
        self._broken = ""
        self._watchers = Watchers(PROBE_SECONDS)
        self._readers: dict[str, RegistryReader] = {}
        self._closing: set[asyncio.Task[None]] = set()
        self.webhooks = Webhooks(lambda: self._readers, clock, data_plane.answer_webhook)

    @property
    def unservable(self) -> tuple[Unservable, ...]:
        """What exists and clients cannot reach, or not as it is wanted, with the reason."""
        return (*self._unnamed, *(Unservable(name, why) for name, why in self._refused.items()))

    # What others put in

    def add_registry(self, registry: Registry, poll: float | None = None) -> None:
        """Begin to follow a registry; one of the same name hands over when the new one is read.

        `poll`: seconds between two looks of its own, where it is set to any.
        """
        name = registry.name
        self._forget_registry(name)
        before = self.registries.get(name)
        readings = Readings(before.view if before else None)
        state = RegistryState(registry, poll, self._clock.now(), readings)
        state.loss_window = self.settings.loss_window
        self.registries[name] = state
        hooks = ReaderHooks(changed=self._registry_changed, looked=self._wake.set)
        reader = self._readers[name] = RegistryReader(state, self._clock, hooks)
        self._watchers.start(f"registry {name}", reader.follow)
        self._watchers.start(f"registry {name} again", reader.again)

    def recall(self, name: str, view: RegistryView, age: float) -> None:
        """Take what a registry said before this process began, until it is read.

        `age`: seconds since it said that.
        """
        state = self.registries.get(name)
        if state is not None and state.readings.recall(view):
            state.read_at = self._clock.now() - age
            self._registry_changed(None)
            self._wake.set()

    def drop_registry(self, name: str) -> None:
        """Stop following a registry; its models go."""
        self._forget_registry(name)
        self.registries.pop(name, None)
        self._sources_changed = True
        self._wake.set()

    def add_backend(self, state: BackendState) -> None:
        """Begin to use a backend."""
        self.residents.backends[state.name] = state
        self._backends_changed = True
        self._watchers.start(f"backend {state.name}", partial(self._follow_backend, state))

    async def drop_backend(self, name: BackendId) -> None:
        """Stop using a backend; nothing is unloaded there."""
        self._watchers.stop(f"backend {name}")
        state = self.residents.backends.pop(name, None)
        if state is None:
            return
        self._backends_changed = True
        self._note_lost(state)
        await state.server.close()

    async def load_routes(self) -> None:
        """Read routes, what is to be written back, and what was accepted. Raises StateUnavailable."""
        revision, routes = await self._store.routes()
        writes = await self._store.write_backs()
        accepted = await self._store.accepted()
        if revision < self.store_revision:
            return  # a later reading came first
        self.set_writes(writes)
        self._set_accepted(accepted)
        before, self.routes = self.routes, routes
        self.store_revision = revision
        for name, stored in routes.items():
            known = before.get(name)
            if stored is not known and stored != known:
                self._rerouted.add(name)
        self._rerouted.update(before.keys() - routes.keys())
        self._wake.set()

    def set_writes(self, writes: Iterable[WriteBack]) -> None:
        """Take over what is to be written to registries; traffic follows it at once."""
        self.writes = tuple(writes)
        overrides: dict[ModelName, tuple[tuple[str, Override], ...]] = {}
        for write in self.writes:
            if write.state.overrides:
                override = write.registry, Override(write.kind, write.name, write.version)
                overrides[write.model] = (*overrides.get(write.model, ()), override)
        before, self._overrides = self._overrides, overrides
        changed = [name for name in before.keys() | overrides if before.get(name) != overrides.get(name)]
        self._rerouted.update(changed)
        self._wake.set()

    def _set_accepted(self, accepted: Iterable[Accepted]) -> None:
        found: dict[tuple[str, ModelName], frozenset[VersionId]] = {}
        for one in accepted:
            key = (one.registry, one.model)
            found[key] = found.get(key, frozenset()) | {one.version}
        before, self.accepted = self.accepted, found
        changed = (key for key in before.keys() | found.keys() if before.get(key) != found.get(key))
        self._rerouted.update(model for _, model in changed)

    def gate(self, model: RegisteredModel) -> Gate:
        """What is known of the contracts of a model's versions beside what its registry says."""
        learned = {
            name: contract
            for name, version in model.versions.items()
            if (contract := self.residents.learned(version)) is not None
        }
        return Gate(learned, self.accepted.get((model.registry, model.name), frozenset()))

    def _overlaid(self, model: RegisteredModel) -> RegisteredModel:
        """A model of a registry with what was decided here about its stages and aliases."""
        decided = self._overrides.get(model.name, ())
        return overlay(model, (override for registry, override in decided if registry == model.registry))

    def take_moves(self) -> tuple[PointerMove, ...]:
        """Stages and aliases that went to another version since the last call, without a decision."""
        moves, self._moves = tuple(self._moves), []
        return moves

    def registered(self, route: Route) -> RegisteredModel | None:
        """The model that a route would be about, were it in force; None where there is none."""
        found = self._registered(route)
        return self._overlaid(found) if found is not None else None

    def not_found(self, model: ModelName) -> ModelNotFound:
        """Why there is no such model for clients."""
        views = {name: state.view for name, state in self.registries.items() if state.view is not None}
        return unknown_model(model, views)

    def _registered(self, route: Route) -> RegisteredModel | None:
        state = self.registries.get(route.registry) if route.registry else None
        if state is not None and route.registry != self.settings.default_registry:
            return state.view.models.get(route.model) if state.view else None
        default = self.registries.get(self.settings.default_registry)
        if default is not None and default.view is not None and route.model in default.view.models:
            return default.view.models[route.model]
        return self._brought.get(route.model)

    def tolerance(self, model: str, shadow: str) -> Tolerance | None:
        """How far the answers of a shadow may lie from the clients'; None where no route has that shadow."""
        stored = self.routes.get(ModelName(model))
        shadows = stored.route.shadows if stored else ()
        return next((one.tolerance for one in shadows if one.name == shadow), None)

    def want(self, model: ModelName, version: VersionId) -> None:
        """Load a version as if a request had asked for it."""
        self._cold.setdefault((model, version), self._clock.now())
        self._dirty.add(model)  # it may be ready by now: then nobody needs to wait
        self._wake.set()

    async def until(self, holds: Callable[[], bool]) -> None:
        """Return when something holds, looked at after each turn."""
        async with self._turned:
            self._wake.set()
            await self._turned.wait_for(holds)

    def pending(self, key: Key) -> bool:
        """Whether a version that was asked for is neither ready nor failed yet."""
        return key in self._cold or key in self.residents.loading

    def set_settings(self, settings: ControllerSettings) -> None:
        """Take changed settings over."""
        self.settings = settings
        self._loader.load_timeout = settings.load_timeout
        for reader in self._readers.values():
            reader.state.loss_window = settings.loss_window
            if reader.state.readings.loss is not None:
                reader.notice(ANYTHING)  # it may be believed now
        self._sources_changed = True
        self._wake.set()

    async def turned(self) -> None:
        """Return after a whole turn that began after this call: what was put in is in the table.

        Raises:
            Unavailable: that turn broke; it is tried again each second.
        """
        async with self._turned:
            goal = self._turns + 1  # a turn never awaits, so none is under way now
            self._wake.set()
            await self._turned.wait_for(lambda: self._turns >= goal)
        if self._broken:
            raise Unavailable(
                f"the change is noted but not in force yet: {self._broken}", hint="the log has the details"
            )

    # The loop

    async def run(self) -> None:
        """Turn until cancelled."""
        self._watchers.start("events", self._follow_events)
        self._watchers.start("clock", self._follow_clock)
        try:
            while True:
                await self._wake.wait()
                self._wake.clear()
                self._try_turn()
                self.after_turn()
                async with self._turned:
                    self._turned.notify_all()
                if self._broken:
                    await asyncio.sleep(PROBE_SECONDS)
        finally:
            await self._close()

    async def _close(self) -> None:
        await self._watchers.close()
        await self._loader.close()
        for name in tuple(self._readers):
            self._forget_registry(name)
        await asyncio.gather(*self._closing, return_exceptions=True)
        for state in self.residents.backends.values():
            await state.server.close()

    def _try_turn(self) -> None:
        """One turn. Whatever breaks in it, the data plane goes on, and the next one looks at everything."""
        self._broken = ""
        try:
            self._turn()
        except Exception as problem:
            LOG.exception("a turn of the control loop broke; what was published last stays")
            self._broken = f"{type(problem).__name__}: {problem}"
            self._sources_changed = self._backends_changed = True
            self._dirty.update(self.models)
            self._dirty.update(map(ModelName, self._publisher.names()))
            self._wake.set()
        self._turns += 1

    def _turn(self) -> None:
        if self._sources_changed:
            self._sources_changed = False
            self._choose()
        elif self._rerouted:
            self._choose_rerouted()
        self._rerouted.clear()
        self._settle_dirty()
        if self._act():
            self._settle_dirty()

    def _choose(self) -> None:
        """Put registries, routes and backend-brought models together; mark what differs."""
        indexes = {
            state.name: state.index
            for state in self.residents.backends.values()
            if state.up and not state.loads_for_us
        }
        self._brought, self._unnamed = brought_models(indexes)
        chosen = choose_models(self._sources(), self.routes)
        for name in self._overrides.keys() & chosen.keys():
            chosen[name] = self._overlaid(chosen[name])
        for name in self._chosen.keys() | chosen.keys():
            before, after = self._chosen.get(name), chosen.get(name)
            if before is not after and before != after:
                self._dirty.add(name)
        for name in self.routes.keys() | {n for n, entry in self.models.items() if entry.route is not None}:
            entry = self.models.get(name)
            if (entry.route if entry else None) != self.routes.get(name):
                self._dirty.add(name)
        self._chosen = chosen

    def _sources(self) -> Sources:
        views = {name: state.view for name, state in self.registries.items() if state.view is not None}
        return Sources(views, self.settings.default_registry, self._brought)

    def _choose_rerouted(self) -> None:
        """Only routes changed: each concerns its own model, so the cost does not grow with all there are."""
        sources = self._sources()
        for name in self._rerouted:
            stored = self.routes.get(name)
            model = choose_model(sources, name, stored.route if stored else None)
            if model is None:
                self._chosen.pop(name, None)
            else:
                self._chosen[name] = self._overlaid(model)
            self._dirty.add(name)

    def _settle_dirty(self) -> None:
        """Settle every marked model and hand the difference to the data plane."""
        put: list[ModelSpec] = []
        drop: list[ModelName] = []
        for name in self._dirty:
            self._refused.pop(name, None)
            model = self._chosen.get(name)
            if model is None:
                self._forget(name)
                if self._publisher.model(name) is not None:
                    drop.append(name)
                continue
            spec = self._try_settle(name, model)
            if spec is not None and spec != self._publisher.model(name):
                put.append(spec)
        if put or drop or self._backends_changed:
            known = self.residents.backends.values()
            backends = [BackendSpec(b.name, b.backend.grpc, b.backend.http) for b in known]
            refused = self._publisher.publish(backends, put, drop)
            self._refused.update({ModelName(name): why for name, why in refused.items()})
            self._backends_changed = False
        self._dirty.clear()

    def _forget(self, name: ModelName) -> None:
        """A model is gone."""
        entry = self.models.pop(name, None)
        if entry is not None:
            self._note_left(entry, None)
        self._wanted.pop(name, None)
        for key in [key for key in self._cold if key[0] == name]:
            del self._cold[key]
        for version in entry.registered.versions if entry else ():
            self.residents.failures.pop((name, version), None)
            self.residents.contracts.pop((name, version), None)

    def _try_settle(self, name: ModelName, model: RegisteredModel) -> ModelSpec | None:
        """Settle one model. One that breaks stays as it was and must not hold up the others."""
        try:
            entry = self._settle(name, model, self.models.get(name))
        except Exception as problem:
            LOG.exception("model %s cannot be settled; what clients see of it stays", name)
            self._refused[name] = f"internal error: {type(problem).__name__}: {problem}"
            return None
        before, self.models[name] = self.models.get(name), entry
        if before is not None:
            self._note_left(before, entry)
        if before is not None and before.serving.pointers != entry.serving.pointers:
            self._note_moves(before, entry)
        return entry.spec

    def _note_left(self, before: ModelEntry, now: ModelEntry | None) -> None:
        """Remember what clients met a moment ago, so that it stays loaded: the way back may be wanted.

        Also where its registry has it no more: what comes and goes there is not loaded anew each time.
        """
        has = now.registered.versions if now is not None else {}
        left = {version: what for version, what in met(before.serving).items() if version not in has}
        if now is not None:
            left |= left_behind(before.serving, now.serving)
        for version, what in left.items():
            self._left[before.registered.name, version] = Left(self._clock.now(), what)

    def kept(self, key: Key) -> str:
        """Why a version stays loaded though nothing names it any more; "" where that is not so."""
        left = self._left.get(key)
        seconds = left.remains(self._clock.now(), self.settings.rollback_window) if left is not None else 0.0
        if left is None or not seconds or self._named(key):
            return ""
        return f"stays loaded for {math.ceil(seconds)} s: {left.what} went on from it"

    def _note_moves(self, before: ModelEntry, now: ModelEntry) -> None:
        """Remember which pointers went to another version; a decision remembered its own."""
        registry, name = now.registered.registry, now.registered.name
        was = {(pointer.kind, pointer.name): pointer.version for pointer in before.serving.pointers}
        decided = self._overrides.get(name, ())
        for pointer in now.serving.pointers:
            old = was.get((pointer.kind, pointer.name))
            mine = (registry, Override(pointer.kind, pointer.name, pointer.version))
            if old is None or old == pointer.version or mine in decided:
                continue
            self._moves.append(
                PointerMove(registry, name, pointer.kind, pointer.name, old, pointer.version, MOVED)
            )

    def served(self, registry: str, model: ModelName, kind: PointerKind, name: str) -> VersionId | None:
        """The version that clients meet by a stage or alias; None where it is not theirs to name."""
        entry = self.models.get(model)
        if entry is None or entry.registered.registry != registry:
            return None
        found = (one for one in entry.serving.pointers if (one.kind, one.name) == (kind, name))
        return next((one.version for one in found), None)

    def _settle(self, name: ModelName, chosen: RegisteredModel, before: ModelEntry | None) -> ModelEntry:
        stored = self.routes.get(name)
        route = stored.route if stored else None
        model = with_backend_models(chosen, route)
        if before is not None:
            self._forget_old(before.registered, model)
        placements = {version.version: self.placement(model, version) for version in model.versions.values()}
        ready = frozenset(v for v, p in placements.items() if p.state == "ready")
        failed = {v: p.reason for v, p in placements.items() if p.state == "failed"}
        gate = self.gate(model)
        serving = settle(before.serving if before else None, model, route, ready, failed, gate)
        spec = compile_model(serving, model, placements, self._describe)
        self._note_wanted(name, serving)
        for version in ready:
            self._cold.pop((name, version), None)
            self._restore.pop((name, version), None)
        for version in failed:
            self._cold.pop((name, version), None)
        return ModelEntry(model, stored, serving, spec)

    def _forget_old(self, before: RegisteredModel, now: RegisteredModel) -> None:
        """Files that were replaced, or are gone, say nothing of those that come under the same version id."""
        for version, was in before.versions.items():
            then = now.versions.get(version)
            if then != was:
                self.residents.failures.pop((now.name, version), None)
            if then is None or files_of(then) != files_of(was):
                self.residents.contracts.pop((now.name, version), None)

    # Versions and where they are

    def seat(self, version: Version) -> Seat:
        """Triton's name and version for a version."""
        if not version.artifact:
            return brought_seat(version.model, version.version)
        name = self._triton_name(version)
        self.residents.seats[name] = (version.model, version.version)
        return Seat(name, "1")

    def placement(self, model: RegisteredModel, version: Version) -> VersionPlacement:
        """Where a version of a logical model is, for the table."""
        key = (model.name, version.version)
        seat = self.seat(version)
        holders = self.residents.holders(seat)
        if holders:
            capacity = self.residents.capacity(seat, holders)
            return VersionPlacement("ready", tuple(map(str, holders)), seat.name, seat.version, "", capacity)
        reason = self._why_not(key, version)
        state = "failed" if reason else "cold"
        return VersionPlacement(state, (), seat.name, seat.version, reason)

    def _why_not(self, key: Key, version: Version) -> str:
        """Why a version that is nowhere ready cannot be loaded by asking; "" where it can."""
        if version.unusable:
            return version.unusable
        if not version.artifact:
            return f"no backend has model '{key[0]}' version '{key[1]}' ready"
        if not any(state.loads_for_us for state in self.residents.backends.values()):
            return "no backend here loads models; give one `control: explicit` and its `repository`"
        failure = self.residents.failures.get(key)
        if failure is not None and self._clock.now() < failure.retry_at and key not in self.residents.loading:
            return failure.reason
        return ""

    def _inflight(self, key: Key) -> int:
        return sum(use.inflight for use in self._data_plane.usage() if (use.model, use.version) == key)

    def _version_changed(self, key: Key) -> None:
        self._dirty.add(key[0])
        self._wake.set()

    def _mark_dirty(self, state: BackendState, seats: Iterable[Seat]) -> None:
        """Mark the models that may be served from a backend where these copies came or went."""
        for seat in seats:
            key = self.residents.seats.get(seat.name)
            if key is not None:
                self._dirty.add(key[0])
        if not state.loads_for_us:
            self._sources_changed = True
            self._dirty.update({ModelName(seat.name) for seat in seats} & self._chosen.keys())
            self._dirty.update(self._routed_to_backends())

    # Watchers: they put readings in and wake the loop

    def _forget_registry(self, name: str) -> None:
        """Follow a registry no more, and give it back."""
        self._watchers.stop(f"registry {name}")
        self._watchers.stop(f"registry {name} again")
        reader = self._readers.pop(name, None)
        if reader is not None:
            closing = asyncio.create_task(reader.close())
            self._closing.add(closing)
            closing.add_done_callback(self._closing.discard)

    def _registry_changed(self, model: ModelName | None) -> None:
        if model is None:
            self._sources_changed = True
        else:
            self._rerouted.add(model)

    async def read(self, registry: str, hint: Hint) -> None:
        """Return when a reading that began after this call has ended, well or not."""
        reader = self._readers.get(registry)
        if reader is not None:
            await reader.read(hint)

    async def _follow_backend(self, state: BackendState, *, suspect: bool = False) -> None:
        await self.probe(state, suspect=suspect)
        while True:
            await self.ask_capacities(state)
            await asyncio.sleep(PROBE_SECONDS)
            await self.probe(state)

    async def ask_capacities(self, state: BackendState) -> None:
        """Ask what the copies work on at once: of all that is new, and once more of one that is known."""
        changed = []
        for seat in state.to_ask(ASKED_AT_ONCE):
            try:
                capacity = await state.server.capacity(seat.name, seat.version)
                await self._learn_contract(state, seat)
            except BackendUnavailable:
                break  # the next look tells
            if state.note_capacity(seat, capacity):
                changed.append(seat)
        if changed:
            self._mark_dirty(state, changed)
            self._wake.set()

    async def _learn_contract(self, state: BackendState, seat: Seat) -> None:
        """Of what was loaded before we came, or by another gateway."""
        key = self.residents.seats.get(seat.name)
        version = self._version(key) if key is not None else None
        if version is None or self.residents.contract_of(version) is not None:
            return
        await self.residents.learn_contract(version, seat, state.server)
        if self.residents.contract_of(version) is not None:
            self._version_changed((version.model, version.version))

    async def probe(self, state: BackendState, *, suspect: bool = False) -> None:
        """Ask a backend for its index and note what changed; `suspect` counts a miss as down at once."""
        started = self._clock.now()
        try:
            async with asyncio.timeout(SUSPECT_SECONDS if suspect else None):
                index = await self._ask(state)
        except (BackendUnavailable, TimeoutError) as problem:
            state.misses += 1
            state.reason = str(problem) or f"no answer within {SUSPECT_SECONDS:g} s"
            if state.up and (suspect or state.misses >= MISSES_ALLOWED):
                LOG.warning("backend %s: away: %s", state.name, state.reason)
                self._note_lost(state)
            self._wake.set()
            return
        self._note_index(state, index, started)

    @staticmethod
    async def _ask(state: BackendState) -> tuple[IndexEntry, ...]:
        if not state.server_version:
            info = await state.server.info()
            state.server_name, state.server_version = info.name, info.version
        return await state.server.index()

    def _note_lost(self, state: BackendState) -> None:
        """A backend is away, or not ours to use any more."""
        state.up = False
        state.server_version = ""
        self._remember_lost(state, state.ready)
        self._mark_dirty(state, state.ready)
        state.ready, state.index = frozenset(), ()
        state.capacities.clear()
        self._wake.set()

    def _note_index(self, state: BackendState, index: tuple[IndexEntry, ...], started: float) -> None:
        ready = frozenset(Seat(entry.name, entry.version or "1") for entry in index if entry.ready)
        state.misses = 0
        stale = started < state.touched
        if state.up and (stale or ready == state.ready):
            return
        if not state.up:
            LOG.info("backend %s: up (%s %s)", state.name, state.server_name, state.server_version)
        if state.up and state.loads_for_us:
            self._remember_lost(state, state.ready - ready)
        changed = ready ^ state.ready
        state.up, state.reason, state.ready, state.index = True, "", ready, index
        for seat in changed:
            state.capacities.pop(seat, None)
        self._mark_dirty(state, changed)
        self._wake.set()

    def _routed_to_backends(self) -> set[ModelName]:
        return {
            name
            for name, stored in self.routes.items()
            if any(arm.backend_model is not None for arm in stored.route.arms)
        }

    def _remember_lost(self, state: BackendState, seats: Iterable[Seat]) -> None:
        """A Triton that restarts gets its set back, unless we unloaded it ourselves."""
        for seat in seats:
            key = self.residents.seats.get(seat.name)
            if key is not None and (seat.name, state.name) not in self.residents.unloading:
                self._restore[key] = self.residents.last_use.get(key, 0.0)

    async def _follow_events(self) -> None:
        while True:
            for event in await self._data_plane.events():
                self._note_event(event)

    def _note_event(self, event: DataPlaneEvent) -> None:
        match event:
            case WebhookArrived():
                self.webhooks.take(event)
            case ColdWanted(model, version):
                key = (ModelName(model), VersionId(version))
                self.residents.last_use[key] = self._clock.now()
                self.want(*key)
            case BackendDown(backend, _) | BackendUp(backend):
                state = self.residents.backends.get(BackendId(backend))
                if state is not None:
                    # A look of its own, at once: the one under way may hang for as long as the backend does.
                    suspect = isinstance(event, BackendDown)
                    work = partial(self._follow_backend, state, suspect=suspect)
                    self._watchers.start(f"backend {backend}", work)
            case CopyEjected(model, version, backend, reason):
                # The data plane finds out by itself when it is well again; people should know.
                LOG.warning(
                    "model %s version %s: backend %s is passed over: %s", model, version, backend, reason
                )
            case CopyRecovered(model, version, backend):
                LOG.info("model %s version %s: backend %s answers again", model, version, backend)

    async def _follow_clock(self) -> None:
        while True:
            await asyncio.sleep(PROBE_SECONDS)
            self.look_at_time()

    def look_at_time(self) -> None:
        """Once a second: note use, and look again at retries and idle versions."""
        before, now = self._looked_at, self._clock.now()
        self._looked_at = now
        for use in self._data_plane.usage():
            key = (ModelName(use.model), VersionId(use.version))
            if use.inflight or use.waiting or self._counts.get(key, 0) != use.requests:
                self.residents.last_use[key] = now
            self._counts[key] = use.requests
            if use.waiting and not self.pending(key):
                self.want(*key)  # its event is late, or was lost
        for (model, _), failure in self.residents.failures.items():
            if before < failure.retry_at <= now:
                self._dirty.add(model)
        for registry in self.registries.values():
            registry.look(now)
        window = self.settings.rollback_window
        for key in [key for key, left in self._left.items() if not left.remains(now, window)]:
            del self._left[key]
        if len(self.residents.seats) > 2 * self._seats_left + FORGET_BEYOND:
            self._forget_gone()
        self._wake.set()

    def _forget_gone(self) -> None:
        """Versions come and go for as long as a gateway runs: what is known of those gone goes too."""
        there = [version for model in self._chosen.values() for version in model.versions.values()]
        names = {self._triton_name(version) for version in there if version.artifact}
        if self.residents.forget({(version.model, version.version) for version in there}, names):
            self._seats_left = len(self.residents.seats)

    # Acting

    def _act(self) -> bool:
        """Start what the plan asks for; whether anything was started."""
        actions = plan(self._residency())
        for action in actions:
            self._start(action)
        return bool(actions)

    def _note_wanted(self, name: ModelName, serving: Serving) -> None:
        if serving.wanted:
            self._wanted[name] = serving.wanted
        else:
            self._wanted.pop(name, None)

    def _residency(self) -> ResidencyInput:
        residents = tuple(self._copies())
        inflight: dict[Key, int] = {}
        for use in self._data_plane.usage():
            inflight[ModelName(use.model), VersionId(use.version)] = use.inflight
        keys = {resident.key for resident in residents}
        return ResidencyInput(
            now=self._clock.now(),
            backends=tuple(
                BackendView(state.name, state.up, state.loads_for_us, len(state.ready))
                for state in self.residents.backends.values()
            ),
            residents=residents,
            wanted=tuple(self._wanted_keys()),
            cold={key: since for key, since in self._cold.items() if self._exists(key)},
            named={key: what for key in keys if (what := self._named(key))},
            left=self._left,
            last_use=self.residents.last_use,
            inflight=inflight,
            loading=self.residents.loading,
            unloading=self._unloading_keys(),
            failures=self.residents.failures,
            idle_unload=self.settings.idle_unload,
            rollback_window=self.settings.rollback_window,
        )

    def _copies(self) -> Iterator[Resident]:
        now = self._clock.now()
        for key, seat, backend in self.residents.ours():
            self.residents.last_use.setdefault(key, now)  # it may have been there before we came
            version = self._version(key)
            stale = key not in self._left if version is None else self.seat(version) != seat
            if not (stale and (seat.name, backend) in self.residents.unloading):
                yield Resident(key, backend, stale)

    def _wanted_keys(self) -> Iterator[Key]:
        """What routes want, then what a restarted backend had, most recently used first."""
        for name, versions in self._wanted.items():
            for version in versions:
                yield name, version
        for key in sorted(self._restore, key=lambda key: -self._restore[key]):
            if self._exists(key):
                yield key

    def _unloading_keys(self) -> frozenset[tuple[Key, BackendId]]:
        """Copies on their way out that still are the version (not stale ones)."""
        found = set()
        for name, backend in self.residents.unloading:
            key = self.residents.seats.get(name)
            version = self._version(key) if key else None
            if key and version and self.seat(version).name == name:
                found.add((key, backend))
        return frozenset(found)

    def _version(self, key: Key) -> Version | None:
        entry = self.models.get(key[0])
        return entry.registered.versions.get(key[1]) if entry else None

    def _exists(self, key: Key) -> bool:
        return self._version(key) is not None

    def _named(self, key: Key) -> str:
        """What names a version, so that it stays: a stage, an alias, an arm or a shadow; "" for nothing."""
        entry = self.models.get(key[0])
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

    def _start(self, action: Action) -> None:
        state = self.residents.backends[action.backend]
        version = self._version(action.key)
        if isinstance(action, Load):
            if version is not None:
                self._loader.load(action.key, version, self.seat(version), state, action.why)
            return
        for seat in tuple(state.ready):
            current = version is not None and self.seat(version) == seat
            is_it = self.residents.seats.get(seat.name) == action.key and current == (action.cause != "stale")
            if is_it and self.residents.may_unload(seat.name, state.name, self._clock.now()):
                self._loader.unload(action.key, seat, state, action.cause)
