"""One file of a web server, as a source."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NoReturn
from urllib.parse import unquote, urlsplit

from router.errors import ArtifactChanged, ArtifactMissing, ArtifactRefused, ArtifactUnavailable
from router.ports import RemoteFile
from router.remote.net import Client, Guard, Origin, Refused, Response, Unreachable, shown

_OK, _PARTIAL, _MISSING, _CHANGED, _BUSY, _SERVERS_FAULT = 200, 206, (404, 410), (412, 416), 429, 500
_NO_HEAD = (403, 405, 501)


class WebFile:
    """`ports.Source` over an http or https URL.

    A server that gives ranges and says which file it gives (a strong ETag, or a time of change) is read in
    parallel; of another one the size is left unknown, so that it is read in one go.
    """

    def __init__(self, guard: Guard, allowed: Callable[[Origin], bool], timeout: float) -> None:
        self._client = Client(guard, allowed, timeout)

    def files(self, uri: str) -> Sequence[RemoteFile]:
        """The one file. Raises as the port says."""
        name = unquote(urlsplit(uri).path).rpartition("/")[2]
        if not name:
            raise ArtifactRefused(
                f"{shown(uri)} names no file", hint="folders of web servers cannot be listed"
            )
        with self._ask("HEAD", uri, {}) as response:
            if response.status in _NO_HEAD:
                return [RemoteFile(name)]
            if response.status != _OK:
                _refuse(uri, response)
            headers = response.headers
        seen, size = _seen(headers), headers.get("content-length", "")
        ranges = headers.get("accept-ranges", "").lower() == "bytes"
        if not (seen and ranges and size.isdecimal()):
            return [RemoteFile(name)]
        return [RemoteFile(name, int(size), seen=seen)]

    def read(self, uri: str, file: RemoteFile, start: int, end: int | None) -> Iterator[bytes]:
        """A range of the file that was listed. Raises as the port says."""
        if start and not file.seen:
            raise ArtifactChanged(f"{shown(uri)} stopped in the middle, and its server gives no ranges")
        headers = _conditions(file.seen)
        if file.seen:
            headers["Range"] = f"bytes={start}-{'' if end is None else end - 1}"
        with self._ask("GET", uri, headers) as response:
            if response.status not in (_OK, _PARTIAL):
                _refuse(uri, response)
            if file.seen and _seen(response.headers) != file.seen:
                raise ArtifactChanged(f"{shown(uri)} was replaced while it was fetched")
            told = response.headers.get("content-range", "")
            if start and not (response.status == _PARTIAL and told.startswith(f"bytes {start}-")):
                raise ArtifactUnavailable(f"{shown(uri)}: the server does not give the range asked for")
            if response.headers.get("content-encoding", "identity") != "identity":
                raise ArtifactRefused(f"{shown(uri)}: the server packs what is to be taken as it is")
            left = None if end is None else end - start
            try:
                for piece in response.pieces():
                    taken = piece if left is None else piece[:left]
                    yield taken
                    if left is not None:
                        left -= len(taken)
                        if not left:
                            return
            except Unreachable as problem:
                raise ArtifactUnavailable(str(problem)) from None

    def close(self) -> None:
        """Close all connections."""
        self._client.close()

    def _ask(self, method: str, uri: str, headers: Mapping[str, str]) -> Response:
        try:
            return self._client.request(method, uri, headers)
        except Refused as problem:
            raise ArtifactRefused(
                str(problem), hint="hosts that may be fetched from are in artifacts.allow.hosts"
            ) from None
        except Unreachable as problem:
            raise ArtifactUnavailable(str(problem)) from None


def _seen(headers: Mapping[str, str]) -> str:
    """What tells this file from another under the same URL (RFC 9110, 8.8): never a weak ETag."""
    etag = headers.get("etag", "")
    if etag.startswith('"'):
        return f"etag {etag}"
    date = headers.get("last-modified", "")
    return f"date {date}" if date else ""


def _conditions(seen: str) -> dict[str, str]:
    kind, _, value = seen.partition(" ")
    if not value:
        return {}
    return {"If-Match" if kind == "etag" else "If-Unmodified-Since": value}


def _refuse(uri: str, response: Response) -> NoReturn:
    status = response.status
    if status in _MISSING:
        raise ArtifactMissing(f"there is nothing at {shown(uri)}")
    if status in _CHANGED:
        raise ArtifactChanged(f"{shown(uri)} was replaced while it was fetched")
    if status >= _SERVERS_FAULT or status == _BUSY:
        raise ArtifactUnavailable(f"{shown(uri)}: the server answers {status}")
    raise ArtifactRefused(f"{shown(uri)}: the server answers {status}")
