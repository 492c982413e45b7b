"""What stands in a `ModelInferResponse`: tensors, checked against their shapes.

Triton has been seen to say OK and give no bytes, so an answer is only an answer once its bytes fit.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
from google.protobuf.message import DecodeError
from tritonclient.grpc import service_pb2

from router.errors import InvalidAnswer
from router.traffic.compare import Output

Numbers = npt.NDArray[np.generic]

_DTYPES: Mapping[str, str] = {
    "BOOL": "?",
    "INT8": "<i1",
    "INT16": "<i2",
    "INT32": "<i4",
    "INT64": "<i8",
    "UINT8": "<u1",
    "UINT16": "<u2",
    "UINT32": "<u4",
    "UINT64": "<u8",
    "FP16": "<f2",
    "BF16": "<u2",
    "FP32": "<f4",
    "FP64": "<f8",
}
"""How elements lie in raw contents; the upper half of an FP32 is a BF16."""

_TYPED: Mapping[str, str] = {
    "BOOL": "bool_contents",
    "INT8": "int_contents",
    "INT16": "int_contents",
    "INT32": "int_contents",
    "INT64": "int64_contents",
    "UINT8": "uint_contents",
    "UINT16": "uint_contents",
    "UINT32": "uint_contents",
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    "BYTES": "bytes_contents",
}

_WIDE: Mapping[str, str] = {
    "bool_contents": "?",
    "int_contents": "<i4",
    "int64_contents": "<i8",
    "uint_contents": "<u4",
    "uint64_contents": "<u8",
    "fp32_contents": "<f4",
    "fp64_contents": "<f8",
}
"""What typed contents hold, which is wider than some datatypes."""

_LENGTH = struct.Struct("<I")
_SHARED_MEMORY = "shared_memory_region"


def read_outputs(message: bytes) -> tuple[Output, ...]:
    """The tensors of a serialised `ModelInferResponse`, without those that went to shared memory.

    Raises:
        InvalidAnswer: it is none, or the bytes of an output do not fit its shape and datatype.
    """
    try:
        answer = service_pb2.ModelInferResponse.FromString(message)
    except DecodeError:
        raise InvalidAnswer("the answer is no ModelInferResponse") from None
    here = [output for output in answer.outputs if _SHARED_MEMORY not in output.parameters]
    raw = list(answer.raw_output_contents)
    if len(raw) == len(answer.outputs) and len(here) < len(raw):
        places = [at for at, output in enumerate(answer.outputs) if _SHARED_MEMORY not in output.parameters]
        raw = [raw[at] for at in places]
    if raw and len(raw) != len(here):
        raise InvalidAnswer(f"the answer has {len(here)} outputs and {len(raw)} raw contents")
    names = [output.name for output in here]
    if len(set(names)) < len(names):
        raise InvalidAnswer("the answer has two outputs of one name")
    return tuple(_output(output, raw[at] if raw else None) for at, output in enumerate(here))


def _output(output: service_pb2.ModelInferResponse.InferOutputTensor, raw: bytes | None) -> Output:
    name, datatype, shape = output.name, output.datatype, tuple(output.shape)
    if datatype != "BYTES" and datatype not in _DTYPES:
        raise InvalidAnswer(f"output {name!r} has the unknown datatype {datatype!r}")
    if any(size < 0 for size in shape):
        raise InvalidAnswer(f"output {name!r} has the shape {list(shape)}")
    count = math.prod(shape)
    values = (
        _typed(output) if raw is None else _texts(name, raw) if datatype == "BYTES" else _raw(output, raw)
    )
    if len(values) != count:
        raise InvalidAnswer(
            f"output {name!r} of shape {list(shape)} needs {count} elements and has {len(values)}"
        )
    return Output(name, datatype, shape, values)


def _raw(output: service_pb2.ModelInferResponse.InferOutputTensor, raw: bytes) -> Numbers:
    dtype = np.dtype(_DTYPES[output.datatype])
    if len(raw) % dtype.itemsize:
        raise InvalidAnswer(
            f"output {output.name!r} has {len(raw)} bytes, which is no number of {output.datatype}"
        )
    values = np.frombuffer(raw, dtype=dtype)
    if output.datatype == "BF16":
        return (values.astype(np.uint32) << 16).view(np.float32)
    return values


def _texts(name: str, raw: bytes) -> Sequence[bytes]:
    """Elements of a BYTES tensor: four bytes of length before each."""
    texts = []
    at = 0
    while at < len(raw):
        start = at + _LENGTH.size
        end = start + _LENGTH.unpack_from(raw, at)[0] if start <= len(raw) else start
        if end > len(raw):
            raise InvalidAnswer(f"output {name!r} ends inside an element")
        texts.append(raw[start:end])
        at = end
    return texts


def _typed(output: service_pb2.ModelInferResponse.InferOutputTensor) -> Numbers | Sequence[bytes]:
    field = _TYPED.get(output.datatype)
    if field is None:
        # FP16 and BF16 have no field of their own: without raw contents there is nothing.
        return ()
    values = getattr(output.contents, field)
    if output.datatype == "BYTES":
        return tuple(values)
    wide = np.array(values, dtype=_WIDE[field])
    numbers = wide.astype(_DTYPES[output.datatype])
    if not np.array_equal(numbers, wide, equal_nan=output.datatype.startswith("FP")):
        raise InvalidAnswer(f"output {output.name!r} has numbers beyond {output.datatype}")
    return numbers
