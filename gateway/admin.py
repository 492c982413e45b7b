"""The admin API: `stagegate.admin.v1` on the admin port. Translates and delegates; holds no decision."""

# ruff: noqa: N802 -- methods have the names that the protocol gives them

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import socket
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TYPE_CHECKING, Any

import grpc
from google.protobuf.message import Message

from gateway import admin_messages as messages
from gateway.config import Address
from gateway.operations import Change, Operations, Said
from gateway.status import INTERNAL, status_of
from protos.gen.stagegate.admin.v1 import admin_pb2, admin_pb2_grpc
from router.errors import ConfigInvalid, Conflict, InvalidInput, InvalidRoute, StagegateError
from router.model import parse_model_name

ACTOR = "stagegate-actor"
"""Request metadata: who asks, such as `ann@laptop`."""

ERROR_DETAIL = "stagegate-error-bin"
"""Trailing metadata of an error: a serialized `ErrorDetail`."""

MAX_MESSAGE = 64 << 20
"""Bytes of one request or answer; a list of 100,000 models fits."""

STOP_SECONDS = 2.0
"""How long running calls may take to finish at the end."""

_DEFAULT_HISTORY = 20
_MAX_HISTORY = 1_000
_MAX_ENDED = 200
_MAX_ACTOR = 256
_MAX_REASON = 1_000
_log = logging.getLogger("stagegate.admin")

if TYPE_CHECKING:
    # Generic in the stubs only.
    _Interceptor = grpc.aio.ServerInterceptor[Any, Any]
    _Context = grpc.aio.ServicerContext[Any, Any]
    _Inner = Callable[[Message, _Context], Awaitable[Message]]
else:
    _Interceptor = grpc.aio.ServerInterceptor


class AdminServicer(admin_pb2_grpc.AdminServicer):
    """Each call: request to values, one call of `Operations`, result to a message."""

    def __init__(self, operations: Operations) -> None:
        self._operations = operations

    async def ListModels(
        self, request: admin_pb2.ListModelsRequest, context: _Context
    ) -> admin_pb2.ListModelsResponse:
        """All models."""
        models = await self._operations.models()
        return await asyncio.to_thread(messages.write_models, models)

    async def ListVersions(
        self, request: admin_pb2.ListVersionsRequest, context: _Context
    ) -> admin_pb2.ListVersionsResponse:
        """One model's versions."""
        return messages.write_versions(await self._operations.versions(parse_model_name(request.model)))

    async def DescribeVersion(
        self, request: admin_pb2.DescribeVersionRequest, context: _Context
    ) -> admin_pb2.DescribeVersionResponse:
        """All that is known of one version."""
        model = parse_model_name(request.model)
        return messages.write_detail(await self._operations.describe(model, request.reference))

    async def Resolve(
        self, request: admin_pb2.ResolveRequest, context: _Context
    ) -> admin_pb2.ResolveResponse:
        """What a request would meet."""
        model = parse_model_name(request.model)
        said = Said(dict(request.headers), dict(request.parameters))
        return messages.write_resolution(await self._operations.resolve(model, request.reference, said))

    async def ListRoutes(
        self, request: admin_pb2.ListRoutesRequest, context: _Context
    ) -> admin_pb2.ListRoutesResponse:
        """All explicit routes."""
        return messages.write_route_table(await self._operations.routes())

    async def GetRoute(
        self, request: admin_pb2.GetRouteRequest, context: _Context
    ) -> admin_pb2.GetRouteResponse:
        """One route in force."""
        view = await self._operations.route(parse_model_name(request.model))
        return admin_pb2.GetRouteResponse(route=messages.write_route_view(view))

    async def ApplyRoutes(
        self, request: admin_pb2.ApplyRoutesRequest, context: _Context
    ) -> admin_pb2.ApplyRoutesResponse:
        """Write routes, all or none."""
        routes = [messages.read_route(route) for route in request.routes]
        change = _change(request.reason, context)
        if not routes:
            raise InvalidRoute("no route is given")
        for model, count in Counter(route.model for route in routes).items():
            if count > 1:
                raise InvalidRoute(f"route of {model!r} is given twice")
        changes = await self._operations.apply_routes(
            routes, expected_revision=_expected(request), change=change, force=request.force
        )
        return admin_pb2.ApplyRoutesResponse(
            revision=changes[-1].revision, changes=[messages.write_route_change(change) for change in changes]
        )

    async def DeleteRoute(
        self, request: admin_pb2.DeleteRouteRequest, context: _Context
    ) -> admin_pb2.DeleteRouteResponse:
        """Back to the implicit route."""
        change = await self._operations.delete_route(
            parse_model_name(request.model),
            expected_revision=_expected(request),
            change=_change(request.reason, context),
        )
        return admin_pb2.DeleteRouteResponse(
            revision=change.revision, change=messages.write_route_change(change)
        )

    async def RouteHistory(
        self, request: admin_pb2.RouteHistoryRequest, context: _Context
    ) -> admin_pb2.RouteHistoryResponse:
        """Changes of one route."""
        limit = min(request.limit or _DEFAULT_HISTORY, _MAX_HISTORY)
        changes = await self._operations.history(parse_model_name(request.model), limit)
        return admin_pb2.RouteHistoryResponse(
            changes=[messages.write_route_change(change) for change in changes]
        )

    async def AcceptVersion(
        self, request: admin_pb2.AcceptVersionRequest, context: _Context
    ) -> admin_pb2.AcceptVersionResponse:
        """A version takes over whatever contract it breaks."""
        accepted = await self._operations.accept(
            parse_model_name(request.model), request.reference, change=_change(request.reason, context)
        )
        return messages.write_accepted(accepted)

    async def Promote(self, request: admin_pb2.PromoteRequest, context: _Context) -> admin_pb2.MoveResponse:
        """A stage or alias names another version."""
        moved = await self._operations.promote(
            parse_model_name(request.model),
            request.reference,
            request.to,
            keep_existing=request.keep_existing,
            force=request.force,
            change=_change(request.reason, context),
        )
        return messages.write_moved(moved)

    async def Rollback(self, request: admin_pb2.RollbackRequest, context: _Context) -> admin_pb2.MoveResponse:
        """Traffic and registry go back."""
        moved = await self._operations.rollback(
            parse_model_name(request.model),
            request.pointer,
            request.version,
            change=_change(request.reason, context),
        )
        return messages.write_moved(moved)

    async def ListWrites(
        self, request: admin_pb2.ListWritesRequest, context: _Context
    ) -> admin_pb2.ListWritesResponse:
        """Registry changes that were decided here."""
        return messages.write_writes(await self._operations.writes(min(request.ended, _MAX_ENDED)))

    async def ClearWrite(
        self, request: admin_pb2.ClearWriteRequest, context: _Context
    ) -> admin_pb2.ClearWriteResponse:
        """Give one up."""
        row = await self._operations.clear_write(request.id, change=_change(request.reason, context))
        return admin_pb2.ClearWriteResponse(write=messages.write_write(row))

    async def GetStatus(
        self, request: admin_pb2.GetStatusRequest, context: _Context
    ) -> admin_pb2.GetStatusResponse:
        """The gateway at a glance."""
        return messages.write_status(await self._operations.status())

    async def Reload(self, request: admin_pb2.ReloadRequest, context: _Context) -> admin_pb2.ReloadResponse:
        """Read the configuration again."""
        return messages.write_reload(await self._operations.reload())


