"""`python -m loadtest.soak_backend`: a Triton that takes up to 100 ms a request and counts cancels.

Prints `{"port": P}`. Each line on its standard input is answered with a line of counts; the end of the input
ends it.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
from dataclasses import asdict, dataclass
from typing import Protocol

import grpc
from google.protobuf.message import Message
from tritonclient.grpc import model_config_pb2, service_pb2, service_pb2_grpc

MODEL, VERSION = "digits", "1"
MOST_SECONDS = 0.1
"""A request takes any time up to this."""


@dataclass(slots=True)
class Counts:
    """What became of the requests."""

    begun: int = 0
    finished: int = 0
    cancelled: int = 0

    @property
    def running(self) -> int:
        """Requests that neither finished nor were cancelled."""
        return self.begun - self.finished - self.cancelled


class _Request(Protocol):
    id: str


class Slow(service_pb2_grpc.GRPCInferenceServiceServicer):  # type: ignore[misc]
    """What a gateway asks of a backend that it only uses, and `ModelInfer`."""

    def __init__(self) -> None:
        self.counts = Counts()

    async def ServerMetadata(self, request: Message, context: object) -> Message:  # noqa: N802
        """A name and a version."""
        answer: Message = service_pb2.ServerMetadataResponse(name="triton", version="2.51.0")
        return answer

    async def RepositoryIndex(self, request: Message, context: object) -> Message:  # noqa: N802
        """One model."""
        line = service_pb2.RepositoryIndexResponse.ModelIndex(name=MODEL, version=VERSION, state="READY")
        answer: Message = service_pb2.RepositoryIndexResponse(models=[line])
        return answer

    async def ModelConfig(self, request: Message, context: object) -> Message:  # noqa: N802
        """One that works on many at once."""
        config = model_config_pb2.ModelConfig(name=MODEL)
        config.instance_group.add(count=1000)
        answer: Message = service_pb2.ModelConfigResponse(config=config)
        return answer

    async def ModelInfer(self, request: _Request, context: object) -> Message:  # noqa: N802
        """Wait, then answer; or be cancelled."""
        self.counts.begun += 1
        try:
            await asyncio.sleep(random.uniform(0, MOST_SECONDS))  # noqa: S311
        except asyncio.CancelledError:
            self.counts.cancelled += 1
            raise
        self.counts.finished += 1
        answer: Message = service_pb2.ModelInferResponse(
            model_name=MODEL, model_version=VERSION, id=request.id
        )
        return answer


async def main() -> int:
    """Serve until the standard input ends."""
    slow = Slow()
    server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
    service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(slow, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    _say({"port": port})
    while await asyncio.to_thread(sys.stdin.readline):
        _say({**asdict(slow.counts), "running": slow.counts.running})
    await server.stop(None)
    return 0


def _say(what: dict[str, int]) -> None:
    sys.stdout.write(json.dumps(what) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
