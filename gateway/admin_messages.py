"""The messages of `stagegate.admin.v1` and the values of `gateway.operations`, both ways.

Server and client share this file, so that what one writes the other reads.
"""

from __future__ import annotations

from collections.abc import Iterable

from gateway.operations import (
    AcceptedVersion,
    ArmView,
    BackendStatus,
    Measured,
    Mismatch,
    ModelSummary,
    ModelVersions,
    Moved,
    Problem,
    ReferenceKind,
    RegistryStatus,
    ReloadReport,
    Resolution,
    RouteChange,
    RouteTable,
    RouteView,
    ShadowComparison,
    ShadowView,
    Share,
    StatusReport,
    Totals,
    VersionDetail,
    VersionRow,
    VersionState,
    WriteRow,
)
from protos.gen.stagegate.admin.v1 import admin_pb2 as pb
from router.alias import parse_reference
from router.errors import InvalidRoute
from router.model import (
    Arm,
    BackendModel,
    Condition,
    Contract,
    Fallback,
    MatchRule,
    Route,
    Shadow,
    Sticky,
    TensorSpec,
    Tolerance,
    parse_model_name,
)

_STATES: dict[VersionState, pb.VersionState.ValueType] = {
    VersionState.READY: pb.VERSION_STATE_READY,
    VersionState.LOADING: pb.VERSION_STATE_LOADING,
    VersionState.COLD: pb.VERSION_STATE_COLD,
    VersionState.FAILED: pb.VERSION_STATE_FAILED,
}
_KINDS: dict[ReferenceKind, pb.ReferenceKind.ValueType] = {
    ReferenceKind.SPLIT: pb.REFERENCE_KIND_SPLIT,
    ReferenceKind.VERSION: pb.REFERENCE_KIND_VERSION,
    ReferenceKind.ALIAS: pb.REFERENCE_KIND_ALIAS,
    ReferenceKind.STAGE: pb.REFERENCE_KIND_STAGE,
}
_STATES_BACK = {number: state for state, number in _STATES.items()}
_KINDS_BACK = {number: kind for kind, number in _KINDS.items()}
_MAX_DEADLINE = 86_400.0


# === models, versions, resolution ===


def write_models(models: Iterable[ModelSummary]) -> pb.ListModelsResponse:
    """The answer of ListModels."""
    return pb.ListModelsResponse(models=[_write_model(model) for model in models])


def read_models(message: pb.ListModelsResponse) -> tuple[ModelSummary, ...]:
    """What `write_models` was given."""
    return tuple(
        ModelSummary(
            name=model.name,
            registry=model.registry,
            versions=tuple(model.versions),
            stages=dict(model.stages),
            aliases=dict(model.aliases),
            ready=tuple(model.ready),
            route=model.route,
            implicit=model.implicit,
            problem=model.problem,
        )
        for model in message.models
    )


def _write_model(model: ModelSummary) -> pb.ModelSummary:
    return pb.ModelSummary(
        name=model.name,
        registry=model.registry,
        versions=model.versions,
        stages=model.stages,
        aliases=model.aliases,
        ready=model.ready,
        route=model.route,
        implicit=model.implicit,
        problem=model.problem,
    )


def write_versions(found: ModelVersions) -> pb.ListVersionsResponse:
    """The answer of ListVersions."""
    return pb.ListVersionsResponse(
        name=found.name,
        registry=found.registry,
        description=found.description,
        versions=[_write_version(row) for row in found.versions],
        problem=found.problem,
    )


def read_versions(message: pb.ListVersionsResponse) -> ModelVersions:
    """What `write_versions` was given."""
    return ModelVersions(
        name=message.name,
        registry=message.registry,
        description=message.description,
        versions=tuple(_read_version(row) for row in message.versions),
        problem=message.problem,
    )


