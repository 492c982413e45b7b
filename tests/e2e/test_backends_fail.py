"""Two real Tritons behind one gateway, under load; one of them fails as Tritons were seen to fail."""

from __future__ import annotations

import asyncio
import os
import queue
import shutil
import signal
import threading
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, ExitStack
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest
from tritonclient.grpc import service_pb2_grpc

from router.artifacts.layout import TritonRepository
from router.backends.process import TritonOptions, TritonProcess
from router.backends.triton import TritonServer
from router.backends.wheel import find_triton
from router.model import ModelName, TritonName, Version, VersionId
from tests.e2e.conftest import UP, Gateway, start_gateway, wait_until
from tests.e2e.digits import inputs
from tests.e2e.load import SteadyLoad
from tests.e2e.test_lifecycle import mentions
from tests.servers.ports import free_ports

MODELS = ("digits", "other")


@dataclass
class Pair:
    """Two Tritons with the same two models, and the gateway in front of them."""

    one: TritonProcess
    two: TritonProcess
    gateway: Gateway
    input_name: str

    def load(self, version: str = "") -> SteadyLoad:
        """Somebody who asks `digits` all the time."""
        return SteadyLoad(self.gateway.inference, self.input_name, version)

    def ejected(self) -> set[str]:
        """Model and backend of all that is passed over now."""
        found = self.gateway.http("/metrics")[1].splitlines()
        return {line for line in found if line.startswith("stagegate_ejected{")}

    def served(self, backend: str) -> float:
        """Answers of `digits` by one backend so far."""
        start = f'stagegate_backend_duration_seconds_count{{backend="{backend}",model="digits"'
        lines = self.gateway.http("/metrics")[1].splitlines()
        return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(start))


async def put_models(triton: TritonProcess, trained: Path) -> None:
    """Load the same files under two names."""
    server = TritonServer(triton.backend())
    for name in MODELS:
        artifact = str(trained / "models/digits/2/model.onnx")
        version = Version("", ModelName(name), VersionId("1"), "onnx", artifact)
        await TritonRepository(triton.options.repository).put(version, TritonName(name))
        await server.load(TritonName(name), timeout=60)
    await server.close()


@pytest.fixture
async def pair(trained: Path, tmp_path: Path) -> AsyncIterator[Pair]:
    """Both are started at once, on ports that they keep when they are started again."""
    ports = free_ports(6)
    async with AsyncExitStack() as stack:
        tritons = []
        for at, name in enumerate(("one", "two")):
            grpc, http, metrics = ports[3 * at : 3 * at + 3]
            options = TritonOptions(
                name, tmp_path / name / "repository", tmp_path / name / "work", grpc, http, metrics
            )
            tritons.append(TritonProcess(find_triton(), options))
        await asyncio.gather(*(stack.enter_async_context(triton) for triton in tritons))
        await asyncio.gather(*(put_models(triton, trained) for triton in tritons))
        backends = "".join(
            f'  - {{name: {triton.options.name}, grpc: "{triton.grpc}", control: none}}\n'
            for triton in tritons
        )
        gateway = start_gateway(tmp_path, "gateway", f"backends:\n{backends}", tmp_path)
        stack.callback(gateway.stop)
        client = gateway.client()
        wait_until("both are known", lambda: client.is_model_ready("other"))
        metadata = client.get_model_metadata("digits")
        client.infer("digits", inputs(metadata))
        client.close()
        yield Pair(tritons[0], tritons[1], gateway, metadata.inputs[0].name)


def stub_of(triton: TritonProcess, model: str) -> int:
    """The process that runs one model of a Triton."""
    found = [
        pid
        for pid, command in mentions(triton.options.repository).items()
        if "python_backend_stub" in command and f"/{model}/" in command
    ]
    assert len(found) == 1, found
    return found[0]


async def load_again(triton: TritonProcess) -> None:
    """The models of a Triton that was started again."""
    server = TritonServer(triton.backend())
    await asyncio.gather(*(server.load(TritonName(model), timeout=240) for model in MODELS))
    await server.close()


async def test_nobody_notices_that_one_of_two_is_killed_started_again_and_stopped(pair: Pair) -> None:
    """What was on its way there is asked of the other one; so is what a stopping Triton says NOT_FOUND to."""
    with pair.load() as load:
        wait_until("load", lambda: len(load.versions) > 100)
        os.kill(pair.one.pid, signal.SIGKILL)
        await pair.one.exited()
        before = len(load.versions)
        wait_until("the other answers", lambda: len(load.versions) > before + 100)
        await pair.one.start()
        await load_again(pair.one)
        served = pair.served("one")
        wait_until("it answers again", lambda: pair.served("one") > served)
        os.kill(pair.one.pid, signal.SIGTERM)
        await pair.one.exited()
        before = len(load.versions)
        wait_until("the other answers", lambda: len(load.versions) > before + 100)

    assert load.failures == []


async def test_a_frozen_triton_is_found_out(pair: Pair) -> None:
    """SIGSTOP closes nothing: what is owed is asked of the other."""
    with pair.load() as load:
        wait_until("load", lambda: len(load.versions) > 100)
        os.kill(pair.one.pid, signal.SIGSTOP)
        try:
            await asyncio.sleep(4)
            before = len(load.versions)
            wait_until("all clients are answered", lambda: len(load.versions) > before + 100, 10)
        finally:
            os.kill(pair.one.pid, signal.SIGCONT)
        served = pair.served("one")
        wait_until("it answers again", lambda: pair.served("one") > served)

    assert load.failures == []


