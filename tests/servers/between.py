"""A small HTTP server in the way: it forwards, or answers what a test tells it to, well or badly."""

from __future__ import annotations

import contextlib
import http.client
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

_MOST_SECONDS = 30.0


@dataclass(frozen=True)
class Asked:
    """A request; `path` has its query, header names are in lower case."""

    method: str
    path: str
    body: bytes
    headers: Mapping[str, str]


@dataclass(frozen=True)
class Answer:
    """What is sent.

    Attributes:
        cut: whether the connection ends in the middle of the body.
        after: waited for before anything is sent, at most 30 s.
        drip: seconds between two bytes of the body; 0 to send it as a whole.
    """

    status: int = 200
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    cut: bool = False
    after: threading.Event | None = None
    drip: float = 0.0


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that give a connection up are what is tested."""


class Between:
    """Attributes:
    uri: where it listens.
    asked: all requests so far.
    script: what to answer; None forwards to the server behind it.
    """

    def __init__(self, behind: str = "") -> None:
        self.asked: list[Asked] = []
        self.script: Callable[[Asked], Answer | None] = lambda _: None
        self.behind = behind
        server = _Server(("127.0.0.1", 0), _handler(self))
        self._server = server
        self.uri = f"http://127.0.0.1:{server.server_port}"
        self._thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        self._thread.start()

    def paths(self) -> list[str]:
        """Paths of all requests so far, without their queries."""
        return [urlsplit(each.path).path for each in self.asked]

    def close(self) -> None:
        """Stop listening."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def answer(self, asked: Asked) -> Answer:
        """What is sent for a request."""
        self.asked.append(asked)
        return self.script(asked) or self._forwarded(asked)

    def _forwarded(self, asked: Asked) -> Answer:
        where = urlsplit(self.behind)
        assert where.hostname is not None, f"nobody is behind to answer {asked}"
        connection = http.client.HTTPConnection(where.hostname, where.port, timeout=_MOST_SECONDS)
        with contextlib.closing(connection):
            headers = {name: value for name, value in asked.headers.items() if name != "host"}
            connection.request(asked.method, asked.path, asked.body or None, headers)
            with connection.getresponse() as answer:
                kept = {
                    name: value for name, value in answer.getheaders() if name.lower() not in _OF_A_CONNECTION
                }
                return Answer(answer.status, answer.read(), kept)


@contextlib.contextmanager
def between(behind: str = "") -> Iterator[Between]:
    """One that ends with the block."""
    made = Between(behind)
    try:
        yield made
    finally:
        made.close()


_OF_A_CONNECTION = frozenset({"connection", "content-length", "date", "server", "transfer-encoding"})


def _handler(owner: Between) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _serve(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length", "0")))
            headers = {name.lower(): value for name, value in self.headers.items()}
            answer = owner.answer(Asked(self.command, self.path, body, headers))
            if answer.after is not None:
                answer.after.wait(_MOST_SECONDS)
            with contextlib.suppress(OSError):
                self._send(answer)

        def _send(self, answer: Answer) -> None:
            self.send_response(answer.status)
            for name, value in answer.headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(answer.body) * (2 if answer.cut else 1)))
            self.end_headers()
            for piece in [answer.body] if not answer.drip else [bytes([each]) for each in answer.body]:
                self.wfile.write(piece)
                self.wfile.flush()
                time.sleep(answer.drip)
            self.close_connection = self.close_connection or answer.cut

        do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _serve  # noqa: N815 - the base class looks for these

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - as the base class calls it
            """Tests look at `asked`."""

    return Handler