def _write_version(row: VersionRow) -> pb.ModelVersion:
    return pb.ModelVersion(
        version=row.version,
        state=_STATES[row.state],
        stages=row.stages,
        aliases=row.aliases,
        arms=row.arms,
        format=row.format,
        backends=row.backends,
        backend_model=row.backend_model,
        metrics=row.metrics,
        digest=row.digest,
        reason=row.reason,
        created=row.created,
        kept=row.kept,
    )


def _read_version(row: pb.ModelVersion) -> VersionRow:
    return VersionRow(
        version=row.version,
        state=_STATES_BACK[row.state],
        stages=tuple(row.stages),
        aliases=tuple(row.aliases),
        arms=tuple(row.arms),
        format=row.format,
        backends=tuple(row.backends),
        backend_model=row.backend_model,
        metrics=dict(row.metrics),
        digest=row.digest,
        reason=row.reason,
        created=row.created if row.HasField("created") else None,
        kept=row.kept,
    )


def write_detail(found: VersionDetail) -> pb.DescribeVersionResponse:
    """The answer of DescribeVersion."""
    measured = found.measured
    return pb.DescribeVersionResponse(
        model=found.model,
        registry=found.registry,
        description=found.description,
        version=_write_version(found.row),
        artifact=found.artifact,
        contract=None if found.contract is None else _write_contract(found.contract),
        contract_from=found.contract_from,
        size=found.size,
        tags=dict(found.tags),
        lineage=dict(found.lineage),
        model_tags=dict(found.model_tags),
        unusable=found.unusable,
        measured=pb.Measured(
            requests=measured.requests,
            failed=measured.failed,
            mean=measured.mean,
            p50=measured.p50,
            p95=measured.p95,
            p99=measured.p99,
        ),
    )


def read_detail(message: pb.DescribeVersionResponse) -> VersionDetail:
    """What `write_detail` was given."""
    measured = message.measured
    return VersionDetail(
        model=message.model,
        registry=message.registry,
        description=message.description,
        row=_read_version(message.version),
        artifact=message.artifact,
        contract=_read_contract(message.contract) if message.HasField("contract") else None,
        contract_from=message.contract_from,
        size=message.size if message.HasField("size") else None,
        tags=dict(message.tags),
        lineage=dict(message.lineage),
        model_tags=dict(message.model_tags),
        unusable=message.unusable,
        measured=Measured(
            requests=measured.requests,
            failed=measured.failed,
            mean=measured.mean if measured.HasField("mean") else None,
            p50=measured.p50 if measured.HasField("p50") else None,
            p95=measured.p95 if measured.HasField("p95") else None,
            p99=measured.p99 if measured.HasField("p99") else None,
        ),
    )


def _write_contract(contract: Contract) -> pb.Contract:
    def tensors(specs: Iterable[TensorSpec]) -> list[pb.Tensor]:
        return [pb.Tensor(name=spec.name, datatype=spec.datatype, shape=spec.shape) for spec in specs]

    return pb.Contract(inputs=tensors(contract.inputs), outputs=tensors(contract.outputs))


def _read_contract(contract: pb.Contract) -> Contract:
    def specs(tensors: Iterable[pb.Tensor]) -> tuple[TensorSpec, ...]:
        return tuple(TensorSpec(one.name, one.datatype, tuple(one.shape)) for one in tensors)

    return Contract(specs(contract.inputs), specs(contract.outputs))


def write_resolution(found: Resolution) -> pb.ResolveResponse:
    """The answer of Resolve."""
    return pb.ResolveResponse(
        model=found.model,
        registry=found.registry,
        reference=found.reference,
        kind=_KINDS[found.kind],
        arm=found.arm,
        version=found.version,
        state=_STATES[found.state],
        backends=found.backends,
        backend_model=found.backend_model,
        shares=[
            pb.Share(arm=share.arm, version=share.version, weight=share.weight) for share in found.shares
        ],
        why=found.why,
        decided_by=found.decided_by,
        rule=found.rule,
        bucket=found.bucket,
    )


