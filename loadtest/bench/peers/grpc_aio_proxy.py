"""A bare grpc.aio pass-through: `grpc_aio_proxy.py PORT BACKEND_PORT`."""

from __future__ import annotations

import asyncio
import sys
from typing import Any

import grpc

_OPTIONS = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
# Headers that belong to one connection or that the channel writes itself.
_OWN_HEADERS = {"user-agent", "content-type", "te", "grpc-accept-encoding"}


class PassThrough(grpc.GenericRpcHandler):  # type: ignore[type-arg] # not generic at run time
    """Sends every unary call on, as bytes."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._channel = channel
        self._calls: dict[str, Any] = {}

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[bytes, bytes]:
        """One handler a method; both sides without serialisers, so messages stay bytes."""
        method = handler_call_details.method
        call = self._calls.get(method)
        if call is None:
            call = self._calls[method] = self._channel.unary_unary(
                method, request_serializer=None, response_deserializer=None
            )

        async def forward(message: bytes, context: grpc.aio.ServicerContext[Any, Any]) -> bytes:
            metadata = [pair for pair in context.invocation_metadata() or () if pair[0] not in _OWN_HEADERS]
            try:
                answer: bytes = await call(message, metadata=metadata, timeout=context.time_remaining())
            except grpc.aio.AioRpcError as error:
                trailers: Any = error.trailing_metadata()  # the stubs of the two ends disagree on its type
                await context.abort(error.code(), error.details() or "", trailers)
            return answer

        return grpc.unary_unary_rpc_method_handler(forward)


async def main(port: int, backend_port: int) -> None:
    """Serves until it is told to end."""
    async with grpc.aio.insecure_channel(f"127.0.0.1:{backend_port}", options=_OPTIONS) as channel:
        server = grpc.aio.server(options=_OPTIONS)
        server.add_generic_rpc_handlers((PassThrough(channel),))
        server.add_insecure_port(f"127.0.0.1:{port}")
        await server.start()
        await server.wait_for_termination()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), int(sys.argv[2])))
