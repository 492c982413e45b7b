"""`python -m loadtest.bench.registries.backend`: a Triton that has whatever it is told to load at once.

Prints `{"port": P}`; the end of its standard input ends it.
"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Protocol

import grpc
from google.protobuf.message import Message
from tritonclient.grpc import model_config_pb2, service_pb2, service_pb2_grpc

VERSION = "1"


class _Named(Protocol):
    model_name: str
    name: str
    id: str


class Loading(service_pb2_grpc.GRPCInferenceServiceServicer):  # type: ignore[misc]
    """What a gateway asks of a backend that it loads models on."""

    def __init__(self) -> None:
        self._ready: set[str] = set()

    async def ServerMetadata(self, request: _Named, context: object) -> Message:  # noqa: N802
        """A name and a version."""
        answer: Message = service_pb2.ServerMetadataResponse(name="triton", version="2.51.0")
        return answer

    async def RepositoryIndex(self, request: _Named, context: object) -> Message:  # noqa: N802
        """What was loaded."""
        lines = [
            service_pb2.RepositoryIndexResponse.ModelIndex(name=name, version=VERSION, state="READY")
            for name in sorted(self._ready)
        ]
        answer: Message = service_pb2.RepositoryIndexResponse(models=lines)
        return answer

    async def RepositoryModelLoad(self, request: _Named, context: object) -> Message:  # noqa: N802
        """At once."""
        self._ready.add(request.model_name)
        answer: Message = service_pb2.RepositoryModelLoadResponse()
        return answer

    async def RepositoryModelUnload(self, request: _Named, context: object) -> Message:  # noqa: N802
        """At once."""
        self._ready.discard(request.model_name)
        answer: Message = service_pb2.RepositoryModelUnloadResponse()
        return answer

    async def ModelConfig(self, request: _Named, context: object) -> Message:  # noqa: N802
        """One that works on many at once."""
        config = model_config_pb2.ModelConfig(name=request.name)
        config.instance_group.add(count=100)
        answer: Message = service_pb2.ModelConfigResponse(config=config)
        return answer

    async def ModelMetadata(self, request: _Named, context: object) -> Message:  # noqa: N802
        """One tensor in, one out."""
        tensor = service_pb2.ModelMetadataResponse.TensorMetadata
        answer: Message = service_pb2.ModelMetadataResponse(
            name=request.name,
            versions=[VERSION],
            inputs=[tensor(name="x", datatype="FP32", shape=[-1, 4])],
            outputs=[tensor(name="y", datatype="FP32", shape=[-1, 1])],
        )
        return answer

    async def ModelInfer(self, request: _Named, context: object) -> Message:  # noqa: N802
        """At once."""
        answer: Message = service_pb2.ModelInferResponse(
            model_name=request.model_name, model_version=VERSION, id=request.id
        )
        return answer


async def main() -> int:
    """Serve until the standard input ends."""
    server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
    service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(Loading(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    sys.stdout.write(json.dumps({"port": port}) + "\n")
    sys.stdout.flush()
    while await asyncio.to_thread(sys.stdin.readline):
        pass
    await server.stop(None)
    return 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
