"""MLmodel: flavors, and a signature as a contract."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.artifacts.mlmodel import path_inside, read_mlmodel
from router.errors import ArtifactError
from router.model import Contract, TensorSpec


def mlmodel(inputs: object = None, outputs: object = None) -> str:
    """The file with a signature, as MLflow writes it."""
    signature = {"inputs": inputs and json.dumps(inputs), "outputs": outputs and json.dumps(outputs)}
    return json.dumps({"flavors": {"onnx": {"data": "model.onnx"}}, "signature": signature})


def tensor(dtype: str, shape: list[int], name: str | None = None) -> dict[str, object]:
    """A tensor spec as MLflow writes it."""
    return {
        "type": "tensor",
        "tensor-spec": {"dtype": dtype, "shape": shape},
        **({"name": name} if name else {}),
    }


def test_tensors_become_tensors() -> None:
    """With their names, or with one that says which they are."""
    text = mlmodel([tensor("float32", [-1, 4], "x"), tensor("object", [-1])], [tensor("int64", [-1])])
    model = read_mlmodel(text)

    assert model.contract("in-", "out-") == Contract(
        (TensorSpec("x", "FP32", (-1, 4)), TensorSpec("in-1", "BYTES", (-1,))),
        (TensorSpec("out-0", "INT64", (-1,)),),
    )
    assert (model.columns, model.flavors["onnx"]["data"]) == (False, "model.onnx")


def test_columns_become_inputs() -> None:
    """One tensor of one column each."""
    columns = [{"type": "double", "name": "a", "required": True}, {"type": "string", "name": "b"}]
    model = read_mlmodel(mlmodel(columns, [{"type": "long"}]))

    assert (model.columns, model.outputs_are_columns) == (True, True)
    assert model.inputs == (TensorSpec("a", "FP64", (-1, 1)), TensorSpec("b", "BYTES", (-1, 1)))
    assert model.outputs == (TensorSpec("", "INT64", (-1, 1)),)


def test_half_a_signature_is_no_contract() -> None:
    """Nor is none."""
    assert read_mlmodel(mlmodel([tensor("float32", [1])])).contract("a", "b") is None
    assert read_mlmodel("flavors: {onnx: {}}\n").contract("a", "b") is None


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("flavors: {a: [", "MLmodel is no YAML"),
        ("a: 1", "MLmodel names no flavors"),
        ("- a", "MLmodel names no flavors"),
        ("flavors: {a: {}}\nsignature: text", "signature is no mapping"),
        ("flavors: {a: {}}\nsignature: {inputs: '{'}", "signature.inputs is no JSON"),
        ("flavors: {a: {}}\nsignature: {inputs: '{}x'}", "signature.inputs is no JSON"),
        ("flavors: {a: {}}\nsignature: {inputs: '{\"a\": 1}'}", "signature.inputs is no list"),
        (mlmodel([{"type": "datetime", "name": "when"}]), "'when' is of type 'datetime'"),
        (mlmodel([tensor("complex64", [1])]), "of type 'complex64'"),
        (mlmodel([tensor("float32", [0])]), r"shape \[0\]"),
        (mlmodel([{"type": "tensor"}]), "shape None"),
        ("flavors: {a: !!python/object/apply:os.system [true]}", "MLmodel is no YAML"),
    ],
)
def test_what_cannot_be_is_named(text: str, said: str) -> None:
    """And nothing in it is run."""
    with pytest.raises(ArtifactError, match=said):
        read_mlmodel(text).contract("a", "b")


@given(st.text())
def test_any_text_is_read_or_refused(text: str) -> None:
    """By an error of ours."""
    with contextlib.suppress(ArtifactError):
        read_mlmodel("flavors: {a: {}}\nsignature:\n  inputs: " + text).contract("a", "b")


@pytest.mark.parametrize("path", ["/etc/passwd", "../x", "a/../../x", "", None, ".", "a\0b", "out", "gone"])
def test_a_path_that_leaves_is_refused(tmp_path: Path, path: object) -> None:
    """Through a link too; one that is there and stays is taken."""
    folder = tmp_path / "model"
    folder.mkdir()
    (tmp_path / "x").write_text("secret")
    (folder / "out").symlink_to(tmp_path / "x")
    (folder / "data").write_text("")

    with pytest.raises(ArtifactError, match="MLmodel: data"):
        path_inside(folder, path, "data")
    assert path_inside(folder, "data", "data") == folder / "data"


def doubled(times: int, *, merge: bool = False) -> str:
    """A list, or a mapping, that holds the one before ten times, again and again."""
    first = "{x: 1}" if merge else "[x]"
    lines = [f"a0: &a0 {first}"]
    for at in range(1, times):
        same = ", ".join([f"*a{at - 1}"] * 10)
        lines.append(f"a{at}: &a{at} " + (f"{{<<: [{same}]}}" if merge else f"[{same}]"))
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize(
    "text",
    [
        doubled(9) + "flavors: {onnx: {data: *a8}}",
        doubled(9, merge=True) + "flavors: {onnx: {<<: *a8}}",
        "flavors: &f {onnx: *f}",
        "flavors: {onnx: {data: &d [*d]}}",
        "a: " + "[" * 100_000,
        "a: " + "{a: " * 1_000,
        "flavors:\n" + "".join(f" a{at}: x\n" for at in range(200_000)),
    ],
)
def test_a_file_that_grows_without_end_is_refused(text: str) -> None:
    """Before anything is made of it: a kilobyte would fill the memory."""
    with pytest.raises(ArtifactError, match="MLmodel is no YAML: it"):
        read_mlmodel(text)


def test_references_that_stay_small_are_read() -> None:
    """As whoever writes YAML makes of what is there twice."""
    model = read_mlmodel(
        "a: &a {data: m.onnx}\nflavors: {onnx: *a, other: {<<: *a, b: [1, 2.5, 2001-01-01]}}"
    )
    assert model.flavors["onnx"] == {"data": "m.onnx"}
    assert model.flavors["other"]["data"] == "m.onnx"
