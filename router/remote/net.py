"""HTTP to hosts that were named by others: the address is judged where the connection is made.

A name is resolved once, every address of it is judged, and the connection goes to one of those very
addresses: nothing can answer the check with one address and the connection with another. No proxy from the
environment is used, and no redirect is followed except to an origin that is allowed, each hop by itself.
"""

from __future__ import annotations

import contextlib
import http.client
import ipaddress
import select
import socket
import ssl
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from types import TracebackType
from typing import Self
from urllib.parse import urljoin, urlsplit

from router.remote.addresses import Address, BadHost, Reach, canonical_host, reach_of

PIECE = 1 << 18
"""Bytes that are read from a connection at once."""

_PORTS = {"http": 80, "https": 443}
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_MOST_KEPT = 16
_SAFE = frozenset({"GET", "HEAD", "OPTIONS", "TRACE"})
_IDEMPOTENT = _SAFE | {"PUT", "DELETE"}
"""Methods whose requests may be sent again where nobody knows whether they arrived (RFC 9110, 9.2.2)."""
_PRECONDITIONS = frozenset({"if-match", "if-none-match", "if-unmodified-since"})
_SECRETS = frozenset({"authorization", "cookie", "x-amz-security-token", "x-api-key"})
_CUT = 300


class Refused(Exception):
    """A host, address or redirect that is not allowed; nothing was sent there."""


class Unreachable(Exception):
    """No connection, or one that ended or fell silent; trying again may help."""


@dataclass(frozen=True, slots=True)
class Origin:
    """Whom a URL speaks to."""

    scheme: str
    host: str
    port: int

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}"


def origin_of(url: str) -> Origin:
    """Whom an http or https URL speaks to. Raises Refused for one that no honest party writes."""
    if any(ord(char) <= 0x20 or ord(char) >= 0x7F or char == "\\" for char in url):  # noqa: PLR2004
        raise Refused("a URL has spaces, backslashes or characters that are not ASCII")
    try:
        parts = urlsplit(url)
        port = parts.port
        host = canonical_host(parts.hostname or "")
    except (ValueError, BadHost) as problem:
        raise Refused(f"a URL is malformed: {problem}") from None
    if parts.scheme not in _PORTS:
        raise Refused(f"scheme {parts.scheme[:40]!r} is not http or https")
    if "@" in parts.netloc:
        raise Refused("a URL carries a user name or password")
    return Origin(parts.scheme, host, _PORTS[parts.scheme] if port is None else port)


Resolve = Callable[[str, int], Iterable[str]]


def resolve(host: str, port: int) -> list[str]:
    """Addresses of a host as the system resolves it. Raises OSError."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


class Guard:
    """Judges addresses and makes connections.

    Args:
        private: hosts, as the operator wrote them, that may be on private addresses; never those that a
            registry named.
    """

    def __init__(self, private: Iterable[str] = (), resolve: Resolve = resolve) -> None:
        self._private = frozenset(canonical_host(host) for host in private)
        self._resolve = resolve

    def addresses(self, host: str, port: int) -> list[Address]:
        """Addresses of a host, all of which may be spoken to.

        Raises:
            Refused: one of them may not.
            Unreachable: there is none.
        """
        try:
            host = canonical_host(host)
        except BadHost as problem:
            raise Refused(str(problem)) from None
        try:
            found = [ipaddress.ip_address(text.partition("%")[0]) for text in self._resolve(host, port)]
        except (OSError, ValueError, UnicodeError) as problem:
            raise Unreachable(f"host {host} cannot be resolved: {problem}") from None
        if not found:
            raise Unreachable(f"host {host} has no address")
        for address in found:
            reach = reach_of(address)
            if reach is Reach.NEVER:
                raise Refused(f"host {host} is at {address}, where nothing is ever fetched from")
            if reach is Reach.PRIVATE and host not in self._private:
                raise Refused(
                    f"host {host} is at {address}, a private address, and is not in the configuration"
                )
        return found

    def connect(self, host: str, port: int, timeout: float) -> socket.socket:
        """A TCP connection to one of a host's addresses; `timeout` in seconds, for each address.

        Raises:
            Refused, Unreachable: as `addresses`, or none of them answers.
        """
        problem: OSError | None = None
        for address in self.addresses(host, port):
            try:
                sock = socket.create_connection((str(address), port), timeout)
            except OSError as error:
                problem = error
            else:
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                return sock
        raise Unreachable(f"{host}:{port} does not answer: {problem}")


class _Connection(http.client.HTTPConnection):
    """http.client's connection over a guarded socket."""

    def __init__(self, origin: Origin, guard: Guard, timeout: float, context: ssl.SSLContext | None) -> None:
        super().__init__(origin.host, origin.port, timeout=timeout)
        self._origin, self._guard, self._seconds, self._context = origin, guard, timeout, context
        self.uses = 0

    def connect(self) -> None:
        """Called by http.client before the first request."""
        sock = self._guard.connect(self._origin.host, self._origin.port, self._seconds)
        if self._context is not None:
            try:
                sock = self._context.wrap_socket(sock, server_hostname=self._origin.host)
            except (OSError, ValueError) as problem:
                sock.close()
                raise Unreachable(f"{self._origin}: no TLS: {problem}") from None
        self.sock = sock

    def quiet(self) -> bool:
        """Whether its peer has said nothing since the last answer: an end of the connection is heard, too."""
        if self.sock is None:
            return False
        heard = select.poll()
        heard.register(self.sock, select.POLLIN)
        return not heard.poll(0)

    def interrupt(self) -> None:
        """Wake whoever reads from it in another thread; it fails there."""
        sock = self.sock
        if sock is not None:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)


