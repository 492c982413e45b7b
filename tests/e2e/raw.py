"""Both ends of HTTP/2 by hand: a client that may send anything, and a backend that does what it is told."""

from __future__ import annotations

import contextlib
import functools
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import (
    DataReceived,
    Event,
    RequestReceived,
    ResponseReceived,
    StreamEnded,
    StreamReset,
    TrailersReceived,
)
from h2.exceptions import ProtocolError, StreamClosedError
from h2.settings import SettingCodes

INFER = "/inference.GRPCInferenceService/ModelInfer"
STREAM = "/inference.GRPCInferenceService/ModelStreamInfer"
PATIENCE = 10.0

Headers = list[tuple[bytes, bytes]]


def frame(message: bytes, flag: int = 0, length: int | None = None) -> bytes:
    """A gRPC message with its prefix, which may lie about the length."""
    return struct.pack(">BI", flag, len(message) if length is None else length) + message


def varint(number: int) -> bytes:
    """A protobuf varint."""
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def text_field(number: int, value: bytes) -> bytes:
    """A length-delimited protobuf field."""
    return varint(number << 3 | 2) + varint(len(value)) + value


def request(model: bytes = b"digits", version: bytes = b"", rest: bytes = b"") -> bytes:
    """A ModelInferRequest, or any other message that has the names in fields 1 and 2."""
    return text_field(1, model) + (text_field(2, version) if version else b"") + rest


def tensor(size: int, byte: bytes = b"t") -> bytes:
    """`raw_input_contents` of that many bytes."""
    return text_field(7, byte * size)


def call_headers(
    path: str = INFER, *more: tuple[str, str | bytes], method: str = "POST", content: str = "application/grpc"
) -> Headers:
    """What a gRPC client sends."""
    pairs: Iterable[tuple[str, str | bytes]] = (
        (":method", method),
        (":scheme", "http"),
        (":path", path),
        (":authority", "gateway"),
        ("te", "trailers"),
        ("content-type", content),
        *more,
    )
    return [(name.encode(), value if isinstance(value, bytes) else value.encode()) for name, value in pairs]


@dataclass
class Answer:
    """What came back on one stream."""

    headers: dict[str, str] = field(default_factory=dict)
    pairs: list[tuple[str, str]] = field(default_factory=list)
    body: bytearray = field(default_factory=bytearray)
    trailers: dict[str, str] = field(default_factory=dict)
    frames: int = 0
    ended: bool = False
    reset: int | None = None

    @property
    def over(self) -> bool:
        """Whether nothing more can come."""
        return self.ended or self.reset is not None

    @property
    def code(self) -> int:
        """The gRPC status; -1 where there is none."""
        return int(self.trailers.get("grpc-status", self.headers.get("grpc-status", "-1")))

    @property
    def message(self) -> str:
        """The `grpc-message`, as it is on the wire."""
        return self.trailers.get("grpc-message", self.headers.get("grpc-message", ""))


def _texts(headers: Iterable[tuple[bytes | str, bytes | str]]) -> list[tuple[str, str]]:
    def text(value: bytes | str) -> str:
        return value if isinstance(value, str) else value.decode("latin-1")

    return [(text(name), text(value)) for name, value in headers]