def read_resolution(message: pb.ResolveResponse) -> Resolution:
    """What `write_resolution` was given."""
    return Resolution(
        model=message.model,
        registry=message.registry,
        reference=message.reference,
        kind=_KINDS_BACK[message.kind],
        arm=message.arm,
        version=message.version,
        state=_STATES_BACK[message.state],
        backends=tuple(message.backends),
        backend_model=message.backend_model,
        shares=tuple(Share(share.arm, share.version, share.weight) for share in message.shares),
        why=tuple(message.why),
        decided_by=message.decided_by,
        rule=message.rule if message.HasField("rule") else None,
        bucket=message.bucket if message.HasField("bucket") else None,
    )


# === routes ===


def write_route(route: Route) -> pb.Route:
    """A route as a message."""
    arms = [
        pb.Arm(
            name=arm.name,
            version=arm.reference,
            weight=arm.weight,
            backend_model=_write_backend_model(arm.backend_model),
        )
        for arm in route.arms
    ]
    return pb.Route(
        model=route.model,
        registry=route.registry,
        arms=arms,
        deadline=route.deadline,
        shadows=[_write_shadow(shadow) for shadow in route.shadows],
        match=[_write_rule(rule) for rule in route.match],
        sticky=pb.Sticky(by=route.sticky.by, salt=route.sticky.salt) if route.sticky else None,
        arm_header=route.arm_header,
        fallback=_write_fallback(route.fallback),
    )


def _write_rule(rule: MatchRule) -> pb.MatchRule:
    said = [pb.Condition(kind=c.kind, name=c.name, value=c.value) for c in rule.conditions]
    return pb.MatchRule(conditions=said, arm=rule.arm)


def _read_rule(rule: pb.MatchRule) -> MatchRule:
    return MatchRule(tuple(Condition(c.kind, c.name, c.value) for c in rule.conditions), rule.arm)


def _write_fallback(fallback: Fallback | None) -> pb.Fallback | None:
    return None if fallback is None else pb.Fallback(codes=fallback.codes, to=fallback.to)


def _write_shadow(shadow: Shadow) -> pb.Shadow:
    return pb.Shadow(
        name=shadow.name,
        version=shadow.reference,
        sample=shadow.sample,
        atol=shadow.tolerance.atol,
        rtol=shadow.tolerance.rtol,
    )


def _write_backend_model(model: BackendModel | None) -> pb.BackendModel | None:
    return None if model is None else pb.BackendModel(name=model.name, version=model.version)


def read_route(message: pb.Route) -> Route:
    """A message as a route.

    Raises:
        InvalidName, InvalidReference, InvalidRoute: it cannot be one.
    """
    model = parse_model_name(message.model)
    for arm in message.arms:
        if arm.version:
            parse_reference(arm.version)
    deadline = message.deadline if message.HasField("deadline") else None
    if deadline is not None and not 0 < deadline <= _MAX_DEADLINE:
        raise InvalidRoute(f"route of {model!r}: deadline must be above 0 and at most 24 hours")
    arms = tuple(_read_arm(arm) for arm in message.arms)
    shadows = tuple(_read_shadow(shadow) for shadow in message.shadows)
    sticky = Sticky(message.sticky.by, message.sticky.salt) if message.HasField("sticky") else None
    fallback = None
    if message.HasField("fallback"):
        fallback = Fallback(tuple(message.fallback.codes), message.fallback.to)
    return Route(
        model=model,
        arms=arms,
        registry=message.registry,
        deadline=deadline,
        shadows=shadows,
        match=tuple(_read_rule(rule) for rule in message.match),
        sticky=sticky,
        arm_header=message.arm_header,
        fallback=fallback,
    )


def _read_shadow(shadow: pb.Shadow) -> Shadow:
    parse_reference(shadow.version)
    return Shadow(shadow.name, shadow.version, shadow.sample, Tolerance(shadow.atol, shadow.rtol))


