"""What a client knows of the `digits` example: held-out images, and how to ask for them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import tritonclient.grpc as triton
from sklearn.datasets import load_digits

IMAGES: npt.NDArray[np.float32] = load_digits().data.astype(np.float32)


def inputs(metadata: Any, rows: int = 1) -> list[triton.InferInput]:
    """The first `rows` images for the model's one input, by its own name and type."""
    spec = metadata.inputs[0]
    tensor = triton.InferInput(spec.name, [rows, IMAGES.shape[1]], spec.datatype)
    tensor.set_data_from_numpy(IMAGES[:rows])
    return [tensor]


def production_version(models: Path) -> str:
    """What the registry on disk calls production."""
    import yaml

    document = yaml.load((models / "digits/model.yaml").read_text(), Loader=yaml.BaseLoader)
    return str(document["stages"]["production"])


def move_stage(models: Path, stage: str, version: str, model: str = "digits") -> None:
    """Change a stage as an operator with an editor does: write beside, rename over."""
    import yaml

    path = models / model / "model.yaml"
    document = yaml.load(path.read_text(), Loader=yaml.BaseLoader)
    document.setdefault("stages", {})[stage] = version
    beside = path.with_name(".model.yaml.new")
    beside.write_text(json.dumps(document))
    beside.replace(path)
