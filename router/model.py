"""The nouns: frozen, checked values that every other module speaks in."""

from __future__ import annotations

import enum
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NewType

from router.errors import InvalidName, InvalidRoute

ModelName = NewType("ModelName", str)
"""Logical name that clients use: 1 to 256 of letters, digits, `. _ - :`."""

VersionId = NewType("VersionId", str)
"""Opaque id of one immutable registry version, at most 128 characters."""

BackendId = NewType("BackendId", str)
"""Name of a configured Triton."""

TritonName = NewType("TritonName", str)
"""Model name inside a Triton, unique to one version."""

_PART = ".part-"


def part_name(whole: TritonName, part: str) -> TritonName:
    """The name inside a Triton of a part that belongs to one version; `part` has no dot in it."""
    return TritonName(f"{whole}{_PART}{part}")


def whole_of(name: TritonName) -> TritonName | None:
    """The name that a part belongs to; None for what is no part.

    The name of a version ends with a dot and a mark, so none can be mistaken for a part of another.
    """
    whole, separator, part = name.rpartition(_PART)
    return TritonName(whole) if separator and whole and "." not in part else None


WHOLE = 10_000
"""Weights are whole hundredths of a percent; a split sums to this."""

PINNED_ARM = "pinned"
"""Reserved arm label of requests that name a version outside the split."""

MOST_SHADOWS = 8
"""Shadows that a route may have: each of them costs a copy."""

MOST_RULES = 64
"""Match rules that a route may have: each request looks at them in turn."""

MOST_CONDITIONS = 16
"""Conditions that one match rule may have."""

HEADER = "header"
"""What a request says of itself in its metadata."""

PARAMETER = "parameter"
"""What a request says of itself in its parameters."""

_MOST_SAID = 256
_HEADER_NAME = re.compile(r"[a-z0-9!#$%&'*+.^_`|~-]{1,128}")
_HEADER_VALUE = re.compile(r"[\x20-\x7e]*")
_MODEL_NAME = re.compile(r"[A-Za-z0-9._:-]{1,256}")
_ARM_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,62}")


def parse_model_name(text: str) -> ModelName:
    """Check a logical model name.

    Raises:
        InvalidName: it is empty, too long, or holds another character.
    """
    if not _MODEL_NAME.fullmatch(text):
        raise InvalidName(
            f"model name {text[:80]!r} is not allowed",
            hint="use 1 to 256 letters, digits, '.', '_', '-' or ':'",
        )
    return ModelName(text)


