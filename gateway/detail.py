"""All that is known of one version, put together from its registry, the backends and the counters."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from gateway.bridge import BUCKET_BOUNDS_US, Counters
from gateway.operations import Measured, VersionDetail, VersionRow
from router.artifacts.policy import shown
from router.control.controller import Controller
from router.control.entries import ModelEntry
from router.errors import VersionNotFound
from router.model import BackendId, Version, VersionId

_MICROSECONDS = 1e6


def version_detail(
    controller: Controller,
    entry: ModelEntry,
    version: Version,
    row: VersionRow,
    counters: Counters,
) -> VersionDetail:
    """Everything that the control loop holds of a version; looks at the disk for its size.

    Args:
        row: its line in the list of versions.
        counters: the data plane's, as of now.
    """
    contract = controller.residents.contract_of(version)
    registered = entry.registered
    return VersionDetail(
        model=registered.name,
        registry=registered.registry,
        description=registered.description,
        row=row,
        artifact=shown(version.artifact),
        contract=contract,
        contract_from="" if contract is None else "registry" if version.contract else "triton",
        size=_size_of(_folders(controller, row)),
        tags=version.tags,
        lineage=version.lineage,
        model_tags=registered.tags,
        unusable=version.unusable,
        measured=measured(counters, registered.name, version.version),
    )


def stable_version(entry: ModelEntry) -> VersionId:
    """What answers requests without a reference, the stable arm's. Raises VersionNotFound."""
    arms = entry.serving.arms
    if not arms:
        name = entry.registered.name
        raise VersionNotFound(f"nothing answers for model {name!r}: {entry.serving.unroutable}")
    return next((arm for arm in arms if arm.name == "stable"), arms[0]).version


def measured(counters: Counters, model: str, version: str) -> Measured:
    """How a version answered over all its arms since the gateway started."""
    arms = [arm for arm in counters.arms if (arm.model, arm.version) == (model, version)]
    requests = sum(sum(arm.codes) for arm in arms)
    if not requests:
        return Measured()
    buckets = [sum(column) for column in zip(*(arm.buckets for arm in arms), strict=True)]
    seen = sum(buckets)
    return Measured(
        requests=requests,
        failed=requests - sum(arm.codes[0] for arm in arms),
        mean=sum(arm.sum_us for arm in arms) / _MICROSECONDS / seen if seen else None,
        p50=quantile(0.50, buckets),
        p95=quantile(0.95, buckets),
        p99=quantile(0.99, buckets),
    )


def quantile(share: float, buckets: Sequence[int]) -> float | None:
    """A quantile of the request histogram in seconds, as Prometheus' `histogram_quantile` estimates it.

    Linear within its bucket; what lies above the last bound is told as that bound. None without any.

    Args:
        share: 0 to 1.
        buckets: counts of each bucket, the last without a bound.
    """
    total = sum(buckets)
    if not total:
        return None
    rank, below, lower = share * total, 0, 0.0
    for bound, count in zip(BUCKET_BOUNDS_US, buckets, strict=False):
        if count and below + count >= rank:
            return (lower + (bound - lower) * (rank - below) / count) / _MICROSECONDS
        below, lower = below + count, float(bound)
    return BUCKET_BOUNDS_US[-1] / _MICROSECONDS


def _folders(controller: Controller, row: VersionRow) -> Iterable[Path]:
    for name in row.backends:
        state = controller.residents.backends.get(BackendId(name))
        if state is not None and state.backend.repository is not None and row.backend_model:
            yield state.backend.repository / row.backend_model


def _size_of(folders: Iterable[Path]) -> int | None:
    """Bytes of the first of these folders that is there."""
    for folder in folders:
        try:
            sizes = [path.stat().st_size for path in folder.rglob("*") if path.is_file()]
        except OSError:
            continue
        if sizes:
            return sum(sizes)
    return None
