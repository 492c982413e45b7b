"""A stock Triton client against `stagegate up`: names, answers, metadata, weights."""

from __future__ import annotations

import asyncio
import json
import queue
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton
import tritonclient.grpc.aio as triton_aio
from tritonclient.grpc import service_pb2, service_pb2_grpc
from tritonclient.utils import InferenceServerException

from tests.e2e.conftest import Gateway
from tests.e2e.digits import IMAGES, inputs


@pytest.fixture(scope="module")
def client(up: Gateway) -> triton.InferenceServerClient:
    """A stock client."""
    return up.client()


@pytest.fixture(scope="module")
def registry(up: Gateway) -> dict[str, Any]:
    """What the registry says of digits: stages and aliases to version ids."""
    import yaml

    text = (up.models / "digits/model.yaml").read_text()
    return dict(yaml.load(text, Loader=yaml.BaseLoader))


@pytest.mark.parametrize(
    ("name", "version", "want"),
    [
        ("digits", "", ("stages", "production")),
        ("digits", "production", ("stages", "production")),
        ("digits", "Staging", ("stages", "staging")),
        ("digits", "@challenger", ("aliases", "challenger")),
        ("digits", "challenger", ("aliases", "challenger")),
        ("digits", "1", "1"),
        ("digits@production", "", ("stages", "production")),
        ("digits@@champion", "", ("aliases", "champion")),
        ("digits@1", "1", "1"),
    ],
)
def test_a_reference_is_answered_by_the_version_it_names(
    client: triton.InferenceServerClient, registry: dict[str, Any], name: str, version: str, want: Any
) -> None:
    """The answer carries the bare logical name and the concrete version of the registry."""
    expected = want if isinstance(want, str) else registry[want[0]][want[1]]
    metadata = client.get_model_metadata("digits")

    answer = client.infer(name, inputs(metadata, 3), model_version=version, request_id="q1")

    assert (answer.get_response().model_name, answer.get_response().model_version) == ("digits", expected)
    assert answer.get_response().id == "q1"
    outputs = [answer.as_numpy(output.name) for output in answer.get_response().outputs]
    assert all(output.shape[0] == 3 for output in outputs)


def test_the_good_version_reads_digits(client: triton.InferenceServerClient) -> None:
    """Production is right on far more of the images than guessing would be."""
    from sklearn.datasets import load_digits

    metadata = client.get_model_metadata("digits")
    answer = client.infer("digits", inputs(metadata, len(IMAGES)), model_version="production")
    labels = next(
        value
        for output in answer.get_response().outputs
        if (value := answer.as_numpy(output.name)).dtype == np.int64
    )

    assert np.mean(labels.reshape(-1) == load_digits().target) > 0.9


async def test_the_aio_client_gets_the_same_answer(up: Gateway, client: triton.InferenceServerClient) -> None:
    """grpc.aio clients see what synchronous ones see."""
    async with triton_aio.InferenceServerClient(up.inference) as aio:
        metadata = await aio.get_model_metadata("digits")
        answer = await aio.infer("digits", inputs(metadata), model_version="production")
    direct = client.infer("digits", inputs(metadata), model_version="production")

    assert answer.get_response().raw_output_contents == direct.get_response().raw_output_contents


def test_a_stream_may_name_several_models(up: Gateway, client: triton.InferenceServerClient) -> None:
    """Each message of a ModelStreamInfer call is routed by its own name, in order for each model."""
    answers: queue.Queue[tuple[Any, Any]] = queue.Queue()
    metadata = client.get_model_metadata("digits")
    streaming = up.client()
    streaming.start_stream(lambda result, error: answers.put((result, error)))
    for number, version in enumerate(["production", "1", "production"]):
        streaming.async_stream_infer("digits", inputs(metadata), version, request_id=str(number))
    got = [answers.get(timeout=30) for _ in range(3)]
    streaming.stop_stream()
    streaming.close()

    assert [error for _, error in got] == [None] * 3
    versions = {r.get_response().id: r.get_response().model_version for r, _ in got}
    assert versions["0"] == versions["2"] != versions["1"] == "1"
    assert {r.get_response().model_name for r, _ in got} == {"digits"}


