"""What breaks the clients of the version before, in words."""

from __future__ import annotations

import pytest

from router.model import Contract, TensorSpec
from router.traffic.contract import differences


def tensor(text: str) -> TensorSpec:
    """`x FP32 -1,4` as a tensor."""
    name, datatype, shape = text.split()
    return TensorSpec(name, datatype, tuple(map(int, shape.split(","))))


def contract(inputs: str, outputs: str) -> Contract:
    """Tensors with `;` between them."""
    sides = [tuple(tensor(one.strip()) for one in side.split(";")) for side in (inputs, outputs)]
    return Contract(*sides)


@pytest.mark.parametrize(
    ("new", "said"),
    [
        (("x FP32 -1,4", "y FP32 -1"), ()),
        (("x FP32 -1,4", "y FP32 -1; z FP32 -1"), ()),
        (("x FP32 -1,-1", "y FP32 8"), ()),
        (("x FP64 -1,4", "y FP32 -1"), ("input 'x': datatype FP32 before, FP64 now",)),
        (("x FP32 -1,5", "y FP32 -1"), ("input 'x': shape [-1, 4] before, [-1, 5] now",)),
        (("x FP32 8,4", "y FP32 -1"), ("input 'x': shape [-1, 4] before, [8, 4] now",)),
        (("x FP32 4", "y FP32 -1"), ("input 'x': rank 2 [-1, 4] before, rank 1 [4] now",)),
        (
            ("a FP32 -1,4", "y FP32 -1"),
            (
                "input 'x' (FP32 [-1, 4]) is gone; there are 'a'",
                "input 'a' (FP32 [-1, 4]) is new; clients send 'x'",
            ),
        ),
        (("x FP32 -1,4", "z FP32 -1"), ("output 'y' (FP32 [-1]) is gone; there are 'z'",)),
        (("x FP32 -1,4", "y INT64 -1"), ("output 'y': datatype FP32 before, INT64 now",)),
        (("x FP32 -1,4", "y FP32 -1,1"), ("output 'y': rank 1 [-1] before, rank 2 [-1, 1] now",)),
    ],
)
def test_each_difference_is_said(new: tuple[str, str], said: tuple[str, ...]) -> None:
    """And what only takes more, or gives more, is none."""
    assert differences(contract("x FP32 -1,4", "y FP32 -1"), contract(*new)) == said


def test_an_output_that_had_a_size_keeps_it() -> None:
    """Whoever reads ten numbers cannot do with some."""
    old, new = contract("x FP32 -1,4", "y FP32 -1,10"), contract("x FP32 -1,4", "y FP32 -1,-1")

    assert differences(old, new) == ("output 'y': shape [-1, 10] before, [-1, -1] now",)


def test_a_batch_that_becomes_variable_is_no_difference() -> None:
    """One row goes in, one row comes out, as before."""
    assert differences(contract("x FP32 1,4", "y FP32 1"), contract("x FP32 -1,4", "y FP32 -1")) == ()


def test_many_names_are_cut() -> None:
    """A table of a thousand columns stays readable."""
    many = Contract(tuple(TensorSpec(f"c{n}", "FP32", (-1,)) for n in range(1000)), ())
    (said,) = differences(Contract((TensorSpec("x", "FP32", (-1,)), *many.inputs), ()), many)

    assert said == (
        "input 'x' (FP32 [-1]) is gone; there are 'c0', 'c1', 'c2', 'c3', 'c4', 'c5', 'c6', 'c7', 992 more"
    )
