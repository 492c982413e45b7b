"""The command tree. Commands import what they need when they run, so that `--help` is quick."""

# ruff: noqa: T201 -- standard output is what a command line is for
from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from gateway import __version__
from gateway.cli import catalogue, exits, infer, inspecting, moving, registering, route, serve
from router.errors import StagegateError

_BROKEN_PIPE = 141


class _Commands(TyperGroup):
    """Tells every error of ours as a sentence and ends with its exit code."""

    def invoke(self, ctx: Any) -> Any:  # noqa: ANN401 -- typer's own types differ between its releases
        try:
            return super().invoke(ctx)
        except StagegateError as error:
            raise typer.Exit(exits.tell(error)) from None


commands = typer.Typer(
    cls=_Commands,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Stagegate: a gRPC model-serving gateway with registry-aware routing for NVIDIA Triton.",
    epilog="Exit codes: 0 done, 1 failed, 2 usage or configuration, 3 not found, 4 conflict, 5 unavailable.",
)


def _show_version(wanted: bool) -> None:
    if wanted:
        print(f"stagegate {__version__}")
        raise typer.Exit


@commands.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    pass


for _name, _command, _panel in (
    ("up", serve.up, "Run"),
    ("gateway", serve.gateway, "Run"),
    ("check-config", serve.check_config, "Run"),
    ("reload", catalogue.reload, "Run"),
    ("status", catalogue.status, "Look"),
    ("models", catalogue.models, "Look"),
    ("versions", catalogue.versions, "Look"),
    ("show", inspecting.show, "Look"),
    ("compare", inspecting.compare, "Look"),
    ("resolve", catalogue.resolve, "Look"),
    ("infer", infer.infer, "Use"),
    ("register", registering.register, "Use"),
    ("import", registering.import_, "Use"),
    ("promote", moving.promote, "Use"),
    ("rollback", moving.rollback, "Use"),
    ("accept", moving.accept, "Use"),
):
    commands.command(_name, rich_help_panel=_panel)(_command)
commands.add_typer(route.commands, name="route", rich_help_panel="Use")
commands.add_typer(registering.commands, name="registry", rich_help_panel="Look")
commands.add_typer(moving.writes_commands, name="writes", rich_help_panel="Look")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the CLI and end the process with its exit code.

    Args:
        arguments: without the program's name; by default those of the process.
    """
    try:
        commands(args=None if arguments is None else list(arguments), prog_name="stagegate")
    except BrokenPipeError:
        # The reader went away (`stagegate models | head`); Python would complain again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(_BROKEN_PIPE)
