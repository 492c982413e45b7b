"""Whether two answers to one request say the same. Pure.

Names, datatypes and shapes must agree; the order of the outputs does not matter. Integers, booleans and
texts are compared exactly. Floating-point numbers agree within `atol + rtol * |what the client got|`, where
`rtol` is never below what one unit in the last place of the datatype makes: two correct runs may differ by
that. NaN agrees with NaN, and an infinity with itself, because a model that gives them gives them on purpose.

Beside that, for outputs of floating-point numbers whose last axis has more than one place: how often the
largest of that axis stands at the same place. For a classifier that is the decision.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from router.model import Tolerance

FLOATS: Mapping[str, float] = {"FP16": 2.0**-10, "BF16": 2.0**-7, "FP32": 2.0**-23, "FP64": 2.0**-52}
"""Datatypes of floating-point numbers, and one unit in the last place of 1."""


@dataclass(frozen=True, slots=True)
class Output:
    """One tensor of an answer.

    Attributes:
        values: its elements in row-major order, as many as the shape says: an array, or the texts of a
            BYTES tensor. BF16 and FP16 come as wider numbers of the same value.
    """

    name: str
    datatype: str
    shape: tuple[int, ...]
    values: npt.NDArray[np.generic] | Sequence[bytes]


@dataclass(frozen=True, slots=True)
class Difference:
    """One output that differs.

    Attributes:
        kind: `outputs` (only one answer has it), `datatype`, `shape` or `value`.
        detail: for people.
        largest: largest distance of two numbers of the output; None where there is none to be told.
    """

    output: str
    kind: str
    detail: str
    largest: float | None = None


@dataclass(frozen=True, slots=True)
class Comparison:
    """What two answers have in common.

    Attributes:
        differences: in the order in which kinds outrank each other; none where the answers agree.
        rows: decisions that were looked at, over all outputs that may be a classifier's.
        agreed: of those, how many were the same.
    """

    differences: tuple[Difference, ...]
    rows: int = 0
    agreed: int = 0


_RANK = ("outputs", "datatype", "shape", "value")


def compare(primary: Sequence[Output], shadow: Sequence[Output], tolerance: Tolerance) -> Comparison:
    """Compare what a client got with what a shadow said."""
    ours, theirs = ({output.name: output for output in answer} for answer in (primary, shadow))
    found = [
        Difference(name, "outputs", f"only the {'client' if name in ours else 'shadow'} got it")
        for name in sorted(ours.keys() ^ theirs.keys())
    ]
    rows = agreed = 0
    for name in ours.keys() & theirs.keys():
        one, other = ours[name], theirs[name]
        difference = _difference(one, other, tolerance)
        if difference is not None:
            found.append(difference)
        if difference is None or difference.kind == "value":
            decided, same = _decisions(one, other)
            rows, agreed = rows + decided, agreed + same
    found.sort(key=lambda difference: (_RANK.index(difference.kind), difference.output))
    return Comparison(tuple(found), rows, agreed)


def _difference(one: Output, other: Output, tolerance: Tolerance) -> Difference | None:
    if one.datatype != other.datatype:
        return Difference(one.name, "datatype", f"{one.datatype} and {other.datatype}")
    if one.shape != other.shape:
        return Difference(one.name, "shape", f"{list(one.shape)} and {list(other.shape)}")
    if isinstance(one.values, np.ndarray) and isinstance(other.values, np.ndarray):
        return _numbers(one, one.values, other.values, tolerance)
    differing = sum(a != b for a, b in zip(one.values, other.values, strict=True))
    return _by_value(one, differing, None)


def _numbers(
    output: Output, one: npt.NDArray[np.generic], other: npt.NDArray[np.generic], tolerance: Tolerance
) -> Difference | None:
    floor = FLOATS.get(output.datatype)
    if floor is None:
        differs = one != other
        largest = _largest_integer(one[differs], other[differs])
        return _by_value(output, int(np.count_nonzero(differs)), largest)
    ours, theirs = one.astype(np.float64), other.astype(np.float64)
    with np.errstate(invalid="ignore", over="ignore"):
        distance = np.abs(theirs - ours)
        allowed = tolerance.atol + max(tolerance.rtol, floor) * np.abs(ours)
        # An infinite allowance would let anything pass beside an infinity.
        near = (distance <= allowed) & np.isfinite(ours) & np.isfinite(theirs)
    same = near | (ours == theirs) | (np.isnan(ours) & np.isnan(theirs))
    # NaN beside a number has no distance, and an infinity beside one has none that helps.
    counted = distance[~same & np.isfinite(distance)]
    largest = float(counted.max()) if counted.size else None
    return _by_value(output, int(np.count_nonzero(~same)), largest)


def _largest_integer(one: npt.NDArray[np.generic], other: npt.NDArray[np.generic]) -> float | None:
    if not one.size or one.dtype == np.bool_:
        return None
    # As floating-point numbers, because 64 bits do not hold every distance of two whole ones.
    return float(np.abs(one.astype(np.float64) - other.astype(np.float64)).max())


def _by_value(output: Output, differing: int, largest: float | None) -> Difference | None:
    if not differing:
        return None
    count = len(output.values)
    far = "" if largest is None else f", by at most {largest:g}"
    return Difference(output.name, "value", f"{differing} of {count} elements differ{far}", largest)


def _decisions(one: Output, other: Output) -> tuple[int, int]:
    """Rows of the last axis, and in how many of them the largest stands at the same place."""
    places = one.shape[-1] if one.shape else 0
    if one.datatype not in FLOATS or places <= 1 or not len(one.values):
        return 0, 0
    ours, theirs = (np.asarray(output.values).reshape(-1, places).argmax(axis=1) for output in (one, other))
    return len(ours), int(np.count_nonzero(ours == theirs))
