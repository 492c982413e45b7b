"""What a request would meet, and why, without sending one."""

from __future__ import annotations

from gateway.bridge import DataPlane, Explanation
from gateway.operations import ReferenceKind, Resolution, Said, Share
from gateway.route_lines import route_line, route_of
from gateway.versions import Versions
from router.control.controller import Controller
from router.control.entries import ModelEntry
from router.errors import InvalidInput, InvalidReference, ModelNotFound, Unavailable, VersionNotFound
from router.model import WHOLE, ModelName, Version, VersionId
from router.traffic.compile import VersionPlacement
from router.traffic.serving import Serving

_INVALID_ARGUMENT = 3
_NOT_FOUND = 5


class Resolving:
    """Asks the code that picks for requests, and says it in sentences."""

    def __init__(self, controller: Controller, data_plane: DataPlane, versions: Versions) -> None:
        self._controller = controller
        self._data_plane = data_plane
        self._versions = versions

    def resolve(self, model: ModelName, reference: str, said: Said) -> Resolution:
        """What a request would meet; by the same code as the hot path, without sending anything."""
        headers, parameters = tuple(said.headers.items()), tuple(said.parameters.items())
        try:
            told = self._data_plane.explain(model, reference, 0, headers, parameters)
        except ValueError as error:
            raise InvalidInput(f"a request cannot say that: {error}") from error
        name = told.model or model
        entry = self._controller.models.get(ModelName(name))
        if told.code == _INVALID_ARGUMENT:
            raise InvalidReference(told.message)
        if told.code == _NOT_FOUND:
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
        placement = self._versions.placement(entry, version)
        return Resolution(
            model=name,
            registry=entry.registered.registry,
            reference=reference or model.partition("@")[2],
            kind=kind,
            arm=shown.name if shown else told.arm,
            version=version.version,
            state=self._versions.state(entry, version),
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
            said = [f"{asked}: the {origin} decides, {route_line(route_of(entry))}"]
        return said + [wait.sentence for wait in serving.waiting]

    def _why_state(self, entry: ModelEntry, version: Version, placement: VersionPlacement) -> list[str]:
        """Where the version is."""
        if placement.backends:
            return [f"version {version.version} is ready on {', '.join(placement.backends)}"]
        reason = self._versions.reason(entry, version) or "a request would load it"
        return [f"version {version.version} is {self._versions.state(entry, version)}: {reason}"]


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
