"""HTTP through the guard: addresses judged at the connection, redirects hop by hop, cuts seen."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from router.remote.net import Client, Guard, Origin, Refused, Unreachable, origin_of


class Peer(BaseHTTPRequestHandler):
    """Answers by path and keeps what was asked."""

    protocol_version = "HTTP/1.1"
    asked: list[tuple[str, dict[str, str]]]
    to = ""

    def do_GET(self) -> None:
        self.asked.append((self.path, {name.lower(): value for name, value in self.headers.items()}))
        if self.path == "/away":
            self.send_response(302)
            self.send_header("Location", self.to)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        body = b"x" * 1000
        self.send_response(200)
        self.send_header("Content-Length", str(len(body) * 2 if self.path == "/cut" else len(body)))
        self.end_headers()
        self.wfile.write(body)
        self.close_connection = self.path in ("/cut", "/last")

    def log_message(self, *_: object) -> None:
        """Nothing to the console."""


@contextmanager
def peer(to: str = "") -> Iterator[tuple[str, list[tuple[str, dict[str, str]]]]]:
    """A server on loopback; its URL and what it was asked."""
    asked: list[tuple[str, dict[str, str]]] = []
    handler = type("Handler", (Peer,), {"asked": asked, "to": to})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", asked
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def client() -> Iterator[Client]:
    """A client whose operator wrote 127.0.0.1."""
    made = Client(Guard(["127.0.0.1"]), timeout=5)
    yield made
    made.close()


@pytest.mark.parametrize("address", ["169.254.169.254", "::ffff:169.254.169.254", "10.0.0.1", "127.0.0.1"])
def test_what_a_name_leads_to_is_judged(address: str) -> None:
    """A public name that resolves to an inner address is refused, even as one address among good ones."""
    guard = Guard(resolve=lambda host, port: ["8.8.8.8", address])

    with pytest.raises(Refused, match=r"models\.example"):
        guard.connect("models.example", 443, 1)


def test_a_name_that_answers_otherwise_the_second_time_gains_nothing() -> None:
    """Addresses are asked for once, and the connection goes to what was judged."""
    answers = iter([["127.0.0.1"], ["169.254.169.254"]])
    guard = Guard(["rebinding.example"], resolve=lambda host, port: next(answers))
    with peer() as (url, _):
        sock = guard.connect("rebinding.example", origin_of(url).port, 5)
        assert sock.getpeername()[0] == "127.0.0.1"
        sock.close()

    assert next(answers) == ["169.254.169.254"]


def test_a_private_address_needs_the_operators_word(client: Client) -> None:
    """The same request with and without it; without, nothing arrives."""
    with peer() as (url, asked):
        with pytest.raises(Refused, match="not in the configuration"):
            Client(Guard()).request("GET", url)
        assert asked == []
        with client.request("GET", url) as response:
            assert response.read(1000) == b"x" * 1000


def test_metadata_addresses_are_refused_even_where_the_operator_wrote_them() -> None:
    """Nobody fetches models from there."""
    with pytest.raises(Refused, match="nothing is ever fetched"):
        Client(Guard(["169.254.169.254"])).request("GET", "http://169.254.169.254/latest/meta-data")


@pytest.mark.parametrize(
    "to", ["http://169.254.169.254/latest", "http://127.0.0.2:1/x", "ftp://127.0.0.1/x", "//evil.example/x"]
)
def test_a_redirect_elsewhere_is_refused(client: Client, to: str) -> None:
    """Before anything is sent there."""
    with peer(to) as (url, asked):
        with pytest.raises(Refused):
            client.request("GET", f"{url}/away")
        assert len(asked) == 1


def test_a_redirect_to_an_allowed_host_carries_no_secrets() -> None:
    """The token is for the first host only."""
    headers = {"Authorization": "Bearer x", "Range": "bytes=0-"}
    with peer() as (second, there), peer(f"{second}/file") as (first, _):
        client = Client(Guard(["127.0.0.1"]), allowed=lambda origin: origin == origin_of(second))
        with client.request(
            "GET", f"{first}/away", {"Authorization": "Bearer x", "Range": "bytes=0-"}
        ) as got:
            assert got.url == f"{second}/file"
        client.close()
    path, headers = there[0]

    assert path == "/file"
    assert "authorization" not in headers
    assert headers["range"] == "bytes=0-"


def test_redirects_end(client: Client) -> None:
    """A circle is given up."""
    with peer("/away") as (url, asked):
        with pytest.raises(Refused, match="more than 5 times"):
            client.request("GET", f"{url}/away")
        assert len(asked) == 6


def test_a_cut_body_is_seen(client: Client) -> None:
    """http.client itself takes the early end for the end."""
    with peer() as (url, _), client.request("GET", f"{url}/cut") as response:
        pieces = response.pieces()
        assert len(next(pieces)) == 1000
        with pytest.raises(Unreachable, match="1000 bytes before the end"):
            next(pieces)


def test_connections_are_kept_and_a_stale_one_is_replaced(client: Client) -> None:
    """A peer may close a kept connection at any time; that is no failure of the next request."""
    with peer() as (url, asked):
        for path in ("/", "/last", "/", "/"):
            with client.request("GET", url + path) as response:
                assert len(response.read(1000)) == 1000

    assert len(asked) == 4


class Wavering:
    """Answers one request on each connection, and meets the next one there with an end and no answer.

    Args:
        at_once: whether it ends a connection after its answer, and not once it has the next request.
    """

    def __init__(self, *, at_once: bool = False) -> None:
        self._at_once = at_once
        self._listening = socket.create_server(("127.0.0.1", 0))
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()
        self.heard: list[str] = []
        self.ended = threading.Semaphore(0)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._listening.getsockname()[1]}/"

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listening.accept()
                self._threads.append(threading.Thread(target=self._serve, args=(connection,)))
                self._threads[-1].start()

    def _serve(self, connection: socket.socket) -> None:
        with connection:
            self._hear(connection)
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
            if not self._at_once:
                self._hear(connection)
        self.ended.release()

    def _hear(self, connection: socket.socket) -> None:
        line = connection.recv(1 << 16).partition(b" ")[0].decode()
        if line:
            self.heard.append(line)

    def close(self) -> None:
        self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        for thread in self._threads:
            thread.join(5)


@pytest.fixture
def wavering() -> Iterator[Wavering]:
    """A peer that takes the second request of a connection and does not answer it."""
    made = Wavering()
    yield made
    made.close()


@pytest.mark.parametrize(
    ("method", "headers"),
    [("POST", {}), ("PATCH", {}), ("PUT", {"If-None-Match": "*"}), ("DELETE", {"if-match": '"a"'})],
)
def test_what_may_have_been_done_is_not_asked_for_twice(
    client: Client, wavering: Wavering, method: str, headers: dict[str, str]
) -> None:
    """The peer had the request and ended the connection: nobody knows what it did about it."""
    with client.request("GET", wavering.url) as first:
        first.read(10)
    with pytest.raises(Unreachable):
        client.request(method, wavering.url, headers, b"one more")
    client.close()

    assert wavering.heard.count(method) == 1


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE"])
def test_what_can_be_done_twice_is_asked_for_again(client: Client, wavering: Wavering, method: str) -> None:
    """As above, where the second time changes nothing."""
    with client.request("GET", wavering.url) as first:
        first.read(10)
    with client.request(method, wavering.url) as second:
        assert second.read(10) == b"ok"
    client.close()

    assert wavering.heard == ["GET", method, method]


def test_nothing_is_sent_over_a_connection_that_has_ended(client: Client) -> None:
    """Servers end idle connections: whoever writes to them meanwhile need not fail for it."""
    peer = Wavering(at_once=True)
    try:
        with client.request("GET", peer.url) as first:
            first.read(10)
        assert peer.ended.acquire(timeout=5)
        with client.request("POST", peer.url, {}, b"one more") as second:
            assert second.read(10) == b"ok"
    finally:
        client.close()
        peer.close()

    assert peer.heard == ["GET", "POST"]


def test_more_than_the_limit_is_not_kept_in_memory(client: Client) -> None:
    """A body of unknown origin is bounded."""
    with (
        peer() as (url, _),
        client.request("GET", url) as response,
        pytest.raises(Unreachable, match="more than 999 bytes"),
    ):
        response.read(999)


def test_closing_wakes_a_reader() -> None:
    """Whoever gives up does not wait for a silent peer."""
    with peer() as (url, _):
        client = Client(Guard(["127.0.0.1"]))
        response = client.request("GET", f"{url}/slow")
        client.close()
        with pytest.raises(Unreachable, match="closed"):
            client.request("GET", url)
        response.close()


@pytest.mark.parametrize(
    "url",
    [
        *("ftp://h/x", "http:///x", "http://user:word@h/x", "http://h:99999/x", "http://0x7f000001/x"),
        *("http://h\\@evil/x", "http://h/a b", "http://h/\n", "http://[::1/x", "file:///etc/passwd"),
    ],
)
def test_a_malformed_url_is_refused(url: str) -> None:
    """Before a name is resolved."""
    with pytest.raises(Refused):
        origin_of(url)


def test_origins_have_their_default_ports() -> None:
    """So that `https://h` and `https://h:443` are one."""
    assert (
        origin_of("https://H.example./x")
        == origin_of("https://h.example:443")
        == Origin("https", "h.example", 443)
    )
