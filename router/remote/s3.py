"""Objects in S3 and what speaks like it: boto3 signs and understands, the guard makes the connections.

boto3's own transport is not used: it resolves names without looking where they lead, takes proxies from the
environment, follows redirects to other regions and tries again by rules of its own. It lets a handler of
its event `before-send` answer instead, which is how every request of these clients goes through the guard.
"""

from __future__ import annotations

import contextlib
import functools
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NoReturn

from router.errors import (
    ArtifactChanged,
    ArtifactMissing,
    ArtifactRefused,
    ArtifactUnavailable,
    NotSupported,
)
from router.ports import RemoteFile
from router.remote.net import PIECE, Client, Guard, Refused, Response, Unreachable, origin_of

if TYPE_CHECKING:
    from botocore.awsrequest import AWSPreparedRequest, AWSResponse
    from botocore.exceptions import ClientError

_MOST_OBJECTS = 20_000
_MOST_PAGES = 1_000
"""Of a list; a store may give pages with few objects or none."""
_LONGEST_ANSWER = 64 << 20
"""Bytes of an answer that is no file, such as a list: botocore reads it whole."""
_CUT = 300
_AWS = (".amazonaws.com", ".amazonaws.com.cn")
_GONE = frozenset({"NoSuchKey", "NoSuchBucket", "NotFound", "404"})
_CHANGED = frozenset({"PreconditionFailed", "412"})
_LATER = frozenset({"SlowDown", "RequestTimeout", "RequestTimeTooSkewed", "503", "InternalError", "429"})
_SERVERS_FAULT = 500
_MAKING = threading.Lock()
"""Held by who uses the shared session: sessions are not made for several threads, clients are."""


@dataclass(frozen=True, slots=True)
class S3Access:
    """How buckets are reached.

    Attributes:
        endpoint: URL of the server, as the operator wrote it, so it may be on a private address; "" for AWS.
        region: "" for what the environment says.
        access_key, secret_key: read anew for each client; None for what the environment, its files or, on
            AWS alone, the machine's role give.
        timeout: seconds without a byte after which a connection is given up.
    """

    endpoint: str = ""
    region: str = ""
    access_key: Callable[[], str] | None = field(default=None, repr=False)
    secret_key: Callable[[], str] | None = field(default=None, repr=False)
    timeout: float = 30.0


class S3Files:
    """`ports.Source` over `s3://bucket/key`: all objects below the key as a folder, else that object.

    What a file was `seen` as is its ETag and its key.
    """

    def __init__(self, access: S3Access) -> None:
        self._access = access
        self._lock = threading.Lock()
        self._made: tuple[Client, Any] | None = None
        self._closed = False

    def files(self, uri: str) -> Sequence[RemoteFile]:
        """What is at a URI. Raises as the port says."""
        bucket, key = split_s3(uri)
        found = self._below(uri, bucket, f"{key.rstrip('/')}/" if key else "")
        if found:
            return found
        if not key or key.endswith("/"):
            raise ArtifactMissing(f"there is nothing at {uri}")
        told = self._ask("head_object", uri, Bucket=bucket, Key=key)
        seen = f"{told['ETag']} {key}"
        return [RemoteFile(key.rpartition("/")[2], int(told["ContentLength"]), seen=seen)]

    def read(self, uri: str, file: RemoteFile, start: int, end: int | None) -> Iterator[bytes]:
        """A range of an object, of the very one that was listed. Raises as the port says."""
        bucket, _ = split_s3(uri)
        etag, _, key = file.seen.partition(" ")
        last = "" if end is None else str(end - 1)
        told = self._ask(
            "get_object",
            f"s3://{bucket}/{key}",
            Bucket=bucket,
            Key=key,
            IfMatch=etag,
            Range=f"bytes={start}-{last}",
        )
        body = told["Body"]
        try:
            # There are stores that do not know If-Match, or leave Range aside.
            if told["ETag"] != etag:
                raise ArtifactChanged(f"s3://{bucket}/{key} was replaced while it was fetched")
            if start and not str(told.get("ContentRange", "")).startswith(f"bytes {start}-"):
                raise ArtifactUnavailable(f"s3://{bucket}/{key}: the store does not give ranges")
            while piece := body.read(PIECE):
                yield piece
        except Unreachable as problem:
            raise ArtifactUnavailable(str(problem)) from None
        finally:
            body.close()

    def close(self) -> None:
        """Close all connections; nothing is asked any more."""
        with self._lock:
            self._closed = True
            made, self._made = self._made, None
        for part in made or ():
            part.close()

    def _use(self) -> Any:  # noqa: ANN401 - boto3 has no types
        """The client, made at the first question: policies are asked about many places that nobody reads.

        Raises NotSupported without boto3, ArtifactRefused for an endpoint that is no URL, ArtifactUnavailable
        where it was closed.
        """
        with self._lock:
            if self._closed:
                raise ArtifactUnavailable("access to the store was closed")
            self._made = self._made or guarded_client(self._access)
            return self._made[1]

    def _below(self, uri: str, bucket: str, prefix: str) -> list[RemoteFile]:
        found: list[RemoteFile] = []
        more: dict[str, str] = {}
        for _ in range(_MOST_PAGES):
            told = self._ask("list_objects_v2", uri, Bucket=bucket, Prefix=prefix, **more)
            for item in told.get("Contents", ()):
                path, size = str(item["Key"])[len(prefix) :], int(item["Size"])
                # Consoles and file systems over buckets leave empty objects where folders are.
                if path and not (path.endswith("/") and not size):
                    found.append(RemoteFile(path, size, seen=f"{item['ETag']} {item['Key']}"))
            if len(found) > _MOST_OBJECTS:
                raise ArtifactRefused(f"there are more than {_MOST_OBJECTS} objects below {uri}")
            if not told.get("IsTruncated") or not told.get("NextContinuationToken"):
                return found
            more = {"ContinuationToken": told["NextContinuationToken"]}
        raise ArtifactRefused(f"the list of what is below {uri} does not end")

    def _ask(self, operation: str, what: str, **arguments: str) -> Any:  # noqa: ANN401 - boto3 has no types
        client = self._use()
        with translated(what):
            return getattr(client, operation)(**arguments)


