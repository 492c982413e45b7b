"""`model.yaml` and `version.yaml`: values, errors and complaints."""

from __future__ import annotations

import pytest

from router.model import Contract, TensorSpec, VersionId
from router.registries.manifest import Complaint, ModelManifest, Unreadable, read_model, read_version

DIGEST = "sha256:" + "0" * 64

VERSION = f"""
format: onnx
artifact: model.onnx
digest: {DIGEST}
contract:
  inputs: [{{name: x, datatype: FP32, shape: [-1, 64]}}]
  outputs:
  - {{name: label, datatype: INT64, shape: [-1]}}
metrics: {{accuracy: 0.97, loss: 1e-3}}
tags: {{team: risk}}
lineage: {{run: "7"}}
created: 2026-01-31T12:00:00Z
"""


def errors(text: str, kind: str = "version") -> list[tuple[int, str]]:
    """What makes a text unreadable."""
    with pytest.raises(Unreadable) as caught:
        read_version(text) if kind == "version" else read_model(text)
    return [(complaint.line, complaint.message) for complaint in caught.value.complaints]


def test_a_whole_version_is_read() -> None:
    """Every key of it."""
    manifest = read_version(VERSION)

    assert (manifest.format, manifest.artifact, manifest.digest) == ("onnx", "model.onnx", DIGEST)
    assert manifest.contract == Contract(
        (TensorSpec("x", "FP32", (-1, 64)),), (TensorSpec("label", "INT64", (-1,)),)
    )
    assert manifest.metrics == {"accuracy": 0.97, "loss": 0.001}
    assert (manifest.tags, manifest.lineage) == ({"team": "risk"}, {"run": "7"})
    assert manifest.created == 1769860800.0
    assert manifest.complaints == ()


def test_a_small_version_is_read() -> None:
    """Only format and artifact are needed; a URI is one."""
    manifest = read_version("format: onnx\nartifact: s3://bucket/a/../model\n")

    assert manifest.is_uri
    assert manifest.contract is None


def test_a_whole_model_is_read() -> None:
    """Stages in lower case, numbers as text."""
    manifest = read_model(
        'description: d\nstages: {Production: 1.10}\naliases: {champion: "3"}\ntags: {a: on}\n'
    )

    assert manifest == ModelManifest(
        "d", {"production": VersionId("1.10")}, {"champion": VersionId("3")}, {"a": "on"}
    )


def test_an_unknown_key_is_a_complaint_and_no_error() -> None:
    """With its line and the nearest known key."""
    assert read_model("stage: {}\n").complaints == (
        Complaint(1, "stage: unknown key, left out; did you mean 'stages'?"),
    )
    assert read_version("format: a\nartifact: b\ncolour: red\n").complaints[0].line == 3


def test_all_errors_of_a_version_come_at_once() -> None:
    """With line and path of each."""
    text = (
        "artifact: ../model.onnx\n"
        "digest: sha1:abc\n"
        "metrics: {accuracy: good}\n"
        "created: yesterday\n"
        "contract:\n"
        "  inputs:\n"
        "  - {name: x, datatype: FLOAT32, shape: [-1, 0, y]}\n"
        "  - {name: x, datatype: FP32}\n"
    )

    assert errors(text) == [
        (1, "format: is missing"),
        (
            1,
            "artifact: '../model.onnx' leaves the version's folder; give a path below it, or a URI such as file://",
        ),
        (2, "digest: 'sha1:abc' is not 'sha256:' and 64 lower-case hex digits"),
        (5, "contract.outputs: is missing"),
        (7, "contract.inputs[0].datatype: 'FLOAT32' is not a datatype; did you mean FP32?"),
        (7, "contract.inputs[0].shape[1]: '0' is not a size: 1 or more, or -1"),
        (7, "contract.inputs[0].shape[2]: 'y' is not a size: 1 or more, or -1"),
        (8, "contract.inputs[1].shape: is missing"),
        (6, "contract.inputs: tensor 'x' is given twice"),
        (3, "metrics.accuracy: 'good' is not a number"),
        (4, "created: 'yesterday' is not unix seconds or a time like 2026-01-31T12:00:00Z"),
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        ("# only a comment\n", "is empty"),
        ("stages:\n", "stages: has no value; a mapping is needed"),
        ("stages: production\n", "stages: is text, a mapping is needed"),
        ("stages: {production: [1]}\n", "stages.production: is a list, text is needed"),
        ("stages: {a: 1, A: 2}\n", "stages.A: is given twice"),
        ('aliases: {"@champion": "1"}\n', "write the name without '@'"),
        ('aliases: {champion: ""}\n', "aliases.champion: version id: reference '' is empty"),
        ("description:\n  a: b\n", "description: is a mapping, text is needed"),
        ("just words\n", "the file: is text, a mapping is needed"),
    ],
)
def test_a_model_that_cannot_be_trusted(text: str, message: str) -> None:
    """A key without a value is what a cut file looks like."""
    assert message in errors(text, "model")[0][1]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("format: a\nartifact: /etc/passwd\n", "leaves the version's folder"),
        ("format: a\nartifact: x/../../y\n", "leaves the version's folder"),
        ("format: a\nartifact: b\ncontract: none\n", "contract: is text, a mapping is needed"),
        ("format: a\nartifact: b\ncontract: {inputs: x, outputs: []}\n", "contract.inputs: is text, a list"),
        ("format: a\nartifact: b\ncreated: 2026-01-31 12:00:00\n", "created:"),
    ],
)
def test_a_version_that_cannot_be_trusted(text: str, message: str) -> None:
    """Paths that leave, contracts that are none, times without a zone."""
    assert message in errors(text)[0][1]
