"""Where DVC keeps the files themselves: a folder, or a prefix of an S3 bucket; by MD5, and only read.

Which place that is, is said by a file in the repository, which anybody may have written who can push there.
So it counts only where the operator's own list has it, and with the operator's own endpoint and keys.
"""

from __future__ import annotations

import os
import posixpath
import stat
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import unquote, urlsplit

from router.errors import ArtifactMissing, ArtifactRefused, ArtifactUnavailable
from router.registries.dvc.files import CONFIG_FILE, Unusable, remotes
from router.remote.s3 import S3Access, guarded_client, translated

_PIECE = 1 << 20
_CUT = 500
_PUSH = "bring it there by `dvc push`"


class Remote(Protocol):
    """Files by key, read by blocking calls from several threads."""

    def size(self, key: str) -> int:
        """Bytes. Raises ArtifactMissing, ArtifactUnavailable."""
        ...

    def read(self, key: str, start: int, end: int | None) -> Iterator[bytes]:
        """Bytes from `start` on and before `end`. Raises ArtifactMissing, ArtifactUnavailable."""
        ...

    def close(self) -> None:
        """Close all connections; reads that wait in other threads fail at once."""
        ...


def where(config: str, named: str, top: Path | None, allowed: Sequence[str]) -> str:
    """The address of a remote: `s3://bucket/prefix` or an absolute path.

    Args:
        config: the text of `.dvc/config`.
        named: the remote that is wanted, "" for the default.
        top: the folder of the checkout, from which relative paths start; None where there is none.
        allowed: places that the operator allows, of which it must be one or lie below one.

    Raises:
        Unusable: there is no such remote.
        ArtifactRefused: it lies where the operator does not allow it, or is of another kind.
    """
    default, known = remotes(config)
    name = named or default
    settings = known.get(name)
    if not name or settings is None or not settings.get("url"):
        raise Unusable(f"{CONFIG_FILE} names no {f'remote {name!r}' if name else 'default remote'}")
    url = settings["url"]
    if not url.isprintable():
        raise Unusable(f"remote {name!r} has no plain address")
    for trap in ("version_aware", "worktree"):
        if settings.get(trap, "").lower() == "true":
            raise ArtifactRefused(
                f"remote {name!r} is {trap}, which is not served", hint="use a plain remote"
            )
    place = _plain(url, name, top)
    if not any(_below(place, other) for other in allowed):
        raise ArtifactRefused(
            f"remote {name!r} is at {place[:_CUT]}, which the operator does not allow",
            hint="list it under `remotes` of this registry",
        )
    return place


def plain_place(text: str) -> str:
    """A place as an operator writes it, in the form that `where` compares. Raises ValueError."""
    parts = urlsplit(text)
    if parts.scheme == "s3" and parts.netloc and not parts.query and "@" not in parts.netloc:
        return f"s3://{parts.netloc}/{_prefix(parts.path)}".rstrip("/")
    if parts.scheme == "file" and parts.netloc in ("", "localhost"):
        text = unquote(parts.path)
    if not text.startswith("/"):
        raise ValueError("is neither s3://bucket/prefix nor an absolute path")
    return os.path.normpath(text)


def open_remote(place: str, access: S3Access) -> Remote:
    """Access to a place as `where` returns it.

    Args:
        access: the operator's own way into S3.

    Raises:
        NotSupported: boto3 is missing.
        ArtifactRefused: the endpoint is no URL, or there is no region.
    """
    if place.startswith("s3://"):
        return _S3Remote(place, access)
    return _FolderRemote(Path(place))


def _plain(url: str, name: str, top: Path | None) -> str:
    parts = urlsplit(url)
    if "://" in url and parts.scheme not in ("s3", "file"):
        raise ArtifactRefused(
            f"remote {name!r} has scheme {parts.scheme!r}, which is not served", hint="s3 and folders are"
        )
    if "://" not in url and not url.startswith("/"):
        if top is None:
            raise ArtifactRefused(f"remote {name!r} is a path beside a checkout, and there is none here")
        url = str(top / ".dvc" / url)
    try:
        return plain_place(url)
    except ValueError as error:
        raise ArtifactRefused(f"remote {name!r} {error}") from error


