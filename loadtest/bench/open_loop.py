"""An open-loop client: it sends at the times of a clock, whatever became of what it sent before.

    python -m loadtest.bench.open_loop ADDRESS MODEL

Reads lines `RATE SECONDS` and answers each with one line of JSON, the fields of `Run`. Arrivals are evenly
spaced. It runs in a process of its own, so that clients do not slow each other down.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeAlias

import grpc
from tritonclient.grpc import service_pb2, service_pb2_grpc

from loadtest.bench.process import LOOPBACK, Process

PUSHBACK = "grpc-retry-pushback-ms"
_DEADLINE_SECONDS = 20.0
# One connection has no room for all that may wait at once (`limits.max_streams`).
_CONNECTIONS = 4
_OPTIONS = (("grpc.use_local_subchannel_pool", 1),)

_Stub: TypeAlias = service_pb2_grpc.GRPCInferenceServiceStub
_VALUES = b"\x00\x00\x80\x3f\x00\x00\x00\x40"
_DOUBLED = b"\x00\x00\x00\x40\x00\x00\x80\x40"


@dataclass(frozen=True, slots=True)
class Run:
    """What became of the requests of one run. Times in milliseconds, from the time of sending.

    Attributes:
        sent: requests.
        good: right answers.
        refused: RESOURCE_EXHAUSTED with the time to come again.
        bad: anything else.
        seconds: from the first request to the last answer.
        good_p99: of good answers, as `refused_p99` is of refusals.
        late_p99: how late requests were sent, because this process had no time.
        codes: what bad answers said, by number.
    """

    sent: int
    good: int
    refused: int
    bad: int
    seconds: float
    good_p50: float
    good_p99: float
    refused_p99: float
    late_p99: float
    codes: dict[str, int]

    @property
    def rate(self) -> float:
        """Good answers a second."""
        return self.good / self.seconds


class OpenLoop(Process):
    """The client, driven over its standard input."""

    def __init__(self, name: str, address: str, model: str, *, folder: Path) -> None:
        command = [sys.executable, "-m", "loadtest.bench.open_loop", address, model]
        super().__init__(name, command, folder=folder, talks=True)

    def begin(self, rate: float, seconds: float) -> None:
        """Start a run; `end` waits for it."""
        self.say(f"{rate} {seconds}")

    def end(self) -> Run:
        """What became of it. Raises BenchError where the client ended instead."""
        return Run(**json.loads(self.hear()))


@dataclass(slots=True)
class _Record:
    """Times of one run as they are measured."""

    good: list[float]
    refused: list[float]
    late: list[float]
    bad: Counter[str]


async def _one(stub: _Stub, model: str, record: _Record) -> None:
    request = service_pb2.ModelInferRequest(model_name=model)
    request.inputs.add(name="x", datatype="FP32", shape=[2])
    request.raw_input_contents.append(_VALUES)
    started = time.perf_counter()
    try:
        answer = await stub.ModelInfer(request, timeout=_DEADLINE_SECONDS)
    except grpc.aio.AioRpcError as error:
        trailers: Any = error.trailing_metadata()  # the stubs disagree on its type
        told = any(key == PUSHBACK for key, _ in trailers)
        if error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED and told:
            record.refused.append(time.perf_counter() - started)
        else:
            record.bad[error.code().name] += 1
        return
    if list(answer.raw_output_contents) == [_DOUBLED]:
        record.good.append(time.perf_counter() - started)
    else:
        record.bad["wrong answer"] += 1


async def _run(stubs: Sequence[_Stub], model: str, rate: float, seconds: float) -> Run:
    record = _Record([], [], [], Counter())
    count = max(1, round(rate * seconds))
    started = time.perf_counter()
    calls = []
    for number in range(count):
        due = started + number / rate
        now = time.perf_counter()
        await asyncio.sleep(max(0.0, due - now))
        record.late.append(max(0.0, time.perf_counter() - due))
        calls.append(asyncio.create_task(_one(stubs[number % len(stubs)], model, record)))
    await asyncio.gather(*calls)
    return Run(
        sent=count,
        good=len(record.good),
        refused=len(record.refused),
        bad=sum(record.bad.values()),
        seconds=time.perf_counter() - started,
        good_p50=_quantile(record.good, 0.5),
        good_p99=_quantile(record.good, 0.99),
        refused_p99=_quantile(record.refused, 0.99),
        late_p99=_quantile(record.late, 0.99),
        codes=dict(record.bad),
    )


def _quantile(seconds: Sequence[float], share: float) -> float:
    """In milliseconds; 0 of nothing."""
    ordered = sorted(seconds)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))] * 1_000 if ordered else 0.0


async def _serve(address: str, model: str) -> None:
    lines = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    channels = [grpc.aio.insecure_channel(address, options=_OPTIONS) for _ in range(_CONNECTIONS)]
    stubs = [service_pb2_grpc.GRPCInferenceServiceStub(channel) for channel in channels]
    while line := await lines.readline():
        rate, seconds = map(float, line.split())
        run = await _run(stubs, model, rate, seconds)
        sys.stdout.write(json.dumps(asdict(run)) + "\n")
        sys.stdout.flush()
    for channel in channels:
        await channel.close(None)


def address(port: int) -> str:
    """A port of this machine."""
    return f"{LOOPBACK}:{port}"


if __name__ == "__main__":
    asyncio.run(_serve(*sys.argv[1:]))
