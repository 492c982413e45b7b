"""Streams, REST, compression and failures: a backend in Python that answers them, and clients that ask."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import grpc
import grpc.aio
from tritonclient.grpc import service_pb2, service_pb2_grpc

from loadtest.bench.client import ASKED_MODEL
from loadtest.bench.errors import BadAnswers
from loadtest.bench.process import LOOPBACK

STREAMS, MESSAGES = 8, 500
CALLS = 500
RESTS = 1_000
_DATA = bytes(64)
_REFUSED = "refused"


@dataclass(frozen=True, slots=True)
class Ports:
    """Where something listens on the loopback address."""

    grpc: int
    http: int


def _answer(request: Any) -> Any:  # noqa: ANN401 - Triton's messages come without types
    return service_pb2.ModelInferResponse(
        model_name=request.model_name,
        model_version="1",
        id=request.id,
        outputs=[{"name": "Y", "datatype": "FP32", "shape": [1, 16]}],
        raw_output_contents=[_DATA],
    )


class _Backend(service_pb2_grpc.GRPCInferenceServiceServicer):  # type: ignore[misc]
    async def ModelInfer(self, request: Any, context: Any) -> Any:  # noqa: ANN401, N802
        if request.id == _REFUSED:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "unexpected shape for input 'X'")
        return _answer(request)

    async def ModelStreamInfer(self, requests: Any, context: Any) -> AsyncIterator[Any]:  # noqa: ANN401, N802
        async for request in requests:
            yield service_pb2.ModelStreamInferResponse(infer_response=_answer(request))

    async def ServerReady(self, request: Any, context: Any) -> Any:  # noqa: ANN401, N802
        return service_pb2.ServerReadyResponse(ready=True)


@asynccontextmanager
async def backends() -> AsyncIterator[Ports]:
    """A backend that speaks gRPC and REST, on free ports, until the block ends."""
    server = grpc.aio.server()
    service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(_Backend(), server)
    port = server.add_insecure_port(f"{LOOPBACK}:0")
    await server.start()
    rest = await asyncio.start_server(_serve_rest, LOOPBACK, 0)
    try:
        yield Ports(port, rest.sockets[0].getsockname()[1])
    finally:
        rest.close()
        await server.stop(None)


async def _serve_rest(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    body = (
        b'{"model_name":"digits.1","model_version":"1","outputs":'
        b'[{"name":"Y","datatype":"FP32","shape":[1,4],"data":[0.1,0.2,0.3,0.4]}]}'
    )
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body)
    try:
        while await _read_request(reader):
            writer.write(head + body)
            await writer.drain()
    finally:
        writer.close()


async def _read_request(reader: asyncio.StreamReader) -> bool:
    """Read one request to its end; False where there is none."""
    try:
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        if b"content-length:" in head:
            await reader.readexactly(int(head.partition(b"content-length:")[2].split(b"\r\n")[0]))
        elif b"chunked" in head:
            await reader.readuntil(b"0\r\n\r\n")
    except asyncio.IncompleteReadError:
        return False
    return True


async def ask_all(ports: Ports) -> dict[str, int]:
    """Ask a data plane for each kind of thing, one kind after the other.

    Returns:
        How often each was asked for.

    Raises:
        BadAnswers: an answer was not what it should be.
    """
    async with grpc.aio.insecure_channel(f"{LOOPBACK}:{ports.grpc}") as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        await asyncio.gather(*(_stream(stub, number) for number in range(STREAMS)))
        for number in range(CALLS):
            await _call(stub, _REFUSED if number % 2 else str(number), number)
    await _rest(ports.http)
    return {"messages of streams": STREAMS * MESSAGES, "compressed and refused calls": CALLS, "REST": RESTS}


def _request(ident: str) -> Any:  # noqa: ANN401
    return service_pb2.ModelInferRequest(
        model_name=ASKED_MODEL,
        id=ident,
        inputs=[{"name": "X", "datatype": "FP32", "shape": [1, 16]}],
        raw_input_contents=[_DATA],
    )


async def _stream(stub: Any, number: int) -> None:  # noqa: ANN401
    call = stub.ModelStreamInfer()
    for message in range(MESSAGES):
        await call.write(_request(f"{number}-{message}"))
        answer = await call.read()
        if answer.error_message or answer.infer_response.model_name != ASKED_MODEL:
            raise BadAnswers(f"a stream answered {answer}")
    await call.done_writing()


async def _call(stub: Any, ident: str, number: int) -> None:  # noqa: ANN401
    compression = grpc.Compression.Gzip if number // 2 % 2 else grpc.Compression.NoCompression
    try:
        answer = await stub.ModelInfer(_request(ident), compression=compression, timeout=10)
        name = answer.model_name
    except grpc.aio.AioRpcError as error:
        name = ASKED_MODEL if error.code() is grpc.StatusCode.INVALID_ARGUMENT else str(error)
    if name != ASKED_MODEL:
        raise BadAnswers(f"a call was answered with {name}")


async def _rest(port: int) -> None:
    body = b'{"id":"a","inputs":[{"name":"X","datatype":"FP32","shape":[1,4],"data":[1,2,3,4]}]}'
    head = f"POST /v2/models/{ASKED_MODEL}/infer HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    request = head.encode() + b"Content-Length: %d\r\n\r\n" % len(body) + body
    reader, writer = await asyncio.open_connection(LOOPBACK, port)
    for _ in range(RESTS):
        writer.write(request)
        answer = (await reader.readuntil(b"\r\n\r\n")).lower()
        if b" 200 " not in answer.partition(b"\r\n")[0]:
            raise BadAnswers(f"REST answered {answer.decode(errors='replace')}")
        if b"content-length:" in answer:
            await reader.readexactly(int(answer.partition(b"content-length:")[2].split(b"\r\n")[0]))
        else:
            await reader.readuntil(b"0\r\n\r\n")
    writer.close()
