"""A model that is asked for more than it can do, on a real Triton."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import grpc
import numpy as np
import pytest
import pytest_asyncio
from prometheus_client.parser import text_string_to_metric_families
from tritonclient.grpc import service_pb2, service_pb2_grpc

from router.backends.process import TritonOptions, TritonProcess
from router.backends.triton import TritonServer
from router.backends.wheel import find_triton
from router.model import TritonName
from tests.e2e.conftest import Gateway, start_gateway, wait_until
from tests.fakes.triton_models import write_model

pytestmark = pytest.mark.asyncio(loop_scope="module")

QUEUE = 8
LET_THROUGH = 2
PUSHBACK = "grpc-retry-pushback-ms"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def gateway(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Gateway]:
    """A gateway before a Triton with models that take 50 ms, half a second and none, each on one instance."""
    folder = tmp_path_factory.mktemp("overload")
    write_model(folder / "models", "slow", "import time; self.sleep = time.sleep", "self.sleep(0.05)")
    write_model(folder / "models", "late", "import time; self.sleep = time.sleep", "self.sleep(0.5)")
    write_model(folder / "models", "quick")
    async with TritonProcess(
        find_triton(), TritonOptions("theirs", folder / "models", folder / "work")
    ) as triton:
        server = TritonServer(triton.backend())
        for name in ("slow", "late", "quick"):
            await server.load(TritonName(name), timeout=60)
        await server.close()
        body = (
            f'backends:\n  - {{name: mine, grpc: "{triton.grpc}", control: none}}\n'
            f"limits: {{queue_per_model: {QUEUE}}}\n"
        )
        running = await asyncio.to_thread(start_gateway, folder, "gateway", body, folder)
        # Until its Triton was asked for its configuration, a version is let through as an unknown one is.
        async with grpc.aio.insecure_channel(running.inference) as channel:
            for name in ("slow", "late"):
                await infer(service_pb2_grpc.GRPCInferenceServiceStub(channel), name)
        wait_until("all models are there", lambda: "quick" in running.cli("models").stdout)
        yield running
        running.stop()


@pytest_asyncio.fixture(loop_scope="module")
async def stub(gateway: Gateway) -> AsyncIterator[service_pb2_grpc.GRPCInferenceServiceStub]:
    """A client on one connection."""
    async with grpc.aio.insecure_channel(gateway.inference) as channel:
        yield service_pb2_grpc.GRPCInferenceServiceStub(channel)


async def infer(
    stub: service_pb2_grpc.GRPCInferenceServiceStub, model: str, priority: int = 0
) -> tuple[grpc.StatusCode, dict[str, str]]:
    """One inference: its status and its trailing metadata. An answer that is OK is the right one."""
    request = service_pb2.ModelInferRequest(model_name=model)
    request.inputs.add(name="x", datatype="FP32", shape=[2])
    request.raw_input_contents.append(np.array([1, 2], np.float32).tobytes())
    if priority:
        request.parameters["priority"].uint64_param = priority
    call = stub.ModelInfer(request, timeout=20)
    try:
        answer = await call
    except grpc.aio.AioRpcError as error:
        trailers: Any = error.trailing_metadata()  # the stubs disagree on its type
        return error.code(), {key: str(value) for key, value in trailers}
    assert np.frombuffer(answer.raw_output_contents[0], np.float32).tolist() == [2, 4]
    return grpc.StatusCode.OK, {}


def sample(gateway: Gateway, name: str, **labels: str) -> float:
    """One number of `/metrics`; 0 where it is not there."""
    families = text_string_to_metric_families(gateway.http("/metrics")[1])
    found = (s for family in families for s in family.samples if s.name == name)
    return sum(s.value for s in found if labels.items() <= s.labels.items())


async def test_what_is_too_much_is_refused_and_told_when_to_come_again(
    gateway: Gateway, stub: service_pb2_grpc.GRPCInferenceServiceStub
) -> None:
    """The rest is answered, the other model does not notice, and nothing stays behind."""
    slow = [infer(stub, "slow") for _ in range(60)]
    quick = [infer(stub, "quick") for _ in range(QUEUE)]
    answers = await asyncio.gather(*slow, *quick)

    codes = Counter(code for code, _ in answers[:60])
    assert set(codes) == {grpc.StatusCode.OK, grpc.StatusCode.RESOURCE_EXHAUSTED}
    assert codes[grpc.StatusCode.OK] >= QUEUE + LET_THROUGH
    refused = [trailing for code, trailing in answers[:60] if code is not grpc.StatusCode.OK]
    assert all(int(trailing[PUSHBACK]) > 0 for trailing in refused)
    assert {code for code, _ in answers[60:]} == {grpc.StatusCode.OK}
    rejected = sample(gateway, "stagegate_admission_rejected_total", model="slow", reason="queue_full")
    assert rejected == len(refused)
    assert sample(gateway, "stagegate_admission_limit", model="slow") == LET_THROUGH
    assert sample(gateway, "stagegate_queue_duration_seconds_count", model="slow") >= QUEUE
    wait_until(
        "nothing is in flight", lambda: sample(gateway, "stagegate_inflight_requests", model="slow") == 0
    )
    assert sample(gateway, "stagegate_queued_requests", model="slow") == 0


async def test_priority_one_wins_over_the_default(
    gateway: Gateway, stub: service_pb2_grpc.GRPCInferenceServiceStub
) -> None:
    """Where the queue is full, requests of the highest priority are answered and others make room."""
    usual = [asyncio.create_task(infer(stub, "slow")) for _ in range(QUEUE + LET_THROUGH)]
    urgent = await asyncio.gather(*(infer(stub, "slow", priority=1) for _ in range(QUEUE)))
    others = await asyncio.gather(*usual)

    assert {code for code, _ in urgent} == {grpc.StatusCode.OK}
    displaced = [trailing for code, trailing in others if code is grpc.StatusCode.RESOURCE_EXHAUSTED]
    assert displaced
    assert all(int(trailing[PUSHBACK]) > 0 for trailing in displaced)


async def test_what_would_be_answered_too_late_is_not_begun(
    gateway: Gateway, stub: service_pb2_grpc.GRPCInferenceServiceStub
) -> None:
    """A request with less time than the queue takes is refused long before its deadline."""
    request = service_pb2.ModelInferRequest(model_name="late")
    request.inputs.add(name="x", datatype="FP32", shape=[2])
    request.raw_input_contents.append(np.array([1, 2], np.float32).tobytes())
    usual = [asyncio.create_task(infer(stub, "late")) for _ in range(QUEUE + LET_THROUGH)]
    await asyncio.to_thread(
        wait_until, "a queue", lambda: sample(gateway, "stagegate_queued_requests", model="late") >= QUEUE - 1
    )

    # The queue takes at least seven times a quarter of a second.
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await stub.ModelInfer(request, timeout=1)

    await asyncio.gather(*usual)
    assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "deadline" in str(refused.value.details())


async def test_deadlines_that_pass_in_triton_cost_no_other_call(
    gateway: Gateway, stub: service_pb2_grpc.GRPCInferenceServiceStub
) -> None:
    """Triton ends such a stream several times; the connection and what else is on it stay."""
    request = service_pb2.ModelInferRequest(model_name="quick")
    request.inputs.add(name="x", datatype="FP32", shape=[2])
    request.raw_input_contents.append(np.array([1, 2], np.float32).tobytes())
    broken = sample(gateway, "stagegate_retries_total", reason="broken")
    codes: Counter[grpc.StatusCode] = Counter()

    async def late(number: int) -> None:
        try:
            await stub.ModelInfer(request, timeout=0.001 + number % 40 / 10_000)
        except grpc.aio.AioRpcError as error:
            codes[error.code()] += 1

    for turn in range(60):
        usual = [infer(stub, "quick") for _ in range(3)]
        answers = await asyncio.gather(*usual, *(late(turn * 6 + number) for number in range(6)))
        assert {answer[0] for answer in answers[:3] if answer} == {grpc.StatusCode.OK}

    assert codes[grpc.StatusCode.DEADLINE_EXCEEDED] > 20
    assert sample(gateway, "stagegate_retries_total", reason="broken") == broken
