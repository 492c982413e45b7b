"""Small objects below a prefix of a bucket: listed, read and written under conditions."""

from __future__ import annotations

import hashlib
import re
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NoReturn, TypeVar
from urllib.parse import unquote
from xml.etree import ElementTree

from router.errors import RegistryRefused, RegistryUnavailable, StagegateError

Result = TypeVar("Result")

PAGE = 1000
"""Objects of one answer; S3 gives no more."""

_MOST_PAGES = 500
_CUT = 500
_PAUSES = (0.1, 0.4)
_SERVERS_FAULT = 500
_TOKENS = re.compile(rb"<(Next)?ContinuationToken>[^<]*</(Next)?ContinuationToken>")
_NOTHING_LISTED = b"<ListBucketResult></ListBucketResult>"
_MISSING = {"404", "NoSuchKey", "NotFound"}
_BROKEN_CONDITION = {"412", "PreconditionFailed", "ConditionalRequestConflict", "409"}
_NO_CONDITIONS = {"501", "NotImplemented"}


class ConditionFailed(Exception):
    """Somebody else wrote the object meanwhile; nothing was changed."""


@dataclass(frozen=True, slots=True)
class Listed:
    """An object as a listing tells of it.

    Attributes:
        key: whole.
        mark: changes with every change of its content.
    """

    key: str
    mark: str


@dataclass(frozen=True, slots=True)
class Page:
    """One answer of a listing.

    Attributes:
        hash: of the answer; equal answers list the same.
        objects: those whose keys end as wanted, in order.
        last: the key after which the next page begins; "" where this is the last one.
    """

    hash: bytes
    objects: tuple[Listed, ...]
    last: str


