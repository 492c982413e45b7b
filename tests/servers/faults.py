"""A proxy in front of a server of a test, which fails as it is told to."""

from __future__ import annotations

import contextlib
import enum
import http.client
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit


class Fault(enum.Enum):
    """What becomes of a request."""

    NONE = "passed on"
    ERROR = "answered with status 500"
    BUSY = "answered with status 503"
    CUT = "answered, and the connection ends in the middle of the body"
    NONSENSE = "answered with 200 and a page of HTML"
    HANG = "never answered"
    AWAY = "the connection ends without an answer"


Rule = Callable[[str, str], Fault]
"""The fault for a method and a path with its query; of AWS's JSON calls with their name behind it."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that give a connection up are nobody's fault."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


class Proxy:
    """Listens on a port of its own and passes requests on, headers and all.

    Attributes:
        url: where it listens.
        rule: which requests fail, and how.
        seen: method and path of all requests.
        between: is called before a request is passed on.
        unknown: headers that are answered with 501, as by servers that do not know them.
    """

    def __init__(self, target: str) -> None:
        proxy = self
        self.rule: Rule = lambda method, path: Fault.NONE
        self.between: Callable[[str, str], None] = lambda method, path: None
        self.seen: list[tuple[str, str]] = []
        self.unknown: tuple[str, ...] = ()
        self._target = urlsplit(target).netloc
        self._released = threading.Event()

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_: object) -> None:
                """Nothing is printed."""

            def handle_any(self) -> None:
                proxy._handle(self)

            do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = handle_any  # noqa: N815 - names of http.server

        self._server = _Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def fail(self, fault: Fault, part: str = "") -> None:
        """Let requests fail whose path has this part."""
        self.rule = lambda _, path: fault if part in path else Fault.NONE

    def heal(self) -> None:
        """Pass all on again."""
        self.fail(Fault.NONE)

    def close(self) -> None:
        """End; what hangs is let go."""
        self._released.set()
        self._server.shutdown()
        self._server.server_close()

    def _handle(self, handler: BaseHTTPRequestHandler) -> None:
        body = handler.rfile.read(int(handler.headers.get("content-length") or 0))
        path = handler.path + handler.headers.get("x-amz-target", "")
        self.seen.append((handler.command, path))
        fault = self.rule(handler.command, path)
        if fault in (Fault.HANG, Fault.AWAY):
            if fault is Fault.HANG:
                self._released.wait(60)
            handler.close_connection = True
            return
        if any(name in handler.headers for name in self.unknown):
            self._answer(handler, 501, b"<Error><Code>NotImplemented</Code></Error>")
            return
        if fault in (Fault.NONE, Fault.CUT):
            self.between(handler.command, handler.path)
            self._pass_on(handler, body, cut=fault is Fault.CUT)
            return
        status = {Fault.ERROR: 500, Fault.BUSY: 503}.get(fault, 200)
        self._answer(handler, status, b"<html><body>Welcome</body></html>")

    @staticmethod
    def _answer(handler: BaseHTTPRequestHandler, status: int, text: bytes) -> None:
        handler.send_response(status)
        handler.send_header("content-length", str(len(text)))
        handler.end_headers()
        handler.wfile.write(text)

    def _pass_on(self, handler: BaseHTTPRequestHandler, body: bytes, *, cut: bool) -> None:
        connection = http.client.HTTPConnection(self._target, timeout=30)
        try:
            connection.putrequest(handler.command, handler.path, skip_host=True, skip_accept_encoding=True)
            for name, value in handler.headers.items():
                connection.putheader(name, value)
            connection.endheaders(body)
            answer = connection.getresponse()
            content = answer.read()
        finally:
            connection.close()
        handler.send_response_only(answer.status)
        told = {"transfer-encoding", "content-length", "connection"}
        for name, value in answer.getheaders():
            if name.lower() not in told:
                handler.send_header(name, value)
        length = answer.getheader("content-length") if handler.command == "HEAD" else str(len(content))
        handler.send_header("content-length", length or "0")
        handler.end_headers()
        handler.wfile.write(content[: len(content) // 2] if cut else content)
        handler.close_connection = handler.close_connection or cut


@contextlib.contextmanager
def proxy(target: str) -> Iterator[Proxy]:
    """A proxy for as long as the block lasts."""
    made = Proxy(target)
    try:
        yield made
    finally:
        made.close()