def _read_arm(arm: pb.Arm) -> Arm:
    backend_model = None
    if arm.HasField("backend_model"):
        if not arm.backend_model.name:
            raise InvalidRoute(f"arm {arm.name!r}: backend_model needs a name")
        backend_model = BackendModel(arm.backend_model.name, arm.backend_model.version)
    return Arm(arm.name, arm.version, arm.weight, backend_model)


def write_route_view(view: RouteView) -> pb.RouteView:
    """A route in force as a message."""
    return pb.RouteView(
        route=write_route(view.route),
        implicit=view.implicit,
        arms=[_write_arm_view(arm) for arm in view.arms],
        revision=view.revision,
        actor=view.actor,
        reason=view.reason,
        at=view.at,
        shadows=[_write_shadow_view(shadow) for shadow in view.shadows],
        notes=view.notes,
    )


def read_route_view(message: pb.RouteView) -> RouteView:
    """What `write_route_view` was given."""
    return RouteView(
        route=read_route(message.route),
        implicit=message.implicit,
        arms=tuple(_read_arm_view(arm) for arm in message.arms),
        revision=message.revision,
        actor=message.actor,
        reason=message.reason,
        at=message.at if message.HasField("at") else None,
        shadows=tuple(_read_shadow_view(message.route.model, shadow) for shadow in message.shadows),
        notes=tuple(message.notes),
    )


def _write_shadow_view(shadow: ShadowView) -> pb.ShadowView:
    return pb.ShadowView(
        name=shadow.name,
        reference=shadow.reference,
        sample=shadow.sample,
        version=shadow.version,
        state=_STATES[shadow.state] if shadow.state else pb.VERSION_STATE_UNSPECIFIED,
        waiting=shadow.waiting,
        results=shadow.results,
        comparison=_write_comparison(shadow.comparison) if shadow.comparison else None,
    )


def _read_shadow_view(model: str, shadow: pb.ShadowView) -> ShadowView:
    compared = shadow.HasField("comparison")
    return ShadowView(
        name=shadow.name,
        reference=shadow.reference,
        sample=shadow.sample,
        version=shadow.version,
        state=_STATES_BACK.get(shadow.state),
        waiting=shadow.waiting,
        results=dict(shadow.results),
        comparison=_read_comparison(model, shadow) if compared else None,
    )


def _write_comparison(comparison: ShadowComparison) -> pb.ShadowComparison:
    return pb.ShadowComparison(
        compared=comparison.compared,
        mismatches=comparison.mismatches,
        rows=comparison.rows,
        agreed=comparison.agreed,
        recent=[
            pb.Mismatch(
                at=one.at,
                request=one.request,
                version=one.version,
                kind=one.kind,
                output=one.output,
                detail=one.detail,
                largest=one.largest,
            )
            for one in comparison.recent
        ],
    )


def _read_comparison(model: str, shadow: pb.ShadowView) -> ShadowComparison:
    comparison = shadow.comparison
    return ShadowComparison(
        model=model,
        version=shadow.version,
        shadow=shadow.name,
        compared=comparison.compared,
        mismatches=dict(comparison.mismatches),
        rows=comparison.rows,
        agreed=comparison.agreed,
        recent=tuple(
            Mismatch(
                at=one.at,
                request=one.request,
                version=one.version,
                kind=one.kind,
                output=one.output,
                detail=one.detail,
                largest=one.largest if one.HasField("largest") else None,
            )
            for one in comparison.recent
        ),
    )


def _write_arm_view(arm: ArmView) -> pb.ArmView:
    return pb.ArmView(
        name=arm.name,
        reference=arm.reference,
        weight=arm.weight,
        version=arm.version,
        served_weight=arm.served_weight,
        state=_STATES[arm.state] if arm.state else pb.VERSION_STATE_UNSPECIFIED,
        waiting=arm.waiting,
    )


