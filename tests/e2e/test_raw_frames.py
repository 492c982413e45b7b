"""What an adversary, or an odd but lawful client, gets from the data plane, frame by frame."""

from __future__ import annotations

import contextlib
import functools
import gzip
import os
import socket
import time
import zlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from h2.settings import SettingCodes

from gateway.bridge import DataPlane, Settings
from router.traffic.table import ArmSpec, BackendSpec, ModelSpec, Snapshot, VersionSpec
from tests.e2e.conftest import wait_until
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

OK, CANCELLED, UNKNOWN, INVALID, DEADLINE, NOT_FOUND = 0, 1, 2, 3, 4, 5
EXHAUSTED, UNIMPLEMENTED, INTERNAL, UNAVAILABLE = 8, 12, 13, 14
TRITON = b"digits.3.0a1b2c3d"
TAIL = text_field(1, TRITON) + b"\x12\x00"
SERVICE = "/inference.GRPCInferenceService/"
SMALL = replace(Settings(), max_message=1 << 20)
# For tests of this time only: on a busy machine an honest client may take longer.
HASTY = replace(SMALL, handshake_timeout_ms=700)


def table(backend: Backend) -> Snapshot:
    """One model with one version on one backend."""
    return table_at(backend.address)


def table_at(address: str, triton: str = TRITON.decode()) -> Snapshot:
    """The same on a backend at an address, which calls the model so."""
    version = VersionSpec(
        version="3",
        state="ready",
        backends=("t0",),
        backend_model=triton,
        backend_version="",
        reason="",
        metadata=b"",
    )
    model = ModelSpec(
        name="digits",
        versions=(version,),
        pointers=(),
        arms=(ArmSpec(name="stable", version="3", weight=10_000),),
        split_reference="",
        deadline_ms=0,
        unroutable="",
    )
    return Snapshot(revision=1, backends=(BackendSpec("t0", address),), models=(model,))


@pytest.fixture
def backend() -> Iterator[Backend]:
    """A backend that answers every call with an empty message."""
    running = Backend()
    yield running
    running.stop()


@contextlib.contextmanager
def started(backend: Backend, settings: Settings) -> Iterator[DataPlane]:
    """A data plane in front of a backend, for the block."""
    running = DataPlane(settings)
    running.publish(table(backend))
    running.set_ready(True)
    try:
        yield running
    finally:
        running.stop()


@pytest.fixture
def plane(backend: Backend) -> Iterator[DataPlane]:
    """A data plane that takes messages up to 1 MiB."""
    with started(backend, SMALL) as running:
        yield running


@pytest.fixture
def hasty(backend: Backend) -> Iterator[DataPlane]:
    """One that waits 0.7 s for what a client has begun."""
    with started(backend, HASTY) as running:
        yield running


@pytest.fixture
def client(plane: DataPlane) -> Iterator[Client]:
    """One connection."""
    with Client(plane.inference_port) as connected:
        yield connected


def inflight(plane: DataPlane) -> int:
    """Requests that the counters hold to be under way."""
    return sum(arm.inflight for arm in plane.counters().arms)


def free(plane: DataPlane) -> bool:
    """Whether nothing is under way."""
    return inflight(plane) == 0


