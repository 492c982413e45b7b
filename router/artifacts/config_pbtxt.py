"""`config.pbtxt`: what Triton needs to know to serve a model; written from a contract, or read and checked.

The messages are Triton's own (`inference.ModelConfig`), read and written by protobuf's text format. Field
numbers and rules: model_config.proto and model_configuration.md of Triton.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from google.protobuf import text_format
from google.protobuf.message import Message
from tritonclient.grpc.model_config_pb2 import DataType, ModelConfig, ModelInstanceGroup

from router.errors import ArtifactError
from router.model import Contract, TensorSpec, TritonName

SETTING = "triton."
"""How tags of a version begin that set a field of its configuration."""

RUNTIME_TAG = "triton.runtime"
"""The tag that names a runtime of `router.artifacts.runtimes`."""

_SETTABLE = ("max_batch_size", "instance_group", "dynamic_batching", "response_cache")
"""Fields that a tag may set: none of them can make Triton run other code."""

_NAME_LINE = re.compile(
    r"(?m)^[ \t]*name[ \t]*:[ \t]*(?:\"(?:[^\"\\]|\\.)*\"|'(?:[^'\\]|\\.)*')[ \t]*(?:#.*)?$"
)


def generated(contract: Contract | None, tags: Mapping[str, str], **fields: str) -> ModelConfig:
    """A configuration from a contract, with the settings in a version's tags.

    The batch dimension stays an ordinary one (`max_batch_size: 0`) unless a tag says otherwise, so the
    shapes that clients see are those of the contract.

    Args:
        contract: None leaves inputs and outputs to Triton, which finds them in the file.
        fields: `name`, `backend`, `platform`, `default_model_filename`.

    Raises:
        ArtifactError: a tensor that Triton cannot have, or a tag that sets nothing, or wrongly.
    """
    config = settings(tags)
    config.MergeFrom(ModelConfig(**fields))
    batched = config.max_batch_size > 0
    if contract is not None:
        complete(config, contract)
    if config.HasField("dynamic_batching") and not batched:
        raise ArtifactError(
            "triton.dynamic_batching is set without triton.max_batch_size",
            hint="say how many rows a batch may have, such as triton.max_batch_size: 8",
        )
    return config


def complete(config: ModelConfig, contract: Contract) -> None:
    """Add the inputs, and the outputs, of a contract to a configuration that says nothing of them.

    Raises:
        ArtifactError: a tensor that Triton cannot have.
    """
    batched = config.max_batch_size > 0
    for spec in () if config.input else contract.inputs:
        config.input.add(name=spec.name, data_type=_data_type("input", spec), dims=_dims(spec, batched))
    for spec in () if config.output else contract.outputs:
        config.output.add(name=spec.name, data_type=_data_type("output", spec), dims=_dims(spec, batched))


def settings(tags: Mapping[str, str]) -> ModelConfig:
    """The fields that tags such as `triton.instance_group` set. Raises ArtifactError."""
    config = ModelConfig()
    for tag, text in sorted(tags.items()):
        if not tag.startswith(SETTING) or tag == RUNTIME_TAG:
            continue
        field = tag.removeprefix(SETTING)
        if field not in _SETTABLE:
            known = ", ".join(f"{SETTING}{one}" for one in _SETTABLE)
            raise ArtifactError(f"tag {tag[:80]!r} sets nothing", hint=f"tags: {known}, {RUNTIME_TAG}")
        try:
            one = text_format.Parse(f"{field}: {text}", ModelConfig())
        except text_format.ParseError as problem:
            raise ArtifactError(f"tag {tag!r}: {_first_line(problem)}") from None
        if any(found.name != field for found, _ in one.ListFields()):
            raise ArtifactError(f"tag {tag!r} sets more than {field}")
        config.MergeFrom(one)
    return config


def _data_type(kind: str, spec: TensorSpec) -> DataType.ValueType:
    if not spec.shape:
        raise ArtifactError(
            f"{kind} {spec.name!r} has no dimensions", hint="Triton serves tensors of one dimension or more"
        )
    name = "TYPE_STRING" if spec.datatype == "BYTES" else f"TYPE_{spec.datatype}"
    if name not in DataType.keys() or name == "TYPE_INVALID":  # noqa: SIM118 -- no mapping
        raise ArtifactError(
            f"{kind} {spec.name!r} has datatype {spec.datatype[:40]!r}, which Triton does not have",
            hint=f"datatypes: {', '.join(_datatype(number) for number in DataType.values() if number)}",
        )
    return DataType.Value(name)


def _dims(spec: TensorSpec, batched: bool) -> tuple[int, ...]:
    if not batched:
        return spec.shape
    if len(spec.shape) < 2 or spec.shape[0] != -1:  # noqa: PLR2004 -- the batch, and one more
        raise ArtifactError(
            f"{spec.name!r} of shape {list(spec.shape)} cannot be batched",
            hint="with triton.max_batch_size every shape begins with -1 and goes on after it",
        )
    return spec.shape[1:]


def _datatype(number: int) -> str:
    name = DataType.Name(number).removeprefix("TYPE_")
    return "BYTES" if name == "STRING" else name


def on_cpu(config: ModelConfig) -> None:
    """One instance on the CPU, unless it says otherwise: what runs in Python here uses no GPU."""
    if not config.instance_group:
        config.instance_group.add(kind=ModelInstanceGroup.KIND_CPU, count=1)


def rendered(config: ModelConfig) -> str:
    """As text."""
    return str(text_format.MessageToString(config))


def read(text: str) -> ModelConfig:
    """A configuration that somebody wrote.

    A field that is not known is an error, as it is for Triton, which does not say which one it is.

    Raises:
        ArtifactError: it is none, with line and column.
    """
    try:
        return text_format.Parse(text, ModelConfig())
    except (text_format.ParseError, RecursionError) as problem:
        said = _first_line(problem)
        hint = "if a newer Triton has that field, install the tritonclient of its release"
        raise ArtifactError(f"config.pbtxt: {said}", hint=hint if "has no field" in said else "") from None


def contract_of(config: ModelConfig) -> Contract | None:
    """Inputs and outputs as clients see them, the batch dimension first where there is one.

    None where the configuration leaves them to Triton.

    Raises:
        ArtifactError: a tensor without a name, datatype or dimensions, or with an impossible dimension.
    """
    if not config.output:
        return None
    batch = (-1,) if config.max_batch_size > 0 else ()
    return Contract(
        tuple(_spec("input", tensor, batch) for tensor in config.input),
        tuple(_spec("output", tensor, batch) for tensor in config.output),
    )


def _spec(kind: str, tensor: Message, batch: tuple[int, ...]) -> TensorSpec:
    name, number, dims = tensor.name, tensor.data_type, tuple(tensor.dims)  # type: ignore[attr-defined]
    if not name or not number or not dims:
        lacks = "a name" if not name else "a data_type" if not number else "dims"
        raise ArtifactError(f"config.pbtxt: {kind} {name!r} lacks {lacks}")
    if any(size < 1 and size != -1 for size in dims):
        raise ArtifactError(f"config.pbtxt: {kind} {name!r}: dims {list(dims)} are not sizes, or -1")
    return TensorSpec(name, _datatype(number), batch + dims)


def renamed(text: str, name: TritonName) -> str:
    """A config.pbtxt under another model name; only the top-level name is a line of its own at depth 0."""
    depth, kept = 0, []
    for line in text.splitlines():
        if not (depth == 0 and _NAME_LINE.match(line)):
            kept.append(line)
        code = re.sub(r"\"(?:[^\"\\]|\\.)*\"|'(?:[^'\\]|\\.)*'|#.*", "", line)
        depth += code.count("{") + code.count("[") - code.count("}") - code.count("]")
    return "\n".join([f"name: {quoted(name)}", *kept]) + "\n"


def quoted(text: str) -> str:
    """A string as protobuf's text format wants it, whatever is in it."""
    escaped = "".join(
        f"\\{byte:03o}" if byte < 0x20 or byte > 0x7E or byte in b'"\\' else chr(byte)  # noqa: PLR2004
        for byte in text.encode()
    )
    return f'"{escaped}"'


def _first_line(problem: Exception) -> str:
    return str(problem).partition("\n")[0][:300]
