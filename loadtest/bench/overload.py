"""What becomes of a model that is asked for three times what it can do, and of the models beside it?

    python -m loadtest.bench.overload [--rounds 5] [--seconds 6]

A real Triton serves `busy`, which takes 5 ms on one instance, and `other`, which takes none. Open-loop
clients send to both through the gateway, `busy` in turn at the rate that it can do and at three times
that. The bars: three times as many give at least 95 % of the good answers, the rest is RESOURCE_EXHAUSTED
with the time to come again, and the 99th percentile of `other` is at most 1.1 times, or 0.5 ms above, that
of the same rounds without too much.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from loadtest.bench import tools
from loadtest.bench.errors import BenchError
from loadtest.bench.open_loop import OpenLoop, Run, address
from loadtest.bench.peers.stagegate import gateway_config
from loadtest.bench.process import Process, free_port
from router.backends.process import TritonOptions, TritonProcess
from router.backends.triton import TritonServer
from router.backends.wheel import find_triton
from router.model import TritonName

BUSY, OTHER = "busy", "other"
TIMES = 3
GOOD_SHARE = 0.95
RATIO, SLACK_MS = 1.1, 0.5
_OTHER_RATE = 100.0
_WARM_SECONDS = 2.0

_CONFIG = """name: "{name}"
backend: "python"
max_batch_size: 0
input [{{ name: "x" data_type: TYPE_FP32 dims: [ -1 ] }}]
output [{{ name: "y" data_type: TYPE_FP32 dims: [ -1 ] }}]
instance_group [{{ kind: KIND_CPU count: 1 }}]
"""

_MODEL = """import time

import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def execute(self, requests):
        answers = []
        for request in requests:
            if {seconds}:
                time.sleep({seconds})
            doubled = pb_utils.get_input_tensor_by_name(request, "x").as_numpy() * 2
            answers.append(pb_utils.InferenceResponse([pb_utils.Tensor("y", doubled)]))
        return answers
"""


@dataclass(frozen=True, slots=True)
class Sample:
    """One run of both models at the same time."""

    busy: Run
    other: Run


@dataclass(frozen=True, slots=True)
class Round:
    """The same with as much as `busy` can do, and with three times that."""

    just: Sample
    much: Sample


def main() -> int:
    """Measure, print a table, and return 0 where the bars hold."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=6.0, help="of each of the two runs of a round")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="stagegate-overload-") as folder:
        try:
            capacity, rounds = asyncio.run(_measure(Path(folder), options.rounds, options.seconds))
        except BenchError as error:
            sys.stderr.write(f"bench: {error}\n")
            return 1
    return _report(capacity, rounds)


async def _measure(folder: Path, rounds: int, seconds: float) -> tuple[float, list[Round]]:
    _write_model(folder / "models", BUSY, 0.005)
    _write_model(folder / "models", OTHER, 0.0)
    options = TritonOptions("bench", folder / "models", folder / "work")
    async with TritonProcess(find_triton(), options) as triton:
        server = TritonServer(triton.backend())
        for name in (BUSY, OTHER):
            await server.load(TritonName(name), timeout=60)
        await server.close()
        return await asyncio.to_thread(_measure_through, triton.grpc, folder, rounds, seconds)


def _measure_through(backend: str, folder: Path, rounds: int, seconds: float) -> tuple[float, list[Round]]:
    with (
        _gateway(backend, folder) as port,
        _client(BUSY, port, folder) as busy,
        _client(OTHER, port, folder) as other,
    ):
        capacity = _capacity(busy)
        done = []
        for _ in range(rounds):
            just = _both(busy, capacity, other, seconds)
            done.append(Round(just, _both(busy, capacity * TIMES, other, seconds)))
        return capacity, done


def _capacity(busy: OpenLoop) -> float:
    """Good answers a second of the model, where it always has something to do."""
    for _ in range(2):
        busy.begin(1_000, _WARM_SECONDS)
        run = busy.end()
    return run.rate


def _both(busy: OpenLoop, rate: float, other: OpenLoop, seconds: float) -> Sample:
    busy.begin(rate, seconds)
    other.begin(_OTHER_RATE, seconds)
    return Sample(busy.end(), other.end())


@contextmanager
def _client(model: str, port: int, folder: Path) -> Iterator[OpenLoop]:
    client = OpenLoop(model, address(port), model, folder=folder)
    try:
        yield client
    finally:
        client.stop()


@contextmanager
def _gateway(backend: str, folder: Path) -> Iterator[int]:
    ports = [free_port() for _ in range(3)]
    config = folder / "stagegate.yaml"
    config.write_text(gateway_config(ports, int(backend.rpartition(":")[2])))
    command = [sys.executable, "-m", "gateway", "gateway", "--config", str(config)]
    process = Process("gateway", command, folder=folder, environment={"PYTHONPATH": str(tools.CHECKOUT)})
    try:
        process.wait_for_port(ports[0])
        yield ports[0]
    finally:
        process.stop()


def _write_model(repository: Path, name: str, seconds: float) -> None:
    folder = repository / name
    (folder / "1").mkdir(parents=True)
    (folder / "config.pbtxt").write_text(_CONFIG.format(name=name))
    (folder / "1/model.py").write_text(_MODEL.format(seconds=seconds))


def _report(capacity: float, rounds: list[Round]) -> int:
    out = sys.stdout.write
    out(f"{BUSY} can do {capacity:.0f} a second\n")
    out(
        f"{'round':>5} {'good/s 1x':>10} {'good/s 3x':>10} {'refused':>8} {'their p99 ms':>13} {'bad':>4}"
        f" {'busy p99 ms':>12} {'other p99 ms 1x':>16} {'3x':>7}\n"
    )
    for number, one in enumerate(rounds, 1):
        just, much = one.just, one.much
        bad = sum(run.bad for run in (just.busy, just.other, much.busy, much.other))
        out(
            f"{number:>5} {just.busy.rate:>10.1f} {much.busy.rate:>10.1f} {much.busy.refused:>8}"
            f" {much.busy.refused_p99:>13.2f} {bad:>4} {much.busy.good_p99:>12.1f}"
            f" {just.other.good_p99:>16.2f} {much.other.good_p99:>7.2f}\n"
        )
    share = statistics.median(one.much.busy.rate / one.just.busy.rate for one in rounds)
    control = statistics.median(one.just.other.good_p99 for one in rounds)
    beside = statistics.median(one.much.other.good_p99 for one in rounds)
    out(f"good answers at {TIMES} x: {share:.1%} of those at 1 x (at least {GOOD_SHARE:.0%})\n")
    out(f"p99 of {OTHER}: {beside:.2f} ms beside {control:.2f} ms: {beside / control:.2f} x\n")
    holds = (
        share >= GOOD_SHARE
        and beside <= max(control * RATIO, control + SLACK_MS)
        and not any(one.much.busy.bad + one.much.other.bad + one.much.other.refused for one in rounds)
    )
    out("the bars hold\n" if holds else "the bars do not hold\n")
    return 0 if holds else 1


if __name__ == "__main__":
    sys.exit(main())
