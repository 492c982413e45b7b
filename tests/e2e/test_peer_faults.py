"""What other servers and proxies were seen to do wrong under bad input, and that it does not happen here.

Each class is one such fault. More on the same subjects: padding that holds frames, gzip bombs, long names and
texts, many large header lists, GET and PUT, odd paths and trailers-only answers in `test_raw_frames`; clients
that take nothing, floods and provoked resets in `test_defences`; even stream ids, DATA on stream 0 and
duplicate pseudo-headers also by h2spec (`make conformance`).
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import threading
import time
import zlib
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest
from hpack import Encoder

from gateway.bridge import DataPlane, Settings
from loadtest.bench.cpu import process_tree
from loadtest.bench.process import Process
from tests.e2e.conftest import Gateway, start_gateway, wait_until
from tests.e2e.digits import IMAGES, inputs
from tests.e2e.load import SteadyLoad
from tests.e2e.raw import (
    INFER,
    STREAM,
    Answer,
    Backend,
    Client,
    Exchange,
    call_headers,
    frame,
    request,
    tensor,
    text_field,
    varint,
)
from tests.e2e.test_raw_frames import EXHAUSTED, HASTY, INTERNAL, OK, SMALL, free, memory, started, table

LIVE = "/inference.GRPCInferenceService/ServerLive"
CALM = 11


@pytest.fixture
def backend() -> Iterator[Backend]:
    """A backend that answers every call with an empty message."""
    running = Backend()
    yield running
    running.stop()


def start(backend: Backend, settings: Settings = SMALL) -> DataPlane:
    """A data plane in front of the backend."""
    running = DataPlane(settings)
    running.publish(table(backend))
    running.set_ready(True)
    return running


@pytest.fixture
def plane(backend: Backend) -> Iterator[DataPlane]:
    """A data plane that takes messages up to 1 MiB."""
    running = start(backend)
    yield running
    running.stop()


@pytest.fixture
def client(plane: DataPlane) -> Iterator[Client]:
    """One connection."""
    with Client(plane.inference_port) as connected:
        yield connected


def digits_request() -> bytes:
    """A whole request that the real model answers."""
    shape = text_field(3, varint(1) + varint(IMAGES.shape[1]))
    image = text_field(5, text_field(1, b"image") + text_field(2, b"FP32") + shape)
    return request(rest=image + text_field(7, IMAGES[0].tobytes()))


def resident(pid: int) -> int:
    """Resident bytes of a process."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def tritons_of(gateway: Gateway) -> list[int]:
    """The Triton servers that a gateway started."""
    found = []
    for process in process_tree(gateway.process.pid):
        program = Path(f"/proc/{process}/cmdline").read_bytes().partition(b"\0")[0]
        if program.endswith(b"/tritonserver"):
            found.append(process)
    return found


class TestRequestAndReset:
    """A Triton was seen to die of whole requests that are reset at once, beside ordinary traffic."""

    CALLS = 5_000

    def test_a_real_triton_lives_and_others_see_nothing(self, up: Gateway) -> None:
        """5,000 of them over as many connections as it takes: each is cut off for resetting so fast."""
        client = up.client()
        metadata = client.get_model_metadata("digits")
        client.infer("digits", inputs(metadata))
        before = tritons_of(up)
        memory_before = resident(up.process.pid)
        assert before
        port = int(up.inference.rpartition(":")[2])
        body = frame(digits_request())

        with SteadyLoad(up.inference, metadata.inputs[0].name) as load:
            sent = cut = 0
            while sent < self.CALLS:
                with Client(port) as hostile:
                    assert hostile.call(frame(b""), call_headers(LIVE)).code == OK
                    while sent < self.CALLS and not hostile.closed:
                        sent += _send_and_reset(hostile, body, 50)
                        hostile.pump(lambda: False, 0.001)
                    cut += hostile.goaway == CALM
            wait_until("ordinary calls go on", lambda: len(load.versions) > 20)

        assert load.failures == []
        assert cut > 5
        assert tritons_of(up) == before
        client.infer("digits", inputs(metadata))
        client.close()
        assert resident(up.process.pid) - memory_before < 32 << 20
        wait_until("nothing is under way", lambda: _all_free(up))


def _send_and_reset(client: Client, body: bytes, count: int) -> int:
    """That many whole requests, each followed by RST_STREAM, in one piece."""
    for _ in range(count):
        stream = client.h2.get_next_available_stream_id()
        client.h2.send_headers(stream, call_headers())
        client.h2.send_data(stream, body, end_stream=True)
        client.h2.reset_stream(stream, 8)
        client.answers[stream] = Answer(reset=8)
    client.flush()
    return count


