"""Keeps the data plane's routing table equal to what the control loop wants."""

from __future__ import annotations

import logging
from collections.abc import Iterable, KeysView, Mapping, Sequence

from router.ports import DataPlane
from router.traffic.table import BackendSpec, Delta, ModelSpec, Snapshot

LOG = logging.getLogger("stagegate.control")

Backends = Mapping[str, BackendSpec]


class Publisher:
    """Hands the data plane a whole table first and the difference from then on.

    It remembers what the data plane took, so that nothing is lost where it refuses something.
    """

    def __init__(self, data_plane: DataPlane) -> None:
        self.revision = 0
        self._data_plane = data_plane
        self._backends: dict[str, BackendSpec] = {}
        self._models: dict[str, ModelSpec] = {}

    def model(self, name: str) -> ModelSpec | None:
        """A model as the data plane has it; None where it has none of that name."""
        return self._models.get(name)

    def names(self) -> KeysView[str]:
        """The models that the data plane has."""
        return self._models.keys()

    def publish(
        self, backends: Iterable[BackendSpec], put: Sequence[ModelSpec], drop: Sequence[str]
    ) -> dict[str, str]:
        """Swap a change in.

        Args:
            backends: all backends there are now.
            put: models that are new or differ.
            drop: models that are gone.

        Returns:
            The models that the data plane refuses, with its reason; they stay there as they were, and hold
            up no other.

        Raises:
            ValueError: it does not even take what it took before; its table is as it was.
        """
        wanted = {spec.name: spec for spec in backends}
        try:
            if self.revision:
                self._delta(wanted, put, drop)
            else:
                self._whole(wanted, put)
        except ValueError as problem:
            LOG.error("the data plane refuses a change (%s); its models go in one by one", problem)
            return self._one_by_one(wanted, put, drop)
        return {}

    def _one_by_one(self, wanted: Backends, put: Sequence[ModelSpec], drop: Sequence[str]) -> dict[str, str]:
        # What it took before, whole: both sides are in step again, whatever went wrong. Backends that are
        # to go leave last, because the models still name them.
        backends = {**self._backends, **wanted}
        self._whole(backends, tuple(self._models.values()))
        refused: dict[str, str] = {}
        changes = [(spec.name, (spec,), ()) for spec in put] + [(name, (), (name,)) for name in drop]
        for name, put_one, drop_one in changes:
            try:
                self._delta(backends, put_one, drop_one)
            except ValueError as problem:
                LOG.error("the data plane refuses model %s: %s", name, problem)
                refused[name] = str(problem)
        try:
            self._delta(wanted, (), ())
        except ValueError as problem:
            LOG.error("the data plane keeps a backend that is gone: %s", problem)
        return refused

    def _whole(self, backends: Backends, models: Sequence[ModelSpec]) -> None:
        self._data_plane.publish(Snapshot(self.revision + 1, tuple(backends.values()), tuple(models)))
        self.revision += 1
        self._backends = dict(backends)
        self._models = {spec.name: spec for spec in models}

    def _delta(self, backends: Backends, put: Sequence[ModelSpec], drop: Sequence[str]) -> None:
        changed = tuple(spec for spec in backends.values() if self._backends.get(spec.name) != spec)
        gone = tuple(name for name in self._backends if name not in backends)
        delta = Delta(self.revision, self.revision + 1, changed, gone, tuple(put), tuple(drop))
        self._data_plane.publish_delta(delta)
        self.revision += 1
        self._backends = dict(backends)
        for name in drop:
            self._models.pop(name, None)
        self._models.update((spec.name, spec) for spec in put)
