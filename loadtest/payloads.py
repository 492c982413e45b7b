"""What users send: held-out digits, which no version has seen in training."""

from __future__ import annotations

import random
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import tritonclient.grpc as triton
from numpy.typing import NDArray

DIGITS = Path(__file__).resolve().parents[1] / "examples" / "data" / "digits.npz"


@dataclass(frozen=True, slots=True)
class Image:
    """One image as the model takes it, and the digit that it shows."""

    tensor: triton.InferInput
    digit: int


@cache
def held_out(path: Path) -> tuple[Image, ...]:
    """All held-out images, each in a tensor of its own, made once.

    Raises:
        FileNotFoundError: the example models have not been trained; the text says how.
    """
    if not path.exists():
        raise FileNotFoundError(f"{path} is not there: train the example models with `make run` first")
    with np.load(path) as data:
        rows, truth = data["X"].astype(np.float32), data["y"]
    return tuple(Image(_tensor(row), int(digit)) for row, digit in zip(rows, truth, strict=True))


def any_image(path: Path, choose: random.Random) -> Image:
    """One of them."""
    return choose.choice(held_out(path))


def _tensor(row: NDArray[np.float32]) -> triton.InferInput:
    tensor = triton.InferInput("X", [1, row.size], "FP32")
    tensor.set_data_from_numpy(row[np.newaxis])
    return tensor