class Client:
    """One HTTP/2 connection to a port of the loopback."""

    def __init__(
        self, port: int, *, window: int = 1 << 24, taking: bool = True, tls: ssl.SSLContext | None = None
    ) -> None:
        self.sock = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if tls is not None:
            self.sock = tls.wrap_socket(self.sock, server_hostname="localhost")
        self.h2 = H2Connection(
            H2Configuration(
                client_side=True,
                header_encoding=None,
                validate_outbound_headers=False,
                normalize_outbound_headers=False,
            )
        )
        self.h2.initiate_connection()
        self.h2.update_settings({SettingCodes.INITIAL_WINDOW_SIZE: window})
        if taking:
            self.h2.increment_flow_control_window(1 << 28)
        self.taking = taking
        self.answers: dict[int, Answer] = {}
        self.goaway: int | None = None
        self.goaways: list[int] = []
        self._begun = bytearray()
        self.closed = False
        self.events: list[Event] = []
        self.flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        self.sock.close()

    def flush(self) -> None:
        """Send what h2 has made; a connection that the peer closed is noted, not raised."""
        try:
            self.sock.sendall(self.h2.data_to_send())
        except OSError:
            self.closed = True

    def raw(self, data: bytes) -> None:
        """Send bytes as they are, after what h2 has made."""
        self.flush()
        with contextlib.suppress(OSError):
            self.sock.sendall(data)

    def open(self, headers: Headers | None = None, end: bool = False) -> int:
        """Begin a call; gives its stream."""
        stream = self.h2.get_next_available_stream_id()
        self.answers[stream] = Answer()
        self.h2.send_headers(stream, call_headers() if headers is None else headers, end_stream=end)
        self.flush()
        return stream

    def data(self, stream: int, body: bytes, end: bool = False, pad: int | None = None) -> None:
        """One DATA frame."""
        self.h2.send_data(stream, body, end_stream=end, pad_length=pad)
        self.flush()

    def stuff(self, stream: int, body: bytes, end: bool = True) -> None:
        """A body in as many frames as the peer's windows ask for. Stops where the answer is there."""
        at = 0
        while at < len(body) and not self.answers[stream].over:
            room = min(self.h2.local_flow_control_window(stream), self.h2.max_outbound_frame_size)
            if room == 0:
                self.pump(lambda: self.answers[stream].over or self.h2.local_flow_control_window(stream) > 0)
                continue
            self.h2.send_data(stream, body[at : at + room])
            at += room
            self.flush()
            self.pump(lambda: True)
        if end and not self.answers[stream].over:
            self.h2.end_stream(stream)
            self.flush()

    def reset(self, stream: int, code: int = 8) -> None:
        """Give a call up."""
        self.h2.reset_stream(stream, code)
        self.flush()

    def call(self, body: bytes, headers: Headers | None = None, seconds: float = PATIENCE) -> Answer:
        """A whole call with these bytes as its body."""
        stream = self.open(headers)
        self.stuff(stream, body)
        return self.answer(stream, seconds)

    def answer(self, stream: int, seconds: float = PATIENCE) -> Answer:
        """Wait for the end of a call."""
        answer = self.answers[stream]
        self.pump(lambda: answer.over, seconds)
        assert answer.over, (
            f"no end of stream {stream} in {seconds} s (closed={self.closed}, goaway={self.goaway})"
        )
        return answer

    def pump(self, until: Callable[[], bool], seconds: float = PATIENCE) -> bool:
        """Read until something holds; gives whether it does."""
        end = time.monotonic() + seconds
        first = True
        while first or not until():
            left = end - time.monotonic()
            if self.closed or left <= 0:
                return until()
            # What is there already is always read, so that windows and answers are seen in time.
            self.sock.settimeout(0.0005 if first and until() else max(left, 0.001))
            first = False
            try:
                data = self.sock.recv(1 << 16)
            except TimeoutError:
                continue
            except OSError:
                data = b""
            if not data:
                self.closed = True
                return until()
            self._take(data)
        return True

    def _take(self, data: bytes) -> None:
        for event in self.h2.receive_data(self._without_goaway(data)):
            self.events.append(event)
            match event:
                case ResponseReceived(stream_id=int(stream), headers=list(headers)):
                    self.answers[stream].pairs += _texts(headers)
                    self.answers[stream].headers = dict(_texts(headers))
                case TrailersReceived(stream_id=int(stream), headers=list(headers)):
                    self.answers[stream].pairs += _texts(headers)
                    self.answers[stream].trailers = dict(_texts(headers))
                case DataReceived(stream_id=int(stream), data=bytes(body), flow_controlled_length=int(size)):
                    self.answers[stream].body += body
                    self.answers[stream].frames += 1
                    if self.taking and size:
                        self.h2.acknowledge_received_data(size, stream)
                case StreamEnded(stream_id=int(stream)):
                    self.answers[stream].ended = True
                case StreamReset(stream_id=int(stream), error_code=code):
                    self.answers[stream].reset = int(code)
                case _:
                    pass
        self.flush()

    def _without_goaway(self, data: bytes) -> bytes:
        """Whole frames, and no GOAWAY: this h2 takes nothing after one, but a first GOAWAY is no end."""
        self._begun += data
        whole = bytearray()
        while len(self._begun) >= 9:
            size = 9 + int.from_bytes(self._begun[:3], "big")
            if len(self._begun) < size:
                break
            one = bytes(self._begun[:size])
            del self._begun[:size]
            if one[3] == 7:
                self.goaway = int.from_bytes(one[13:17], "big")
                self.goaways.append(int.from_bytes(one[9:13], "big"))
            else:
                whole += one
        return bytes(whole)


class Exchange:
    """One call as the backend sees it, and the means to answer it from any thread."""

    def __init__(self, connection: _Served, stream: int, headers: Headers) -> None:
        self._connection = connection
        self.stream = stream
        self.pairs = _texts(headers)
        self.headers = dict(self.pairs)
        self.body = bytearray()
        self.ended = threading.Event()
        self.gone = threading.Event()
        self.reset: int | None = None
        self.at = time.monotonic()

    @property
    def message(self) -> bytes:
        """The first message, without its prefix."""
        return bytes(self.body[5:])

    def head(self, *more: tuple[str, str], end: bool = False) -> None:
        """Begin the answer."""
        pairs = [(":status", "200"), ("content-type", "application/grpc"), *more]
        self._connection.act(lambda h2: h2.send_headers(self.stream, pairs, end_stream=end))

    def send(self, body: bytes) -> None:
        """DATA, as far as the windows allow; the rest goes out as they open."""
        self._connection.queue(self.stream, body)

    def trailers(self, *pairs: tuple[str, str]) -> None:
        """End the answer; `grpc-status: 0` where nothing else is said."""
        said = list(pairs) or [("grpc-status", "0")]
        self._connection.queue(
            self.stream, b"", lambda: self._connection.h2.send_headers(self.stream, said, end_stream=True)
        )

    def ok(self, message: bytes = b"") -> None:
        """A whole answer of one message."""
        self.head()
        self.send(frame(message))
        self.trailers()

    def refuse(self, code: int) -> None:
        """RST_STREAM."""
        self._connection.act(lambda h2: h2.reset_stream(self.stream, code))

    def goaway(self, last: int, code: int = 0) -> None:
        """GOAWAY, then close."""
        self._connection.act(lambda h2: h2.close_connection(code, last_stream_id=last))

    def cut(self) -> None:
        """Close the connection without a word."""
        self._connection.close()


