"""The registry moves and traffic follows: after the load, without a failed request, never into a fault."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from tritonclient.grpc import service_pb2_grpc
from tritonclient.utils import InferenceServerException

from tests.e2e.conftest import UP, Gateway, start_gateway, wait_until
from tests.e2e.digits import inputs, move_stage, production_version
from tests.e2e.load import SteadyLoad


@pytest.fixture
def gateway(trained: Path, tmp_path: Path) -> Iterator[Gateway]:
    """A gateway of this test's own, on a registry that it may change."""
    models = Path(shutil.copytree(trained / "models", tmp_path / "models"))
    running = start_gateway(tmp_path, "up", UP, models)
    yield running
    running.stop()


def image_input(gateway: Gateway) -> str:
    """The name of the one input of digits."""
    return str(gateway.client().get_model_metadata("digits").inputs[0].name)


def others(version: str) -> str:
    """Another version of digits."""
    return "1" if version != "1" else "2"


def forget_aliases(models: Path, model: str) -> None:
    """Let nothing but stages name versions."""
    import yaml

    path = models / model / "model.yaml"
    document = yaml.load(path.read_text(), Loader=yaml.BaseLoader)
    beside = path.with_name(".model.yaml.new")
    beside.write_text(json.dumps({**document, "aliases": {}}))
    beside.replace(path)


def break_version(models: Path, model: str, source: str, version: str) -> None:
    """Register a version whose ONNX file is no model at all, with a digest that matches it."""
    folder = models / model / version
    shutil.copytree(models / model / source, folder)
    (folder / "model.onnx").write_bytes(b"this is not an ONNX file")
    document = folder / "version.yaml"
    kept = [line for line in document.read_text().splitlines() if not line.startswith("digest")]
    document.write_text("\n".join(kept) + "\n")


def test_moving_the_stage_moves_the_traffic_without_a_failed_request(gateway: Gateway) -> None:
    """Under load, every request is answered, first by the old version, then by the new, never back."""
    old = production_version(gateway.models)
    new = others(old)
    forget_aliases(gateway.models, "digits")
    with SteadyLoad(gateway.inference, image_input(gateway), "production", threads=1) as load:
        wait_until("the old version answers", lambda: len(load.versions) > 20)
        move_stage(gateway.models, "production", new)
        wait_until("the new version answers", lambda: new in load.versions)
        count = len(load.versions)
        wait_until("it goes on", lambda: len(load.versions) > count + 50)
    rows = {row["version"]: row for row in gateway.json("versions", "digits")["versions"]}

    assert load.failures == []
    assert rows[old]["state"] == "ready"
    assert "stays loaded for" in rows[old]["kept"]
    first_new = load.versions.index(new)
    assert set(load.versions[:first_new]) == {old}
    assert set(load.versions[first_new:]) == {new}


def test_a_stage_that_moves_to_a_broken_version_leaves_the_old_one_serving(gateway: Gateway) -> None:
    """A version that cannot load never takes traffic; people are told why; asking for it says so too."""
    old = production_version(gateway.models)
    break_version(gateway.models, "digits", old, "9")
    name = image_input(gateway)
    with SteadyLoad(gateway.inference, name, "production") as load:
        wait_until("the old version answers", lambda: len(load.versions) > 20)
        move_stage(gateway.models, "production", "9")
        wait_until("the failed load is told", lambda: "9" in gateway.said() and "failed" in gateway.said())
        count = len(load.versions)
        wait_until("the old version goes on", lambda: len(load.versions) > count + 50)
    metadata = gateway.client().get_model_metadata("digits", old)
    with pytest.raises(InferenceServerException) as caught:
        gateway.client().infer("digits", inputs(metadata), model_version="9")

    assert load.failures == []
    assert set(load.versions) == {old}
    assert caught.value.status() == str(grpc.StatusCode.UNAVAILABLE)
    assert "9" in gateway.cli("versions", "digits").stdout


def test_half_a_registry_file_changes_nothing_that_serves(gateway: Gateway) -> None:
    """A model.yaml cut in the middle is told by name; the last good reading goes on; mending it works."""
    path = gateway.models / "digits/model.yaml"
    whole = path.read_text()
    with SteadyLoad(gateway.inference, image_input(gateway)) as load:
        wait_until("answers", lambda: len(load.versions) > 20)
        path.write_text(whole[: len(whole) // 2] + "\n  - {")
        wait_until("the file is named", lambda: "model.yaml" in gateway.said())
        count = len(load.versions)
        wait_until("answers go on", lambda: len(load.versions) > count + 50)
        path.write_text(whole)

    assert load.failures == []
    assert len(set(load.versions)) == 1


def test_weights_change_under_load_without_a_failed_request(gateway: Gateway) -> None:
    """Twenty changes of a split, each in force when the command returns, and not one request fails."""
    with SteadyLoad(gateway.inference, image_input(gateway)) as load:
        for turn in range(10):
            gateway.cli("route", "set", "digits", f"stable=2:{90 - turn}", f"canary=1:{10 + turn}")
            wait_until("the canary is seen", lambda: "1" in load.versions[-500:])
        gateway.cli("route", "set", "digits", "stable=1:100")
        wait_until("only version 1", lambda: set(load.versions[-30:]) == {"1"})

    assert load.failures == []


def test_many_clients_that_meet_a_cold_version_cause_one_load(gateway: Gateway) -> None:
    """Everybody waits while one load runs, then all get their answer."""
    name = image_input(gateway)
    request = SteadyLoad(gateway.inference, name, "1").request()
    with grpc.insecure_channel(gateway.inference) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        waiting = [stub.ModelInfer.future(request, timeout=60) for _ in range(50)]
        versions = {call.result().model_version for call in waiting}
    _, text = gateway.http("/metrics")
    labels = 'backend="local-0",model="digits",result="{}",version="1"'

    assert versions == {"1"}
    assert f"stagegate_model_loads_total{{{labels.format('success')}}} 1.0" in text
    assert f"stagegate_model_loads_total{{{labels.format('failure')}}} 0.0" in text


def test_a_route_file_with_mistakes_changes_nothing(gateway: Gateway) -> None:
    """Weights that do not sum to 100, an unknown arm key: refused whole, and the old route stays."""
    gateway.cli("route", "set", "digits", "stable=2:100")
    before = gateway.json("route", "get", "digits")["route"]
    bad = gateway.folder / "route.yaml"
    bad.write_text(
        "model: digits\narms:\n  - {name: stable, version: '2', weight: 90}\n  - {name: x, wait: 1}\n"
    )
    refused = gateway.cli("route", "apply", str(bad), check=False)

    assert refused.returncode == 2
    assert "weight" in refused.stderr
    assert gateway.json("route", "get", "digits")["route"] == before


def test_a_route_survives_a_restart(gateway: Gateway) -> None:
    """Desired state is in the store: a gateway that comes back has the same weights."""
    gateway.cli("route", "set", "digits", "stable=production:70", "canary=1:30", "--reason", "try it")
    gateway.stop()
    again = start_gateway(gateway.folder, "up", UP, gateway.models)
    try:
        arms = again.json("route", "get", "digits")["arms"]
    finally:
        again.stop()

    assert [(arm["name"], arm["reference"], float(arm["weight"])) for arm in arms] == [
        ("stable", "production", 70.0),
        ("canary", "1", 30.0),
    ]
