"""Upgrades in place and stops, under the load of stock clients: nobody notices."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from concurrent import futures
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import grpc
import pytest
from tritonclient.grpc import service_pb2, service_pb2_grpc

from gateway.config import Address
from gateway.handover import NothingToTakeOver, take_over
from router.model import WHOLE, Arm, ModelName, Route
from router.stores import SqliteStore
from tests.e2e.conftest import START_SECONDS, UP, Gateway, start_gateway, wait_until
from tests.e2e.test_registry_moves import forget_aliases
from tests.servers.ports import free_ports

OPTIONS = (
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.lb_policy_name", "round_robin"),
    # Of several addresses gRPC makes a list with commas, which is no authority.
    ("grpc.default_authority", "localhost"),
    # One that ended is tried again soon: for the tests' sake.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 200),
)
ROUNDS = int(os.environ.get("STAGEGATE_ROUNDS", "2"))
"""How often each change is made; more to look harder."""


class _Model(service_pb2_grpc.GRPCInferenceServiceServicer):  # type: ignore[misc]
    """A Triton with one model, ready, that takes 5 ms."""

    def ServerReady(self, request: Any, context: Any) -> Any:  # noqa: N802
        return service_pb2.ServerReadyResponse(ready=True)

    def ServerLive(self, request: Any, context: Any) -> Any:  # noqa: N802
        return service_pb2.ServerLiveResponse(live=True)

    def ServerMetadata(self, request: Any, context: Any) -> Any:  # noqa: N802
        return service_pb2.ServerMetadataResponse(name="triton", version="2.51.0")

    def RepositoryIndex(self, request: Any, context: Any) -> Any:  # noqa: N802
        answer = service_pb2.RepositoryIndexResponse()
        answer.models.add(name="m", version="1", state="READY")
        return answer

    def ModelConfig(self, request: Any, context: Any) -> Any:  # noqa: N802
        return service_pb2.ModelConfigResponse()

    def ModelInfer(self, request: Any, context: Any) -> Any:  # noqa: N802
        time.sleep(0.005)
        answer = service_pb2.ModelInferResponse(model_name=request.model_name, model_version="1")
        answer.outputs.add(name="y", datatype="INT8", shape=[1])
        answer.raw_output_contents.append(b"1")
        return answer


@pytest.fixture(scope="module")
def backend() -> Iterator[str]:
    """The address of that Triton."""
    server = grpc.server(futures.ThreadPoolExecutor(max_workers=32))
    service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(_Model(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield f"127.0.0.1:{port}"
    server.stop(0)


def body(backend: str) -> str:
    """A configuration that names it."""
    return f'backends: [{{name: t0, grpc: "{backend}"}}]\n'


@pytest.fixture
def gateway(backend: str, tmp_path: Path) -> Iterator[Gateway]:
    """A gateway in front of it."""
    running = start_gateway(tmp_path, "gateway", body(backend), tmp_path)
    yield running
    running.stop(signal.SIGKILL)


def instead_of(gateway: Gateway) -> Gateway:
    """A process that takes the gateway over and serves."""
    log = gateway.log.with_name(f"gateway-{time.monotonic_ns()}.log")
    with log.open("wb") as out:
        process = subprocess.Popen(
            [
                *(sys.executable, "-m", "gateway", "gateway", "--takeover"),
                *("--config", str(gateway.folder / "stagegate.yaml")),
            ],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            env=gateway.environment,
            cwd=gateway.folder,
            start_new_session=True,
        )
    taken = Gateway(
        process,
        gateway.folder,
        gateway.inference,
        gateway.metrics,
        gateway.admin,
        gateway.models,
        log,
        gateway.environment,
        gateway.rest,
    )
    serves = f" on {gateway.inference} (REST "
    wait_until("it serves", lambda: serves in taken.said() or process.poll() is not None)
    assert process.poll() is None, taken.said()
    return taken


@dataclass
class Callers:
    """Stock clients of several kinds, each with a connection of its own, that ask until told to stop."""

    target: str
    credentials: grpc.ChannelCredentials | None = None
    answers: int = 0
    failures: list[str] = field(default_factory=list)
    _stop: threading.Event = field(default_factory=threading.Event)
    _threads: list[threading.Thread] = field(default_factory=list)

    def __enter__(self) -> Self:
        kinds: list[Callable[[], None]] = [self._steady, self._steady, self._new, self._aio]
        self._threads = [threading.Thread(target=kind, daemon=True) for kind in kinds]
        for thread in self._threads:
            thread.start()
        wait_until("they are answered", lambda: self.answers > 20 or bool(self.failures))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(30)

    def _note(self, call: Callable[[], Any]) -> None:
        try:
            call()
            self.answers += 1
        except grpc.RpcError as error:
            self.failures.append(str(error))

    def _channel(self) -> grpc.Channel:
        if self.credentials is not None:
            return grpc.secure_channel(self.target, self.credentials, options=OPTIONS)
        return grpc.insecure_channel(self.target, options=OPTIONS)

    def _steady(self) -> None:
        """One connection for all."""
        with self._channel() as channel:
            stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
            while not self._stop.is_set():
                self._note(lambda: stub.ModelInfer(_request(), timeout=10))

    def _new(self) -> None:
        """A new connection for each call: one that is refused is seen."""
        while not self._stop.is_set():
            with self._channel() as channel:
                stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
                self._note(lambda stub=stub: stub.ModelInfer(_request(), timeout=10))  # type: ignore[misc]

    def _aio(self) -> None:
        """Sixteen at once on one connection."""
        asyncio.run(self._ask_at_once())

    def _aio_channel(self) -> grpc.aio.Channel:
        if self.credentials is not None:
            return grpc.aio.secure_channel(self.target, self.credentials, options=OPTIONS)
        return grpc.aio.insecure_channel(self.target, options=OPTIONS)

    async def _ask_at_once(self) -> None:
        async with self._aio_channel() as channel:
            stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)

            async def ask() -> None:
                while not self._stop.is_set():
                    try:
                        await stub.ModelInfer(_request(), timeout=10)
                        self.answers += 1
                    except grpc.aio.AioRpcError as error:
                        self.failures.append(f"{error.code()}: {error.details()}")

            await asyncio.gather(*(ask() for _ in range(16)))


def _request() -> service_pb2.ModelInferRequest:
    return service_pb2.ModelInferRequest(model_name="m")


def test_a_new_process_takes_over_and_no_call_notices(gateway: Gateway) -> None:
    """The old one exits with 0; no connection is refused, no call fails, routes and state are there."""
    gateway.cli("route", "set", "m", "stable=1:100")
    now = gateway
    with Callers(gateway.inference) as callers:
        for _ in range(ROUNDS):
            new = instead_of(now)
            assert now.process.wait(START_SECONDS) == 0, now.said()
            assert new.http("/readyz")[0] == 200
            with urllib.request.urlopen(f"http://{new.rest}/v2/health/ready", timeout=5) as answer:
                assert answer.status == 200
            assert new.json("route", "get", "m")["arms"][0]["name"] == "stable"
            now = new
    assert callers.failures == []
    assert now.stop() == 0


def test_a_takeover_by_another_configuration_listens_where_that_says(gateway: Gateway) -> None:
    """Ports that changed are opened, those of before are closed, and callers of the one that stays lose
    nothing.
    """
    before = replace(gateway)
    config = gateway.folder / "stagegate.yaml"
    text = config.read_text()
    for name, port in zip(("rest", "metrics", "admin"), free_ports(3), strict=True):
        text = text.replace(getattr(before, name), f"127.0.0.1:{port}")
        setattr(gateway, name, f"127.0.0.1:{port}")
    config.write_text(text)
    with Callers(gateway.inference) as callers:
        new = instead_of(gateway)
        assert before.process.wait(START_SECONDS) == 0, before.said()
        assert new.http("/readyz")[0] == 200
        with urllib.request.urlopen(f"http://{new.rest}/v2/health/ready", timeout=5) as answer:
            assert answer.status == 200
        for closed in (before.rest, before.metrics):
            host, _, number = closed.rpartition(":")
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection((host, int(number)), timeout=5)
    assert callers.failures == []
    assert new.stop() == 0


def test_a_takeover_that_is_given_up_changes_nothing(gateway: Gateway) -> None:
    """The one who asked goes away before it serves: the old gateway has its state and admin API back."""
    with Callers(gateway.inference) as callers:
        host, _, port = gateway.inference.rpartition(":")
        taken = asyncio.run(take_over(Address(host, int(port))))
        assert len(taken.data_plane) >= 1
        assert "state" not in gateway.cli("status", check=False).stdout
        taken.metrics.close()
        taken.close()
        wait_until("the admin API is back", lambda: gateway.cli("status", check=False).returncode == 0)
        gateway.cli("route", "set", "m", "stable=1:100")
    assert callers.failures == []
    assert gateway.process.poll() is None


async def set_route(state: Path) -> None:
    """As a process does that took the state over."""
    store = await SqliteStore.open(state)
    route = Route(ModelName("m"), (Arm("stable", "1", WHOLE), Arm("canary", "1", 0)))
    await store.put_routes([route], expected_revision=None, actor="me", reason="")
    await store.close()


def test_what_was_decided_meanwhile_holds_where_a_takeover_is_given_up(gateway: Gateway) -> None:
    """The admin API of the new one took it, and told so."""
    host, _, port = gateway.inference.rpartition(":")
    taken = asyncio.run(take_over(Address(host, int(port))))
    asyncio.run(set_route(gateway.folder / "state" / "stagegate.db"))
    taken.metrics.close()
    taken.close()
    wait_until("the admin API is back", lambda: gateway.cli("status", check=False).returncode == 0)
    wait_until("it holds", lambda: len(gateway.json("route", "get", "m")["arms"]) == 2, 10)


class _Slow(_Model):
    """A Triton whose loads end when the test lets them, and that tells of them only then."""

    def __init__(self) -> None:
        self.begun, self.go, self.gone = threading.Event(), threading.Event(), threading.Event()
        self.ready: set[str] = set()

    def RepositoryIndex(self, request: Any, context: Any) -> Any:  # noqa: N802
        answer = service_pb2.RepositoryIndexResponse()
        for name in sorted(self.ready):
            answer.models.add(name=name, version="1", state="READY")
        return answer

    def ModelMetadata(self, request: Any, context: Any) -> Any:  # noqa: N802
        answer = service_pb2.ModelMetadataResponse(name=request.name, versions=["1"], platform="python")
        answer.inputs.add(name="x", datatype="FP32", shape=[-1])
        answer.outputs.add(name="y", datatype="FP32", shape=[-1])
        return answer

    def ModelStatistics(self, request: Any, context: Any) -> Any:  # noqa: N802
        return service_pb2.ModelStatisticsResponse()

    def RepositoryModelLoad(self, request: Any, context: Any) -> Any:  # noqa: N802
        self.begun.set()
        self.go.wait(60)
        self.ready.add(request.model_name)
        return service_pb2.RepositoryModelLoadResponse()

    def RepositoryModelUnload(self, request: Any, context: Any) -> Any:  # noqa: N802
        self.ready.discard(request.model_name)
        self.gone.set()
        return service_pb2.RepositoryModelUnloadResponse()


@pytest.fixture
def slow() -> Iterator[tuple[_Slow, str]]:
    """That Triton and its address."""
    triton = _Slow()
    server = grpc.server(futures.ThreadPoolExecutor(max_workers=32))
    service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(triton, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield triton, f"127.0.0.1:{port}"
    triton.go.set()
    server.stop(0)


def test_what_the_one_before_was_loading_is_answered_and_later_unloaded(
    slow: tuple[_Slow, str], models: Path, tmp_path: Path
) -> None:
    """Its client gets an answer from the old process; the new one owns what came of it."""
    triton, address = slow
    forget_aliases(models, "digits")
    place = f'grpc: "{address}", control: explicit, repository: {tmp_path / "shared"}'
    text = UP.replace("./models", str(models)) + f"backends: [{{name: t0, {place}}}]\n"
    text += "residency: {idle_unload: 2s, rollback_window: 0s}\n"
    old = start_gateway(tmp_path, "gateway", text, models)
    with grpc.insecure_channel(old.inference) as channel:
        ask = service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer
        asked = ask.future(service_pb2.ModelInferRequest(model_name="digits", model_version="1"), timeout=60)
        assert triton.begun.wait(30), old.said()
        new = instead_of(old)
        try:
            triton.go.set()
            assert asked.result().model_version == "1"
            assert old.process.wait(START_SECONDS) == 0, old.said()
            assert triton.gone.wait(30), new.said()
            wait_until("the new one says so", lambda: "unloaded from t0 (idle)" in new.said())
        finally:
            new.stop(signal.SIGKILL)


def test_there_must_be_something_to_take_over(gateway: Gateway, tmp_path: Path) -> None:
    """Nobody on the port, or one whose routes are in its memory: told in one line."""
    with pytest.raises(NothingToTakeOver, match=r"no gateway to take over on 127\.0\.0\.1:1: "):
        asyncio.run(take_over(Address("127.0.0.1", 1)))


def test_routes_in_memory_are_not_lost_by_a_takeover(backend: str, tmp_path: Path) -> None:
    """It refuses, and goes on."""
    running = start_gateway(
        tmp_path, "gateway", body(backend), tmp_path, variables={"STAGEGATE_STATE": "memory://"}
    )
    try:
        host, _, port = running.inference.rpartition(":")
        with pytest.raises(NothingToTakeOver, match="its routes are kept in its memory"):
            asyncio.run(take_over(Address(host, int(port))))
        assert running.http("/readyz")[0] == 200
    finally:
        assert running.stop() == 0


def test_stops_behind_a_second_gateway_cost_no_call(backend: str, tmp_path: Path) -> None:
    """Two gateways, stopped and started in turns: clients that know both lose nothing."""
    folders = [tmp_path / "a", tmp_path / "b"]
    for folder in folders:
        folder.mkdir()
    both = [start_gateway(folder, "gateway", body(backend), folder) for folder in folders]
    try:
        with Callers(f"ipv4:{both[0].inference},{both[1].inference}") as callers:
            for turn in range(ROUNDS):
                one = both[turn % 2]
                assert one.stop() == 0
                addresses = (one.inference, one.rest, one.metrics, one.admin)
                both[turn % 2] = start_gateway(
                    one.folder, "gateway", body(backend), one.folder, addresses=addresses
                )
                _answered(callers, 100)
        assert callers.failures == []
    finally:
        for one in both:
            one.stop()


def _answered(callers: Callers, count: int) -> None:
    """Wait until that many more calls were answered."""
    before = callers.answers
    wait_until("they are answered", lambda: callers.answers > before + count)


def write_model(models: Path, *versions: str) -> None:
    """Register a model; its files are nobody's business here."""
    for version in versions:
        (models / "fraud" / version).mkdir(parents=True)
        (models / "fraud" / version / "version.yaml").write_text("format: onnx\nartifact: model.onnx\n")


