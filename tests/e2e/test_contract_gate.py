"""A version that its clients could not read takes no traffic, whichever way is tried; on a real Triton."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import tritonclient.grpc as triton

from tests.e2e.conftest import UP, Gateway, start_gateway, wait_until
from tests.fakes.triton_models import write_model

BROKEN = "version 2 breaks the contract of version 1: output 'y' (FP32 [-1]) is gone; there are 'z'"


@pytest.fixture
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """A model in production whose registry says nothing of contracts; version 2 gives `z` instead of `y`."""
    folder = tmp_path_factory.mktemp("gate")
    for version in ("1", "2"):
        made = folder / "models/m" / version
        made.mkdir(parents=True)
        written = write_model(made, "files")
        if version == "2":
            for path in (written / "config.pbtxt", written / "1/model.py"):
                path.write_text(path.read_text().replace('"y"', '"z"'))
        (made / "version.yaml").write_text("format: triton\nartifact: files\n")
    name(folder / "models/m", "1")
    gateway = start_gateway(folder, "up", UP, folder / "models")
    yield gateway
    gateway.stop()


def name(model: Path, version: str) -> None:
    """Put a version into production, by hand in the registry's file."""
    path = model / "model.yaml"
    beside = path.with_name(".model.yaml.new")
    beside.write_text(f'stages: {{production: "{version}"}}\n')
    beside.replace(path)


def outputs(gateway: Gateway, version: str = "") -> list[str]:
    """What an answer is made of."""
    asked = triton.InferInput("x", [1], "FP32")
    asked.set_data_from_numpy(np.ones(1, np.float32))
    with gateway.client() as client:
        return [one.name for one in client.infer("m", [asked], version).get_response().outputs]


def test_every_way_in_is_gated_and_the_way_back_is_open(gateway: Gateway) -> None:
    """The contracts are what Triton told when the versions were loaded."""
    assert (outputs(gateway), outputs(gateway, "2")) == (["y"], ["z"])

    refused = [
        gateway.cli("promote", "m", "2", "--to", "production", check=False),
        gateway.cli("route", "set", "m", "stable=1:90", "canary=2:10", check=False),
        gateway.cli("promote", "m", "2", "--to", "production", "--force", check=False),
    ]
    assert all(done.returncode for done in refused)
    said = [" ".join((done.stdout + done.stderr).split()) for done in refused]
    assert BROKEN.partition(": ")[2] in said[0]
    assert "--force" in said[0]
    assert BROKEN in said[1]
    assert "reason" in said[2]

    name(gateway.models / "m", "2")
    wait_until("the registry's move is seen", lambda: BROKEN in gateway.cli("versions", "m").stdout)
    assert outputs(gateway) == ["y"]

    name(gateway.models / "m", "1")
    gateway.cli("promote", "m", "2", "--to", "production", "--force", "--reason", "both sides know", "--wait")
    wait_until("version 2 answers", lambda: outputs(gateway) == ["z"])
    gateway.cli("rollback", "m", "--wait")
    wait_until("version 1 answers", lambda: outputs(gateway) == ["y"])
