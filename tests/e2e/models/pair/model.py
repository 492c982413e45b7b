"""Adds and subtracts two tensors, in batches."""

from __future__ import annotations

from typing import Any

import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    """Sum and difference, as the model `simple` of Triton's examples."""

    def execute(self, requests: list[Any]) -> list[Any]:
        """One response a request."""
        return [self.respond(request) for request in requests]

    def respond(self, request: Any) -> Any:
        """Both outputs."""
        a = pb_utils.get_input_tensor_by_name(request, "a").as_numpy()
        b = pb_utils.get_input_tensor_by_name(request, "b").as_numpy()
        return pb_utils.InferenceResponse(
            [pb_utils.Tensor("sum", a + b), pb_utils.Tensor("difference", a - b)]
        )