def _prefix(path: str) -> str:
    prefix = unquote(path).strip("/")
    if any(part in ("..", ".", "") for part in prefix.split("/")) and prefix:
        raise ValueError("has an odd prefix")
    return prefix


def _below(place: str, other: str) -> bool:
    return place == other or place.startswith(other.rstrip("/") + "/")


class _FolderRemote:
    """A folder of this machine; nothing is read through a link that leads out of it."""

    def __init__(self, root: Path) -> None:
        self._root = os.path.realpath(root)

    def size(self, key: str) -> int:
        descriptor = self._open(key)
        try:
            return os.fstat(descriptor).st_size
        finally:
            os.close(descriptor)

    def read(self, key: str, start: int, end: int | None) -> Iterator[bytes]:
        with open(self._open(key), "rb") as file:
            file.seek(start)
            left = None if end is None else end - start
            while left is None or left > 0:
                piece = file.read(_PIECE if left is None else min(_PIECE, left))
                if not piece:
                    return
                left = None if left is None else left - len(piece)
                yield piece

    def close(self) -> None:
        """Each read has a descriptor of its own."""

    def _open(self, key: str) -> int:
        path = posixpath.join(self._root, key)
        if not os.path.realpath(path).startswith(self._root + "/"):
            raise ArtifactRefused(f"{path} is a link out of its remote")
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except FileNotFoundError as error:
            raise ArtifactMissing(f"the remote has no {path}", hint=_PUSH) from error
        except OSError as error:
            raise ArtifactUnavailable(f"{path} cannot be read: {error.strerror}") from error
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise ArtifactRefused(f"{path} is no regular file")
        return descriptor


class _S3Remote:
    """A prefix of a bucket. Like all that is on S3 it is reached through the guard of `router.remote`."""

    def __init__(self, place: str, access: S3Access) -> None:
        bucket, _, prefix = place.removeprefix("s3://").partition("/")
        self._bucket = bucket
        self._prefix = f"{prefix}/" if prefix else ""
        self._wire, self._client = guarded_client(access)

    def size(self, key: str) -> int:
        answer = self._ask(key, "head_object", {})
        return int(answer["ContentLength"])

    def read(self, key: str, start: int, end: int | None) -> Iterator[bytes]:
        if end is not None and end <= start:
            return
        whole = start == 0 and end is None
        spans = {} if whole else {"Range": f"bytes={start}-{'' if end is None else end - 1}"}
        told = self._ask(key, "get_object", spans)
        body = told["Body"]
        try:
            # There are stores that leave Range aside.
            if start and not str(told.get("ContentRange", "")).startswith(f"bytes {start}-"):
                raise ArtifactUnavailable(f"{self._shown(key)}: the store does not give ranges")
            while piece := self._piece(body, key):
                yield piece
        finally:
            body.close()

    def close(self) -> None:
        self._wire.close()
        self._client.close()

    def _piece(self, body: Any, key: str) -> bytes:  # noqa: ANN401 - boto3 has no types
        with translated(self._shown(key)):
            piece: bytes = body.read(_PIECE)
        return piece

    def _ask(self, key: str, method: str, more: Mapping[str, str]) -> Mapping[str, Any]:
        try:
            with translated(self._shown(key)):
                answer: Mapping[str, Any] = getattr(self._client, method)(
                    Bucket=self._bucket, Key=f"{self._prefix}{key}", **more
                )
        except ArtifactMissing as problem:
            raise ArtifactMissing(problem.message, hint=_PUSH) from None
        return answer

    def _shown(self, key: str) -> str:
        return f"s3://{self._bucket}/{self._prefix}{key}"
