"""Decisions as approval statuses and properties of model packages."""

from __future__ import annotations

import re
from collections.abc import Sequence

from router.errors import (
    Conflict,
    ModelNotFound,
    NotSupported,
    RegistryRefused,
    VersionNotFound,
)
from router.model import PointerKind
from router.ports import AliasChange, RegistryChange, StageTransition, TagChange
from router.registries.pointer_names import one_of_problem
from router.registries.sagemaker.packages import Missing, Packages
from router.registries.sagemaker.told import (
    COMPLETED,
    PENDING,
    PRODUCTION,
    STATUS_OF,
    Listed,
    properties_of,
    property_value,
    stage_of,
    stages,
)

_KEY = re.compile(r"[\w .:/=+@-]{1,128}")
_WHY = "moved by Stagegate"


def pointer_problem(kind: PointerKind, name: str) -> str:
    """Why no stage (in lower case) or alias of this name could be written there; "" where one could."""
    stages_there = [stage for stage in STATUS_OF if stage]
    if kind is PointerKind.ALIAS:
        return f"SageMaker has no aliases; its stages are {' and '.join(sorted(stages_there))}"
    return one_of_problem(
        "the approval status of SageMaker", name, stages_there, "stages of a life cycle are moved there"
    )


def write_change(packages: Packages, registry: str, change: RegistryChange, until: float) -> str:
    """Carry a decision out and return the package that it is about; raises as `Registry.write` says."""
    if isinstance(change, AliasChange):
        raise NotSupported(f"registry {registry!r}: {pointer_problem(PointerKind.ALIAS, change.alias)}")
    try:
        group = packages.list(until, change.model)
    except Missing:
        raise ModelNotFound(f"registry {registry!r} has no model {change.model!r}") from None
    if not group:
        raise ModelNotFound(f"registry {registry!r} has no versions of model {change.model!r}")
    package = next((one for one in group if str(one.version) == change.version), None)
    if package is None:
        raise VersionNotFound(f"model {change.model!r} has no version {change.version!r}")
    if isinstance(change, TagChange):
        _tag(packages, package, change, until)
    else:
        _move(packages, group, package, change, until)
    return package.arn


def _tag(packages: Packages, package: Listed, change: TagChange, until: float) -> None:
    if not _KEY.fullmatch(change.key):
        raise RegistryRefused(
            f"SageMaker takes no property {change.key[:80]!r}",
            hint="at most 128 letters, digits, blanks and _ . : / = + - @",
        )
    known = properties_of(packages.describe(package.arn, until))
    if change.value is None:
        if change.key in known:
            packages.update(package.arn, until, CustomerMetadataPropertiesToRemove=[change.key])
        return
    value = property_value(change.value) or "_"
    if known.get(change.key) != value:
        # Those that are there go along: nobody says whether what is not named stays.
        packages.update(package.arn, until, CustomerMetadataProperties={**known, change.key: value})


def _move(
    packages: Packages, group: Sequence[Listed], package: Listed, change: StageTransition, until: float
) -> None:
    stage = change.stage.lower()
    status = _status(stage)
    now = stages(group).get(stage, "")
    if change.expected is not None and now not in (change.expected, change.version):
        raise Conflict(
            f"stage {stage!r} of model {change.model!r} names {now or 'nothing'}, "
            f"not {change.expected or 'nothing'}; it was left as it is",
            current_revision=0,
        )
    if stage and now == change.version:
        return
    if package.life:
        raise _has_life(package)
    if stage and package.status != COMPLETED:
        raise RegistryRefused(f"the registration of version {package.version} is {package.status}")
    above = [one for one in group if stage and stage_of(one) == stage and one.version > package.version]
    _check_above(above, package, change)
    if package.approval != status:
        packages.update(package.arn, until, ModelApprovalStatus=status, ApprovalDescription=_WHY)
    # The highest comes last, so that the stage never names one between; what is asked for is in it already.
    for one in sorted(above, key=lambda one: one.version):
        packages.update(one.arn, until, ModelApprovalStatus=PENDING, ApprovalDescription=_WHY)


def _status(stage: str) -> str:
    status = STATUS_OF.get(stage)
    if status is None:
        raise NotSupported(pointer_problem(PointerKind.STAGE, stage))
    return status


def _check_above(above: Sequence[Listed], package: Listed, change: StageTransition) -> None:
    """Whether the versions that the stage names before this one can be made to leave it."""
    if not above:
        return
    highest = max(above, key=lambda one: one.version)
    names = f"stage {change.stage.lower()!r} of SageMaker names the highest version in it, {highest.version}"
    if not change.archive_existing:
        raise RegistryRefused(
            f"{names}, which is above {package.version}", hint="let those that are in it leave it"
        )
    for one in above:
        if one.life:
            raise _has_life(one)
    if change.stage.lower() != PRODUCTION:
        raise RegistryRefused(
            f"{names}, and it could leave it for {package.version} only by being approved or rejected",
            hint="decide about it in SageMaker",
        )


def _has_life(package: Listed) -> NotSupported:
    return NotSupported(
        f"version {package.version} is in stage {package.life!r} by its life cycle, which is not written",
        hint="move it in SageMaker",
    )
