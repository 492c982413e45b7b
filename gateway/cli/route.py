"""`stagegate route get | set | apply | list | delete | history`: where traffic goes."""

# ruff: noqa: PLC0415 -- commands import when they run, so that --help is quick
# ruff: noqa: T201 -- standard output is what a command line is for
from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gateway.cli.options import DEFAULT_SERVER, Force, Json, Model, Reason, Revision, Server, admin

if TYPE_CHECKING:
    from gateway.cli.admin_client import AdminClient
    from gateway.config import Document
    from gateway.operations import Mismatch, RouteChange, RouteView, ShadowComparison, ShadowView
    from router.errors import ConfigProblem
    from router.model import Fallback, MatchRule, Route

TRIES = 5
"""Times that a change is tried against what others change at the same time."""

commands = typer.Typer(no_args_is_help=True, help="Where the traffic of a model goes.")


@commands.command("get")
def get(model: Model, server: Server = DEFAULT_SERVER, as_json: Json = False) -> None:
    """Show the route in force, and what answers through it now."""
    from gateway.cli import output

    with admin(server) as client:
        view = client.route(model)
    if as_json:
        output.print_json(view)
        return
    _show_route(view)


def _show_route(view: RouteView) -> None:
    from gateway.cli import output
    from router.traffic.routes import format_deadline

    route = view.route
    by = "implicit: the store has no route" if view.implicit else f"{view.actor}, {output.when(view.at)}"
    output.facts(
        [
            ("model", route.model),
            ("registry", route.registry or "(default)"),
            ("deadline", "" if route.deadline is None else format_deadline(route.deadline)),
            ("sticky", _sticky(route)),
            ("arm header", "clients may name their arm (stagegate-arm)" if route.arm_header else ""),
            ("fallback", "" if route.fallback is None else _fallback(route.fallback)),
            ("set by", by),
            ("reason", view.reason),
            ("revision", "" if view.implicit else str(view.revision)),
        ]
    )
    print()
    output.table(
        ("ARM", "REFERENCE", "WEIGHT", "VERSION", "STATE", "NOW", "WAITING"),
        (
            (
                arm.name,
                arm.reference,
                output.weight(arm.weight),
                arm.version,
                arm.state.value if arm.state else "",
                output.weight(arm.served_weight),
                arm.waiting,
            )
            for arm in view.arms
        ),
        empty="it has no arms",
    )
    if route.match:
        output.heading("match, the first that fits")
        rows = ((_conditions(rule), rule.arm) for rule in route.match)
        output.table(("WHEN", "ARM"), rows, empty="")
    if view.shadows:
        _show_shadows(view.shadows)
    if view.notes:
        output.heading("where the registry says something else")
        for note in view.notes:
            print(f"  {note}")


def _sticky(route: Route) -> str:
    if route.sticky is None:
        return ""
    salt = f", salt {route.sticky.salt!r}" if route.sticky.salt else ""
    return (route.sticky.by or "none") + salt


def _conditions(rule: MatchRule) -> str:
    return " and ".join(f"{said.kind} {said.name} = {said.value}" for said in rule.conditions)


def _fallback(fallback: Fallback) -> str:
    return f"{fallback.to} answers {', '.join(fallback.codes)}"


def _show_shadows(shadows: Sequence[ShadowView]) -> None:
    from gateway.cli import output

    print()
    output.table(
        ("SHADOW", "REFERENCE", "SAMPLE", "VERSION", "STATE", "COPIES", "COMPARED", "DIFFER", "WAITING"),
        (
            (
                shadow.name,
                shadow.reference,
                output.share(shadow.sample),
                shadow.version,
                shadow.state.value if shadow.state else "",
                output.names(f"{word} {count}" for word, count in sorted(shadow.results.items())),
                *_compared(shadow.comparison),
                shadow.waiting,
            )
            for shadow in shadows
        ),
        empty="",
    )
    for shadow in shadows:
        if shadow.comparison and shadow.comparison.recent:
            _show_mismatches(shadow.name, shadow.comparison.recent)


def _compared(comparison: ShadowComparison | None) -> tuple[str, str]:
    """How much was compared, and how much of it differs."""
    if comparison is None:
        return "", ""
    differ = str(sum(comparison.mismatches.values()))
    if comparison.rows:
        differ += f" (same decision in {comparison.agreed} of {comparison.rows} rows)"
    return str(comparison.compared), differ


