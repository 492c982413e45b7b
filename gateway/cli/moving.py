"""`stagegate promote | accept | rollback | writes`: stages and aliases move, and registries are told."""

# ruff: noqa: PLC0415 -- commands import when they run, so that --help is quick
# ruff: noqa: T201 -- standard output is what a command line is for
from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Annotated

import typer

from gateway.cli.options import DEFAULT_SERVER, Json, Server, admin

if TYPE_CHECKING:
    from collections.abc import Callable

    from gateway.cli.admin_client import AdminClient
    from gateway.operations import Moved, WriteRow

_USUAL = ("production", "staging", "archived")
LOOK_SECONDS = 0.2
"""How often `--wait` asks."""

Why = Annotated[
    str, typer.Option("--reason", "-r", help="Why; kept in the history, and as a tag in the registry.")
]
Wait = Annotated[
    bool, typer.Option("--wait", help="Return when clients meet it and the registry says the same.")
]
Timeout = Annotated[
    float, typer.Option("--timeout", min=0.0, metavar="SECONDS", help="With --wait: give up after this.")
]

ModelOrBoth = Annotated[
    str, typer.Argument(metavar="MODEL[@REF]", help="With the version, or the version after it.")
]
Reference = Annotated[
    str, typer.Argument(metavar="[REF]", help="The version: its id, a stage, or @alias.", show_default=False)
]

writes_commands = typer.Typer(
    help="Show what registries are still to be told, and why they are not yet.",
    invoke_without_command=True,
)


def promote(
    model: ModelOrBoth,
    reference: Reference = "",
    *,
    to: Annotated[str, typer.Option("--to", metavar="STAGE|@ALIAS", help="What is to name it.")],
    reason: Why = "",
    force: Annotated[
        bool, typer.Option("--force", help="Also where it breaks the contract of the one before.")
    ] = False,
    keep_existing: Annotated[
        bool, typer.Option("--keep-existing", help="Others stay in that stage, where it may hold several.")
    ] = False,
    wait: Wait = False,
    timeout: Timeout = 300.0,
    server: Server = DEFAULT_SERVER,
    as_json: Json = False,
) -> None:
    """Let a stage or alias name a version: traffic follows, and the registry is told."""
    model, reference = _both(model, reference)
    with admin(server) as client:
        moved = client.promote(model, reference, to, keep_existing=keep_existing, force=force, reason=reason)
        _tell(client, moved, timeout if wait else None, as_json)


def accept(
    model: ModelOrBoth,
    reference: Reference = "",
    *,
    reason: Annotated[str, typer.Option("--reason", "-r", help="Why; kept with it. Needed.")],
    server: Server = DEFAULT_SERVER,
    as_json: Json = False,
) -> None:
    """Let a version take over although it breaks the contract of what it replaces."""
    from gateway.cli import output

    model, reference = _both(model, reference)
    with admin(server) as client:
        accepted = client.accept(model, reference, reason=reason)
    if as_json:
        output.print_json(accepted)
        return
    done = "was accepted already" if accepted.already else "is accepted"
    also = f", and version {', '.join(accepted.also)} for the way back" if accepted.also else ""
    print(f"{accepted.model}: version {accepted.version} {done}{also}")


def rollback(
    model: Annotated[
        str,
        typer.Argument(metavar="MODEL[@REF]", help="Such as digits, digits@production, digits@@champion."),
    ],
    *,
    to: Annotated[
        str, typer.Option("--to", metavar="VERSION", help="By default the one before the last move.")
    ] = "",
    reason: Why = "",
    wait: Wait = False,
    timeout: Timeout = 300.0,
    server: Server = DEFAULT_SERVER,
    as_json: Json = False,
) -> None:
    """Bring a model's stable traffic back to the version before, and its registry with it."""
    name, _, pointer = model.partition("@")
    with admin(server) as client:
        moved = client.rollback(name, pointer, to, reason=reason)
        _tell(client, moved, timeout if wait else None, as_json)


def _both(model: str, reference: str) -> tuple[str, str]:
    """Model and version, written as one word or as two."""
    name, at, inside = model.partition("@")
    if bool(inside) == bool(reference) or (at and not inside):
        raise typer.BadParameter(
            "name one version: `digits 2` or `digits@2`, `digits @next` or `digits@@next`"
        )
    return name, inside or reference


def _tell(client: AdminClient, moved: Moved, patience: float | None, as_json: bool) -> None:
    from gateway.cli import output

    if not as_json:
        print(_sentence(moved))
        if not moved.before and moved.kind == "stage" and moved.name not in _USUAL:
            print(
                f"  stage {moved.name} is new: only clients that ask for {moved.model}@{moved.name} meet it"
            )
        for text in moved.said:
            print(f"  {text}")
    done = "" if patience is None else _wait(client, moved, patience)
    if as_json:
        output.print_json(moved)
    elif done:
        print(f"  {done}")


