"""Answers a request as often as it asks for: 0, 1 or many times."""

from __future__ import annotations

import json
import time
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    """Decoupled: numbers from 0 to `count`, `pause` milliseconds apart."""

    def execute(self, requests: list[Any]) -> None:
        """Each request has its answers before the next one begins; the parameter `fail` ends them badly."""
        for request in requests:
            sender = request.get_response_sender()
            pause = pb_utils.get_input_tensor_by_name(request, "pause")
            for number in range(pb_utils.get_input_tensor_by_name(request, "count").as_numpy()[0]):
                tensor = pb_utils.Tensor("number", np.array([number], np.int32))
                sender.send(pb_utils.InferenceResponse([tensor]))
                time.sleep(pause.as_numpy()[0] / 1000 if pause else 0)
            self.end(sender, json.loads(request.parameters()).get("fail"))

    def end(self, sender: Any, fail: str | None) -> None:
        """The last answer: the error, or nothing but that it is the last.

        Nothing may follow an error: where a client asked for `triton_grpc_error`, Triton 2.51 dies of it.
        """
        final = pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL
        if fail:
            sender.send(pb_utils.InferenceResponse(error=pb_utils.TritonError(fail)), flags=final)
        else:
            sender.send(flags=final)
