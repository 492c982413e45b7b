"""What a client may do to wear a gateway out, and what becomes of it. All of this is on by default."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import pytest
from h2.errors import ErrorCodes
from h2.settings import SettingCodes

from gateway.bridge import DataPlane, Settings
from tests.e2e.conftest import ROOT, environment, wait_until
from tests.e2e.raw import Backend, Client, Exchange, call_headers, frame, request, tensor, text_field
from tests.e2e.test_raw_frames import EXHAUSTED, OK, SMALL, free, memory, table

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0"
PING = b"\0\0\x08\x06\0\0\0\0\x0012345678"
SETTINGS = b"\0\0\0\4\0\0\0\0\0"
PRIORITY = b"\0\0\x05\x02\0\0\0\0\x01\0\0\0\0\x10"
UNKNOWN = b"\0\0\0\xee\0\0\0\0\0"
CALM = 11

Planes = Callable[[Settings], AbstractContextManager[DataPlane]]


@pytest.fixture
def backend() -> Iterator[Backend]:
    """A backend that answers every call with an empty message."""
    running = Backend()
    yield running
    running.stop()


@pytest.fixture
def planes(backend: Backend) -> Planes:
    """Makes a data plane with settings of its own."""

    @contextmanager
    def make(settings: Settings) -> Iterator[DataPlane]:
        running = DataPlane(settings)
        running.publish(table(backend))
        running.set_ready(True)
        try:
            yield running
        finally:
            running.stop()

    return make


@pytest.fixture
def plane(planes: Planes) -> Iterator[DataPlane]:
    """One with the usual limits, and short times."""
    with planes(SMALL) as running:
        yield running


def end_of(sock: socket.socket) -> int | None:
    """Read to the end of a connection; the code of the GOAWAY that came before it."""
    received = bytearray()
    try:
        while piece := sock.recv(1 << 16):
            received += piece
    except ConnectionError:
        pass
    at = received.rfind(b"\x07\0\0\0\0\0")
    return int.from_bytes(received[at + 10 : at + 14], "big") if at >= 0 else None


class TestFloods:
    """Frames that cost their sender nothing."""

    @pytest.mark.parametrize("flood", [PING, SETTINGS, PRIORITY, UNKNOWN])
    def test_frames_without_a_call_end_the_connection(self, plane: DataPlane, flood: bytes) -> None:
        """40,000 at once: GOAWAY with ENHANCE_YOUR_CALM, and others are served meanwhile."""
        before = memory()
        with (
            Client(plane.inference_port) as healthy,
            socket.create_connection(("127.0.0.1", plane.inference_port), timeout=5) as sock,
        ):
            try:
                sock.sendall(PREFACE + flood * 40_000)
                sock.shutdown(socket.SHUT_WR)
            except OSError:
                pass
            assert healthy.call(frame(request())).code == OK
            # The GOAWAY may be lost where the kernel resets a connection with unread frames.
            assert end_of(sock) in (CALM, None)
        assert memory() - before < 16 << 20

    def test_the_pings_of_a_good_client_are_answered(self, plane: DataPlane) -> None:
        """1,000 a second are what measuring the bandwidth on a short way takes."""
        with Client(plane.inference_port) as client:
            client.raw(PING * 1000)
            assert client.call(frame(request())).code == OK
            assert client.goaway is None

    def test_streams_that_never_become_calls_end_the_connection(self, plane: DataPlane) -> None:
        """5,000 malformed heads (an upper-case name): each a reset of ours, until there are too many."""
        # Indexed :method POST, :scheme http, :path /, and a literal "X: y".
        head = b"\x83\x86\x84\x00\x01X\x01y"
        with socket.create_connection(("127.0.0.1", plane.inference_port), timeout=5) as sock:
            frames = b"".join(
                len(head).to_bytes(3, "big") + b"\x01\x05" + stream.to_bytes(4, "big") + head
                for stream in range(1, 10_000, 2)
            )
            with suppress(OSError):
                sock.sendall(PREFACE + frames)
            assert end_of(sock) in (CALM, 1, None)

    def test_resets_that_the_client_provokes_count_as_its_own(
        self, plane: DataPlane, backend: Backend
    ) -> None:
        """A window update of 0 makes us reset the stream (MadeYouReset): bounded like rapid reset."""
        backend.on_end = lambda call: None
        with Client(plane.inference_port) as attacker, Client(plane.inference_port) as healthy:
            for _ in range(2000):
                if attacker.closed or attacker.goaway is not None:
                    break
                stream = attacker.open()
                attacker.data(stream, frame(request()), end=False)
                attacker.raw(b"\0\0\x04\x08\0" + stream.to_bytes(4, "big") + b"\0\0\0\0")
                if stream % 50 == 1:
                    attacker.pump(lambda: True, 0.01)
            attacker.pump(lambda: attacker.closed, 3)
            assert attacker.closed
            assert len(backend.calls) < 1500
            backend.on_end = Exchange.ok
            assert healthy.call(frame(request())).code == OK
        wait_until("nothing is under way", lambda: free(plane))

    @pytest.mark.parametrize("payload", [b"", b"x"], ids=["empty", "one byte"])
    def test_tiny_data_frames_cost_no_memory(self, plane: DataPlane, payload: bytes) -> None:
        """A million of them on one call: the call or the connection ends, memory stays."""
        before = memory()
        data = len(payload).to_bytes(3, "big") + b"\0\0\0\0\0\1" + payload
        with Client(plane.inference_port) as attacker, Client(plane.inference_port) as healthy:
            stream = attacker.open()
            attacker.data(stream, frame(request(rest=tensor(900_000)))[:200])
            attacker.sock.settimeout(3)
            try:
                for _ in range(100):
                    attacker.sock.sendall(data * 10_000)
                    assert memory() - before < 64 << 20
            except OSError:
                pass
            assert healthy.call(frame(request())).code == OK
        wait_until("nothing is under way", lambda: free(plane))
        assert memory() - before < 64 << 20

    def test_a_header_bomb_is_refused(self, plane: DataPlane, backend: Backend) -> None:
        """One large entry of the table, named 3,000 times (12 MB of 7 KB): refused, nothing kept."""
        before = memory()
        entry = b"\x40\x01b\x7f\xa1\x1e" + b"v" * 4000  # literal with indexing, 4,000 bytes
        block = b"\x83\x86\x84" + entry + b"\xbe" * 3000
        head = len(block).to_bytes(3, "big") + b"\x01\x05" + (1).to_bytes(4, "big") + block
        with socket.create_connection(("127.0.0.1", plane.inference_port), timeout=5) as sock:
            sock.sendall(PREFACE + head)
            sock.settimeout(2)
            try:
                answer = b"".join(iter(lambda: sock.recv(4096), b""))
            except TimeoutError:
                answer = b""
            assert b"grpc-status: 0" not in answer
        assert backend.calls == []
        assert memory() - before < 16 << 20

    def test_streams_over_the_limit_are_refused_and_the_others_go_on(
        self, planes: Planes, backend: Backend
    ) -> None:
        """REFUSED_STREAM, which clients may safely repeat."""
        backend.on_end = lambda call: None
        with planes(replace(SMALL, max_streams=10)) as plane, Client(plane.inference_port) as client:
            client.pump(lambda: client.h2.remote_settings.max_concurrent_streams == 10)
            client.h2.remote_settings[SettingCodes.MAX_CONCURRENT_STREAMS] = 1000
            client.h2.remote_settings.acknowledge()
            streams = [client.open() for _ in range(11)]
            for stream in streams[:10]:
                client.data(stream, frame(request()), end=True)
            assert client.answer(streams.pop()).reset == ErrorCodes.REFUSED_STREAM
            wait_until("the backend has ten", lambda: len(backend.calls) == 10)
            for call in list(backend.calls):
                wait_until("it is whole", call.ended.is_set)
                call.ok()
            assert [client.answer(stream).code for stream in streams] == [OK] * 10


class TestUntaken:
    """Answers that their client does not take."""

    SHORT = replace(SMALL, answer_timeout_ms=1000)

    def test_who_reads_nothing_is_ended(self, planes: Planes, backend: Backend) -> None:
        """30 answers of 1 MB to a client whose socket is full: dropped after the time, others served."""
        backend.on_end = lambda call: call.ok(text_field(7, b"t" * 900_000))
        with planes(self.SHORT) as plane:
            before = memory()
            with Client(plane.inference_port, window=(1 << 31) - 1) as stuck:
                stuck.h2.increment_flow_control_window(1 << 30)
                for _ in range(30):
                    stream = stuck.open()
                    stuck.data(stream, frame(request()), end=True)
                wait_until("only the stuck one is left", lambda: plane.counters().connections == 1)
                with Client(plane.inference_port) as healthy:
                    assert healthy.call(frame(request())).code == OK
                    wait_until("the stuck one is gone", lambda: plane.counters().connections == 1, seconds=10)
                wait_until("nothing is under way", lambda: free(plane))
            assert memory() - before < 128 << 20

    @pytest.mark.parametrize("size", [10, 200_000])
    def test_who_opens_no_window_is_ended(self, planes: Planes, backend: Backend, size: int) -> None:
        """The client reads its socket and never allows a byte of the answer."""
        backend.on_end = lambda call: call.ok(text_field(7, b"t" * size))
        with planes(self.SHORT) as plane, Client(plane.inference_port, window=0, taking=False) as stuck:
            for _ in range(5):
                stuck.data(stuck.open(), frame(request()), end=True)
            over = lambda: stuck.closed or all(answer.over for answer in stuck.answers.values())  # noqa: E731
            assert stuck.pump(over, 10)
            wait_until("nothing is under way", lambda: free(plane))


class TestConnections:
    """How many there may be, and how old."""

    def test_one_address_has_its_share(self, planes: Planes) -> None:
        """The third of two is closed at once; a place that is given back can be had again."""
        with planes(replace(SMALL, connections_per_address=2)) as plane:
            with Client(plane.inference_port) as one, Client(plane.inference_port) as two:
                assert one.call(frame(request())).code == OK
                assert two.call(frame(request())).code == OK
                with Client(plane.inference_port) as third:
                    assert third.pump(lambda: third.closed, 3)
            wait_until("both are gone", lambda: plane.counters().connections == 0)
            with Client(plane.inference_port) as again:
                assert again.call(frame(request())).code == OK

    def test_an_old_connection_is_sent_away_in_two_steps(self, planes: Planes, backend: Backend) -> None:
        """What is under way ends well."""
        backend.on_end = lambda call: None
        with (
            planes(replace(SMALL, max_connection_age_ms=1000)) as plane,
            Client(plane.inference_port) as client,
        ):
            stream = client.open()
            client.data(stream, frame(request()), end=True)
            assert client.pump(lambda: len(client.goaways) == 2, 5)
            assert client.goaways == [(1 << 31) - 1, stream]
            assert client.goaway == 0
            backend.calls[0].ok()
            assert client.answer(stream).code == OK
            assert client.pump(lambda: client.closed, 3)

    def test_limits_change_while_it_runs(self, planes: Planes) -> None:
        """A connection that is open meets the new bound at its next call."""
        with planes(SMALL) as plane, Client(plane.inference_port) as client:
            large = frame(request(rest=tensor(500_000)))
            assert client.call(large).code == OK
            plane.set_limits(replace(SMALL, max_message=100_000))
            wait_until("it is in force", lambda: client.call(large).code == EXHAUSTED)
            plane.set_limits(SMALL)
            wait_until("it is taken back", lambda: client.call(large).code == OK)


_SMALL_PROCESS = """
import resource, sys
from dataclasses import replace
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
from gateway.bridge import DataPlane, Settings
from tests.e2e.test_raw_frames import table_at
plane = DataPlane(replace(Settings(), idle_timeout_ms=1000))
plane.publish(table_at(sys.argv[1]))
plane.set_ready(True)
print(plane.inference_port, flush=True)
sys.stdin.read()
plane.stop()
"""


def test_used_up_file_descriptors_pause_it_and_do_not_end_it(backend: Backend) -> None:
    """64 descriptors and 150 clients: it neither ends nor spins, and serves again when they are gone."""
    process = subprocess.Popen(
        [sys.executable, "-c", _SMALL_PROCESS, backend.address],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=environment(),
        cwd=ROOT,
    )
    assert process.stdout is not None
    assert process.stdin is not None
    port = int(process.stdout.readline())
    with Client(port) as first:
        assert first.call(frame(request())).code == OK
    crowd = [socket.create_connection(("127.0.0.1", port)) for _ in range(150)]
    wait_until("descriptors are used up", lambda: len(os.listdir(f"/proc/{process.pid}/fd")) >= 60)
    before = _processor_seconds(process.pid)
    time.sleep(1)
    assert _processor_seconds(process.pid) - before < 0.5
    for sock in crowd:
        sock.close()
    wait_until("it serves again", lambda: _serves(port), seconds=15)
    assert process.poll() is None
    process.communicate(b"", timeout=20)
    assert process.returncode == 0


def _serves(port: int) -> bool:
    """Whether a call on a new connection is answered within 2 s."""
    with Client(port) as client:
        stream = client.open(call_headers())
        client.data(stream, frame(request()), end=True)
        return client.pump(lambda: client.answers[stream].over, 2) and client.answers[stream].code == OK


def _processor_seconds(process: int) -> float:
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
