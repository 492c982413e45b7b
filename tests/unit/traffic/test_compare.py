"""Whether two answers say the same."""

from __future__ import annotations

import numpy as np
import pytest

from router.model import Tolerance
from router.traffic.compare import Comparison, Difference, Output, compare

NONE = Tolerance(0.0, 0.0)
NAN, INF = float("nan"), float("inf")


def tensor(*values: float, datatype: str = "FP32", name: str = "y", shape: tuple[int, ...] = ()) -> Output:
    """A tensor of one axis, unless a shape is given."""
    kind = {"FP32": np.float32, "FP64": np.float64, "FP16": np.float16, "BF16": np.float32, "BOOL": np.bool_}
    dtype = kind.get(datatype) or np.dtype(datatype.lower())
    return Output(name, datatype, shape or (len(values),), np.array(values, dtype=dtype))


def texts(*values: bytes) -> Output:
    """A BYTES tensor."""
    return Output("t", "BYTES", (len(values),), values)


def only(comparison: Comparison) -> Difference:
    """The one difference."""
    (difference,) = comparison.differences
    return difference


@pytest.mark.parametrize(
    ("one", "other", "tolerance", "agree"),
    [
        (1.0, 1.0009, Tolerance(0.001, 0), True),
        (1.0, 1.0011, Tolerance(0.001, 0), False),
        (100.0, 100.09, Tolerance(0, 0.001), True),
        (100.0, 100.11, Tolerance(0, 0.001), False),
        (NAN, NAN, NONE, True),
        (NAN, 1.0, Tolerance(1e9, 1e9), False),
        (1.0, NAN, Tolerance(1e9, 1e9), False),
        (INF, INF, NONE, True),
        (INF, -INF, Tolerance(1e9, 1e9), False),
        (INF, 1.0, Tolerance(1e9, 1e9), False),
        (1.0, INF, Tolerance(1e9, 1e9), False),
        (0.0, -0.0, NONE, True),
    ],
)
def test_floats_agree_within_their_tolerance(
    one: float, other: float, tolerance: Tolerance, agree: bool
) -> None:
    """Absolute and relative to what the client got; NaN agrees with NaN, an infinity with itself only."""
    differences = compare([tensor(one)], [tensor(other)], tolerance).differences

    assert (differences == ()) == agree


@pytest.mark.parametrize(
    ("datatype", "near", "far"),
    [("FP16", 1 + 2**-10, 1 + 2**-9), ("BF16", 1 + 2**-7, 1 + 2**-6), ("FP32", 1 + 2**-23, 1 + 2**-22)],
)
def test_one_unit_in_the_last_place_is_never_a_difference(datatype: str, near: float, far: float) -> None:
    """Two correct runs may differ by that; by two they do not."""
    one = tensor(1.0, datatype=datatype)

    assert compare([one], [tensor(near, datatype=datatype)], NONE).differences == ()
    assert only(compare([one], [tensor(far, datatype=datatype)], NONE)).kind == "value"


@pytest.mark.parametrize(
    "datatype", ["INT8", "INT16", "INT32", "INT64", "UINT8", "UINT16", "UINT32", "UINT64"]
)
def test_whole_numbers_are_exact_whatever_the_tolerance(datatype: str) -> None:
    """A class that is off by one is another class."""
    wide = Tolerance(10.0, 10.0)

    found = only(compare([tensor(1, 2, datatype=datatype)], [tensor(1, 4, datatype=datatype)], wide))

    assert (found.kind, found.largest, found.detail) == ("value", 2.0, "1 of 2 elements differ, by at most 2")
    assert compare([tensor(1, datatype=datatype)], [tensor(1, datatype=datatype)], wide).differences == ()


def test_booleans_and_texts_are_exact() -> None:
    """They have no distance."""
    flags = compare([tensor(1, 0, datatype="BOOL")], [tensor(1, 1, datatype="BOOL")], NONE)
    words = compare([texts(b"cat", b"dog")], [texts(b"cat", b"cow")], NONE)

    assert [only(flags).detail, only(words).detail] == ["1 of 2 elements differ"] * 2
    assert compare([texts(b"cat", b"")], [texts(b"cat", b"")], NONE).differences == ()


def test_names_datatypes_and_shapes_must_agree() -> None:
    """The first that does not is told, and the order of outputs means nothing."""
    a, b = tensor(1.0, name="a"), tensor(2.0, name="b")

    assert compare([a, b], [b, a], NONE).differences == ()
    missing = only(compare([a, b], [a], NONE))
    assert (missing.output, missing.kind, missing.detail) == ("b", "outputs", "only the client got it")
    assert only(compare([a], [a, b], NONE)).detail == "only the shadow got it"
    assert only(compare([a], [tensor(1.0, name="a", datatype="FP64")], NONE)).kind == "datatype"
    shape = only(compare([tensor(1.0, 2.0)], [tensor(1.0, 2.0, shape=(1, 2))], NONE))
    assert (shape.kind, shape.detail) == ("shape", "[2] and [1, 2]")


def test_the_worst_kind_comes_first() -> None:
    """It is what a pair counts under."""
    ours = [tensor(1.0, name="a"), tensor(1.0, name="b"), tensor(1.0, name="c")]
    theirs = [tensor(2.0, name="a"), tensor(1.0, name="b", datatype="FP64")]

    assert [d.kind for d in compare(ours, theirs, NONE).differences] == ["outputs", "datatype", "value"]


def test_decisions_are_counted_by_row() -> None:
    """The largest of the last axis, for floating-point outputs only; numbers may differ meanwhile."""
    ours = tensor(0.1, 0.9, 0.8, 0.2, 0.4, 0.6, shape=(3, 2))
    theirs = tensor(0.2, 0.8, 0.9, 0.1, 0.6, 0.4, shape=(3, 2))

    found = compare([ours], [theirs], Tolerance(0.5, 0))
    labels = compare([tensor(1, 2, datatype="INT64")], [tensor(2, 1, datatype="INT64")], NONE)
    scalar = compare([tensor(1.0, shape=(1, 1))], [tensor(2.0, shape=(1, 1))], NONE)

    assert (found.differences, found.rows, found.agreed) == ((), 3, 2)
    assert (labels.rows, scalar.rows) == (0, 0)


def test_empty_tensors_agree() -> None:
    """A batch of none."""
    empty = tensor(shape=(0, 10))

    assert compare([empty], [empty], NONE) == Comparison(())
