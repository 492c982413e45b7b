"""An ensemble behind the gateway: versions side by side, and no name of a Triton in what clients see."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Iterator

import numpy as np
import pytest
import tritonclient.grpc as triton

from tests.e2e.conftest import UP, Gateway, start_gateway
from tests.fakes.triton_models import write_ensemble


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """`stagegate up` on a model with two versions: one doubles twice, the other three times."""
    folder = tmp_path_factory.mktemp("up")
    for version, parts in (("1", ("first", "second")), ("2", ("first", "second", "third"))):
        made = folder / "models/scorer" / version
        made.mkdir(parents=True)
        write_ensemble(made / "files", dict.fromkeys(parts, "pass"))
        (made / "version.yaml").write_text("format: ensemble\nartifact: files\n")
    gateway = start_gateway(folder, "up", UP, folder / "models")
    yield gateway
    gateway.stop()


def answer(client: triton.InferenceServerClient, version: str) -> list[float]:
    """What a version makes of 1 and 2."""
    asked = triton.InferInput("a", [2], "FP32")
    asked.set_data_from_numpy(np.array([1, 2], np.float32))
    return list(client.infer("scorer", [asked], version).as_numpy("b"))


def test_versions_with_parts_of_one_name_are_served_side_by_side(gateway: Gateway) -> None:
    """Each has its own copies."""
    with gateway.client() as client:
        assert answer(client, "1") == [4, 8]
        assert answer(client, "2") == [8, 16]
        assert answer(client, "1") == [4, 8]


def test_clients_see_the_names_of_the_artifact(gateway: Gateway) -> None:
    """In metadata and in the steps of the configuration, by gRPC and by REST."""
    with gateway.client() as client:
        answer(client, "1")
        assert client.get_model_metadata("scorer", "1").name == "scorer"
        config = client.get_model_config("scorer", "1").config
    url = f"http://{gateway.rest}/v2/models/scorer/versions/1/config"
    with urllib.request.urlopen(url, timeout=10) as told:
        rest = json.load(told)

    steps = [step.model_name for step in config.ensemble_scheduling.step]
    assert (config.name, steps) == ("scorer", ["first", "second"])
    assert rest["name"] == "scorer"
    assert [step["model_name"] for step in rest["ensemble_scheduling"]["step"]] == ["first", "second"]
