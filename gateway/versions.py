"""Versions as operators see them: a line of a list, the state, and why."""

from __future__ import annotations

from collections.abc import Mapping

from gateway.operations import VersionRow, VersionState
from router.control.controller import Controller
from router.control.entries import ModelEntry
from router.model import ModelName, Version, VersionId
from router.traffic.compile import VersionPlacement


class Versions:
    """Answers from what the control loop holds now."""

    def __init__(self, controller: Controller) -> None:
        self._controller = controller

    def entry(self, model: ModelName) -> ModelEntry:
        """A model as served. Raises ModelNotFound."""
        entry = self._controller.models.get(model)
        if entry is None:
            raise self._controller.not_found(model)
        return entry

    def row(self, entry: ModelEntry, version: Version) -> VersionRow:
        """Its line in the list of a model's versions."""
        model = entry.registered
        spec = next(spec for spec in entry.spec.versions if spec.version == version.version)
        return VersionRow(
            version=version.version,
            state=self.state(entry, version),
            stages=_names_of(model.stages, version.version),
            aliases=_names_of(model.aliases, version.version),
            arms=tuple(arm.name for arm in entry.serving.arms if arm.version == version.version),
            format=version.format,
            backends=spec.backends,
            backend_model=spec.backend_model,
            metrics=version.metrics,
            digest=version.digest,
            reason=self.reason(entry, version),
            created=version.created,
            kept=self._controller.kept((model.name, version.version)) if spec.state == "ready" else "",
        )

    def placement(self, entry: ModelEntry, version: Version) -> VersionPlacement:
        """Where it is."""
        return self._controller.places.placement(entry.registered, version)

    def state(self, entry: ModelEntry, version: Version) -> VersionState:
        """Whether it can answer, and whether it is about to."""
        state = self.placement(entry, version).state
        key = (entry.registered.name, version.version)
        if state != "ready" and key in self._controller.residents.loading:
            return VersionState.LOADING
        if state == "cold" and key in self._controller.residents.failures:
            return VersionState.FAILED
        return VersionState(state)

    def reason(self, entry: ModelEntry, version: Version) -> str:
        """How far its load is, or why it is nowhere; "" where there is nothing to tell."""
        key = (entry.registered.name, version.version)
        residents = self._controller.residents
        if key in residents.fetching:
            return residents.fetching[key]
        return self.placement(entry, version).reason or residents.trouble(key)


def _names_of(pointers: Mapping[str, VersionId], version: VersionId) -> tuple[str, ...]:
    return tuple(sorted(name for name, target in pointers.items() if target == version))
