"""From what clients see to the structs that the data plane runs. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache

from router.model import Capacity, MatchRule, RegisteredModel, Sticky, Version, VersionId
from router.traffic.buckets import in_one_piece
from router.traffic.serving import Serving
from router.traffic.table import (
    ArmSpec,
    BucketRunSpec,
    ConditionSpec,
    MatchRuleSpec,
    ModelSpec,
    PointerSpec,
    ShadowSpec,
    VersionSpec,
)

READY = "ready"
COLD = "cold"
FAILED = "failed"
_STATES = (READY, COLD, FAILED)
_NOT_KNOWN = Capacity()


@dataclass(frozen=True, slots=True)
class VersionPlacement:
    """Where one version is, as `VersionSpec` carries it.

    Attributes:
        state: `ready`, `cold` or `failed`.
        backends: names of the backends that have it ready; empty unless `ready`.
        backend_model: Triton's model name for it.
        backend_version: Triton's version number in text, "" for Triton's own choice.
        reason: why it failed; "" unless `failed`.
        capacity: what its copies work on at once, all together.
    """

    state: str
    backends: tuple[str, ...] = ()
    backend_model: str = ""
    backend_version: str = ""
    reason: str = ""
    capacity: Capacity = _NOT_KNOWN

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

# Stages, arms and version numbers are much the same in all models: equal ones are one object.
_pointer = lru_cache(maxsize=4096)(PointerSpec)
_arm = lru_cache(maxsize=4096)(ArmSpec)


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
    sticky = serving.assignment.sticky or Sticky()
    return ModelSpec(
        name=serving.model,
        versions=tuple(
            _compile_version(version, placements.get(key, _UNKNOWN), metadata)
            for key, version in model.versions.items()
        ),
        pointers=tuple(_pointer(p.kind.value, p.name, p.version) for p in serving.pointers),
        arms=tuple(_arm(arm.name, arm.version, arm.weight) for arm in serving.arms),
        split_reference=serving.split_reference,
        deadline_ms=serving.deadline_ms,
        unroutable=serving.unroutable,
        shadows=tuple(ShadowSpec(shadow.name, shadow.version, shadow.sample) for shadow in serving.shadows),
        sticky=sticky.by,
        salt=sticky.salt,
        buckets=_compile_buckets(serving),
        rules=tuple(_compile_rule(rule) for rule in serving.assignment.rules),
        arm_header=serving.assignment.arm_header,
        fallback_codes=serving.fallback_codes,
        fallback_to=serving.fallback_to,
    )


def _compile_buckets(serving: Serving) -> tuple[BucketRunSpec, ...]:
    runs = serving.assignment.buckets
    if runs == in_one_piece({arm.name: arm.weight for arm in serving.arms}):
        return ()
    return tuple(BucketRunSpec(arm, length) for arm, length in runs)


def _compile_rule(rule: MatchRule) -> MatchRuleSpec:
    conditions = (ConditionSpec(said.kind, said.name, said.value) for said in rule.conditions)
    return MatchRuleSpec(tuple(conditions), rule.arm)


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
        capacity=placement.capacity.at_once,
        priority_levels=placement.capacity.priority_levels,
        default_priority=placement.capacity.default_priority,
        sequence_idle_us=placement.capacity.sequence_idle_us,
        queue_timeout_us=placement.capacity.queue_timeout_us,
        timeout_override=placement.capacity.timeout_override,
    )