def test_a_stream_tells_an_unknown_model_and_goes_on(
    up: Gateway, client: triton.InferenceServerClient
) -> None:
    """As on a Triton, a message that cannot be served gets an error answer; the stream stays open."""
    answers: queue.Queue[tuple[Any, Any]] = queue.Queue()
    metadata = client.get_model_metadata("digits")
    streaming = up.client()
    streaming.start_stream(lambda result, error: answers.put((result, error)))
    streaming.async_stream_infer("nope", inputs(metadata))
    _, error = answers.get(timeout=30)
    streaming.async_stream_infer("digits", inputs(metadata))
    result, second = answers.get(timeout=30)
    streaming.stop_stream()
    streaming.close()

    assert "Request for unknown model: 'nope' is not found" in str(error)
    assert second is None
    assert result.get_response().model_name == "digits"


def test_metadata_and_config_carry_the_logical_name(client: triton.InferenceServerClient) -> None:
    """Nothing that a client reads shows the name that the version has inside Triton."""
    metadata = client.get_model_metadata("digits", "1")
    config = client.get_model_config("digits", "1").config

    assert (metadata.name, list(metadata.versions)) == ("digits", ["1"])
    assert config.name == "digits"
    assert [i.name for i in config.input] == [i.name for i in metadata.inputs]


def test_the_server_looks_like_a_triton(client: triton.InferenceServerClient) -> None:
    """Live, ready, name, and the readiness of models as a Triton tells it."""
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.get_server_metadata().name == "triton"
    assert client.is_model_ready("digits")
    assert client.is_model_ready("digits", "production")
    assert not client.is_model_ready("digits", "77")
    assert not client.is_model_ready("nope")


def test_the_index_lists_logical_models(client: triton.InferenceServerClient) -> None:
    """RepositoryIndex shows what clients may name, not the folders of Triton."""
    index = client.get_model_repository_index()

    assert {"digits", "diabetes"} <= {entry.name for entry in index.models}
    assert {entry.version for entry in index.models if entry.name == "digits"} >= {"1", "2", "3"}
    assert all(entry.name in {"digits", "diabetes"} for entry in index.models)


@pytest.mark.parametrize(
    ("name", "version", "code", "says"),
    [
        ("nope", "", grpc.StatusCode.NOT_FOUND, "Request for unknown model: 'nope' is not found"),
        ("digit", "", grpc.StatusCode.NOT_FOUND, "digits"),
        ("digits", "77", grpc.StatusCode.NOT_FOUND, "'digits' version 77 is not found"),
        ("digits", "@nobody", grpc.StatusCode.NOT_FOUND, "nobody"),
        ("digits", "qa", grpc.StatusCode.NOT_FOUND, "qa"),
        ("digits@1", "2", grpc.StatusCode.INVALID_ARGUMENT, "1"),
        ("digits\x00", "", grpc.StatusCode.INVALID_ARGUMENT, ""),
        ("", "", grpc.StatusCode.INVALID_ARGUMENT, ""),
        ("a/b", "", grpc.StatusCode.INVALID_ARGUMENT, ""),
        ("x" * 300, "", grpc.StatusCode.INVALID_ARGUMENT, ""),
    ],
)
def test_a_name_that_names_nothing_is_told_apart_from_a_malformed_one(
    client: triton.InferenceServerClient, name: str, version: str, code: grpc.StatusCode, says: str
) -> None:
    """Well formed but unknown is NOT_FOUND in Triton's words; malformed is INVALID_ARGUMENT."""
    metadata = client.get_model_metadata("digits")
    with pytest.raises(InferenceServerException) as caught:
        client.infer(name, inputs(metadata), model_version=version)

    assert caught.value.status() == str(code)
    assert says in caught.value.message()


def test_calls_that_change_the_backend_name_the_key_that_opens_them(
    client: triton.InferenceServerClient,
) -> None:
    """RepositoryModelLoad is not for clients, and the refusal says where an operator may allow it."""
    with pytest.raises(InferenceServerException) as caught:
        client.load_model("digits")

    assert caught.value.status() == str(grpc.StatusCode.UNIMPLEMENTED)
    assert "protocol" in caught.value.message()
    assert "allow" in caught.value.message()


def test_triton_s_own_errors_come_through_with_the_logical_name(
    client: triton.InferenceServerClient,
) -> None:
    """A request without inputs is refused by Triton; its text names the model as the client does."""
    with pytest.raises(InferenceServerException) as caught:
        client.infer("digits", [], model_version="1")

    assert caught.value.status() == str(grpc.StatusCode.INVALID_ARGUMENT)
    assert "'digits'" in caught.value.message()


