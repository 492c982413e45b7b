"""A Triton that loads at once, or fails, or never finishes, as the test says; keeps what it was told."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from tritonclient.grpc import service_pb2

from router.errors import BackendUnavailable, LoadFailed
from router.model import Backend, BackendId, Capacity, Contract, IndexEntry, TensorSpec, TritonName
from router.ports import ServerInfo


@dataclass(frozen=True, slots=True)
class FakeModel:
    """How a model folder behaves: `broken` is why its load fails, `endless` means that it never ends."""

    broken: str = ""
    endless: bool = False


class FakeModelServer:
    """Implements `router.ports.ModelServer` on a dictionary of model folders, which a test may change."""

    def __init__(self, folders: Mapping[str, FakeModel], backend: Backend | None = None) -> None:
        self.folders = dict(folders)
        self.away = False
        self.loads: list[TritonName] = []
        self._states: dict[TritonName, tuple[str, str]] = {}
        self._backend = backend or Backend(BackendId("fake"), "127.0.0.1:1")

    @property
    def backend(self) -> Backend:
        return self._backend

    async def ready(self) -> bool:
        return not self.away

    async def info(self) -> ServerInfo:
        self._answers()
        return ServerInfo("triton", "2.51.0", ("model_repository",))

    async def index(self) -> tuple[IndexEntry, ...]:
        self._answers()
        known = sorted({TritonName(name) for name in self.folders} | self._states.keys())
        return tuple(
            IndexEntry(name, "1" if name in self._states else "", *self._states.get(name, ("", "")))
            for name in known
        )

    async def load(self, name: TritonName, *, timeout: float) -> None:
        self._answers()
        self.loads.append(name)
        folder = self.folders.get(name)
        if folder is None:
            raise LoadFailed(f"{name} on Triton fake: failed to load '{name}'")
        if folder.endless:
            raise LoadFailed(f"{name} on Triton fake was not loaded within {timeout:g} s")
        if folder.broken:
            self._states[name] = ("UNAVAILABLE", folder.broken)
            raise LoadFailed(f"{name} on Triton fake: {folder.broken}")
        self._states[name] = ("READY", "")

    async def unload(self, name: TritonName, *, timeout: float) -> None:
        self._answers()
        if name in self._states:
            self._states[name] = ("UNAVAILABLE", "unloaded")

    async def metadata(self, name: TritonName, version: str = "") -> bytes:
        self._answers()
        if self._states.get(name, ("", ""))[0] != "READY":
            raise LoadFailed(f"{name} on Triton fake cannot be described: it is not loaded")
        tensor = service_pb2.ModelMetadataResponse.TensorMetadata
        answer = service_pb2.ModelMetadataResponse(
            name=name,
            versions=["1"],
            platform="python",
            inputs=[tensor(name="x", datatype="FP32", shape=[-1])],
            outputs=[tensor(name="y", datatype="FP32", shape=[-1])],
        )
        return bytes(answer.SerializeToString())

    async def contract(self, name: TritonName, version: str = "") -> Contract | None:
        self._answers()
        if self._states.get(name, ("", ""))[0] != "READY":
            return None
        return Contract((TensorSpec("x", "FP32", (-1,)),), (TensorSpec("y", "FP32", (-1,)),))

    async def capacity(self, name: TritonName, version: str = "") -> Capacity:
        self._answers()
        return Capacity(1) if self._states.get(name, ("", ""))[0] == "READY" else Capacity()

    async def last_used(self, name: TritonName, version: str = "") -> float | None:
        self._answers()
        return None

    async def close(self) -> None:
        pass

    def _answers(self) -> None:
        if self.away:
            raise BackendUnavailable(f"Triton {self._backend.name} at {self._backend.grpc}: UNAVAILABLE")