class Response:
    """An answer whose body is still to be read. Use it as a context manager.

    Attributes:
        status: HTTP's.
        headers: names in lower case; of several of one name the last.
        url: where it came from, after redirects.
    """

    def __init__(self, raw: http.client.HTTPResponse, url: str, give_back: Callable[[bool], None]) -> None:
        self.status = raw.status
        self.headers: Mapping[str, str] = {name.lower(): value for name, value in raw.getheaders()}
        self.url = url
        self._raw = raw
        self._give_back: Callable[[bool], None] | None = give_back

    def read(self, limit: int) -> bytes:
        """The whole body. Raises Unreachable where it is cut, or longer than `limit` bytes."""
        body = bytearray()
        for piece in self.pieces():
            body += piece
            if len(body) > limit:
                raise Unreachable(f"{shown(self.url)} answers more than {limit} bytes")
        return bytes(body)

    def pieces(self, size: int = PIECE) -> Iterator[bytes]:
        """The body as it arrives. Raises Unreachable where it is cut or the peer falls silent."""
        while piece := self.read1(size):
            yield piece

    def read1(self, size: int = PIECE) -> bytes:
        """Some bytes, at most `size`; none at the end. Raises as `pieces`."""
        try:
            piece = self._raw.read1(size)
        except (OSError, http.client.HTTPException, ValueError) as problem:
            raise Unreachable(f"{shown(self.url)} stopped in the middle: {_said(problem)}") from None
        # http.client takes an early end for the end of the body.
        if not piece and self._raw.length:
            raise Unreachable(f"{shown(self.url)} stopped {self._raw.length} bytes before the end")
        return piece

    def close(self) -> None:
        """Give the connection back; one whose body was not read to the end is closed."""
        give_back, self._give_back = self._give_back, None
        if give_back is not None:
            whole = self._raw.isclosed() or self._raw.length == 0
            self._raw.close()
            give_back(whole and not self._raw.will_close)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _no_origin(_: Origin) -> bool:
    return False