class Objects:
    """A bucket by a boto3 client. Blocking, for several threads.

    Args:
        name: of the registry, for messages.
        client: boto3's for S3, which tries nothing again by itself.
        closing: gives back the connections; what waits on them then fails.
        endings: of the keys that listings tell of.
    """

    def __init__(
        self,
        name: str,
        client: Any,  # noqa: ANN401 - boto3 has no types
        closing: Callable[[], None],
        bucket: str,
        endings: tuple[str, ...],
    ) -> None:
        self._name = name
        self._endings = endings
        self._client = client
        self._closing = closing
        self._bucket = bucket
        self._listed = threading.local()
        self._conditions = True
        # boto3 takes 60 ms to read a page that mostly is the one before; we read it ourselves.
        client.meta.events.register_last("before-parse.s3.ListObjectsV2", self._take)

    @property
    def bucket(self) -> str:
        """Its name."""
        return self._bucket

    def pages(self, prefix: str, known: dict[str, Page], until: float) -> Iterator[tuple[str, Page]]:
        """All pages of objects below a prefix, each with the key that it begins after.

        Args:
            known: pages of the last time by the key that they begin after; equal ones are given again.
            until: the monotonic time at which this is given up.

        Raises:
            RegistryUnavailable.
        """
        after = ""
        for _ in range(_MOST_PAGES):
            if time.monotonic() > until:
                raise RegistryUnavailable(
                    f"registry {self._name!r}: listing {self._shown(prefix)} takes too long"
                )
            page = self._page(prefix, after, known.get(after), until)
            yield after, page
            if not page.last:
                return
            after = page.last
        raise RegistryUnavailable(
            f"registry {self._name!r}: {self._shown(prefix)} holds more than {_MOST_PAGES * PAGE} objects",
            hint="give a prefix that holds models only",
        )

    def get(self, key: str, most: int, until: float) -> tuple[bytes, str] | None:
        """At most `most` + 1 bytes of an object and its ETag; None where there is none.

        Raises:
            RegistryUnavailable.
        """
        try:
            return self._again(lambda: self._get(key, most, until), until)
        except Exception as error:
            if _code(error) in _MISSING:
                return None
            self._fail(f"{self._shown(key)} cannot be read", error)

    def mark(self, key: str, until: float) -> str:
        """What changes with each writing of an object; "" where there is none. Raises RegistryUnavailable."""
        try:
            told = self._again(lambda: self._client.head_object(Bucket=self._bucket, Key=key), until)
        except Exception as error:
            if _code(error) in _MISSING:
                return ""
            self._fail(f"{self._shown(key)} cannot be read", error)
        # Of equal contents the ETag is the same.
        return f"{told['ETag']} {told['LastModified']}"

    def _get(self, key: str, most: int, until: float) -> tuple[bytes, str]:
        told = self._client.get_object(Bucket=self._bucket, Key=key)
        body, found = told["Body"], bytearray()
        try:
            while len(found) <= most and (piece := body.read(most + 1 - len(found))):
                found += piece
                if time.monotonic() > until:
                    raise TimeoutError("it comes too slowly")
        finally:
            body.close()
        return bytes(found), str(told["ETag"])

    def _again(self, call: Callable[[], Result], until: float) -> Result:
        """Try once more, and once more, where the store may only have been busy."""
        for pause in _PAUSES:
            try:
                return call()
            except Exception as error:
                if 0 < _status(error) < _SERVERS_FAULT or time.monotonic() + pause > until:
                    raise
                time.sleep(pause)
        return call()

    def put(self, key: str, data: bytes, etag: str | None) -> None:
        """Write an object that still has this ETag, or with None that is not there.

        A store that knows no such conditions is told none; then only the moment since it was read is
        unguarded.

        Raises:
            ConditionFailed: it is another one now.
            RegistryUnavailable, RegistryRefused.
        """
        condition = {"IfNoneMatch": "*"} if etag is None else {"IfMatch": etag}
        try:
            self._client.put_object(
                Bucket=self._bucket, Key=key, Body=data, **(condition if self._conditions else {})
            )
        except Exception as error:
            code = _code(error)
            if code in _BROKEN_CONDITION or (etag is not None and code in _MISSING):
                raise ConditionFailed from error
            if code in _NO_CONDITIONS and self._conditions:
                self._conditions = False
                self.put(key, data, etag)
                return
            self._fail(f"{self._shown(key)} cannot be written", error, writing=True)

    def call(self, what: str, operation: str, **arguments: object) -> Any:  # noqa: ANN401 - boto3's
        """Any other operation on the bucket. Raises RegistryUnavailable, RegistryRefused."""
        try:
            return getattr(self._client, operation)(Bucket=self._bucket, **arguments)
        except Exception as error:
            self._fail(what, error, writing=True)

    def close(self) -> None:
        """Give back connections."""
        self._closing()

    def _page(self, prefix: str, after: str, known: Page | None, until: float) -> Page:
        start = {"StartAfter": after} if after else {}
        try:
            self._again(
                lambda: self._client.list_objects_v2(
                    Bucket=self._bucket, Prefix=prefix, MaxKeys=PAGE, **start
                ),
                until,
            )
        except Exception as error:
            self._fail(f"{self._shown(prefix)} cannot be listed", error)
        body: bytes = self._listed.body
        digest = hashlib.blake2b(_TOKENS.sub(b"", body), digest_size=16).digest()
        if known is not None and known.hash == digest:
            return known
        try:
            return _read_page(digest, body, self._endings)
        except (ElementTree.ParseError, ValueError) as error:
            raise RegistryUnavailable(
                f"registry {self._name!r}: the answer about {self._shown(prefix)} is no listing: {error}"[
                    :_CUT
                ]
            ) from error

    def _take(self, response_dict: dict[str, Any], **_: object) -> None:
        """Keep a listing as it came, and leave nothing of it for boto3 to read."""
        if response_dict["status_code"] < 300:  # noqa: PLR2004
            self._listed.body = response_dict["body"]
            response_dict["body"] = _NOTHING_LISTED

    def _shown(self, key: str) -> str:
        return f"s3://{self._bucket}/{key[:200]}"

    def _fail(self, what: str, error: Exception, *, writing: bool = False) -> NoReturn:
        """Raise what an error of boto3's means; what may not be written will not be, what may not be read may
        be mended."""
        if isinstance(error, StagegateError):
            raise error
        status = _status(error)
        message = f"registry {self._name!r}: {what}: {error}"[:_CUT]
        hint = "look at its keys and what they may do" if status in (401, 403) else ""
        if writing and hint:
            raise RegistryRefused(message, hint=hint) from error
        raise RegistryUnavailable(message, hint=hint) from error


def _read_page(digest: bytes, body: bytes, endings: tuple[str, ...]) -> Page:
    """Raises ParseError, ValueError."""
    root = ElementTree.fromstring(body)  # noqa: S314 - expat refuses entities that grow
    if _tag(root) != "ListBucketResult":
        raise ValueError(f"it begins with {_tag(root)[:80]!r}")
    said = {_tag(entry): entry.text or "" for entry in root}
    # boto3 asks for the odd characters of keys to be written out.
    plain = unquote if said.get("EncodingType") == "url" else str
    objects, last = [], ""
    for entry in root:
        if _tag(entry) != "Contents":
            continue
        about = {_tag(part): part.text or "" for part in entry}
        last = plain(about.get("Key", ""))
        if last.endswith(endings):
            mark = about.get("ETag") or about.get("LastModified", "")
            objects.append(Listed(last, f"{mark} {about.get('Size', '')}"))
    more = said.get("IsTruncated") == "true"
    if more and not last:
        raise ValueError("it says that there is more, and lists nothing")
    return Page(digest, tuple(objects), last if more else "")


def _tag(element: ElementTree.Element) -> str:
    return element.tag.rpartition("}")[2]


def _status(error: Exception) -> int:
    """HTTP's, or 0 where there was no answer."""
    return int(getattr(error, "response", {}).get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


def _code(error: Exception) -> str:
    return str(getattr(error, "response", {}).get("Error", {}).get("Code", ""))
