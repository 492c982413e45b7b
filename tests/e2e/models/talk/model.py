"""A text model that answers in words, as language models do; negative counts ask for failures."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    """Decoupled: `words` answers (1 where it is not given), `pause` milliseconds apart."""

    def execute(self, requests: list[Any]) -> None:
        """Each request has its answers before the next one begins."""
        for request in requests:
            sender = request.get_response_sender()
            text = pb_utils.get_input_tensor_by_name(request, "text_input").as_numpy()[0]
            words, pause = self.number(request, "words", 1), self.number(request, "pause", 0)
            for count in range(abs(words)):
                word = np.array([text + b" %d" % count], dtype=object)
                sender.send(pb_utils.InferenceResponse([pb_utils.Tensor("text_output", word)]))
                time.sleep(pause / 1000)
            if words < 0:
                error = pb_utils.TritonError('out of "words"')
                sender.send(pb_utils.InferenceResponse(error=error))
            sender.send(flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)

    def number(self, request: Any, name: str, default: int) -> int:
        """An optional input of one number."""
        tensor = pb_utils.get_input_tensor_by_name(request, name)
        return default if tensor is None else int(tensor.as_numpy()[0])
