"""A proxy on loopback that spoils answers of an S3 server, as told for each prefix of keys."""

from __future__ import annotations

import contextlib
import http.client
import random
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

OBJECT_FAULTS = (
    *("cut", "reset", "flip", "error", "busy", "hang", "stall", "slow"),
    *("short", "long", "redirect", "whole", "unconditional"),
)
LISTING_FAULTS = ("list error", "list cut", "list short")


@dataclass
class Fault:
    """What happens to requests below one prefix.

    Attributes:
        kind: one of the faults above, or "" for none.
        left: how many requests it still happens to.
        before: called before the first object is read, once.
    """

    kind: str = ""
    left: int = 0
    seed: int = 0
    before: Callable[[], None] | None = None
    lock: threading.Lock = field(default_factory=threading.Lock)

    def strikes(self, listing: bool) -> bool:
        """Whether it happens to this request."""
        with self.lock:
            before, self.before = (None, self.before) if listing else (self.before, None)
            if before is not None:
                before()
            wanted = self.kind in (LISTING_FAULTS if listing else OBJECT_FAULTS)
            if not wanted or self.left <= 0:
                return False
            self.left -= 1
            return True


@dataclass
class Proxy:
    """A running proxy.

    Attributes:
        faults: by the first part of a key.
        fetch: gives an object's ETag and bytes.
        behind: kept connections to the server behind it.
    """

    endpoint: str
    faults: dict[str, Fault]
    ended: threading.Event
    fetch: Callable[[str], tuple[str, bytes]]
    behind: list[http.client.HTTPConnection] = field(default_factory=list)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    upstream: tuple[str, int]
    proxy: Proxy
    timeout = 20

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        listing = "list-type" in parse_qs(url.query)
        key = parse_qs(url.query).get("prefix", [""])[0] if listing else unquote(url.path).split("/", 2)[-1]
        fault = self.proxy.faults.get(key.partition("/")[0], Fault())
        struck = fault.strikes(listing)
        headers = {name: value for name, value in self.headers.items() if name.lower() != "connection"}
        if not listing and fault.kind in ("whole", "unconditional") and self.command == "GET":
            self._carelessly(key, whole=struck and fault.kind == "whole")
            return
        if struck and fault.kind == "hang":
            self._wait()
            return
        status, told, body = self._ask(headers)
        if not struck:
            self._answer(status, told, body)
        else:
            self._spoil(
                fault.kind.removeprefix("list "),
                random.Random(f"{fault.seed} {fault.left}"),  # noqa: S311 - nothing secret
                status,
                told,
                body,
            )

    do_HEAD = do_GET  # noqa: N815 - http.server's name

    def _carelessly(self, key: str, *, whole: bool) -> None:
        """As a store without If-Match, or without Range. The request cannot be changed: it is signed."""
        etag, body = self.proxy.fetch(key)
        start, _, end = self.headers.get("Range", "bytes=0-").removeprefix("bytes=").partition("-")
        if whole:
            self._answer(200, {"etag": etag}, body)
            return
        part = body[int(start) : int(end or len(body)) + 1]
        told = f"bytes {start}-{int(start) + len(part) - 1}/{len(body)}"
        self._answer(206, {"etag": etag, "content-range": told}, part)

    def _ask(self, headers: dict[str, str]) -> tuple[int, dict[str, str], bytes]:
        behind = self.proxy.behind
        upstream = behind.pop() if behind else http.client.HTTPConnection(*self.upstream, timeout=20)
        try:
            upstream.request(self.command, self.path, headers=headers)
            response = upstream.getresponse()
            told = {name.lower(): value for name, value in response.getheaders()}
            body = response.read()
        except BaseException:
            upstream.close()
            raise
        behind.append(upstream)
        return response.status, told, body

    def _answer(self, status: int, told: dict[str, str], body: bytes) -> None:
        self._begin(status, told, len(body) if self.command == "GET" else int(told.get("content-length", 0)))
        self.wfile.write(body)

    def _begin(self, status: int, told: dict[str, str], length: int) -> None:
        self.send_response(status)
        for name, value in told.items():
            if name not in ("content-length", "transfer-encoding", "connection", "date", "server"):
                self.send_header(name, value)
        self.send_header("Content-Length", str(length))
        self.end_headers()

    def _spoil(
        self, kind: str, chance: random.Random, status: int, told: dict[str, str], body: bytes
    ) -> None:
        at = chance.randrange(len(body) * 3 // 4, len(body)) if body else 0
        match kind:
            case "flip" if body:
                flipped = bytearray(body)
                flipped[at] ^= 1 << chance.randrange(8)
                self._answer(status, told, bytes(flipped))
            case "cut" | "reset":
                self._begin(status, told, len(body))
                self.wfile.write(body[:at])
                self._end(reset=kind == "reset")
            case "error" | "busy":
                code = 500 if kind == "error" else 503
                text = b"<Error><Code>InternalError</Code><Message>spoiled</Message></Error>"
                self._answer(code, {"content-type": "application/xml"}, text)
            case "stall":
                self._begin(status, told, len(body))
                self.wfile.write(body[:at])
                self.wfile.flush()
                self._wait()
            case "slow":
                self._begin(status, told, len(body))
                for piece in range(0, len(body), 100):
                    self.wfile.write(body[piece : piece + 100])
                    if self.proxy.ended.wait(0.02):
                        return
            case "short":
                self._answer(status, told, _shorter(body, at))
            case "long":
                self._answer(status, told, body + b"more")
            case "redirect":
                where = chance.choice(
                    ["http://169.254.169.254/latest", "http://127.0.0.2:9/x", "http://[::1]:9/"]
                )
                self._answer(307, {"location": where}, b"")
            case _:
                self._answer(status, told, body)

    def _wait(self) -> None:
        """Be silent until the peer goes or the test ends."""
        self.connection.settimeout(0.02)
        while not self.proxy.ended.is_set():
            with contextlib.suppress(TimeoutError):
                if not self.connection.recv(1):
                    break
        self.close_connection = True

    def _end(self, *, reset: bool) -> None:
        self.wfile.flush()
        if reset:
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()
        self.close_connection = True

    def handle(self) -> None:
        """A peer that goes in the middle is no news here."""
        with contextlib.suppress(OSError, ValueError, http.client.HTTPException):
            super().handle()

    def finish(self) -> None:
        """Likewise."""
        with contextlib.suppress(OSError, ValueError):
            super().finish()

    def log_message(self, *_: object) -> None:
        """Nothing to the console."""


def _shorter(body: bytes, at: int) -> bytes:
    """A listing without its first object, or a body that ends early as if that were all of it."""
    if b"ListBucketResult" not in body[:500]:
        return body[:at]
    first, _, rest = body.partition(b"<Contents>")
    return first + rest.partition(b"</Contents>")[2]


@contextlib.contextmanager
def in_front_of(endpoint: str, fetch: Callable[[str], tuple[str, bytes]]) -> Iterator[Proxy]:
    """Start a proxy in front of a server; it ends with the block."""
    url = urlsplit(endpoint)
    proxy = Proxy("", {}, threading.Event(), fetch)
    handler = type("Handler", (_Handler,), {"upstream": (url.hostname, url.port), "proxy": proxy})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    server.request_queue_size = 128
    proxy.endpoint = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield proxy
    finally:
        proxy.ended.set()
        server.shutdown()
        thread.join()
        server.server_close()
        for connection in proxy.behind:
            connection.close()
