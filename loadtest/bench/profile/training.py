"""The loads that show what is hot: mostly small requests, and some of all else that clients do.

A compiler that knows what is hot makes what was never run small and slow. So everything a busy gateway does
is in here often enough to count as run: TLS, large requests, streams, REST, compression, and failures.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path

from loadtest.bench.backend import Backend
from loadtest.bench.certificates import certificates
from loadtest.bench.client import ASKED_MODEL, Client
from loadtest.bench.errors import BadAnswers
from loadtest.bench.peers.stagegate import serve_options
from loadtest.bench.process import Process
from loadtest.bench.profile.variety import Ports, ask_all, backends
from loadtest.bench.shapes import LARGE, SMALL, Shape

SHAPES = (
    Shape("1x1", connections=1, streams=1, request_bytes=SMALL, early=False, requests=10_000),
    Shape("32x1", connections=32, streams=1, request_bytes=SMALL, early=False, requests=30_000),
    Shape("8x8", connections=8, streams=8, request_bytes=SMALL, early=False, requests=30_000),
    Shape("8x1-1MiB", connections=8, streams=1, request_bytes=LARGE, early=False, requests=500),
    Shape("8x1-1MiB-early", connections=8, streams=1, request_bytes=LARGE, early=True, requests=300),
    Shape("32x1-tls", connections=32, streams=1, request_bytes=SMALL, early=False, requests=20_000, tls=True),
    Shape("8x8-tls", connections=8, streams=8, request_bytes=SMALL, early=False, requests=20_000, tls=True),
    Shape("8x1-1MiB-tls", connections=8, streams=1, request_bytes=LARGE, early=False, requests=300, tls=True),
)
_END_SECONDS = 60.0


def train(load: Path, serve: Path, folder: Path, tell: Callable[[str], None]) -> None:
    """Run the data plane `serve` under every load, one process for each, ended in good order.

    Args:
        load: the folder of `constant-backend` and `check-client`.
        tell: is given a line for each load that is over.

    Raises:
        BadAnswers: a load had an answer that is not good.
        BenchError: a part did not start or end well.
    """
    backend = Backend(load, folder=folder)
    try:
        for shape in SHAPES:
            _train_shape(load, serve, shape, backend.port, folder)
            tell(f"{shape.name}: {shape.requests:,} requests")
    finally:
        backend.stop()
    counted = asyncio.run(_train_variety(serve, folder))
    for what, number in counted.items():
        tell(f"{what}: {number:,}")


def _train_shape(load: Path, serve: Path, shape: Shape, backend_port: int, folder: Path) -> None:
    made = certificates(folder) if shape.tls else None
    more = ("--tls-cert", str(made.chain), "--tls-key", str(made.key)) if made else ()
    process = Process(
        f"serve-{shape.name}", [str(serve), *serve_options(backend_port), *more], folder=folder, talks=True
    )
    try:
        port = json.loads(process.hear())["port"]
        client = Client(
            load,
            shape,
            name=shape.name,
            port=port,
            answers_as=ASKED_MODEL,
            folder=folder,
            trusts=made.authority if made else None,
        )
        try:
            run = client.run(shape.requests)
        finally:
            client.stop()
        if run.bad:
            raise BadAnswers(f"{shape.name}: {run.bad} of {shape.requests} answers bad: {run.first_bad}")
        # It writes its counts only where it ends by itself.
        process.finish(_END_SECONDS)
    finally:
        process.stop()


async def _train_variety(serve: Path, folder: Path) -> dict[str, int]:
    async with backends() as behind:
        more = ("--backend-http", f"127.0.0.1:{behind.http}")
        command = [str(serve), *serve_options(behind.grpc), *more]
        process = Process("serve-variety", command, folder=folder, talks=True)
        try:
            ports = json.loads(await asyncio.to_thread(process.hear))
            counted = await ask_all(Ports(ports["port"], ports["http"]))
            await asyncio.to_thread(process.finish, _END_SECONDS)
        finally:
            process.stop()
    return counted