def _no_end() -> None:
    """The answer goes on."""


class _Served:
    """One connection to the backend, with a thread of its own."""

    def __init__(self, sock: socket.socket, backend: Backend) -> None:
        self.sock = sock
        self.backend = backend
        self.lock = threading.RLock()
        self.h2 = H2Connection(
            H2Configuration(
                client_side=False,
                header_encoding=None,
                validate_outbound_headers=False,
                validate_inbound_headers=False,
                normalize_outbound_headers=False,
            )
        )
        # Huffman coding of a mebibyte takes this library seconds.
        plain = functools.partial(self.h2.encoder.encode, huffman=False)
        self.h2.encoder.encode = plain  # type: ignore[method-assign]
        self.calls: dict[int, Exchange] = {}
        self.pending: dict[int, bytearray] = {}
        self.ends: dict[int, Callable[[], object]] = {}
        self.thread = threading.Thread(target=self.run, daemon=True)

    def act(self, what: Callable[[H2Connection], object]) -> None:
        with self.lock, contextlib.suppress(ProtocolError, StreamClosedError, OSError):
            what(self.h2)
            self.sock.sendall(self.h2.data_to_send())

    def queue(self, stream: int, body: bytes, end: Callable[[], object] | None = None) -> None:
        with self.lock:
            self.pending.setdefault(stream, bytearray()).extend(body)
            if end:
                self.ends[stream] = end
            self.push()

    def push(self) -> None:
        for stream, left in list(self.pending.items()):
            with contextlib.suppress(ProtocolError, OSError):
                while left:
                    room = min(
                        self.h2.local_flow_control_window(stream), self.h2.max_outbound_frame_size, len(left)
                    )
                    if room <= 0:
                        break
                    self.h2.send_data(stream, bytes(left[:room]))
                    del left[:room]
                if not left:
                    del self.pending[stream]
                    self.ends.pop(stream, _no_end)()
                self.sock.sendall(self.h2.data_to_send())

    def run(self) -> None:
        with contextlib.suppress(OSError, ProtocolError):
            with self.lock:
                self.h2.initiate_connection()
                self.h2.update_settings({SettingCodes.MAX_CONCURRENT_STREAMS: self.backend.streams})
                self.h2.increment_flow_control_window(1 << 28)
                self.sock.sendall(self.h2.data_to_send())
            while data := self.sock.recv(1 << 16):
                with self.lock:
                    events = self.h2.receive_data(data)
                    self.push()
                    self.sock.sendall(self.h2.data_to_send())
                for event in events:
                    self.take(event)
                with self.lock:
                    self.sock.sendall(self.h2.data_to_send())
        for call in self.calls.values():
            call.gone.set()
        self.sock.close()

    def take(self, event: Event) -> None:
        match event:
            case RequestReceived(stream_id=int(stream), headers=list(headers)):
                call = Exchange(self, stream, headers)
                self.calls[stream] = call
                self.backend.calls.append(call)
                self.backend.on_head(call)
            case DataReceived(stream_id=int(stream), data=bytes(body), flow_controlled_length=int(size)):
                self.calls[stream].body += body
                self.backend.on_data(self.calls[stream])
                if size and self.backend.taking:
                    self.act(lambda h2: h2.acknowledge_received_data(size, stream))
            case StreamEnded(stream_id=int(stream)):
                self.calls[stream].ended.set()
                self.backend.on_end(self.calls[stream])
            case StreamReset(stream_id=int(stream), error_code=code):
                self.calls[stream].reset = int(code)
                self.calls[stream].gone.set()
            case _:
                pass

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self.sock.shutdown(socket.SHUT_RDWR)


def _nothing(call: Exchange) -> None:
    """Do nothing yet."""


class Backend:
    """An HTTP/2 server of which a test says what it does at each point of a call."""

    def __init__(self, streams: int = 1000) -> None:
        self.on_head: Callable[[Exchange], None] = _nothing
        self.on_data: Callable[[Exchange], None] = _nothing
        self.on_end: Callable[[Exchange], None] = Exchange.ok
        self.calls: list[Exchange] = []
        self.taking = True
        self.streams = streams
        self.connections: list[_Served] = []
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self.listener.getsockname()[1]}"
        self.thread = threading.Thread(target=self._accept, daemon=True)
        self.thread.start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                sock, _ = self.listener.accept()
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                served = _Served(sock, self)
                self.connections.append(served)
                served.thread.start()

    def stop(self) -> None:
        """Close everything and wait for the threads."""
        with contextlib.suppress(OSError):
            self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        self.thread.join(5)
        for served in self.connections:
            served.close()
            served.thread.join(5)
            served.sock.close()
