"""Where DVC keeps the files themselves: a folder, or a prefix of an S3 bucket; by MD5, and only read.

Which place that is, is said by a file in the repository, which anybody may have written who can push there.
So it counts only where the operator's own list has it, and with the operator's own endpoint and keys.
"""

from __future__ import annotations

import os
import posixpath
import stat
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import unquote, urlsplit

from router.errors import ArtifactMissing, ArtifactRefused, ArtifactUnavailable, NotSupported
from router.registries.dvc.files import CONFIG_FILE, Unusable, remotes

_PIECE = 1 << 20
_CUT = 500


class Remote(Protocol):
    """Files by key, read by blocking calls from several threads."""

    def size(self, key: str) -> int:
        """Bytes. Raises ArtifactMissing, ArtifactUnavailable."""
        ...

    def read(self, key: str, start: int, end: int | None) -> Iterator[bytes]:
        """Bytes from `start` on and before `end`. Raises ArtifactMissing, ArtifactUnavailable."""
        ...


@dataclass(frozen=True, slots=True)
class S3Access:
    """The operator's own way into S3; "" and None leave it to boto3's own rules."""

    endpoint: str | None
    region: str | None
    access_key: str
    secret_key: str
    timeout: float


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
    """Access to a place as `where` returns it. Raises NotSupported where boto3 is missing."""
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

    def _open(self, key: str) -> int:
        path = posixpath.join(self._root, key)
        if not os.path.realpath(path).startswith(self._root + "/"):
            raise ArtifactRefused(f"{path} is a link out of its remote")
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except FileNotFoundError as error:
            raise ArtifactMissing(f"the remote has no {path}", hint="bring it there by `dvc push`") from error
        except OSError as error:
            raise ArtifactUnavailable(f"{path} cannot be read: {error.strerror}") from error
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise ArtifactRefused(f"{path} is no regular file")
        return descriptor


class _S3Remote:
    """A prefix of a bucket."""

    def __init__(self, place: str, access: S3Access) -> None:
        bucket, _, prefix = place.removeprefix("s3://").partition("/")
        self._bucket = bucket
        self._prefix = f"{prefix}/" if prefix else ""
        self._client = _client(access)

    def size(self, key: str) -> int:
        answer = self._ask(key, "head_object", {})
        return int(answer["ContentLength"])

    def read(self, key: str, start: int, end: int | None) -> Iterator[bytes]:
        if end is not None and end <= start:
            return
        whole = start == 0 and end is None
        spans = {} if whole else {"Range": f"bytes={start}-{'' if end is None else end - 1}"}
        body = self._ask(key, "get_object", spans)["Body"]
        try:
            while piece := self._piece(body, key):
                yield piece
        finally:
            body.close()

    def _piece(self, body: Any, key: str) -> bytes:  # noqa: ANN401 - boto3 has no types
        from botocore.exceptions import BotoCoreError  # noqa: PLC0415 - an extra

        try:
            piece: bytes = body.read(_PIECE)
        except (BotoCoreError, OSError) as error:
            raise ArtifactUnavailable(f"s3://{self._bucket}/{self._prefix}{key}: {error}"[:_CUT]) from error
        return piece

    def _ask(self, key: str, method: str, more: Mapping[str, str]) -> Mapping[str, Any]:
        from botocore.exceptions import BotoCoreError, ClientError  # noqa: PLC0415 - an extra

        name = f"s3://{self._bucket}/{self._prefix}{key}"
        try:
            answer: Mapping[str, Any] = getattr(self._client, method)(
                Bucket=self._bucket, Key=f"{self._prefix}{key}", **more
            )
        except ClientError as error:
            status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode")
            if status in (404, 410):
                raise ArtifactMissing(f"there is no {name}", hint="bring it there by `dvc push`") from error
            if status in (401, 403):
                raise ArtifactRefused(f"{name}: the store refuses: {error}"[:_CUT]) from error
            raise ArtifactUnavailable(f"{name}: {error}"[:_CUT]) from error
        except BotoCoreError as error:
            raise ArtifactUnavailable(f"{name}: {error}"[:_CUT]) from error
        return answer


def _client(access: S3Access) -> Any:  # noqa: ANN401 - boto3 has no types
    try:
        import boto3  # noqa: PLC0415 - an extra
        from botocore.config import Config  # noqa: PLC0415
    except ImportError as error:
        raise NotSupported("remotes on S3 need boto3", hint="pip install 'stagegate[dvc]'") from error
    settings = Config(
        connect_timeout=min(10.0, access.timeout),
        read_timeout=access.timeout,
        retries={"total_max_attempts": 3, "mode": "standard"},
        proxies={},
        s3={"addressing_style": "path"} if access.endpoint else {},
    )
    keys = {"aws_access_key_id": access.access_key, "aws_secret_access_key": access.secret_key}
    return boto3.session.Session().client(
        "s3",
        endpoint_url=access.endpoint,
        region_name=access.region or ("us-east-1" if access.endpoint else None),
        config=settings,
        **(keys if access.access_key else {}),
    )
