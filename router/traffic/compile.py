"""From what clients see to the structs that the data plane runs. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

from router.model import RegisteredModel, RegistryProblem, Version, VersionId
from router.traffic.serving import Serving
from router.traffic.table import (
    ArmSpec,
    BackendSpec,
    Delta,
    ModelSpec,
    PointerSpec,
    Snapshot,
    VersionSpec,
)

READY = "ready"
COLD = "cold"
FAILED = "failed"
_STATES = (READY, COLD, FAILED)


@dataclass(frozen=True, slots=True)
class VersionPlacement:
    """Where one version is, as `VersionSpec` carries it.

    Attributes:
        state: `ready`, `cold` or `failed`.
        backends: names of the backends that have it ready; empty unless `ready`.
        backend_model: Triton's model name for it.
        backend_version: Triton's version number in text, "" for Triton's own choice.
        reason: why it failed; "" unless `failed`.
    """

    state: str
    backends: tuple[str, ...] = ()
    backend_model: str = ""
    backend_version: str = ""
    reason: str = ""

    def __post_init__(self) -> None:
        if self.state not in _STATES:
            raise ValueError(f"state {self.state!r} is none of {', '.join(_STATES)}")
        if (self.state == READY) != bool(self.backends):
            raise ValueError(f"a version that is {self.state} cannot have backends {self.backends!r}")
        if (self.state == FAILED) != bool(self.reason):
            raise ValueError(f"a version that is {self.state} cannot have the reason {self.reason!r}")


@dataclass(frozen=True, slots=True)
class Unservable:
    """Something that exists and cannot be served, with the reason."""

    subject: str
    reason: str


_UNKNOWN = VersionPlacement(COLD)


def compile_model(
    serving: Serving,
    model: RegisteredModel,
    placements: Mapping[VersionId, VersionPlacement],
    metadata: Callable[[Version], bytes],
) -> ModelSpec:
    """Put one model together for the data plane.

    Args:
        serving: what clients see, from `settle`.
        model: the same registered model that `settle` had.
        placements: where each version is; a version without an entry is cold.
        metadata: makes a serialised `inference.ModelMetadataResponse` from a version's contract, b"" where
            the contract does not suffice. Asked only for versions that no backend can describe now.
    """
    return ModelSpec(
        name=serving.model,
        versions=tuple(
            _compile_version(version, placements.get(key, _UNKNOWN), metadata)
            for key, version in model.versions.items()
        ),
        pointers=tuple(PointerSpec(p.kind.value, p.name, p.version) for p in serving.pointers),
        arms=tuple(ArmSpec(arm.name, arm.version, arm.weight) for arm in serving.arms),
        split_reference=serving.split_reference,
        deadline_ms=serving.deadline_ms,
        unroutable=serving.unroutable,
    )


def _compile_version(
    version: Version, placement: VersionPlacement, metadata: Callable[[Version], bytes]
) -> VersionSpec:
    return VersionSpec(
        version=version.version,
        state=placement.state,
        backends=placement.backends,
        backend_model=placement.backend_model,
        backend_version=placement.backend_version,
        reason=placement.reason,
        metadata=b"" if placement.state == READY else metadata(version),
    )


def next_snapshot(old: Snapshot, backends: Iterable[BackendSpec], models: Iterable[ModelSpec]) -> Snapshot:
    """The table after `old` with this content, sorted by name; `old` itself where nothing changed."""
    new = Snapshot(
        revision=old.revision + 1,
        backends=tuple(sorted(backends, key=lambda backend: backend.name)),
        models=tuple(sorted(models, key=lambda model: model.name)),
    )
    return old if (new.backends, new.models) == (old.backends, old.models) else new


def diff(old: Snapshot, new: Snapshot) -> Delta | None:
    """What turns `old` into `new`, as whole models and backends; None where their content is equal.

    Costs a walk over all names; a model that is the same object on both sides is not compared further.
    """
    put_backends, drop_backends = _changes(old.backends, new.backends)
    put_models, drop_models = _changes(old.models, new.models)
    if not (put_backends or drop_backends or put_models or drop_models):
        return None
    return Delta(
        base_revision=old.revision,
        revision=new.revision,
        put_backends=put_backends,
        drop_backends=drop_backends,
        put_models=put_models,
        drop_models=drop_models,
    )


class _Named(Protocol):
    @property
    def name(self) -> str: ...


_Spec = TypeVar("_Spec", bound=_Named)


def _changes(old: Sequence[_Spec], new: Sequence[_Spec]) -> tuple[tuple[_Spec, ...], tuple[str, ...]]:
    before = {spec.name: spec for spec in old}
    put = []
    for spec in new:
        was = before.pop(spec.name, None)
        if was is not spec and was != spec:
            put.append(spec)
    return tuple(put), tuple(before)


def explain_unservable(
    problems: Iterable[RegistryProblem], models: Iterable[str], servings: Iterable[Serving]
) -> tuple[Unservable, ...]:
    """Models that clients cannot reach, with the reason, sorted.

    Args:
        problems: what registries complain of; a subject is `model` or `model/version`.
        models: logical names that are served all the same (from a last good reading, or in part).
        servings: what clients see; an unroutable one still answers requests that name a version.
    """
    served = frozenset(models)
    found = [
        Unservable(problem.subject, problem.message)
        for problem in problems
        if problem.subject.partition("/")[0] not in served
    ]
    found += [Unservable(serving.model, serving.unroutable) for serving in servings if serving.unroutable]
    return tuple(sorted(found, key=lambda item: (item.subject, item.reason)))
