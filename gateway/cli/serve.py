"""`stagegate up | gateway | check-config`: configurations, and the process itself."""

# ruff: noqa: PLC0415 -- commands import when they run, so that --help is quick
# ruff: noqa: T201 -- standard output is what a command line is for
from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gateway.cli import exits
from gateway.cli.options import Json

if TYPE_CHECKING:
    from gateway.config import GatewayConfig
    from gateway.progress import Progress

_Config = Annotated[
    Path | None,
    typer.Option(
        "--config", "-c", envvar="STAGEGATE_CONFIG", metavar="FILE", help="Configuration file (YAML)."
    ),
]

_Takeover = Annotated[
    bool,
    typer.Option(
        "--takeover",
        help="Take the ports and the state of the gateway that runs here over; it finishes and ends.",
    ),
]

_NO_BACKENDS = "backends: none is named, so only `stagegate up`, which starts a Triton, can use this file"


def up(config: _Config = None, takeover: _Takeover = False) -> None:
    """Start everything on this machine: Triton, a gateway, SQLite state, a folder registry.

    Without --config: models in ./models, state in ./.stagegate, Triton's own ports.
    """
    from gateway.config import built_in_config, load_config
    from gateway.progress import people_progress

    found = built_in_config(Path.cwd(), os.environ) if config is None else load_config(config, os.environ)
    _serve(found, up=True, progress=people_progress(), takeover=takeover)


def gateway(config: _Config = None, takeover: _Takeover = False) -> None:
    """Start a gateway in front of the Tritons that the configuration names."""
    from gateway.config import load_config
    from gateway.progress import Silent
    from router.errors import ConfigInvalid, ConfigProblem, InvalidInput

    if config is None:
        raise InvalidInput(
            "a gateway needs a configuration",
            hint="give --config FILE or set STAGEGATE_CONFIG; 'stagegate up' needs none",
        )
    found = load_config(config, os.environ)
    if not found.backends:
        problem = ConfigProblem(
            "backends", 0, "a gateway needs at least one; 'stagegate up' starts a Triton of its own"
        )
        raise ConfigInvalid(found.source, [problem])
    _serve(found, up=False, progress=Silent(), takeover=takeover)


def _serve(config: GatewayConfig, *, up: bool, progress: Progress, takeover: bool) -> None:
    import asyncio

    from gateway.app import serve

    code = asyncio.run(serve(config, up=up, progress=progress, takeover=takeover))
    if code:
        raise typer.Exit(code)


def check_config(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Configuration file (YAML).")],
    as_json: Json = False,
) -> None:
    """Check a configuration, with the environment's overrides and its certificates; list every mistake.

    A file without mistakes is ok; what may not be meant so is told below that.
    """
    from gateway.certificates import read_material
    from gateway.cli import output
    from gateway.config import describe_problems, load_config
    from router.errors import ConfigInvalid, ConfigProblem, InvalidInput

    try:
        config = load_config(file, os.environ)
        try:
            read_material(config)
        except InvalidInput as problem:
            raise ConfigInvalid(str(file), [ConfigProblem("", 0, problem.message)]) from None
    except ConfigInvalid as error:
        if as_json:
            output.print_json({"file": str(file), "ok": False, "problems": error.problems})
        else:
            for line in describe_problems(error):
                print(line)
        raise typer.Exit(exits.USAGE) from None
    found = (*config.not_served, *([] if config.backends else [_NO_BACKENDS]))
    if as_json:
        output.print_json({"file": str(file), "ok": True, "problems": [], "remarks": found})
        return
    print(f"{file}: ok")
    for remark in found:
        print(f"  {remark}")
