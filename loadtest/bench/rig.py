"""Backend and proxies, started together and ended together."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from loadtest.bench.backend import Backend
from loadtest.bench.errors import Missing
from loadtest.bench.measure import Rig, Running
from loadtest.bench.peers import DIRECT, Peer
from loadtest.bench.process import Process, free_port


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
        running = []
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
        direct = Running(DIRECT, backend.port, "", None)
        yield Started(Rig(binaries, folder, load_cpus), tuple(running), direct)
