"""What reading and comparing answers promises, whatever stands in them."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from tritonclient.grpc import service_pb2

from router.backends.answers import read_outputs
from router.errors import InvalidAnswer
from router.model import Tolerance
from router.traffic.compare import Output, compare

DATATYPES = {
    "BOOL": np.bool_,
    "INT8": np.int8,
    "INT16": np.int16,
    "INT32": np.int32,
    "INT64": np.int64,
    "UINT8": np.uint8,
    "UINT16": np.uint16,
    "UINT32": np.uint32,
    "UINT64": np.uint64,
    "FP16": np.float16,
    "FP32": np.float32,
    "FP64": np.float64,
}
NONE = Tolerance(0.0, 0.0)


@st.composite
def tensors(draw: st.DrawFn) -> tuple[str, Any]:
    """A datatype and an array of it: any shape, NaN and infinities included."""
    datatype = draw(st.sampled_from(sorted(DATATYPES)))
    shapes = arrays.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4)
    return datatype, draw(arrays.arrays(DATATYPES[datatype], shapes))


def message(tensor: tuple[str, Any]) -> service_pb2.ModelInferResponse:
    """An answer with that one output, raw."""
    datatype, values = tensor
    answer = service_pb2.ModelInferResponse(raw_output_contents=[values.tobytes()])
    answer.outputs.add(name="y", datatype=datatype, shape=values.shape)
    return answer


@given(tensors())
def test_an_answer_agrees_with_itself(tensor: tuple[str, Any]) -> None:
    """Without any tolerance, and every decision is the same."""
    outputs = read_outputs(message(tensor).SerializeToString())

    found = compare(outputs, outputs, NONE)

    assert (found.differences, found.agreed) == ((), found.rows)


@given(tensors(), tensors(), st.floats(0, 1e3), st.floats(0, 1e3))
def test_comparing_never_raises_and_tells_each_output_once(
    one: tuple[str, Any], other: tuple[str, Any], atol: float, rtol: float
) -> None:
    """Whatever two answers hold, and which of them is the client's changes no more than tolerances."""
    ours, theirs = (read_outputs(message(tensor).SerializeToString()) for tensor in (one, other))

    found = compare(ours, theirs, Tolerance(atol, rtol)).differences
    back = compare(theirs, ours, Tolerance(atol, 0.0)).differences

    assert len(found) <= 1
    assert len(back) == len(compare(ours, theirs, Tolerance(atol, 0.0)).differences)


@given(
    arrays.arrays(np.float64, st.integers(1, 8), elements=st.floats(-1e6, 1e6)),
    st.integers(0, 7),
    st.floats(1e-3, 1e3),
)
def test_exactly_what_is_beyond_the_tolerance_is_a_difference(values: Any, at: int, atol: float) -> None:
    """One element moved by half of it, and by twice of it."""
    place = at % len(values)

    def moved(by: float) -> Output:
        changed = values.copy()
        changed[place] += by
        return Output("y", "FP64", values.shape, changed)

    same, near, far = moved(0.0), moved(atol / 2), moved(atol * 2)

    assert compare([same], [near], Tolerance(atol, 0.0)).differences == ()
    (difference,) = compare([same], [far], Tolerance(atol, 0.0)).differences
    assert difference.kind == "value"


@given(tensors(), st.integers(1, 64))
def test_bytes_that_are_cut_or_added_are_no_answer(tensor: tuple[str, Any], count: int) -> None:
    """An OK is an answer only where its bytes fit."""
    whole = message(tensor)
    raw = whole.raw_output_contents[0]
    for spoiled in (raw[:-count], raw + bytes(count)):
        if len(spoiled) != len(raw):
            whole.raw_output_contents[0] = spoiled
            try:
                read_outputs(whole.SerializeToString())
            except InvalidAnswer:
                continue
            raise AssertionError(f"{len(spoiled)} bytes were taken for {len(raw)}")


@given(st.binary(max_size=200))
def test_any_bytes_are_an_answer_or_none(junk: bytes) -> None:
    """Nothing but InvalidAnswer leaves the reader."""
    try:
        outputs = read_outputs(junk)
    except InvalidAnswer:
        return
    assert compare(outputs, outputs, NONE).differences == ()
