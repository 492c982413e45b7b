"""The one wiring place: picks the adapters, starts everything in order, drains and stops it.

Order of starting: state, data plane (ports are taken early, so a port in use is told at once; connections
wait there until the models are known), admin API and HTTP endpoints, local Tritons under `up`, control
loop. Stopping is the reverse, with a drain first, and happens whatever way the process ends short of
SIGKILL.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import signal
import socket
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from gateway import __version__
from gateway.admin import serve_admin
from gateway.artifacts import Artifacts
from gateway.bridge import DataPlane, Settings
from gateway.certificates import Certificates, FrontTls, read_material
from gateway.clock import SystemClock
from gateway.collector import settled, starting
from gateway.config import Address, GatewayConfig
from gateway.handover import Owner, Taken, offer, take_over
from gateway.http import serve_http
from gateway.last_readings import LastReadings
from gateway.local_triton import LocalTritons
from gateway.log import set_up_logging
from gateway.metrics import LoadRecorder
from gateway.progress import Progress
from gateway.reload import Reloader, check_names
from gateway.running import RunningGateway
from gateway.shadow import ShadowComparer
from gateway.standing import Addresses
from gateway.threads import OwnThreads
from router.artifacts.fetch import Fetcher
from router.artifacts.layout import TritonRepository
from router.artifacts.naming import triton_model_name
from router.backends.describe import describe
from router.backends.triton import TritonServer
from router.control.controller import Controller, ControllerSettings
from router.control.reader import READING
from router.control.residents import BackendState
from router.control.watchers import Watchers
from router.errors import InvalidInput, StagegateError, Unavailable
from router.model import Backend, BackendTls, Control
from router.ports import Registry, StateStore
from router.registries import open_registry
from router.stores import SqliteStore, open_store

LOG = logging.getLogger("stagegate")

TELL_SECONDS = 15.0
"""How often a start says what it still waits for."""

DRAIN_SECONDS = 30.0
"""How long requests in flight may take to finish after SIGTERM."""

WRITE_AGAIN_SECONDS = 1.0
"""Pause after the worker that writes to registries broke."""

KEEP_AGAIN_SECONDS = 1.0
"""Pause after the keeping of what registries said last broke."""

COMPARE_AGAIN_SECONDS = 1.0
"""Pause after the comparing of shadows' answers broke."""

TAKEOVER_SECONDS = 30.0
"""How long a gateway that takes another one over waits for backends that do not answer."""

WARM_MODELS = 16
"""`up` loads the stable version of at most this many models before it says that it is ready."""

SERVER_VERSION = "2.51.0"
"""Triton version whose protocol we speak; shown by ServerMetadata beside our extensions."""


class PortInUse(StagegateError):
    """A listener cannot be opened; the message names the key that moves it."""


@dataclass(slots=True)
class _Stop:
    """Why and whether the process is to end."""

    asked: asyncio.Event = field(default_factory=asyncio.Event)
    at_once: asyncio.Event = field(default_factory=asyncio.Event)

    def ask(self) -> None:
        """First time: drain and stop. Second time: stop without draining."""
        if self.asked.is_set():
            self.at_once.set()
        self.asked.set()


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
    asyncio.get_running_loop().set_default_executor(OwnThreads(READING.get))
    stop = _Stop()
    try:
        async with _signals(stop), AsyncExitStack() as stack:
            start = _Start(config, stack, up=up, progress=progress, stop=stop)
            with starting():
                running = await _start(stack, start, await _take_over(start) if takeover else None)
            if running is not None:
                await stop.asked.wait()
                await _drain(running, stop)
    finally:
        stop_logging()
    return 0


@contextlib.asynccontextmanager
async def _signals(stop: _Stop) -> AsyncIterator[None]:
    loop = asyncio.get_running_loop()
    for signum in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(signum, stop.ask)
    # Replaced once there is something to reload; until then a SIGHUP must not end the process.
    loop.add_signal_handler(signal.SIGHUP, lambda: None)
    try:
        yield
    finally:
        for signum in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            loop.remove_signal_handler(signum)


@dataclass(frozen=True, slots=True)
class _Parts:
    """What is to be drained in the end."""

    gateway: RunningGateway
    data_plane: DataPlane


