"""Makes our nouns of what MLflow told. Pure."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from router.alias import in_order, parse_reference
from router.errors import InvalidReference
from router.model import (
    Contract,
    ModelName,
    RegisteredModel,
    RegistryProblem,
    Version,
    VersionId,
)
from router.registries import told_json
from router.registries.compact import compact
from router.registries.manifest import Unreadable, read_version
from router.registries.mlflow.facts import Facts, logged_model, run_of
from router.registries.mlflow.told import ToldModel, ToldVersion

DIGEST_TAG = "stagegate.digest"
FORMAT_TAG = "stagegate.format"
CONTRACT_TAG = "stagegate.contract"
FORMAT = "mlflow"
"""The format of a version that says nothing else: a folder with an `MLmodel` file."""

NO_STAGE = "none"
READY = "READY"

_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_FORMAT = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")
_MOST_ALIASES = 1_000


@dataclass(frozen=True, slots=True)
class Entry:
    """One registered model: what was told of it, and what we make of it.

    Attributes:
        versions: by number.
        asked: monotonic seconds at which the question was begun whose answer this is.
    """

    told: ToldModel
    versions: Mapping[str, ToldVersion]
    model: RegisteredModel
    problems: tuple[RegistryProblem, ...]
    asked: float


def entry_of(
    *,
    registry: str,
    name: ModelName,
    told: ToldModel,
    versions: Mapping[str, ToldVersion],
    facts: Facts,
    asked: float,
    before: Entry | None = None,
) -> Entry:
    """Make a model of what was told; what is equal to `before` is the very same object."""
    known: Mapping[VersionId, Version] = before.model.versions if before is not None else {}
    made = []
    problems: list[RegistryProblem] = []
    for one in versions.values():
        version = version_of(registry, name, one, facts, problems)
        last = known.get(version.version)
        made.append(last if last == version and last is not None else version)
    ordered = in_order(made)
    aliases = _aliases(name, told, ordered, problems)
    model = RegisteredModel(
        registry=registry,
        name=name,
        versions=ordered,
        stages=compact(stages_of(versions.values())),
        aliases=compact(aliases),
        description=told.description,
        tags=told.tags,
    )
    if before is not None and before.model == model:
        model = before.model
    return Entry(told, versions, model, tuple(problems), asked)


def version_of(
    registry: str,
    name: ModelName,
    told: ToldVersion,
    facts: Facts,
    problems: list[RegistryProblem],
) -> Version:
    """One version; what is wrong with its tags is added to `problems`."""
    subject = f"{name}/{told.version}"
    artifact, unusable = place_of(told, facts)
    if told.status != READY:
        unusable = f"MLflow says {told.status} {told.status_text}".rstrip()[:500]
    digest = told.tags.get(DIGEST_TAG, "")
    if digest and not _DIGEST.fullmatch(digest):
        unusable, digest = f"its tag {DIGEST_TAG} is no digest: 'sha256:' and 64 hex digits", ""
    form = told.tags.get(FORMAT_TAG, FORMAT)
    if not _FORMAT.fullmatch(form):
        unusable, form = f"its tag {FORMAT_TAG} names no format", FORMAT
    contract = None
    try:
        contract = contract_of(told.tags.get(CONTRACT_TAG, ""))
    except ValueError as problem:
        problems.append(RegistryProblem(subject, f"tag {CONTRACT_TAG}: {problem}"[:500]))
    run = facts.runs.get(told.run or run_of(facts.origin_of(told.source)))
    logged = facts.models.get(logged_model(facts.origin_of(told.source)))
    metrics = dict(run.metrics) if run is not None else {}
    metrics |= logged.metrics if logged is not None else {}
    lineage = dict(run.lineage) if run is not None else {"run": told.run} if told.run else {}
    if told.description:
        lineage["description"] = told.description[:500]
    return Version(
        registry=registry,
        model=name,
        version=VersionId(told.version),
        format=form,
        artifact=artifact,
        digest=digest,
        contract=contract,
        metrics=compact(metrics),
        tags=told.tags,
        lineage=compact(lineage),
        created=told.created,
        unusable=unusable,
    )


def place_of(told: ToldVersion, facts: Facts) -> tuple[str, str]:
    """Where the files of a version lie, and why nobody can tell where, one of them "".

    MLflow's own indirections are followed: a logged model, a run, a version that this one was copied from.
    """
    source = facts.origin_of(told.source)
    if logged := logged_model(source):
        model = facts.models.get(logged)
        return (model.artifacts, "") if model is not None else ("", _unknown(source))
    if run_id := run_of(source):
        run = facts.runs.get(run_id)
        inside = source.removeprefix(f"runs:/{run_id}").strip("/")
        if run is None or not run.artifacts:
            return "", _unknown(source)
        return f"{run.artifacts.rstrip('/')}/{inside}", ""
    return (source, "") if source and not source.startswith("models:") else ("", _unknown(told.source))


def stages_of(versions: Iterable[ToldVersion]) -> dict[str, VersionId]:
    """Stage to version: of several the highest that is READY, else the highest."""
    found: dict[str, ToldVersion] = {}
    for version in versions:
        if version.stage in ("", NO_STAGE):
            continue
        last = found.get(version.stage)
        if last is None or _rank(version) > _rank(last):
            found[version.stage] = version
    return {stage: VersionId(found[stage].version) for stage in sorted(found)}


@functools.lru_cache(maxsize=1024)
def contract_of(text: str) -> Contract | None:
    """The contract in a tag, `{"inputs": [{"name", "datatype", "shape"}], "outputs": [...]}`; None for "".

    Raises:
        ValueError: it is anything else.
    """
    if not text:
        return None
    try:
        plain = json.dumps(told_json.parse(text.encode()))
    except (ValueError, RecursionError):
        raise ValueError("is no JSON") from None
    try:
        # The same shape as in a folder registry's manifest, whose reader knows all that can be wrong.
        return read_version(f"format: x\nartifact: x\ncontract: {plain}\n").contract
    except Unreadable as problem:
        raise ValueError("; ".join(one.message for one in problem.complaints)) from None


def contract_text(contract: Contract) -> str:
    """What `contract_of` reads."""
    return json.dumps(
        {
            side: [
                {"name": tensor.name, "datatype": tensor.datatype, "shape": list(tensor.shape)}
                for tensor in tensors
            ]
            for side, tensors in (("inputs", contract.inputs), ("outputs", contract.outputs))
        }
    )


def _unknown(source: str) -> str:
    return f"MLflow does not tell where its files lie: {source[:200] or 'no source'}"


def _rank(version: ToldVersion) -> tuple[bool, int]:
    return version.status == READY, int(version.version)


def _aliases(
    name: ModelName,
    told: ToldModel,
    versions: Mapping[VersionId, Version],
    problems: list[RegistryProblem],
) -> dict[str, VersionId]:
    found: dict[str, VersionId] = {}
    for alias, version in sorted(told.aliases.items())[:_MOST_ALIASES]:
        try:
            parse_reference(f"@{alias}")
        except InvalidReference as problem:
            problems.append(RegistryProblem(name, f"an alias cannot be served: {problem}"))
            continue
        found[alias] = VersionId(version)
        if version not in versions:
            text = f"alias {alias!r} points to version {version!r}, which does not exist"
            problems.append(RegistryProblem(name, text))
    return found
