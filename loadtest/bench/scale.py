"""`python -m loadtest.bench.scale`: what a hundred thousand models cost, and how soon one of them changes.

Writes a folder registry of that many models, starts a whole gateway on it, and again on one of ten models:
the difference in resident memory is what a version costs, in the data plane and in Python together. Then the
route of one model is changed over and over while clients ask another one. Memory is told as it is on any
machine; the times are those of this one, and of what else it does.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import grpc
from rich.console import Console
from tritonclient.grpc import service_pb2, service_pb2_grpc

from gateway.cli.admin_client import CHANNEL_OPTIONS, AdminClient
from loadtest.bench import tools
from loadtest.bench.backend import Backend
from loadtest.bench.client import ASKED_MODEL, Client
from loadtest.bench.cpu import ticked_seconds
from loadtest.bench.errors import BenchError
from loadtest.bench.footprint import footprint
from loadtest.bench.process import LOOPBACK, Process, free_port
from loadtest.bench.shapes import SMALL, Shape
from router.model import WHOLE, Arm, ModelName, Route

BAR = 4 << 10
"""Bytes a version in the whole process."""

CHANGE_BAR_MS = 20.0
"""Milliseconds from the admin API's call to the answer that the table has the change."""

FEW = 10
_CHANGES = 40
_READY_SECONDS = 1_800.0
_SETTLE_SECONDS = 5.0
_IDLE_SECONDS = 30.0
_SHAPE = Shape("4x1", connections=4, streams=1, request_bytes=SMALL, early=False, requests=20_000)


@dataclass(frozen=True, slots=True)
class Found:
    """What one gateway of a number of models showed.

    Attributes:
        seconds: from its start until it was ready.
        changes: milliseconds of each change of a route.
        bad: requests that went wrong meanwhile.
    """

    resident: int
    seconds: float
    changes: tuple[float, ...]
    bad: int


def model_name(number: int) -> ModelName:
    """A name as teams give them."""
    return ModelName(f"team-{number % 100}.model-{number}")


def write_registry(root: Path, models: int, versions: int) -> None:
    """A folder registry with all that a manifest may say, the artifacts apart."""
    for number in range(models):
        folder = root / model_name(number)
        for version in range(1, versions + 1):
            (folder / str(version)).mkdir(parents=True)
            (folder / str(version) / "version.yaml").write_text(_manifest(number, version))
        (folder / "model.yaml").write_text(
            f'description: "Model {number}"\nstages: {{production: "{versions}"}}\n'
            f'aliases: {{champion: "{versions}"}}\ntags: {{team: team-{number % 100}}}\n'
        )


def _manifest(number: int, version: int) -> str:
    return f"""\
format: onnx
artifact: model.onnx
digest: sha256:{number * 10 + version:064x}
contract:
  inputs:
    - {{name: image, datatype: FP32, shape: [-1, 64]}}
  outputs:
    - {{name: label, datatype: INT64, shape: [-1]}}
    - {{name: probabilities, datatype: FP32, shape: [-1, 10]}}
metrics: {{accuracy: {0.9 + version / 100:.4f}}}
tags: {{trained_by: ci}}
lineage: {{run: run-{number}-{version}, commit: {number * 7 + version:040x}}}
created: "2026-01-{version % 28 + 1:02d}T12:00:00Z"
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit code is 1 where memory is above its bar, a request went wrong, or nothing was measured."""
    parsed = _parser().parse_args(arguments)
    console = Console(markup=False, highlight=False, soft_wrap=True)

    def tell(what: str) -> None:
        console.print(f"{time.strftime('%H:%M:%S')} {what}", style="dim")

    try:
        tell("the data plane's table alone")
        console.print(_data_plane(parsed.models, parsed.versions))
        with tempfile.TemporaryDirectory(prefix="stagegate-bench-") as folder:
            few, many = (
                _measure(models, parsed.versions, Path(folder) / str(models), tell)
                for models in (FEW, parsed.models)
            )
    except BenchError as error:
        console.print(f"bench.scale: {error}", style="red")
        return 1
    each = (many.resident - few.resident) / ((parsed.models - FEW) * parsed.versions)
    style = "green" if each <= BAR else "red"
    console.print(
        f"{parsed.models} models x {parsed.versions} versions: {each:.0f} bytes a version in the whole "
        f"process ({many.resident >> 20} MiB; {few.resident >> 20} MiB with {FEW} models), ready after "
        f"{many.seconds:.0f} s",
        style=style,
    )
    for models, found in ((FEW, few), (parsed.models, many)):
        median, worst = statistics.median(found.changes), max(found.changes)
        style = "green" if median <= CHANGE_BAR_MS and not found.bad else "red"
        console.print(
            f"{models} models: a change of one route is live after {median:.1f} ms (median of {_CHANGES}; "
            f"worst {worst:.1f}), {found.bad} requests went wrong meanwhile",
            style=style,
        )
    return 0 if each <= BAR and not (few.bad or many.bad) else 1