@dataclass(frozen=True, slots=True)
class _Start:
    """What a start is told."""

    config: GatewayConfig
    stack: AsyncExitStack
    up: bool
    progress: Progress
    stop: _Stop

    @property
    def runs_triton(self) -> bool:
        """Whether a Triton is a part of this process."""
        return self.up and self.config.triton.instances > 0


class _Door:
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


@dataclass(frozen=True, slots=True)
class _Doors:
    """What operators and probes come in by. The socket of the metrics port stays open until the end."""

    admin: _Door
    metrics: _Door
    metrics_socket: socket.socket


async def _open_doors(
    start: _Start,
    taken: Taken | None,
    gateway: RunningGateway,
    data_plane: DataPlane,
    recorder: LoadRecorder,
) -> _Doors:
    """Open the admin API and, unless another gateway still serves it, the metrics port."""
    listen = start.config.listen
    with _named_port("listen.metrics", listen.metrics):
        sock = _metrics_socket(taken, listen.metrics)
    start.stack.callback(sock.close)
    metrics = _Door(lambda: serve_http(listen.metrics, gateway, data_plane, recorder, sock.dup()))
    start.stack.push_async_callback(metrics.close)
    if taken is None:
        gateway.listens(metrics=await metrics.open())
    admin = _Door(lambda: serve_admin(listen.admin, gateway))
    start.stack.push_async_callback(admin.close)
    with _named_port("listen.admin", listen.admin):
        gateway.listens(admin=await admin.open())
    return _Doors(admin, metrics, sock)


def _owner(
    start: _Start, store: StateStore, data_plane: DataPlane, doors: _Doors, writing: _Writing
) -> Owner:
    """What the gateway lets go of when another process takes it over."""

    async def let_go() -> tuple[int, ...]:
        await doors.admin.close()
        await writing.stop()
        if isinstance(store, SqliteStore):
            await store.lend()
        return (*data_plane.listeners, doors.metrics_socket.fileno())

    async def take_back() -> None:
        if isinstance(store, SqliteStore):
            await store.take_back()
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


class _Writing:
    """The worker that writes decisions to registries: of two processes over one state, one has it."""

    def __init__(self, gateway: RunningGateway) -> None:
        self._worker = gateway.moving.worker
        self._tasks = Watchers(WRITE_AGAIN_SECONDS)

    def start(self) -> None:
        """Begin, or go on."""
        self._tasks.start("writes to registries", self._worker.run)

    async def stop(self) -> None:
        """End; what a registry was asked for already may still be done."""
        await self._tasks.close()


async def _open_store(start: _Start) -> StateStore:
    store = await open_store(start.config.state.kind, start.config.state.path)
    start.stack.push_async_callback(store.close)
    return store