async def test_a_model_whose_process_died_is_found_out(pair: Pair) -> None:
    """Of a dead model Triton says that all is well: five errors, then a probe a pause, and none of another
    model. (A Triton of its own: one that was late draws few requests for a while.)"""
    client = pair.gateway.client()
    metadata = client.get_model_metadata("other")
    with pair.load() as load:
        wait_until("load", lambda: len(load.versions) > 100)
        os.kill(stub_of(pair.one, "digits"), signal.SIGKILL)
        wait_until("it is passed over", lambda: bool(pair.ejected()), 120)
        for _ in range(50):
            client.infer("other", inputs(metadata))
        before = len(load.versions)
        wait_until("the other answers", lambda: len(load.versions) > before + 100)

    # Three clients: two could be on their way there when the fifth error came, and hear of it later.
    assert 1 <= len(load.failures) <= 7, load.failures
    (line,) = pair.ejected()
    assert 'backend="one"' in line
    assert 'model="digits"' in line
    problems = pair.gateway.json("status")["problems"]
    assert any("digits/1 on one" in problem["subject"] for problem in problems)


async def test_requests_wait_while_the_only_triton_is_killed_and_started_again(
    trained: Path, tmp_path: Path
) -> None:
    """`stagegate up` starts it anew and loads what it had; until then requests wait."""
    models = Path(shutil.copytree(trained / "models", tmp_path / "models"))
    gateway = start_gateway(tmp_path, "up", UP, models)
    try:
        metadata = gateway.client().get_model_metadata("digits")
        with SteadyLoad(gateway.inference, metadata.inputs[0].name) as load:
            wait_until("load", lambda: len(load.versions) > 100)
            (pid,) = (
                pid
                for pid, command in mentions(gateway.folder).items()
                if command.startswith("/") and "tritonserver" in command.split()[0]
            )
            os.kill(pid, signal.SIGKILL)
            before = len(load.versions)
            wait_until("answers again", lambda: len(load.versions) > before + 100, 60)
        assert load.failures == []
    finally:
        gateway.stop()


class Talk:
    """One stream of a client, which sends when it is told to and remembers what comes."""

    def __init__(self, stub: service_pb2_grpc.GRPCInferenceServiceStub, request: object) -> None:
        self.answers: list[str] = []
        self.status: tuple[grpc.StatusCode, str] | None = None
        self.sent = 0
        self._request = request
        self._said: queue.SimpleQueue[object] = queue.SimpleQueue()
        self._call = stub.ModelStreamInfer(iter(self._said.get, None), timeout=60)
        self._hearing = threading.Thread(target=self._hear, daemon=True)
        self._hearing.start()

    @property
    def waits(self) -> bool:
        """Whether something that was sent has no answer, and none was refused."""
        return self.status is None and len(self.answers) < self.sent

    def say(self) -> None:
        """Send one message more."""
        self.sent += 1
        self._said.put(self._request)

    def end(self) -> tuple[grpc.StatusCode, str] | None:
        """Say no more, and give how it ended."""
        self._said.put(None)
        self._hearing.join(20)
        return self.status

    def _hear(self) -> None:
        try:
            for answer in self._call:
                self.answers.append(answer.error_message or answer.infer_response.model_version)
        except grpc.RpcError:
            pass
        self.status = self._call.code(), self._call.details()


async def test_streams_of_a_triton_that_dies_go_on_elsewhere_or_say_what_happened(pair: Pair) -> None:
    """Where no answer had come, nobody notices; a stream that was answered before, and asked again, is told
    that its backend is gone, and by no message twice."""
    request = pair.load().request()
    with ExitStack() as stack:
        channels = [stack.enter_context(grpc.insecure_channel(pair.gateway.inference)) for _ in range(2)]
        stubs = [service_pb2_grpc.GRPCInferenceServiceStub(channel) for channel in channels]
        old = [Talk(stubs[at % 2], request) for at in range(8)]
        for talk in old:
            talk.say()
        wait_until("all are answered", lambda: not any(talk.waits for talk in old))
        os.kill(pair.one.pid, signal.SIGSTOP)
        new = [Talk(stubs[at % 2], request) for at in range(12)]
        for talk in (*new, *old):
            talk.say()
        await asyncio.sleep(0.5)
        owed = [talk for talk in (*old, *new) if talk.waits]
        os.kill(pair.one.pid, signal.SIGKILL)
        wait_until("everybody has an answer or a reason", lambda: not any(talk.waits for talk in owed), 15)
        for talk in new:
            talk.say()
        wait_until("those go on", lambda: not any(talk.waits for talk in new), 15)
        ended = {talk: talk.end() for talk in (*old, *new)}

    assert {talk in owed for talk in old} == {talk in owed for talk in new} == {True, False}
    assert [(talk.answers, ended[talk]) for talk in new] == [(["1", "1"], (grpc.StatusCode.OK, ""))] * 12
    for talk in old:
        status, text = ended[talk] or (None, "")
        if talk in owed:
            assert (talk.answers, status) == (["1"], grpc.StatusCode.UNAVAILABLE)
            assert text.startswith("backend 'one': ")
        else:
            assert (talk.answers, status) == (["1", "1"], grpc.StatusCode.OK), text
