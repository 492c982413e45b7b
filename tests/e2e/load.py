"""A steady client in threads that remembers every answer and every failure."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

import grpc
from tritonclient.grpc import service_pb2, service_pb2_grpc

from tests.e2e.digits import IMAGES


@dataclass
class SteadyLoad:
    """Asks `digits` over and over, at most 200 times a second for each of a few threads.

    Attributes:
        versions: the version of every good answer, in the order in which a thread saw them.
        failures: status and text of every other.
    """

    address: str
    input_name: str
    version: str = ""
    threads: int = 3
    versions: list[str] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    _stop: threading.Event = field(default_factory=threading.Event)
    _running: list[threading.Thread] = field(default_factory=list)

    def __enter__(self) -> Self:
        self._running = [threading.Thread(target=self._ask, daemon=True) for _ in range(self.threads)]
        for thread in self._running:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        for thread in self._running:
            thread.join(60)

    def request(self) -> service_pb2.ModelInferRequest:
        """One image for digits."""
        request = service_pb2.ModelInferRequest(model_name="digits", model_version=self.version)
        request.inputs.add(name=self.input_name, datatype="FP32", shape=[1, IMAGES.shape[1]])
        request.raw_input_contents.append(IMAGES[0].tobytes())
        return request

    def _ask(self) -> None:
        request = self.request()
        with grpc.insecure_channel(self.address) as channel:
            stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
            while not self._stop.is_set():
                try:
                    self.versions.append(stub.ModelInfer(request, timeout=60).model_version)
                except grpc.RpcError as error:
                    self.failures.append(f"{error.code()} {error.details()}")
                time.sleep(0.005)