def _read_arm_view(arm: pb.ArmView) -> ArmView:
    return ArmView(
        name=arm.name,
        reference=arm.reference,
        weight=arm.weight,
        version=arm.version,
        served_weight=arm.served_weight,
        state=_STATES_BACK.get(arm.state),
        waiting=arm.waiting,
    )


def write_route_table(table: RouteTable) -> pb.ListRoutesResponse:
    """The answer of ListRoutes."""
    return pb.ListRoutesResponse(
        revision=table.revision, routes=[write_route_view(view) for view in table.routes]
    )


def read_route_table(message: pb.ListRoutesResponse) -> RouteTable:
    """What `write_route_table` was given."""
    return RouteTable(message.revision, tuple(read_route_view(view) for view in message.routes))


def write_route_change(change: RouteChange) -> pb.RouteChange:
    """One change as a message."""
    return pb.RouteChange(
        model=change.model,
        revision=change.revision,
        before=write_route(change.before) if change.before else None,
        after=write_route(change.after) if change.after else None,
        actor=change.actor,
        reason=change.reason,
        at=change.at,
    )


def read_route_change(message: pb.RouteChange) -> RouteChange:
    """What `write_route_change` was given."""
    return RouteChange(
        model=parse_model_name(message.model),
        revision=message.revision,
        before=read_route(message.before) if message.HasField("before") else None,
        after=read_route(message.after) if message.HasField("after") else None,
        actor=message.actor,
        reason=message.reason,
        at=message.at,
    )


# === promotions, rollbacks, and what registries are told of them ===


def write_accepted(accepted: AcceptedVersion) -> pb.AcceptVersionResponse:
    """The answer of AcceptVersion."""
    return pb.AcceptVersionResponse(
        model=accepted.model,
        version=accepted.version,
        also=accepted.also,
        already=accepted.already,
        revision=accepted.revision,
    )


def read_accepted(message: pb.AcceptVersionResponse) -> AcceptedVersion:
    """What `write_accepted` was given."""
    return AcceptedVersion(
        message.model, message.version, tuple(message.also), message.already, message.revision
    )


def write_moved(moved: Moved) -> pb.MoveResponse:
    """The answer of Promote and Rollback."""
    return pb.MoveResponse(
        model=moved.model,
        registry=moved.registry,
        kind=moved.kind,
        name=moved.name,
        before=moved.before,
        after=moved.after,
        already=moved.already,
        revision=moved.revision,
        write=moved.write,
        said=moved.said,
    )


def read_moved(message: pb.MoveResponse) -> Moved:
    """What `write_moved` was given."""
    return Moved(
        model=message.model,
        registry=message.registry,
        kind=message.kind,
        name=message.name,
        before=message.before,
        after=message.after,
        already=message.already,
        revision=message.revision,
        write=message.write,
        said=tuple(message.said),
    )


def write_writes(rows: Iterable[WriteRow]) -> pb.ListWritesResponse:
    """The answer of ListWrites."""
    return pb.ListWritesResponse(writes=[write_write(row) for row in rows])


def read_writes(message: pb.ListWritesResponse) -> tuple[WriteRow, ...]:
    """What `write_writes` was given."""
    return tuple(read_write(row) for row in message.writes)


def write_write(row: WriteRow) -> pb.RegistryWrite:
    """One registry change as a message."""
    return pb.RegistryWrite(
        id=row.id,
        registry=row.registry,
        model=row.model,
        kind=row.kind,
        name=row.name,
        version=row.version,
        registry_names=row.registry_names,
        action=row.action,
        state=row.state,
        attempts=row.attempts,
        next_try=row.next_try,
        note=row.note,
        actor=row.actor,
        reason=row.reason,
        at=row.at,
        ended=row.ended,
        revision=row.revision,
    )


def read_write(row: pb.RegistryWrite) -> WriteRow:
    """What `write_write` was given."""
    return WriteRow(
        id=row.id,
        registry=row.registry,
        model=row.model,
        kind=row.kind,
        name=row.name,
        version=row.version,
        registry_names=row.registry_names,
        action=row.action,
        state=row.state,
        attempts=row.attempts,
        next_try=row.next_try if row.HasField("next_try") else None,
        note=row.note,
        actor=row.actor,
        reason=row.reason,
        at=row.at,
        ended=row.ended if row.HasField("ended") else None,
        revision=row.revision,
    )