def _show_mismatches(shadow: str, mismatches: Sequence[Mismatch]) -> None:
    from gateway.cli import output

    output.heading(f"last differences of shadow {shadow}")
    output.table(
        ("AT", "REQUEST", "KIND", "OUTPUT", "WHAT"),
        ((output.when(one.at), one.request, one.kind, one.output, one.detail) for one in mismatches),
        empty="",
    )


@commands.command("list")
def list_routes(server: Server = DEFAULT_SERVER, as_json: Json = False) -> None:
    """List all routes of the store."""
    from gateway.cli import output

    with admin(server) as client:
        found = client.routes()
    if as_json:
        output.print_json(found)
        return
    output.table(
        ("MODEL", "ROUTE", "REVISION", "SET BY", "AT", "REASON"),
        (
            (
                view.route.model,
                short(view.route),
                str(view.revision),
                view.actor,
                output.when(view.at),
                view.reason,
            )
            for view in found.routes
        ),
        empty=f"the store has no routes (revision {found.revision}); every model follows its implicit one",
    )


@commands.command("set")
def set_route(
    model: Model,
    arms: Annotated[
        list[str],
        typer.Argument(
            metavar="ARM=REF:WEIGHT...", help="Such as stable=production:90 canary=@challenger:10."
        ),
    ],
    *,
    registry: Annotated[str, typer.Option("--registry", help="Where references resolve.")] = "",
    deadline: Annotated[str, typer.Option("--deadline", help="Of unary calls, such as 2s.")] = "",
    sticky: Annotated[
        str,
        typer.Option("--sticky", help="What keeps a caller on its arm: header:NAME or parameter:NAME."),
    ] = "",
    fallback: Annotated[
        str,
        typer.Option(
            "--fallback",
            metavar="CODE,...[=ARM]",
            help="Failures of an arm that another one answers, such as UNAVAILABLE,INTERNAL=stable.",
        ),
    ] = "",
    replace: Annotated[
        bool,
        typer.Option("--replace", help="Drop what is not named here, such as match rules and shadows."),
    ] = False,
    reason: Reason = "",
    force: Force = False,
    expected_revision: Revision = None,
    server: Server = DEFAULT_SERVER,
    as_json: Json = False,
) -> None:
    """Set the arms of a model's route; weights sum to 100. What is not named here stays as it is."""
    from router.errors import Conflict
    from router.traffic.routes import parse_short

    read = partial(
        parse_short, model, arms, registry=registry, deadline=deadline, sticky=sticky, fallback=fallback
    )
    read()  # What cannot be right with any route is told without asking.
    with admin(server) as client:
        for left in reversed(range(TRIES)):
            # What is kept is what was seen: a change that comes in between is seen the next time.
            revision = client.status().revision if expected_revision is None else expected_revision
            route = _changed(None if replace else _stored(client, model), read)
            try:
                changes = client.apply_routes([route], expected_revision=revision, reason=reason, force=force)
                break
            except Conflict:
                if not left or expected_revision is not None:
                    raise
    _show_changes(changes, as_json)


def _changed(before: Route | None, read: Callable[..., Route]) -> Route:
    """What is read, with all that it does not name as it was before."""
    from router.errors import InvalidRoute

    try:
        return read(before=before)
    except InvalidRoute as problem:
        hint = "what is not named stays; --replace drops it, `route apply FILE` changes it"
        raise InvalidRoute(problem.message, hint=hint) from None


def _stored(client: AdminClient, model: str) -> Route | None:
    """The route of a model in the store, where there is one."""
    from router.errors import NotFound

    try:
        view = client.route(model)
    except NotFound:
        return None
    return None if view.implicit else view.route


@commands.command("apply")
def apply(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="YAML of one or several routes; - is standard input.")
    ],
    *,
    reason: Reason = "",
    force: Force = False,
    expected_revision: Revision = None,
    server: Server = DEFAULT_SERVER,
    as_json: Json = False,
) -> None:
    """Write all routes of a YAML file in one change, or none of them."""
    _apply(read_routes(file), expected_revision, reason, force, server, as_json)