def _all_free(gateway: Gateway) -> bool:
    lines = gateway.http("/metrics")[1].splitlines()
    return all(
        line.endswith((" 0", " 0.0")) for line in lines if line.startswith("stagegate_inflight_requests{")
    )


class TestBombs:
    """A server was seen to take 2.6 GiB for a megabyte of gzip, and to stall its other clients for 3 s."""

    def test_what_would_be_a_thousand_times_as_much(self, plane: DataPlane) -> None:
        """Refused at the cap; a client beside it is answered at its ease all the time."""
        packer = zlib.compressobj(level=9, wbits=31)
        packed = b"".join(packer.compress(bytes(1 << 24)) for _ in range(20)) + packer.flush()
        assert len(packed) < 1 << 19
        stop, waits, failures = threading.Event(), list[float](), list[int]()

        def neighbour() -> None:
            with Client(plane.inference_port) as healthy:
                while not stop.is_set():
                    began = time.monotonic()
                    code = healthy.call(frame(request())).code
                    waits.append(time.monotonic() - began)
                    failures.extend([code] if code else [])

        thread = threading.Thread(target=neighbour)
        before = memory()
        thread.start()
        with Client(plane.inference_port) as hostile:
            for _ in range(10):
                answer = hostile.call(frame(packed, 1), call_headers(INFER, ("grpc-encoding", "gzip")))
                assert answer.code == EXHAUSTED
        stop.set()
        thread.join(10)

        assert failures == []
        assert len(waits) > 10
        assert max(waits) < 1.5
        assert memory() - before < 24 << 20


class TestLateFrames:
    """A proxy took a late frame of a finished stream as a fault of the next call."""

    LATE = (
        b"\x00\x00\x04\x08\x00%b\x00\x00\x00\x64",  # WINDOW_UPDATE
        b"\x00\x00\x04\x03\x00%b\x00\x00\x00\x00",  # RST_STREAM NO_ERROR
        b"\x00\x00\x05\x02\x00%b\x00\x00\x00\x00\x10",  # PRIORITY
    )

    @pytest.mark.parametrize("late", LATE)
    def test_of_the_backend(self, client: Client, backend: Backend, late: bytes) -> None:
        """After its answer was whole: ignored, on the same connection."""

        def answer(call: Exchange) -> None:
            call.ok()
            served = call._connection
            with served.lock:
                served.sock.sendall(late % call.stream.to_bytes(4, "big"))

        backend.on_end = answer
        codes = [client.call(frame(request())).code for _ in range(20)]

        assert codes == [OK] * 20
        assert len(backend.connections) == 1

    @pytest.mark.parametrize("late", LATE)
    def test_of_the_client(self, client: Client, backend: Backend, late: bytes) -> None:
        """After its answer was whole: ignored, and nothing of it reaches the backend."""
        for _ in range(20):
            stream = client.open()
            client.data(stream, frame(request()), end=True)
            assert client.answer(stream).code == OK
            client.raw(late % stream.to_bytes(4, "big"))

        assert client.call(frame(request())).code == OK
        assert not client.goaways
        assert len(backend.connections) == 1
        assert not any(call.gone.is_set() for call in backend.calls)

    def test_data_of_a_call_that_the_backend_refused(self, client: Client, backend: Backend) -> None:
        """What is still on its way when the answer comes is of no call any more."""
        backend.on_head = lambda call: call.head(("grpc-status", "8"), ("grpc-message", "busy"), end=True)
        backend.on_end = lambda call: None
        for _ in range(10):
            assert client.call(frame(request(rest=tensor(100_000)))).code == EXHAUSTED

        assert len(backend.connections) == 1


