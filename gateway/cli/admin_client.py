"""Asks a running gateway by the admin API; blocking, for the CLI. Answers are `gateway.operations` values."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeVar, cast

import grpc
from google.protobuf.message import DecodeError

from gateway import admin_messages as messages
from gateway.operations import (
    NOTHING,
    AcceptedVersion,
    ModelSummary,
    ModelVersions,
    Moved,
    ReloadReport,
    Resolution,
    RouteChange,
    RouteTable,
    RouteView,
    Said,
    StatusReport,
    VersionDetail,
    WriteRow,
)
from protos.gen.stagegate.admin.v1 import admin_pb2, admin_pb2_grpc
from router.errors import (
    ConfigInvalid,
    ConfigProblem,
    Conflict,
    InvalidInput,
    NotFound,
    NotSupported,
    StagegateError,
    Unavailable,
)
from router.model import Route

ACTOR = "stagegate-actor"
ERROR_DETAIL = "stagegate-error-bin"
CHANNEL_OPTIONS = (
    # A proxy that the environment names is for the internet, not for a gateway given by address.
    ("grpc.enable_http_proxy", 0),
    ("grpc.max_receive_message_length", 64 << 20),
)

_Request = TypeVar("_Request")
_Answer = TypeVar("_Answer")

_KINDS: dict[grpc.StatusCode, type[StagegateError]] = {
    grpc.StatusCode.INVALID_ARGUMENT: InvalidInput,
    grpc.StatusCode.NOT_FOUND: NotFound,
    grpc.StatusCode.UNIMPLEMENTED: NotSupported,
    grpc.StatusCode.UNAVAILABLE: Unavailable,
    grpc.StatusCode.DEADLINE_EXCEEDED: Unavailable,
}


class AdminClient:
    """One gateway's admin API.

    Every method raises the `StagegateError` that the gateway answered with (as its branch of the tree:
    NotFound, InvalidInput, ...), or Unavailable where none answers.

    Attributes:
        server: `host:port` of the admin API.
    """

    def __init__(self, server: str, *, actor: str, timeout: float, channel: grpc.Channel) -> None:
        self.server = server
        self._stub = admin_pb2_grpc.AdminStub(channel)
        self._metadata = ((ACTOR, actor.encode("ascii", "backslashreplace").decode()),)
        self._timeout = timeout

    def models(self) -> tuple[ModelSummary, ...]:
        """All models."""
        return messages.read_models(self._call(self._stub.ListModels, admin_pb2.ListModelsRequest()))

    def versions(self, model: str) -> ModelVersions:
        """One model with its versions."""
        request = admin_pb2.ListVersionsRequest(model=model)
        return messages.read_versions(self._call(self._stub.ListVersions, request))

    def describe(self, model: str, reference: str) -> VersionDetail:
        """All that is known of one version. Raises ModelNotFound, VersionNotFound, InvalidReference."""
        request = admin_pb2.DescribeVersionRequest(model=model, reference=reference)
        return messages.read_detail(self._call(self._stub.DescribeVersion, request))

    def resolve(self, model: str, reference: str, said: Said = NOTHING) -> Resolution:
        """What a request would meet."""
        request = admin_pb2.ResolveRequest(
            model=model, reference=reference, headers=said.headers, parameters=said.parameters
        )
        return messages.read_resolution(self._call(self._stub.Resolve, request))

    def routes(self) -> RouteTable:
        """All explicit routes."""
        return messages.read_route_table(self._call(self._stub.ListRoutes, admin_pb2.ListRoutesRequest()))

    def route(self, model: str) -> RouteView:
        """The route in force."""
        answer = self._call(self._stub.GetRoute, admin_pb2.GetRouteRequest(model=model))
        return messages.read_route_view(answer.route)

    def apply_routes(
        self,
        routes: Sequence[Route],
        *,
        expected_revision: int | None,
        reason: str,
        force: bool = False,
    ) -> tuple[RouteChange, ...]:
        """Write routes, all or none."""
        request = admin_pb2.ApplyRoutesRequest(
            routes=[messages.write_route(route) for route in routes],
            expected_revision=expected_revision,
            reason=reason,
            force=force,
        )
        answer = self._call(self._stub.ApplyRoutes, request)
        return tuple(messages.read_route_change(change) for change in answer.changes)

    def delete_route(self, model: str, *, expected_revision: int | None, reason: str) -> RouteChange:
        """Back to the implicit route."""
        request = admin_pb2.DeleteRouteRequest(
            model=model, expected_revision=expected_revision, reason=reason
        )
        return messages.read_route_change(self._call(self._stub.DeleteRoute, request).change)

    def history(self, model: str, limit: int) -> tuple[RouteChange, ...]:
        """Changes of one route, newest first."""
        request = admin_pb2.RouteHistoryRequest(model=model, limit=limit)
        answer = self._call(self._stub.RouteHistory, request)
        return tuple(messages.read_route_change(change) for change in answer.changes)

    def accept(self, model: str, reference: str, *, reason: str) -> AcceptedVersion:
        """Let a version take over whatever contract it breaks."""
        request = admin_pb2.AcceptVersionRequest(model=model, reference=reference, reason=reason)
        return messages.read_accepted(self._call(self._stub.AcceptVersion, request))

    def promote(
        self, model: str, reference: str, to: str, *, keep_existing: bool, force: bool, reason: str
    ) -> Moved:
        """Let a stage or `@alias` name a version."""
        request = admin_pb2.PromoteRequest(
            model=model, reference=reference, to=to, keep_existing=keep_existing, force=force, reason=reason
        )
        return messages.read_moved(self._call(self._stub.Promote, request))

    def rollback(self, model: str, pointer: str, version: str, *, reason: str) -> Moved:
        """Bring traffic and registry back."""
        request = admin_pb2.RollbackRequest(model=model, pointer=pointer, version=version, reason=reason)
        return messages.read_moved(self._call(self._stub.Rollback, request))

    def writes(self, ended: int) -> tuple[WriteRow, ...]:
        """Registry changes that were decided there."""
        request = admin_pb2.ListWritesRequest(ended=ended)
        return messages.read_writes(self._call(self._stub.ListWrites, request))

    def clear_write(self, number: int, *, reason: str) -> WriteRow:
        """Give one up."""
        request = admin_pb2.ClearWriteRequest(id=number, reason=reason)
        return messages.read_write(self._call(self._stub.ClearWrite, request).write)

    def status(self) -> StatusReport:
        """The gateway at a glance."""
        return messages.read_status(self._call(self._stub.GetStatus, admin_pb2.GetStatusRequest()))

    def reload(self) -> ReloadReport:
        """Read the configuration again."""
        return messages.read_reload(self._call(self._stub.Reload, admin_pb2.ReloadRequest()))

    def _call(self, method: Callable[..., _Answer], request: object) -> _Answer:
        try:
            return method(request, timeout=self._timeout, metadata=self._metadata)
        except grpc.RpcError as error:
            raise to_error(error, self.server) from None


@contextlib.contextmanager
def connect(server: str, *, actor: str, timeout: float) -> Iterator[AdminClient]:
    """A client of the admin API at `server` (`host:port`); nothing is sent before the first call.

    Args:
        actor: who asks; recorded with changes.
        timeout: seconds for one call.
    """
    with grpc.insecure_channel(server, options=CHANNEL_OPTIONS) as channel:
        yield AdminClient(server, actor=actor, timeout=timeout, channel=channel)


def to_error(error: grpc.RpcError, server: str) -> StagegateError:
    """A failed call as an error of the tree; without a detail it came from gRPC itself."""
    code: grpc.StatusCode = error.code()
    text: str = error.details() or code.name
    detail = _detail(error)
    if detail is None:
        return _transport_error(code, text, server)
    if detail.problems:
        problems = [ConfigProblem(each.path, each.line, each.message) for each in detail.problems]
        return ConfigInvalid(detail.source, problems)
    if code is grpc.StatusCode.ABORTED:
        return Conflict(detail.message, current_revision=detail.current_revision, hint=detail.hint)
    return _KINDS.get(code, StagegateError)(detail.message, hint=detail.hint)


def _detail(error: grpc.RpcError) -> admin_pb2.ErrorDetail | None:
    metadata = cast("Iterable[tuple[str, bytes]]", error.trailing_metadata() or ())
    for key, value in metadata:
        if key == ERROR_DETAIL:
            with contextlib.suppress(DecodeError):
                return admin_pb2.ErrorDetail.FromString(value)
    return None


def _transport_error(code: grpc.StatusCode, text: str, server: str) -> StagegateError:
    if code is grpc.StatusCode.UNAVAILABLE:
        return Unavailable(
            f"no gateway answers at {server}",
            hint="start one with 'stagegate up', or name another with --server HOST:PORT or STAGEGATE_SERVER",
        )
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        return Unavailable(f"the gateway at {server} did not answer in time", hint="try again")
    if code is grpc.StatusCode.UNIMPLEMENTED:
        return NotSupported(
            f"{server} does not speak the admin API", hint="is that the admin port (listen.admin)?"
        )
    return _KINDS.get(code, StagegateError)(text)
