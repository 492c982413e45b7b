"""What a Triton says of a load that failed: the model's fault, or its own."""

from __future__ import annotations

import grpc
import pytest

from router.backends.blame import is_backends

FAILED = "load failed for model 'm': version 1 is at UNAVAILABLE state: Internal: "


@pytest.mark.parametrize(
    ("code", "said"),
    [
        (
            "INVALID_ARGUMENT",
            f"{FAILED}Unable to initialize shared memory key 'x' to requested size",
        ),
        ("INVALID_ARGUMENT", f"{FAILED}Failed to increase the shared memory pool size for key 'x'"),
        ("INTERNAL", f"{FAILED}OSError: [Errno 28] No space left on device"),
        ("INVALID_ARGUMENT", f"{FAILED}OSError: [Errno 12] Cannot allocate memory"),
        ("UNAVAILABLE", "explicit model load / unload is not allowed if polling is enabled"),
        ("UNAVAILABLE", "Server is stopping, scheduler is not accepting new requests"),
    ],
)
def test_what_says_nothing_of_the_model(code: str, said: str) -> None:
    """No other one could have been loaded either."""
    assert is_backends(grpc.StatusCode[code], said)


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("INVALID_ARGUMENT", f"{FAILED}ValueError: no such file"),
        ("INTERNAL", "failed to load 'm', failed to poll from model repository"),
        ("INVALID_ARGUMENT", f"{FAILED}Stub process 'm_0' is not healthy."),
        ("NOT_FOUND", "m is not there"),
    ],
)
def test_what_is_the_models(code: str, said: str) -> None:
    """Its files, its code or its configuration."""
    assert not is_backends(grpc.StatusCode[code], said)
