"""Calls of MLflow's REST API: to one server only, bounded in time and size, following nothing.

What it answers is untrusted: no redirect is followed, an answer may have 64 MiB, and what it says of an error
reaches people cut and without our credentials.
"""

from __future__ import annotations

import base64
import json
import ssl
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import urlencode

from router.errors import InvalidInput, RegistryUnavailable
from router.registries import told_json
from router.remote.net import Client, Guard, Origin, Refused, Response, Unreachable, origin_of

LARGEST_ANSWER = 64 << 20
"""Bytes of one answer; 10,000 versions are about 3 MB."""

_API = "/api/2.0/mlflow/"
_CUT = 500
_OK = 200
_TOO_MANY = 429
_TIMED_OUT = 408
_SERVER_FAULT = 500

Secret = Callable[[], str]


class Answered(Exception):
    """MLflow answered that it will not.

    Attributes:
        status: HTTP's.
        code: MLflow's `error_code`, such as RESOURCE_DOES_NOT_EXIST; "" where whoever answered gave none.
        text: what it said, cut.
    """

    def __init__(self, status: int, code: str, text: str) -> None:
        super().__init__(f"{code or status}: {text}")
        self.status = status
        self.code = code
        self.text = text

    @property
    def missing(self) -> bool:
        """Whether it says that there is no such thing."""
        return self.code == "RESOURCE_DOES_NOT_EXIST"


@dataclass(frozen=True)
class Server:
    """Where an MLflow is, and how we are let in.

    Attributes:
        registry: the registry's name in the configuration, for messages.
        uri: its address, with the prefix that a proxy may have put before it.
        token: a bearer token; or `username` and `password`; or none of them.
        ca: certificates in PEM that its own must lead to; None for the system's.
    """

    registry: str
    uri: str
    token: Secret | None = None
    username: str = ""
    password: Secret | None = None
    ca: Path | None = None

    @cached_property
    def origin(self) -> Origin:
        """Whom it speaks to. Raises InvalidInput."""
        try:
            return origin_of(self.uri)
        except Refused as problem:
            raise InvalidInput(f"registry {self.registry!r}: uri: {problem}") from None

    @cached_property
    def base(self) -> str:
        """The address without a slash at its end."""
        return self.uri.rstrip("/")

    def client(self, silence: float) -> Client:
        """A client of this server; `silence` in seconds without a byte. The caller closes it."""
        return Client(Guard([self.origin.host]), timeout=silence, context=self._tls, redirects=0)

    def headers(self) -> dict[str, str]:
        """Our credentials. Raises RegistryUnavailable where they cannot be read."""
        said = ""
        if self.token is not None:
            said = f"Bearer {self.token()}"
        elif self.username:
            password = self.password() if self.password is not None else ""
            said = "Basic " + base64.b64encode(f"{self.username}:{password}".encode()).decode()
        if not said.isprintable() or not said.isascii():
            raise RegistryUnavailable(f"registry {self.registry!r}: the token holds what no header can")
        return {"authorization": said} if said else {}

    def session(self, seconds: float) -> Session:
        """Some calls that together may take so many seconds; use it as a context manager."""
        return Session(self, seconds)

    @cached_property
    def _tls(self) -> ssl.SSLContext | None:
        if self.origin.scheme != "https":
            return None
        try:
            return ssl.create_default_context(cafile=self.ca)
        except OSError as problem:
            raise RegistryUnavailable(
                f"registry {self.registry!r}: ca {self.ca} cannot be read: {problem}"
            ) from None


