"""What SageMaker's answers mean. Pure: dicts in, versions and pointers out."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from router.model import ModelName, Version, VersionId
from router.registries.compact import compact

APPROVED, PENDING, REJECTED = "Approved", "PendingManualApproval", "Rejected"
PRODUCTION, STAGING = "production", "staging"
STATUS_OF = {PRODUCTION: APPROVED, STAGING: PENDING, "": REJECTED}
"""The approval status that puts a version into a stage; rejected versions are in none."""

FORMAT, DIGEST = "stagegate.format", "stagegate.digest"
"""Properties of a package that say what SageMaker has no field for."""

COMPLETED = "Completed"

_METRIC = "metrics."
_WAS_REJECTED = "it was rejected"
_FORMATS = {"ONNX": "onnx"}
_NO_VALUE = re.compile(r"[^\w .:/=+@-]")
_LONGEST_VALUE = 256


@dataclass(frozen=True, slots=True)
class Listed:
    """A model package as a listing tells of it; all that a poll sees.

    Attributes:
        approval, status: as SageMaker spells them.
        created: unix seconds.
        life: stage of its life cycle, in lower case; "" where it has none.
        life_status: how it stands in that stage.
    """

    arn: str
    group: str
    version: int
    approval: str
    status: str
    created: float | None
    life: str = ""
    life_status: str = ""


@dataclass(frozen=True, slots=True)
class Described:
    """A model package that was described.

    Attributes:
        listed: as it was listed then.
        etag: of the object with its model data when it was made, without quotes; "" where nobody noted it.
    """

    listed: Listed
    version: Version
    etag: str


def listed(summary: Mapping[str, object]) -> Listed | None:
    """An entry of `ListModelPackages`; None for what belongs to no group."""
    group, number = summary.get("ModelPackageGroupName"), summary.get("ModelPackageVersion")
    arn = summary.get("ModelPackageArn")
    if not isinstance(group, str) or not isinstance(number, int) or not isinstance(arn, str):
        return None
    life = _mapping(summary.get("ModelLifeCycle"))
    return Listed(
        arn=arn,
        group=group,
        version=number,
        approval=str(summary.get("ModelApprovalStatus", "")),
        status=str(summary.get("ModelPackageStatus", COMPLETED)),
        created=_seconds(summary.get("CreationTime")),
        life=str(life.get("Stage", "")).lower(),
        life_status=str(life.get("StageStatus", "")),
    )


def stage_of(package: Listed) -> str:
    """The stage that a package is in, "" for none.

    The stage of its life cycle, where it has one and is approved in it; else the one of its approval.
    """
    if package.status != COMPLETED or package.approval == REJECTED:
        return ""
    if package.life:
        return package.life if package.life_status.lower() == APPROVED.lower() else ""
    return {APPROVED: PRODUCTION, PENDING: STAGING}.get(package.approval, "")


def stages(packages: Iterable[Listed]) -> dict[str, VersionId]:
    """What each stage names: the highest version in it."""
    found: dict[str, int] = {}
    for package in packages:
        stage = stage_of(package)
        if stage:
            found[stage] = max(found.get(stage, 0), package.version)
    return {stage: VersionId(str(number)) for stage, number in sorted(found.items())}


def described(
    registry: str, package: Listed, told: Mapping[str, object], default_format: str = ""
) -> Described:
    """What `DescribeModelPackage` says of a package."""
    return Described(package, _version(registry, package, told, default_format), _etag(told))


def rejected(registry: str, package: Listed, known: Version | None) -> Version:
    """A version that was rejected, by what is known of it from before; nobody asks for more."""
    if known is not None:
        return replace(known, unusable=_WAS_REJECTED)
    return Version(
        registry=registry,
        model=ModelName(package.group),
        version=VersionId(str(package.version)),
        created=package.created,
        unusable=_WAS_REJECTED,
    )


def etags(packages: Iterable[Described]) -> dict[str, Described]:
    """Model data by URI, and the newest of the packages that noted its ETag."""
    found: dict[str, Described] = {}
    for package in packages:
        uri = package.version.artifact
        if not package.etag or not uri:
            continue
        if uri not in found or _age(package) > _age(found[uri]):
            found[uri] = package
    return found


def overwritten(package: Described, newest: Mapping[str, Described]) -> str:
    """Why a package's model data is not what it was made of any more; "" where nothing tells that."""
    other = newest.get(package.version.artifact)
    if other is None or not package.etag or other.etag == package.etag:
        return ""
    return f"its model data was overwritten by {other.listed.group} version {other.listed.version}"


def _age(package: Described) -> tuple[float, int]:
    return package.listed.created or 0.0, package.listed.version


