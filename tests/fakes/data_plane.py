"""A data plane that keeps the table as plain values and forwards nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence, Set

from router.ports import DataPlaneEvent, VersionUse
from router.traffic.table import BackendSpec, Delta, ModelSpec, Snapshot
from tests.fakes.counters import ArmCounters, FakeCounters, ShadowCounters


class FakeDataPlane:
    """Applies snapshots and deltas as the real one does, and remembers every table it ever had."""

    def __init__(self) -> None:
        self.revision = 0
        self.models: dict[str, ModelSpec] = {}
        self.backends: dict[str, BackendSpec] = {}
        self.history: list[dict[str, ModelSpec]] = []
        self.ready = False
        self.fault: Exception | None = None
        self.refused: set[str] = set()
        self.answers: dict[int, tuple[int, str]] = {}
        self.uses: dict[tuple[str, str], VersionUse] = {}
        self._events: asyncio.Queue[DataPlaneEvent] = asyncio.Queue()

    def publish(self, snapshot: Snapshot) -> None:
        self._check({spec.name: spec for spec in snapshot.models}, {b.name for b in snapshot.backends})
        self.revision = snapshot.revision
        self.backends = {spec.name: spec for spec in snapshot.backends}
        self._put({spec.name: spec for spec in snapshot.models})

    def publish_delta(self, delta: Delta) -> None:
        if delta.base_revision != self.revision:
            raise ValueError(f"delta on {delta.base_revision}, the table is at {self.revision}")
        backends = {name: spec for name, spec in self.backends.items() if name not in delta.drop_backends}
        backends.update({spec.name: spec for spec in delta.put_backends})
        kept = {name: spec for name, spec in self.models.items() if name not in delta.drop_models}
        models = {**kept, **{spec.name: spec for spec in delta.put_models}}
        self._check(models, backends.keys())
        self.revision, self.backends = delta.revision, backends
        self._put(models)

    def _check(self, models: dict[str, ModelSpec], backends: Set[str]) -> None:
        """Raise as the real one does, before anything is changed."""
        if self.fault is not None:
            raise self.fault
        for model in models.values():
            if model.name in self.refused and model != self.models.get(model.name):
                raise ValueError(f"refused: {model.name}")
            for version in model.versions:
                if not set(version.backends) <= backends:
                    raise ValueError(f"backend of {model.name} cannot be dropped")

    def _put(self, models: dict[str, ModelSpec]) -> None:
        for model in models.values():
            assert sum(arm.weight for arm in model.arms) in (0, 10_000)
            for version in model.versions:
                assert (version.state == "ready") == bool(version.backends)
        self.models = models
        self.history.append(models)

    def set_ready(self, ready: bool) -> None:
        self.ready = ready

    async def events(self) -> Sequence[DataPlaneEvent]:
        return [await self._events.get()]

    def happen(self, event: DataPlaneEvent) -> None:
        """Make the next `events` return this."""
        self._events.put_nowait(event)

    def answer_webhook(self, notice: int, status: int, text: str) -> bool:
        self.answers[notice] = (status, text)
        return True

    def usage(self) -> Sequence[VersionUse]:
        return list(self.uses.values())

    def counters(self) -> FakeCounters:
        """Always the same: ten requests of clients, and copies for the shadow `next` of `m`."""
        client = ArmCounters(model="m")
        copies = ArmCounters(model="m", version="2", arm="next")
        return FakeCounters(arms=(client, copies), shadows=(ShadowCounters(model="m"),))

    def state(self, model: str, version: str) -> str:
        """State of a version in the current table."""
        return next(v.state for v in self.models[model].versions if v.version == version)

    def arms(self, model: str) -> dict[str, tuple[str, int]]:
        """Arms of the current table: name to version and weight."""
        return {arm.name: (arm.version, arm.weight) for arm in self.models[model].arms}
