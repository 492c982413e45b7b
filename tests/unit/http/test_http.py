"""The metrics port over real sockets on loopback."""

from __future__ import annotations

import asyncio
import errno
import json
from collections.abc import AsyncIterator

import pytest

from gateway.config import Address
from gateway.http import MAX_CONNECTIONS, MAX_HEADER, serve_http
from gateway.metrics import LoadRecorder
from gateway.operations import Readiness
from router.errors import StateUnavailable
from tests.fakes.counters import FakeCounters
from tests.fakes.operations import FakeOperations


@pytest.fixture
def operations() -> FakeOperations:
    """The gateway behind the endpoints."""
    return FakeOperations()


@pytest.fixture
async def port(operations: FakeOperations) -> AsyncIterator[int]:
    """Where they listen."""
    address = Address("127.0.0.1", 0)
    async with serve_http(address, operations, FakeCounters(), LoadRecorder()) as bound:
        yield bound.port


async def exchange(port: int, sent: bytes) -> bytes:
    """All that comes back until the server closes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(sent)
    async with asyncio.timeout(10):
        received = await reader.read()
    writer.close()
    return received


async def request(port: int, method: str, path: str, *headers: str) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and body of one request."""
    lines = (f"{method} {path} HTTP/1.1", "Host: x", "Connection: close", *headers)
    head, _, body = (await exchange(port, "\r\n".join(lines).encode() + b"\r\n\r\n")).partition(b"\r\n\r\n")
    status, *fields = head.decode().split("\r\n")
    return int(status.split()[1]), dict(field.split(": ", 1) for field in fields), body


async def test_metrics_are_served(port: int) -> None:
    """In the text format, by default."""
    status, headers, body = await request(port, "GET", "/metrics")

    assert status == 200
    assert headers["Content-Type"].startswith("text/plain")
    assert int(headers["Content-Length"]) == len(body)
    assert b'stagegate_requests_total{arm="stable",code="OK",model="digits",version="1"} 9.0' in body


async def test_openmetrics_is_negotiated(port: int) -> None:
    """As Prometheus asks for it."""
    _, headers, body = await request(
        port, "GET", "/metrics?x=1", "Accept: application/openmetrics-text;version=1.0.0,text/plain;q=0.5"
    )

    assert headers["Content-Type"].startswith("application/openmetrics-text")
    assert body.endswith(b"# EOF\n")


async def test_a_living_process_says_so(port: int, operations: FakeOperations) -> None:
    """Whatever it is short of: a restart would not help."""
    operations.readiness_now = Readiness(ready=False, reasons=("no backend",))

    status, _, body = await request(port, "GET", "/livez")

    assert (status, json.loads(body)) == (200, {"live": True})


async def test_a_ready_gateway_says_so(port: int) -> None:
    """200 is what probes look at."""
    status, _, body = await request(port, "GET", "/readyz")

    assert (status, json.loads(body)) == (200, {"ready": True})


async def test_a_gateway_that_is_not_ready_says_why(port: int, operations: FakeOperations) -> None:
    """503, and the reasons for people."""
    operations.readiness_now = Readiness(ready=False, reasons=("no backend is up", "draining"))

    status, _, body = await request(port, "GET", "/readyz")

    assert status == 503
    assert json.loads(body) == {"ready": False, "reasons": ["no backend is up", "draining"]}


async def test_head_has_the_headers_and_no_body(port: int) -> None:
    """Some probes use it."""
    status, headers, body = await request(port, "HEAD", "/readyz")

    assert (status, int(headers["Content-Length"]), body) == (200, len(b'{"ready": true}\n'), b"")


async def test_a_connection_serves_several_requests(port: int) -> None:
    """Prometheus keeps its connection."""
    once = b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n"
    last = b"GET /livez HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"

    received = await exchange(port, once + once + last)

    assert received.count(b"HTTP/1.1 200 OK") == 3