class PointerKind(enum.StrEnum):
    """What kind of movable name a registry has for a version."""

    ALIAS = "alias"
    STAGE = "stage"


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """One input or output; a shape dimension of -1 is variable, the batch dimension included."""

    name: str
    datatype: str
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Contract:
    """What a version takes and gives."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]


@dataclass(frozen=True, slots=True)
class Version:
    """One immutable registry version.

    Attributes:
        registry: name of the registry in the configuration.
        model: logical model name.
        version: its id there.
        format: `onnx`, `python`, `triton`, ...; "" for a model that a backend brought itself.
        artifact: URI or absolute path of its files; "" for a model that a backend brought itself.
        digest: `sha256:` + hex over the sorted file lines, or "" where the registry gives none.
        contract: inputs and outputs, or None where unknown before the first load.
        created: unix seconds, or None.
        unusable: why the registry itself says that it is not to be served, such as a registration that is
            not finished; "" where nothing speaks against it.
    """

    registry: str
    model: ModelName
    version: VersionId
    format: str = ""
    artifact: str = ""
    digest: str = ""
    contract: Contract | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)
    lineage: Mapping[str, str] = field(default_factory=dict)
    created: float | None = None
    unusable: str = ""


@dataclass(frozen=True, slots=True)
class RegisteredModel:
    """All that a registry says of one model at one moment.

    Attributes:
        versions: in the registry's order, oldest first (integer, else semver, else creation time).
        stages: lower-cased stage name to version id.
        aliases: alias without `@` to version id.
    """

    registry: str
    name: ModelName
    versions: Mapping[VersionId, Version]
    stages: Mapping[str, VersionId] = field(default_factory=dict)
    aliases: Mapping[str, VersionId] = field(default_factory=dict)
    description: str = ""
    tags: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class RegistryProblem:
    """Something in a registry that cannot be used now; the last good reading goes on."""

    subject: str
    message: str


@dataclass(frozen=True, slots=True)
class RegistryView:
    """One complete reading of a registry."""

    registry: str
    models: Mapping[ModelName, RegisteredModel]
    problems: tuple[RegistryProblem, ...] = ()


@dataclass(frozen=True, slots=True)
class BackendModel:
    """A model that a Triton serves under its own name, outside any registry."""

    name: str
    version: str = ""


@dataclass(frozen=True, slots=True)
class Arm:
    """One target of a split.

    Attributes:
        name: `stable`, `canary` or the operator's word; never `pinned`.
        reference: version id, stage, or `@alias`; "" when `backend_model` is given.
        weight: hundredths of a percent, 0 to 10,000.
    """

    name: str
    reference: str
    weight: int
    backend_model: BackendModel | None = None

    def __post_init__(self) -> None:
        if not _ARM_NAME.fullmatch(self.name) or self.name == PINNED_ARM:
            raise InvalidRoute(
                f"arm name {self.name[:80]!r} is not allowed",
                hint=f"letters, digits, '_' and '-', at most 63, and not {PINNED_ARM!r}",
            )
        if not 0 <= self.weight <= WHOLE:
            raise InvalidRoute(f"arm {self.name!r}: weight must be between 0 and 100")
        if bool(self.reference) == (self.backend_model is not None):
            raise InvalidRoute(f"arm {self.name!r}: give either version or backend_model")


@dataclass(frozen=True, slots=True)
class Tolerance:
    """How far two floating-point numbers may lie apart and still agree: `atol + rtol * |the client's|`."""

    atol: float = 1e-6
    rtol: float = 1e-4

    def __post_init__(self) -> None:
        for name, value in (("atol", self.atol), ("rtol", self.rtol)):
            if not (math.isfinite(value) and value >= 0):
                raise InvalidRoute(f"{name} {value!r} is not a number from 0 on")


@dataclass(frozen=True, slots=True)
class Shadow:
    """One target of copies, which answers nobody.

    Attributes:
        name: the operator's word; no arm of the route has the same.
        reference: version id, stage, or `@alias`.
        sample: share of the split's requests that are copied, in hundredths of a percent, 0 to 10,000.
        tolerance: how its answers may differ from those that clients got.
    """

    name: str
    reference: str
    sample: int = WHOLE
    tolerance: Tolerance = Tolerance()

    def __post_init__(self) -> None:
        if not _ARM_NAME.fullmatch(self.name) or self.name == PINNED_ARM:
            raise InvalidRoute(
                f"shadow name {self.name[:80]!r} is not allowed",
                hint=f"letters, digits, '_' and '-', at most 63, and not {PINNED_ARM!r}",
            )
        if not 0 <= self.sample <= WHOLE:
            raise InvalidRoute(f"shadow {self.name!r}: sample must be between 0 and 1")
        if not self.reference:
            raise InvalidRoute(f"shadow {self.name!r}: version is missing")


BucketRuns = tuple[tuple[str, int], ...]
"""Buckets of sticky keys, in order: an arm and how many neighbouring ones it has; 10,000 in all."""


@dataclass(frozen=True, slots=True)
class Sticky:
    """What keeps a caller on its arm.

    Attributes:
        by: `header:NAME`, in lower case, or `parameter:NAME`; "" for no key but the request's own.
        salt: hashed with every key, so that another experiment draws its callers anew; "" for the model's
            name.
    """

    by: str = ""
    salt: str = ""

    def __post_init__(self) -> None:
        if self.by:
            kind, _, name = self.by.partition(":")
            check_said(kind, name, "sticky key")
        if len(self.salt) > _MOST_SAID:
            raise InvalidRoute(f"the salt has {len(self.salt)} characters, at most {_MOST_SAID}")


@dataclass(frozen=True, slots=True)
class Condition:
    """Something that a request says of itself: a header (name in lower case) or a parameter, exactly."""

    kind: str
    name: str
    value: str

    def __post_init__(self) -> None:
        check_said(self.kind, self.name, "condition")
        if len(self.value) > _MOST_SAID or (self.kind == HEADER and not _HEADER_VALUE.fullmatch(self.value)):
            raise InvalidRoute(
                f"{self.kind} {self.name!r} cannot have the value {self.value[:80]!r}",
                hint=f"at most {_MOST_SAID} characters, those of a header printable ASCII",
            )


@dataclass(frozen=True, slots=True)
class MatchRule:
    """Requests for which all conditions hold go to an arm."""

    conditions: tuple[Condition, ...]
    arm: str

    def __post_init__(self) -> None:
        count = len(self.conditions)
        if not 1 <= count <= MOST_CONDITIONS:
            many = f"{count} conditions, not 1 to {MOST_CONDITIONS}"
            raise InvalidRoute(f"a rule to arm {self.arm!r} has {many}")


def check_said(kind: str, name: str, what: str) -> None:
    """Raises InvalidRoute where a request cannot have such a header or parameter."""
    if kind not in (HEADER, PARAMETER):
        raise InvalidRoute(f"{what} {kind!r} is neither header nor parameter")
    fits = _HEADER_NAME.fullmatch(name) if kind == HEADER else 0 < len(name) <= _MOST_SAID
    if not fits:
        raise InvalidRoute(
            f"{what}: {name[:80]!r} cannot be the name of a {kind}",
            hint="a header's is in lower case: letters, digits and -_. are usual",
        )


FAILURES = (
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
)
"""gRPC's names of failures, by number from 1."""


