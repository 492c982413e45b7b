"""Interleaved measurements of running proxies."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, median

from loadtest.bench.certificates import certificates
from loadtest.bench.client import Client, Run
from loadtest.bench.cpu import cpu_seconds
from loadtest.bench.errors import BadAnswers
from loadtest.bench.peers import Peer
from loadtest.bench.process import Process
from loadtest.bench.shapes import Shape
from loadtest.bench.stats import interleaved

# A thread that still runs is not fully accounted for; after this pause all are asleep.
_SETTLE_SECONDS = 0.03
_TURNS = 20


@dataclass(frozen=True, slots=True)
class Running:
    """A started proxy: which one, where it listens, its process (none for the backend itself)."""

    peer: Peer
    port: int
    version: str
    process: Process | None


@dataclass(frozen=True, slots=True)
class Rig:
    """What every measurement uses: binaries, a folder for logs, CPUs of the client."""

    binaries: Path
    folder: Path
    client_cpus: tuple[int, ...]

    def client(self, target: Running, shape: Shape) -> Client:
        """A client of `target`, connected and warm."""
        return Client(
            self.binaries,
            shape,
            name=f"{target.peer.name}-{shape.name}",
            port=target.port,
            answers_as=target.peer.answers_as,
            folder=self.folder,
            trusts=certificates(self.folder).authority if shape.tls else None,
            cpus=self.client_cpus,
        )


@dataclass(frozen=True, slots=True)
class Sample:
    """One measurement: microseconds of CPU a good answer (NaN without any), and what the client saw."""

    peer: str
    shape: str
    round: int
    cpu_us: float
    run: Run


@dataclass(frozen=True, slots=True)
class Pair:
    """Many short runs with one request in flight, in turns through the proxy and straight to the backend.

    Attributes:
        peer: the proxy's name.
        round: counted from 0.
        mean_us: mean latency through the proxy.
        direct_mean_us: mean latency without it.
        added_us: the median, over the turns, of what the proxy added to the mean: a neighbour that takes
            the CPU for a moment spoils a turn, not the figure.
        p50_us: median latency through the proxy.
        p99_us: its 99th percentile.
        bad: answers that were not good.
        first_bad: what was wrong with the first of them.
    """

    peer: str
    round: int
    mean_us: float
    direct_mean_us: float
    added_us: float
    p50_us: float
    p99_us: float
    bad: int
    first_bad: str | None


def measure_cpu(
    rig: Rig,
    running: Sequence[Running],
    shape: Shape,
    *,
    rounds: int,
    seed: int,
    progress: Callable[[str], None],
) -> list[Sample]:
    """Every proxy once a round, in another order each round. Bad answers are in the samples."""
    samples = []
    for number, target in interleaved(rounds, running, seed):
        progress(f"{shape.name}: round {number + 1} of {rounds}, {target.peer.name}")
        samples.append(_cpu_sample(rig, target, shape.scaled(target.peer.share), number))
    return samples


def _cpu_sample(rig: Rig, target: Running, shape: Shape, number: int) -> Sample:
    if target.process is None:
        raise ValueError("the backend itself has no cost as a proxy")
    client = rig.client(target, shape)
    try:
        time.sleep(_SETTLE_SECONDS)
        before = cpu_seconds(target.process.pid)
        run = client.run(shape.requests)
        time.sleep(_SETTLE_SECONDS)
        spent = cpu_seconds(target.process.pid) - before
    finally:
        client.stop()
    cpu_us = spent / run.good * 1e6 if run.good else math.nan
    return Sample(target.peer.name, shape.name, number, cpu_us, run)


def measure_latency(
    rig: Rig,
    running: Sequence[Running],
    direct: Running,
    shape: Shape,
    *,
    rounds: int,
    seed: int,
    progress: Callable[[str], None],
) -> list[Pair]:
    """Every proxy once a round, each time in turns with the backend itself.

    Raises:
        BadAnswers: the backend itself gave one.
    """
    pairs = []
    for number, target in interleaved(rounds, running, seed):
        progress(f"latency: round {number + 1} of {rounds}, {target.peer.name}")
        pairs.append(_pair(rig, target, direct, shape.scaled(target.peer.share), number))
    return pairs


def _pair(rig: Rig, target: Running, direct: Running, shape: Shape, number: int) -> Pair:
    clients: list[Client] = []
    runs: tuple[list[Run], list[Run]] = ([], [])
    try:
        clients.extend(rig.client(one, shape) for one in (target, direct))
        for turn in range(_TURNS):
            # Proxy first in one turn, backend first in the next: neither always follows the other.
            for which in (0, 1) if turn % 2 == 0 else (1, 0):
                runs[which].append(clients[which].run(max(shape.requests // _TURNS, 1)))
    finally:
        for client in clients:
            client.stop()
    for run in runs[1]:
        if run.bad:
            raise BadAnswers(f"the backend itself: {run.first_bad}")
    through, straight = ([run.mean_us for run in which] for which in runs)
    return Pair(
        peer=target.peer.name,
        round=number,
        mean_us=fmean(through),
        direct_mean_us=fmean(straight),
        added_us=median(one - other for one, other in zip(through, straight, strict=True)),
        p50_us=median(run.p50_us for run in runs[0]),
        p99_us=median(run.p99_us for run in runs[0]),
        bad=sum(run.bad for run in runs[0]),
        first_bad=next((run.first_bad for run in runs[0] if run.bad), None),
    )
