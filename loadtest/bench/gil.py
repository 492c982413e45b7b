"""Does a Python thread that holds the interpreter lock slow the data plane down?

    python -m loadtest.bench.gil [--pairs 7] [--hold 5]

Runs the same requests in interleaved pairs, with and without the lock held (asleep) in the process of the
data plane, and compares the 99th percentiles. The bar: with the lock held at most 1.1 times, or 0.5 ms
above, the run without it, whichever is more.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from pathlib import Path

from loadtest.bench import tools
from loadtest.bench.backend import Backend
from loadtest.bench.client import ASKED_MODEL, BACKEND_MODEL, BACKEND_VERSION, Client, Run
from loadtest.bench.process import LOOPBACK, Process
from loadtest.bench.shapes import SMALL, Shape

RATIO, SLACK_US = 1.1, 500.0
_SHAPE = Shape("4x1", connections=4, streams=1, request_bytes=SMALL, early=False, requests=20_000)


def main() -> int:
    """Measure, print a table, and return 0 where the bar holds."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--pairs", type=int, default=7)
    parser.add_argument("--hold", type=float, default=5.0, help="seconds for which the lock is held")
    options = parser.parse_args()
    binaries = tools.build("constant-backend", "check-client")
    with tempfile.TemporaryDirectory() as folder:
        free, held = _measure(binaries, Path(folder), options.pairs, options.hold)
    return _report(free, held)


def _measure(binaries: Path, folder: Path, pairs: int, hold: float) -> tuple[list[Run], list[Run]]:
    backend = Backend(binaries, folder=folder)
    command = [sys.executable, "-m", "loadtest.bench.gil_holder", f"{LOOPBACK}:{backend.port}"]
    holder = Process(
        "holder", [*command, BACKEND_MODEL, BACKEND_VERSION, ASKED_MODEL], folder=folder, talks=True
    )
    client = None
    free, held = [], []
    try:
        port = json.loads(holder.hear())["port"]
        client = Client(binaries, _SHAPE, name="gil", port=port, answers_as=ASKED_MODEL, folder=folder)
        pace = client.run(_SHAPE.requests)
        # So many that a run ends well before the lock is given back.
        count = int(pace.good / pace.seconds * hold * 0.6)
        for _ in range(pairs):
            free.append(client.run(count))
            holder.say(f"hold {hold}")
            held.append(client.run(count))
            holder.hear()
    finally:
        for process in (client, holder, backend):
            if process is not None:
                process.stop()
    return free, held


def _report(free: list[Run], held: list[Run]) -> int:
    sys.stdout.write(f"{'pair':>4} {'requests':>9} {'p99 free us':>12} {'p99 held us':>12} {'bad':>4}\n")
    for number, (without, with_lock) in enumerate(zip(free, held, strict=True), 1):
        bad = without.bad + with_lock.bad
        sys.stdout.write(
            f"{number:>4} {with_lock.good:>9} {without.p99_us:>12.0f} {with_lock.p99_us:>12.0f} {bad:>4}\n"
        )
    before = statistics.median(run.p99_us for run in free)
    after = statistics.median(run.p99_us for run in held)
    holds = after <= max(before * RATIO, before + SLACK_US) and not any(run.bad for run in (*free, *held))
    sys.stdout.write(f"median p99: {before:.0f} us free, {after:.0f} us held: {after / before:.2f} x\n")
    sys.stdout.write("the bar holds\n" if holds else "the bar does not hold\n")
    return 0 if holds else 1


if __name__ == "__main__":
    sys.exit(main())