async def _start(stack: AsyncExitStack, start: _Start, taken: Taken | None) -> _Parts | None:
    """Start everything; None where a stop was asked for meanwhile."""
    config, progress, stop = start.config, start.progress, start.stop
    clock = SystemClock()
    store = await _open_store(start)
    material = read_material(config)
    data_plane = _start_data_plane(config, material.front, taken.data_plane if taken else ())
    stack.callback(data_plane.stop)
    certificates = Certificates(config, material, data_plane)
    recorder = LoadRecorder()
    controller = _controller(config, store, data_plane, clock, recorder)
    artifacts = Artifacts(config, partial(_registry_of, controller))
    make_backends = partial(make_backend_states, tls=certificates.backend, fetcher=artifacts.fetcher)
    last = _last_readings(config, controller, clock)
    reloader = Reloader(
        config,
        controller,
        settings=controller_settings,
        make_backends=make_backends,
        certificates=certificates,
        set_limits=lambda fresh: data_plane.set_limits(data_plane_settings(fresh)),
        set_artifacts=partial(_configure, artifacts, last),
    )
    comparer = ShadowComparer(data_plane, controller.tolerance, clock.unix)
    gateway = RunningGateway(
        controller=controller,
        store=store,
        data_plane=data_plane,
        clock=clock,
        addresses=_addresses(config, data_plane),
        registry_types=reloader.registry_types,
        reload=reloader.reload,
        certificates=certificates,
        comparisons=comparer.comparisons,
    )
    doors = await _open_doors(start, taken, gateway, data_plane, recorder)
    _warn(config)
    if start.runs_triton:
        tritons = await _start_tritons(stack, config, progress, stop)
        if tritons is None:
            return None
        for state in make_backends(tritons.backends):
            controller.add_backend(state)
    loop = asyncio.create_task(controller.run(), name="control loop")
    stack.push_async_callback(_cancel, loop)
    comparing = Watchers(COMPARE_AGAIN_SECONDS)
    comparing.start("shadows", comparer.run)
    stack.push_async_callback(comparing.close)
    watch = asyncio.create_task(certificates.watch(), name="certificates")
    stack.push_async_callback(_cancel, watch)
    await _begin(controller, config, make_backends)
    await _synced(controller, stop, last, all_up=taken is not None)
    settled()
    gateway.standing.synced = True
    _serve(data_plane, begin=taken is None)
    stack.push_async_callback(reloader.idle)
    asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, reloader.on_signal)
    if start.up:
        await _warm(controller, progress, stop)
    if taken is not None:
        if stop.asked.is_set():
            return None
        gateway.listens(metrics=await doors.metrics.open())
        _serve_instead(data_plane, taken)
    _keep(stack, last)
    writing = _Writing(gateway)
    writing.start()
    stack.push_async_callback(writing.stop)
    inference = replace(config.listen.inference, port=data_plane.inference_port)
    owner = _owner(start, store, data_plane, doors, writing)
    await stack.enter_async_context(offer(inference, owner))
    _tell_ready(config, gateway.standing.addresses, controller, progress, up=start.up)
    return _Parts(gateway, data_plane)


def _serve(data_plane: DataPlane, *, begin: bool) -> None:
    """Say that it is ready and, unless another gateway still serves its port, begin to accept."""
    data_plane.set_ready(True)
    if begin:
        data_plane.accept()


def _serve_instead(data_plane: DataPlane, taken: Taken) -> None:
    """Begin to accept; the gateway before may go."""
    data_plane.accept()
    taken.serving()


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


def _start_data_plane(config: GatewayConfig, front: FrontTls | None, inherited: Sequence[int]) -> DataPlane:
    settings = data_plane_settings(config)
    if front is not None:
        settings = replace(settings, tls_cert=front.cert, tls_key=front.key, tls_client_ca=front.client_ca)
    address, http = config.listen.inference, config.listen.http
    try:
        return DataPlane(settings, inherited, held=True)
    except OSError as problem:
        is_http = http is not None and f"{http.host}:{http.port}" in str(problem)
        key, taken = ("listen.http", http) if is_http and http else ("listen.inference", address)
        with _named_port(key, taken):
            raise


def data_plane_settings(config: GatewayConfig) -> Settings:
    """What the data plane is told of a configuration, without certificates."""
    limits, address, http = config.limits, config.listen.inference, config.listen.http
    return Settings(
        host=address.host,
        port=address.port,
        threads=config.threads,
        max_message=limits.max_message,
        max_streams=limits.max_streams,
        max_header_list=limits.max_header_list,
        max_frame=limits.max_frame,
        max_connections=limits.max_connections,
        upstream_connections=limits.upstream_connections,
        queue_per_model=limits.queue_per_model,
        default_deadline_ms=round(limits.default_deadline * 1000),
        handshake_timeout_ms=round(limits.handshake_timeout * 1000),
        idle_timeout_ms=round(limits.idle_timeout * 1000),
        inflate_ratio=limits.inflate_ratio,
        allow=config.protocol.methods,
        server_name="triton",
        server_version=SERVER_VERSION,
        replay=limits.replay,
        answer_timeout_ms=round(limits.answer_timeout * 1000),
        resets_per_second=limits.resets_per_second,
        connections_per_address=limits.connections_per_address or 0,
        max_connection_age_ms=round((limits.max_connection_age or 0) * 1000),
        cancels_per_second=limits.cancels_per_second,
        max_buffered=limits.max_buffered,
        shadow_queue=limits.shadow_queue,
        shadow_concurrency=limits.shadow_concurrency,
        shadow_bytes=limits.shadow_bytes,
        shadow_deadline_ms=round(limits.shadow_deadline * 1000),
        http_host=http.host if http else "",
        http_port=http.port if http else 0,
    )