def memory() -> int:
    """Resident memory of this process, where the data plane is, in bytes."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


class TestFraming:
    """Frames are where the network cut them, not where messages are."""

    def test_a_request_may_come_one_byte_a_frame(self, client: Client, backend: Backend) -> None:
        """Prefix, tags and lengths split everywhere: the same message arrives."""
        message = request(rest=tensor(300))
        stream = client.open()
        for byte in frame(message):
            client.data(stream, bytes([byte]))
        client.h2.end_stream(stream)
        client.flush()

        assert client.answer(stream).code == OK
        assert backend.calls[0].message == message + TAIL

    def test_a_large_request_may_come_one_byte_a_frame_at_first(
        self, client: Client, backend: Backend
    ) -> None:
        """Also where the message is forwarded before it is whole."""
        message = request(rest=tensor(300_000))
        body = frame(message)
        stream = client.open()
        for byte in body[:40]:
            client.data(stream, bytes([byte]))
        client.stuff(stream, body[40:])

        assert client.answer(stream).code == OK
        assert backend.calls[0].message == message + TAIL

    def test_empty_frames_between_do_no_harm(self, client: Client, backend: Backend) -> None:
        """Empty DATA before, inside and after a message."""
        body = frame(request())
        stream = client.open()
        for piece in (b"", body[:3], b"", body[3:7], b"", body[7:], b""):
            client.data(stream, piece)
        client.data(stream, b"", end=True)

        assert client.answer(stream).code == OK
        assert backend.calls[0].message == request() + TAIL

    def test_padding_is_skipped_whatever_it_holds(self, client: Client, backend: Backend) -> None:
        """A PING hidden in legal padding is neither answered nor forwarded."""
        stream = client.open()
        body = frame(request())
        client.flush()
        ping = b"\x00\x00\x08\x06\x00\x00\x00\x00\x00HIDDEN!!"
        payload = bytes([len(ping)]) + body + ping
        client.raw(len(payload).to_bytes(3, "big") + b"\x00\x09" + stream.to_bytes(4, "big") + payload)

        assert client.answer(stream).code == OK
        assert backend.calls[0].message == request() + TAIL
        assert not [event for event in client.events if "Ping" in type(event).__name__]

    @pytest.mark.parametrize("size", [10, 300_000])
    def test_names_may_follow_the_tensors_where_the_message_is_kept(
        self, client: Client, backend: Backend, size: int
    ) -> None:
        """Any field order is protobuf: small or large, the model is found."""
        message = tensor(size) + request()

        assert client.call(frame(message)).code == OK
        assert backend.calls[0].message == message + TAIL

    def test_the_last_of_two_names_counts(self, client: Client, backend: Backend) -> None:
        """As any protobuf parser reads it."""
        assert client.call(frame(request(b"nope") + tensor(9) + request())).code == OK
        assert client.call(frame(request() + tensor(9) + request(b"nope"))).code == NOT_FOUND
        assert len(backend.calls) == 1

    def test_a_large_message_cannot_change_its_name_after_it_was_routed(
        self, client: Client, backend: Backend
    ) -> None:
        """What was routed by one name must not reach the backend with another."""
        answer = client.call(frame(request() + tensor(500_000) + request(b"other")))

        assert answer.code == INVALID
        assert not any(call.ended.is_set() for call in backend.calls)

    def test_two_messages_in_a_unary_call_are_refused(self, client: Client, backend: Backend) -> None:
        """INTERNAL, as the gRPC specification has it for a broken cardinality."""
        assert client.call(frame(request()) + frame(request())).code == INTERNAL
        assert client.call(frame(request()) + b"\x00").code == INTERNAL
        assert not any(call.ended.is_set() for call in backend.calls)

    @pytest.mark.parametrize(
        "body", [b"", b"\x00\x00\x00", frame(request(), length=999), frame(b"", length=1)]
    )
    def test_a_message_shorter_than_declared_is_refused(
        self, client: Client, backend: Backend, body: bytes
    ) -> None:
        """END_STREAM inside a message, or without one."""
        assert client.call(body).code == INTERNAL
        assert backend.calls == []

    def test_half_a_large_message_never_ends_upstream(self, client: Client, backend: Backend) -> None:
        """It was begun to be forwarded, so it is reset there, not ended."""
        answer = client.call(frame(request(rest=tensor(500_000)), length=600_000))

        assert answer.code == INTERNAL
        for call in backend.calls:
            assert call.gone.wait(5)
            assert not call.ended.is_set()

    @pytest.mark.parametrize("length", [(1 << 20) + 1, 0xFFFF_FFFF])
    def test_too_long_is_told_before_the_body(self, client: Client, backend: Backend, length: int) -> None:
        """The prefix alone is enough."""
        stream = client.open()
        client.data(stream, frame(b"", length=length))

        assert client.answer(stream).code == EXHAUSTED
        assert backend.calls == []

    def test_a_longest_message_passes(self, client: Client, backend: Backend) -> None:
        """The limit itself is within the limit."""
        message = request(rest=tensor((1 << 20) - 50))
        message += text_field(9, b"x" * ((1 << 20) - len(message) - 2))
        assert len(message) == 1 << 20

        assert client.call(frame(message)).code == OK
        assert backend.calls[0].message == message + TAIL

    def test_broken_protobuf_is_refused(self, client: Client, backend: Backend) -> None:
        """Cut fields, groups without end, field number 0, varints without end."""
        for broken in (b"\x0a", b"\x0a\x7fab", b"\x00", b"\x0b", b"\x0a" + b"\xff" * 11, b"\x0e\x00"):
            assert client.call(frame(broken)).code in (INTERNAL, INVALID), broken
        assert backend.calls == []

    def test_a_length_in_ten_bytes_is_still_a_length(self, client: Client, backend: Backend) -> None:
        """Varints may be padded with zeros, and then no two parsers may disagree."""
        message = b"\x0a\x86\x80\x80\x80\x80\x80\x80\x80\x80\x00digits"

        assert client.call(frame(message)).code == OK
        assert backend.calls[0].message == message + TAIL


class TestCompression:
    """Names are read from what is compressed, within limits."""

    @pytest.mark.parametrize(("encoding", "pack"), [("gzip", gzip.compress), ("deflate", zlib.compress)])
    def test_a_compressed_message_is_opened(
        self, client: Client, backend: Backend, encoding: str, pack: type
    ) -> None:
        """The backend gets it plain, and no encoding is named to it."""
        message = request(rest=tensor(5000))
        answer = client.call(frame(pack(message), 1), call_headers(INFER, ("grpc-encoding", encoding)))

        assert answer.code == OK
        assert backend.calls[0].message == message + TAIL
        assert "grpc-encoding" not in backend.calls[0].headers

    def test_an_unknown_encoding_is_unimplemented_and_says_what_is(self, client: Client) -> None:
        """With grpc-accept-encoding, as the specification demands."""
        answer = client.call(frame(b"x", 1), call_headers(INFER, ("grpc-encoding", "snappy")))

        assert answer.code == UNIMPLEMENTED
        assert "gzip" in answer.headers["grpc-accept-encoding"]

    @pytest.mark.parametrize("more", [(), (("grpc-encoding", "identity"),)])
    def test_a_flag_without_an_encoding_is_internal(
        self, client: Client, more: tuple[tuple[str, str], ...]
    ) -> None:
        """There is nothing to open it with."""
        assert client.call(frame(request(), 1), call_headers(INFER, *more)).code == INTERNAL

    @pytest.mark.parametrize("flag", [2, 7, 0x80, 0xFF])
    def test_an_undefined_flag_is_internal(self, client: Client, backend: Backend, flag: int) -> None:
        """Only 0 and 1 have a meaning."""
        assert client.call(frame(request(), flag)).code == INTERNAL
        assert backend.calls == []

    def test_a_bomb_stays_small(self, client: Client, backend: Backend) -> None:
        """64 MiB in 64 KiB: RESOURCE_EXHAUSTED, and memory stays where it was."""
        bomb = gzip.compress(request(rest=tensor(64 << 20)))
        before = memory()
        for _ in range(20):
            answer = client.call(frame(bomb, 1), call_headers(INFER, ("grpc-encoding", "gzip")))
            assert answer.code == EXHAUSTED
        assert memory() - before < 16 << 20
        assert backend.calls == []

    def test_broken_gzip_is_internal(self, client: Client, backend: Backend) -> None:
        """Cut, changed, or followed by something."""
        packed = gzip.compress(request())
        for broken in (packed[:-3], b"junk", packed + b"more", b""):
            headers = call_headers(INFER, ("grpc-encoding", "gzip"))
            assert client.call(frame(broken, 1), headers).code == INTERNAL
        assert backend.calls == []


class TestNames:
    """Bytes that are no name are refused before any look-up."""

    @pytest.mark.parametrize(
        "name",
        [
            b"digits\x00",
            b"digits\n",
            b"\xff\xfe",
            b"a/b",
            b"",
            b" digits",
            "dígits".encode(),
            b"x" * 257,
            b"@",
            b"a@@",
        ],
    )
    def test_odd_names_are_invalid(self, client: Client, backend: Backend, name: bytes) -> None:
        """INVALID_ARGUMENT; nothing reaches a backend."""
        assert client.call(frame(request(name))).code == INVALID
        assert backend.calls == []

    @pytest.mark.parametrize("version", [b"\x00", b"\xff", b"x" * 129, b"3\n"])
    def test_odd_versions_are_invalid(self, client: Client, backend: Backend, version: bytes) -> None:
        """The same for references."""
        assert client.call(frame(request(version=version))).code == INVALID
        assert backend.calls == []

    @pytest.mark.parametrize("byte", [b"x", b"\xff", b"\n", b"%"])
    def test_a_name_of_a_mebibyte_gets_a_short_answer(self, client: Client, byte: bytes) -> None:
        """The status fits what clients take as metadata, 8 KiB."""
        answer = client.call(frame(request(byte * ((1 << 20) - 100))))

        assert answer.code == INVALID
        assert sum(len(name) + len(value) + 32 for name, value in answer.pairs) <= 8 << 10


class TestHttp:
    """What is no gRPC call."""

    @pytest.mark.parametrize(
        "content", ["application/json", "text/plain", "application/grpc-web", "application/grpcx"]
    )
    def test_another_content_type_is_415(self, client: Client, backend: Backend, content: str) -> None:
        """HTTP 415, as the gRPC specification says."""
        assert client.call(frame(request()), call_headers(content=content)).headers[":status"] == "415"
        assert backend.calls == []

    @pytest.mark.parametrize(("method", "said"), [("GET", True), ("POST", True), ("HEAD", False)])
    def test_a_browser_is_told_what_this_port_is(self, client: Client, method: str, said: bool) -> None:
        """A line of text, taken byte by byte where the client wants it so; none for HEAD."""
        client.h2.update_settings({SettingCodes.INITIAL_WINDOW_SIZE: 1})
        stream = client.open(call_headers("/", method=method, content="text/html"), end=method != "POST")
        if method == "POST":
            client.data(stream, b"a form")
            assert not client.pump(lambda: client.answers[stream].over, 0.2)
            client.data(stream, b"", end=True)
        answer = client.answer(stream)

        assert answer.headers[":status"] == "415"
        assert (b"gRPC" in answer.body) is said
        assert int(answer.headers["content-length"]) == len(answer.body) or not said

    def test_a_refused_body_without_end_is_answered_all_the_same(self, client: Client) -> None:
        """After a part of it."""
        stream = client.open(call_headers("/", content="text/html"))
        client.stuff(stream, b"x" * 300_000, end=False)

        assert client.answer(stream).headers[":status"] == "415"

    @pytest.mark.parametrize("method", ["GET", "PUT", "HEAD", "OPTIONS", "post"])
    def test_only_post_is_a_call(self, client: Client, backend: Backend, method: str) -> None:
        """Anything else is refused and never forwarded."""
        answer = client.call(frame(request()), call_headers(method=method))

        assert answer.code == UNIMPLEMENTED or answer.headers.get(":status", "") in ("400", "405")
        assert backend.calls == []

    @pytest.mark.parametrize(
        "path",
        [
            "/",
            "//inference.GRPCInferenceService/ModelInfer",
            "/inference.GRPCInferenceService//ModelInfer",
            "/x/../inference.GRPCInferenceService/ModelInfer",
            "/inference.GRPCInferenceService%2fModelInfer",
            "/inference.GRPCInferenceService/ModelInfer?x",
            "/inference.GRPCInferenceService/ModelInfer?",
            "/inference.GRPCInferenceService/ModelStreamInfer?x=1",
            "/inference.GRPCInferenceService/ServerLive?x=1",
            "/inference.GRPCInferenceService/ModelInfer/",
            "/inference.GRPCInferenceService/modelinfer",
            "/inference.GRPCInferenceService//grpc.health.v1.Health/Check",
            "/inference.GRPCInferenceService//grpc.health.v1.Health/Watch",
            "/ModelMetadata",
            "/grpc.health.v1.Health/Check?service=",
        ],
    )
    def test_a_path_is_exactly_a_method_or_unimplemented(
        self, client: Client, backend: Backend, path: str
    ) -> None:
        """No path is tidied into another one: what guards a method by its path must see all of it."""
        stream = client.open(call_headers(path))
        client.stuff(stream, frame(request()))

        assert client.answer(stream).code == UNIMPLEMENTED
        assert backend.calls == []

    @pytest.mark.parametrize(
        "path", ["ModelInfer", "ModelMetadata", "ServerLive", "ModelStreamInfer", "*", ""]
    )
    def test_a_path_without_a_slash_is_no_method(self, client: Client, backend: Backend, path: str) -> None:
        """Refused as a status or as a broken stream."""
        answer = client.call(frame(request()), call_headers(path))

        assert answer.code == UNIMPLEMENTED or answer.reset is not None or answer.headers[":status"] == "400"
        assert backend.calls == []

    @pytest.mark.parametrize("size", [5000, 15_000])
    def test_a_long_path_gets_a_short_answer(self, client: Client, size: int) -> None:
        """The refusal repeats no more of it than clients can take."""
        answer = client.call(frame(request()), call_headers("/" + "x" * size))

        assert answer.code == UNIMPLEMENTED
        assert len(answer.message) <= 4 << 10


class TestDeadlines:
    """`grpc-timeout` is read strictly, enforced here and passed on as what is left."""

    @pytest.mark.parametrize(
        "value", ["", "S", "1", "-1S", "+1S", "1.5S", "123456789S", "1s", " 1S", "1S ", "0x1S", "1SS"]
    )
    def test_junk_is_refused(self, client: Client, backend: Backend, value: str) -> None:
        """INTERNAL or INVALID_ARGUMENT, never forwarded."""
        answer = client.call(frame(request()), call_headers(INFER, ("grpc-timeout", value)))

        assert answer.code in (INTERNAL, INVALID)
        assert backend.calls == []

    def test_no_time_is_a_passed_deadline(self, client: Client, backend: Backend) -> None:
        """0n is lawful and over at once: the backend is not troubled."""
        answer = client.call(frame(request()), call_headers(INFER, ("grpc-timeout", "0n")))

        assert answer.code == DEADLINE
        assert not any(call.ended.is_set() for call in backend.calls)

    def test_the_backend_gets_what_is_left(self, client: Client, backend: Backend) -> None:
        """The time that the client took for its message is gone."""
        stream = client.open(call_headers(INFER, ("grpc-timeout", "10S")))
        client.pump(lambda: False, 0.2)
        client.data(stream, frame(request()), end=True)

        assert client.answer(stream).code == OK
        value = backend.calls[0].headers["grpc-timeout"]
        seconds = int(value[:-1]) * {"S": 1.0, "m": 1e-3, "u": 1e-6, "n": 1e-9}[value[-1]]
        assert 9.0 < seconds <= 9.8

    def test_it_is_enforced_and_the_backend_is_told(
        self, client: Client, backend: Backend, plane: DataPlane
    ) -> None:
        """DEADLINE_EXCEEDED in time, and RST_STREAM CANCEL upstream."""
        backend.on_end = lambda call: None
        began = time.monotonic()
        answer = client.call(frame(request()), call_headers(INFER, ("grpc-timeout", "150m")))

        assert answer.code == DEADLINE
        assert 0.14 < time.monotonic() - began < 3
        assert backend.calls[0].gone.wait(5)
        assert backend.calls[0].reset == 8
        wait_until("nothing is under way", lambda: free(plane))

    def test_a_body_that_never_comes_ends_with_the_deadline(self, client: Client, backend: Backend) -> None:
        """Also before anything is known of the request."""
        stream = client.open(call_headers(INFER, ("grpc-timeout", "150m")))
        client.data(stream, frame(request())[:4])

        assert client.answer(stream).code == DEADLINE
        assert backend.calls == []


class TestMetadata:
    """What crosses, and what does not."""

    def test_reserved_names_do_not_reach_the_backend(self, client: Client, backend: Backend) -> None:
        """Neither ours nor gRPC's own."""
        more = (
            ("stagegate-version", "9"),
            ("stagegate-arm", "canary"),
            ("stagegate-key", "k"),
            ("grpc-status", "0"),
            ("grpc-message", "all is well"),
            ("grpc-status-details-bin", "AAAA"),
            ("grpc-previous-rpc-attempts", "3"),
            ("grpc-retry-pushback-ms", "1"),
            ("grpc-internal-encoding-request", "gzip"),
            ("grpc-server-stats-bin", "AAAA"),
            ("x-mine", "1"),
        )
        assert client.call(frame(request()), call_headers(INFER, *more)).code == OK

        names = set(backend.calls[0].headers)
        assert "x-mine" in names
        assert {name for name in names if name.startswith("stagegate-")} == set()
        assert {name for name in names if name.startswith("grpc-")} <= {
            "grpc-timeout",
            "grpc-accept-encoding",
        }

    def test_tracing_passes(self, client: Client, backend: Backend) -> None:
        """`grpc-trace-bin` and `grpc-tags-bin` are the client's, and so is traceparent."""
        more = (("grpc-trace-bin", "AAEC"), ("grpc-tags-bin", "AAEC"), ("traceparent", "00-1-2-01"))
        assert client.call(frame(request()), call_headers(INFER, *more)).code == OK

        for name, value in more:
            assert backend.calls[0].headers[name] == value

    def test_binary_metadata_and_duplicates_cross_as_they_are(self, client: Client, backend: Backend) -> None:
        """In their order, padded or not, joined or not, both ways and in trailers."""
        pairs = (
            ("x-bin", "AAE"),
            ("x-bin", "AAE="),
            ("x-bin", "AAE,AAI"),
            ("x-a", "1"),
            ("x-a", "2"),
            ("x-empty", ""),
        )

        def echo(call: Exchange) -> None:
            call.head(*pairs)
            call.send(frame(b""))
            call.trailers(
                ("grpc-status", "0"), ("t-bin", "AA"), ("t-bin", "AQ=="), ("grpc-status-details-bin", "CAM")
            )

        backend.on_end = echo
        answer = client.call(frame(request()), call_headers(INFER, *pairs))

        for side in (backend.calls[0].pairs, answer.pairs):
            for name in ("x-bin", "x-a", "x-empty"):
                assert [pair for pair in side if pair[0] == name] == [
                    pair for pair in pairs if pair[0] == name
                ]
        assert [pair for pair in answer.pairs if pair[0] == "t-bin"] == [("t-bin", "AA"), ("t-bin", "AQ==")]
        assert answer.trailers["grpc-status-details-bin"] == "CAM"

    @pytest.mark.parametrize("value", ["!!!!", "A", "AA AA", "ÿ"])
    def test_broken_base64_is_refused_here(self, client: Client, backend: Backend, value: str) -> None:
        """Some gRPC servers close the whole connection over it, which others share."""
        answer = client.call(frame(request()), call_headers(INFER, ("x-bin", value.encode("latin-1"))))

        assert answer.code in (INVALID, INTERNAL)
        assert backend.calls == []

    def test_many_large_header_lists_harm_nobody(self, plane: DataPlane, backend: Backend) -> None:
        """300 calls with 15 KiB of headers beside a healthy client on another connection."""
        with Client(plane.inference_port) as greedy, Client(plane.inference_port) as healthy:
            headers = call_headers(INFER, *((f"x-{number}", "v" * 940) for number in range(14)))
            streams = []
            for _ in range(300):
                streams.append(greedy.open(headers))
                greedy.data(streams[-1], frame(request()), end=True)
            for _ in range(20):
                assert healthy.call(frame(request())).code == OK
            answers = [greedy.answer(stream) for stream in streams]

        assert {answer.code for answer in answers if answer.reset is None} == {OK}
        assert {answer.reset for answer in answers} <= {None, 7}

    def test_a_header_list_beyond_the_limit_is_refused(self, client: Client, backend: Backend) -> None:
        """431 or a reset; the connection goes on."""
        headers = call_headers(INFER, *((f"x-{number}", "v" * 900) for number in range(40)))
        answer = client.call(frame(request()), headers)

        assert answer.reset is not None or answer.headers[":status"] == "431"
        assert backend.calls == []
        assert client.call(frame(request())).code == OK


