"""The loop that keeps the data plane true to registries, routes and backends.

One task owns all state here; watchers only put new readings in and wake it. Each turn looks at the models
that something happened to (`_dirty`), settles what clients of each see now, hands the difference to the
data plane as one delta, and starts the loads and unloads that the plan asks for.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial

from router.control.acting import Acting
from router.control.catalog import Seat
from router.control.demand import Demand
from router.control.entries import ModelEntry, named_by, pointed, version_of
from router.control.loader import Loader, LoaderHooks, Recorder
from router.control.losses import LOSS_WINDOW
from router.control.orders import Orders
from router.control.places import Places
from router.control.probes import ProbeHooks, Probes
from router.control.publisher import Publisher
from router.control.reader import ReaderHooks, RegistryReader, RegistryState
from router.control.readings import Readings
from router.control.residents import BackendState, Key, Residents
from router.control.roster import Roster
from router.control.settling import Settling
from router.control.watchers import Watchers
from router.control.webhooks import Webhooks
from router.errors import ModelNotFound, Unavailable
from router.model import (
    BackendId,
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
from router.placement.residency import ROLLBACK_WINDOW
from router.ports import (
    ANYTHING,
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
from router.traffic.accepting import contract_seen, files_seen
from router.traffic.compile import Unservable
from router.traffic.serving import Gate

LOG = logging.getLogger("stagegate.control")

LOOK_SECONDS = 1.0
"""How often idle versions and retries are looked at, and how long after a turn that broke the next one is."""

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
        loss_window: seconds for which models, or stages and aliases, go on that their registry lost more than
            half of at once.
    """

    default_registry: str
    idle_unload: float
    load_timeout: float
    rollback_window: float = ROLLBACK_WINDOW
    loss_window: float = LOSS_WINDOW


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
        self.places = Places(self.residents, clock, triton_name)
        self.after_turn: Callable[[], None] = lambda: None
        self._wake = asyncio.Event()
        self._orders = Orders()
        self._roster = Roster(self.registries, self._orders, self.residents, settings.default_registry)
        self._demand = Demand()
        self._store = store
        self._data_plane = data_plane
        self._clock = clock
        hooks = LoaderHooks(inflight=self._inflight, changed=self._version_changed)
        self._loader = Loader(self.residents, clock, recorder, hooks, settings.load_timeout)
        self._settling = Settling(
            models=self.models,
            roster=self._roster,
            orders=self._orders,
            residents=self.residents,
            places=self.places,
            demand=self._demand,
            publisher=Publisher(data_plane),
            describe=describe,
            clock=clock,
        )
        self._acting = Acting(
            models=self.models,
            orders=self._orders,
            residents=self.residents,
            demand=self._demand,
            places=self.places,
            loader=self._loader,
            clock=clock,
            usage=data_plane.usage,
        )
        self._probes = Probes(self.residents, clock, self._probe_hooks())
        self._counts: dict[Key, int] = {}
        self._known_left = 0
        self._looked_at = clock.now()
        self._dirty: set[ModelName] = set()
        self._sources_changed = True
        self._rerouted: set[ModelName] = set()
        self._backends_changed = True
        self._turned = asyncio.Condition()
        self._turns = 0
        self._broken = ""
        self._watchers = Watchers(LOOK_SECONDS)
        self._readers: dict[str, RegistryReader] = {}
        self._closing: set[asyncio.Task[None]] = set()
        self.webhooks = Webhooks(lambda: self._readers, clock, data_plane.answer_webhook)

    def _probe_hooks(self) -> ProbeHooks:
        return ProbeHooks(
            version=partial(version_of, self.models),
            changed=self._mark_dirty,
            lost=self._remember_lost,
            learned=self._version_changed,
            looked=self._wake.set,
        )

    # What is known

    @property
    def routes(self) -> Mapping[ModelName, StoredRoute]:
        """All routes, as the state said last."""
        return self._orders.routes

    @property
    def store_revision(self) -> int:
        """The revision of the state that `routes` are from."""
        return self._orders.revision

    @property
    def writes(self) -> tuple[WriteBack, ...]:
        """Decisions on their way to a registry, and those that wait there."""
        return self._orders.writes

    @property
    def accepted(self) -> Mapping[tuple[str, ModelName], Mapping[VersionId, Accepted]]:
        """Versions that may serve though their contract differs, by registry and model, as they were then."""
        return self._orders.accepted

    @property
    def unservable(self) -> tuple[Unservable, ...]:
        """What exists and clients cannot reach, or not as it is wanted, with the reason."""
        return (
            *self._roster.unnamed,
            *(Unservable(name, why) for name, why in self._settling.refused.items()),
        )

    def gate(self, model: RegisteredModel) -> Gate:
        """What is known of the contracts of a model's versions beside what its registry says."""
        return self._settling.gate(model)

    def acceptance(self, model: RegisteredModel, version: VersionId) -> Accepted:
        """A version as it is now, to be accepted."""
        known = model.versions.get(version) or Version("", model.name, version)
        contract = contract_seen(known, self.residents.learned(known))
        return Accepted(model.registry, model.name, version, files_seen(known), contract)

    def registered(self, route: Route) -> RegisteredModel | None:
        """The model that a route would be about, were it in force; None where there is none."""
        return self._roster.registered(route)

    def not_found(self, model: ModelName) -> ModelNotFound:
        """Why there is no such model for clients."""
        return self._roster.not_found(model)

    def tolerance(self, model: str, shadow: str) -> Tolerance | None:
        """How far the answers of a shadow may lie from the clients'; None where no route has that shadow."""
        return self._orders.tolerance(ModelName(model), shadow)

    def served(self, registry: str, model: ModelName, kind: PointerKind, name: str) -> VersionId | None:
        """The version that clients meet by a stage or alias; None where it is not theirs to name."""
        entry = self.models.get(model)
        if entry is None or entry.registered.registry != registry:
            return None
        return pointed(entry, kind, name)

    def kept(self, key: Key) -> str:
        """Why a version stays loaded though nothing names it any more; "" where that is not so."""
        left = self._demand.left.get(key)
        seconds = left.remains(self._clock.now(), self.settings.rollback_window) if left is not None else 0.0
        if left is None or not seconds or named_by(self.models, key):
            return ""
        return f"stays loaded for {math.ceil(seconds)} s: {left.what} went on from it"

    def pending(self, key: Key) -> bool:
        """Whether a version that was asked for is neither ready nor failed yet."""
        return key in self._demand.cold or key in self.residents.loading

    def take_moves(self) -> tuple[PointerMove, ...]:
        """Stages and aliases that went to another version since the last call, without a decision."""
        return self._settling.take_moves()

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
        self._watchers.start(f"backend {state.name}", partial(self._probes.follow, state))

    async def drop_backend(self, name: BackendId) -> None:
        """Stop using a backend; nothing is unloaded there."""
        self._watchers.stop(f"backend {name}")
        state = self.residents.backends.pop(name, None)
        if state is None:
            return
        self._backends_changed = True
        self.residents.faults.forget_backend(name)
        self._probes.note_lost(state)
        await state.server.close()

    async def load_routes(self) -> None:
        """Read routes, what is to be written back, and what was accepted. Raises StateUnavailable."""
        revision, routes = await self._store.routes()
        writes = await self._store.write_backs()
        accepted = await self._store.accepted()
        if revision < self.store_revision:
            return  # a later reading came first
        self._rerouted |= self._orders.set_writes(writes)
        self._rerouted |= self._orders.set_accepted(accepted)
        self._rerouted |= self._orders.set_routes(revision, routes)
        self._wake.set()

    def set_writes(self, writes: Iterable[WriteBack]) -> None:
        """Take over what is to be written to registries; traffic follows it at once."""
        self._rerouted |= self._orders.set_writes(writes)
        self._wake.set()

    def want(self, model: ModelName, version: VersionId) -> None:
        """Load a version as if a request had asked for it."""
        self._demand.ask((model, version), self._clock.now())
        self._dirty.add(model)  # it may be ready by now: then nobody needs to wait
        self._wake.set()

    def overlap(self) -> None:
        """Another process of this same gateway loads as well, until one of the two ends: that is ours too."""
        self.residents.overlap = math.inf

    def overlapped(self, seconds: float) -> None:
        """It ends, within that time; a load that it asked for last may end later, as loads may."""
        self.residents.overlap = self._clock.now() + seconds + self.settings.load_timeout

    async def until(self, holds: Callable[[], bool]) -> None:
        """Return when something holds, looked at after each turn."""
        async with self._turned:
            self._wake.set()
            await self._turned.wait_for(holds)

    def set_settings(self, settings: ControllerSettings) -> None:
        """Take changed settings over."""
        self.settings = settings
        self._roster.default_registry = settings.default_registry
        self._loader.load_timeout = settings.load_timeout
        for reader in self._readers.values():
            reader.state.loss_window = settings.loss_window
            if reader.state.readings.losses:
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
                    await asyncio.sleep(LOOK_SECONDS)
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
            self._dirty |= self._settling.names()
            self._wake.set()
        self._turns += 1

    def _turn(self) -> None:
        if self._sources_changed:
            self._sources_changed = False
            self._choose()
        elif self._rerouted:
            self._roster.choose(self._rerouted)
            self._dirty |= self._rerouted
        self._rerouted.clear()
        self._settle_dirty()
        if self._acting.act(self.settings.idle_unload, self.settings.rollback_window):
            self._settle_dirty()

    def _choose(self) -> None:
        """Put registries, routes and backend-brought models together; mark what differs."""
        self._dirty |= self._roster.choose_all()
        for name in self.routes.keys() | {n for n, entry in self.models.items() if entry.route is not None}:
            entry = self.models.get(name)
            if (entry.route if entry else None) != self.routes.get(name):
                self._dirty.add(name)

    def _settle_dirty(self) -> None:
        self._settling.settle(self._dirty, whole=self._backends_changed)
        self._backends_changed = False
        self._dirty.clear()

    # Watchers: they put readings in and wake the loop

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
            self._dirty.update({ModelName(seat.name) for seat in seats} & self._roster.models.keys())
            self._dirty |= self._orders.to_backend_models()

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

    async def probe(self, state: BackendState) -> None:
        """Ask a backend for its index now, and note what changed."""
        await self._probes.probe(state)

    async def ask_capacities(self, state: BackendState) -> None:
        """Ask a backend now what its copies work on at once, and what they take and give."""
        await self._probes.ask_capacities(state)

    def _remember_lost(self, state: BackendState, seats: Iterable[Seat]) -> None:
        """A Triton that restarts gets its set back, unless we unloaded it ourselves, or would."""
        for seat in seats:
            key = self.residents.seats.get(seat.name)
            if key is None or (seat.name, state.name) in self.residents.unloading:
                continue
            used = self.residents.last_use.get(key, 0.0)
            idle = key in self.residents.last_use and self._clock.now() - used >= self.settings.idle_unload
            if not idle or named_by(self.models, key) or self.kept(key):
                self._demand.lose(key, used)

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
                    work = partial(self._probes.follow, state, suspect=suspect)
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
            await asyncio.sleep(LOOK_SECONDS)
            self.look_at_time()

    def look_at_time(self) -> None:
        """Once a second: note use, and look again at retries and idle versions."""
        before, now = self._looked_at, self._clock.now()
        self._looked_at = now
        counts, self._counts = self._counts, {}
        for use in self._data_plane.usage():
            key = (ModelName(use.model), VersionId(use.version))
            if use.inflight or use.waiting or counts.get(key, 0) != use.requests:
                self.residents.last_use[key] = now
            self._counts[key] = use.requests
            if use.waiting and not self.pending(key):
                self.want(*key)  # its event is late, or was lost
        for (model, _), failure in self.residents.failures.items():
            if before < failure.retry_at <= now:
                self._dirty.add(model)
        self._dirty.update(self.residents.faults.due(before, now))
        for registry in self.registries.values():
            registry.look(now)
        self._demand.expire(now, self.settings.rollback_window)
        if self.residents.known() > 2 * self._known_left + FORGET_BEYOND:
            self._forget_gone()
        self._wake.set()

    def _forget_gone(self) -> None:
        """Versions come and go for as long as a gateway runs: what is known of those gone goes too.

        Their names are only made where much is gone: of very many versions that takes long.
        """
        self._known_left = sum(len(model.versions) for model in self._roster.models.values())
        if self.residents.known() <= 2 * self._known_left + FORGET_BEYOND:
            return
        there = [version for model in self._roster.models.values() for version in model.versions.values()]
        versions = {(version.model, version.version) for version in there}
        if self.residents.forget(versions, self.places.names(there)):
            self._demand.keep(versions)
            self._known_left = self.residents.known()
