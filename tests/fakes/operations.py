"""A gateway for tests of its operator's side: answers from plain values, keeps routes like a store."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from gateway.operations import (
    NOTHING,
    AcceptedVersion,
    ArmView,
    BackendStatus,
    Change,
    Gauges,
    Measured,
    Mismatch,
    ModelSummary,
    ModelVersions,
    Moved,
    Problem,
    Readiness,
    ReferenceKind,
    RegistryGauge,
    RegistryStatus,
    ReloadReport,
    Resolution,
    RouteChange,
    RouteTable,
    RouteView,
    RouteWeight,
    Said,
    ShadowComparison,
    ShadowView,
    Share,
    StatusReport,
    Totals,
    VersionDetail,
    VersionRow,
    VersionState,
    WriteCount,
    WriteRow,
)
from router.errors import (
    Conflict,
    ModelNotFound,
    NotFound,
    RouteNotFound,
    StagegateError,
    VersionNotFound,
)
from router.model import Arm, Contract, ModelName, Route, TensorSpec

DIGITS = ModelName("digits")

SUMMARY = ModelSummary(
    name="digits",
    registry="local",
    versions=("1", "2"),
    stages={"production": "1"},
    aliases={"challenger": "2"},
    ready=("1",),
    route="stable=production:100",
)
BROKEN = ModelSummary(name="org/m", registry="local", versions=(), problem="'org/m' is not a logical name")

VERSIONS = ModelVersions(
    name="digits",
    registry="local",
    description="handwritten digits",
    versions=(
        VersionRow(
            version="1",
            state=VersionState.READY,
            stages=("production",),
            arms=("stable",),
            format="onnx",
            backends=("t0",),
            backend_model="digits.1.0123abcd",
            metrics={"accuracy": 0.9625},
            digest="sha256:" + "ab" * 32,
            created=1_700_000_000.0,
            kept="stays loaded for 540 s: alias champion went on from it",
        ),
        VersionRow(
            version="2",
            state=VersionState.FAILED,
            aliases=("challenger",),
            format="onnx",
            reason="load failed: no such file [model.onnx]",
        ),
    ),
)

CONTRACT = Contract(
    inputs=(TensorSpec("image", "FP32", (-1, 64)),), outputs=(TensorSpec("label", "INT64", (-1,)),)
)

DETAILS = {
    "1": VersionDetail(
        model="digits",
        registry="local",
        description="handwritten digits",
        row=VERSIONS.versions[0],
        artifact="s3://models/digits/1",
        contract=CONTRACT,
        contract_from="registry",
        size=3 << 20,
        tags={"team": "risk"},
        lineage={"commit": "abc123"},
        model_tags={"owner": "ann"},
        measured=Measured(requests=200, failed=3, mean=0.004, p50=0.003, p95=0.009, p99=0.02),
    ),
    "2": VersionDetail(
        model="digits",
        registry="local",
        description="handwritten digits",
        row=VERSIONS.versions[1],
        contract=replace(CONTRACT, inputs=(TensorSpec("image", "FP32", (-1, 32)),)),
        contract_from="triton",
        unusable="its registration is not finished",
    ),
}
"""All that is known of the two versions of `digits`."""

STATUS = StatusReport(
    version="0.1.0",
    started=1_700_000_000.0,
    uptime=3_700.0,
    ready=True,
    reasons=(),
    config="stagegate.yaml",
    state="sqlite:///stagegate.db",
    revision=7,
    inference="127.0.0.1:8001",
    metrics="127.0.0.1:8002",
    admin="127.0.0.1:8003",
    connections=3,
    requests=12_345,
    totals=Totals(models=2, versions=2, ready=1, loading=0, failed=1, routes=1),
    backends=(
        BackendStatus("t0", "127.0.0.1:9001", "explicit", up=True, models=1, server="triton 2.51.0"),
        BackendStatus("t1", "127.0.0.1:9101", "none", up=False, reason="connection refused"),
    ),
    registries=(
        RegistryStatus("local", "folder", models=2, age=0.4, problems=(Problem("digits/3", "half a file"),)),
        RegistryStatus("away", "folder", models=0, age=None, reason="no such folder"),
    ),
    problems=(Problem("org/m", "is not a logical name"),),
)

COMPARISON = ShadowComparison(
    model="digits",
    version="2",
    shadow="next",
    compared=40,
    mismatches={"invalid": 1, "value": 2},
    rows=39,
    agreed=37,
    recent=(
        Mismatch(
            1_700_000_050.0, "0123456789abcdef", "1", "value", "probability", "2 of 10 elements differ", 0.5
        ),
        Mismatch(
            1_700_000_040.0, "0123456789abcdee", "1", "invalid", "", "the answer is no ModelInferResponse"
        ),
    ),
)
SHADOW_VIEWS = (
    ShadowView(
        "next",
        "staging",
        2_500,
        "2",
        VersionState.READY,
        results={"ok": 40, "queue_full": 3},
        comparison=COMPARISON,
    ),
    ShadowView("old", "@champion", 10_000, "", waiting="it gets no copies"),
)

GAUGES = Gauges(
    revision=7,
    weights=(RouteWeight("digits", "stable", "1", 9_950), RouteWeight("digits", "canary", "2", 50)),
    backends={"t0": True, "t1": False},
    registries=(RegistryGauge("local", 0.4, 1), RegistryGauge("away", None, 0, 7, 9)),
    shadows=(COMPARISON,),
    writes=(WriteCount("local", "alias", "success", 3), WriteCount("local", "tag", "refused", 1)),
    writes_pending={"local": 2, "away": 0},
)

PENDING = WriteRow(
    id=4,
    registry="local",
    model="digits",
    kind="alias",
    name="champion",
    version="2",
    registry_names="1",
    action="promote",
    state="pending",
    attempts=3,
    next_try=1_700_000_200.5,
    note="connection refused",
    actor="ann",
    reason="better",
    at=1_700_000_100.0,
    revision=8,
)
REFUSED = WriteRow(
    id=5,
    registry="local",
    model="digits",
    kind="stage",
    name="production",
    version="2",
    registry_names="",
    action="rollback",
    state="refused",
    note="locked by legal",
    actor="ben",
    at=1_700_000_110.0,
)
AGREED = WriteRow(
    id=3,
    registry="local",
    model="digits",
    kind="alias",
    name="champion",
    version="1",
    registry_names="1",
    action="rollback",
    state="agreed",
    at=1_700_000_000.0,
    ended=1_700_000_001.0,
)

MOVED = Moved("digits", "local", "alias", "champion", "1", "2", revision=8, write=4, said=("it is loading",))

NOTES = ("stage production: registry 'local' names 1, traffic follows 2",)


@dataclass(slots=True)
class FakeOperations:
    """Implements `gateway.operations.Operations`.

    Attributes:
        changes: every change of a route, oldest first.
        forced: whether each change of routes was forced.
        moves: what was asked: pointer, version, action, keep_existing, force, who and why.
        rows: registry changes; `next_rows` take their place each time they were asked for.
        moved: what a move came to.
        failure: raised by every call while it is set.
    """

    summaries: tuple[ModelSummary, ...] = (SUMMARY, BROKEN)
    catalogue: Mapping[ModelName, ModelVersions] = field(default_factory=lambda: {DIGITS: VERSIONS})
    report: StatusReport = STATUS
    readiness_now: Readiness = field(default_factory=lambda: Readiness(ready=True))
    stored: dict[ModelName, RouteView] = field(default_factory=dict)
    changes: list[RouteChange] = field(default_factory=list)
    forced: list[bool] = field(default_factory=list)
    revision: int = 7
    moves: list[tuple[str, str, str, bool, bool, Change]] = field(default_factory=list)
    rows: tuple[WriteRow, ...] = (PENDING, REFUSED, AGREED)
    next_rows: list[tuple[WriteRow, ...]] = field(default_factory=list)
    moved: Moved = MOVED
    failure: BaseException | None = None

    async def models(self) -> tuple[ModelSummary, ...]:
        """All of them."""
        self._fail()
        return self.summaries

    async def versions(self, model: ModelName) -> ModelVersions:
        """From `catalogue`."""
        self._fail()
        return self._versions(model)

    async def describe(self, model: ModelName, reference: str) -> VersionDetail:
        """From `DETAILS`; "" is version 1, `@challenger` version 2."""
        self._fail()
        self._versions(model)
        named = {"": "1", "production": "1", "@challenger": "2"}.get(reference, reference)
        if named not in DETAILS:
            raise VersionNotFound(f"model {model!r} has no version, alias or stage {reference!r}")
        return DETAILS[named]

    async def resolve(self, model: ModelName, reference: str, said: Said = NOTHING) -> Resolution:
        """Version 1 by the split, anything that version rows name as pinned."""
        self._fail()
        found = self._versions(model)
        if not reference and said.headers.get("x-team") == "risk":
            return Resolution(
                model=model,
                registry=found.registry,
                reference="",
                kind=ReferenceKind.SPLIT,
                arm="canary",
                version="2",
                state=VersionState.READY,
                backends=("t0",),
                shares=(Share("stable", "1", 9_000), Share("canary", "2", 1_000)),
                why=("match rule 1 fits",),
                decided_by="rule",
                rule=0,
            )
        if not reference:
            return Resolution(
                model=model,
                registry=found.registry,
                reference="",
                kind=ReferenceKind.SPLIT,
                arm="stable",
                version="1",
                state=VersionState.READY,
                backends=("t0",),
                shares=(Share("stable", "1", 9_000), Share("canary", "2", 1_000)),
                why=("no reference was given, so the route decides",),
            )
        alias = reference.removeprefix("@")
        for row in found.versions:
            if reference == row.version or alias in row.aliases:
                kind = ReferenceKind.VERSION if reference == row.version else ReferenceKind.ALIAS
                return Resolution(
                    model, found.registry, reference, kind, "pinned", row.version, row.state, row.backends
                )
        raise VersionNotFound(
            f"model {model!r} has no version, alias or stage {reference!r}", hint="versions 2, 1"
        )

    async def routes(self) -> RouteTable:
        """What was applied."""
        self._fail()
        return RouteTable(self.revision, tuple(self.stored.values()))

    async def route(self, model: ModelName) -> RouteView:
        """What was applied, else an implicit one."""
        self._fail()
        self._versions(model)
        implicit = Route(model, (Arm("stable", "production", 10_000),))
        return self.stored.get(model) or _view(implicit, implicit=True, notes=NOTES)

    async def apply_routes(
        self, routes: Sequence[Route], *, expected_revision: int | None, change: Change, force: bool = False
    ) -> tuple[RouteChange, ...]:
        """Compare and set."""
        self._fail()
        self.forced.append(force)
        self._compare(expected_revision)
        for route in routes:
            self._versions(route.model)
        self.revision += 1
        made = []
        for route in routes:
            before = self.stored.get(route.model)
            made.append(self._change(route.model, before.route if before else None, route, change))
            self.stored[route.model] = _view(
                route, revision=self.revision, actor=change.actor, reason=change.reason, at=1_700_000_100.0
            )
        return tuple(made)

    async def accept(self, model: ModelName, reference: str, *, change: Change) -> AcceptedVersion:
        """The version before it with it."""
        self._fail()
        self._versions(model)
        self.revision += 1
        return AcceptedVersion(model, reference, ("1",), revision=self.revision)

    async def delete_route(
        self, model: ModelName, *, expected_revision: int | None, change: Change
    ) -> RouteChange:
        """Compare and delete."""
        self._fail()
        if model not in self.stored:
            raise RouteNotFound(f"model {model!r} has no route of its own")
        self._compare(expected_revision)
        self.revision += 1
        return self._change(model, self.stored.pop(model).route, None, change)

    async def history(self, model: ModelName, limit: int) -> tuple[RouteChange, ...]:
        """Newest first."""
        self._fail()
        return tuple([change for change in reversed(self.changes) if change.model == model][:limit])

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
        """`moved`."""
        self._fail()
        self._versions(model)
        self.moves.append((to, reference, "promote", keep_existing, force, change))
        return self.moved

    async def rollback(self, model: ModelName, pointer: str, version: str, *, change: Change) -> Moved:
        """`moved`."""
        self._fail()
        self._versions(model)
        self.moves.append((pointer, version, "rollback", False, False, change))
        return self.moved

    async def writes(self, ended: int) -> tuple[WriteRow, ...]:
        """`rows`."""
        self._fail()
        rows = self.rows
        if self.next_rows:
            self.rows = self.next_rows.pop(0)
        return tuple(row for row in rows if row.ended is None or ended)

    async def clear_write(self, number: int, *, change: Change) -> WriteRow:
        """Out of `rows`."""
        self._fail()
        found = [row for row in self.rows if row.id == number and row.ended is None]
        if not found:
            raise NotFound(f"there is no open write {number}", hint="`stagegate writes` lists them")
        return replace(found[0], state="cleared", note=f"given up by {change.actor}: {change.reason}")

    async def status(self) -> StatusReport:
        """`report`, at the revision of the store."""
        self._fail()
        return replace(self.report, revision=self.revision)

    async def readiness(self) -> Readiness:
        """`readiness_now`."""
        self._fail()
        return self.readiness_now

    async def gauges(self) -> Gauges:
        """Always the same."""
        self._fail()
        return GAUGES

    async def reload(self) -> ReloadReport:
        """Always the same."""
        self._fail()
        return ReloadReport("stagegate.yaml", ("backends",), ("threads",))

    def _fail(self) -> None:
        if self.failure is not None:
            raise self.failure

    def _versions(self, model: ModelName) -> ModelVersions:
        if model not in self.catalogue:
            raise ModelNotFound(f"there is no model {model!r}", hint="near it: digits")
        return self.catalogue[model]

    def _compare(self, expected: int | None) -> None:
        if expected is not None and expected != self.revision:
            raise Conflict(
                f"the store is at revision {self.revision}, not {expected}",
                current_revision=self.revision,
                hint="look again and retry",
            )

    def _change(
        self, model: ModelName, before: Route | None, after: Route | None, change: Change
    ) -> RouteChange:
        made = RouteChange(
            model, self.revision, before, after, change.actor, change.reason, at=1_700_000_100.0
        )
        self.changes.append(made)
        return made


def _view(
    route: Route,
    *,
    implicit: bool = False,
    revision: int = 0,
    actor: str = "",
    reason: str = "",
    at: float | None = None,
    notes: tuple[str, ...] = (),
) -> RouteView:
    arms = tuple(
        ArmView(arm.name, arm.reference, arm.weight, "1", arm.weight, VersionState.READY)
        for arm in route.arms
    )
    return RouteView(route, implicit, arms, revision, actor, reason, at, notes=notes)


def an_error(error: StagegateError) -> FakeOperations:
    """A gateway in which every call fails."""
    return FakeOperations(failure=error)