def _controller(
    config: GatewayConfig,
    store: StateStore,
    data_plane: DataPlane,
    clock: SystemClock,
    recorder: LoadRecorder,
) -> Controller:
    return Controller(
        controller_settings(config),
        store=store,
        data_plane=data_plane,
        clock=clock,
        recorder=recorder,
        describe=describe,
        triton_name=triton_model_name,
    )


def controller_settings(config: GatewayConfig) -> ControllerSettings:
    """The part of a configuration that the control loop wants."""
    idle, loss = config.residency.idle_unload, config.residency.loss_window
    return ControllerSettings(
        default_registry=config.default_registry,
        idle_unload=float("inf") if idle is None else idle,
        load_timeout=config.residency.load_timeout,
        rollback_window=config.residency.rollback_window,
        loss_window=float("inf") if loss is None else loss,
    )


async def _begin(
    controller: Controller,
    config: GatewayConfig,
    make_backends: Callable[[Sequence[Backend]], list[BackendState]],
) -> None:
    """Routes first: a model must not be seen a moment without its own."""
    await controller.load_routes()
    check_names(config.backends, controller.residents.backends)
    for state in make_backends([entry.to_backend() for entry in config.backends]):
        controller.add_backend(state)
    for name, section in config.registries.items():
        controller.add_registry(open_registry(name, section.type, section.options), section.poll)


def _registry_of(controller: Controller, name: str) -> Registry | None:
    state = controller.registries.get(name)
    return state.registry if state is not None else None


def make_backend_states(
    backends: Sequence[Backend],
    tls: Callable[[str], BackendTls | None] = lambda _: None,
    fetcher: Fetcher | None = None,
) -> list[BackendState]:
    """Adapters for backends; nothing is sent to them yet. `tls` gives how one is to be spoken to, `fetcher`
    brings the files of versions, by default those of this machine.

    Raises ArtifactError for an unusable repository.
    """
    return [
        BackendState(
            backend, TritonServer(backend, tls=partial(tls, backend.name)), _folders(backend, fetcher)
        )
        for backend in backends
    ]


def _folders(backend: Backend, fetcher: Fetcher | None) -> TritonRepository | None:
    if backend.control is not Control.EXPLICIT or backend.repository is None:
        return None
    return TritonRepository(backend.repository, fetcher, backends=backend.backends)


async def _start_tritons(
    stack: AsyncExitStack, config: GatewayConfig, progress: Progress, stop: _Stop
) -> LocalTritons | None:
    """Start local Tritons; None where a stop is asked for while they start."""
    tritons = LocalTritons(config.triton, progress)
    stack.push_async_callback(tritons.stop)
    return tritons if await _unless_stopped(stop, tritons.start()) else None


async def _unless_stopped(stop: _Stop, work: Coroutine[None, None, None]) -> bool:
    """Do something, or give it up when a stop is asked for; whether it was done."""
    doing = asyncio.create_task(work)
    asked = asyncio.create_task(stop.asked.wait())
    try:
        await asyncio.wait({doing, asked}, return_when=asyncio.FIRST_COMPLETED)
        if not doing.done():
            return False
        await doing
        return True
    finally:
        await _cancel(asked)
        await _cancel(doing)


def _last_readings(config: GatewayConfig, controller: Controller, clock: SystemClock) -> LastReadings:
    """Beside the state, where that is a file."""
    state = config.state.path
    folder = None if state is None else state.with_name(f"{state.name}.registries")
    return LastReadings(folder, controller, clock, config.registries)


def _configure(artifacts: Artifacts, last: LastReadings, fresh: GatewayConfig) -> None:
    artifacts.configure(fresh)
    last.configure(fresh.registries)


