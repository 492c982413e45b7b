"""Files behind MLflow's artifact proxy, which the server itself reads and writes.

`mlflow-artifacts:/path` is `/api/2.0/mlflow-artifacts/artifacts/path` of the server. Paths come from the
registry and are untrusted: nothing that could mean another folder, however it is encoded, is asked for.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote, urlencode, urlsplit

from router.errors import (
    ArtifactChanged,
    ArtifactMissing,
    ArtifactRefused,
    ArtifactUnavailable,
    RegistryUnavailable,
)
from router.ports import RemoteFile
from router.registries import told_json
from router.registries.mlflow.rest import LARGEST_ANSWER, Answered, Server, clean, refusal
from router.remote.net import Client, Refused, Response, Unreachable, origin_of

SCHEME = "mlflow-artifacts"
_PROXY = "/api/2.0/mlflow-artifacts/artifacts"
_MOST_FILES = 10_000
_DEEPEST = 32
_LONGEST = 1_000
_IN_PARTS = 8 << 20
"""Bytes from which on a file may be asked for in parts."""
_ALONE = "alone"
"""What is `seen` of an artifact that is one file: its path is the whole of the URI's."""
_RANGE = re.compile(r"bytes ([0-9]{1,18})-([0-9]{1,18})/([0-9]{1,18})")
_OK, _PARTIAL, _NO_SUCH_RANGE, _NOT_FOUND = 200, 206, 416, 404


def proxied_path(server: Server, uri: str) -> str | None:
    """The path behind the proxy that a URI names; None for a URI of another kind or another server.

    Raises:
        ArtifactRefused: it tries to leave its folder, or names another server's proxy.
    """
    parts = urlsplit(uri)
    if parts.scheme == SCHEME:
        if parts.netloc and not _is_ours(server, parts.netloc):
            host = parts.netloc.rpartition("@")[2][:200]  # without a password that may stand before it
            raise ArtifactRefused(f"{f'{SCHEME}://{host}'!r} names another MLflow than {server.origin}")
        return checked_path(unquote(parts.path))
    if parts.scheme in ("http", "https") and f"{_PROXY}/" in parts.path:
        base, _, path = parts.path.partition(f"{_PROXY}/")
        if _same(server, uri) and base == urlsplit(server.base).path:
            return checked_path(unquote(path))
    return None


def checked_path(text: str) -> str:
    """A path inside the proxy's root, without a slash at either end. Raises ArtifactRefused."""
    path = text.strip("/")
    for part in path.split("/"):
        # MLflow itself takes percent signs apart, as often as it can: such a name means another file there.
        odd = unquote(part) != part or any(char == "\\" or not char.isprintable() for char in part)
        if odd or part in ("", ".", ".."):
            raise ArtifactRefused(f"artifact path {text[:200]!r} is none")
    if len(path) > _LONGEST:
        raise ArtifactRefused(f"artifact path {text[:80]!r}... has more than {_LONGEST} characters")
    return path


@dataclass(frozen=True, slots=True)
class _Probe:
    size: int | None
    tag: str
    partial: bool


