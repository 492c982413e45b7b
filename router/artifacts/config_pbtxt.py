"""Writes a version's `config.pbtxt`: what Triton needs to know to serve it."""

from __future__ import annotations

from collections.abc import Mapping

from router.errors import ArtifactError
from router.model import Contract, TensorSpec, TritonName

_BYTES = "TYPE_STRING"


def config_pbtxt(
    name: TritonName, contract: Contract, parameters: Mapping[str, str], instances: int = 1
) -> str:
    """A ModelConfig in text form for Triton's Python backend.

    The batch dimension stays an ordinary one (`max_batch_size: 0`), so that the shapes that clients see in
    ModelMetadata are those of the contract.
    """
    lines = [f"name: {quoted(name)}", 'backend: "python"', "max_batch_size: 0"]
    lines += [_tensor("input", spec) for spec in contract.inputs]
    lines += [_tensor("output", spec) for spec in contract.outputs]
    lines.append(f"instance_group [{{ kind: KIND_CPU count: {instances} }}]")
    lines += [
        f"parameters {{ key: {quoted(key)} value {{ string_value: {quoted(value)} }} }}"
        for key, value in sorted(parameters.items())
    ]
    return "\n".join(lines) + "\n"


def _tensor(kind: str, spec: TensorSpec) -> str:
    if not spec.shape:
        raise ArtifactError(
            f"{kind} {spec.name!r} has no dimensions", hint="Triton serves tensors of one dimension or more"
        )
    dims = ", ".join(str(dimension) for dimension in spec.shape)
    data_type = _BYTES if spec.datatype == "BYTES" else f"TYPE_{spec.datatype}"
    return f"{kind} [{{ name: {quoted(spec.name)} data_type: {data_type} dims: [ {dims} ] }}]"


def quoted(text: str) -> str:
    """A string as protobuf's text format wants it, whatever is in it."""
    escaped = "".join(
        f"\\{byte:03o}" if byte < 0x20 or byte > 0x7E or byte in b'"\\' else chr(byte)  # noqa: PLR2004
        for byte in text.encode()
    )
    return f'"{escaped}"'