def _sentence(moved: Moved) -> str:
    what = f"@{moved.name}" if moved.kind == "alias" else f"{moved.kind} {moved.name}"
    if moved.already:
        return f"{moved.model}: {what} names {moved.after or 'nothing'} already"
    return f"{moved.model}: {what} goes from {moved.before or 'nothing'} to {moved.after}"


def _wait(client: AdminClient, moved: Moved, patience: float) -> str:
    """Return what came of it, when nothing is waited for any more.

    Raises:
        Conflict, RegistryRefused, NotFound: the registry does not say what was decided, and will not.
        Unavailable: it took too long.
    """
    if moved.kind == "arm":
        return _until(patience, lambda: _arm_waits(client, moved))
    number = moved.write
    if not number:
        mine = (moved.registry, moved.model, moved.kind, moved.name)
        found = (w for w in client.writes(0) if (w.registry, w.model, w.kind, w.name) == mine)
        number = next((write.id for write in found), 0)
    return _until(patience, lambda: _write_waits(client, number)) if number else ""


def _until(patience: float, waits: Callable[[], tuple[str, str]]) -> str:
    from router.errors import Unavailable

    end = time.monotonic() + patience
    told = ""
    while True:
        why, done = waits()
        if done:
            return done
        if why != told:  # a load that fails is seen when it does, not when patience is over
            told = why
            print(f"  waiting: {why}", file=sys.stderr)
        if time.monotonic() >= end:
            raise Unavailable(
                f"not within {patience:g} s: {why}",
                hint="the decision holds; `stagegate writes` shows it, `writes clear ID` gives it up",
            )
        time.sleep(LOOK_SECONDS)


def _arm_waits(client: AdminClient, moved: Moved) -> tuple[str, str]:
    arms = client.route(moved.model).arms
    why = next((arm.waiting for arm in arms if arm.name == moved.name), "the route has no such arm any more")
    return why, "" if why else "clients meet it"


def _write_waits(client: AdminClient, number: int) -> tuple[str, str]:
    """Why a registry change is not done yet, or that it is."""
    from router.errors import Conflict, NotFound, RegistryRefused

    row = next((one for one in client.writes(200) if one.id == number), None)
    if row is None or row.state in ("agreed", "tagging"):
        return "", f"registry {row.registry if row else ''} says so too"
    if row.state == "refused":
        raise RegistryRefused(
            f"traffic follows version {row.version}, and registry {row.registry!r} does not: {row.note}",
            hint=f"`stagegate writes clear {number}` gives it up",
        )
    if row.state == "gone":
        raise NotFound(row.note)
    if row.state != "pending":
        raise Conflict(f"it was {row.state}: {row.note}", current_revision=row.revision)
    return row.note or "the registry is not written yet", ""


@writes_commands.callback()
def writes(
    context: typer.Context,
    everything: Annotated[bool, typer.Option("--all", help="Those that ended as well.")] = False,
    server: Server = DEFAULT_SERVER,
    as_json: Json = False,
) -> None:
    """Show what registries are still to be told, and why they are not yet."""
    from gateway.cli import output

    if context.invoked_subcommand is not None:
        return
    with admin(server) as client:
        rows = client.writes(200 if everything else 0)
    if as_json:
        output.print_json(rows)
        return
    output.table(
        ("ID", "MODEL", "POINTER", "TRAFFIC", "REGISTRY", "NAMES", "STATE", "TRIES", "BY", "AT", "NOTE"),
        map(_row, rows),
        empty="every registry says what was decided here",
    )


def _row(row: WriteRow) -> tuple[str, ...]:
    from gateway.cli import output

    pointer = f"@{row.name}" if row.kind == "alias" else row.name
    by = f"{row.actor} ({row.action})"
    return (
        str(row.id),
        row.model,
        pointer,
        row.version,
        row.registry,
        row.registry_names or "nothing",
        row.state,
        str(row.attempts),
        by,
        output.when(row.at),
        row.note,
    )


@writes_commands.command("clear")
def clear(
    number: Annotated[int, typer.Argument(metavar="ID", min=1, help="From `stagegate writes`.")],
    reason: Annotated[str, typer.Option("--reason", "-r", help="Why; kept in the audit log.")] = "",
    server: Server = DEFAULT_SERVER,
    as_json: Json = False,
) -> None:
    """Give a registry change up: traffic follows the registry again."""
    from gateway.cli import output

    with admin(server) as client:
        row = client.clear_write(number, reason=reason)
    if as_json:
        output.print_json(row)
        return
    what = f"@{row.name}" if row.kind == "alias" else f"{row.kind} {row.name}"
    names = row.registry_names or "nothing"
    print(f"{row.model}: {what} follows registry {row.registry} again, which names {names}")
