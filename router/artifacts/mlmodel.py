"""`MLmodel`, the file in which MLflow says what a model is: flavors, and a signature that is a contract.

The format: https://mlflow.org/docs/latest/ml/model/ (MLmodel, flavors, signatures).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import yaml

from router.errors import ArtifactError
from router.model import Contract, TensorSpec

FILE = "MLmodel"

_TENSOR_TYPES = {
    **{f"int{bits}": f"INT{bits}" for bits in (8, 16, 32, 64)},
    **{f"uint{bits}": f"UINT{bits}" for bits in (8, 16, 32, 64)},
    **{f"float{bits}": f"FP{bits}" for bits in (16, 32, 64)},
    **{"bool": "BOOL", "str": "BYTES", "object": "BYTES", "bytes": "BYTES"},
}
"""numpy's names, as tensor specs have them, to those of the v2 inference protocol."""

_COLUMN_TYPES = {
    **{"boolean": "BOOL", "integer": "INT32", "long": "INT64", "float": "FP32", "double": "FP64"},
    **{"string": "BYTES", "binary": "BYTES"},
}
"""MLflow's names of column types to those of the v2 inference protocol."""

_COLUMN_SHAPE = (-1, 1)


@dataclass(frozen=True, slots=True)
class MlModel:
    """What the file says.

    Attributes:
        flavors: each with its own keys.
        inputs, outputs: the signature's; None where it says nothing of them.
        columns, outputs_are_columns: whether a side is columns of a table rather than tensors.
        uuid: of the model, or "".
    """

    flavors: Mapping[str, Mapping[str, Any]]
    inputs: tuple[TensorSpec, ...] | None = None
    outputs: tuple[TensorSpec, ...] | None = None
    columns: bool = False
    outputs_are_columns: bool = False
    uuid: str = ""

    def contract(self, inputs: str, outputs: str) -> Contract | None:
        """The signature as a contract; tensors without a name are called `inputs` or `outputs` with a number.

        None where either side is not known.
        """
        if not self.inputs or not self.outputs:
            return None
        return Contract(_named(self.inputs, inputs), _named(self.outputs, outputs))


def read_mlmodel(text: str) -> MlModel:
    """Read the file's text.

    Raises:
        ArtifactError: it is no such file, or its signature has what the v2 protocol has not.
    """
    try:
        document = yaml.safe_load(text)
    except (yaml.YAMLError, RecursionError, ValueError) as problem:
        raise ArtifactError(f"{FILE} is no YAML: {str(problem).partition(chr(10))[0][:200]}") from None
    flavors = document.get("flavors") if isinstance(document, dict) else None
    if not isinstance(flavors, dict) or not flavors:
        raise ArtifactError(f"{FILE} names no flavors")
    signature = document.get("signature") or {}
    if not isinstance(signature, dict):
        raise ArtifactError(f"{FILE}: signature is no mapping")
    inputs, columns = _side(signature, "inputs")
    outputs, outputs_are_columns = _side(signature, "outputs")
    return MlModel(
        {str(name): keys if isinstance(keys, dict) else {} for name, keys in flavors.items()},
        inputs,
        outputs,
        columns,
        outputs_are_columns,
        str(document.get("model_uuid") or ""),
    )


def path_inside(folder: Path, text: object, what: str) -> Path:
    """A path that MLmodel names, which must be there and stay in its folder. Raises ArtifactError."""
    parts = PurePosixPath(str(text)).parts if isinstance(text, str) else ()
    if not parts or ".." in parts or parts[0] == "/" or "\0" in str(text):
        raise ArtifactError(f"{FILE}: {what} {str(text)[:80]!r} is no path inside the model")
    path = folder.joinpath(*parts)
    if not path.resolve().is_relative_to(folder.resolve()) or not path.exists():
        raise ArtifactError(f"{FILE}: {what} {str(text)[:80]!r} is not there")
    return path


def _side(signature: Mapping[str, Any], side: str) -> tuple[tuple[TensorSpec, ...] | None, bool]:
    text = signature.get(side)
    if not text:
        return None, False
    try:
        fields = json.loads(text) if isinstance(text, str) else text
    except (ValueError, RecursionError):
        raise ArtifactError(f"{FILE}: signature.{side} is no JSON") from None
    if not isinstance(fields, list) or not all(isinstance(one, dict) for one in fields):
        raise ArtifactError(f"{FILE}: signature.{side} is no list of tensors or columns")
    columns = any(one.get("type") != "tensor" for one in fields)
    return tuple(_spec(side, one) for one in fields), columns


def _spec(side: str, one: Mapping[str, Any]) -> TensorSpec:
    name = str(one.get("name") or "")
    if one.get("type") != "tensor":
        return TensorSpec(name, _datatype(side, name, one.get("type"), _COLUMN_TYPES), _COLUMN_SHAPE)
    inner = one.get("tensor-spec")
    inner = inner if isinstance(inner, dict) else {}
    shape = inner.get("shape")
    if not isinstance(shape, list) or not all(
        isinstance(size, int) and (size == -1 or size > 0) for size in shape
    ):
        raise ArtifactError(f"{FILE}: signature.{side} {name!r}: shape {shape!r:.80} is none")
    return TensorSpec(name, _datatype(side, name, inner.get("dtype"), _TENSOR_TYPES), tuple(shape) or (1,))


def _datatype(side: str, name: str, kind: object, known: Mapping[str, str]) -> str:
    word = str(kind)
    if word.startswith(("<U", "|S")):
        word = "str"
    found = known.get(word)
    if found is None:
        raise ArtifactError(
            f"{FILE}: signature.{side} {name!r} is of type {str(kind)[:80]!r}, which the v2 protocol lacks"
        )
    return found


def _named(specs: Sequence[TensorSpec], prefix: str) -> tuple[TensorSpec, ...]:
    return tuple(
        spec if spec.name else TensorSpec(f"{prefix}{at}", spec.datatype, spec.shape)
        for at, spec in enumerate(specs)
    )
