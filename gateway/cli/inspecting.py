"""`stagegate show | compare`: all that is known of one version, or of two side by side."""

# ruff: noqa: PLC0415 -- commands import when they run, so that --help is quick
# ruff: noqa: T201 -- standard output is what a command line is for
from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from gateway.cli.options import DEFAULT_SERVER, Json, Model, Server, admin

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from gateway.operations import Measured, VersionDetail
    from router.model import Contract, TensorSpec

_KIB = 1024
_UNKNOWN = "-"
_FACTOR = 10
"""From this many times on a difference is told as a factor."""


def show(
    reference: Annotated[
        str,
        typer.Argument(
            metavar="MODEL[@REF]",
            help="Such as digits, digits@3, digits@production, digits@@champion: as the registry has it.",
        ),
    ],
    server: Server = DEFAULT_SERVER,
    as_json: Json = False,
) -> None:
    """Show all that is known of one version: contract, metrics, lineage, and how it answered."""
    from gateway.cli import output

    model, _, name = reference.partition("@")
    with admin(server) as client:
        found = client.describe(model, name)
    if as_json:
        output.print_json(found)
        return
    output.facts(_facts(found))
    if found.contract is not None:
        output.heading(f"contract (from {found.contract_from})")
        output.table(("", "NAME", "DATATYPE", "SHAPE"), _tensors(found.contract), empty="")
    for title, pairs in (
        ("metrics", {name: f"{value:g}" for name, value in found.row.metrics.items()}),
        ("lineage", found.lineage),
        ("tags", found.tags),
    ):
        if pairs:
            output.heading(title)
            output.facts((f"  {name}", text) for name, text in sorted(pairs.items()))
    if found.measured.requests:
        output.heading("measured here since the start")
        output.facts((f"  {name}", text) for name, text in _measured(found.measured).items())


def _facts(found: VersionDetail) -> Iterator[tuple[str, str]]:
    from gateway.cli import output

    row = found.row
    yield "model", found.model
    yield "version", row.version
    yield "registry", found.registry
    yield "description", found.description
    yield "state", row.state.value + (f": {row.reason}" if row.reason else "")
    yield "kept", row.kept
    yield "not to be served", found.unusable
    yield "stages", output.names(row.stages)
    yield "aliases", output.names(row.aliases, "@")
    yield "arms", output.names(row.arms)
    yield "format", row.format
    yield "artifact", found.artifact
    yield "digest", row.digest
    yield "size", "" if found.size is None else size(found.size)
    yield "created", output.when(row.created)
    yield "backends", output.names(row.backends)
    yield "backend model", row.backend_model


def _tensors(contract: Contract) -> Iterator[tuple[str, ...]]:
    for side, specs in (("in", contract.inputs), ("out", contract.outputs)):
        for spec in specs:
            yield side, spec.name, spec.datatype, _shape(spec)


def _shape(spec: TensorSpec) -> str:
    return "[" + ", ".join(map(str, spec.shape)) + "]"


def _measured(measured: Measured) -> dict[str, str]:
    failed = f"{measured.failed} ({measured.failed / measured.requests:.2%})" if measured.requests else ""
    return {
        "requests": str(measured.requests),
        "failed": failed or _UNKNOWN,
        "mean": _milliseconds(measured.mean),
        "p50": _milliseconds(measured.p50),
        "p95": _milliseconds(measured.p95),
        "p99": _milliseconds(measured.p99),
    }


def _milliseconds(seconds: float | None) -> str:
    return _UNKNOWN if seconds is None else f"{seconds * 1_000:.2f} ms"


def size(count: int) -> str:
    """Bytes at a glance: `312 B`, `1.4 MiB`."""
    value, unit = float(count), "B"
    for larger in ("KiB", "MiB", "GiB", "TiB"):
        if value < _KIB:
            break
        value, unit = value / _KIB, larger
    return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"


