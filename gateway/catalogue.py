"""The list of models and versions, and one version in full."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from operator import attrgetter

from gateway.bridge import DataPlane
from gateway.detail import stable_version, version_detail
from gateway.moving import Moving
from gateway.operations import ModelSummary, ModelVersions, Problem, VersionDetail
from gateway.route_lines import route_line, route_of
from gateway.versions import Versions
from gateway.waiting import sentences
from router.alias import parse_reference, resolve
from router.control.controller import Controller
from router.control.entries import ModelEntry
from router.model import ModelName

AT_ONCE = 250
"""Models that are told of before others in the control loop have their turn: about ten milliseconds."""


class Catalogue:
    """Answers from what the control loop holds now."""

    def __init__(
        self, controller: Controller, data_plane: DataPlane, moving: Moving, versions: Versions
    ) -> None:
        self._controller = controller
        self._data_plane = data_plane
        self._moving = moving
        self._versions = versions

    async def models(self) -> tuple[ModelSummary, ...]:
        """All models by name, those that cannot be served included, with the reason.

        Each is told of as it is at one moment, but not all at the same.
        """
        served: list[ModelSummary] = []
        names = tuple(self._controller.models)
        for start in range(0, len(names), AT_ONCE):
            entries = (self._controller.models.get(name) for name in names[start : start + AT_ONCE])
            served += [self._summary(entry) for entry in entries if entry is not None]
            await asyncio.sleep(0)
        known = {summary.name for summary in served}
        unserved = [
            ModelSummary(name=problem.subject, registry="", versions=(), problem=problem.message)
            for problem in self._problems()
            if problem.subject not in known and "/" not in problem.subject
        ]
        return await asyncio.to_thread(_by_name, (*served, *unserved))

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
            route=route_line(route_of(entry)),
            implicit=serving.implicit,
            problem=self._problem(entry),
        )

    def versions(self, model: ModelName) -> ModelVersions:
        """One model with all its versions. Raises ModelNotFound."""
        entry = self._versions.entry(model)
        rows = tuple(self._versions.row(entry, version) for version in entry.registered.versions.values())
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
        notes = self._moving.notes(entry.registered.name)
        return "; ".join(([entry.serving.unroutable] if entry.serving.unroutable else waits) + list(notes))

    def _problems(self) -> list[Problem]:
        found = [Problem(item.subject, item.reason) for item in self._controller.unservable]
        for state in self._controller.registries.values():
            if state.view is not None:
                found += [Problem(p.subject, p.message) for p in state.view.problems]
        return found

    async def describe(self, model: ModelName, reference: str) -> VersionDetail:
        """All that is known of the version that a reference names in the registry; "" for the stable one."""
        entry = self._versions.entry(model)
        registered = entry.registered
        asked = resolve(registered, parse_reference(reference)).version if reference else None
        version = registered.versions[asked or stable_version(entry)]
        row = self._versions.row(entry, version)
        counters = self._data_plane.counters()
        return await asyncio.to_thread(version_detail, self._controller, entry, version, row, counters)


def _by_name(models: Sequence[ModelSummary]) -> tuple[ModelSummary, ...]:
    return tuple(sorted(models, key=attrgetter("name")))