@dataclass(frozen=True, slots=True)
class Fallback:
    """Who answers where an arm of a split fails.

    Attributes:
        codes: gRPC status names of the failures that are answered by another arm.
        to: that arm; `stable` is the arm of that role.
    """

    codes: tuple[str, ...]
    to: str

    def __post_init__(self) -> None:
        if not self.codes:
            raise InvalidRoute("fallback: codes are missing", hint="such as [UNAVAILABLE, INTERNAL]")
        for code in self.codes:
            if code not in FAILURES:
                raise InvalidRoute(
                    f"fallback: code {code[:80]!r} is no gRPC status of a failure",
                    hint=f"they are {', '.join(FAILURES)}",
                )
            if self.codes.count(code) > 1:
                raise InvalidRoute(f"fallback: code {code!r} is given twice")


@dataclass(frozen=True, slots=True)
class Route:
    """The traffic policy of a model.

    Attributes:
        registry: where its references resolve; "" means the default registry.
        deadline: seconds, or None for the gateway's default.
        shadows: who gets copies of what the split answers, at most 8.
        match: rules that come before the weights; the first that fits wins.
        sticky: what keeps a caller on its arm, or None.
        arm_header: whether a client may name its arm in the request header `stagegate-arm`.
        buckets: whose each bucket of sticky keys is. The store's own, from one route to the next; empty for
            each arm in one piece. No part of what a route says: two routes may be equal without it.
        fallback: who answers where an arm fails; None where nobody does.
    """

    model: ModelName
    arms: tuple[Arm, ...]
    registry: str = ""
    deadline: float | None = None
    shadows: tuple[Shadow, ...] = ()
    match: tuple[MatchRule, ...] = ()
    sticky: Sticky | None = None
    arm_header: bool = False
    buckets: BucketRuns = field(default=(), compare=False, repr=False)
    fallback: Fallback | None = None

    def __post_init__(self) -> None:
        if not self.arms:
            raise InvalidRoute(f"route of {self.model!r}: at least one arm is needed")
        names = [arm.name for arm in self.arms]
        for name in names:
            if names.count(name) > 1:
                raise InvalidRoute(f"route of {self.model!r}: arm {name!r} is given twice")
        total = sum(arm.weight for arm in self.arms)
        if total != WHOLE:
            raise InvalidRoute(
                f"route of {self.model!r}: weights sum to {format_weight(total)}, not 100",
                hint="change a weight so that all arms together give 100",
            )
        self._check_shadows(names)
        self._check_match(names)
        if self.fallback is not None and self.fallback.to not in (*names, "stable"):
            raise InvalidRoute(
                f"route of {self.model!r}: fallback goes to {self.fallback.to!r}, which is none of its arms",
                hint=f"its arms: {', '.join(names)}",
            )

    def _check_match(self, arms: list[str]) -> None:
        for rule in self.match:
            if rule.arm not in arms:
                raise InvalidRoute(
                    f"route of {self.model!r}: a match rule names arm {rule.arm!r}, which is not there",
                    hint="arms: " + ", ".join(arms),
                )
        if len(self.match) > MOST_RULES:
            many = f"{len(self.match)} match rules, at most {MOST_RULES}"
            raise InvalidRoute(f"route of {self.model!r}: {many}")

    def _check_shadows(self, arms: list[str]) -> None:
        names = [shadow.name for shadow in self.shadows]
        for name in names:
            if name in arms or names.count(name) > 1:
                raise InvalidRoute(
                    f"route of {self.model!r}: shadow {name!r} has the name of an arm or of another shadow"
                )
        if len(names) > MOST_SHADOWS:
            raise InvalidRoute(f"route of {self.model!r}: {len(names)} shadows, at most {MOST_SHADOWS}")

    @property
    def fallback_arm(self) -> Arm | None:
        """The arm that answers for others; None where none does."""
        if self.fallback is None:
            return None
        return next((arm for arm in self.arms if arm.name == self.fallback.to), self.stable)

    @property
    def stable(self) -> Arm:
        """The arm called `stable`, else the first one."""
        return next((arm for arm in self.arms if arm.name == "stable"), self.arms[0])