def _expected(request: admin_pb2.ApplyRoutesRequest | admin_pb2.DeleteRouteRequest) -> int | None:
    return request.expected_revision if request.HasField("expected_revision") else None


def _change(reason: str, context: _Context) -> Change:
    if len(reason) > _MAX_REASON:
        raise InvalidInput(f"reason has {len(reason)} characters; at most {_MAX_REASON} are kept")
    metadata = dict(context.invocation_metadata() or ())
    actor = metadata.get(ACTOR, "")
    return Change(actor=str(actor)[:_MAX_ACTOR] or context.peer(), reason=reason)


class _Errors(_Interceptor):
    """Turns every error of a call into its status, message and detail."""

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler[Any, Any]]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler[Any, Any]:
        handler = await continuation(handler_call_details)
        inner: _Inner | None = handler.unary_unary if handler is not None else None  # type: ignore[assignment]
        if inner is None:
            return handler

        async def answer(request: Message, context: _Context) -> Message:
            try:
                return await inner(request, context)
            except StagegateError as error:
                await _abort(context, error)
            except Exception:
                _log.exception("%s failed", handler_call_details.method)
                await context.abort(INTERNAL.grpc, "internal error; the gateway's log has the details")
            raise AssertionError("abort() raises")

        return grpc.unary_unary_rpc_method_handler(
            answer,
            request_deserializer=handler.request_deserializer,
            response_serializer=handler.response_serializer,
        )


async def _abort(context: _Context, error: StagegateError) -> None:
    detail = error_detail(error).SerializeToString()
    await context.abort(status_of(error).grpc, str(error), ((ERROR_DETAIL, detail),))


def error_detail(error: StagegateError) -> admin_pb2.ErrorDetail:
    """The error as data, for programs."""
    detail = admin_pb2.ErrorDetail(message=error.message, hint=error.hint, retry=error.retry)
    if isinstance(error, Conflict):
        detail.current_revision = error.current_revision
    if isinstance(error, ConfigInvalid):
        detail.source = error.source
        detail.problems.extend(
            admin_pb2.ConfigProblem(path=problem.path, line=problem.line, message=problem.message)
            for problem in error.problems
        )
    return detail


@contextlib.asynccontextmanager
async def serve_admin(address: Address, operations: Operations) -> AsyncIterator[Address]:
    """Serve the admin API while the context is open; yields the bound address.

    Raises:
        OSError: the address cannot be listened on (EADDRINUSE: somebody else does).
    """
    # gRPC tells no reason when it cannot bind, so the socket layer is asked first.
    _try_to_bind(address)
    server = grpc.aio.server(
        interceptors=[_Errors()],
        options=[
            # Without this a second gateway would bind the same port and take half of the calls.
            ("grpc.so_reuseport", 0),
            ("grpc.max_receive_message_length", MAX_MESSAGE),
            ("grpc.max_send_message_length", MAX_MESSAGE),
        ],
    )
    admin_pb2_grpc.add_AdminServicer_to_server(AdminServicer(operations), server)
    try:
        port = server.add_insecure_port(str(Address(address.numeric, address.port)))
    except RuntimeError:
        raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE)) from None
    await server.start()
    try:
        yield Address(address.host, port)
    finally:
        await server.stop(STOP_SECONDS)


def _try_to_bind(address: Address) -> None:
    family = socket.AF_INET6 if ":" in address.numeric else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind((address.numeric, address.port))
