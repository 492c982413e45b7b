"""`stagegate register | import | registry check`: versions into a registry, and whether one can be used.

These speak to registries themselves, with the access that the configuration gives: files are on the
operator's machine, and a registry can be checked before any gateway runs.
"""

# ruff: noqa: PLC0415 -- commands import when they run, so that --help is quick
# ruff: noqa: T201 -- standard output is what a command line is for
from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from gateway.cli.options import Json, pairs

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Mapping, Sequence

    from gateway.config import GatewayConfig
    from gateway.registering import Checked
    from router.model import Version

commands = typer.Typer(no_args_is_help=True, help="Registries of the configuration, without a gateway.")

_Config = Annotated[
    Path | None,
    typer.Option(
        "--config",
        "-c",
        envvar="STAGEGATE_CONFIG",
        metavar="FILE",
        help="Configuration file (YAML); without one, the registry ./models.",
    ),
]
_Pairs = list[str] | None
_BUILT_IN_CHECKED = "without --config FILE or STAGEGATE_CONFIG only the registry ./models is looked at"
_Answer = TypeVar("_Answer")


def _load(config: Path | None) -> GatewayConfig:
    from gateway.config import built_in_config, load_config

    return built_in_config(Path.cwd(), os.environ) if config is None else load_config(config, os.environ)


def _run(work: Coroutine[Any, Any, _Answer]) -> _Answer:
    """Carry work out; a call that hangs in a thread does not hold up the end of the command."""
    import asyncio

    from gateway.threads import OwnThreads

    async def whole() -> _Answer:
        asyncio.get_running_loop().set_default_executor(OwnThreads())
        return await work

    return asyncio.run(whole())


@commands.command("check")
def check(
    name: Annotated[str, typer.Argument(metavar="[NAME]", help="One registry; all without it.")] = "",
    *,
    config: _Config = None,
    timeout: Annotated[float, typer.Option("--timeout", min=0.1, metavar="SECONDS")] = 60.0,
    as_json: Json = False,
) -> None:
    """Read each registry once: can it be reached, what is in it, what can be written back to it."""
    from gateway.cli import exits, output
    from gateway.registering import check_registries

    found = _run(check_registries(_load(config), name, timeout))
    if as_json:
        output.print_json(found)
    else:
        _show_checked(found)
        if config is None and any(one.error for one in found):
            print(_BUILT_IN_CHECKED)
    if any(one.error for one in found):
        raise typer.Exit(exits.UNAVAILABLE)


def _show_checked(found: Sequence[Checked]) -> None:
    from gateway.cli import output

    output.table(
        ("NAME", "TYPE", "READ", "MODELS", "VERSIONS", "CAN", "REFUSED", "ERROR"),
        (
            (
                one.name,
                one.type,
                "-" if one.seconds is None else f"{one.seconds * 1_000:.0f} ms",
                str(one.models),
                str(one.versions),
                ", ".join(one.capabilities) or "be read",
                str(one.refused),
                one.error,
            )
            for one in found
        ),
        empty="the configuration has no registries",
    )
    problems = [(one.name, p.subject, p.message) for one in found for p in one.problems]
    if problems:
        output.heading("problems")
        output.table(("REGISTRY", "SUBJECT", "MESSAGE"), problems, empty="")


def register(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="Logical model name.")],
    files: Annotated[Path, typer.Argument(metavar="PATH", exists=True, help="A file, or a folder.")],
    *,
    registry: Annotated[
        str, typer.Option("--registry", metavar="NAME", help="Where; the default registry without it.")
    ] = "",
    version: Annotated[
        str, typer.Option("--version", metavar="ID", help="Its id; the registry's next without it.")
    ] = "",
    format_: Annotated[
        str, typer.Option("--format", metavar="FORMAT", help="Such as onnx; told by the files without it.")
    ] = "",
    contract: Annotated[
        Path | None,
        typer.Option("--contract", metavar="FILE", help="YAML with `inputs` and `outputs`."),
    ] = None,
    metric: Annotated[_Pairs, typer.Option("--metric", metavar="NAME=NUMBER")] = None,
    tag: Annotated[_Pairs, typer.Option("--tag", metavar="NAME=TEXT")] = None,
    lineage: Annotated[
        _Pairs, typer.Option("--lineage", metavar="NAME=TEXT", help="Such as commit=..., run=...")
    ] = None,
    description: Annotated[str, typer.Option("--description")] = "",
    config: _Config = None,
    as_json: Json = False,
) -> None:
    """Bring files into a registry as a new version.

    Traffic moves by that only where a model has neither a route nor a stage `production`: then the highest
    version answers, once it is loaded.
    """
    from gateway.registering import NewFiles, read_contract
    from gateway.registering import register as register_files
    from router.model import parse_model_name

    new = NewFiles(
        model=parse_model_name(model),
        files=files,
        version=version,
        format=format_,
        contract=None if contract is None else read_contract(contract),
        metrics=_numbers(pairs("--metric", metric or [])),
        tags=pairs("--tag", tag or []),
        lineage=pairs("--lineage", lineage or []),
        description=description,
    )
    found = _load(config)
    made = _run(register_files(found, registry, new, _progress(as_json)))
    _tell([made], found.default_registry, as_json)


def import_(
    model: Annotated[
        str,
        typer.Argument(
            metavar="[MODEL[@REF]]",
            help="What to bring over; all models, where --from is a folder.",
        ),
    ] = "",
    *,
    source: Annotated[
        str,
        typer.Option("--from", metavar="REGISTRY|FOLDER", help="A registry, or a Triton model repository."),
    ],
    target: Annotated[str, typer.Option("--to", metavar="REGISTRY", help="The registry that gets it.")],
    name: Annotated[
        str, typer.Option("--as", metavar="MODEL", help="Its name there; the same without it.")
    ] = "",
    config: _Config = None,
    as_json: Json = False,
) -> None:
    """Bring a version of another registry, or a Triton model repository, into a registry."""
    from gateway.registering import Way, import_repository, import_version

    found = _load(config)
    way, progress = Way(source, target, name), _progress(as_json)
    if source in found.registries:
        made = [_run(import_version(found, model, way, progress))]
    else:
        made = _run(import_repository(found, model, way, progress))
    _tell(made, found.default_registry, as_json)


def _progress(quiet: bool) -> Callable[[str], None]:
    import sys

    def tell(text: str) -> None:
        print(text, file=sys.stderr)

    return (lambda _: None) if quiet else tell


def _numbers(given: Mapping[str, str]) -> dict[str, float]:
    from router.errors import InvalidInput

    found = {}
    for name, text in given.items():
        try:
            found[name] = float(text)
        except ValueError:
            raise InvalidInput(f"--metric {name}: {text!r} is no number") from None
    return found


def _tell(made: Sequence[Version], default: str, as_json: bool) -> None:
    from gateway.cli import output

    if as_json:
        output.print_json(made)
        return
    output.table(
        ("MODEL", "VERSION", "REGISTRY", "FORMAT", "DIGEST"),
        ((v.model, v.version, v.registry, v.format, v.digest) for v in made),
        empty="there was nothing to bring over",
    )
    if made:
        print(f"\n'{_next_step(made[-1], default)}' sends traffic there")


def _next_step(made: Version, default: str) -> str:
    """Without a route, clients find the models of the default registry only."""
    if made.registry == default:
        return f"stagegate promote {made.model} {made.version} --to production"
    return f"stagegate route set {made.model} stable={made.version}:100 --registry {made.registry}"
