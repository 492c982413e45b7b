"""Asks the plan what to load and unload, with all that the loop knows, and starts that."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from router.control.demand import Demand
from router.control.entries import Models, named_by, pointed, version_of
from router.control.loader import Loader
from router.control.orders import Orders
from router.control.places import Places
from router.control.residents import Key, Residents
from router.model import BackendId, ModelName, VersionId
from router.placement.residency import Action, BackendView, ResidencyInput, Resident, Unload, plan
from router.ports import Clock, VersionUse


class Acting:
    """Starts loads and unloads; the loader carries them out."""

    def __init__(
        self,
        *,
        models: Models,
        orders: Orders,
        residents: Residents,
        demand: Demand,
        places: Places,
        loader: Loader,
        clock: Clock,
        usage: Callable[[], Sequence[VersionUse]],
    ) -> None:
        """`models`: as they are served, kept true by the owner; `usage`: what requests do now."""
        self._models = models
        self._orders = orders
        self._residents = residents
        self._demand = demand
        self._places = places
        self._loader = loader
        self._clock = clock
        self._usage = usage

    def act(self, idle_unload: float, rollback_window: float) -> bool:
        """Start what the plan asks for; whether anything was started. Both arguments are seconds."""
        actions = plan(self._known(idle_unload, rollback_window))
        for action in actions:
            self._start(action)
        return bool(actions)

    def _known(self, idle_unload: float, rollback_window: float) -> ResidencyInput:
        residents = tuple(self._copies())
        keys = {resident.key for resident in residents}
        promised = dict(self._promised())
        return ResidencyInput(
            now=self._clock.now(),
            backends=tuple(
                BackendView(state.name, state.up, state.loads_for_us, len(state.ready))
                for state in self._residents.backends.values()
            ),
            residents=residents,
            wanted=tuple(key for key in (*promised, *self._demand.unasked()) if self._exists(key)),
            cold={key: since for key, since in self._demand.cold.items() if self._exists(key)},
            named={**promised, **{key: what for key in keys if (what := named_by(self._models, key))}},
            left=self._demand.left,
            last_use=self._residents.last_use,
            inflight={(ModelName(u.model), VersionId(u.version)): u.inflight for u in self._usage()},
            loading=self._residents.loading,
            unloading=self._unloading(),
            failures=self._residents.failures,
            held=self._residents.faults.held(self._clock.now()),
            idle_unload=idle_unload,
            rollback_window=rollback_window,
        )

    def _promised(self) -> Iterator[tuple[Key, str]]:
        """Versions that somebody promoted and whose registries wait for the load, and what they are to be."""
        for write in self._orders.promised():
            entry = self._models.get(write.model)
            ours = entry is not None and entry.registered.registry == write.registry
            if entry is not None and ours and pointed(entry, write.kind, write.name) is not None:
                yield (write.model, write.version), f"{write.kind} {write.name}"

    def _exists(self, key: Key) -> bool:
        return version_of(self._models, key) is not None

    def _copies(self) -> Iterator[Resident]:
        now = self._clock.now()
        for key, seat, backend in self._residents.ours():
            self._residents.last_use.setdefault(key, now)  # it may have been there before we came
            version = version_of(self._models, key)
            stale = key not in self._demand.left if version is None else self._places.seat(version) != seat
            if not (stale and (seat.name, backend) in self._residents.unloading):
                foreign = seat.name in self._residents.backends[backend].foreign
                yield Resident(key, backend, stale, foreign)

    def _unloading(self) -> frozenset[tuple[Key, BackendId]]:
        """Copies on their way out that still are the version (not stale ones)."""
        found = set()
        for name, backend in self._residents.unloading:
            key = self._residents.seats.get(name)
            version = version_of(self._models, key) if key else None
            if key and version and self._places.seat(version).name == name:
                found.add((key, backend))
        return frozenset(found)

    def _start(self, action: Action) -> None:
        if isinstance(action, Unload):
            self._unload(action)
            return
        version = version_of(self._models, action.key)
        if version is not None:
            state = self._residents.backends[action.backend]
            self._loader.load(action.key, version, self._places.seat(version), state, action.why)

    def _unload(self, action: Unload) -> None:
        state = self._residents.backends[action.backend]
        version = version_of(self._models, action.key)
        for seat in tuple(state.ready):
            current = version is not None and self._places.seat(version) == seat
            is_it = self._residents.seats.get(seat.name) == action.key
            if not is_it or current == (action.cause == "stale") or seat.name in state.foreign:
                continue
            if self._residents.may_unload(seat.name, state.name, self._clock.now()):
                self._loader.unload(action.key, seat, state, action.cause)
