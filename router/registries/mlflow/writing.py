"""Writes decisions back to MLflow. What already is so is left as it is, since each write posts notices."""

from __future__ import annotations

import re
from collections.abc import Mapping

from router.errors import (
    Conflict,
    ModelNotFound,
    RegistryRefused,
    RegistryUnavailable,
    StagegateError,
    VersionNotFound,
)
from router.model import ModelName, PointerKind
from router.ports import AliasChange, RegistryChange, StageTransition, TagChange
from router.registries.mlflow.reading import alias_of, versions_of_model
from router.registries.mlflow.rest import Answered, Session
from router.registries.mlflow.told import Malformed, ToldVersion, version_of
from router.registries.mlflow.versions import NO_STAGE, stages_of
from router.registries.pointer_names import one_of_problem, reference_problem

_STAGES: Mapping[str, str] = {
    "": "None",
    "staging": "Staging",
    "production": "Production",
    "archived": "Archived",
}
_ALIAS = re.compile(r"[\w-]{1,255}")
_RESERVED = re.compile(r"latest|v\d+", re.IGNORECASE)
"""What MLflow 3.17 takes as an alias; `latest` and `v1` mean versions in its model addresses."""
_ARCHIVING = ("staging", "production")


def pointer_problem(kind: PointerKind, name: str) -> str:
    """Why MLflow could have no stage (in lower case) or alias of this name; "" where it could."""
    if kind is PointerKind.STAGE:
        known = _STAGES.keys() - {""}
        return one_of_problem("MLflow", name, known, "for another name use an alias, written with '@'")
    if _ALIAS.fullmatch(name) is None or _RESERVED.fullmatch(name):
        return (
            f"MLflow takes no alias {name[:80]!r}: it may have letters, digits, '_' and '-', and be neither "
            "'latest' nor 'v' with a number"
        )
    return reference_problem(name)


def write_change(session: Session, name: str, change: RegistryChange) -> None:
    """Carry a decision out on the registered model `name`; raises as `Registry.write` says."""
    registry = session.server.registry
    try:
        if isinstance(change, StageTransition):
            _stage(session, name, change)
        elif isinstance(change, AliasChange):
            _alias(session, name, change)
        else:
            _tag(session, name, change)
    except Answered as refusal:
        raise refused(registry, change.model, refusal) from None
    except Malformed as problem:
        raise RegistryUnavailable(f"registry {registry!r}: {problem}") from None


def refused(registry: str, model: ModelName, refusal: Answered) -> StagegateError:
    """What people are told of a call that MLflow refused."""
    if not refusal.missing:
        return RegistryRefused(f"registry {registry!r} refused: {refusal}")
    return ModelNotFound(f"registry {registry!r} has no model {model!r}")


def _stage(session: Session, name: str, change: StageTransition) -> None:
    stage = change.stage.lower()
    if stage not in _STAGES:
        raise RegistryRefused(
            f"registry {session.server.registry!r}: {pointer_problem(PointerKind.STAGE, stage)}"
        )
    versions = versions_of_model(session, name)
    target = next((version for version in versions if version.version == change.version), None)
    if target is None:
        raise _absent(session, name, change)
    if stage:
        _expect(change, f"stage {stage!r}", stages_of(versions).get(stage, ""))
    archive = change.archive_existing and stage in _ARCHIVING
    others = [one for one in versions if one.stage == stage and one is not target]
    if target.stage == (stage or NO_STAGE) and not (archive and others):
        return
    session.send(
        "POST",
        "model-versions/transition-stage",
        name=name,
        version=str(change.version),
        stage=_STAGES[stage],
        archive_existing_versions=archive,
    )


def _alias(session: Session, name: str, change: AliasChange) -> None:
    problem = pointer_problem(PointerKind.ALIAS, change.alias)
    if problem and change.version is not None:
        # Asked what `latest` names, MLflow gives a version, as if there were such an alias.
        raise RegistryRefused(f"registry {session.server.registry!r}: {problem}")
    now = alias_of(session, name, change.alias) or ""
    _expect(change, f"alias {change.alias!r}", now)
    if now == (change.version or ""):
        return
    if change.version is None:
        session.send("DELETE", "registered-models/alias", name=name, alias=change.alias)
        return
    _version(session, name, change)
    session.send(
        "POST", "registered-models/alias", name=name, alias=change.alias, version=str(change.version)
    )


def _tag(session: Session, name: str, change: TagChange) -> None:
    version = _version(session, name, change)
    if version.tags.get(change.key) == change.value:
        return
    where = {"name": name, "version": str(change.version), "key": change.key}
    if change.value is None:
        session.send("DELETE", "model-versions/delete-tag", **where)
    else:
        session.send("POST", "model-versions/set-tag", value=change.value, **where)


def _version(session: Session, name: str, change: RegistryChange) -> ToldVersion:
    """The version that a change names. Raises VersionNotFound, Answered."""
    version = str(change.version)
    if not version.isascii() or not version.isdigit():
        raise VersionNotFound(f"model {change.model!r} has no version {version!r}: MLflow counts from 1")
    try:
        found = session.get("model-versions/get", name=name, version=version)
    except Answered as refusal:
        if refusal.missing:
            raise _absent(session, name, change) from None
        raise
    return version_of(found.get("model_version"))


def _absent(session: Session, name: str, change: RegistryChange) -> VersionNotFound:
    """What to raise for a version that no search found. Raises Answered where there is no such model."""
    session.get("registered-models/get", name=name)
    return VersionNotFound(
        f"registry {session.server.registry!r}: model {change.model!r} has no version {change.version!r}"
    )


def _expect(change: StageTransition | AliasChange, what: str, now: str) -> None:
    if change.expected is not None and now not in (change.expected, change.version or ""):
        raise Conflict(
            f"{what} of model {change.model!r} names {now or 'nothing'}, "
            f"not {change.expected or 'nothing'}; it was left as it is",
            current_revision=0,
        )
