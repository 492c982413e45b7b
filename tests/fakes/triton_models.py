"""Python backend models for tests: small, whole model folders."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path

_CONFIG = """name: "{name}"
backend: "python"
max_batch_size: 0
input [{{ name: "x" data_type: TYPE_FP32 dims: [ -1 ] }}]
output [{{ name: "y" data_type: TYPE_FP32 dims: [ -1 ] }}]
instance_group [{{ kind: KIND_CPU count: 1 }}]
"""

_MODEL = """import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def initialize(self, args):
        {initialize}

    def execute(self, requests):
        {execute}
        return [
            pb_utils.InferenceResponse(
                [pb_utils.Tensor("y", pb_utils.get_input_tensor_by_name(request, "x").as_numpy() * 2)]
            )
            for request in requests
        ]
"""


def write_model(repository: Path, name: str, initialize: str = "pass", execute: str = "pass") -> Path:
    """Write a model that doubles its input, on one instance.

    `initialize` is one Python statement run at its load, `execute` one run before each answer.
    """
    folder = repository / name
    (folder / "1").mkdir(parents=True)
    (folder / "config.pbtxt").write_text(_CONFIG.format(name=name))
    (folder / "1/model.py").write_text(_MODEL.format(initialize=initialize, execute=execute))
    return folder


def write_ensemble(folder: Path, parts: Mapping[str, str], name: str = "whole") -> Path:
    """Write an ensemble of models that double their input, one after the other: `a` in, `b` out.

    `parts` are names, each with a statement that is run when it is loaded.
    """
    tensors = ["a", *(f"between-{at}" for at in range(1, len(parts))), "b"]
    steps = ""
    for part, (before, after) in zip(parts, pairwise(tensors), strict=True):
        write_model(folder, part, parts[part])
        maps = f'input_map {{ key: "x" value: "{before}" }} output_map {{ key: "y" value: "{after}" }}'
        steps += f'step {{ model_name: "{part}" model_version: -1 {maps} }}\n'
    (folder / name).mkdir()
    (folder / name / "config.pbtxt").write_text(
        'platform: "ensemble"\n'
        'input [{ name: "a" data_type: TYPE_FP32 dims: [ -1 ] }]\n'
        'output [{ name: "b" data_type: TYPE_FP32 dims: [ -1 ] }]\n'
        f"ensemble_scheduling {{\n{steps}}}\n"
    )
    return folder
