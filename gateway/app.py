"""The one wiring place: starts everything in order, drains and stops it.

Order of starting: state, data plane (ports are taken early, so a port in use is told at once; connections
wait there until the models are known), admin API and HTTP endpoints, local Tritons under `up`, control
loop. Stopping is the reverse, with a drain first, and happens whatever way the process ends short of
SIGKILL.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import time
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace

from gateway import __version__
from gateway.assembly import Parts, assemble
from gateway.bridge import DataPlane
from gateway.collector import settled, starting
from gateway.config import GatewayConfig
from gateway.doors import Doors, open_doors
from gateway.first_looks import looked_at
from gateway.handover import Owner, Taken, offer, take_over
from gateway.local_triton import LocalTritons
from gateway.log import set_up_logging
from gateway.moving import Moving
from gateway.progress import Progress
from gateway.reload import check_names
from gateway.standing import Addresses
from gateway.stopping import Stop, cancel, signals, unless_stopped
from gateway.threads import OwnThreads, take_turns
from router.control.controller import Controller
from router.control.reader import READING
from router.control.watchers import Watchers
from router.errors import InvalidInput, StateUnavailable
from router.registries import open_registry
from router.stores import SqliteStore

LOG = logging.getLogger("stagegate")

DRAIN_SECONDS = 30.0
"""How long requests in flight may take to finish after SIGTERM."""

WRITE_AGAIN_SECONDS = 1.0
"""Pause after the worker that writes to registries broke."""

KEEP_AGAIN_SECONDS = 1.0
"""Pause after the keeping of what registries said last broke."""

COMPARE_AGAIN_SECONDS = 1.0
"""Pause after the comparing of shadows' answers broke."""

TAKE_BACK_SECONDS = 5.0
"""How long a gateway tries to have its state back from a process that was to take it over, and ended."""

TAKE_BACK_AGAIN_SECONDS = 0.1

WARM_MODELS = 16
"""`up` loads the stable version of at most this many models before it says that it is ready."""


async def serve(config: GatewayConfig, *, up: bool, progress: Progress, takeover: bool = False) -> int:
    """Run a gateway until SIGTERM or SIGINT; return the exit code of the process.

    Args:
        config: checked configuration.
        up: also start local Tritons, and load the stable version of every model at once.
        progress: where steps of the start are told to people.
        takeover: take the ports and the state of the gateway that runs on them over; it drains and ends.

    Raises:
        StagegateError: something that a start needs is not to be had; everything begun was stopped.
    """
    stop_logging = set_up_logging(config.log.format, config.log.level)
    take_turns()
    asyncio.get_running_loop().set_default_executor(OwnThreads(READING.get))
    stop = Stop()
    try:
        async with signals(stop), AsyncExitStack() as stack:
            start = _Start(config, stack, up=up, progress=progress, stop=stop)
            with starting():
                running = await _start(start, await _take_over(start) if takeover else None)
            if running is not None:
                await stop.asked.wait()
                await _drain(running, stop)
    finally:
        stop_logging()
    return 0


@dataclass(frozen=True, slots=True)
class _Start:
    """What a start is told."""

    config: GatewayConfig
    stack: AsyncExitStack
    up: bool
    progress: Progress
    stop: Stop

    @property
    def runs_triton(self) -> bool:
        """Whether a Triton is a part of this process."""
        return self.up and self.config.triton.instances > 0


async def _take_over(start: _Start) -> Taken:
    """Ask the gateway that runs for what it has. Raises StagegateError where that cannot be."""
    if start.runs_triton:
        raise InvalidInput(
            "`stagegate up` starts a Triton that ends with it, so that --takeover would interrupt its models",
            hint="set triton.instances to 0 and name the Tritons in `backends`, or use `stagegate gateway`",
        )
    taken = await take_over(start.config.listen.inference)
    start.stack.callback(taken.close)
    return taken


