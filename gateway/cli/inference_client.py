"""One inference request from KServe v2 JSON, sent over gRPC with the classes of tritonclient."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import grpc
import numpy as np
import numpy.typing as npt
from tritonclient.grpc import service_pb2, service_pb2_grpc
from tritonclient.utils import deserialize_bytes_tensor, serialize_byte_tensor, triton_to_np_dtype

from router.errors import InvalidInput, NotFound, NotSupported, StagegateError, Unavailable

_MAX_MESSAGE = 1 << 30
_TYPES = ("BOOL", "UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64")
_FLOATS = ("FP16", "FP32", "FP64", "BF16")
_KINDS: dict[grpc.StatusCode, type[StagegateError]] = {
    grpc.StatusCode.INVALID_ARGUMENT: InvalidInput,
    grpc.StatusCode.NOT_FOUND: NotFound,
    grpc.StatusCode.UNIMPLEMENTED: NotSupported,
    grpc.StatusCode.UNAVAILABLE: Unavailable,
    grpc.StatusCode.DEADLINE_EXCEEDED: Unavailable,
}


@dataclass(frozen=True, slots=True)
class Tensor:
    """One output; `data` is flat, in row-major order."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    data: list[object]


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back, and which version and arm it came from."""

    model: str
    version: str
    arm: str
    id: str
    outputs: tuple[Tensor, ...]

    def document(self) -> dict[str, object]:
        """The answer as KServe v2 JSON."""
        return {
            "model_name": self.model,
            "model_version": self.version,
            "id": self.id,
            "outputs": [
                {"name": o.name, "datatype": o.datatype, "shape": list(o.shape), "data": o.data}
                for o in self.outputs
            ],
        }


def read_request(text: bytes | str, model: str, reference: str) -> service_pb2.ModelInferRequest:
    """A request from KServe v2 JSON: `{"inputs": [{"name", "shape", "datatype", "data"}]}`.

    Args:
        text: the JSON; `id` and `outputs` (names wanted) are taken too.
        model: logical name, with or without `@ref`.
        reference: goes into `model_version`; "" for none.

    Raises:
        InvalidInput: it is no such request; names the input.
    """
    try:
        document = json.loads(text)
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise InvalidInput(f"the input is not JSON: {error}") from None
    if not isinstance(document, dict) or not isinstance(document.get("inputs"), list):
        raise InvalidInput(
            "the input is not a KServe v2 request",
            hint='{"inputs": [{"name": "x", "shape": [1, 64], "datatype": "FP32", "data": [...]}]}',
        )
    request = service_pb2.ModelInferRequest(
        model_name=model, model_version=reference, id=str(document.get("id", ""))
    )
    for index, item in enumerate(document["inputs"]):
        _add_input(request, index, item)
    for wanted in document.get("outputs") or ():
        name = wanted.get("name") if isinstance(wanted, dict) else None
        if not isinstance(name, str):
            raise InvalidInput("outputs: each needs a name")
        request.outputs.add(name=name)
    return request


def _add_input(request: service_pb2.ModelInferRequest, index: int, item: object) -> None:
    if not isinstance(item, Mapping):
        raise InvalidInput(f"inputs[{index}]: is not a mapping of name, shape, datatype, data")
    missing = [key for key in ("name", "shape", "datatype", "data") if key not in item]
    if missing:
        raise InvalidInput(f"inputs[{index}]: {', '.join(missing)} missing")
    name, shape, datatype = str(item["name"]), item["shape"], item["datatype"]
    where = f"inputs[{index}] {name!r}"
    if not isinstance(shape, list) or not all(isinstance(n, int) and n >= 0 for n in shape):
        raise InvalidInput(f"{where}: shape must be a list of whole numbers")
    if datatype not in (*_TYPES, *_FLOATS, "BYTES"):
        raise InvalidInput(f"{where}: datatype {datatype!r} is unknown", hint="such as FP32, INT64, BYTES")
    request.inputs.add(name=name, shape=shape, datatype=datatype)
    request.raw_input_contents.append(_encode(where, datatype, shape, item["data"]))


def _encode(where: str, datatype: str, shape: Sequence[int], data: object) -> bytes:
    """Triton's raw form of JSON data, nested or flat."""
    flat = _flatten(data)
    if len(flat) != math.prod(shape):
        raise InvalidInput(
            f"{where}: data holds {len(flat)} values, and shape {list(shape)} needs {math.prod(shape)}"
        )
    if datatype == "BYTES":
        texts = np.array([str(value).encode() for value in flat], dtype=np.object_)
        return b"" if not flat else bytes(serialize_byte_tensor(texts).item())
    _check_values(where, datatype, flat)
    try:
        if datatype == "BF16":
            return _to_bf16(np.array(flat, dtype=np.float32))
        return np.array(flat, dtype=triton_to_np_dtype(datatype)).tobytes()
    except (ValueError, TypeError, OverflowError) as error:
        raise InvalidInput(f"{where}: data does not fit {datatype}: {error}") from None