# === the gateway itself ===


def write_status(report: StatusReport) -> pb.GetStatusResponse:
    """The answer of GetStatus."""
    totals = report.totals
    return pb.GetStatusResponse(
        version=report.version,
        started=report.started,
        uptime=report.uptime,
        ready=report.ready,
        reasons=report.reasons,
        config=report.config,
        state=report.state,
        revision=report.revision,
        inference=report.inference,
        metrics=report.metrics,
        admin=report.admin,
        connections=report.connections,
        requests=report.requests,
        totals=pb.Totals(
            models=totals.models,
            versions=totals.versions,
            ready=totals.ready,
            loading=totals.loading,
            failed=totals.failed,
            routes=totals.routes,
        ),
        backends=[_write_backend(backend) for backend in report.backends],
        registries=[_write_registry(registry) for registry in report.registries],
        problems=_write_problems(report.problems),
    )


def read_status(message: pb.GetStatusResponse) -> StatusReport:
    """What `write_status` was given."""
    totals = message.totals
    return StatusReport(
        version=message.version,
        started=message.started,
        uptime=message.uptime,
        ready=message.ready,
        reasons=tuple(message.reasons),
        config=message.config,
        state=message.state,
        revision=message.revision,
        inference=message.inference,
        metrics=message.metrics,
        admin=message.admin,
        connections=message.connections,
        requests=message.requests,
        totals=Totals(
            models=totals.models,
            versions=totals.versions,
            ready=totals.ready,
            loading=totals.loading,
            failed=totals.failed,
            routes=totals.routes,
        ),
        backends=tuple(_read_backend(backend) for backend in message.backends),
        registries=tuple(_read_registry(registry) for registry in message.registries),
        problems=_read_problems(message.problems),
    )


def _write_backend(backend: BackendStatus) -> pb.BackendStatus:
    return pb.BackendStatus(
        name=backend.name,
        address=backend.address,
        control=backend.control,
        up=backend.up,
        models=backend.models,
        reason=backend.reason,
        server=backend.server,
    )


def _read_backend(backend: pb.BackendStatus) -> BackendStatus:
    return BackendStatus(
        name=backend.name,
        address=backend.address,
        control=backend.control,
        up=backend.up,
        models=backend.models,
        reason=backend.reason,
        server=backend.server,
    )


def _write_registry(registry: RegistryStatus) -> pb.RegistryStatus:
    return pb.RegistryStatus(
        name=registry.name,
        type=registry.type,
        models=registry.models,
        age=registry.age,
        reason=registry.reason,
        problems=_write_problems(registry.problems),
    )


def _read_registry(registry: pb.RegistryStatus) -> RegistryStatus:
    return RegistryStatus(
        name=registry.name,
        type=registry.type,
        models=registry.models,
        age=registry.age if registry.HasField("age") else None,
        reason=registry.reason,
        problems=_read_problems(registry.problems),
    )


def _write_problems(problems: Iterable[Problem]) -> list[pb.Problem]:
    return [pb.Problem(subject=problem.subject, message=problem.message) for problem in problems]


def _read_problems(problems: Iterable[pb.Problem]) -> tuple[Problem, ...]:
    return tuple(Problem(problem.subject, problem.message) for problem in problems)


def write_reload(report: ReloadReport) -> pb.ReloadResponse:
    """The answer of Reload."""
    return pb.ReloadResponse(config=report.config, changed=report.changed, needs_restart=report.needs_restart)


def read_reload(message: pb.ReloadResponse) -> ReloadReport:
    """What `write_reload` was given."""
    return ReloadReport(message.config, tuple(message.changed), tuple(message.needs_restart))
