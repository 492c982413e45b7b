"""An inference port that answers with what it was sent, for tests of clients."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import grpc
from tritonclient.grpc import service_pb2, service_pb2_grpc


@dataclass(slots=True)
class EchoInference(service_pb2_grpc.GRPCInferenceServiceServicer):  # type: ignore[misc]
    """Every input comes back as an output of the same name.

    Attributes:
        requests: what arrived.
        typed: answer in the typed fields in place of raw bytes.
        refuse: status and text to answer instead.
    """

    requests: list[Any] = field(default_factory=list)
    typed: bool = False
    refuse: tuple[grpc.StatusCode, str] | None = None

    async def ModelInfer(self, request: Any, context: Any) -> Any:  # noqa: N802 -- untyped, named by the protocol
        """Echo."""
        self.requests.append(request)
        if self.refuse is not None:
            await context.abort(*self.refuse)
        await context.send_initial_metadata((("stagegate-version", "2"), ("stagegate-arm", "canary")))
        answer = service_pb2.ModelInferResponse(
            model_name=request.model_name.partition("@")[0], model_version="2", id=request.id
        )
        for tensor in request.inputs:
            answer.outputs.add(name=tensor.name, datatype=tensor.datatype, shape=tensor.shape)
        if self.typed:
            answer.outputs[0].contents.fp32_contents.extend([1.0, 2.0])
        else:
            answer.raw_output_contents.extend(request.raw_input_contents)
        return answer


@contextlib.asynccontextmanager
async def serve_inference(servicer: EchoInference) -> AsyncIterator[str]:
    """Serve on loopback; yields `host:port`."""
    server = grpc.aio.server()
    service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(None)
