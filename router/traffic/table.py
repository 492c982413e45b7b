"""The routing table as it crosses to the data plane: frozen structs, the same names in Rust.

`gateway/dataplane/table/src/spec.rs` has one struct for each class here, with the same fields in the
same order; `tests/bridge` compares the two. A `Snapshot` replaces everything; a `Delta` replaces whole
models and backends by name, on top of exactly one revision.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class BackendSpec:
    """One Triton endpoint.

    Attributes:
        name: its name in the configuration; what `VersionSpec.backends` refers to.
        address: `host:port` of its gRPC endpoint.
        http: `host:port` of its HTTP endpoint, for REST requests; "" where none is known.
    """

    name: str
    address: str
    http: str = ""


@dataclass(frozen=True, slots=True)
class VersionSpec:
    """One version of a model.

    Attributes:
        version: the concrete version id that answers carry.
        state: `ready` (forward), `cold` (a request asks for a load and waits) or `failed`.
        backends: names of the backends that have it ready; empty unless `ready`.
        backend_model: Triton's model name for it.
        backend_version: Triton's version number in text, "" for Triton's own choice.
        reason: why it failed, for the client; "" unless `failed`.
        metadata: a serialised `inference.ModelMetadataResponse`, made from the contract, so that a cold
            version can be described; its names do not count. b"" where it must be loaded for that.
        capacity: requests that all its copies work on at once; 0 where not known, 2**32 - 1 for no bound.
        priority_levels: Triton's priority levels of the model; 0 for none.
        default_priority: the level of requests that name none; 0 where there are no levels.
        sequence_idle_us: time after which Triton forgets an idle sequence, in microseconds; 0: its default.
        queue_timeout_us: longest wait in Triton's queue by the model's own policy, in microseconds; 0: any.
        timeout_override: whether a request's `timeout` may make that shorter.
    """

    version: str
    state: str
    backends: tuple[str, ...]
    backend_model: str
    backend_version: str
    reason: str
    metadata: bytes
    capacity: int = 0
    priority_levels: int = 0
    default_priority: int = 0
    sequence_idle_us: int = 0
    queue_timeout_us: int = 0
    timeout_override: bool = False


@dataclass(frozen=True, slots=True)
class PointerSpec:
    """A movable name of a version: `kind` is `alias` or `stage` (stages in lower case)."""

    kind: str
    name: str
    version: str


@dataclass(frozen=True, slots=True)
class ArmSpec:
    """One target of the split; `weight` in hundredths of a percent. Weights sum to 10,000."""

    name: str
    version: str
    weight: int


@dataclass(frozen=True, slots=True)
class ConditionSpec:
    """One condition of a match rule: `kind` is `header` or `parameter`, `value` is met exactly."""

    kind: str
    name: str
    value: str


@dataclass(frozen=True, slots=True)
class MatchRuleSpec:
    """Requests for which all `conditions` hold (at least one) go to `arm`."""

    conditions: tuple[ConditionSpec, ...]
    arm: str


@dataclass(frozen=True, slots=True)
class BucketRunSpec:
    """`length` neighbouring buckets of one arm."""

    arm: str
    length: int


@dataclass(frozen=True, slots=True)
class ShadowSpec:
    """One target of copies; `sample` is the share that is copied, in hundredths of a percent."""

    name: str
    version: str
    sample: int


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """One logical model.

    Attributes:
        name: the logical name.
        versions: all versions that a client may reach, in the registry's order.
        pointers: aliases and stages, each to a version of `versions`.
        arms: the split; empty where no request without a reference can be answered.
        split_reference: the reference that the stable arm names (`production`, `@champion`, `3`); a
            request with that reference enters the split instead of pinning.
        deadline_ms: default deadline of unary calls, 0 for the gateway's.
        unroutable: why `arms` is empty, for the client; "" otherwise.
        sticky: what keeps a caller on its arm: `header:NAME`, `parameter:NAME`, or "".
        salt: hashed with every key; "" for the model's name.
        buckets: the 10,000 buckets of keys in order, as many for each arm as its weight; empty for each
            arm in one piece.
        rules: they come before the buckets; the first that fits wins.
        arm_header: whether the request header `stagegate-arm` names the arm.
        shadows: who gets copies of what the split answers; no name of an arm is among theirs.
        fallback_codes: gRPC status names with which an arm may fail for another to answer; empty for none.
        fallback_to: the arm that answers then; it may be gone from `arms`, then nobody answers instead.
    """

    name: str
    versions: tuple[VersionSpec, ...]
    pointers: tuple[PointerSpec, ...]
    arms: tuple[ArmSpec, ...]
    split_reference: str
    deadline_ms: int
    unroutable: str
    sticky: str = ""
    salt: str = ""
    buckets: tuple[BucketRunSpec, ...] = ()
    rules: tuple[MatchRuleSpec, ...] = ()
    arm_header: bool = False
    shadows: tuple[ShadowSpec, ...] = ()
    fallback_codes: tuple[str, ...] = ()
    fallback_to: str = ""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The whole table."""

    revision: int
    backends: tuple[BackendSpec, ...]
    models: tuple[ModelSpec, ...]


@dataclass(frozen=True, slots=True)
class Delta:
    """Changes on top of `base_revision`: whole models and backends, by name."""

    base_revision: int
    revision: int
    put_backends: tuple[BackendSpec, ...]
    drop_backends: tuple[str, ...]
    put_models: tuple[ModelSpec, ...]
    drop_models: tuple[str, ...]
