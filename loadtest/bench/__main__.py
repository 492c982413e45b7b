"""`python -m loadtest.bench`: measure the proxies side by side and print the tables."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from loadtest.bench import tools
from loadtest.bench.errors import BenchError, Missing
from loadtest.bench.measure import Pair, Sample, measure_cpu, measure_latency
from loadtest.bench.peers import Peer, all_peers
from loadtest.bench.results import Result, legend, now, tables, write_json
from loadtest.bench.rig import Started, started
from loadtest.bench.shapes import CPU_SHAPES, LATENCY_SHAPE, Shape

FULL = "stagegate-full"
BINARIES = ("constant-backend", "check-client", "serve")


@dataclass(frozen=True, slots=True)
class Options:
    """What to measure."""

    peers: tuple[Peer, ...]
    shapes: tuple[Shape, ...]
    latency: Shape | None
    rounds: int
    pin: bool
    seed: int


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one measurement; the exit code is 1 where it could not be made or answers were bad."""
    console = Console()
    parsed = _parser().parse_args(arguments)
    try:
        if busy := _busy_with():
            console.print(busy, style="yellow", highlight=False)
        if parsed.install:
            for problem in tools.install():
                console.print(problem, style="yellow")
        options = _options(parsed)
        binaries = tools.build(*BINARIES)
        with tempfile.TemporaryDirectory(prefix="stagegate-bench-") as folder:
            result = _measure(options, binaries, Path(folder), console)
    except BenchError as error:
        console.print(f"bench: {error}", style="red", markup=False, highlight=False)
        return 1
    for table in tables(result):
        console.print(table)
    console.print(legend(result), style="dim", markup=False, highlight=False, soft_wrap=True)
    path = write_json(result, tools.RESULTS)
    console.print(f"written to {path.relative_to(tools.CHECKOUT)}", highlight=False)
    for line in result.bad():
        console.print(f"bad answers: {line}", style="red", markup=False, highlight=False)
    return 1 if result.bad() else 0


def _measure(options: Options, binaries: Path, folder: Path, console: Console) -> Result:
    def skipped(peer: Peer, missing: Missing) -> None:
        console.print(f"left out: {peer.name}: {missing}", style="yellow", highlight=False)

    with (
        started(options.peers, binaries, folder=folder, pin=options.pin, skipped=skipped) as rig,
        console.status("starting") as status,
    ):
        samples, pairs = _all_rounds(options, rig, status.update)
    return Result(now(), options.rounds, options.pin, rig.running, tuple(samples), tuple(pairs))


def _busy_with() -> str:
    """A warning where others use the machine: CPU figures then vary, and latency says little."""
    load, cpus = os.getloadavg()[0], os.cpu_count() or 1
    if load < cpus / 2:
        return ""
    return (
        f"the machine is busy (load average {load:.1f} on {cpus} CPUs): mind the spread, above all of latency"
    )


def _all_rounds(
    options: Options, rig: Started, progress: Callable[[str], None]
) -> tuple[list[Sample], list[Pair]]:
    samples: list[Sample] = []
    for shape in options.shapes:
        fitting = [one for one in rig.running if one.peer.tls == shape.tls]
        samples += measure_cpu(
            rig.rig, fitting, shape, rounds=options.rounds, seed=options.seed, progress=progress
        )
    if options.latency is None:
        return samples, []
    pairs = measure_latency(
        rig.rig,
        [one for one in rig.running if not one.peer.tls],
        rig.direct,
        options.latency,
        rounds=options.rounds,
        seed=options.seed,
        progress=progress,
    )
    return samples, pairs


def _parser() -> argparse.ArgumentParser:
    names = [peer.name for peer in all_peers()]
    shapes = [shape.name for shape in (*CPU_SHAPES, LATENCY_SHAPE)]
    parser = argparse.ArgumentParser(prog="python -m loadtest.bench", description=main.__doc__)
    parser.add_argument("--rounds", type=_positive, default=3, help="rounds over all proxies (3)")
    parser.add_argument("--requests", type=_positive, help="small requests a measurement (20,000)")
    parser.add_argument("--peers", nargs="+", choices=names, metavar="NAME", help=", ".join(names))
    parser.add_argument(
        "--shapes", nargs="+", choices=shapes, default=shapes, metavar="SHAPE", help=", ".join(shapes)
    )
    parser.add_argument(
        "--quick", action="store_true", help="one small round: shows that it works, no figures"
    )
    parser.add_argument("--full", action="store_true", help="also the whole gateway process, Python included")
    parser.add_argument("--pin", action="store_true", help="give the proxies one CPU of their own")
    parser.add_argument("--seed", type=int, default=1, help="of the order of measurements (1)")
    parser.add_argument("--install", action="store_true", help="first install the proxies that are missing")
    return parser


def _options(parsed: argparse.Namespace) -> Options:
    share = 0.01 if parsed.quick else (parsed.requests or CPU_SHAPES[0].requests) / CPU_SHAPES[0].requests
    shapes = tuple(shape.scaled(share) for shape in CPU_SHAPES if shape.name in parsed.shapes)
    latency = LATENCY_SHAPE.scaled(share) if LATENCY_SHAPE.name in parsed.shapes else None
    names = set(parsed.peers or [peer.name for peer in all_peers() if peer.name != FULL])
    if parsed.full:
        names.add(FULL)
    peers = tuple(peer for peer in all_peers() if peer.name in names)
    rounds = 1 if parsed.quick else parsed.rounds
    return Options(peers, shapes, latency, rounds, pin=parsed.pin, seed=parsed.seed)


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a positive number")
    return number


if __name__ == "__main__":
    sys.exit(main())