def versions_of(gateway: Gateway) -> list[str]:
    """Of that model, as the gateway has it; [] where there is none."""
    return next((model["versions"] for model in gateway.json("models") if model["name"] == "fraud"), [])


def test_a_registry_that_is_away_during_an_upgrade_and_a_restart(backend: str, tmp_path: Path) -> None:
    """What it said last goes on, people are told how old that is, and it counts again when it is back."""
    models, away = tmp_path / "models", tmp_path / "unmounted"
    write_model(models, "1", "2")
    text = body(backend) + "registries: {local: {type: folder, path: ./models}}\n"
    first = start_gateway(tmp_path, "gateway", text, models)
    known = versions_of(first)
    wait_until("it is kept", lambda: any(tmp_path.glob("state/stagegate.db.registries/*.gz")))
    models.rename(away)
    second = instead_of(first)
    first.process.wait(START_SECONDS)
    upgraded = versions_of(second)
    second.stop()
    third = start_gateway(tmp_path, "gateway", text, models)
    try:
        restarted, said = versions_of(third), third.json("status")["registries"][0]["reason"]
        (away / "fraud" / "2" / "version.yaml").unlink()
        away.rename(models)
        wait_until("the registry counts again", lambda: versions_of(third) == ["1"])
    finally:
        third.stop(signal.SIGKILL)

    assert known == upgraded == restarted == ["1", "2"]
    assert "cannot be read" in said
    assert "registry local cannot be read; what it said" in third.said()