class TestZeroWindows:
    """A proxy's connections were used up by clients that open no window; it closed healthy idle ones."""

    def test_a_hundred_of_them_cost_idle_clients_nothing(self, backend: Backend) -> None:
        """100 clients with 50 answers that they do not take, beside 20 connections that only wait."""
        backend.on_end = lambda call: call.ok(text_field(7, b"t" * 1000))
        plane = start(backend, replace(SMALL, answer_timeout_ms=2_000))
        try:
            with ExitStack() as stack:
                idle = [stack.enter_context(Client(plane.inference_port)) for _ in range(20)]
                for healthy in idle:
                    assert healthy.call(frame(request())).code == OK
                before = memory()
                hostile = [
                    stack.enter_context(Client(plane.inference_port, window=0, taking=False))
                    for _ in range(100)
                ]
                for one in hostile:
                    for _ in range(50):
                        stream = one.h2.get_next_available_stream_id()
                        one.answers[stream] = Answer()
                        one.h2.send_headers(stream, call_headers())
                        one.h2.send_data(stream, frame(request()), end_stream=True)
                    one.flush()
                wait_until("calls of theirs arrive", lambda: len(backend.calls) > 500)
                wait_until("the backend has answered", lambda: free(plane))

                for healthy in idle:
                    assert healthy.call(frame(request())).code == OK
                assert memory() - before < 64 << 20
                for one in hostile:
                    over = lambda one=one: one.closed or all(a.over for a in one.answers.values())  # noqa: E731
                    assert one.pump(over, 10)
                for healthy in idle:
                    assert healthy.call(frame(request())).code == OK
        finally:
            plane.stop()


class TestMalformed:
    """A gRPC server took all of these for requests."""

    @pytest.mark.parametrize(
        "extra",
        [
            (b"x-a", b"1\r\nx-b: 2"),
            (b"x-a", b"1\n2"),
            (b"x-a", b"1\x002"),
            (b"x-a\r\n", b"1"),
            (b"X-Upper", b"1"),
            (b"connection", b"close"),
            (b":method", b"POST"),
            (b":path", INFER.encode()),
            (b":unknown", b"1"),
            (b"content-length", b"3"),
            (b"content-length", b"99999"),
            (b"content-length", b"18446744073709551616"),
            (b"content-length", b"x"),
        ],
    )
    def test_a_header_that_may_not_be(
        self, plane: DataPlane, backend: Backend, extra: tuple[bytes, bytes]
    ) -> None:
        """The stream or the connection ends; no backend sees it, and neighbours see nothing."""
        pairs = call_headers()
        at = len(pairs) if not extra[0].startswith(b":") else 1
        pairs.insert(at, extra)
        with Client(plane.inference_port) as hostile, Client(plane.inference_port) as healthy:
            stream = hostile.h2.get_next_available_stream_id()
            hostile.answers[stream] = Answer()
            _send_raw_call(hostile, stream, pairs, frame(request()))
            hostile.pump(lambda: hostile.closed or hostile.answers[stream].over)
            answer = hostile.answers[stream]

            assert answer.code != OK
            assert backend.calls == []
            assert healthy.call(frame(request())).code == OK

    @pytest.mark.parametrize("stream", [0, 2])
    def test_a_stream_that_cannot_be(self, plane: DataPlane, backend: Backend, stream: int) -> None:
        """DATA on stream 0, a call on an even one: the connection ends with PROTOCOL_ERROR."""
        with Client(plane.inference_port) as hostile:
            body = frame(request())
            if stream:
                block = Encoder().encode([(n.decode(), v.decode()) for n, v in call_headers()])
                head = len(block).to_bytes(3, "big") + b"\x01\x04" + stream.to_bytes(4, "big") + block
                hostile.raw(head)
            hostile.raw(len(body).to_bytes(3, "big") + b"\x00\x01" + stream.to_bytes(4, "big") + body)
            assert hostile.pump(lambda: hostile.closed)

            assert hostile.goaway == 1
        assert backend.calls == []

    def test_a_unary_call_without_a_message_is_answered(self, client: Client, backend: Backend) -> None:
        """With INTERNAL, at once, also where END_STREAM comes with the headers."""
        answer = client.answer(client.open(end=True), 2)

        assert answer.code == INTERNAL
        assert backend.calls == []


def _send_raw_call(client: Client, stream: int, pairs: list[tuple[bytes, bytes]], body: bytes) -> None:
    """HEADERS and DATA past the library, which would refuse them."""
    block = b"".join(_literal(name) + _literal(value, first=False) for name, value in pairs)
    head = len(block).to_bytes(3, "big") + b"\x01\x04" + stream.to_bytes(4, "big") + block
    data = len(body).to_bytes(3, "big") + b"\x00\x01" + stream.to_bytes(4, "big") + body
    client.flush()
    client.h2.send_headers(stream, call_headers(), end_stream=True)
    client.h2.data_to_send()  # it only has to know the stream
    client.raw(head + data)


def _literal(text: bytes, *, first: bool = True) -> bytes:
    """An HPACK string, after the byte of a literal field that is not indexed where it is a name."""
    size = bytes([len(text)]) if len(text) < 127 else b"\x7f" + varint(len(text) - 127)
    return (b"\x00" if first else b"") + size + text