@dataclass
class Session:
    """Calls under one deadline, over one connection, from one thread."""

    server: Server
    seconds: float
    _client: Client = field(init=False, repr=False)
    _guillotine: threading.Timer = field(init=False, repr=False)
    _end: float = field(init=False, repr=False)

    def __enter__(self) -> Self:
        self._client = self.server.client(self.seconds)
        self._end = time.monotonic() + self.seconds
        # Whoever sends a byte now and then is never silent; this ends the call all the same.
        self._guillotine = threading.Timer(self.seconds, self._client.close)
        self._guillotine.daemon = True
        self._guillotine.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._guillotine.cancel()
        self._client.close()

    @property
    def left(self) -> float:
        """Seconds until the deadline."""
        return self._end - time.monotonic()

    def get(self, path: str, **query: object) -> dict[str, object]:
        """An answer of the API. Raises Answered, RegistryUnavailable."""
        return self.parsed(path, self.page(path, **query))

    def page(self, path: str, **query: object) -> bytes:
        """The bytes of an answer of the API. Raises Answered, RegistryUnavailable."""
        return self._call("GET", f"{_API}{path}?{urlencode(query, doseq=True)}", None)

    def send(self, method: str, path: str, **body: object) -> dict[str, object]:
        """A call with a body. Raises Answered, RegistryUnavailable."""
        return self.parsed(path, self._call(method, _API + path, json.dumps(body).encode()))

    def outside(self, path: str) -> dict[str, object]:
        """A GET of another part of the server than the API. Raises Answered, RegistryUnavailable."""
        return self.parsed(path, self._call("GET", path, None))

    def parsed(self, path: str, page: bytes) -> dict[str, object]:
        """An answer as JSON. Raises RegistryUnavailable where it is none."""
        try:
            found = told_json.parse(page or b"{}")
        except ValueError:
            raise self._wrong(path, "answered what is no JSON") from None
        if not isinstance(found, dict):
            raise self._wrong(path, "answered what is no JSON object")
        return found

    def _call(self, method: str, target: str, body: bytes | None) -> bytes:
        headers = {"accept": "application/json", **self.server.headers()}
        if body is not None:
            headers["content-type"] = "application/json"
        try:
            with self._client.request(method, self.server.base + target, headers, body) as response:
                page = response.read(LARGEST_ANSWER)
        except (Refused, Unreachable) as problem:
            late = f" (after {self.seconds:g} s)" if self.left <= 0 else ""
            raise self._wrong("", f"{problem}{late}") from None
        if response.status == _OK:
            return page
        raise refusal(self.server, response, page)

    def _wrong(self, path: str, text: str) -> RegistryUnavailable:
        what = f"{path.partition('?')[0]} " if path else ""
        return RegistryUnavailable(f"registry {self.server.registry!r}: {what}{clean(self.server, text)}")


def refusal(server: Server, response: Response, page: bytes) -> Answered | RegistryUnavailable:
    """What to raise for an answer that is not 200: Answered where MLflow itself said no."""
    code, text = _complaint(page)
    text = clean(server, text)
    status = response.status
    if status in (_TIMED_OUT, _TOO_MANY) or status >= _SERVER_FAULT:
        return RegistryUnavailable(f"registry {server.registry!r}: answered {status} {text}".rstrip())
    return Answered(status, code, text)


def clean(server: Server, text: str) -> str:
    """A text of the server for people: one line, cut, without our credentials."""
    line = " ".join("".join(char if char.isprintable() else " " for char in text[: 4 * _CUT]).split())
    try:
        said = server.headers().get("authorization", "")
    except RegistryUnavailable:
        said = ""
    secrets = {said, said.partition(" ")[2]}
    if said and server.password is not None:
        secrets.add(server.password())
    for secret in sorted(filter(None, secrets), key=len, reverse=True):
        line = line.replace(secret, "***")
    return line[:_CUT]


def _complaint(page: bytes) -> tuple[str, str]:
    try:
        found = told_json.parse(page[: 1 << 20])
    except ValueError:
        return "", ""
    if not isinstance(found, dict):
        return "", ""
    code, text = found.get("error_code", ""), found.get("message", "")
    return (code if isinstance(code, str) else "")[:80], text if isinstance(text, str) else ""