async def _start(start: _Start, taken: Taken | None) -> Parts | None:
    """Start everything; None where a stop was asked for meanwhile."""
    config, stack, stop = start.config, start.stack, start.stop
    parts = await assemble(stack, config, taken.data_plane if taken else ())
    gateway, data_plane = parts.gateway, parts.data_plane
    doors = await open_doors(
        stack, config.listen, taken, gateway=gateway, counters=data_plane, recorder=parts.recorder
    )
    _warn(config)
    if start.runs_triton and not await _start_tritons(start, parts):
        return None
    if taken is not None:
        parts.controller.overlap()
    await _turn(start, parts)
    await looked_at(parts.controller, stop, parts.last, all_up=taken is not None)
    settled()
    gateway.standing.synced = True
    _serve(data_plane, begin=taken is None)
    stack.push_async_callback(parts.reloader.idle)
    asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, parts.reloader.on_signal)
    if start.up:
        await _warm(parts.controller, start.progress, stop)
    if taken is not None:
        if stop.asked.is_set():
            return None
        gateway.listens(metrics=await doors.metrics.open())
        _serve_instead(data_plane, taken)
        parts.controller.overlapped(DRAIN_SECONDS)
    await _keep(start, parts, doors)
    _tell_ready(config, gateway.standing.addresses, parts.controller, start.progress, up=start.up)
    return parts


async def _start_tritons(start: _Start, parts: Parts) -> bool:
    """Start local Tritons and use them; False where a stop is asked for while they start."""
    tritons = LocalTritons(start.config.triton, start.progress)
    start.stack.push_async_callback(tritons.stop)
    if not await unless_stopped(start.stop, tritons.start()):
        return False
    for state in parts.make_backends(tritons.backends):
        parts.controller.add_backend(state)
    return True


async def _turn(start: _Start, parts: Parts) -> None:
    """Begin all that goes on until the end, and to follow what the configuration names."""
    loop = asyncio.create_task(parts.controller.run(), name="control loop")
    start.stack.push_async_callback(cancel, loop)
    comparing = Watchers(COMPARE_AGAIN_SECONDS)
    comparing.start("shadows", parts.comparer.run)
    start.stack.push_async_callback(comparing.close)
    watch = asyncio.create_task(parts.certificates.watch(), name="certificates")
    start.stack.push_async_callback(cancel, watch)
    await _begin(start.config, parts)


async def _begin(config: GatewayConfig, parts: Parts) -> None:
    """Routes first: a model must not be seen a moment without its own."""
    controller = parts.controller
    await controller.load_routes()
    check_names(config.backends, controller.residents.backends)
    for state in parts.make_backends([entry.to_backend() for entry in config.backends]):
        controller.add_backend(state)
    for name, section in config.registries.items():
        controller.add_registry(open_registry(name, section.type, section.options), section.poll)


def _serve(data_plane: DataPlane, *, begin: bool) -> None:
    """Say that it is ready and, unless another gateway still serves its port, begin to accept."""
    data_plane.set_ready(True)
    if begin:
        data_plane.accept()


def _serve_instead(data_plane: DataPlane, taken: Taken) -> None:
    """Begin to accept; the gateway before may go."""
    data_plane.accept()
    taken.serving()


async def _warm(controller: Controller, progress: Progress, stop: Stop) -> None:
    """Load the stable version of each model, so that the first request of a newcomer is quick."""
    stable = [
        (name, arm.version) for name, entry in controller.models.items() for arm in entry.serving.arms[:1]
    ]
    for key in stable[:WARM_MODELS]:
        controller.want(*key)
    for name, version in stable[:WARM_MODELS]:
        key = (name, version)
        with progress.step(f"loading {name} {version}"):
            await unless_stopped(stop, controller.until(lambda key=key: not controller.pending(key)))  # type: ignore[misc]


async def _keep(start: _Start, parts: Parts, doors: Doors) -> None:
    """Keep what registries say, now and then and in the end; write to them; let another process take over."""
    keeping = Watchers(KEEP_AGAIN_SECONDS)
    keeping.start("what registries said last", parts.last.run)
    start.stack.push_async_callback(parts.last.save)
    start.stack.push_async_callback(keeping.close)
    writing = _Writing(parts.gateway.moving)
    writing.start()
    start.stack.push_async_callback(writing.stop)
    inference = replace(start.config.listen.inference, port=parts.data_plane.inference_port)
    owner = _owner(start, parts, doors, writing)
    await start.stack.enter_async_context(offer(inference, owner))