def _version(registry: str, package: Listed, described: Mapping[str, object], default_format: str) -> Version:
    properties = _texts(described.get("CustomerMetadataProperties"))
    container = _container(described)
    framework = str(container.get("Framework", "")).upper()
    format_ = properties.get(FORMAT) or default_format or _FORMATS.get(framework, "")
    artifact = _artifact(container)
    digest = properties.get(DIGEST, "")
    return Version(
        registry=registry,
        model=ModelName(package.group),
        version=VersionId(str(package.version)),
        format=format_,
        artifact=artifact,
        digest=digest,
        metrics=compact(_metrics(properties)),
        tags=compact(_tags(properties, package, described)),
        lineage=compact(_lineage(described, container)),
        created=package.created,
        unusable=_unusable(package, described, artifact, format_),
    )


def _etag(described: Mapping[str, object]) -> str:
    container = _container(described)
    source = _mapping(_mapping(container.get("ModelDataSource")).get("S3DataSource"))
    return str(container.get("ModelDataETag") or source.get("ETag") or "").strip('"')


def _artifact(container: Mapping[str, object]) -> str:
    source = _mapping(_mapping(container.get("ModelDataSource")).get("S3DataSource"))
    return str(container.get("ModelDataUrl") or source.get("S3Uri") or "")


def properties_of(described: Mapping[str, object]) -> dict[str, str]:
    """The properties that people gave a package."""
    return _texts(described.get("CustomerMetadataProperties"))


def _unusable(package: Listed, described: Mapping[str, object], artifact: str, format_: str) -> str:
    if package.status != COMPLETED:
        return f"its registration is {package.status}"
    if package.approval == REJECTED:
        return _WAS_REJECTED
    count = len(_containers(described))
    if count > 1:
        return f"its package is a pipeline of {count} containers, which Triton cannot run as one model"
    if not artifact:
        return "its package names no model data"
    if not format_:
        return f"its package tells no format; give it the property {FORMAT!r}, or the registry `format`"
    return ""


def _containers(described: Mapping[str, object]) -> list[object]:
    containers = _mapping(described.get("InferenceSpecification")).get("Containers")
    return containers if isinstance(containers, list) else []


def _container(described: Mapping[str, object]) -> Mapping[str, object]:
    containers = _containers(described)
    return _mapping(containers[0]) if containers else {}


def _tags(properties: Mapping[str, str], package: Listed, described: Mapping[str, object]) -> dict[str, str]:
    """Properties that are no metrics, and what SageMaker has fields for beside."""
    tags = {name: value for name, value in properties.items() if not name.startswith(_METRIC)}
    more = {
        "description": described.get("ModelPackageDescription"),
        "approval_description": described.get("ApprovalDescription"),
        "life_cycle": f"{package.life}: {package.life_status}" if package.life else None,
    }
    for name, text in more.items():
        if isinstance(text, str) and text:
            tags.setdefault(name, text)
    return tags


def property_value(text: str) -> str:
    """A text as the value of a property: what SageMaker does not take becomes `_`, and the rest is cut."""
    return _NO_VALUE.sub("_", text)[:_LONGEST_VALUE]


def _metrics(properties: Mapping[str, str]) -> dict[str, float]:
    found = {}
    for name, text in properties.items():
        if name.startswith(_METRIC):
            try:
                found[name.removeprefix(_METRIC)] = float(text)
            except ValueError:
                continue
    return {name: value for name, value in found.items() if name and math.isfinite(value)}


def _lineage(described: Mapping[str, object], container: Mapping[str, object]) -> dict[str, str]:
    """Where it came from, and where reports about it lie."""
    made = _mapping(described.get("MetadataProperties"))
    names = {"CommitId": "commit", "Repository": "repository", "GeneratedBy": "run", "ProjectId": "project"}
    found = {name: str(made[key]) for key, name in names.items() if made.get(key)}
    for name in ("Image", "Framework", "FrameworkVersion"):
        if container.get(name):
            found[name.lower()] = str(container[name])
    for kind, reports in _mapping(described.get("ModelMetrics")).items():
        for name, report in _mapping(reports).items():
            uri = _mapping(report).get("S3Uri")
            if isinstance(uri, str):
                found[f"{kind}.{name}"] = uri
    return found


def _mapping(value: object) -> Mapping[str, object]:
    return value if isinstance(value, Mapping) else {}


def _texts(value: object) -> dict[str, str]:
    return {str(name): str(text) for name, text in _mapping(value).items()}


def _seconds(value: object) -> float | None:
    moment = getattr(value, "timestamp", None)
    return float(moment()) if moment is not None else None
