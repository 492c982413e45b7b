"""The ports for operators and probes: opened, closed, and handed on with the process."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from dataclasses import dataclass

from gateway.admin import serve_admin
from gateway.config import Address
from gateway.config.schema import ListenConfig
from gateway.handover import Taken
from gateway.http import serve_http
from gateway.metrics import CounterSource, LoadRecorder
from gateway.running import RunningGateway
from router.errors import StagegateError, Unavailable


class PortInUse(StagegateError):
    """A listener cannot be opened; the message names the key that moves it."""


class Door:
    """A server that can be closed and opened again."""

    def __init__(self, serve: Callable[[], AbstractAsyncContextManager[Address]]) -> None:
        self._serve = serve
        self._open = AsyncExitStack()

    async def open(self) -> Address:
        """Serve; gives the bound address. Raises OSError."""
        return await self._open.enter_async_context(self._serve())

    async def close(self) -> None:
        """Serve no more. Idempotent."""
        await self._open.aclose()


@dataclass(frozen=True, slots=True)
class Doors:
    """What operators and probes come in by. The socket of the metrics port stays open until the end."""

    admin: Door
    metrics: Door
    metrics_socket: socket.socket


async def open_doors(
    stack: AsyncExitStack,
    listen: ListenConfig,
    taken: Taken | None,
    *,
    gateway: RunningGateway,
    counters: CounterSource,
    recorder: LoadRecorder,
) -> Doors:
    """Open the admin API and, unless another gateway still serves it, the metrics port."""
    with named_port("listen.metrics", listen.metrics):
        sock = _metrics_socket(taken, listen.metrics)
    stack.callback(sock.close)
    metrics = Door(lambda: serve_http(listen.metrics, gateway, counters, recorder, sock.dup()))
    stack.push_async_callback(metrics.close)
    if taken is None:
        gateway.listens(metrics=await metrics.open())
    admin = Door(lambda: serve_admin(listen.admin, gateway))
    stack.push_async_callback(admin.close)
    with named_port("listen.admin", listen.admin):
        gateway.listens(admin=await admin.open())
    return Doors(admin, metrics, sock)


@contextlib.contextmanager
def named_port(key: str, address: Address) -> Iterator[None]:
    """Errors of opening a port say which key sets it. Raises PortInUse, Unavailable."""
    try:
        yield
    except OSError as problem:
        if problem.errno == errno.EADDRINUSE:
            raise PortInUse(
                f"{key}: {address} is in use", hint=f"set {key} to another address, or end what uses it"
            ) from None
        raise Unavailable(f"{key}: cannot listen on {address}: {os.strerror(problem.errno or 0)}") from None


def _listen(address: Address) -> socket.socket:
    family = socket.AF_INET6 if ":" in address.numeric else socket.AF_INET
    return socket.create_server((address.numeric, address.port), family=family, backlog=128)


def _metrics_socket(taken: Taken | None, address: Address) -> socket.socket:
    """That of the gateway before, where it listens on this address, or one of its own."""
    if taken is None:
        return _listen(address)
    found = socket.getaddrinfo(address.numeric, address.port, type=socket.SOCK_STREAM)
    if taken.metrics.getsockname()[:2] in [entry[4][:2] for entry in found]:
        return taken.metrics
    taken.metrics.close()
    return _listen(address)