@commands.command("delete")
def delete(
    model: Model,
    reason: Reason = "",
    expected_revision: Revision = None,
    server: Server = DEFAULT_SERVER,
    as_json: Json = False,
) -> None:
    """Remove a route, so that the implicit one takes over."""
    with admin(server) as client:
        change = client.delete_route(model, expected_revision=expected_revision, reason=reason)
    _show_changes([change], as_json)


@commands.command("history")
def history(
    model: Model,
    limit: Annotated[int, typer.Option("--limit", min=1, max=1000, help="At most this many.")] = 20,
    server: Server = DEFAULT_SERVER,
    as_json: Json = False,
) -> None:
    """Show who changed a route, when, why, from what to what; newest first."""
    from gateway.cli import output

    with admin(server) as client:
        changes = client.history(model, limit)
    if as_json:
        output.print_json(changes)
        return
    output.table(
        ("REVISION", "AT", "BY", "FROM", "TO", "REASON"),
        (
            (str(c.revision), output.when(c.at), c.actor, short(c.before), short(c.after), c.reason)
            for c in changes
        ),
        empty=f"the route of {model} was never changed",
    )


def _apply(  # noqa: PLR0917 - the options of two commands
    routes: Sequence[Route],
    expected_revision: int | None,
    reason: str,
    force: bool,
    server: str,
    as_json: bool,
) -> None:
    with admin(server) as client:
        changes = client.apply_routes(routes, expected_revision=expected_revision, reason=reason, force=force)
    _show_changes(changes, as_json)


def _show_changes(changes: Sequence[RouteChange], as_json: bool) -> None:
    from gateway.cli import output

    if as_json:
        output.print_json(changes)
        return
    for change in changes:
        output.facts(
            [
                ("model", change.model),
                ("from", short(change.before)),
                ("to", short(change.after)),
                ("revision", str(change.revision)),
            ]
        )


def short(route: Route | None) -> str:
    """A route in the form of `route set`, with what else it has; `(implicit)` for none."""
    from router.model import format_weight

    if route is None:
        return "(implicit)"
    parts = []
    for arm in route.arms:
        model = arm.backend_model
        target = arm.reference if model is None else f"{model.name}/{model.version}".rstrip("/")
        parts.append(f"{arm.name}={target}:{format_weight(arm.weight)}")
    parts += [
        f"{shadow.name}={shadow.reference}:{shadow.sample / 10_000:g} (shadow)" for shadow in route.shadows
    ]
    if route.match:
        parts.append(f"({len(route.match)} match rule{'s' if len(route.match) > 1 else ''})")
    if route.sticky:
        parts.append(f"(sticky {_sticky(route)})")
    if route.arm_header:
        parts.append("(arm header)")
    return " ".join(parts)


def read_routes(file: Path) -> list[Route]:
    """The routes of a YAML file of one or several documents, each a route or a list of routes.

    Raises:
        ConfigInvalid: with the mistakes of all routes and their lines.
    """
    from gateway.config import read_documents
    from router.errors import ConfigInvalid, ConfigProblem

    source = "standard input" if str(file) == "-" else str(file)
    try:
        text = sys.stdin.buffer.read() if str(file) == "-" else file.read_bytes()
    except OSError as error:
        raise ConfigInvalid(source, [ConfigProblem("", 0, f"cannot be read: {error.strerror}")]) from None
    routes: list[Route] = []
    problems: list[ConfigProblem] = []
    for document in read_documents(text, source):
        problems += document.problems
        for found in _routes_of(document):
            (problems if isinstance(found, ConfigProblem) else routes).append(found)  # type: ignore[arg-type]
    if not routes and not problems:
        problems.append(ConfigProblem("", 0, "holds no route"))
    if problems:
        raise ConfigInvalid(source, problems)
    return routes


def _routes_of(document: Document) -> Iterator[Route | ConfigProblem]:
    from router.errors import ConfigProblem, InvalidInput
    from router.traffic.routes import route_from_document

    listed = isinstance(document.root, list)
    items = document.root if isinstance(document.root, list) else [document.root]
    for index, item in enumerate(items):
        if item is None:
            continue  # an empty document, such as the one after a last `---`
        line = document.line((index,) if listed else ())
        if not isinstance(item, dict):
            yield ConfigProblem("", line, "is not a route: a mapping of model and arms is needed")
            continue
        try:
            yield route_from_document(item)
        except InvalidInput as error:
            yield ConfigProblem("", line, str(error))