def split_s3(uri: str) -> tuple[str, str]:
    """Bucket and key, as they stand. Raises ArtifactRefused for what is no S3 URI."""
    if uri[:5].lower() != "s3://" or not uri[5:].partition("/")[0]:
        raise ArtifactRefused(f"{uri[:200]!r} is no s3://bucket/key")
    bucket, _, key = uri[5:].partition("/")
    return bucket, key


@contextlib.contextmanager
def translated(what: str) -> Iterator[None]:
    """Turn what boto3 and the guard raise into errors of artifacts; `what` is named in them.

    Raises:
        ArtifactMissing, ArtifactRefused, ArtifactChanged, ArtifactUnavailable.
    """
    from botocore.exceptions import BotoCoreError, ClientError  # noqa: PLC0415 - an extra

    try:
        yield
    except ClientError as problem:
        _translate(what, problem)
    except Refused as problem:
        raise ArtifactRefused(f"{what}: {problem}") from None
    except (BotoCoreError, Unreachable) as problem:
        raise ArtifactUnavailable(f"{what}: {str(problem)[:_CUT]}") from None


def _translate(what: str, problem: ClientError) -> NoReturn:
    error = problem.response.get("Error", {})
    code, said = str(error.get("Code", "")), str(error.get("Message", ""))[:_CUT]
    status = int(problem.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
    if code in _GONE:
        raise ArtifactMissing(f"there is nothing at {what}") from None
    if code in _CHANGED:
        raise ArtifactChanged(f"{what} was replaced while it was fetched") from None
    if status >= _SERVERS_FAULT or code in _LATER or not status:
        raise ArtifactUnavailable(f"{what}: the store answers {status} {code}: {said}") from None
    raise ArtifactRefused(
        f"{what}: the store refuses: {status} {code}: {said}",
        hint="look at the keys and at the bucket's policy",
    ) from None


def guarded_client(access: S3Access, service: str = "s3") -> tuple[Client, Any]:
    """A boto3 client whose every request goes through the guard, and what carries them.

    It never tries again by itself. Both are to be closed.

    Args:
        service: as boto3 calls it.

    Raises:
        NotSupported: boto3 is not installed.
        ArtifactRefused: the endpoint is no URL, or there is no region.
    """
    with _translated_setup(access, service):
        client = _client_of(access, service)
        server = origin_of(client.meta.endpoint_url)
    wire = Client(Guard([server.host] if access.endpoint else []), timeout=access.timeout)

    def send(request: AWSPreparedRequest, **_: object) -> AWSResponse:
        to = origin_of(request.url)
        if to != server and not (not access.endpoint and _is_bucket_of(to.host, server.host)):
            raise Refused(f"the store sends us on to {to}, and only {server} is in the configuration")
        return _send(wire, request)

    client.meta.events.register_first(f"before-send.{service}", send)
    return wire, client


def _client_of(access: S3Access, service: str) -> Any:  # noqa: ANN401 - boto3 has no types
    """A client as boto3 makes it, with settings of ours."""
    from botocore.config import Config  # noqa: PLC0415 - an extra

    access_key = access.access_key() if access.access_key is not None else None
    secret_key = access.secret_key() if access.secret_key is not None else None
    settings = {
        "region_name": access.region or None,
        "endpoint_url": access.endpoint or None,
        "aws_access_key_id": access_key,
        "aws_secret_access_key": secret_key,
        "config": Config(
            retries={"total_max_attempts": 1},
            response_checksum_validation="when_required",
            request_checksum_calculation="when_required",
            **({"s3": {"addressing_style": "path"}} if access.endpoint and service == "s3" else {}),
        ),
    }
    if access_key is None or secret_key is None:
        # It finds keys, which may take long, and remembers them: this session is for one client.
        return _session(role=_is_aws(access.endpoint)).create_client(service, **settings)
    with _MAKING:
        return _shared_session().create_client(service, **settings)


def _is_aws(endpoint: str) -> bool:
    """Whether it is AWS's own, its private endpoints included."""
    return not endpoint or endpoint.rstrip("/").endswith(_AWS)


def _session(*, role: bool) -> Any:  # noqa: ANN401 - boto3 has no types
    """A session of botocore's, which asks for the role of the machine or does not.

    Elsewhere than on AWS there is no such role, and nobody to ask for it.
    """
    import botocore.session  # noqa: PLC0415 - an extra

    session = botocore.session.Session()
    session.register_component("data_loader", _descriptions())
    if not role:
        session.get_component("credential_provider").remove("iam-role")
    return session


@functools.cache
def _shared_session() -> Any:  # noqa: ANN401 - boto3 has no types
    """For all clients that bring their own keys: to make one takes longer than to make the client."""
    return _session(role=False)


@functools.cache
def _descriptions() -> Any:  # noqa: ANN401 - boto3 has no types
    """What botocore reads of services from its files: megabytes, and most of the time to make a client."""
    import botocore.loaders  # noqa: PLC0415 - an extra

    return botocore.loaders.create_loader()


@contextlib.contextmanager
def _translated_setup(access: S3Access, service: str) -> Iterator[None]:
    try:
        from botocore.exceptions import BotoCoreError  # noqa: PLC0415 - an extra
    except ImportError:
        what = "files on S3 need" if service == "s3" else f"{service} needs"
        raise NotSupported(f"{what} boto3", hint=f"pip install 'stagegate[{service}]'") from None

    where = f"{'S3' if service == 's3' else service} at {access.endpoint or 'AWS'}"
    try:
        yield
    except (BotoCoreError, ValueError, Refused) as problem:
        raise ArtifactRefused(
            f"{where} cannot be used: {str(problem)[:_CUT]}", hint="check endpoint and region"
        ) from None


def _is_bucket_of(host: str, server: str) -> bool:
    """AWS has each bucket under a name of its own below the region's."""
    return host.endswith(f".{server}") and host.endswith(_AWS)


def _send(wire: Client, request: AWSPreparedRequest) -> AWSResponse:
    from botocore.awsrequest import AWSResponse  # noqa: PLC0415 - an extra

    headers = {
        name: value.decode("latin-1") if isinstance(value, bytes) else str(value)
        for name, value in request.headers.items()
    }
    body = request.body
    if body is not None and not isinstance(body, bytes):
        body = body.encode() if isinstance(body, str) else body.read()
    response = wire.request(request.method, request.url, headers, body or None)
    return AWSResponse(request.url, response.status, response.headers, _Body(response))


class _Body:
    """An answer's body as botocore reads it."""

    def __init__(self, response: Response) -> None:
        self._response = response

    def stream(self) -> Iterator[bytes]:
        """All of it; listings and errors are read so. Raises Unreachable for one without end."""
        left = _LONGEST_ANSWER
        with self._response:
            for piece in self._response.pieces():
                left -= len(piece)
                if left < 0:
                    raise Unreachable(f"the store's answer has more than {_LONGEST_ANSWER} bytes")
                yield piece

    def read(self, size: int | None = None) -> bytes:
        """Some of it, or all."""
        return b"".join(self.stream()) if size is None else self._response.read1(size)

    def close(self) -> None:
        """Give the connection back."""
        self._response.close()
