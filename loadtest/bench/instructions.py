"""`python -m loadtest.bench.instructions`: has the data plane's hot path become dearer?

Counts instructions a request under callgrind and compares them with the committed baseline of this
compiler and C library; where there is none, with the commit before the change, built beside it.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median

from rich.console import Console

from loadtest.bench import callgrind, tools
from loadtest.bench.baseline import TOLERANCE, Comparison, compare, environment_key
from loadtest.bench.callgrind import Binaries
from loadtest.bench.errors import BenchError

BASELINE = tools.WORKSPACE / "bench" / "instructions.json"
FEW_MODELS = 10
MODELS_BAR = 0.05
"""How much dearer a request may be where there are very many models of three versions."""

_BASE_TARGET = tools.TOOLS / "target-before"


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit code is 1 where a shape became more than 3 % dearer, or nothing could be counted."""
    parsed = _parser().parse_args(arguments)
    console = Console()
    try:
        with tempfile.TemporaryDirectory(prefix="stagegate-bench-") as folder:
            return _run(parsed, Path(folder), console)
    except BenchError as error:
        console.print(f"bench-instructions: {error}", style="red", markup=False, highlight=False)
        return 1


def _run(parsed: argparse.Namespace, folder: Path, console: Console) -> int:
    load = tools.build("constant-backend", "check-client", "serve")
    binaries = Binaries(load, load / "serve")
    if parsed.top:
        for shape in callgrind.SHAPES:
            console.print(f"{shape.name}: own instructions a request", style="bold", highlight=False)
            for name, own in callgrind.top_functions(binaries, shape, parsed.top, folder):
                console.print(f"{own:8,.0f}  {name}", markup=False, highlight=False, soft_wrap=True)
        return 0
    if parsed.models:
        return _judge_models(binaries, parsed.models, folder, console)
    now = _count(binaries, parsed.runs, folder, console)
    key = environment_key(
        tools.first_line("rustc", "--version"), os.confstr("CS_GNU_LIBC_VERSION") or "", platform.machine()
    )
    baselines = json.loads(BASELINE.read_text()) if BASELINE.exists() else {}
    if parsed.record:
        baselines[key] = {shape: round(count) for shape, count in now.items()}
        BASELINE.write_text(json.dumps(baselines, indent=2, sort_keys=True) + "\n")
        console.print(f"recorded for {key}", highlight=False)
        return 0
    if key in baselines:
        console.print(f"compared with the baseline of {key}", highlight=False)
        return _judge(compare(baselines[key], now), console)
    console.print(f"no baseline of {key}; comparing with the commit before", highlight=False)
    before = _count_before(load, parsed.runs, folder, console)
    return _judge(compare(before, now), console) if before else 0


def _count(binaries: Binaries, runs: int, folder: Path, console: Console) -> dict[str, float]:
    """The median count of each shape, with its runs printed."""
    counts = {}
    for shape in callgrind.SHAPES:
        found = []
        for number in range(runs):
            with console.status(f"{shape.name}: run {number + 1} of {runs}"):
                found.append(callgrind.instructions_per_request(binaries, shape, folder))
        counts[shape.name] = median(found)
        spread = (max(found) - min(found)) / counts[shape.name]
        listed = ", ".join(f"{count:,.0f}" for count in found)
        console.print(f"{shape.name}: {listed} instructions a request, spread {spread:.2%}", highlight=False)
    return counts


def _judge_models(binaries: Binaries, models: int, folder: Path, console: Console) -> int:
    """Whether a request is dearer in a large table than in a small one."""
    shape = callgrind.SHAPES[0]
    few, many = (
        callgrind.instructions_per_request(binaries, shape, folder, ("--extra-models", str(number)))
        for number in (FEW_MODELS, models)
    )
    change = many / few - 1
    dear = change > MODELS_BAR
    console.print(
        f"{shape.name}: {few:,.0f} instructions a request with {FEW_MODELS} models, {many:,.0f} with "
        f"{models:,}: {change:+.2%} (at most {MODELS_BAR:+.0%})",
        style="red" if dear else "green",
        highlight=False,
    )
    return int(dear)


def _judge(comparisons: Sequence[Comparison], console: Console) -> int:
    for one in comparisons:
        style = "red" if one.too_dear else "green"
        line = f"{one.shape}: {one.before:,.0f} before, {one.now:,.0f} now: {one.change:+.2%}"
        console.print(line, style=style, highlight=False)
    if any(one.too_dear for one in comparisons):
        console.print(
            f"dearer by more than {TOLERANCE:.0%}; --top 30 shows where", style="red", highlight=False
        )
        return 1
    if any(one.worth_recording for one in comparisons):
        console.print("cheaper: commit the new baseline, made with --record", highlight=False)
    return 0


def _count_before(load: Path, runs: int, folder: Path, console: Console) -> Mapping[str, float]:
    """Counts of the commit before the change; empty, with the reason printed, where there is none."""
    commit = _commit_before()
    if not commit:
        console.print("no earlier commit is at hand: nothing to compare with", style="yellow")
        return {}
    checkout = folder / "before"
    if not _git("worktree", "add", "--detach", "--force", str(checkout), commit):
        console.print(f"git could not check out {commit}: nothing to compare with", style="yellow")
        return {}
    try:
        serve = _build_before(checkout, console)
        if serve is None:
            console.print(f"{commit} has no bench to build: nothing to compare with", style="yellow")
            return {}
        console.print(f"before ({commit}):", highlight=False)
        return _count(Binaries(load, serve), runs, folder, console)
    finally:
        _git("worktree", "remove", "--force", str(checkout))


def _build_before(checkout: Path, console: Console) -> Path | None:
    environment = {**os.environ, "CARGO_TARGET_DIR": str(_BASE_TARGET)}
    if not (checkout / tools.WORKSPACE.relative_to(tools.CHECKOUT) / "bench").is_dir():
        return None
    with console.status("building the commit before"):
        done = subprocess.run(tools.build_command(checkout, "serve"), env=environment, check=False)  # noqa: S603
    return _BASE_TARGET / "release" / "serve" if done.returncode == 0 else None


def _commit_before() -> str:
    """Where a change began: the common ancestor with the main branch, or the commit before this one."""
    head = _git("rev-parse", "HEAD")
    for branch in ("origin/HEAD", "origin/main", "main"):
        ancestor = _git("merge-base", "HEAD", branch)
        if ancestor and ancestor != head:
            return ancestor
    changed = _git("status", "--porcelain", "--", str(tools.WORKSPACE))
    return head if changed else _git("rev-parse", "--verify", "--quiet", "HEAD~1")


def _git(*words: str) -> str:
    """What git prints, or its last message where it prints nothing; "" where it fails."""
    command = ["git", "-C", str(tools.CHECKOUT), *words]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
    except FileNotFoundError:
        return ""
    return (done.stdout.strip() or done.stderr.strip()) if done.returncode == 0 else ""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m loadtest.bench.instructions", description=main.__doc__)
    parser.add_argument("--runs", type=int, default=3, help="counts of each shape; the median is taken (3)")
    parser.add_argument("--record", action="store_true", help="make what is counted now the baseline")
    parser.add_argument("--top", type=int, metavar="N", help="show the N dearest functions instead")
    parser.add_argument(
        "--models", type=int, default=0, metavar="N", help=f"compare {FEW_MODELS} models with N instead"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