@dataclass
class Client:
    """Speaks HTTP/1.1 through a guard, over connections that are kept. Safe in several threads.

    Attributes:
        allowed: whether a redirect may lead to an origin; the one first asked is always allowed.
        timeout: seconds without a byte after which a connection is given up.
        context: TLS settings; None for the system's.
        redirects: how many are followed.
    """

    guard: Guard
    allowed: Callable[[Origin], bool] = _no_origin
    timeout: float = 30.0
    context: ssl.SSLContext | None = None
    redirects: int = 5
    _idle: dict[Origin, list[_Connection]] = field(default_factory=dict, init=False, repr=False)
    _live: set[_Connection] = field(default_factory=set, init=False, repr=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False, repr=False)
    _closed: bool = field(default=False, init=False, repr=False)

    def request(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str] | None = None,
        body: bytes | None = None,
    ) -> Response:
        """Send a request and return once there are headers, whatever the status.

        Secrets among the headers go to the first origin only; of redirects, those of GET and HEAD are
        followed. A request over a kept connection that turns out to be closed is sent again over another
        one, unless doing it twice would be other than doing it once, as with POST, or with a PUT whose
        condition its first arrival may have ended: its peer may have had it.

        Raises:
            Refused: the URL, its address, or where it redirects to is not allowed.
            Unreachable: no connection, or it ended before the headers.
        """
        sent = dict(headers or {})
        first = origin_of(url)
        for _ in range(self.redirects + 1):
            response = self._once(method, url, sent, body)
            to = response.headers.get("location", "")
            if response.status not in _REDIRECTS or not to or method not in ("GET", "HEAD"):
                return response
            response.close()
            url = urljoin(url, to)
            origin = origin_of(url)
            if origin != first:
                if not self.allowed(origin):
                    raise Refused(f"{first} redirects to {origin}, which is not allowed")
                if origin.scheme == "http" and first.scheme == "https":
                    raise Refused(f"{first} redirects to {origin}, which is not encrypted")
                sent = {name: value for name, value in sent.items() if name.lower() not in _SECRETS}
        raise Refused(f"{first} redirects more than {self.redirects} times")

    def close(self) -> None:
        """Close all connections; reads that wait in other threads fail at once."""
        with self._lock:
            self._closed = True
            idle = [connection for kept in self._idle.values() for connection in kept]
            self._idle.clear()
            live = list(self._live)
        for connection in live:
            connection.interrupt()
        for connection in idle:
            connection.close()

    def _once(self, method: str, url: str, headers: Mapping[str, str], body: bytes | None) -> Response:
        origin = origin_of(url)
        parts = urlsplit(url)
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        while True:
            connection = self._take(origin)
            try:
                connection.request(method, target, body, {"Accept-Encoding": "identity", **headers})
                raw = connection.getresponse()
            except (Refused, Unreachable):
                self._drop(connection)
                raise
            except (OSError, http.client.HTTPException, ValueError) as problem:
                self._drop(connection)
                # A kept connection may have been closed by the peer while it was idle.
                stale = connection.uses > 0 and isinstance(problem, ConnectionError)
                if stale and _repeatable(method, headers) and not self._closed:
                    continue
                raise Unreachable(f"{origin} does not answer: {_said(problem)}") from None
            return Response(raw, url, partial(self._give_back, origin, connection))

    def _take(self, origin: Origin) -> _Connection:
        with self._lock:
            if self._closed:
                raise Unreachable("this client was closed")
            connection = self._kept(origin)
            if connection is None:
                connection = _Connection(origin, self.guard, self.timeout, self._tls(origin))
            else:
                connection.uses += 1
            self._live.add(connection)
            return connection

    def _kept(self, origin: Origin) -> _Connection | None:
        """A connection that was used and is still open, as far as can be seen from here."""
        kept = self._idle.get(origin, [])
        while kept:
            connection = kept.pop()
            if connection.quiet():
                return connection
            connection.close()
        return None

    def _tls(self, origin: Origin) -> ssl.SSLContext | None:
        if origin.scheme != "https":
            return None
        if self.context is None:
            self.context = ssl.create_default_context()
        return self.context

    def _give_back(self, origin: Origin, connection: _Connection, keep: bool) -> None:
        with self._lock:
            self._live.discard(connection)
            kept = self._idle.setdefault(origin, [])
            if keep and not self._closed and len(kept) < _MOST_KEPT:
                kept.append(connection)
                return
        connection.close()

    def _drop(self, connection: _Connection) -> None:
        with self._lock:
            self._live.discard(connection)
        connection.close()


def _repeatable(method: str, headers: Mapping[str, str]) -> bool:
    """Whether it is all the same to its peer, and to whoever reads the answer, if a request comes twice."""
    conditional = not _PRECONDITIONS.isdisjoint(name.lower() for name in headers)
    return method in _SAFE or (method in _IDEMPOTENT and not conditional)


def shown(url: str) -> str:
    """A URL for people: without its query, which may carry a signature, and not too long."""
    return url.partition("?")[0][:_CUT]


def _said(problem: BaseException) -> str:
    return (str(problem) or type(problem).__name__)[:_CUT]