def test_health_and_reflection_are_served(up: Gateway) -> None:
    """grpcurl and Kubernetes probes need no extra files: raw calls of both services answer."""
    with grpc.insecure_channel(up.inference) as channel:
        check = channel.unary_unary("/grpc.health.v1.Health/Check", None, None)
        assert check(b"") == b"\x08\x01"
        reflect = channel.stream_stream(
            "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo", None, None
        )
        answer = next(iter(reflect(iter([b"\x3a\x01*"]))))
    assert b"inference.GRPCInferenceService" in answer


def test_answers_say_which_version_and_arm_gave_them(up: Gateway, registry: dict[str, Any]) -> None:
    """Initial metadata carries version, arm and a request token; a version by name is `pinned`."""
    request = service_pb2.ModelInferRequest(model_name="digits")
    spec = up.client().get_model_metadata("digits").inputs[0]
    request.inputs.add(name=spec.name, datatype=spec.datatype, shape=[1, 64])
    request.raw_input_contents.append(IMAGES[0].tobytes())
    with grpc.insecure_channel(up.inference) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        _, call = stub.ModelInfer.with_call(request)
        first = dict(call.initial_metadata())
        request.model_version = "1"
        _, call = stub.ModelInfer.with_call(request)
        second = dict(call.initial_metadata())

    assert (first["stagegate-version"], first["stagegate-arm"]) == (
        registry["stages"]["production"],
        "stable",
    )
    assert (second["stagegate-version"], second["stagegate-arm"]) == ("1", "pinned")
    assert first["stagegate-request"] != second["stagegate-request"]


async def test_weights_hold_over_five_thousand_requests(up: Gateway) -> None:
    """90/10 gives 90/10 within four standard errors, and setting it fails no request."""
    up.cli("route", "set", "diabetes", "stable=1:90", "canary=2:10", "--reason", "test")
    request = service_pb2.ModelInferRequest(model_name="diabetes")
    async with triton_aio.InferenceServerClient(up.inference) as aio:
        spec = (await aio.get_model_metadata("diabetes")).inputs[0]
    request.inputs.add(name=spec.name, datatype=spec.datatype, shape=[1, spec.shape[-1]])
    request.raw_input_contents.append(np.zeros(spec.shape[-1], np.float32).tobytes())
    total, seen = 5000, {"1": 0, "2": 0}
    async with grpc.aio.insecure_channel(up.inference) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)

        async def ask(count: int) -> None:
            for _ in range(count):
                seen[(await stub.ModelInfer(request)).model_version] += 1

        await asyncio.gather(*(ask(total // 20) for _ in range(20)))
    up.cli("route", "delete", "diabetes")

    error = (0.1 * 0.9 / total) ** 0.5
    assert sum(seen.values()) == total
    assert abs(seen["2"] / total - 0.1) <= 4 * error


def test_the_command_line_answers_for_people_and_programs(up: Gateway, registry: dict[str, Any]) -> None:
    """models, versions, resolve, status and infer work, as tables and as JSON."""
    production = registry["stages"]["production"]

    assert "digits" in up.cli("models").stdout
    assert production in up.cli("versions", "digits").stdout
    resolved = up.json("resolve", "digits@production")
    assert (resolved["version"], resolved["arm"]) == (production, "stable")
    assert up.json("resolve", "digits@1")["arm"] == "pinned"
    assert up.cli("resolve", "digits@nobody", check=False).returncode == 3
    assert "local" in up.cli("status").stdout
    question = up.folder / "question.json"
    spec = up.client().get_model_metadata("digits").inputs[0]
    tensor = {
        "name": spec.name,
        "datatype": spec.datatype,
        "shape": [1, 64],
        "data": IMAGES[0].astype(float).tolist(),
    }
    question.write_text(json.dumps({"inputs": [tensor]}))
    answered = up.cli("infer", "digits", "--at", "production", "--input", str(question))
    assert production in answered.stdout


def test_metrics_name_the_versions_that_answered(up: Gateway, client: triton.InferenceServerClient) -> None:
    """/metrics counts by model, version, arm and status name; live and ready answer 200."""
    metadata = client.get_model_metadata("digits")
    client.infer("digits", inputs(metadata), model_version="1")
    status, text = up.http("/metrics")

    assert status == 200
    assert 'stagegate_requests_total{arm="pinned",code="OK",model="digits",version="1"}' in text
    assert "stagegate_request_duration_seconds_bucket" in text
    assert up.http("/livez")[0] == up.http("/readyz")[0] == 200


def test_a_request_file_is_shipped_for_the_first_try(trained: Path) -> None:
    """The example that the README sends exists beside the models."""
    assert list(trained.rglob("*.json"))
