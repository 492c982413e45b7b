"""Serves one scikit-learn estimator on Triton's Python backend.

Stagegate copies this file into the model folder as `1/model.py`; Triton's stub process imports it there,
so it uses nothing of Stagegate, nor of MLflow. Parameters of config.pbtxt: `file`, the estimator beside
this one; `serialization`, how it was written (skops, joblib, cloudpickle, pickle); `trusted`, a JSON list
of types that a skops file may bring; `method`, what gives the first output (default predict); `columns`,
not empty where the inputs are columns of one table; `code`, a folder with modules that the estimator needs.
"""

from __future__ import annotations

import json
import os
import pickle
import sys

import numpy as np
import triton_python_backend_utils as pb_utils

PROBABILITIES = "predict_proba"


class TritonPythonModel:
    """What Triton's Python backend asks of a model."""

    def initialize(self, args: dict[str, str]) -> None:
        """Load the estimator; whatever raises here is Triton's reason for the failed load."""
        config = json.loads(args["model_config"])
        parameters = {key: value["string_value"] for key, value in config.get("parameters", {}).items()}
        folder = os.path.join(args["model_repository"], args["model_version"])
        if code := parameters.get("code"):
            sys.path.insert(0, os.path.join(folder, code))
        self.estimator = loaded(os.path.join(folder, parameters["file"]), parameters)
        self.columns = bool(parameters.get("columns"))
        self.inputs = [tensor["name"] for tensor in config["input"]]
        self.types = {
            output["name"]: pb_utils.triton_string_to_numpy(output["data_type"])
            for output in config["output"]
        }
        method = parameters.get("method", "predict")
        self.methods = {name: PROBABILITIES if name == PROBABILITIES else method for name in self.types}
        for method in self.methods.values():
            if not hasattr(self.estimator, method):
                raise pb_utils.TritonModelException(f"{type(self.estimator).__name__} has no {method}")

    def execute(self, requests: list) -> list:
        """Answer each request by itself; a fault of one is that one's error."""
        return [self.answer(request) for request in requests]

    def answer(self, request: object) -> object:
        """One request to one response, with only the outputs that were asked for."""
        try:
            rows = self.rows(request)
            asked = set(request.requested_output_names())
            outputs = []
            for name, method in self.methods.items():
                if name in asked:
                    value = np.asarray(getattr(self.estimator, method)(rows))
                    outputs.append(pb_utils.Tensor(name, encoded(value, self.types[name])))
            return pb_utils.InferenceResponse(outputs)
        except Exception as problem:
            return pb_utils.InferenceResponse([], pb_utils.TritonError(str(problem)))

    def rows(self, request: object) -> object:
        """What the estimator takes: the one matrix, or a table of columns."""
        values = []
        for name in self.inputs:
            value = pb_utils.get_input_tensor_by_name(request, name).as_numpy()
            values.append(decoded(value) if value.dtype == np.object_ else value)
        if not self.columns:
            return values[0]
        columns = [value.reshape(-1) for value in values]
        try:
            import pandas  # noqa: PLC0415 - estimators that choose columns by name need it, others do not
        except ImportError:
            return np.column_stack(columns)
        return pandas.DataFrame(dict(zip(self.inputs, columns, strict=True)))

    def finalize(self) -> None:
        """Give the estimator back."""
        self.estimator = None


def loaded(path: str, parameters: dict[str, str]) -> object:
    """The estimator in a file."""
    serialization = parameters["serialization"]
    if serialization == "skops":
        import skops.io  # noqa: PLC0415 - each way to write an estimator needs its own package

        return skops.io.load(path, trusted=json.loads(parameters.get("trusted", "[]")))
    if serialization == "joblib":
        import joblib  # noqa: PLC0415

        return joblib.load(path)
    with open(path, "rb") as file:
        return pickle.load(file)  # noqa: S301 - the operator allowed this model to bring code


def decoded(value: np.ndarray) -> np.ndarray:
    """BYTES as text."""
    flat = [item.decode() if isinstance(item, bytes) else str(item) for item in value.reshape(-1)]
    return np.array(flat, dtype=np.object_).reshape(value.shape)


def encoded(value: np.ndarray, wanted: type) -> np.ndarray:
    """An answer as its output's datatype; labels that are text as bytes."""
    if wanted is not np.object_:
        return value.astype(wanted, copy=False)
    return np.array([str(item).encode() for item in value.reshape(-1)], dtype=np.object_).reshape(value.shape)
