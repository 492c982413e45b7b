"""Sums up the numbers of a sequence."""

import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    """Stateful; one sequence of a slot at a time."""

    def initialize(self, args):
        """Nothing summed yet."""
        self.sum = 0

    def execute(self, requests):
        """The sum so far for each request."""
        return [self.respond(request) for request in requests]

    def respond(self, request):
        """Begin at 0 where a sequence starts."""
        if pb_utils.get_input_tensor_by_name(request, "start").as_numpy()[0]:
            self.sum = 0
        self.sum += int(pb_utils.get_input_tensor_by_name(request, "x").as_numpy()[0, 0])
        return pb_utils.InferenceResponse([pb_utils.Tensor("sum", np.array([[self.sum]], np.int32))])
