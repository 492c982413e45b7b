"""`MLmodel`, the file in which MLflow says what a model is: flavors, and a signature that is a contract.

The format: https://mlflow.org/docs/latest/ml/model/ (MLmodel, flavors, signatures).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from router.artifacts import bounded_yaml
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
        signature: as it is written; read when it is asked for, since many a flavor does without it.
    """

    flavors: Mapping[str, Mapping[str, Any]]
    signature: Mapping[str, Any] = field(default_factory=dict)

    @property
    def inputs(self) -> tuple[TensorSpec, ...] | None:
        """The signature's; None where it says nothing of them. Raises ArtifactError."""
        return _side(self.signature, "inputs")[0]

    @property
    def outputs(self) -> tuple[TensorSpec, ...] | None:
        """The signature's; None where it says nothing of them. Raises ArtifactError."""
        return _side(self.signature, "outputs")[0]

    @property
    def columns(self) -> bool:
        """Whether the inputs are columns of a table rather than tensors. Raises ArtifactError."""
        return _side(self.signature, "inputs")[1]

    @property
    def outputs_are_columns(self) -> bool:
        """The same of the outputs."""
        return _side(self.signature, "outputs")[1]

    def contract(self, inputs: str, outputs: str) -> Contract | None:
        """The signature as a contract; tensors without a name are called `inputs` or `outputs` with a number.

        None where either side is not known.

        Raises:
            ArtifactError: it has what the v2 protocol has not.
        """
        takes, gives = self.inputs, self.outputs
        if not takes or not gives:
            return None
        return Contract(_named(takes, inputs), _named(gives, outputs))


def read_mlmodel(text: str) -> MlModel:
    """Read the file's text.

    Raises:
        ArtifactError: it is no such file.
    """
    try:
        document = bounded_yaml.load(text)
    except ValueError as problem:
        raise ArtifactError(f"{FILE} is no YAML: {str(problem).partition(chr(10))[0][:200]}") from None
    flavors = document.get("flavors") if isinstance(document, dict) else None
    if not isinstance(flavors, dict) or not flavors:
        raise ArtifactError(f"{FILE} names no flavors")
    signature = document.get("signature") or {}
    if not isinstance(signature, dict):
        raise ArtifactError(f"{FILE}: signature is no mapping")
    return MlModel(
        {str(name): keys if isinstance(keys, dict) else {} for name, keys in flavors.items()}, signature
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
