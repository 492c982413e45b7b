"""The data plane needs nothing of Python while it serves."""

from __future__ import annotations

import json
import select
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest
from tritonclient.grpc import service_pb2, service_pb2_grpc

ROOT = Path(__file__).parents[2]


class Constant(service_pb2_grpc.GRPCInferenceServiceServicer):  # type: ignore[misc]
    """Answers every request with its own names."""

    def ModelInfer(  # noqa: N802 - the protocol's name
        self, request: service_pb2.ModelInferRequest, context: grpc.ServicerContext
    ) -> service_pb2.ModelInferResponse:
        return service_pb2.ModelInferResponse(
            model_name=request.model_name, model_version=request.model_version, id=request.id
        )


@pytest.fixture
def backend() -> Iterator[str]:
    """The address of a backend."""
    server = grpc.server(ThreadPoolExecutor(2))
    service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(Constant(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield f"127.0.0.1:{port}"
    server.stop(None).wait()


def test_requests_are_answered_while_a_thread_holds_the_interpreter_lock(backend: str) -> None:
    """Twenty requests come back, renamed, before the process's Python can say a word again."""
    process = subprocess.Popen(
        [sys.executable, "-m", "loadtest.bench.gil_holder", backend, "triton-name", "1", "m"],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    with process, process.stdin, process.stdout:
        port = json.loads(process.stdout.readline())["port"]
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
            stub.ModelInfer(service_pb2.ModelInferRequest(model_name="m"), wait_for_ready=True, timeout=30)
            process.stdin.write("hold 10\n")
            process.stdin.flush()
            answers = [
                stub.ModelInfer(service_pb2.ModelInferRequest(model_name="m", id=str(n)), timeout=10)
                for n in range(20)
            ]
            still_held = not select.select([process.stdout], [], [], 0)[0]
        process.kill()

    assert still_held
    assert [(a.model_name, a.model_version, a.id) for a in answers] == [("m", "1", str(n)) for n in range(20)]
