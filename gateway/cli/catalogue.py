"""`stagegate models | versions | resolve | status | reload`: what is there, and how it is."""

# ruff: noqa: PLC0415 -- commands import when they run, so that --help is quick
# ruff: noqa: T201 -- standard output is what a command line is for
from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from gateway.cli.options import DEFAULT_SERVER, Json, Model, Server, admin, pairs

if TYPE_CHECKING:
    from gateway.operations import (
        ModelSummary,
        ModelVersions,
        ReloadReport,
        Resolution,
        StatusReport,
        VersionRow,
    )

_DIGEST_SHOWN = 12


def models(server: Server = DEFAULT_SERVER, as_json: Json = False) -> None:
    """List all models, and what keeps one from being served."""
    from gateway.cli import output

    with admin(server) as client:
        found = client.models()
    if as_json:
        output.print_json(found)
        return
    output.table(
        ("MODEL", "REGISTRY", "VERSIONS", "POINTERS", "READY", "ROUTE", "PROBLEM"),
        map(_model_row, found),
        empty="there are no models; 'stagegate status' shows the registries and what is wrong with them",
    )


def _model_row(model: ModelSummary) -> tuple[str, ...]:
    pointers = [f"{name}={version}" for name, version in sorted(model.stages.items())]
    pointers += [f"@{name}={version}" for name, version in sorted(model.aliases.items())]
    route = f"{model.route} (implicit)" if model.route and model.implicit else model.route
    return (
        model.name,
        model.registry,
        ", ".join(model.versions),
        ", ".join(pointers),
        ", ".join(model.ready),
        route,
        model.problem,
    )


def versions(model: Model, server: Server = DEFAULT_SERVER, as_json: Json = False) -> None:
    """List the versions of a model."""
    from gateway.cli import output

    with admin(server) as client:
        found = client.versions(model)
    if as_json:
        output.print_json(found)
        return
    _show_versions(found)


def _show_versions(found: ModelVersions) -> None:
    from gateway.cli import output

    output.facts(
        [
            ("model", found.name),
            ("registry", found.registry),
            ("description", found.description),
            ("problem", found.problem),
        ]
    )
    print()
    output.table(
        (
            "VERSION",
            "STATE",
            "STAGES",
            "ALIASES",
            "ARMS",
            "FORMAT",
            "BACKENDS",
            "METRICS",
            "DIGEST",
            "REASON",
        ),
        map(_version_row, found.versions),
        empty="it has no versions",
    )


def _version_row(row: VersionRow) -> tuple[str, ...]:
    from gateway.cli import output

    return (
        row.version,
        row.state.value,
        output.names(row.stages),
        output.names(row.aliases, "@"),
        output.names(row.arms),
        row.format,
        output.names(row.backends),
        output.names(f"{name}={value:.4g}" for name, value in sorted(row.metrics.items())),
        row.digest.removeprefix("sha256:")[:_DIGEST_SHOWN],
        row.reason or row.kept,
    )


def resolve(
    reference: Annotated[
        str,
        typer.Argument(metavar="MODEL[@REF]", help="Such as digits, digits@production, digits@@champion."),
    ],
    *,
    headers: Annotated[
        list[str] | None,
        typer.Option("--header", metavar="NAME=VALUE", help="Metadata that the request has."),
    ] = None,
    parameters: Annotated[
        list[str] | None,
        typer.Option("--parameter", metavar="NAME=VALUE", help="A parameter that the request has."),
    ] = None,
    key: Annotated[str, typer.Option("--key", help="The request's own sticky key (stagegate-key).")] = "",
    server: Server = DEFAULT_SERVER,
    as_json: Json = False,
) -> None:
    """Show which version, arm and backend a request would meet, and why."""
    from gateway.cli import output
    from gateway.operations import Said

    model, _, name = reference.partition("@")
    said = Said(pairs("--header", headers or []), pairs("--parameter", parameters or []))
    if key:
        said = Said({**said.headers, "stagegate-key": key}, said.parameters)
    with admin(server) as client:
        found = client.resolve(model, name, said)
    if as_json:
        output.print_json(found)
        return
    _show_resolution(found)


def _show_resolution(found: Resolution) -> None:
    from gateway.cli import output

    output.facts(
        [
            ("model", found.model),
            ("registry", found.registry),
            ("reference", found.reference or "(none)"),
            ("kind", found.kind.value),
            ("version", found.version),
            ("arm", found.arm),
            ("state", found.state.value),
            ("backends", output.names(found.backends)),
            ("backend model", found.backend_model),
        ]
    )
    if len(found.shares) > 1:
        output.heading("split")
        rows = ((share.arm, share.version, output.weight(share.weight)) for share in found.shares)
        output.table(("ARM", "VERSION", "WEIGHT"), rows, empty="")
    if found.why:
        output.heading("why")
        for sentence in found.why:
            print(f"  {sentence}")


def status(server: Server = DEFAULT_SERVER, as_json: Json = False) -> None:
    """Show the gateway at a glance: backends, registries, problems."""
    from gateway.cli import output

    with admin(server) as client:
        report = client.status()
    if as_json:
        output.print_json(report)
        return
    _show_status(report)


def _show_status(report: StatusReport) -> None:
    from gateway.cli import output

    totals = report.totals
    versions, routes = output.count(totals.versions, "version"), output.count(totals.routes, "route")
    connections = output.count(report.connections, "connection")
    ready = "yes" if report.ready else f"no: {'; '.join(report.reasons)}"
    output.facts(
        [
            ("stagegate", f"{report.version}, up {output.ago(report.uptime)}"),
            ("ready", ready),
            ("inference", f"{report.inference} ({connections})"),
            ("metrics", report.metrics),
            ("admin", report.admin),
            ("config", report.config),
            ("state", f"{report.state} at revision {report.revision}"),
            ("models", f"{totals.models} with {versions}, {routes}"),
            ("versions", f"{totals.ready} ready, {totals.loading} loading, {totals.failed} failed"),
            ("requests", str(report.requests)),
        ]
    )
    _show_parts(report)


def _show_parts(report: StatusReport) -> None:
    from gateway.cli import output

    output.heading("backends")
    output.table(
        ("NAME", "ADDRESS", "CONTROL", "UP", "MODELS", "SERVER", "REASON"),
        (
            (b.name, b.address, b.control, "yes" if b.up else "no", str(b.models), b.server, b.reason)
            for b in report.backends
        ),
        empty="none",
    )
    output.heading("registries")
    output.table(
        ("NAME", "TYPE", "MODELS", "READ", "PROBLEMS", "REASON"),
        (
            (
                r.name,
                r.type,
                str(r.models),
                f"{output.ago(r.age)} ago" if r.age is not None else "never",
                str(len(r.problems)),
                r.reason,
            )
            for r in report.registries
        ),
        empty="none",
    )
    problems = [(r.name, p.subject, p.message) for r in report.registries for p in r.problems]
    problems += [("", p.subject, p.message) for p in report.problems]
    if problems:
        output.heading("problems")
        output.table(("REGISTRY", "SUBJECT", "MESSAGE"), problems, empty="")


def reload(server: Server = DEFAULT_SERVER, as_json: Json = False) -> None:
    """Let the gateway read its configuration again; it takes all of it or nothing."""
    from gateway.cli import output

    with admin(server) as client:
        report = client.reload()
    if as_json:
        output.print_json(report)
        return
    _show_reload(report)


def _show_reload(report: ReloadReport) -> None:
    print(f"{report.config}: {', '.join(report.changed) or 'nothing changed'}")
    if report.needs_restart:
        print(f"at the next start: {', '.join(report.needs_restart)}")
