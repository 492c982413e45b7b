"""`python -m loadtest.soak`: does anything stay behind when clients give their calls up?

A whole gateway stands before a backend that takes up to 100 ms a request and counts what is
cancelled there. Clients cancel 15 % of their calls at a random moment. In the end nothing may be in flight,
neither in the gateway nor in the backend, and memory, descriptors and threads are what they were.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import statistics
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Generator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import grpc
from rich.console import Console
from tritonclient.grpc import service_pb2, service_pb2_grpc

from loadtest.bench import tools
from loadtest.bench.errors import BenchError
from loadtest.bench.footprint import Footprint, footprint
from loadtest.bench.peers.stagegate import gateway_config
from loadtest.bench.process import LOOPBACK, Process, free_port
from loadtest.soak_backend import MODEL, MOST_SECONDS

CANCELLED_SHARE = 0.17
"""Part of the calls that clients try to cancel; some are answered before, so that 15 % are cancelled."""

GROWTH = 8 << 20
"""Resident bytes that the last quarter of a run may lie above the second."""

_CONNECTIONS, _EACH = 8, 6
_SPARE_DESCRIPTORS = 8
# Python's pool for work that blocks makes its threads when it needs them.
_SPARE_THREADS = 4
_SAMPLES = 100
_READY_SECONDS = 60.0
_QUIET_SECONDS = 10.0


class _Call(Protocol):
    """A call under way, as gRPC gives it."""

    def cancel(self) -> bool: ...

    def __await__(self) -> Generator[None, None, service_pb2.ModelInferResponse]: ...


_Ask = Callable[..., _Call]


@dataclass(slots=True)
class Outcome:
    """What the clients saw."""

    good: int = 0
    cancelled: int = 0
    failures: list[str] = field(default_factory=list)

    @property
    def done(self) -> int:
        """Calls that are over."""
        return self.good + self.cancelled + len(self.failures)


@dataclass(frozen=True, slots=True)
class Report:
    """What a run found.

    Attributes:
        seconds: how long the calls took.
        inflight: requests that the gateway holds to be under way after the last one.
        running: the same, as the backend has it.
        cancelled_there: calls that the backend saw cancelled.
        resident: the gateway's resident bytes, sampled evenly over the run.
        before, after: the gateway at the first sample and when all was quiet.
    """

    outcome: Outcome
    seconds: float
    inflight: int
    running: int
    cancelled_there: int
    resident: tuple[int, ...]
    before: Footprint
    after: Footprint

    @property
    def growth(self) -> int:
        """Bytes by which the last quarter of the run lies above the second."""
        quarter = max(len(self.resident) // 4, 1)
        second, last = self.resident[quarter : 2 * quarter], self.resident[-quarter:]
        return round(statistics.median(last) - statistics.median(second))

    def faults(self) -> list[str]:
        """One line for each thing that is not as it must be."""
        held = [
            (not self.outcome.failures, f"{len(self.outcome.failures)} calls failed"),
            (self.inflight == 0, f"{self.inflight} requests in flight in the gateway"),
            (self.running == 0, f"{self.running} requests still run in the backend"),
            (self.cancelled_there > 0, "the backend saw no cancel"),
            (self.growth <= GROWTH, f"memory grew by {self.growth} bytes"),
            (self.after.descriptors <= self.before.descriptors + _SPARE_DESCRIPTORS, "descriptors stay open"),
            (self.after.threads <= self.before.threads + _SPARE_THREADS, "threads stay"),
        ]
        return [text for good, text in held if not good] + sorted(set(self.outcome.failures))[:5]


def soak(requests: int, folder: Path, *, share: float = CANCELLED_SHARE, seed: int = 1) -> Report:
    """Run everything once.

    Args:
        requests: calls in all.
        folder: an empty folder for configuration and logs.
        share: part of the calls that are cancelled.
        seed: which calls those are, and when.

    Raises:
        BenchError: something does not start.
    """
    with ExitStack() as stack:
        backend = Process(
            "backend", [sys.executable, "-m", "loadtest.soak_backend"], folder=folder, talks=True
        )
        stack.callback(backend.stop)
        ports = [free_port() for _ in range(3)]
        config = folder / "stagegate.yaml"
        config.write_text(gateway_config(ports, json.loads(backend.hear())["port"]))
        command = (sys.executable, "-m", "gateway", "gateway", "--config", str(config))
        gateway = Process("gateway", command, folder=folder, environment={"PYTHONPATH": str(tools.CHECKOUT)})
        stack.callback(gateway.stop)
        metrics = f"http://{LOOPBACK}:{ports[1]}"
        _wait_ready(gateway, metrics)
        outcome, resident = Outcome(), list[Footprint]()
        began = time.monotonic()
        load = _Load(requests, share, random.Random(seed), outcome)  # noqa: S311
        asyncio.run(load.run(f"{LOOPBACK}:{ports[0]}", lambda: resident.append(footprint(gateway.pid))))
        seconds = time.monotonic() - began
        counts = _quiet(backend, metrics)
        return Report(
            outcome=outcome,
            seconds=seconds,
            inflight=_inflight(metrics),
            running=counts["running"],
            cancelled_there=counts["cancelled"],
            resident=tuple(one.resident for one in resident),
            before=resident[0],
            after=footprint(gateway.pid),
        )


class _Load:
    """Clients on several connections, and samples of the gateway in between."""

    def __init__(self, requests: int, share: float, chance: random.Random, outcome: Outcome) -> None:
        self._left = requests
        self._requests = requests
        self._share = share
        self._random = chance
        self._outcome = outcome

    async def run(self, target: str, sample: Callable[[], None]) -> None:
        async with asyncio.TaskGroup() as group:
            sampling = group.create_task(self._sample(sample))
            async with asyncio.TaskGroup() as clients:
                for number in range(_CONNECTIONS):
                    clients.create_task(self._connection(target, number))
            sampling.cancel()

    async def _sample(self, sample: Callable[[], None]) -> None:
        step = max(self._requests // _SAMPLES, 1)
        after = step
        while True:
            if self._outcome.done >= after:
                sample()
                after += step
            await asyncio.sleep(0.01)

    async def _connection(self, target: str, number: int) -> None:
        options = [("grpc.use_local_subchannel_pool", 1), ("stagegate.soak", number)]
        async with grpc.aio.insecure_channel(target, options=options) as channel:
            ask = service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer
            async with asyncio.TaskGroup() as group:
                for _ in range(_EACH):
                    group.create_task(self._client(ask))

    async def _client(self, ask: _Ask) -> None:
        while self._left > 0:
            self._left -= 1
            call = ask(service_pb2.ModelInferRequest(model_name=MODEL, id=str(self._left)), timeout=30)
            if self._random.random() < self._share:
                # Early enough that most are not answered yet.
                await asyncio.sleep(self._random.uniform(0, MOST_SECONDS / 2))
                call.cancel()
            await self._end(call)

    async def _end(self, call: _Call) -> None:
        try:
            answer = await call
        except asyncio.CancelledError:
            self._outcome.cancelled += 1
        except grpc.RpcError as error:
            self._outcome.failures.append(f"{error.code().name}: {error.details()}")
        else:
            if answer.model_name == MODEL:
                self._outcome.good += 1
            else:
                self._outcome.failures.append(f"an answer of model {answer.model_name!r}")


def _wait_ready(gateway: Process, metrics: str) -> None:
    end = time.monotonic() + _READY_SECONDS
    while not _read(f"{metrics}/readyz"):
        if time.monotonic() > end:
            raise gateway.failure(f"is not ready after {_READY_SECONDS:g} s")
        time.sleep(0.1)


def _quiet(backend: Process, metrics: str) -> dict[str, int]:
    """Counts of the backend once nothing runs any more, or the time for that is over."""
    end = time.monotonic() + _QUIET_SECONDS
    while True:
        backend.say("count")
        counts: dict[str, int] = json.loads(backend.hear())
        if (counts["running"] == 0 and _inflight(metrics) == 0) or time.monotonic() > end:
            return counts
        time.sleep(0.1)


def _inflight(metrics: str) -> int:
    """Sum of `stagegate_inflight_requests`; -1 where the gateway does not tell."""
    text = _read(f"{metrics}/metrics")
    lines = [line for line in text.splitlines() if line.startswith("stagegate_inflight_requests{")]
    return round(sum(float(line.rpartition(" ")[2]) for line in lines)) if lines else -1


def _read(url: str) -> str:
    """What is served there with 200; "" otherwise."""
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:  # noqa: S310 - our own, on the loopback
            return str(answer.read().decode()) or "ok"
    except OSError:
        return ""


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit code is 1 where something stayed behind or failed."""
    parsed = _parser().parse_args(arguments)
    console = Console(markup=False, highlight=False, soft_wrap=True)
    try:
        with tempfile.TemporaryDirectory(prefix="stagegate-soak-") as folder:
            report = soak(parsed.requests, Path(folder), share=parsed.share, seed=parsed.seed)
    except BenchError as error:
        console.print(f"soak: {error}", style="red")
        return 1
    told = report.outcome
    console.print(
        f"{told.done} calls in {report.seconds:.0f} s: {told.good} good, {told.cancelled} cancelled, "
        f"{len(told.failures)} failed; the backend saw {report.cancelled_there} cancels"
    )
    console.print(
        f"in flight in the end: {report.inflight} in the gateway, {report.running} in the backend; "
        f"resident {report.before.resident >> 20} MiB at first, {report.after.resident >> 20} MiB in the "
        f"end, last quarter {report.growth / 1024:+.0f} KiB against the second; "
        f"descriptors {report.before.descriptors} and {report.after.descriptors}, "
        f"threads {report.before.threads} and {report.after.threads}"
    )
    for fault in report.faults():
        console.print(fault, style="red")
    return 1 if report.faults() else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m loadtest.soak", description=main.__doc__)
    parser.add_argument("--requests", type=int, default=100_000, help="calls in all (100,000)")
    parser.add_argument(
        "--share", type=float, default=CANCELLED_SHARE, help="part that clients try to cancel (0.17)"
    )
    parser.add_argument("--seed", type=int, default=1, help="which are cancelled, and when (1)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
