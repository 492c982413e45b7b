"""An upgrade in place: a new process takes the ports and the state of a running one over.

The running gateway waits on a socket in the kernel's own name space, named after its inference port, for
a process of the same user. The steps, each one message:

1. The new process asks.
2. The old one stops its admin API, lets go of the state, and hands its listening sockets over. It goes on
   to serve with the routes that it has.
3. The new one starts on them. When it is ready it begins to accept, and says so.
4. The old one drains and exits. Where the new one goes away before that, the old one takes everything
   back and goes on.

No connection is refused meanwhile: the sockets are never closed, and what nobody has accepted yet waits.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field

from gateway import __version__
from gateway.config import Address
from router.errors import StagegateError, Unavailable

LOG = logging.getLogger("stagegate")

ANSWER_SECONDS = 60.0
"""How long a gateway may take to let go."""

NAME_SECONDS = 0.1
"""How often a gateway tries to have the name by which it is found."""

_MESSAGE = 4096
_SOCKETS = 8
_CREDENTIALS = struct.Struct("3i")
_SERVING = {"say": "serving"}


class NothingToTakeOver(Unavailable):
    """No gateway of this user serves the port, or it does not let go of it."""


@dataclass(slots=True)
class Taken:
    """What another gateway handed over.

    Attributes:
        data_plane: descriptors for `DataPlane`, in its order.
        metrics: the listening socket of the metrics port.
    """

    data_plane: tuple[int, ...]
    metrics: socket.socket
    _channel: socket.socket
    _descriptors: tuple[int, ...] = field(default=())

    def serving(self) -> None:
        """Tell the other gateway that it may go."""
        # Where it is gone already there is nobody to tell, and nothing that it would still do.
        with contextlib.suppress(OSError):
            _send(self._channel, _SERVING)
        self.close()

    def close(self) -> None:
        """Let go of what is left of it. Before `serving` this means: go on yourself. Idempotent."""
        self._channel.close()
        for descriptor in self._descriptors:
            os.close(descriptor)
        self._descriptors = ()


async def take_over(inference: Address) -> Taken:
    """Ask the gateway on a port for what it has.

    Raises:
        NothingToTakeOver: there is none, it is another user's, or it refuses; says why.
    """
    return await asyncio.to_thread(_take_over, inference)


def _take_over(inference: Address) -> Taken:
    if inference.port == 0:
        raise NothingToTakeOver("listen.inference has port 0, which no other process can be found by")
    channel = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        channel.settimeout(ANSWER_SECONDS)
        channel.connect(_name(inference))
        if not _is_ours(channel):
            raise NothingToTakeOver(f"what answers for {inference} belongs to another user")
        _send(channel, {"say": "take over", "version": __version__})
        payload, descriptors, _, _ = socket.recv_fds(channel, _MESSAGE, _SOCKETS)
    except OSError as problem:
        channel.close()
        reason = problem.strerror or str(problem)
        raise NothingToTakeOver(
            f"no gateway to take over on {inference}: {reason}", hint="start without --takeover"
        ) from None
    answer = json.loads(payload or b'{"refused": "it ended"}')
    if "refused" in answer or len(descriptors) < 2:  # noqa: PLR2004 - inference and metrics
        channel.close()
        for descriptor in descriptors:
            os.close(descriptor)
        raise NothingToTakeOver(f"the gateway on {inference} does not let go: {answer.get('refused')}")
    *data_plane, metrics = descriptors
    return Taken(tuple(data_plane), socket.socket(fileno=metrics), channel, tuple(data_plane))


@dataclass(frozen=True, slots=True)
class Owner:
    """What a running gateway has to let go of.

    Attributes:
        refusal: why it cannot be taken over, "" where it can.
        let_go: stops what cannot be had twice; gives the descriptors of the data plane and, last, of the
            metrics port, all of which go on to serve.
        take_back: begins anew what `let_go` stopped.
        gone: the new gateway serves; stop listening, drain and exit.
    """

    refusal: str
    let_go: Callable[[], Awaitable[Sequence[int]]]
    take_back: Callable[[], Awaitable[None]]
    gone: Callable[[], Awaitable[None]]


@contextlib.asynccontextmanager
async def offer(inference: Address, owner: Owner) -> AsyncIterator[None]:
    """Wait for a process that takes this one over, while the context is open."""
    serving = asyncio.create_task(_serve(inference, owner), name="handover")
    try:
        yield
    finally:
        serving.cancel()
        await asyncio.gather(serving, return_exceptions=True)


async def _serve(inference: Address, owner: Owner) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK) as listening:
        # The name is free a moment after the gateway that was taken over has let go of it.
        while not _bound(listening, _name(inference)):  # noqa: ASYNC110 - the kernel tells nobody
            await asyncio.sleep(NAME_SECONDS)
        listening.listen(1)
        while not await _serve_one(listening, owner):
            pass
    await owner.gone()


def _bound(listening: socket.socket, name: str) -> bool:
    try:
        listening.bind(name)
    except OSError:
        return False
    return True


async def _serve_one(listening: socket.socket, owner: Owner) -> bool:
    """Talk to one process that asks; whether it has taken over."""
    channel, _ = await asyncio.get_running_loop().sock_accept(listening)
    with channel:
        channel.setblocking(False)
        try:
            return _is_ours(channel) and await _hand_over(channel, owner)
        except (OSError, ValueError, TimeoutError, StagegateError) as problem:
            LOG.warning("a takeover was begun and not finished: %s", problem)
            return False


async def _hand_over(channel: socket.socket, owner: Owner) -> bool:
    """Whether the other one serves now."""
    loop = asyncio.get_running_loop()
    asked = json.loads(await asyncio.wait_for(loop.sock_recv(channel, _MESSAGE), ANSWER_SECONDS) or b"{}")
    if asked.get("say") != "take over":
        return False
    if owner.refusal:
        _send(channel, {"refused": owner.refusal})
        return False
    LOG.info("version %s takes this gateway over", asked.get("version"))
    try:
        descriptors = await owner.let_go()
        socket.send_fds(channel, [json.dumps({"say": "yours"}).encode()], list(descriptors))
        answer = await loop.sock_recv(channel, _MESSAGE)
    except (OSError, StagegateError):
        await owner.take_back()
        raise
    if answer and json.loads(answer) == _SERVING:
        return True
    LOG.warning("the process that took this gateway over ended before it served; going on")
    await owner.take_back()
    return False


def _send(channel: socket.socket, message: dict[str, str]) -> None:
    channel.send(json.dumps(message).encode())


def _name(inference: Address) -> str:
    """In the kernel's own name space: no file stays behind, and it is as wide as that of the ports."""
    return f"\0stagegate-handover-{inference.numeric}-{inference.port}"


def _is_ours(channel: socket.socket) -> bool:
    """Whether the other end is of the same user, or root."""
    credentials = channel.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    _, user, _ = _CREDENTIALS.unpack(credentials)
    return user in (0, os.getuid())