def compare(
    model: Model,
    one: Annotated[str, typer.Argument(metavar="V1", help="A version, stage or @alias.")],
    two: Annotated[str, typer.Argument(metavar="V2", help="The one to hold against it.")],
    server: Server = DEFAULT_SERVER,
    as_json: Json = False,
) -> None:
    """Hold two versions of a model side by side: metrics, contract, size, how they answered."""
    from gateway.cli import output
    from router.traffic.contract import differences

    with admin(server) as client:
        left, right = client.describe(model, one), client.describe(model, two)
    broken: tuple[str, ...] = ()
    if left.contract is not None and right.contract is not None:
        broken = differences(left.contract, right.contract)
    if as_json:
        output.print_json({"versions": [left, right], "contract_differences": broken})
        return
    names = (f"{model} {left.row.version}", f"{model} {right.row.version}")
    output.table(("", *names, "DIFFERENCE"), _side_by_side(left, right), empty="")
    output.heading("contract")
    print("  " + "\n  ".join(_verdict(left, right, broken)))


def _verdict(left: VersionDetail, right: VersionDetail, broken: tuple[str, ...]) -> list[str]:
    old, new = left.row.version, right.row.version
    unknown = [version.row.version for version in (left, right) if version.contract is None]
    if unknown:
        return [f"inputs and outputs of {' and '.join(unknown)} are not known yet; a load tells"]
    if not broken:
        same = "is the same" if left.contract == right.contract else "differs in nothing that clients meet"
        return [f"what {new} takes and gives {same}: clients of {old} can be sent there"]
    return [f"{new} would break clients of {old}:", *broken]


def _side_by_side(left: VersionDetail, right: VersionDetail) -> Iterator[tuple[str, str, str, str]]:
    from gateway.cli import output

    def row(name: str, one: str, two: str, difference: str = "") -> tuple[str, str, str, str]:
        return name, one, two, difference

    yield row("state", left.row.state.value, right.row.state.value)
    yield row("points to it", _pointers(left), _pointers(right))
    yield row("format", left.row.format, right.row.format)
    yield row("created", output.when(left.row.created), output.when(right.row.created))
    same = left.row.digest == right.row.digest and left.row.digest != ""
    yield row("digest", left.row.digest[:19], right.row.digest[:19], "the same files" if same else "")
    if left.size is not None or right.size is not None:
        sizes = [_UNKNOWN if one.size is None else size(one.size) for one in (left, right)]
        yield row("size", sizes[0], sizes[1], change(left.size, right.size))
    for name in _keys(left.row.metrics, right.row.metrics):
        yield _numbers(name, left.row.metrics.get(name), right.row.metrics.get(name))
    yield from _answers(left.measured, right.measured)
    for name in _keys(left.lineage, right.lineage):
        yield row(name, left.lineage.get(name, _UNKNOWN), right.lineage.get(name, _UNKNOWN))


def _answers(left: Measured, right: Measured) -> Iterator[tuple[str, str, str, str]]:
    if not (left.requests or right.requests):
        return
    ours, theirs = _measured(left), _measured(right)
    compared = {"mean": (left.mean, right.mean), "p50": (left.p50, right.p50)}
    compared |= {"p95": (left.p95, right.p95), "p99": (left.p99, right.p99)}
    for name, one in ours.items():
        yield name, one, theirs[name], change(*compared.get(name, (None, None)))


def _pointers(found: VersionDetail) -> str:
    return ", ".join((*found.row.stages, *(f"@{alias}" for alias in found.row.aliases)))


def _keys(one: Mapping[str, object], two: Mapping[str, object]) -> Iterable[str]:
    return sorted(one.keys() | two.keys())


def _numbers(name: str, one: float | None, two: float | None) -> tuple[str, str, str, str]:
    shown = [_UNKNOWN if value is None else f"{value:g}" for value in (one, two)]
    difference = "" if one is None or two is None else f"{two - one:+g}"
    return name, shown[0], shown[1], difference


def change(one: float | None, two: float | None) -> str:
    """By how much the second is more: in percent, and as a factor where that is easier to grasp."""
    if one is None or two is None or not one:
        return ""
    if two >= _FACTOR * one:
        return f"{two / one:,.0f} times"
    if 0 < two <= one / _FACTOR:
        return f"1/{one / two:,.0f}"
    return f"{two / one - 1:+.1%}"
