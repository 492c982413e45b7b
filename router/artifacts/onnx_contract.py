"""Inputs and outputs of an ONNX file that was registered without a contract."""

from __future__ import annotations

from pathlib import Path

from router.errors import ArtifactError
from router.model import Contract, TensorSpec

_DATATYPES = {
    "tensor(bool)": "BOOL",
    "tensor(uint8)": "UINT8",
    "tensor(uint16)": "UINT16",
    "tensor(uint32)": "UINT32",
    "tensor(uint64)": "UINT64",
    "tensor(int8)": "INT8",
    "tensor(int16)": "INT16",
    "tensor(int32)": "INT32",
    "tensor(int64)": "INT64",
    "tensor(float16)": "FP16",
    "tensor(float)": "FP32",
    "tensor(double)": "FP64",
    "tensor(bfloat16)": "BF16",
    "tensor(string)": "BYTES",
}
"""onnxruntime's names of tensor types to those of the v2 inference protocol."""


def contract_of_onnx(path: Path) -> Contract:
    """Read inputs and outputs from the file itself.

    Raises:
        ArtifactError: it cannot be read, onnxruntime is not installed, or a type has no v2 name.
    """
    try:
        import onnxruntime  # noqa: PLC0415 - only needed where a contract is missing, and heavy
    except ImportError:
        raise ArtifactError(
            f"{path.name}: registered without a contract, and onnxruntime is not installed to look inside",
            hint="give version.yaml a contract, or install stagegate[triton]",
        ) from None
    options = onnxruntime.SessionOptions()
    # Otherwise it computes all that is constant, and a hundred bytes become gigabytes.
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as problem:  # onnxruntime's own errors have no common base
        raise ArtifactError(f"{path.name} is not an ONNX file that onnxruntime reads: {problem}") from None
    return Contract(
        inputs=tuple(_spec(path, tensor) for tensor in session.get_inputs()),
        outputs=tuple(_spec(path, tensor) for tensor in session.get_outputs()),
    )


def _spec(path: Path, tensor: object) -> TensorSpec:
    name, kind = str(getattr(tensor, "name", "")), str(getattr(tensor, "type", ""))
    datatype = _DATATYPES.get(kind)
    if datatype is None:
        raise ArtifactError(
            f"{path.name}: {name} is of type {kind}, which the v2 protocol does not have",
            hint="name the inputs and outputs that are tensors in a contract, or write the file without the "
            "others (skl2onnx: options={'zipmap': False})",
        )
    shape = tuple(one if isinstance(one, int) and one > 0 else -1 for one in getattr(tensor, "shape", ()))
    return TensorSpec(name, datatype, shape or (1,))
