"""Promotions and rollbacks on a real gateway: traffic and registry move together, whatever comes between."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import time
from collections.abc import Iterator
from concurrent import futures
from pathlib import Path
from typing import Any

import grpc
import pytest
import yaml
from tritonclient.grpc import service_pb2, service_pb2_grpc

from gateway.cli.admin_client import connect
from gateway.operations import Moved
from router.errors import InvalidInput, LoadFailed, Unavailable
from router.ports import WriteBack
from router.stores import SqliteStore
from tests.e2e.conftest import UP, Gateway, start_gateway, wait_until
from tests.e2e.digits import production_version
from tests.e2e.load import SteadyLoad
from tests.e2e.test_registry_moves import image_input, others

ROUNDS = int(os.environ.get("STAGEGATE_ROUNDS", "2"))
"""How often the gateway is killed; more to look harder."""


def model_file(models: Path, model: str = "digits") -> dict[str, Any]:
    """What the registry says of a model, as somebody with an editor sees it."""
    found: dict[str, Any] = yaml.load((models / model / "model.yaml").read_text(), Loader=yaml.BaseLoader)
    return found


def set_champion(models: Path, version: str) -> None:
    """Name a version in the file, by hand."""
    path = models / "digits/model.yaml"
    document = model_file(models)
    document.setdefault("aliases", {})["champion"] = version
    beside = path.with_name(".model.yaml.new")
    beside.write_text(yaml.safe_dump(document))
    beside.replace(path)


@pytest.fixture(scope="module")
def gateway(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """A gateway whose default traffic goes by `@champion`."""
    folder = tmp_path_factory.mktemp("promote")
    models = Path(shutil.copytree(trained / "models", folder / "models"))
    set_champion(models, production_version(models))
    running = start_gateway(folder, "up", UP, models)
    running.cli("route", "set", "digits", "stable=@champion:100")
    yield running
    running.stop()


def test_promote_and_rollback_move_traffic_and_registry_under_load(gateway: Gateway) -> None:
    """No request fails, none meets a version out of turn, and the file says what answers."""
    old = production_version(gateway.models)
    new = others(old)
    with SteadyLoad(gateway.inference, image_input(gateway), threads=1) as load:
        wait_until("the old version answers", lambda: len(load.versions) > 20)
        told = gateway.cli(
            *("promote", "digits", new, "--to", "@champion", "--reason", "it is better", "--wait")
        ).stdout
        named = model_file(gateway.models)["aliases"]["champion"]
        wait_until("the new version answers", lambda: load.versions[-1] == new)
        count = len(load.versions)
        wait_until("it goes on", lambda: len(load.versions) > count + 20)
        back = gateway.cli("rollback", "digits", "--reason", "it is not", "--wait").stdout
        named_after = model_file(gateway.models)["aliases"]["champion"]
        count = len(load.versions)
        wait_until("the old version answers", lambda: len(load.versions) > count + 20)
    again = gateway.cli("rollback", "digits").stdout
    version = yaml.safe_load((gateway.models / f"digits/{new}/version.yaml").read_text())
    writes = gateway.json("writes", "--all")
    _, metrics = gateway.http("/metrics")

    assert load.failures == []
    turns = [v for at, v in enumerate(load.versions) if at == 0 or load.versions[at - 1] != v]
    assert turns == [old, new, old]
    assert (named, named_after) == (new, old)
    assert told.splitlines()[0] == f"digits: @champion goes from {old} to {new}"
    assert back.splitlines()[0] == f"digits: @champion goes from {new} to {old}"
    assert again == f"digits: @champion names {old} already\n"
    assert version["tags"]["stagegate.promoted_reason"] == "it is better"
    assert version["tags"]["stagegate.rolled_back_reason"] == "it is not"
    assert [(row["state"], row["version"]) for row in writes] == [("agreed", old), ("agreed", new)]
    assert 'stagegate_registry_writes_total{kind="alias",registry="local",result="success"} 2.0' in metrics
    assert 'stagegate_registry_writes_pending{registry="local"} 0.0' in metrics


def said_of_route(gateway: Gateway) -> str:
    """What `route get` shows."""
    return gateway.cli("route", "get", "digits").stdout


def test_a_registry_that_cannot_be_written_holds_nothing_up(gateway: Gateway) -> None:
    """Traffic follows the decision, people are told, and the file is written when it is whole again."""
    old = production_version(gateway.models)
    new = others(old)
    path = gateway.models / "digits/model.yaml"
    whole = path.read_text()
    with SteadyLoad(gateway.inference, image_input(gateway), new, threads=1) as load:
        wait_until("the new version is loaded", lambda: len(load.versions) > 3)
    with SteadyLoad(gateway.inference, image_input(gateway), threads=1) as load:
        wait_until("the old version answers", lambda: len(load.versions) > 20)
        path.write_text("aliases: {champion:")
        gateway.cli("promote", "digits", new, "--to", "@champion")
        count = len(load.versions)
        wait_until("the new version answers", lambda: load.versions[count + 5 :].count(new) > 20)
        wait_until("people are told", lambda: "is not written yet" in said_of_route(gateway))
        told = gateway.cli("writes").stdout
        path.write_text(whole)
        wait_until("the registry says the same", lambda: gateway.json("writes") == [], seconds=60)
        count = len(load.versions)
        wait_until("it goes on", lambda: len(load.versions) > count + 20)

    assert load.failures == []
    assert load.versions == sorted(load.versions, key=lambda version: version == new)
    assert "model.yaml" in told
    assert model_file(gateway.models)["aliases"]["champion"] == new


def test_a_name_that_is_new_gets_into_the_registry_when_its_version_is_loaded(gateway: Gateway) -> None:
    """Not while its files are gone: people are told, the promotion can be given up, and a name that the
    registry could not have is refused."""
    files = gateway.models / "digits/3/model.onnx"
    away = files.rename(gateway.folder / "model.onnx")
    with connect(gateway.admin, actor="test", timeout=10) as client:

        def promote(to: str = "@night") -> Moved:
            return client.promote("digits", "3", to, keep_existing=False, force=False, reason="")

        write = promote().write
        wait_until("its load failed", lambda: "there is no artifact at" in client.writes(0)[0].note)
        problems = gateway.cli("status").stdout
        with pytest.raises(InvalidInput, match=f"`stagegate writes clear {write}`"):
            client.rollback("digits", "@night", "", reason="")
        named = (client.clear_write(write, reason="").registry_names, model_file(gateway.models)["aliases"])
        away.rename(files)

        def promoted() -> bool:
            with contextlib.suppress(LoadFailed, Unavailable):
                return promote().after == "3"
            return False

        wait_until("its load may be tried again", promoted)
        wait_until("the registry has it", lambda: model_file(gateway.models)["aliases"].get("night") == "3")
        with pytest.raises(InvalidInput, match="129 characters"):
            promote("@" + "x" * 129)

    assert f"`stagegate writes clear {write}`" in " ".join(problems.split())
    assert named[0] == ""
    assert "night" not in named[1]


# === killed in the middle ===


class _Loader(service_pb2_grpc.GRPCInferenceServiceServicer):  # type: ignore[misc]
    """A Triton that loads whatever folder there is, at once."""

    def __init__(self) -> None:
        self.loaded: set[str] = set()

    def ServerReady(self, request: Any, context: Any) -> Any:  # noqa: N802
        return service_pb2.ServerReadyResponse(ready=True)

    def ServerMetadata(self, request: Any, context: Any) -> Any:  # noqa: N802
        return service_pb2.ServerMetadataResponse(name="triton", version="2.51.0")

    def RepositoryIndex(self, request: Any, context: Any) -> Any:  # noqa: N802
        answer = service_pb2.RepositoryIndexResponse()
        for name in sorted(self.loaded):
            answer.models.add(name=name, version="1", state="READY")
        return answer

    def RepositoryModelLoad(self, request: Any, context: Any) -> Any:  # noqa: N802
        self.loaded.add(request.model_name)
        return service_pb2.RepositoryModelLoadResponse()

    def RepositoryModelUnload(self, request: Any, context: Any) -> Any:  # noqa: N802
        self.loaded.discard(request.model_name)
        return service_pb2.RepositoryModelUnloadResponse()

    def ModelConfig(self, request: Any, context: Any) -> Any:  # noqa: N802
        return service_pb2.ModelConfigResponse()

    def ModelMetadata(self, request: Any, context: Any) -> Any:  # noqa: N802
        tensor = service_pb2.ModelMetadataResponse.TensorMetadata(name="x", datatype="FP32", shape=[-1])
        return service_pb2.ModelMetadataResponse(name=request.name, inputs=[tensor], outputs=[tensor])


@pytest.fixture
def triton(tmp_path: Path) -> Iterator[str]:
    """The configuration that names one."""
    server = grpc.server(futures.ThreadPoolExecutor(max_workers=8))
    service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(_Loader(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    (tmp_path / "repository").mkdir()
    backend = f'{{name: t0, grpc: "127.0.0.1:{port}", control: explicit, repository: ./repository}}'
    yield f"{UP}backends: [{backend}]\n"
    server.stop(0)


def move_until_killed(gateway: Gateway, seed: int) -> list[str]:
    """Promote to one version after the other; in the middle of that the gateway is killed.

    Returns:
        The versions that were asked for, in order; of the last the answer may have been lost.
    """
    chance = random.Random(seed)  # noqa: S311 - nothing secret
    asked: list[str] = []
    with connect(gateway.admin, actor="test", timeout=10) as client:
        deadline = time.monotonic() + chance.uniform(0.02, 0.3)
        while time.monotonic() < deadline:
            asked.append("12"[len(asked) % 2])
            client.promote("digits", asked[-1], "@champion", keep_existing=False, force=False, reason="")
            time.sleep(chance.uniform(0, 0.01))
        gateway.process.send_signal(signal.SIGKILL)
        asked.append("12"[len(asked) % 2])
        with contextlib.suppress(Unavailable):
            client.promote("digits", asked[-1], "@champion", keep_existing=False, force=False, reason="")
    gateway.process.wait(10)
    return asked


def nothing_is_open(gateway: Gateway) -> None:
    """Wait until every registry says what was decided."""
    wait_until("nothing is open", lambda: gateway.json("writes") == [])


async def test_a_gateway_that_is_killed_leaves_before_or_after_and_never_between(
    trained: Path, tmp_path: Path, triton: str
) -> None:
    """The file is whole and names what was asked for last or just before; the next one ends it."""
    models = Path(shutil.copytree(trained / "models", tmp_path / "models"))
    set_champion(models, "1")
    gateway = start_gateway(tmp_path, "gateway", triton, models)
    try:
        for turn in range(ROUNDS):
            asked = move_until_killed(gateway, turn)
            newest = await newest_decision(tmp_path / "state/stagegate.db")
            left = model_file(models)["aliases"]["champion"]
            assert newest.version in asked[-2:]
            assert left in (newest.version, *newest.before)
            if newest.state.ended:
                assert left == newest.version

            gateway = start_gateway(tmp_path, "gateway", triton, models)
            nothing_is_open(gateway)
            assert model_file(models)["aliases"]["champion"] == newest.version
            assert gateway.json("resolve", "digits@@champion")["version"] == newest.version
    finally:
        gateway.stop(signal.SIGKILL)


async def newest_decision(state: Path) -> WriteBack:
    """What was decided last, as a gateway that was killed left it."""
    store = await SqliteStore.open(state)
    writes = await store.write_backs(1)
    await store.close()
    return max(writes, key=lambda one: one.id)
