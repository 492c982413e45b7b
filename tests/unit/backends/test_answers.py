"""What stands in an answer, and what is none."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
import pytest
from tritonclient.grpc import service_pb2
from tritonclient.utils import serialize_byte_tensor

from router.backends.answers import read_outputs
from router.errors import InvalidAnswer


def answer(
    *outputs: tuple[str, str, list[int]], raw: list[bytes] | None = None
) -> service_pb2.ModelInferResponse:
    """An answer of outputs: name, datatype, shape."""
    message = service_pb2.ModelInferResponse(model_name="m", raw_output_contents=raw or [])
    for name, datatype, shape in outputs:
        message.outputs.add(name=name, datatype=datatype, shape=shape)
    return message


def values(message: service_pb2.ModelInferResponse) -> list[Any]:
    """The elements of its first output."""
    return list(read_outputs(message.SerializeToString())[0].values)


@pytest.mark.parametrize(
    ("datatype", "raw", "expected"),
    [
        ("BOOL", b"\x01\x00", [True, False]),
        ("INT8", b"\x01\xff", [1, -1]),
        ("INT16", struct.pack("<2h", 1, -2), [1, -2]),
        ("INT32", struct.pack("<2i", 1, -2), [1, -2]),
        ("INT64", struct.pack("<2q", 1, -(2**63)), [1, -(2**63)]),
        ("UINT8", b"\x01\xff", [1, 255]),
        ("UINT16", struct.pack("<2H", 1, 65_535), [1, 65_535]),
        ("UINT32", struct.pack("<2I", 1, 2**32 - 1), [1, 2**32 - 1]),
        ("UINT64", struct.pack("<2Q", 1, 2**64 - 1), [1, 2**64 - 1]),
        ("FP16", np.array([1.5, -2], np.float16).tobytes(), [1.5, -2]),
        ("BF16", struct.pack("<2H", 0x3FC0, 0xC000), [1.5, -2]),
        ("FP32", struct.pack("<2f", 1.5, -2), [1.5, -2]),
        ("FP64", struct.pack("<2d", 1.5, -2), [1.5, -2]),
        ("BYTES", serialize_byte_tensor(np.array([b"cat", b""], object)).item(), [b"cat", b""]),
    ],
)
def test_raw_contents_of_every_datatype(datatype: str, raw: bytes, expected: list[Any]) -> None:
    """As Triton's own client writes them."""
    assert values(answer(("y", datatype, [2]), raw=[raw])) == expected


@pytest.mark.parametrize(
    ("datatype", "field", "elements"),
    [
        ("BOOL", "bool_contents", [True, False]),
        ("INT8", "int_contents", [1, -128]),
        ("INT64", "int64_contents", [1, -(2**63)]),
        ("UINT16", "uint_contents", [1, 65_535]),
        ("UINT64", "uint64_contents", [1, 2**64 - 1]),
        ("FP32", "fp32_contents", [1.5, float("inf")]),
        ("FP64", "fp64_contents", [1.5, -2.0]),
        ("BYTES", "bytes_contents", [b"cat", b""]),
    ],
)
def test_typed_contents(datatype: str, field: str, elements: list[Any]) -> None:
    """As a backend may give them instead."""
    message = answer(("y", datatype, [2]))
    getattr(message.outputs[0].contents, field).extend(elements)

    assert values(message) == elements


def test_outputs_in_shared_memory_are_left_out() -> None:
    """Their bytes are not in the answer, whether or not their place among the raw contents is."""
    for raw in ([b"\x01"], [b"", b"\x01"]):
        message = answer(("far", "INT8", [9]), ("near", "INT8", [1]), raw=raw)
        message.outputs[0].parameters["shared_memory_region"].string_param = "region"

        assert [output.name for output in read_outputs(message.SerializeToString())] == ["near"]


@pytest.mark.parametrize(
    ("message", "complaint"),
    [
        (answer(("y", "FP32", [1, 10]), raw=[b""]), "needs 10 elements and has 0"),
        (answer(("y", "FP32", [2]), raw=[b"\0" * 4]), "needs 2 elements and has 1"),
        (answer(("y", "FP32", [1]), raw=[b"\0" * 8]), "needs 1 elements and has 2"),
        (answer(("y", "FP32", [1]), raw=[b"\0" * 5]), "has 5 bytes, which is no number of FP32"),
        (answer(("y", "FP32", [1])), "needs 1 elements and has 0"),
        (answer(("y", "BF16", [1])), "needs 1 elements and has 0"),
        (answer(("y", "INT8", [-1]), raw=[b""]), "has the shape"),
        (answer(("y", "TEXT", [1]), raw=[b""]), "unknown datatype 'TEXT'"),
        (answer(("y", "INT8", [2**62, 2**62]), raw=[b"1"]), "has 1"),
        (answer(("y", "BYTES", [1]), raw=[b"\x09\0\0\0abc"]), "ends inside an element"),
        (answer(("y", "BYTES", [1]), raw=[b"\x09\0"]), "ends inside an element"),
        (answer(("y", "BYTES", [2]), raw=[b"\0\0\0\0"]), "needs 2 elements and has 1"),
        (answer(("y", "INT8", [1]), ("z", "INT8", [1]), raw=[b"1"]), "2 outputs and 1 raw contents"),
        (answer(("y", "INT8", [1]), ("y", "INT8", [1]), raw=[b"1", b"2"]), "two outputs of one name"),
    ],
)
def test_bytes_that_do_not_fit_are_no_answer(message: service_pb2.ModelInferResponse, complaint: str) -> None:
    """OK is not proof of an answer."""
    with pytest.raises(InvalidAnswer) as caught:
        read_outputs(message.SerializeToString())

    assert complaint in str(caught.value)


def test_typed_numbers_beyond_their_datatype_are_no_answer() -> None:
    """The field is wider than the datatype."""
    message = answer(("y", "INT8", [1]))
    message.outputs[0].contents.int_contents.append(300)

    with pytest.raises(InvalidAnswer, match="numbers beyond INT8"):
        read_outputs(message.SerializeToString())


def test_what_is_no_message_is_no_answer() -> None:
    """Whatever bytes come."""
    with pytest.raises(InvalidAnswer, match="no ModelInferResponse"):
        read_outputs(b"\xff\xff\xff")
