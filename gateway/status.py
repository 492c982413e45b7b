"""The one table: what an error is in gRPC and in HTTP, and whose fault it is."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from http import HTTPStatus

import grpc

from router.errors import (
    ArtifactError,
    Conflict,
    InvalidAnswer,
    InvalidInput,
    LoadFailed,
    NotFound,
    NotSupported,
    RegistryRefused,
    StagegateError,
    Unavailable,
)


class Fault(enum.StrEnum):
    """Who must act for the same call to succeed."""

    CALLER = "caller"
    GATEWAY = "gateway"
    UPSTREAM = "upstream"


@dataclass(frozen=True, slots=True)
class Status:
    """How one kind of error is answered.

    Attributes:
        grpc: the gRPC status code.
        http: the HTTP status code.
        fault: who must act.
    """

    grpc: grpc.StatusCode
    http: HTTPStatus
    fault: Fault


TABLE: tuple[tuple[type[StagegateError], Status], ...] = (
    (InvalidInput, Status(grpc.StatusCode.INVALID_ARGUMENT, HTTPStatus.BAD_REQUEST, Fault.CALLER)),
    (NotFound, Status(grpc.StatusCode.NOT_FOUND, HTTPStatus.NOT_FOUND, Fault.CALLER)),
    (Conflict, Status(grpc.StatusCode.ABORTED, HTTPStatus.CONFLICT, Fault.CALLER)),
    (RegistryRefused, Status(grpc.StatusCode.FAILED_PRECONDITION, HTTPStatus.CONFLICT, Fault.UPSTREAM)),
    (NotSupported, Status(grpc.StatusCode.UNIMPLEMENTED, HTTPStatus.NOT_IMPLEMENTED, Fault.CALLER)),
    (ArtifactError, Status(grpc.StatusCode.FAILED_PRECONDITION, HTTPStatus.CONFLICT, Fault.UPSTREAM)),
    (InvalidAnswer, Status(grpc.StatusCode.INTERNAL, HTTPStatus.BAD_GATEWAY, Fault.UPSTREAM)),
    (LoadFailed, Status(grpc.StatusCode.UNAVAILABLE, HTTPStatus.SERVICE_UNAVAILABLE, Fault.UPSTREAM)),
    (Unavailable, Status(grpc.StatusCode.UNAVAILABLE, HTTPStatus.SERVICE_UNAVAILABLE, Fault.UPSTREAM)),
)
"""Each branch of the error tree once; a class is answered as its nearest ancestor here."""

INTERNAL = Status(grpc.StatusCode.INTERNAL, HTTPStatus.INTERNAL_SERVER_ERROR, Fault.GATEWAY)
"""Anything else is a mistake of ours."""


def status_of(error: BaseException) -> Status:
    """How an error is answered."""
    return next((status for kind, status in TABLE if isinstance(error, kind)), INTERNAL)
