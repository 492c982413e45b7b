"""Instructions of one proxied request, counted by callgrind.

Only the data plane runs under callgrind; client and backend are other processes. Each count is the
difference between a longer and a shorter run, so that start and end cancel out.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from loadtest.bench import tools
from loadtest.bench.backend import Backend
from loadtest.bench.client import ASKED_MODEL, Client
from loadtest.bench.errors import BadAnswers, BenchError
from loadtest.bench.peers.stagegate import serve_options
from loadtest.bench.process import Process
from loadtest.bench.shapes import SMALL, Shape

SHORT, LONG = 1_000, 3_000
SHAPES = (
    Shape("1x1", connections=1, streams=1, request_bytes=SMALL, early=False, requests=LONG),
    Shape("8x8", connections=8, streams=8, request_bytes=SMALL, early=False, requests=LONG),
)
_END_SECONDS = 60.0
_TOTALS = re.compile(r"^totals:\s*(\d+)", re.MULTILINE)
_ANNOTATED = re.compile(r"^\s*([\d,]+)\s*(?:\([ \d.]+%\))?\s+\S*?:(?!\d)(.+?)(?:\s+\[.*\])?$")


@dataclass(frozen=True, slots=True)
class Binaries:
    """What takes part.

    Attributes:
        load: the folder of `constant-backend` and `check-client`.
        serve: the data plane to count.
    """

    load: Path
    serve: Path


def instructions_per_request(
    binaries: Binaries, shape: Shape, folder: Path, options: Sequence[str] = ()
) -> float:
    """One count, for one shape of load, of a data plane with more options.

    Raises:
        Missing: valgrind is not installed.
        BenchError: something did not start or end well, or an answer was not good.
    """
    short = _totals(profile(binaries, shape, SHORT, folder, options))
    return (_totals(profile(binaries, shape, LONG, folder, options)) - short) / (LONG - SHORT)


def profile(binaries: Binaries, shape: Shape, requests: int, folder: Path, more: Sequence[str] = ()) -> Path:
    """Runs `requests` requests through a counted data plane and returns callgrind's file."""
    valgrind = tools.program("valgrind")
    out = folder / f"callgrind-{shape.name}-{requests}.out"
    backend = Backend(binaries.load, folder=folder)
    try:
        options = (*serve_options(backend.port), *more)
        # What a large table takes to build and to free differs by chance more than requests do.
        late = ["--instr-atstart=no"] if more else []
        command = [
            valgrind,
            "--tool=callgrind",
            *late,
            f"--callgrind-out-file={out}",
            str(binaries.serve),
            *options,
        ]
        serve = Process("serve", command, folder=folder, talks=True)
        try:
            port = json.loads(serve.hear())["port"]
            if late:
                _instrument("on", serve.pid)
            _drive(binaries, shape, requests, port, folder)
            if late:
                _instrument("off", serve.pid)
            serve.finish(_END_SECONDS)
        finally:
            serve.stop()
    finally:
        backend.stop()
    return out


def _instrument(state: str, pid: int) -> None:
    tools.output(tools.program("callgrind_control"), "-i", state, str(pid))


def top_functions(binaries: Binaries, shape: Shape, count: int, folder: Path) -> list[tuple[str, float]]:
    """The functions that take most, with their own instructions a request (inlined code is the caller's)."""
    requests = [_by_function(profile(binaries, shape, number, folder)) for number in (SHORT, LONG)]
    spent = Counter({name: own - requests[0][name] for name, own in requests[1].items()})
    return [(name, own / (LONG - SHORT)) for name, own in spent.most_common(count)]


def parse_annotated(text: str) -> Counter[str]:
    """Own instructions by function, from the text of `callgrind_annotate`."""
    found: Counter[str] = Counter()
    for line in text.splitlines():
        if match := _ANNOTATED.match(line):
            found[match[2]] += int(match[1].replace(",", ""))
    return found


def _drive(binaries: Binaries, shape: Shape, requests: int, port: int, folder: Path) -> None:
    client = Client(binaries.load, shape, name="counted", port=port, answers_as=ASKED_MODEL, folder=folder)
    try:
        run = client.run(requests)
    finally:
        client.stop()
    if run.bad:
        raise BadAnswers(f"{run.bad} of {requests} answers bad: {run.first_bad}")


def _totals(out: Path) -> int:
    match = _TOTALS.search(out.read_text(errors="replace"))
    if match is None:
        raise BenchError(f"callgrind wrote no totals into {out.name}")
    return int(match[1])


def _by_function(out: Path) -> Counter[str]:
    annotate = tools.program("callgrind_annotate")
    return parse_annotated(tools.output(annotate, "--threshold=100", "--auto=no", str(out)))
