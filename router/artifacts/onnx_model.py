"""Serves one ONNX file on Triton's Python backend with onnxruntime.

Stagegate copies this file into the model folder as `1/model.py`; Triton's stub process imports it there,
so it uses nothing of Stagegate. Parameters of config.pbtxt: `onnx_file`, the file beside this one;
`threads`, threads for one inference (default 1).
"""

from __future__ import annotations

import json
import os

import numpy as np
import onnxruntime
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    """What Triton's Python backend asks of a model."""

    def initialize(self, args: dict[str, str]) -> None:
        """Open the ONNX file; whatever raises here is Triton's reason for the failed load."""
        config = json.loads(args["model_config"])
        parameters = {key: value["string_value"] for key, value in config.get("parameters", {}).items()}
        folder = os.path.join(args["model_repository"], args["model_version"])
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = int(parameters.get("threads", "1"))
        options.inter_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(
            os.path.join(folder, parameters["onnx_file"]), options, providers=["CPUExecutionProvider"]
        )
        self.inputs = [tensor.name for tensor in self.session.get_inputs()]
        self.types = {
            output["name"]: pb_utils.triton_string_to_numpy(output["data_type"])
            for output in config["output"]
        }
        known = {tensor.name for tensor in self.session.get_outputs()}
        missing = sorted(self.types.keys() - known)
        if missing:
            raise pb_utils.TritonModelException(
                f"the ONNX file has no output {missing[0]!r}; it has {sorted(known)}"
            )

    def execute(self, requests: list) -> list:
        """Answer each request by itself; a fault of one is that one's error."""
        return [self.answer(request) for request in requests]

    def answer(self, request: object) -> object:
        """One request to one response, with only the outputs that were asked for."""
        try:
            feeds = {}
            for name in self.inputs:
                tensor = pb_utils.get_input_tensor_by_name(request, name)
                if tensor is not None:
                    value = tensor.as_numpy()
                    feeds[name] = decoded(value) if value.dtype == np.object_ else value
            # In the configuration's order: Triton gives the names in any.
            asked = set(request.requested_output_names())
            names = [name for name in self.types if name in asked]
            values = self.session.run(names, feeds)
            outputs = [
                # A number without dimensions has one of one in the configuration.
                pb_utils.Tensor(name, np.atleast_1d(np.asarray(value).astype(self.types[name], copy=False)))
                for name, value in zip(names, values, strict=True)
            ]
            return pb_utils.InferenceResponse(outputs)
        except Exception as problem:
            return pb_utils.InferenceResponse([], pb_utils.TritonError(str(problem)))

    def finalize(self) -> None:
        """Give the session back."""
        self.session = None


def decoded(value: np.ndarray) -> np.ndarray:
    """BYTES as onnxruntime wants strings."""
    flat = [item.decode() if isinstance(item, bytes) else str(item) for item in value.reshape(-1)]
    return np.array(flat, dtype=np.object_).reshape(value.shape)
