"""A gateway process that watches one registry, asked by a client."""

from __future__ import annotations

import json
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

import grpc
from tritonclient.grpc import service_pb2, service_pb2_grpc

from loadtest.bench import tools
from loadtest.bench.cpu import ticked_seconds
from loadtest.bench.errors import BenchError
from loadtest.bench.footprint import footprint
from loadtest.bench.process import LOOPBACK, Process, free_ports

_READY_SECONDS = 600.0
_CALL_SECONDS = 30.0
_PAUSE = 0.002


class Watched:
    """A gateway on one registry, with one backend that has at once what it is told to load.

    Args:
        section: the registry's part of the configuration.
        variables: for its environment.
        folder: an empty one.

    Raises:
        BenchError: it does not start.
    """

    def __init__(self, section: str, variables: dict[str, str], folder: Path) -> None:
        self._folder = folder
        self._stack = ExitStack()
        self._section = section
        self._variables = variables
        self.ready_after = 0.0
        """Seconds from its start until it said that it is ready."""

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            backend = Process(
                "backend",
                (sys.executable, "-m", "loadtest.bench.registries.backend"),
                folder=self._folder,
                environment={"PYTHONPATH": str(tools.CHECKOUT)},
                talks=True,
            )
            stack.callback(backend.stop)
            inference, http, metrics, admin = (f"{LOOPBACK}:{port}" for port in free_ports(4))
            config = self._folder / "stagegate.yaml"
            config.write_text(
                f'listen: {{inference: "{inference}", http: "{http}", metrics: "{metrics}", '
                f'admin: "{admin}"}}\n'
                f"state: sqlite:///{self._folder / 'state.db'}\n"
                f"threads: 1\nregistries:\n  models: {self._section}\ndefault_registry: models\n"
                f'artifacts: {{code: ["*"]}}\n'
                f'backends:\n  - {{name: t0, grpc: "{LOOPBACK}:{json.loads(backend.hear())["port"]}", '
                f"control: explicit, repository: {self._folder / 'repository'}}}\n"
            )
            (self._folder / "repository").mkdir()
            began = time.monotonic()
            self._process = Process(
                "gateway",
                (sys.executable, "-m", "gateway", "gateway", "--config", str(config)),
                folder=self._folder,
                environment={"PYTHONPATH": str(tools.CHECKOUT), **self._variables},
            )
            stack.callback(self._process.stop)
            self._process.wait_until_ready(int(metrics.rpartition(":")[2]), _READY_SECONDS)
            self.ready_after = time.monotonic() - began
            self.http = http
            channel = stack.enter_context(grpc.insecure_channel(inference))
            self._infer = service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def seconds(self) -> float:
        """Processor time so far."""
        return ticked_seconds(self._process.pid)

    def resident(self) -> int:
        """Bytes."""
        return footprint(self._process.pid).resident

    def kept(self) -> tuple[bytes, bytes]:
        """What it said and what it wrote down so far."""
        files = sorted(path for path in self._folder.rglob("*") if "state.db" in str(path) and path.is_file())
        stored = b"".join(each.read_bytes() for each in files)
        return (self._folder / "gateway.log").read_bytes(), stored

    def answers(self, model: str, version: str = "") -> str:
        """The version that answers a request. Raises BenchError."""
        request = service_pb2.ModelInferRequest(model_name=model, model_version=version)
        try:
            return str(self._infer(request, timeout=_CALL_SECONDS).model_version)
        except grpc.RpcError as problem:
            told = f"{problem.code()} {problem.details()}"
            raise BenchError(f"{model} {version} is not answered: {told}") from None

    def until_answered_by(self, version: str, model: str, seconds: float) -> float:
        """The monotonic time at which a version has answered. Raises BenchError."""
        end = time.monotonic() + seconds
        while self.answers(model) != version:
            if time.monotonic() > end:
                raise self._process.failure(f"still has another version of {model} after {seconds:g} s")
            time.sleep(_PAUSE)
        return time.monotonic()
