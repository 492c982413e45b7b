"""What operators can ask of a running gateway: the seam between admin API, HTTP endpoints and the app.

`gateway.admin`, `gateway.http` and `gateway.metrics` translate these values to their wire and hold no
decision; `gateway.running` implements `Operations` over the control loop. All results are frozen values, so
that a caller may read them on another thread. Weights are hundredths of a percent, times unix seconds,
durations and ages seconds.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from router.model import Contract, ModelName, Route


class VersionState(enum.StrEnum):
    """Where a version stands on the backends of this gateway, taken together.

    READY: at least one backend has it. LOADING: none has it yet, one is loading it. COLD: not loaded, a
    request would load it. FAILED: the last load failed; `reason` says why.
    """

    READY = "ready"
    LOADING = "loading"
    COLD = "cold"
    FAILED = "failed"


class ReferenceKind(enum.StrEnum):
    """What a reference turned out to be; SPLIT: none given, or the one that the stable arm names."""

    SPLIT = "split"
    VERSION = "version"
    ALIAS = "alias"
    STAGE = "stage"


@dataclass(frozen=True, slots=True)
class ModelSummary:
    """One line of the list of models.

    Attributes:
        name: as the registry has it; where it cannot be a logical name, `problem` says so.
        registry: name of its registry, or of the backend kind that brought it.
        versions: ids in the registry's order, oldest first.
        stages, aliases: name to version id as decided here, else as the registry has them (aliases without
            `@`); where the two differ `problem` says so.
        ready: ids of the versions that are ready on a backend.
        route: one line, such as `stable=production:90 canary=@challenger:10`; "" where there is none.
        implicit: whether that route is Stagegate's own choice, because the store has none.
        problem: why clients cannot use it now, or what waits; "" when all is well.
    """

    name: str
    registry: str
    versions: tuple[str, ...]
    stages: Mapping[str, str] = field(default_factory=dict)
    aliases: Mapping[str, str] = field(default_factory=dict)
    ready: tuple[str, ...] = ()
    route: str = ""
    implicit: bool = True
    problem: str = ""


@dataclass(frozen=True, slots=True)
class VersionRow:
    """One version of one model.

    Attributes:
        stages, aliases: names that point to it in the registry (aliases without `@`).
        arms: names of the arms that send it traffic now.
        format: `onnx`, `python`, ...; "" for what a backend brought itself.
        backends: names of the backends where it is ready.
        backend_model: its model name inside Triton.
        metrics: what the registry knows of it, such as accuracy.
        reason: why it is `failed`, how far its files are while it is `loading`, or what kept a backend from
            loading it a moment ago; "" otherwise.
        created: unix seconds, or None.
        kept: why it stays loaded though nothing names it any more, and for how long; "" otherwise.
    """

    version: str
    state: VersionState
    stages: tuple[str, ...] = ()
    aliases: tuple[str, ...] = ()
    arms: tuple[str, ...] = ()
    format: str = ""
    backends: tuple[str, ...] = ()
    backend_model: str = ""
    metrics: Mapping[str, float] = field(default_factory=dict)
    digest: str = ""
    reason: str = ""
    created: float | None = None
    kept: str = ""


@dataclass(frozen=True, slots=True)
class ModelVersions:
    """A model with all its versions, oldest first."""

    name: str
    registry: str
    description: str
    versions: tuple[VersionRow, ...]
    problem: str = ""


@dataclass(frozen=True, slots=True)
class Measured:
    """How one version answered since the gateway started, over all its arms.

    Attributes:
        requests: that are over.
        failed: of those, the ones that did not end with OK.
        mean, p50, p95, p99: seconds in the gateway, None where nothing was measured; the shares by
            interpolation in the buckets of `stagegate_request_duration_seconds`.
    """

    requests: int = 0
    failed: int = 0
    mean: float | None = None
    p50: float | None = None
    p95: float | None = None
    p99: float | None = None


@dataclass(frozen=True, slots=True)
class VersionDetail:
    """All that is known of one version.

    Attributes:
        row: as in the list of versions.
        artifact: where its files are, as the registry says.
        contract: what it takes and gives; None while nobody told.
        contract_from: `registry`, or `triton` where it was learned after a load.
        size: bytes of its model folder on a backend of this machine; None where there is none.
        unusable: why the registry says that it is not to be served.
    """

    model: str
    registry: str
    description: str
    row: VersionRow
    artifact: str = ""
    contract: Contract | None = None
    contract_from: str = ""
    size: int | None = None
    tags: Mapping[str, str] = field(default_factory=dict)
    lineage: Mapping[str, str] = field(default_factory=dict)
    model_tags: Mapping[str, str] = field(default_factory=dict)
    unusable: str = ""
    measured: Measured = Measured()


@dataclass(frozen=True, slots=True)
class Share:
    """What one arm of a split gets: the version it means now and its weight."""

    arm: str
    version: str
    weight: int


@dataclass(frozen=True, slots=True)
class Said:
    """What a request says of itself beside its names: its metadata, and its parameters as text."""

    headers: Mapping[str, str] = field(default_factory=dict)
    parameters: Mapping[str, str] = field(default_factory=dict)


NOTHING = Said()
"""What a request says that has no metadata and no parameters."""


@dataclass(frozen=True, slots=True)
class Resolution:
    """What a request for `model` at `reference` would meet now.

    Attributes:
        reference: as it was asked, "" for none.
        kind: what the reference is.
        arm: the arm label; where a split leaves it to chance the stable one's (`shares` has all).
        version: the version of that arm.
        state: where that version stands.
        backends: who would answer; empty unless `ready`.
        backend_model: the version's model name inside Triton.
        shares: the split, heaviest first as served; empty for a pinned reference.
        why: sentences for people, in the order of the decision.
        decided_by: what decided on the arm: `pinned`, `only`, `forced`, `rule`, `bucket` or `chance`.
        rule: the number of that rule, from 0.
        bucket: the number of that bucket.
    """

    model: str
    registry: str
    reference: str
    kind: ReferenceKind
    arm: str
    version: str
    state: VersionState
    backends: tuple[str, ...] = ()
    backend_model: str = ""
    shares: tuple[Share, ...] = ()
    why: tuple[str, ...] = ()
    decided_by: str = ""
    rule: int | None = None
    bucket: int | None = None


@dataclass(frozen=True, slots=True)
class ArmView:
    """One arm of a route, and what clients meet through it now.

    Attributes:
        reference: as the route has it (`production`, `@champion`, `3`); for an arm with a
            `backend_model`, that as `name` or `name/version`.
        weight: as wanted, hundredths of a percent.
        version: what answers now; "" where nothing does.
        served_weight: as in force now; differs from `weight` while something loads.
        waiting: what is waited for, as a sentence; "" when the wanted is in force.
    """

    name: str
    reference: str
    weight: int
    version: str
    served_weight: int
    state: VersionState | None = None
    waiting: str = ""


@dataclass(frozen=True, slots=True)
class Mismatch:
    """An answer of a shadow that differs from what the client got.

    Attributes:
        at: unix seconds.
        request: the token that the client has for its request.
        version: the version that answered the client.
        kind: `value`, `shape`, `datatype`, `outputs`, `invalid` (its bytes fit no tensor) or
            `primary_invalid` (those of the client's answer do not).
        output: the name of the tensor; "" where it is none.
        largest: largest distance of two numbers of it; None where there is none to be told.
    """

    at: float
    request: str
    version: str
    kind: str
    output: str
    detail: str
    largest: float | None = None


@dataclass(frozen=True, slots=True)
class ShadowComparison:
    """What came of comparing one version as a shadow.

    Attributes:
        version: the shadow's.
        compared: pairs of answers that were compared.
        mismatches: how many of them differ, by the kind of their worst difference.
        rows: decisions (largest of the last axis of a floating-point output) that were looked at.
        agreed: of those, how many were the same.
        recent: the last mismatches, newest first.
    """

    model: str
    version: str
    shadow: str
    compared: int = 0
    mismatches: Mapping[str, int] = field(default_factory=dict)
    rows: int = 0
    agreed: int = 0
    recent: tuple[Mismatch, ...] = ()


@dataclass(frozen=True, slots=True)
class ShadowView:
    """One shadow of a route, and what came of its copies since the gateway started.

    Attributes:
        reference: as the route has it.
        sample: share of requests that are copied, in hundredths of a percent.
        version: what gets the copies; "" where nothing does.
        state: where that version stands.
        waiting: what is waited for, as a sentence; "" where copies are sent.
        results: how many copies came to what, such as `ok` or `queue_full`; without those that came to
            nothing yet.
        comparison: how its answers compare.
    """

    name: str
    reference: str
    sample: int
    version: str
    state: VersionState | None = None
    waiting: str = ""
    results: Mapping[str, int] = field(default_factory=dict)
    comparison: ShadowComparison | None = None


@dataclass(frozen=True, slots=True)
class RouteView:
    """A route and who wrote it.

    Attributes:
        implicit: made up by Stagegate, because the store has no route; then revision is 0, actor,
            reason are "" and at is None.
        notes: where registry and traffic disagree, and why, in sentences.
    """

    route: Route
    implicit: bool
    arms: tuple[ArmView, ...]
    revision: int = 0
    actor: str = ""
    reason: str = ""
    at: float | None = None
    shadows: tuple[ShadowView, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class RouteTable:
    """All explicit routes at one revision of the store, by model name."""

    revision: int
    routes: tuple[RouteView, ...]


@dataclass(frozen=True, slots=True)
class Change:
    """Who asks for a change and why. `reason` may be ""."""

    actor: str
    reason: str


@dataclass(frozen=True, slots=True)
class RouteChange:
    """One change of one route, from what to what; `after` is None for a deletion."""

    model: ModelName
    revision: int
    before: Route | None
    after: Route | None
    actor: str
    reason: str
    at: float


@dataclass(frozen=True, slots=True)
class Moved:
    """What a promotion or a rollback came to.

    Attributes:
        registry: where it is written; "" for an arm of a route.
        kind: `stage`, `alias` or `arm`; `name` of an alias without `@`.
        before, after: version ids, for an arm references; "" for nothing.
        already: it was so before, and nothing was changed.
        revision: of the state, that has it.
        write: the number of the registry change; 0 where there is none.
        said: what is waited for and what else is to be known, in sentences.
    """

    model: str
    registry: str
    kind: str
    name: str
    before: str
    after: str
    already: bool = False
    revision: int = 0
    write: int = 0
    said: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class WriteRow:
    """A stage or alias that was moved here, and is to be moved in its registry.

    Attributes:
        kind: `stage` or `alias`; `name` of an alias without `@`.
        version: what traffic follows.
        registry_names: what the registry named when it was read last; "" for nothing.
        action: `promote` or `rollback`.
        state: `pending`, `refused` (the registry cannot or will not), `tagging` (the registry says the same,
            tags are to be written), or how it ended: `agreed`, `overtaken` (somebody else moved it in the
            registry), `superseded` (by a later decision), `gone` (there is no such version any more) or
            `cleared` (by an operator).
        next_try: unix seconds before which it is not tried again, or None.
        note: why it is not done yet, or how it ended.
        at: unix seconds of the decision; `ended` of its end, or None.
        revision: the state's, that decided it.
    """

    id: int
    registry: str
    model: str
    kind: str
    name: str
    version: str
    registry_names: str
    action: str
    state: str
    attempts: int = 0
    next_try: float | None = None
    note: str = ""
    actor: str = ""
    reason: str = ""
    at: float = 0.0
    ended: float | None = None
    revision: int = 0


@dataclass(frozen=True, slots=True)
class BackendStatus:
    """One Triton.

    Attributes:
        control: `explicit` or `none`.
        models: how many model versions are ready there.
        reason: why it is not up; "" otherwise.
        server: what it calls itself, such as `triton 2.51.0`; "" before it answered.
    """

    name: str
    address: str
    control: str
    up: bool
    models: int = 0
    reason: str = ""
    server: str = ""


@dataclass(frozen=True, slots=True)
class Problem:
    """Something that cannot be used now, and why."""

    subject: str
    message: str


@dataclass(frozen=True, slots=True)
class RegistryStatus:
    """One registry.

    Attributes:
        type: `folder`, ...
        age: seconds since it was last read whole; None when it never was.
        reason: why it cannot be read at all now; "" otherwise.
        problems: what in it cannot be used.
    """

    name: str
    type: str
    models: int
    age: float | None
    reason: str = ""
    problems: tuple[Problem, ...] = ()


@dataclass(frozen=True, slots=True)
class Totals:
    """How much there is, over all models."""

    models: int = 0
    versions: int = 0
    ready: int = 0
    loading: int = 0
    failed: int = 0
    routes: int = 0


@dataclass(frozen=True, slots=True)
class StatusReport:
    """The whole gateway at a glance.

    Attributes:
        version: Stagegate's.
        started: unix seconds.
        uptime: seconds.
        ready, reasons: as `/readyz` says.
        config: path of the configuration file, or "(built in)".
        state: where routes are kept, without credentials.
        revision: the store's revision that is in force.
        inference, metrics, admin: bound `host:port`.
        connections: open client connections on the inference port.
        requests: finished requests since the start.
        problems: what cannot be served, beyond what the registries list.
    """

    version: str
    started: float
    uptime: float
    ready: bool
    reasons: tuple[str, ...]
    config: str
    state: str
    revision: int
    inference: str
    metrics: str
    admin: str
    connections: int
    requests: int
    totals: Totals
    backends: tuple[BackendStatus, ...]
    registries: tuple[RegistryStatus, ...]
    problems: tuple[Problem, ...] = ()


@dataclass(frozen=True, slots=True)
class ReloadReport:
    """What a reload did. `needs_restart` names keys that changed but take effect at the next start."""

    config: str
    changed: tuple[str, ...]
    needs_restart: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Readiness:
    """Whether this gateway should get traffic; `reasons` says why not."""

    ready: bool
    reasons: tuple[str, ...] = ()


class RouteWeight(NamedTuple):
    """Weight in force of one arm (hundredths of a percent) and the version that answers.

    A tuple, because each scrape makes one for each model while the control loop waits.
    """

    model: str
    arm: str
    version: str
    weight: int


@dataclass(frozen=True, slots=True)
class AcceptedVersion:
    """A version that may take the place of any other of its model.

    Attributes:
        also: versions that it replaces, accepted with it for the way back.
        already: whether that was so before.
        revision: of the store, that has it.
    """

    model: str
    version: str
    also: tuple[str, ...] = ()
    already: bool = False
    revision: int = 0


@dataclass(frozen=True, slots=True)
class RegistryGauge:
    """Numbers of one registry.

    Attributes:
        age: seconds since it was read whole; None where it never was.
        lost: models that it has no more and that go on, because it lost so many at once.
        pointers_lost: stages and aliases of the same kind.
    """

    name: str
    age: float | None
    problems: int
    lost: int = 0
    pointers_lost: int = 0


@dataclass(frozen=True, slots=True)
class WebhookCount:
    """Notices posted for one registry, and what came of them: taken, refused, unsupported or failed."""

    registry: str
    result: str
    count: int


@dataclass(frozen=True, slots=True)
class WriteCount:
    """How many changes a registry was asked for; `kind` is `stage`, `alias` or `tag`."""

    registry: str
    kind: str
    result: str
    count: int


@dataclass(frozen=True, slots=True)
class Gauges:
    """Numbers for `/metrics` that the control loop knows and the data plane does not.

    Attributes:
        backends: name to whether it is up.
        certificates: unix seconds until which our own are valid, by `listen` or `backend NAME`.
        certificates_refused: changed files that could not be used.
        shadows: how the answers of shadows compare.
        writes: changes that registries were asked for.
        webhooks: notices of registries.
        writes_pending: registry to how many decisions it does not say yet.
    """

    revision: int
    weights: tuple[RouteWeight, ...] = ()
    backends: Mapping[str, bool] = field(default_factory=dict)
    registries: tuple[RegistryGauge, ...] = ()
    certificates: Mapping[str, int] = field(default_factory=dict)
    certificates_refused: int = 0
    shadows: tuple[ShadowComparison, ...] = ()
    webhooks: tuple[WebhookCount, ...] = ()
    writes: tuple[WriteCount, ...] = ()
    writes_pending: Mapping[str, int] = field(default_factory=dict)


class Catalogue(Protocol):
    """What there is to serve."""

    async def models(self) -> tuple[ModelSummary, ...]:
        """All models by name, those that cannot be served included, with the reason."""
        ...

    async def versions(self, model: ModelName) -> ModelVersions:
        """One model with all its versions. Raises ModelNotFound."""
        ...

    async def describe(self, model: ModelName, reference: str) -> VersionDetail:
        """All that is known of the version that a reference names in the registry; "" for the stable one.

        Raises:
            ModelNotFound, VersionNotFound, InvalidReference.
        """
        ...

    async def resolve(self, model: ModelName, reference: str, said: Said = NOTHING) -> Resolution:
        """What a request would meet; by the same code as the hot path, without sending anything.

        Raises:
            ModelNotFound, VersionNotFound, InvalidReference: as a client would be answered.
            InvalidInput: it cannot say that.
            Unavailable: the model exists, but no split of it can be answered now.
        """
        ...


class Routing(Protocol):
    """Traffic policy. `expected_revision=None` means "whatever is there"."""

    async def routes(self) -> RouteTable:
        """All explicit routes. Raises StateUnavailable."""
        ...

    async def route(self, model: ModelName) -> RouteView:
        """The route in force, explicit or implicit. Raises ModelNotFound, StateUnavailable."""
        ...

    async def apply_routes(
        self, routes: Sequence[Route], *, expected_revision: int | None, change: Change, force: bool = False
    ) -> tuple[RouteChange, ...]:
        """Write all routes in one atomic change; one `RouteChange` each, all of one revision.

        Args:
            force: also where an arm breaks the contract of what it is to replace; needs a reason.

        Raises:
            ContractBroken: an arm breaks the contract of what it is to replace.
            ModelNotFound, VersionNotFound, InvalidRoute: a route that cannot be served as written.
            Conflict: the store is at another revision than expected. Nothing was written.
            StateUnavailable: the store cannot be written now.
        """
        ...

    async def delete_route(
        self, model: ModelName, *, expected_revision: int | None, change: Change
    ) -> RouteChange:
        """Go back to the implicit route. Raises RouteNotFound, Conflict, StateUnavailable."""
        ...

    async def history(self, model: ModelName, limit: int) -> tuple[RouteChange, ...]:
        """Changes of one route, newest first, at most `limit`. Raises StateUnavailable."""
        ...


class Accepting(Protocol):
    """Versions that take over whatever contract they break."""

    async def accept(self, model: ModelName, reference: str, *, change: Change) -> AcceptedVersion:
        """Let a version take the place of any other of its model; needs a reason.

        Raises:
            ModelNotFound, VersionNotFound, InvalidReference, InvalidInput: nothing was changed.
            StateUnavailable: the state cannot be written now.
        """
        ...


class Moving(Protocol):
    """Decisions about stages and aliases, which registries are told of."""

    async def promote(
        self,
        model: ModelName,
        reference: str,
        to: str,
        *,
        keep_existing: bool,
        force: bool,
        change: Change,
    ) -> Moved:
        """Let a stage or `@alias` name a version, for clients and in the registry.

        Args:
            reference: names the version now.
            to: a stage, or an alias with its `@`.
            keep_existing: other versions stay in that stage, where it may hold several.
            force: also where the version breaks the contract of the one before it; needs a reason.

        Raises:
            ModelNotFound, VersionNotFound, InvalidReference, InvalidInput, ContractBroken: nothing changed.
            NotSupported: the model is in no registry.
            LoadFailed: the version cannot be loaded, so clients would never meet it.
            Conflict, StateUnavailable: the state is changed by others, or cannot be written now.
        """
        ...

    async def rollback(self, model: ModelName, pointer: str, version: str, *, change: Change) -> Moved:
        """Bring a model's stable traffic back, and its registry with it.

        Args:
            pointer: the stage or `@alias` that is to go back; "" for what the stable arm goes by.
            version: the one to go back to; "" for the one before the last move.

        Raises:
            As `promote`; InvalidInput also where nothing is known of the time before.
        """
        ...

    async def writes(self, ended: int) -> tuple[WriteRow, ...]:
        """Open registry changes, oldest first, then the newest ended ones. Raises StateUnavailable."""
        ...

    async def clear_write(self, number: int, *, change: Change) -> WriteRow:
        """Give an open one up: traffic follows the registry again.

        Raises:
            NotFound: there is no open one of that number.
            Unavailable: it is being written at this moment.
            StateUnavailable: the state cannot be written now.
        """
        ...


class Process(Protocol):
    """The gateway itself."""

    async def status(self) -> StatusReport:
        """Everything at a glance."""
        ...

    async def readiness(self) -> Readiness:
        """Whether this gateway should get traffic. Cheap: asked by probes."""
        ...

    async def gauges(self) -> Gauges:
        """Numbers for `/metrics`. Cheap: asked at each scrape."""
        ...

    async def reload(self) -> ReloadReport:
        """Read the configuration file again and take what changed, or refuse all of it.

        Raises:
            ConfigInvalid: with every mistake; nothing was changed.
        """
        ...


class Operations(Catalogue, Routing, Accepting, Moving, Process, Protocol):
    """All of it; what `gateway.running` implements."""
