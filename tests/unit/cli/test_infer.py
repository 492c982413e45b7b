"""`stagegate infer`: a request from a file, an answer as a table or as JSON."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import grpc
import pytest

from tests.fakes.inference import EchoInference
from tests.unit.cli.conftest import Terminal


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A request of one float tensor."""
    path = tmp_path / "request.json"
    path.write_text(json.dumps({"id": "7", "inputs": [tensor("FP32", [1.5, 2.5])]}))
    return path


def tensor(datatype: str, data: list[Any], shape: list[int] | None = None) -> dict[str, Any]:
    """An input called x."""
    return {"name": "x", "shape": shape or [len(data)], "datatype": datatype, "data": data}


async def test_the_answer_is_a_table(terminal: Terminal, file: Path) -> None:
    """With the version and the arm that answered; the inference port is asked of the admin API."""
    outcome = await terminal.run("infer", "digits", "--input", str(file))

    facts = dict(line.split(None, 1) for line in outcome.out.splitlines()[:3])
    assert outcome.code == 0
    assert facts == {"model": "digits", "version": "2", "arm": "canary"}
    assert "1.5, 2.5" in outcome.out


async def test_the_answer_is_json(terminal: Terminal, file: Path) -> None:
    """In the shape of KServe v2, and the arm beside it."""
    outcome = await terminal.run("infer", "digits", "--input", str(file), "--json")

    answer = outcome.json
    assert answer.pop("milliseconds") >= 0
    assert answer == {
        "model_name": "digits",
        "model_version": "2",
        "id": "7",
        "outputs": [{"name": "x", "datatype": "FP32", "shape": [2], "data": [1.5, 2.5]}],
        "arm": "canary",
    }


@pytest.mark.parametrize("reference", ["production", "@champion", "7"])
async def test_a_reference_travels_as_the_version(
    terminal: Terminal, inference: EchoInference, file: Path, reference: str
) -> None:
    """As any stock client sends it."""
    await terminal.run("infer", "digits", "--at", reference, "--input", str(file))

    request = inference.requests[0]
    assert (request.model_name, request.model_version) == ("digits", reference)


@pytest.mark.parametrize(
    ("datatype", "data"),
    [
        ("BOOL", [True, False]),
        ("UINT8", [0, 255]),
        ("UINT16", [0, 65_535]),
        ("UINT32", [0, 2**32 - 1]),
        ("UINT64", [0, 2**64 - 1]),
        ("INT8", [-128, 127]),
        ("INT16", [-(2**15), 1]),
        ("INT32", [-(2**31), 1]),
        ("INT64", [-(2**63), 1]),
        ("FP16", [0.5, -2.0]),
        ("FP32", [0.5, -2.0]),
        ("FP64", [0.1, -2.0]),
        ("BF16", [0.5, -2.0]),
        ("BYTES", ["grüße", ""]),
    ],
)
async def test_every_datatype_comes_back_as_it_went(
    terminal: Terminal, tmp_path: Path, datatype: str, data: list[Any]
) -> None:
    """In Triton's raw form on the wire."""
    path = tmp_path / "r.json"
    path.write_text(json.dumps({"inputs": [tensor(datatype, data)]}))

    outcome = await terminal.run("infer", "digits", "-i", str(path), "--json")

    assert outcome.json["outputs"][0]["data"] == data


async def test_nested_data_is_taken(terminal: Terminal, tmp_path: Path) -> None:
    """Rows, as people write them."""
    path = tmp_path / "r.json"
    path.write_text(json.dumps({"inputs": [tensor("INT64", [[1, 2], [3, 4]], [2, 2])]}))

    outcome = await terminal.run("infer", "digits", "-i", str(path), "--json")

    assert outcome.json["outputs"][0]["data"] == [1, 2, 3, 4]


async def test_an_answer_in_typed_fields_is_read(
    terminal: Terminal, inference: EchoInference, file: Path
) -> None:
    """A backend may answer either way."""
    inference.typed = True

    outcome = await terminal.run("infer", "digits", "--input", str(file), "--json")

    assert outcome.json["outputs"][0]["data"] == [1.0, 2.0]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "the input is not JSON"),
        ("[]", "the input is not a KServe v2 request"),
        ('{"inputs": [{"name": "x"}]}', "inputs[0]: shape, datatype, data missing"),
        (json.dumps({"inputs": [tensor("FP33", [1])]}), "datatype 'FP33' is unknown"),
        (
            json.dumps({"inputs": [tensor("FP32", [1], [2, 2])]}),
            "data holds 1 values, and shape [2, 2] needs 4",
        ),
        (json.dumps({"inputs": [tensor("INT8", [300])]}), "data does not fit INT8"),
        (json.dumps({"inputs": [tensor("INT64", [1.5])]}), "data does not fit INT64: 1.5"),
        (json.dumps({"inputs": [tensor("BOOL", ["true"])]}), "data does not fit BOOL: 'true'"),
        (json.dumps({"inputs": [tensor("FP32", ["a"])]}), "data does not fit FP32"),
        (json.dumps({"inputs": [tensor("FP32", [1], [-1])]}), "shape must be"),
    ],
)
async def test_a_wrong_request_is_not_sent(
    terminal: Terminal, inference: EchoInference, tmp_path: Path, text: str, message: str
) -> None:
    """The mistake is named here, before a model sees it."""
    path = tmp_path / "r.json"
    path.write_text(text)

    outcome = await terminal.run("infer", "digits", "-i", str(path))

    assert outcome.code == 2
    assert message in outcome.err
    assert inference.requests == []


async def test_a_file_that_is_not_there_is_named(terminal: Terminal) -> None:
    """Exit code 2."""
    outcome = await terminal.run("infer", "digits", "-i", "/nowhere/r.json")

    assert (outcome.code, outcome.err) == (
        2,
        "error: --input /nowhere/r.json cannot be read: No such file or directory\n",
    )


@pytest.mark.parametrize(
    ("code", "exit_code"),
    [
        (grpc.StatusCode.NOT_FOUND, 3),
        (grpc.StatusCode.UNAVAILABLE, 5),
        (grpc.StatusCode.INVALID_ARGUMENT, 2),
        (grpc.StatusCode.INTERNAL, 1),
    ],
)
async def test_a_refusal_keeps_its_words(
    terminal: Terminal, inference: EchoInference, file: Path, code: grpc.StatusCode, exit_code: int
) -> None:
    """The status name, and the text as the gateway gave it."""
    inference.refuse = (code, "Request for unknown model: 'digits' is not found")

    outcome = await terminal.run("infer", "digits", "--input", str(file))

    assert outcome.code == exit_code
    assert outcome.err == f"error: {code.name}: Request for unknown model: 'digits' is not found\n"


async def test_the_inference_port_can_be_given(terminal: Terminal, file: Path) -> None:
    """Then no admin API is needed."""
    outcome = await terminal.run_alone(
        "infer", "digits", "--input", str(file), "--inference", "127.0.0.1:1", "--server", "127.0.0.1:2"
    )

    assert outcome.code == 5
    assert "UNAVAILABLE" in outcome.err