class TestBackends:
    """What backends do, and what clients see of it."""

    def test_trailers_only_stays_trailers_only(self, client: Client, backend: Backend) -> None:
        """One HEADERS frame with END_STREAM, with the backend's metadata."""
        backend.on_end = lambda call: call.head(
            ("grpc-status", "9"), ("grpc-message", "not%20now"), ("x-why", "busy"), end=True
        )
        answer = client.call(frame(request()))

        assert (answer.code, answer.message) == (9, "not%20now")
        assert answer.trailers == {}
        assert answer.headers["x-why"] == "busy"
        assert not {"date", "server", "content-length"} & set(answer.headers)

    @pytest.mark.parametrize("end", [True, False])
    def test_a_text_of_a_mebibyte_is_cut(self, client: Client, backend: Backend, end: bool) -> None:
        """At 4 KiB, with its code; the connection to the backend, which others share, lives on."""
        for size in (50_000, 1 << 20):
            text = "line%0D%0A" * (size // 10)

            def answer_long(call: Exchange, text: str = text) -> None:
                if end:
                    call.head(("grpc-status", "3"), ("grpc-message", text), end=True)
                else:
                    call.head()
                    call.trailers(("grpc-status", "3"), ("grpc-message", text))

            backend.on_end = answer_long
            answer = client.call(frame(request()))
            assert answer.code == INVALID
            assert len(answer.message) <= 8 << 10
            assert "\r" not in answer.message
            assert "\n" not in answer.message
        assert len(backend.connections) == 1

    @pytest.mark.parametrize(
        ("code", "status"),
        [(7, UNAVAILABLE), (8, CANCELLED), (11, EXHAUSTED), (12, 7), (2, INTERNAL), (1, INTERNAL)],
    )
    def test_resets_have_their_status(self, client: Client, backend: Backend, code: int, status: int) -> None:
        """As the gRPC specification maps them."""
        backend.on_end = lambda call: call.refuse(code)

        assert client.call(frame(request())).code == status

    @pytest.mark.parametrize(
        ("status", "code"), [("503", 14), ("404", 12), ("401", 16), ("403", 7), ("500", 2)]
    )
    def test_http_errors_have_their_status(
        self, client: Client, backend: Backend, status: str, code: int
    ) -> None:
        """A proxy between us and the backend may answer in plain HTTP."""

        def plain(call: Exchange) -> None:
            pairs = [(":status", status), ("content-type", "text/html")]
            call._connection.act(lambda h2: h2.send_headers(call.stream, pairs))
            call.send(b"<html>")
            call._connection.act(lambda h2: h2.end_stream(call.stream))

        backend.on_end = plain
        assert client.call(frame(request())).code == code

    def test_no_status_is_unknown(self, client: Client, backend: Backend) -> None:
        """An answer that ends without trailers."""

        def end(call: Exchange) -> None:
            call.head()
            call.send(frame(b""))
            call._connection.act(lambda h2: h2.end_stream(call.stream))

        backend.on_end = end
        assert client.call(frame(request())).code == UNKNOWN

    def test_an_answer_cut_inside_a_message_is_internal(self, client: Client, backend: Backend) -> None:
        """Even with OK in its trailers."""

        def cut(call: Exchange) -> None:
            call.head()
            call.send(frame(b"abc", length=50))
            call.trailers()

        backend.on_end = cut
        assert client.call(frame(request())).code == INTERNAL

    def test_an_early_answer_ends_the_upload(
        self, client: Client, backend: Backend, plane: DataPlane
    ) -> None:
        """The backend answers at the head and resets with NO_ERROR; the client gets its answer."""

        def early(call: Exchange) -> None:
            call.head(("grpc-status", "8"), ("grpc-message", "full"), end=True)
            call.refuse(0)

        backend.on_head = early
        backend.on_end = lambda call: None
        for _ in range(10):
            stream = client.open()
            client.stuff(stream, frame(request(rest=tensor((1 << 20) - 100))))
            answer = client.answer(stream)
            assert (answer.code, answer.message) == (8, "full")
        wait_until("nothing is under way", lambda: free(plane))

    def test_goaway_in_flight_costs_nothing_that_was_not_begun(
        self, client: Client, backend: Backend
    ) -> None:
        """Calls beyond the last processed stream go over another connection."""
        seen: list[int] = []

        def leave(call: Exchange) -> None:
            seen.append(call.stream)
            if len(seen) == 1:
                call.goaway(0)
                call.cut()
            else:
                call.ok()

        backend.on_end = leave
        assert client.call(frame(request())).code == OK
        assert len(seen) == 2

    def test_a_connection_that_breaks_is_tried_once_more_and_then_unavailable(
        self, client: Client, backend: Backend
    ) -> None:
        """It may have been processed, so it is sent a second time, and never a third."""
        backend.on_end = Exchange.cut

        assert client.call(frame(request())).code == UNAVAILABLE
        assert len(backend.calls) == 2

    def test_answers_nobody_takes_do_not_hold_up_others(self, plane: DataPlane, backend: Backend) -> None:
        """One client leaves 16 long answers untaken; another's small calls go on at once."""
        big = frame(b"\x3a" + varint(3 << 20) + b"z" * (3 << 20))

        def answer(call: Exchange) -> None:
            if "x-big" in call.headers:
                call.head()
                call.send(big * 3)
            else:
                call.ok()

        backend.on_end = answer
        with (
            Client(plane.inference_port, window=0, taking=False) as slow,
            Client(plane.inference_port) as healthy,
        ):
            for _ in range(16):
                slow.data(slow.open(call_headers(INFER, ("x-big", "1"))), frame(request()), end=True)
            slow.pump(lambda: sum(bool(answer.headers) for answer in slow.answers.values()) == 16)
            for _ in range(10):
                small = healthy.call(frame(request()), seconds=5)
                assert (small.code, small.frames) == (OK, 1)


class TestCancel:
    """Whoever gives up is heard on the other side."""

    @pytest.mark.parametrize("path", [INFER, STREAM])
    def test_a_reset_reaches_the_backend(
        self, client: Client, backend: Backend, plane: DataPlane, path: str
    ) -> None:
        """CANCEL within moments, and everything is free."""
        backend.on_end = lambda call: None
        stream = client.open(call_headers(path))
        client.data(stream, frame(request()), end=path == INFER)
        wait_until("the backend has the call", lambda: bool(backend.calls and backend.calls[0].body))
        client.reset(stream)

        assert backend.calls[0].gone.wait(2)
        assert backend.calls[0].reset == 8
        wait_until("nothing is under way", lambda: free(plane))
        assert [arm.codes[CANCELLED] for arm in plane.counters().arms] == [1]

    def test_a_closed_connection_reaches_the_backend(self, plane: DataPlane, backend: Backend) -> None:
        """Unary calls and streams alike, and the connection is counted off."""
        backend.on_end = lambda call: None
        with Client(plane.inference_port) as client:
            for path in (INFER, STREAM):
                client.data(client.open(call_headers(path)), frame(request()), end=path == INFER)
            wait_until("the backend has both", lambda: len(backend.calls) == 2)

        assert all(call.gone.wait(2) for call in backend.calls)
        wait_until("nothing is under way", lambda: free(plane) and plane.counters().connections == 0)

    def test_rapid_resets_end_the_connection_and_nothing_else(
        self, plane: DataPlane, backend: Backend
    ) -> None:
        """5,000 whole requests, each reset: cut off early, others go on, memory stays."""
        with Client(plane.inference_port) as healthy, Client(plane.inference_port) as attacker:
            assert healthy.call(frame(request())).code == OK
            before = memory()
            for _ in range(5000):
                if attacker.closed or attacker.goaway is not None:
                    break
                stream = attacker.open()
                attacker.data(stream, frame(request()), end=True)
                attacker.reset(stream)
                if stream % 100 == 1:
                    attacker.pump(lambda: True, 0.01)
            attacker.pump(lambda: attacker.closed, 3)
            # A GOAWAY may be lost where the kernel resets a connection that still holds unread frames.
            assert attacker.closed
            assert attacker.goaway in (11, None)
            assert len(backend.calls) < 1500
            for _ in range(20):
                assert healthy.call(frame(request())).code == OK
        assert memory() - before < 32 << 20
        wait_until("nothing is under way", lambda: free(plane))

    def test_a_broken_stream_frees_everything(
        self, client: Client, backend: Backend, plane: DataPlane
    ) -> None:
        """A hundred streams given up in the middle leave nothing under way."""
        backend.on_end = lambda call: None
        streams = [client.open(call_headers(STREAM)) for _ in range(100)]
        for stream in streams:
            client.data(stream, frame(request()))
        wait_until("the backend has all", lambda: len(backend.calls) == 100)
        for stream in streams:
            client.reset(stream)

        wait_until("nothing is under way", lambda: free(plane))
        assert all(call.gone.wait(2) for call in backend.calls)


def _has(answer: Answer, count: int) -> bool:
    """Whether that many answers are there."""
    return answer.frames >= count


def infer_response(model: bytes, text: bytes = b"") -> bytes:
    """A ModelStreamInferResponse."""
    return text_field(2, text_field(1, model) + text_field(3, text))


class TestStreams:
    """Both directions at their own pace."""

    def test_answers_come_before_the_client_ends(self, client: Client, backend: Backend) -> None:
        """Full duplex: each message is answered while the request is open."""

        def echo(call: Exchange) -> None:
            if "begun" not in call.headers:
                call.headers["begun"] = ""
                call.head()
            call.send(frame(infer_response(TRITON)))

        backend.on_data = echo
        backend.on_end = lambda call: call.trailers()
        stream = client.open(call_headers(STREAM))
        for count in range(1, 4):
            client.data(stream, frame(request()))
            answer = client.answers[stream]
            client.pump(functools.partial(_has, answer, count))
            assert answer.frames == count
        client.h2.end_stream(stream)
        client.flush()

        assert client.answer(stream).code == OK

    def test_answers_go_on_after_the_client_ended(self, client: Client, backend: Backend) -> None:
        """Half-close reaches the backend, which answers ten times after it."""

        def late(call: Exchange) -> None:
            call.head()
            for _ in range(10):
                call.send(frame(infer_response(TRITON)))
            call.trailers()

        backend.on_end = late
        answer = client.call(frame(request()), call_headers(STREAM))

        assert answer.code == OK
        assert answer.headers["stagegate-version"] == "3"
        assert bytes(answer.body).count(b"\x0a\x06digits") == 10

    def test_a_slow_reader_is_waited_for(self, plane: DataPlane, backend: Backend) -> None:
        """Nothing is lost, and not all of 32 MiB is kept in memory here."""
        message = frame(infer_response(TRITON, b"z" * 100_000))

        def pour(call: Exchange) -> None:
            call.head()
            for _ in range(320):
                call.send(message)

        backend.on_end = pour
        with Client(plane.inference_port, window=65_535, taking=False) as client:
            stream = client.open(call_headers(STREAM))
            client.data(stream, frame(request()), end=True)
            client.pump(lambda: False, 0.5)
            taken = len(client.answers[stream].body)
            assert taken <= 65_535
            sent = 320 * len(message) - sum(len(left) for left in backend.connections[0].pending.values())
            assert sent < 10 << 20
            client.taking = True
            client.h2.increment_flow_control_window(1 << 26)
            client.h2.increment_flow_control_window(1 << 26, stream)
            client.flush()
            assert client.pump(lambda: len(client.answers[stream].body) >= 32_000_000)
            client.pump(lambda: False, 0.2)
            assert bytes(client.answers[stream].body).count(b"\x0a\x06digits") == 320

    def test_bad_messages_do_not_end_a_stream(self, client: Client, backend: Backend) -> None:
        """An unknown model is told in an answer of its own, as Triton does."""
        stream = client.open(call_headers(STREAM))
        client.data(stream, frame(request(b"nope")) + frame(request(b"no\x00pe")))
        client.pump(lambda: client.answers[stream].frames >= 2)
        client.data(stream, b"", end=True)
        answer = client.answer(stream)

        assert answer.code == OK
        assert b"nope" in answer.body
        assert backend.calls == []

    def test_a_flood_of_bad_messages_is_bounded(self, plane: DataPlane, backend: Backend) -> None:
        """A client that asks for errors and takes none is not read any further."""
        with Client(plane.inference_port, window=0, taking=False) as client:
            before = memory()
            stream = client.open(call_headers(STREAM))
            flood = frame(request(b"nope")) * 2000
            sent = 0
            while client.h2.local_flow_control_window(stream) >= 16_384 and sent < 64 << 20:
                client.h2.send_data(stream, flood[:16_384])
                sent += 16_384
                client.flush()
                client.pump(lambda: True, 0.001)
            assert sent < 8 << 20
            assert memory() - before < 32 << 20

    @pytest.mark.parametrize(
        "body", [b"\x00\x00", frame(b"", length=1 << 30), frame(b"x", 7), frame(request(), 1)]
    )
    def test_a_broken_frame_ends_a_stream(
        self, client: Client, backend: Backend, plane: DataPlane, body: bytes
    ) -> None:
        """With a status, also after a good message, and the backend is told."""
        backend.on_end = lambda call: None
        stream = client.open(call_headers(STREAM))
        client.data(stream, frame(request()))
        wait_until("the backend has it", lambda: bool(backend.calls))
        client.data(stream, body, end=True)

        assert client.answer(stream).code in (INTERNAL, EXHAUSTED)
        assert backend.calls[0].gone.wait(2)
        wait_until("nothing is under way", lambda: free(plane))


class TestConnections:
    """Peers that begin and do not go on."""

    @pytest.mark.parametrize(
        "sent", [b"", b"PRI * HTTP/2.0\r\n", b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"\x16\x03\x01"]
    )
    def test_half_a_preface_is_closed_in_time(self, hasty: DataPlane, sent: bytes) -> None:
        """Within the handshake time, here 0.7 s."""
        with socket.create_connection(("127.0.0.1", hasty.inference_port), timeout=3) as sock:
            sock.sendall(sent)
            began = time.monotonic()
            while _receive(sock):
                pass
            assert time.monotonic() - began < 2.5

    @pytest.mark.parametrize("sent", [b"", b"\x00\x00\x00\x04\x00\x00\x00\x00\x00"])
    def test_half_a_header_block_is_closed_in_time(self, hasty: DataPlane, sent: bytes) -> None:
        """A block that is begun and never ended, with and without settings before it."""
        block = b"\x00\x00\x03\x01\x00\x00\x00\x00\x01\x83\x86\x84"
        with socket.create_connection(("127.0.0.1", hasty.inference_port), timeout=4) as sock:
            sock.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + sent + block)
            began = time.monotonic()
            while _receive(sock):
                pass
            assert time.monotonic() - began < 3.5

    def test_floods_of_control_frames_are_bounded(self, plane: DataPlane) -> None:
        """PING and SETTINGS by the thousand from a peer that takes no answers: memory stays."""
        before = memory()
        for flood in (
            b"\x00\x00\x08\x06\x00\x00\x00\x00\x0012345678",
            b"\x00\x00\x00\x04\x00\x00\x00\x00\x00",
            b"\x00\x00\x06\x04\x00\x00\x00\x00\x00\x00\x04\x00\x01\x00\x00",
        ):
            with socket.create_connection(("127.0.0.1", plane.inference_port), timeout=2) as sock:
                sock.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00")
                try:
                    for _ in range(100):
                        sock.sendall(flood * 2000)
                except OSError:
                    pass
        assert memory() - before < 16 << 20
        with Client(plane.inference_port) as client:
            assert client.call(frame(request())).code == OK

    def test_a_continuation_flood_is_cut(self, plane: DataPlane) -> None:
        """Headers without end are not read without end."""
        with socket.create_connection(("127.0.0.1", plane.inference_port), timeout=3) as sock:
            sock.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00")
            piece = b"\x00\x03x-a\x7f\x61" + b"v" * 223
            sock.sendall(b"\x00\x00\x03\x01\x00\x00\x00\x00\x01\x83\x86\x84")
            sent = 0
            try:
                while sent < 4 << 20:
                    sock.sendall((len(piece).to_bytes(3, "big") + b"\x09\x00\x00\x00\x00\x01" + piece) * 50)
                    sent += 50 * len(piece)
            except OSError:
                pass
            assert sent < 4 << 20

    def test_a_drain_fails_nothing(self, plane: DataPlane, backend: Backend) -> None:
        """Two steps of GOAWAY: calls under way end well, and the connection closes after them."""
        backend.on_end = lambda call: None
        with Client(plane.inference_port) as client:
            stream = client.open()
            client.data(stream, frame(request()), end=True)
            wait_until("the backend has it", lambda: bool(backend.calls and backend.calls[0].ended.is_set()))
            plane._core.drain(5000)
            assert client.pump(lambda: bool(client.goaways))
            assert client.goaway == 0
            backend.calls[0].ok()
            assert client.answer(stream).code == OK
            assert client.pump(lambda: client.closed)
        wait_until("it is drained", plane._core.drained)


def _receive(sock: socket.socket) -> bytes:
    try:
        return sock.recv(4096)
    except ConnectionResetError:
        return b""