def _trickle(sock: socket.socket, data: bytes) -> None:
    """Twenty bytes a second, until the peer has closed."""
    for byte in data:
        sock.sendall(bytes([byte]))
        time.sleep(0.05)


class TestSlowClients:
    """No proxy ended a client within 36 s that sends its headers at a byte a second."""

    def test_headers_byte_by_byte_have_a_bound(self, backend: Backend) -> None:
        """It never pauses for long, and yet is closed after the time for a header block, here 0.7 s."""
        block = b"\x83\x86\x84" + b"\x00\x03x-a\x7f\x61" + b"v" * 223
        head = len(block).to_bytes(3, "big") + b"\x01\x04\x00\x00\x00\x01"
        with (
            started(backend, HASTY) as plane,
            socket.create_connection(("127.0.0.1", plane.inference_port), timeout=5) as sock,
        ):
            sock.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00" + head)
            began = time.monotonic()
            with pytest.raises(OSError, match=r"reset|Broken pipe"):
                _trickle(sock, block)
        assert time.monotonic() - began < 5

    def test_a_body_byte_by_byte_ends_with_its_deadline(self, backend: Backend) -> None:
        """Unary calls without a deadline of their own have one here."""
        plane = start(backend, replace(SMALL, default_deadline_ms=500))
        try:
            with Client(plane.inference_port) as slow:
                stream = slow.open()
                body = frame(request(rest=tensor(100)))
                for at in range(40):
                    if slow.answers[stream].over:
                        break
                    slow.data(stream, body[at : at + 1])
                    slow.pump(lambda: slow.answers[stream].over, 0.05)

                assert slow.answer(stream).code == 4
            assert backend.calls == []
        finally:
            plane.stop()


class TestStatuses:
    """Fronts were seen to turn a status after stream data into CANCELLED, and to add headers to answers."""

    @pytest.mark.parametrize("path", [INFER, STREAM])
    @pytest.mark.parametrize("code", [1, 3, 5, 8, 9, 10, 12, 13, 14, 15, 16])
    def test_a_status_after_data_comes_through(
        self, client: Client, backend: Backend, path: str, code: int
    ) -> None:
        """Code, text, details and metadata, byte for byte, and the data before it."""
        said = (
            ("grpc-status", str(code)),
            ("grpc-message", "50%25 done"),
            ("grpc-status-details-bin", "CAMSAWE"),
            ("x-why", "because"),
        )

        def answer(call: Exchange) -> None:
            call.head(("x-head", "1"))
            call.send(frame(text_field(3, b"id")))
            call.trailers(*said)

        backend.on_end = answer
        got = client.call(frame(request()), call_headers(path))

        assert [pair for pair in said if pair not in got.trailers.items()] == []
        assert got.headers["x-head"] == "1"
        assert got.headers[":status"] == "200"
        assert got.body
        assert not {"date", "server", "content-length", "via"} & (set(got.headers) | set(got.trailers))

    def test_our_own_answers_have_no_more_than_they_need(self, client: Client) -> None:
        """An unknown model: one HEADERS frame of status and text."""
        answer = client.call(frame(request(b"nope")))

        assert {name for name, _ in answer.pairs} == {
            ":status",
            "content-type",
            "grpc-status",
            "grpc-message",
        }
        assert answer.trailers == {}


class TestExit:
    """A proxy did not exit within 40 s because two idle clients were left."""

    def test_idle_clients_do_not_hold_it_up(self, tmp_path: Path) -> None:
        """They get GOAWAY in two steps, the last one with what was taken, and the process ends in seconds."""
        backend = Process(
            "backend", [sys.executable, "-m", "loadtest.soak_backend"], folder=tmp_path, talks=True
        )
        address = f"127.0.0.1:{json.loads(backend.hear())['port']}"
        body = f'backends:\n  - {{name: t0, grpc: "{address}", control: none}}\n'
        gateway = start_gateway(tmp_path, "gateway", body, tmp_path)
        port = int(gateway.inference.rpartition(":")[2])
        with Client(port) as one, Client(port) as other:
            for idle in (one, other):
                assert idle.call(frame(b""), call_headers(LIVE)).code == OK
            began = time.monotonic()
            gateway.process.send_signal(signal.SIGTERM)
            for idle in (one, other):
                assert idle.pump(lambda idle=idle: idle.closed, 20)  # type: ignore[misc]
                assert idle.goaways == [(1 << 31) - 1, 1]
                assert idle.goaway == 0
            assert gateway.process.wait(20) == 0
            assert time.monotonic() - began < 15
        backend.stop()