class _Writing:
    """The worker that writes decisions to registries: of two processes over one state, one has it."""

    def __init__(self, moving: Moving) -> None:
        self._worker = moving.worker
        self._tasks = Watchers(WRITE_AGAIN_SECONDS)

    def start(self) -> None:
        """Begin, or go on."""
        self._tasks.start("writes to registries", self._worker.run)

    async def stop(self) -> None:
        """End; what a registry was asked for already may still be done."""
        await self._tasks.close()


def _owner(start: _Start, parts: Parts, doors: Doors, writing: _Writing) -> Owner:
    """What the gateway lets go of when another process takes it over."""
    store, controller = parts.store, parts.controller

    async def let_go() -> tuple[int, ...]:
        controller.overlap()
        await doors.admin.close()
        await writing.stop()
        await parts.last.lend()
        if isinstance(store, SqliteStore):
            await store.lend()
        return (*parts.data_plane.listeners, doors.metrics_socket.fileno())

    async def take_back() -> None:
        controller.overlapped(0.0)
        parts.last.take_back()
        try:
            if isinstance(store, SqliteStore):
                await _take_back(store)
            await controller.load_routes()  # what the other one was told, and said yes to
        finally:
            writing.start()
            await doors.admin.open()

    async def gone() -> None:
        await doors.metrics.close()
        start.stop.ask()

    refusal = ""
    if start.runs_triton:
        refusal = "it runs a Triton of its own (`stagegate up`), which would end with it"
    elif not isinstance(store, SqliteStore):
        refusal = f"its routes are kept in its memory (state: {start.config.state}) and would be lost"
    return Owner(refusal, let_go, take_back, gone)


async def _take_back(store: SqliteStore) -> None:
    """Hold the state again. A process that was killed may have it for a moment longer than its sockets.

    Raises:
        StateUnavailable: another one has it still, or it cannot be read any more.
    """
    until = time.monotonic() + TAKE_BACK_SECONDS
    while True:
        try:
            return await store.take_back()
        except StateUnavailable:
            if time.monotonic() >= until:
                raise
        await asyncio.sleep(TAKE_BACK_AGAIN_SECONDS)


async def _drain(parts: Parts, stop: Stop) -> None:
    """Not ready, no new connections, let requests in flight finish; a second signal cuts it short."""
    LOG.info("stopping: waiting for requests in flight, at most %.0f s", DRAIN_SECONDS)
    parts.gateway.standing.draining = True
    parts.data_plane.set_ready(False)
    draining = asyncio.create_task(parts.data_plane.drain(DRAIN_SECONDS))
    at_once = asyncio.create_task(stop.at_once.wait())
    await asyncio.wait({draining, at_once}, return_when=asyncio.FIRST_COMPLETED)
    await cancel(draining)
    await cancel(at_once)


def _warn(config: GatewayConfig) -> None:
    for key in config.not_served:
        LOG.warning(key)
    for key, address in (("inference", config.listen.inference), ("http", config.listen.http)):
        if config.tls is None and address is not None and not address.loopback:
            LOG.warning(
                "listen.%s %s takes plaintext from other machines; give it a certificate (key `tls`), or "
                "keep it inside a network that you trust",
                key,
                address,
            )


def _tell_ready(
    config: GatewayConfig, addresses: Addresses, controller: Controller, progress: Progress, *, up: bool
) -> None:
    LOG.info(
        "stagegate %s serves %d %s on %s (REST %s, metrics %s, admin %s)",
        __version__,
        len(controller.models),
        "model" if len(controller.models) == 1 else "models",
        addresses.inference,
        addresses.http or "off",
        addresses.metrics,
        addresses.admin,
    )
    if up:
        # The one with most versions has most to try.
        models = sorted(controller.models, key=lambda name: -len(controller.models[name].registered.versions))
        progress.ready(addresses.inference, addresses.admin, config, models)