def format_weight(weight: int) -> str:
    """Hundredths of a percent as people write them: 9000 is `90`, 1250 is `12.5`."""
    return f"{weight / 100:.2f}".rstrip("0").rstrip(".")


class Control(enum.StrEnum):
    """Who loads and unloads models on a backend."""

    EXPLICIT = "explicit"
    NONE = "none"


@dataclass(frozen=True, slots=True)
class BackendTls:
    """How a Triton is spoken to in TLS, all in PEM.

    Attributes:
        ca: certificates that the Triton's must lead to.
        cert: our own certificate chain for it, b"" where it asks for none.
        key: the private key of `cert`.
        server_name: what the Triton's certificate must be for; "" for the host of its address.
    """

    ca: bytes
    cert: bytes = b""
    key: bytes = field(default=b"", repr=False)
    server_name: str = ""


@dataclass(frozen=True, slots=True)
class Backend:
    """One Triton, known by address.

    Attributes:
        grpc: `host:port` of its gRPC endpoint; http and metrics likewise, or "".
        repository: the folder it was started on, for `control: explicit` on this host.
        memory: bytes it may use for models, or None.
        backends: names in its backend folder, such as `python`; None where that is not known.
        log: the file that it writes its log to, where it can be read here.
    """

    name: BackendId
    grpc: str
    http: str = ""
    metrics: str = ""
    control: Control = Control.NONE
    repository: Path | None = None
    memory: int | None = None
    backends: frozenset[str] | None = None
    log: Path | None = None


UNBOUNDED = 2**32 - 1
"""The `at_once` of a copy that is never to be held back."""


@dataclass(frozen=True, slots=True)
class Capacity:
    """What a copy of a version works on at once.

    Attributes:
        at_once: requests; 0 where that is not known, `UNBOUNDED` where nothing bounds it.
        priority_levels: Triton's priority levels of the model; 0 for none.
        default_priority: the level of requests that name none; 0 where there are no levels.
        sequence_idle_us: time after which Triton forgets an idle sequence, in microseconds; 0 if unknown.
        queue_timeout_us: longest wait in Triton's queue by the model's own policy, in microseconds; 0: any.
        timeout_override: whether a request's `timeout` may make that shorter.
    """

    at_once: int = 0
    priority_levels: int = 0
    default_priority: int = 0
    sequence_idle_us: int = 0
    queue_timeout_us: int = 0
    timeout_override: bool = False


def together(capacities: Sequence[Capacity]) -> Capacity:
    """What several copies work on at once; not known where it is not known of each."""
    each = [capacity.at_once for capacity in capacities]
    total = min(sum(each), UNBOUNDED) if all(each) else 0
    return replace(capacities[0], at_once=total) if capacities else Capacity()


@dataclass(frozen=True, slots=True)
class IndexEntry:
    """One line of a Triton's RepositoryIndex."""

    name: TritonName
    version: str
    state: str
    reason: str = ""

    @property
    def ready(self) -> bool:
        """Whether this entry can take requests."""
        return self.state == "READY"

    @property
    def loading(self) -> bool:
        """Whether a load of this entry is under way."""
        return self.state == "LOADING"