async def test_an_old_client_gets_its_answer_and_the_end(port: int) -> None:
    """HTTP/1.0 does not keep connections."""
    assert (await exchange(port, b"GET /livez HTTP/1.0\r\n\r\n")).startswith(b"HTTP/1.1 200 OK")


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"GET /nope HTTP/1.1\r\nConnection: close\r\n\r\n", b"404 Not Found"),
        (b"DELETE /metrics HTTP/1.1\r\nConnection: close\r\n\r\n", b"405 Method Not Allowed"),
        (b"POST /metrics HTTP/1.1\r\nContent-Length: 5\r\n\r\nhello", b"405 Method Not Allowed"),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"400 Bad Request"),
        (b"GET /livez\r\n\r\n", b"400 Bad Request"),
        (b"\x16\x03\x01\x02\x00\r\n\r\n", b"400 Bad Request"),
        (b"GET /livez HTTP/1.1\r\nbad line\r\n\r\n", b"400 Bad Request"),
        (b"GET /livez HTTP/1.1\r\n name: x\r\n\r\n", b"400 Bad Request"),
        (
            b"GET /livez HTTP/1.1\r\nX: " + b"x" * 4 * MAX_HEADER + b"\r\n\r\n",
            b"431 Request Header Fields Too Large",
        ),
    ],
    ids=["path", "method", "body", "http2", "http0.9", "tls", "header", "folded", "long"],
)
async def test_what_is_not_served_is_refused_plainly(port: int, sent: bytes, status: bytes) -> None:
    """And the connection ends, so that nothing is taken for a second request."""
    received = await exchange(port, sent)

    assert received.startswith(b"HTTP/1.1 " + status)
    assert received.count(b"HTTP/1.1") == 1


async def test_an_error_of_ours_has_its_status(port: int, operations: FakeOperations) -> None:
    """From the one table."""
    operations.failure = StateUnavailable("the store is away", hint="wait")

    status, _, body = await request(port, "GET", "/metrics")

    assert (status, body) == (503, b"the store is away (wait)\n")


async def test_a_bug_is_a_500_and_the_port_lives_on(
    port: int, operations: FakeOperations, caplog: pytest.LogCaptureFixture
) -> None:
    """The log has the traceback."""
    operations.failure = KeyError("x")
    status, _, body = await request(port, "GET", "/readyz")
    alive, _, _ = await request(port, "GET", "/livez")

    assert (status, alive) == (500, 200)
    assert b"KeyError" not in body
    assert "KeyError" in caplog.text


async def test_connections_are_bounded(port: int) -> None:
    """One more than allowed is closed at once; the others go on."""
    held = [await asyncio.open_connection("127.0.0.1", port) for _ in range(MAX_CONNECTIONS)]
    for _, writer in held:
        writer.write(b"GET /livez HTTP/1.1\r\n\r\n")
    for reader, _ in held:
        await reader.readuntil(b"\r\n\r\n")
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    refused = await reader.read()
    for _, open_writer in held:
        open_writer.close()
    writer.close()

    assert refused == b""


async def test_a_port_in_use_is_told_as_such(port: int) -> None:
    """Whoever starts the gateway can name it."""
    with pytest.raises(OSError, match="in use") as caught:
        async with serve_http(Address("127.0.0.1", port), FakeOperations(), FakeCounters(), LoadRecorder()):
            pass

    assert caught.value.errno == errno.EADDRINUSE


async def test_an_open_connection_does_not_hold_up_the_end(operations: FakeOperations) -> None:
    """A scraper keeps its connection for ever."""
    async with asyncio.timeout(5):
        async with serve_http(Address("127.0.0.1", 0), operations, FakeCounters(), LoadRecorder()) as bound:
            reader, writer = await asyncio.open_connection("127.0.0.1", bound.port)
            writer.write(b"GET /livez HTTP/1.1\r\n\r\n")
            await reader.readuntil(b"\r\n\r\n")
        rest = await reader.read()
    writer.close()

    assert rest == b'{"live": true}\n'