def _check_values(where: str, datatype: str, values: Sequence[object]) -> None:
    """NumPy would cut 1.5 to 1 and let 300 overflow an INT8; some of its releases do so silently."""
    if datatype in _FLOATS:
        return
    bounds = np.iinfo(triton_to_np_dtype(datatype)) if datatype != "BOOL" else None
    low, high = (bounds.min, bounds.max) if bounds else (0, 1)
    for value in values:
        if not isinstance(value, int) or not low <= value <= high:
            raise InvalidInput(f"{where}: data does not fit {datatype}: {value!r}")


def _to_bf16(values: npt.NDArray[np.float32]) -> bytes:
    """BF16 is the upper half of FP32's bits; rounded to nearest even. Not every tritonclient has this."""
    bits = values.view(np.uint32)
    rounded = bits + 0x7FFF + ((bits >> 16) & 1)
    upper = np.where(np.isnan(values), (bits >> 16) | 0x40, rounded >> 16)
    return upper.astype("<u2").tobytes()


def _from_bf16(raw: bytes) -> npt.NDArray[np.float32]:
    return (np.frombuffer(raw, dtype="<u2").astype(np.uint32) << 16).view(np.float32)


def _flatten(data: object) -> list[object]:
    if not isinstance(data, list):
        return [data]
    return [value for item in data for value in (_flatten(item) if isinstance(item, list) else (item,))]


def send(address: str, request: service_pb2.ModelInferRequest, timeout: float) -> Answer:
    """Send a request to an inference port.

    Args:
        address: `host:port`.
        timeout: seconds.

    Raises:
        StagegateError: what the gateway or the model answered instead, as its branch of the tree.
    """
    options = (
        ("grpc.enable_http_proxy", 0),
        ("grpc.max_receive_message_length", _MAX_MESSAGE),
        ("grpc.max_send_message_length", _MAX_MESSAGE),
    )
    with grpc.insecure_channel(address, options=options) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        try:
            response, call = stub.ModelInfer.with_call(request, timeout=timeout)
        except grpc.RpcError as error:
            code, text = error.code(), error.details()
            raise _KINDS.get(code, StagegateError)(f"{code.name}: {text}") from None
    metadata = dict(call.initial_metadata() or ())
    return _answer(response, metadata)


def _answer(response: service_pb2.ModelInferResponse, metadata: Mapping[str, str | bytes]) -> Answer:
    raw = list(response.raw_output_contents)
    outputs = []
    for index, output in enumerate(response.outputs):
        data = _decode(output.datatype, raw[index]) if index < len(raw) else _typed(output)
        outputs.append(Tensor(output.name, output.datatype, tuple(output.shape), data))
    return Answer(
        model=response.model_name,
        version=str(metadata.get("stagegate-version", response.model_version)),
        arm=str(metadata.get("stagegate-arm", "")),
        id=response.id,
        outputs=tuple(outputs),
    )


def _decode(datatype: str, raw: bytes) -> list[object]:
    if datatype == "BYTES":
        return [item.decode("utf-8", "backslashreplace") for item in deserialize_bytes_tensor(raw)]
    if datatype == "BF16":
        return list(_from_bf16(raw).tolist())
    return list(np.frombuffer(raw, dtype=triton_to_np_dtype(datatype)).tolist())


def _typed(output: service_pb2.ModelInferResponse.InferOutputTensor) -> list[object]:
    """Values from the typed fields, which a backend may use instead of raw bytes."""
    for _, values in output.contents.ListFields():
        return [
            item.decode("utf-8", "backslashreplace") if isinstance(item, bytes) else item for item in values
        ]
    return []
