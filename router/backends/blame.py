"""Whose fault a load is that a Triton refused: the model's, or its own. Pure."""

from __future__ import annotations

import grpc

_NOTHING_LEFT = (
    "Unable to initialize shared memory key",
    "Failed to increase the shared memory pool size",
    "No space left on device",
    "Cannot allocate memory",
)
"""Words of Triton's Python backend and of the system for a machine that has no room for any model."""


def is_backends(code: grpc.StatusCode, said: str) -> bool:
    """Whether a refusal says nothing of the model that was to be loaded.

    A model that cannot be loaded is INVALID_ARGUMENT or INTERNAL to Triton. UNAVAILABLE is a Triton that is
    just starting or ending, or loads nothing for others.

    Args:
        code: gRPC's, of an answer that did come from Triton.
        said: its text.
    """
    return code is grpc.StatusCode.UNAVAILABLE or any(words in said for words in _NOTHING_LEFT)
