"""The choice of a runtime for a format."""

from __future__ import annotations

import pytest

from router.artifacts.layout import LAYOUTS
from router.artifacts.runtimes import RUNTIMES, Runtime, choose, formats
from router.errors import UnsupportedFormat


@pytest.mark.parametrize(
    ("backends", "chosen"),
    [
        (None, "onnx-python"),
        (frozenset({"python"}), "onnx-python"),
        (frozenset({"python", "onnxruntime"}), "onnxruntime"),
        (frozenset({"onnxruntime"}), "onnxruntime"),
    ],
)
def test_the_best_runtime_that_can_run_is_taken(backends: frozenset[str] | None, chosen: str) -> None:
    """Triton's own backend where it is there; where nobody knows, what runs on the Python backend."""
    assert choose("onnx", backends).name == chosen


def test_a_runtime_that_is_asked_for_is_taken() -> None:
    """Also one of lower priority, or one that is never taken by itself."""
    table = (*RUNTIMES, Runtime("mine", "onnx", backend="python", auto_select=False, priority=9))

    assert choose("onnx", frozenset({"python", "onnxruntime"}), name="onnx-python").name == "onnx-python"
    assert choose("onnx", None, name="mine", table=table).name == "mine"
    assert choose("onnx", None, table=table).name == "onnx-python"


def test_a_triton_that_is_not_known_is_asked() -> None:
    """It may have the backend."""
    assert choose("tensorrt", None).backend == "tensorrt"


def test_a_version_of_a_format_finds_its_runtime() -> None:
    """A runtime without a version serves any."""
    table = (Runtime("old", "x", "1", "python"), Runtime("new", "x", "2", "python"))

    assert choose("x:2", None, table=table).name == "new"
    assert choose("onnx:1", None).name == "onnx-python"
    with pytest.raises(UnsupportedFormat, match="no runtime that is chosen by itself"):
        choose("x:3", None, table=table)


@pytest.mark.parametrize(
    ("format_", "name", "said"),
    [
        ("coreml", "", "format 'coreml' cannot be served here"),
        ("onnx", "tensorrt", "format 'onnx' has no runtime 'tensorrt'"),
        ("tensorrt", "", "needs Triton's backend 'tensorrt', which this Triton does not have"),
    ],
)
def test_what_cannot_be_served_is_named(format_: str, name: str, said: str) -> None:
    """With what there is instead."""
    with pytest.raises(UnsupportedFormat, match=said) as caught:
        choose(format_, frozenset({"python"}), name=name)
    assert caught.value.hint


def test_every_format_has_a_layout_and_every_name_is_one() -> None:
    """What the table promises is there."""
    assert set(formats()) == set(LAYOUTS)
    assert len({runtime.name for runtime in RUNTIMES}) == len(RUNTIMES)
