"""`stagegate infer`: send one request from a file, as any KServe v2 client would, and show who answered."""

# ruff: noqa: PLC0415 -- commands import when they run, so that --help is quick
# ruff: noqa: T201 -- standard output is what a command line is for
from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gateway.cli.options import DEFAULT_SERVER, Json, Server, admin

if TYPE_CHECKING:
    from gateway.cli.inference_client import Answer

_SHOWN = 12


def infer(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="Logical model name.")],
    *,
    file: Annotated[
        Path,
        typer.Option("--input", "-i", metavar="FILE", help="KServe v2 request in JSON; - is standard input."),
    ],
    at: Annotated[str, typer.Option("--at", help="Version, stage or @alias; none: the route decides.")] = "",
    inference: Annotated[
        str,
        typer.Option(
            "--inference",
            metavar="HOST:PORT",
            help="Inference port; by default the admin API is asked for it.",
        ),
    ] = "",
    timeout: Annotated[float, typer.Option("--timeout", min=0.001, help="Seconds.")] = 60.0,
    server: Server = DEFAULT_SERVER,
    as_json: Json = False,
) -> None:
    """Send one request and show the outputs, and which version and arm answered."""
    from gateway.cli.inference_client import read_request, send

    text = _read(file)
    request = read_request(text, model, at)
    target = inference or _inference_address(server)
    started = time.perf_counter()
    answer = send(target, request, timeout)
    _show(answer, (time.perf_counter() - started) * 1_000, as_json)


def _read(file: Path) -> bytes:
    from router.errors import InvalidInput

    if str(file) == "-":
        return sys.stdin.buffer.read()
    try:
        return file.read_bytes()
    except OSError as error:
        raise InvalidInput(f"--input {file} cannot be read: {error.strerror}") from None


def _inference_address(server: str) -> str:
    """The bound inference address; where it is every interface, that of the admin API's host."""
    from gateway.config.units import Address, parse_address

    with admin(server) as client:
        bound = parse_address(client.status().inference)
    if bound.host in ("0.0.0.0", "::"):  # noqa: S104 -- compared with, not bound to
        return str(Address(parse_address(server).host, bound.port))
    return str(bound)


def _show(answer: Answer, milliseconds: float, as_json: bool) -> None:
    from gateway.cli import output

    if as_json:
        output.print_json({**answer.document(), "arm": answer.arm, "milliseconds": round(milliseconds, 3)})
        return
    output.facts(
        [
            ("model", answer.model),
            ("version", answer.version),
            ("arm", answer.arm),
            ("took", f"{milliseconds:.1f} ms"),
        ]
    )
    print()
    output.table(
        ("OUTPUT", "DATATYPE", "SHAPE", "DATA"),
        (
            (tensor.name, tensor.datatype, "x".join(map(str, tensor.shape)), _cut(tensor.data))
            for tensor in answer.outputs
        ),
        empty="the answer has no outputs",
    )


def _cut(data: list[object]) -> str:
    shown = ", ".join(f"{item:.6g}" if isinstance(item, float) else str(item) for item in data[:_SHOWN])
    return f"{shown}, ... ({len(data)} values)" if len(data) > _SHOWN else shown
