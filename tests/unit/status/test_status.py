"""The one table from errors to status codes."""

from __future__ import annotations

import inspect

import grpc
import pytest

from gateway.status import INTERNAL, TABLE, Fault, status_of
from router import errors
from router.errors import ConfigInvalid, Conflict, LoadFailed, StagegateError, StateUnavailable

KINDS = [
    kind
    for kind in vars(errors).values()
    if inspect.isclass(kind) and issubclass(kind, StagegateError) and kind is not StagegateError
]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_every_kind_of_error_is_answered_on_purpose(kind: type[StagegateError]) -> None:
    """Each class of the tree has an ancestor in the table, so none becomes INTERNAL by neglect."""
    assert any(issubclass(kind, branch) for branch, _ in TABLE)


def test_no_branch_of_the_table_hides_another() -> None:
    """The first that fits is taken, so an ancestor must not come before its descendant."""
    branches = [branch for branch, _ in TABLE]

    hidden = [b for i, b in enumerate(branches) if any(issubclass(b, before) for before in branches[:i])]

    assert hidden == []


@pytest.mark.parametrize(
    ("error", "code", "http"),
    [
        (ConfigInvalid("f", []), grpc.StatusCode.INVALID_ARGUMENT, 400),
        (errors.VersionNotFound("x"), grpc.StatusCode.NOT_FOUND, 404),
        (Conflict("x", current_revision=1), grpc.StatusCode.ABORTED, 409),
        (errors.NotSupported("x"), grpc.StatusCode.UNIMPLEMENTED, 501),
        (errors.DigestMismatch("x"), grpc.StatusCode.FAILED_PRECONDITION, 409),
        (errors.InvalidAnswer("x"), grpc.StatusCode.INTERNAL, 502),
        (LoadFailed("x"), grpc.StatusCode.UNAVAILABLE, 503),
        (StateUnavailable("x"), grpc.StatusCode.UNAVAILABLE, 503),
    ],
    ids=lambda value: type(value).__name__,
)
def test_errors_have_the_codes_of_the_field(error: StagegateError, code: grpc.StatusCode, http: int) -> None:
    """gRPC's meanings, and HTTP's beside them."""
    status = status_of(error)

    assert (status.grpc, status.http.value) == (code, http)


def test_what_is_no_error_of_ours_is_our_fault() -> None:
    """A bug answers INTERNAL."""
    assert status_of(KeyError("x")) is INTERNAL
    assert INTERNAL.fault is Fault.GATEWAY