class ProxiedFiles:
    """`ports.Source` over the artifact proxy. `silence`: seconds without a byte until a read is given up."""

    def __init__(self, server: Server, silence: float) -> None:
        self._server = server
        self._silence = silence
        self._lock = threading.Lock()
        self._client: Client | None = None
        self._closed = False
        self._tags: dict[str, str] = {}

    def files(self, uri: str) -> Sequence[RemoteFile]:
        """All files below a folder, or the one file, whatever the path is.

        Where each part of a file would cost the server the whole of it, sizes of large files are not told,
        so that nobody asks for parts.
        """
        path = self._path(uri)
        found = list(self._below(path, ""))
        if not found:
            found = [RemoteFile(path.rpartition("/")[2], self._probe(path).size, seen=_ALONE)]
        large = [file for file in found if (file.size or 0) > _IN_PARTS]
        if large and not self._has_cheap_parts(path if large[0].seen else f"{path}/{large[0].path}"):
            found = [replace(file, size=None) if file in large else file for file in found]
        return found

    def read(self, uri: str, file: RemoteFile, start: int, end: int | None) -> Iterator[bytes]:
        """Bytes of a file, by a range where one is wanted and the server knows ranges."""
        path = self._path(uri)
        if file.seen != _ALONE:
            path = checked_path(f"{path}/{file.path}")
        left = None if end is None else end - start
        if left == 0:
            return
        with self._get(f"{_PROXY}/{quote(path)}", path, self._wanted(path, start, end)) as response:
            skip = self._start(response, file, start, path)
            for piece in _pieces(response):
                wanted = piece[skip:] if left is None else piece[skip : skip + left]
                skip = max(0, skip - len(piece))
                if left is not None:
                    left -= len(wanted)
                if wanted:
                    yield wanted
                if left == 0:
                    return

    def _wanted(self, path: str, start: int, end: int | None) -> dict[str, str]:
        """The headers that ask for a part of the very file that was read from before."""
        if start == 0 and end is None:
            return {}
        headers = {"range": f"bytes={start}-{'' if end is None else end - 1}"}
        tag = self._tags.get(path, "")
        return {**headers, "if-range": tag} if tag.startswith('"') else headers

    def put(self, path: str, file: Path) -> None:
        """Upload one file. Raises ArtifactRefused, ArtifactUnavailable."""
        with file.open("rb") as content:
            headers = {"content-length": str(file.stat().st_size), "content-type": "application/octet-stream"}
            target = f"{_PROXY}/{quote(checked_path(path))}"
            with self._call("PUT", target, path, headers, content) as response:
                page = response.read(LARGEST_ANSWER)
                if response.status != _OK:
                    raise self._refusal(response, page, path)

    def close(self) -> None:
        """Close connections; reads in other threads fail, and nothing is asked any more."""
        with self._lock:
            self._closed = True
            client, self._client = self._client, None
        if client is not None:
            client.close()

    def _path(self, uri: str) -> str:
        path = proxied_path(self._server, uri)
        if path is None:
            raise ArtifactRefused(
                f"{uri[:200]!r} does not lie behind the artifact proxy of {self._server.uri}"
            )
        return path

    def _below(self, root: str, inside: str) -> Iterator[RemoteFile]:
        count = 0
        folders = [inside]
        while folders:
            folder = folders.pop()
            if folder.count("/") > _DEEPEST:
                raise ArtifactRefused(f"artifact {root!r} has folders deeper than {_DEEPEST}")
            for name, is_folder, size in self._list(f"{root}/{folder}".rstrip("/")):
                path = f"{folder}{name}"
                count += 1
                if count > _MOST_FILES:
                    raise ArtifactRefused(f"artifact {root!r} has more than {_MOST_FILES} files")
                if is_folder:
                    folders.append(f"{path}/")
                else:
                    yield RemoteFile(path, size)

    def _list(self, path: str) -> list[tuple[str, bool, int | None]]:
        with self._get(f"{_PROXY}?{urlencode({'path': path})}", path, {}) as response:
            page = self._read(response)
        try:
            told: Any = told_json.parse(page)
            entries = told.get("files", [])
            found = [(str(one["path"]), bool(one.get("is_dir")), one.get("file_size")) for one in entries]
            return [(self._name(name), is_dir, _size(size)) for name, is_dir, size in found]
        except (ValueError, KeyError, TypeError, AttributeError):
            raise ArtifactUnavailable(f"the list of artifact {path!r} is not MLflow's") from None

    @staticmethod
    def _name(name: str) -> str:
        if "/" in name:
            raise ArtifactRefused(f"an artifact's list names {name[:80]!r}, which is no file's name")
        return checked_path(name)

    def _has_cheap_parts(self, path: str) -> bool:
        """Whether a file is served from where it lies.

        Else, with S3 behind it, MLflow copies the whole file to a disk of its own for each request, and tells
        of that copy: its time, and so its ETag, is another one each time.
        """
        first = self._probe(path)
        return first.partial and bool(first.tag) and first.tag == self._probe(path).tag

    def _probe(self, path: str) -> _Probe:
        """What one byte of a file says of it. Raises ArtifactMissing."""
        with self._get(f"{_PROXY}/{quote(path)}", path, {"range": "bytes=0-0"}) as response:
            told = _RANGE.fullmatch(response.headers.get("content-range", ""))
            tag = response.headers.get("etag", "")
            if response.status == _PARTIAL and told:
                return _Probe(int(told[3]), tag, partial=True)
            return _Probe(_whole_length(response), tag, partial=False)

    def _start(self, response: Response, file: RemoteFile, start: int, path: str) -> int:
        """How many bytes of the answer to pass over. Raises ArtifactChanged where it is another file."""
        tag = response.headers.get("etag", "")
        if tag != self._tags.setdefault(path, tag):
            raise ArtifactChanged(f"artifact {path!r} is not the file that it was a moment ago")
        if response.status == _OK:
            length = _whole_length(response)
            skip = start
        else:
            told = _RANGE.fullmatch(response.headers.get("content-range", ""))
            if told is None or int(told[1]) != start:
                raise ArtifactUnavailable(f"artifact {path!r}: the server gave another range than asked for")
            length, skip = int(told[3]), 0
        if file.size is not None and length is not None and length != file.size:
            raise ArtifactChanged(f"artifact {path!r} had {file.size} bytes and now has {length}")
        return skip

    def _get(self, target: str, path: str, headers: dict[str, str]) -> Response:
        response = self._call("GET", target, path, headers, None)
        if response.status in (_OK, _PARTIAL):
            return response
        with response:
            if response.status == _NO_SUCH_RANGE and headers.get("range") == "bytes=0-0":
                return self._call("GET", target, path, {}, None)  # an empty file has no first byte
            if response.status == _NO_SUCH_RANGE:
                raise ArtifactChanged(f"artifact {path!r} is shorter than it was")
            page = self._read(response)
            raise self._refusal(response, page, path)

    def _call(self, method: str, target: str, path: str, headers: dict[str, str], body: object) -> Response:
        with self._lock:
            if self._closed:
                raise ArtifactUnavailable(f"artifact {path!r}: access to MLflow was closed")
            if self._client is None:
                self._client = self._server.client(self._silence)
            client = self._client
        try:
            sent = {**headers, **self._server.headers()}
            return client.request(method, self._server.base + target, sent, body)  # type: ignore[arg-type]
        except (Refused, Unreachable, RegistryUnavailable) as problem:
            raise ArtifactUnavailable(f"artifact {path!r}: {clean(self._server, str(problem))}") from None

    def _read(self, response: Response) -> bytes:
        try:
            return response.read(LARGEST_ANSWER)
        except Unreachable as problem:
            raise ArtifactUnavailable(clean(self._server, str(problem))) from None

    def _refusal(self, response: Response, page: bytes, path: str) -> Exception:
        answer = refusal(self._server, response, page)
        if not isinstance(answer, Answered):
            return ArtifactUnavailable(f"artifact {path!r}: {answer}")
        if answer.missing or response.status == _NOT_FOUND:
            return ArtifactMissing(f"there is no artifact {path!r} at {self._server.uri}")
        return ArtifactRefused(f"artifact {path!r}: {answer}")


def _pieces(response: Response) -> Iterator[bytes]:
    try:
        yield from response.pieces()
    except Unreachable as problem:
        raise ArtifactUnavailable(str(problem)) from None


def _whole_length(response: Response) -> int | None:
    text = response.headers.get("content-length", "")
    return int(text) if text.isascii() and text.isdigit() and len(text) < 19 else None  # noqa: PLR2004


def _size(told: object) -> int | None:
    """The API writes 64-bit numbers as text."""
    if isinstance(told, str) and told.isascii() and told.isdigit() and len(told) < 19:  # noqa: PLR2004
        return int(told)
    return told if isinstance(told, int) and not isinstance(told, bool) and told >= 0 else None


def _is_ours(server: Server, netloc: str) -> bool:
    return any(_same(server, f"{scheme}://{netloc}") for scheme in ("http", "https"))


def _same(server: Server, uri: str) -> bool:
    try:
        origin = origin_of(uri)
    except Refused:
        return False
    ours = server.origin
    return (origin.host, origin.port) == (ours.host, ours.port)
