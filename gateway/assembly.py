"""Puts the parts of a gateway together; nothing turns, and nobody is served, before `gateway.app` says so."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from functools import partial

from gateway.artifacts import Artifacts
from gateway.bridge import DataPlane
from gateway.certificates import Certificates, FrontTls, read_material
from gateway.clock import SystemClock
from gateway.config import GatewayConfig
from gateway.doors import named_port
from gateway.last_readings import LastReadings
from gateway.metrics import LoadRecorder
from gateway.reload import Reloader
from gateway.running import RunningGateway
from gateway.settings import addresses, controller_settings, data_plane_settings
from gateway.shadow import ShadowComparer
from router.artifacts.fetch import Fetcher
from router.artifacts.layout import TritonRepository
from router.artifacts.naming import triton_model_name
from router.backends.describe import describe
from router.backends.triton import TritonServer
from router.control.controller import Controller
from router.control.residents import BackendState
from router.model import Backend, BackendTls, Control
from router.ports import Registry, StateStore
from router.stores import open_store


@dataclass(frozen=True, slots=True)
class Parts:
    """A gateway, in parts that know each other.

    Attributes:
        make_backends: adapters for Tritons, with the files and certificates of this gateway.
        last: what registries said before this process began.
    """

    store: StateStore
    data_plane: DataPlane
    certificates: Certificates
    recorder: LoadRecorder
    controller: Controller
    make_backends: Callable[[Sequence[Backend]], list[BackendState]]
    last: LastReadings
    reloader: Reloader
    comparer: ShadowComparer
    gateway: RunningGateway


async def assemble(stack: AsyncExitStack, config: GatewayConfig, listeners: Sequence[int]) -> Parts:
    """Open the state, take the ports of the data plane, and make all else.

    Args:
        stack: gives back what was opened.
        listeners: sockets of the gateway before; () for new ones.

    Raises:
        StagegateError: the state, a port or a certificate is not to be had.
    """
    clock = SystemClock()
    store = await open_store(config.state.kind, config.state.path)
    stack.push_async_callback(store.close)
    material = read_material(config)
    data_plane = _start_data_plane(config, material.front, listeners)
    stack.callback(data_plane.stop)
    certificates = Certificates(config, material, data_plane)
    recorder = LoadRecorder()
    controller = Controller(
        controller_settings(config),
        store=store,
        data_plane=data_plane,
        clock=clock,
        recorder=recorder,
        describe=describe,
        triton_name=triton_model_name,
    )
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
        addresses=addresses(config, data_plane),
        registry_types=reloader.registry_types,
        reload=reloader.reload,
        certificates=certificates,
        comparisons=comparer.comparisons,
    )
    return Parts(
        store,
        data_plane,
        certificates,
        recorder,
        controller,
        make_backends,
        last,
        reloader,
        comparer,
        gateway,
    )


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
        with named_port(key, taken):
            raise


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


def _registry_of(controller: Controller, name: str) -> Registry | None:
    state = controller.registries.get(name)
    return state.registry if state is not None else None


def _last_readings(config: GatewayConfig, controller: Controller, clock: SystemClock) -> LastReadings:
    """Beside the state, where that is a file."""
    state = config.state.path
    folder = None if state is None else state.with_name(f"{state.name}.registries")
    return LastReadings(folder, controller, clock, config.registries)


def _configure(artifacts: Artifacts, last: LastReadings, fresh: GatewayConfig) -> None:
    artifacts.configure(fresh)
    last.configure(fresh.registries)
