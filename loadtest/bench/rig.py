"""Backend and proxies, started together and ended together."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from loadtest.bench.backend import Backend
from loadtest.bench.errors import BenchError, Missing
from loadtest.bench.measure import Rig, Running
from loadtest.bench.peers import DIRECT, Peer
from loadtest.bench.process import Process, free_port
from loadtest.bench.shapes import SMALL, Shape

_ANSWER_SECONDS = 20.0
_FIRST = Shape("first", connections=1, streams=1, request_bytes=SMALL, early=False, requests=1)


@dataclass(frozen=True, slots=True)
class Started:
    """All that runs: the rig, the proxies, and the backend as a target of its own."""

    rig: Rig
    running: tuple[Running, ...]
    direct: Running


def split_cpus(pin: bool) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """CPUs for the proxy, and for client and backend; both empty where nothing is to be pinned.

    One CPU is the proxies' alone and the others are the client's and the backend's, so that every proxy
    has the same place and none shares it with the load.
    """
    cpus = sorted(os.sched_getaffinity(0))
    if not pin or len(cpus) < 2:  # noqa: PLR2004 - one for the proxy, one for the rest
        return (), ()
    return (cpus[0],), tuple(cpus[1:])


@contextmanager
def started(
    peers: Sequence[Peer],
    binaries: Path,
    *,
    folder: Path,
    pin: bool,
    skipped: Callable[[Peer, Missing], None],
) -> Iterator[Started]:
    """Starts the backend and the proxies; ends all of them, whatever happens.

    Args:
        peers: which proxies; one that is not installed is told to `skipped` and left out.
        binaries: the folder of the crate's binaries.
        folder: an empty folder for configurations and logs.
        pin: whether proxies get a CPU of their own.
        skipped: called for each proxy that is not installed.
    """
    proxy_cpus, load_cpus = split_cpus(pin)
    with ExitStack() as stack:
        backend = Backend(binaries, folder=folder, cpus=load_cpus)
        stack.callback(backend.stop)
        rig = Rig(binaries, folder, load_cpus)
        running: list[Running] = []
        for peer in peers:
            port = free_port()
            try:
                launch = peer.launch(port=port, backend_port=backend.port, folder=folder)
            except Missing as missing:
                skipped(peer, missing)
                continue
            process = Process(
                peer.name, launch.command, folder=folder, cpus=proxy_cpus, environment=launch.environment
            )
            stack.callback(process.stop)
            process.wait_for_port(port)
            running.append(Running(peer, port, launch.version, process))
            _wait_for_answers(rig, running[-1])
        direct = Running(DIRECT, backend.port, "", None)
        yield Started(rig, tuple(running), direct)


def _wait_for_answers(rig: Rig, target: Running) -> None:
    """A gateway listens before it knows what its backend serves, so a port alone says too little."""
    deadline = time.monotonic() + _ANSWER_SECONDS
    while True:
        try:
            rig.client(target, replace(_FIRST, tls=target.peer.tls)).stop()
        except BenchError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)
        else:
            return