def _data_plane(models: int, versions: int) -> str:
    """The routing table alone, by its own example."""
    command = ["cargo", "run", "--release", "--quiet", "-p", "stagegate-table", "--example", "scale", "--"]
    done = subprocess.run(  # noqa: S603 - our own workspace
        [*command, str(models), str(versions)],
        cwd=tools.WORKSPACE,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise BenchError(f"the table's example failed: {done.stderr[-500:]}")
    return f"the data plane's table alone:\n{done.stdout.strip()}"


def _measure(models: int, versions: int, folder: Path, tell: Callable[[str], None]) -> Found:
    registry, repository = folder / "models", folder / "repository"
    repository.mkdir(parents=True)
    tell(f"writing {models} models")
    write_registry(registry, models, versions)
    binaries = tools.build("constant-backend", "check-client")
    with ExitStack() as stack:
        backends = [Backend(binaries, folder=folder) for _ in range(2)]
        for backend in backends:
            stack.callback(backend.stop)
        ports = [free_port() for _ in range(3)]
        config = _config(ports, [backend.port for backend in backends], repository)
        (folder / "stagegate.yaml").write_text(config)
        command = (sys.executable, "-m", "gateway", "gateway", "--config", str(folder / "stagegate.yaml"))
        gateway = Process("gateway", command, folder=folder, environment={"PYTHONPATH": str(tools.CHECKOUT)})
        stack.callback(gateway.stop)
        began = time.monotonic()
        tell("starting a gateway on them")
        gateway.wait_until_ready(ports[1], _READY_SECONDS, tell)
        seconds = time.monotonic() - began
        _check_known(f"{LOOPBACK}:{ports[0]}", model_name(models - 1))
        tell(f"ready after {seconds:.0f} s, {ticked_seconds(gateway.pid):.0f} s of them processor time")
        time.sleep(_SETTLE_SECONDS)
        resident, spent = footprint(gateway.pid).resident, ticked_seconds(gateway.pid)
        time.sleep(_IDLE_SECONDS)
        idle = (ticked_seconds(gateway.pid) - spent) / _IDLE_SECONDS
        tell(f"{resident >> 20} MiB; {idle:.0%} of a core while nothing happens")
        client = Client(binaries, _SHAPE, name="asks", port=ports[0], answers_as=ASKED_MODEL, folder=folder)
        stack.callback(client.stop)
        address = f"{LOOPBACK}:{ports[2]}"
        channel = stack.enter_context(grpc.insecure_channel(address, options=CHANNEL_OPTIONS))
        admin = AdminClient(address, actor="bench", timeout=60, channel=channel)
        client.start(_SHAPE.requests)
        changes = tuple(_change(admin, number % models, versions, number) for number in range(_CHANGES))
        tell(f"a change of one route is live after {statistics.median(changes):.1f} ms; cleaning up")
        return Found(resident, seconds, changes, client.result().bad)


def _check_known(address: str, model: ModelName) -> None:
    """One that is ready knows all its models. Raises BenchError."""
    with grpc.insecure_channel(address) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        try:
            stub.ModelMetadata(service_pb2.ModelMetadataRequest(name=model), timeout=30)
        except grpc.RpcError as problem:
            raise BenchError(f"it is ready and does not know {model}: {problem}") from None


def _change(admin: AdminClient, model: int, versions: int, number: int) -> float:
    """Milliseconds until a new route of one model is in the table."""
    route = Route(model_name(model), (Arm("stable", str(versions), WHOLE),), deadline=1.0 + number)
    began = time.perf_counter()
    admin.apply_routes([route], expected_revision=None, reason="measured")
    return (time.perf_counter() - began) * 1_000


def _config(ports: Sequence[int], backends: Sequence[int], repository: Path) -> str:
    inference, metrics, admin = (f'"{LOOPBACK}:{port}"' for port in ports)
    return f"""\
listen: {{inference: {inference}, http: "off", metrics: {metrics}, admin: {admin}}}
state: memory://
threads: 1
registries:
  local: {{type: folder, path: ./models}}
default_registry: local
backends:
  - {{name: t0, grpc: "{LOOPBACK}:{backends[0]}", control: none}}
  - {{name: t1, grpc: "{LOOPBACK}:{backends[1]}", control: explicit, repository: {repository}}}
"""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m loadtest.bench.scale", description=main.__doc__)
    parser.add_argument("--models", type=int, default=100_000, help="how many models (100,000)")
    parser.add_argument("--versions", type=int, default=3, help="versions of each (3)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
