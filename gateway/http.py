"""The metrics port: `/metrics` for Prometheus, `/livez` and `/readyz` for probes.

A small HTTP/1.1 server, since three answers are all there is: GET and HEAD, no bodies, strict limits, one
request at a time on a connection.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import re
import socket
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus

from gateway.config import Address
from gateway.metrics import CounterSource, LoadRecorder, render
from gateway.operations import Operations
from gateway.status import status_of
from router.errors import StagegateError

MAX_HEADER = 16 << 10
"""Bytes of a request line with all headers."""

READ_SECONDS = 5.0
"""How long a request may take to arrive; a connection without one is closed."""

WRITE_SECONDS = 30.0
"""How long a client may take to accept an answer."""

MAX_CONNECTIONS = 64
"""Open connections; more are closed at once."""

LINGER_SECONDS = 1.0
"""How long what a refused client still sends is read away, so that it sees the answer and not a reset."""

_REQUEST_LINE = re.compile(r"(?P<method>[A-Z]+) (?P<target>/\S*) HTTP/1\.(?P<minor>[01])")
_log = logging.getLogger("stagegate.http")


@dataclass(frozen=True, slots=True)
class _Request:
    """A request without a body.

    Attributes:
        headers: by lower-case name; of a repeated one the last.
        close: whether the connection ends after the answer.
    """

    method: str
    path: str
    headers: Mapping[str, str]
    close: bool


@dataclass(frozen=True, slots=True)
class _Answer:
    status: HTTPStatus
    body: bytes = b""
    content_type: str = "text/plain; charset=utf-8"
    headers: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def text(cls, status: HTTPStatus, text: str, headers: Mapping[str, str] | None = None) -> _Answer:
        return cls(status, f"{text}\n".encode(), headers=headers or {})

    @classmethod
    def json(cls, status: HTTPStatus, value: object) -> _Answer:
        return cls(status, json.dumps(value).encode() + b"\n", "application/json")


class _BadRequestError(Exception):
    """A request that cannot be answered otherwise; the connection ends."""

    def __init__(self, status: HTTPStatus, text: str) -> None:
        super().__init__(text)
        self.answer = _Answer.text(status, text)


@contextlib.asynccontextmanager
async def serve_http(
    address: Address,
    operations: Operations,
    counters: CounterSource,
    loads: LoadRecorder,
    inherited: socket.socket | None = None,
) -> AsyncIterator[Address]:
    """Serve the endpoints while the context is open; yields the bound address.

    Args:
        inherited: a listening socket to serve instead of one of its own; it becomes this server's.

    Raises:
        OSError: the address cannot be listened on (EADDRINUSE: somebody else does).
    """
    handler = _Connections(_Endpoints(operations, counters, loads))
    if inherited is None:
        server = await asyncio.start_server(
            handler.serve, address.numeric, address.port, limit=MAX_HEADER, reuse_port=False
        )
    else:
        server = await asyncio.start_server(handler.serve, sock=inherited, limit=MAX_HEADER)
    try:
        yield Address(address.host, server.sockets[0].getsockname()[1])
    finally:
        server.close()
        await handler.close()


class _Endpoints:
    """Path to answer."""

    def __init__(self, operations: Operations, counters: CounterSource, loads: LoadRecorder) -> None:
        self._operations = operations
        self._counters = counters
        self._loads = loads
        self._scrape = asyncio.Lock()
        self._table = {"/metrics": self._metrics, "/livez": self._livez, "/readyz": self._readyz}

    async def answer(self, request: _Request) -> _Answer:
        """Answer one request; every error becomes an answer."""
        endpoint = self._table.get(request.path)
        if endpoint is None:
            return _Answer.text(HTTPStatus.NOT_FOUND, f"not found; here are {', '.join(self._table)}")
        if request.method not in ("GET", "HEAD"):
            return _Answer.text(HTTPStatus.METHOD_NOT_ALLOWED, "use GET or HEAD", {"Allow": "GET, HEAD"})
        try:
            return await endpoint(request)
        except StagegateError as error:
            return _Answer.text(status_of(error).http, str(error))
        except Exception:
            _log.exception("GET %s failed", request.path)
            return _Answer.text(HTTPStatus.INTERNAL_SERVER_ERROR, "internal error; the log has the details")

    async def _livez(self, request: _Request) -> _Answer:
        return _Answer.json(HTTPStatus.OK, {"live": True})

    async def _readyz(self, request: _Request) -> _Answer:
        readiness = await self._operations.readiness()
        if readiness.ready:
            return _Answer.json(HTTPStatus.OK, {"ready": True})
        body = {"ready": False, "reasons": list(readiness.reasons)}
        return _Answer.json(HTTPStatus.SERVICE_UNAVAILABLE, body)

    async def _metrics(self, request: _Request) -> _Answer:
        accept = request.headers.get("accept", "")
        # One scrape at a time: several at once would only make each other slower.
        async with self._scrape:
            gauges = await self._operations.gauges()
            body, content_type = await asyncio.to_thread(
                lambda: render(self._counters.counters(), gauges, self._loads, accept)
            )
        return _Answer(HTTPStatus.OK, body, content_type)


class _Connections:
    """Reads requests from connections and writes answers."""

    def __init__(self, endpoints: _Endpoints) -> None:
        self._endpoints = endpoints
        self._tasks: set[asyncio.Task[None]] = set()

    def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Take one connection."""
        if len(self._tasks) >= MAX_CONNECTIONS:
            writer.close()
            return
        task = asyncio.create_task(self._serve(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        """End all connections."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while not await self._exchange(reader, writer):
                pass
            await _linger(reader, writer)
        except (OSError, TimeoutError, asyncio.IncompleteReadError):
            pass  # the client went away or was too slow; there is nobody to tell
        finally:
            writer.close()

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """One request and its answer; whether the connection ends with it."""
        try:
            async with asyncio.timeout(READ_SECONDS):
                request = await _read_request(reader)
        except _BadRequestError as error:
            await _write(writer, error.answer, head=False, close=True)
            return True
        if request is None:
            return True
        answer = await self._endpoints.answer(request)
        await _write(writer, answer, head=request.method == "HEAD", close=request.close)
        return request.close


async def _read_request(reader: asyncio.StreamReader) -> _Request | None:
    """The next request, or None where the client is done."""
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.LimitOverrunError:
        status = HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE
        raise _BadRequestError(status, f"headers are limited to {MAX_HEADER} bytes") from None
    except asyncio.IncompleteReadError as error:
        if not error.partial:
            return None
        raise
    request_line, *lines = head[:-4].decode("latin-1").split("\r\n")
    found = _REQUEST_LINE.fullmatch(request_line)
    if found is None:
        raise _BadRequestError(HTTPStatus.BAD_REQUEST, "not an HTTP/1 request")
    headers = _headers(lines)
    return _Request(
        found["method"], found["target"].partition("?")[0], headers, _closes(found["minor"], headers)
    )


def _closes(minor: str, headers: Mapping[str, str]) -> bool:
    # No body is ever read, so a connection that brings one cannot be used again.
    if headers.get("content-length", "0") != "0" or "transfer-encoding" in headers:
        return True
    connection = headers.get("connection", "").lower()
    return "close" in connection or (minor == "0" and "keep-alive" not in connection)


def _headers(lines: list[str]) -> dict[str, str]:
    headers: dict[str, str] = {}
    for line in lines:
        name, colon, value = line.partition(":")
        if not colon or not name or name != name.strip():
            raise _BadRequestError(HTTPStatus.BAD_REQUEST, "a header line cannot be read")
        headers[name.lower()] = value.strip()
    return headers


async def _linger(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Say that nothing more comes, and read away what the client was about to send."""
    if writer.can_write_eof():
        writer.write_eof()
    async with asyncio.timeout(LINGER_SECONDS):
        while await reader.read(MAX_HEADER):
            pass


async def _write(writer: asyncio.StreamWriter, answer: _Answer, *, head: bool, close: bool) -> None:
    lines = [
        f"HTTP/1.1 {answer.status.value} {answer.status.phrase}",
        f"Content-Type: {answer.content_type}",
        f"Content-Length: {len(answer.body)}",
        "Cache-Control: no-store",
        *(f"{name}: {value}" for name, value in answer.headers.items()),
        f"Connection: {'close' if close else 'keep-alive'}",
    ]
    writer.write("\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + (b"" if head else answer.body))
    # Not wait_for: before Python 3.12 that loses a cancellation that meets a drain that is done.
    async with asyncio.timeout(WRITE_SECONDS):
        await writer.drain()
