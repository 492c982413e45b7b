"""Gives every tensor back; parameters of a request ask for failures."""

import json
import time

import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    """Identity for all datatypes."""

    def initialize(self, args):
        """Remember the datatypes, which are the ends of the names."""
        inputs = json.loads(args["model_config"])["input"]
        self.kinds = [entry["name"].removeprefix("in_") for entry in inputs]

    def execute(self, requests):
        """One response a request."""
        return [self.respond(request) for request in requests]

    def respond(self, request):
        """What the request's parameters ask for: `sleep` (ms), `fail` (a text) with `code`, `raise`."""
        wishes = json.loads(request.parameters())
        time.sleep(wishes.get("sleep", 0) / 1000)
        if "raise" in wishes:
            raise ValueError(wishes["raise"])
        if "fail" in wishes:
            code = getattr(pb_utils.TritonError, wishes.get("code", "INTERNAL"))
            return pb_utils.InferenceResponse(error=pb_utils.TritonError(wishes["fail"], code))
        tensors = ((kind, pb_utils.get_input_tensor_by_name(request, f"in_{kind}")) for kind in self.kinds)
        return pb_utils.InferenceResponse([self.same(kind, tensor) for kind, tensor in tensors if tensor])

    def same(self, kind, tensor):
        """The tensor under its output's name."""
        if kind == "BF16":
            return pb_utils.Tensor.from_dlpack(f"out_{kind}", tensor.to_dlpack())
        return pb_utils.Tensor(f"out_{kind}", tensor.as_numpy())