def _keep(stack: AsyncExitStack, last: LastReadings) -> None:
    """Keep what registries say, now and then and in the end."""
    keeping = Watchers(KEEP_AGAIN_SECONDS)
    keeping.start("what registries said last", last.run)
    stack.push_async_callback(last.save)
    stack.push_async_callback(keeping.close)


async def _synced(controller: Controller, stop: _Stop, last: LastReadings, *, all_up: bool) -> None:
    """Wait until every registry and backend was looked at once, with or without success.

    With `all_up` backends are waited for, in a bound.

    There is no bound: a gateway that is ready before it has read a large registry would answer NOT_FOUND.
    One of which it is known what it said last is waited for a moment.
    """

    async def tell() -> None:
        while True:
            await asyncio.sleep(TELL_SECONDS)
            if waited := _not_looked_at(controller, last):
                LOG.info("still waiting for the first look at %s", ", ".join(waited))

    telling = asyncio.create_task(tell())
    try:
        await _unless_stopped(stop, controller.until(lambda: not _not_looked_at(controller, last)))
    finally:
        await _cancel(telling)
    last.recall()
    if all_up:
        await _all_up(controller, stop)
    await controller.turned()


async def _all_up(controller: Controller, stop: _Stop) -> None:
    """Wait for every backend, in a bound: the gateway that is taken over has them, and serves meanwhile."""

    def down() -> list[str]:
        return [one.name for one in controller.residents.backends.values() if not one.up]

    try:
        async with asyncio.timeout(TAKEOVER_SECONDS):
            await _unless_stopped(stop, controller.until(lambda: not down()))
    except TimeoutError:
        LOG.warning("taking over without %s", ", ".join(down()))


def _not_looked_at(controller: Controller, last: LastReadings) -> list[str]:
    registries, backends = controller.registries, controller.residents.backends
    waited = [
        f"registry {name}" + (f" ({one.progress})" if one.progress else "")
        for name, one in registries.items()
        if one.read_at is None and not one.error and not last.can_go_on(one)
    ]
    return waited + [f"backend {one.name}" for one in backends.values() if not (one.up or one.misses)]


async def _warm(controller: Controller, progress: Progress, stop: _Stop) -> None:
    """Load the stable version of each model, so that the first request of a newcomer is quick."""
    stable = [
        (name, arm.version) for name, entry in controller.models.items() for arm in entry.serving.arms[:1]
    ]
    for key in stable[:WARM_MODELS]:
        controller.want(*key)
    for name, version in stable[:WARM_MODELS]:
        key = (name, version)
        with progress.step(f"loading {name} {version}"):
            await _unless_stopped(stop, controller.until(lambda key=key: not controller.pending(key)))  # type: ignore[misc]


async def _drain(parts: _Parts, stop: _Stop) -> None:
    """Not ready, no new connections, let requests in flight finish; a second signal cuts it short."""
    LOG.info("stopping: waiting for requests in flight, at most %.0f s", DRAIN_SECONDS)
    parts.gateway.standing.draining = True
    parts.data_plane.set_ready(False)
    draining = asyncio.create_task(parts.data_plane.drain(DRAIN_SECONDS))
    at_once = asyncio.create_task(stop.at_once.wait())
    await asyncio.wait({draining, at_once}, return_when=asyncio.FIRST_COMPLETED)
    await _cancel(draining)
    await _cancel(at_once)


async def _cancel(task: asyncio.Task[Any]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


def _addresses(config: GatewayConfig, data_plane: DataPlane) -> Addresses:
    bound, http = Address(config.listen.inference.host, data_plane.inference_port), config.listen.http
    return Addresses(
        inference=str(bound),
        http=str(Address(http.host, data_plane.http_port)) if http else "",
        metrics=str(config.listen.metrics),
        admin=str(config.listen.admin),
        config=config.source,
        state=str(config.state),
    )


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


@contextlib.contextmanager
def _named_port(key: str, address: Address) -> Iterator[None]:
    try:
        yield
    except OSError as problem:
        if problem.errno == errno.EADDRINUSE:
            raise PortInUse(
                f"{key}: {address} is in use", hint=f"set {key} to another address, or end what uses it"
            ) from None
        raise Unavailable(f"{key}: cannot listen on {address}: {os.strerror(problem.errno or 0)}") from None


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
