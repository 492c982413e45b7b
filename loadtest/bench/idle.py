"""`python -m loadtest.bench.idle`: what does a client connection cost that does nothing?

Opens that many HTTP/2 connections to the data plane alone and reads its resident memory: after the
exchange of settings, and again after one answered request on each. The bar is 25 KiB a connection.
Only memory is measured, so a busy machine does no harm.
"""

from __future__ import annotations

import argparse
import json
import resource
import socket
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from hpack import Encoder
from hyperframe.frame import DataFrame, Frame, HeadersFrame, SettingsFrame, WindowUpdateFrame
from rich.console import Console

from loadtest.bench import tools
from loadtest.bench.backend import Backend
from loadtest.bench.client import ASKED_MODEL
from loadtest.bench.errors import BenchError
from loadtest.bench.footprint import footprint
from loadtest.bench.peers.stagegate import serve_options
from loadtest.bench.process import LOOPBACK, Process

BAR = 25 << 10
_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_HEAD = 9
_SPARE_DESCRIPTORS = 200
_PATIENCE = 30.0
_WINDOW = 1 << 24
_ANSWER_ROOM = 1 << 16


class Idle:
    """One connection: settings are exchanged, then it says nothing until it is asked to.

    Args:
        port: a port of the loopback.

    Raises:
        BenchError: the peer is no HTTP/2 server, or ends the connection.
    """

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection((LOOPBACK, port), timeout=_PATIENCE)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        grown = WindowUpdateFrame(0, window_increment=_WINDOW).serialize()
        self._socket.sendall(_PREFACE + SettingsFrame(0).serialize() + grown)
        self._until(lambda frame, _: isinstance(frame, SettingsFrame) and "ACK" not in frame.flags)
        self._socket.sendall(SettingsFrame(0, flags=["ACK"]).serialize())

    def ask(self, request: bytes) -> None:
        """Send one request, made by `request_frames`, and read its answer to the end.

        Raises:
            BenchError: there is none.
        """
        self._socket.sendall(request)
        self._until(lambda frame, flags: frame.stream_id == 1 and "END_STREAM" in flags)

    def close(self) -> None:
        """Close it."""
        self._socket.close()

    def _until(self, wanted: object) -> None:
        while True:
            frame, length = Frame.parse_frame_header(memoryview(self._exactly(_HEAD)))
            self._exactly(length)
            if callable(wanted) and wanted(frame, frame.flags):
                return

    def _exactly(self, count: int) -> bytes:
        got = bytearray()
        while len(got) < count:
            try:
                part = self._socket.recv(count - len(got))
            except TimeoutError:
                raise BenchError(f"no answer within {_PATIENCE:g} s") from None
            if not part:
                raise BenchError("the connection was closed")
            got += part
        return bytes(got)


def request_frames(message: bytes) -> bytes:
    """A whole ModelInfer as the first request of a connection."""
    headers = [
        (":method", "POST"),
        (":scheme", "http"),
        (":path", "/inference.GRPCInferenceService/ModelInfer"),
        (":authority", LOOPBACK),
        ("te", "trailers"),
        ("content-type", "application/grpc"),
    ]
    head = HeadersFrame(1, Encoder().encode(headers), flags=["END_HEADERS"])
    data = DataFrame(1, b"\0" + len(message).to_bytes(4, "big") + message, flags=["END_STREAM"])
    return head.serialize() + data.serialize()


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit code is 1 where a connection costs more than the bar, or nothing could be measured."""
    parsed = _parser().parse_args(arguments)
    console = Console(markup=False, highlight=False, soft_wrap=True)
    try:
        with tempfile.TemporaryDirectory(prefix="stagegate-bench-") as folder:
            found = _measure(parsed.connections, Path(folder))
    except BenchError as error:
        console.print(f"bench.idle: {error}", style="red")
        return 1
    for what, each in found.items():
        style = "green" if each <= BAR else "red"
        console.print(f"{parsed.connections} connections, {what}: {each / 1024:.1f} KiB each", style=style)
    return 0 if max(found.values()) <= BAR else 1


def _measure(connections: int, folder: Path) -> dict[str, float]:
    _raise_descriptors(connections + _SPARE_DESCRIPTORS)
    binaries = tools.build("constant-backend", "serve")
    with ExitStack() as stack:
        backend = Backend(binaries, folder=folder)
        stack.callback(backend.stop)
        serve = Process(
            "serve", [str(binaries / "serve"), *serve_options(backend.port)], folder=folder, talks=True
        )
        stack.callback(serve.stop)
        port = json.loads(serve.hear())["port"]
        request = request_frames(_named(ASKED_MODEL))
        first = Idle(port)
        stack.callback(first.close)
        first.ask(request)
        before = footprint(serve.pid).resident
        opened = []
        for _ in range(connections):
            opened.append(Idle(port))
            stack.callback(opened[-1].close)
        settled = footprint(serve.pid).resident
        for one in opened:
            one.ask(request)
        asked = footprint(serve.pid).resident
    return {
        "settings exchanged": (settled - before) / connections,
        "one request answered on each": (asked - before) / connections,
    }


def _named(model: str) -> bytes:
    """A ModelInferRequest with nothing but a name."""
    name = model.encode()
    return b"\x0a" + bytes([len(name)]) + name


def _raise_descriptors(wanted: int) -> None:
    """Children inherit it.

    Raises:
        BenchError: this account may not open so many files.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        try:
            most = hard if hard == resource.RLIM_INFINITY else max(hard, wanted)
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, most))
        except (ValueError, PermissionError):
            raise BenchError(f"{wanted} open files are needed, {hard} are allowed: ulimit -n") from None


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m loadtest.bench.idle", description=main.__doc__)
    parser.add_argument("--connections", type=int, default=10_000, help="how many (10,000)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
