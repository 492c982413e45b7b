"""The few calls of the Hugging Face Hub that a registry needs.

Its own client is not used here: it takes tokens from the disk, settings from the environment, follows
redirects to any host, and fetches by other protocols than HTTP where the server asks for it. What is spoken
is what that client speaks (huggingface_hub 2.4); the tests run both against one server.
"""

from __future__ import annotations

import datetime
import json
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from urllib.parse import quote, urljoin

from router.registries import told_json
from router.registries.paths import OddPath, path_inside
from router.remote.net import Client, Refused, Response, Unreachable, origin_of

MOST_FILES = 20_000
"""Files that a revision may have."""

_MOST_BODY = 16 << 20
_MOST_PAGES = 200
_CUT = 200
_SHA = re.compile(r"[0-9a-f]{40}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_NEXT = re.compile(r'<([^<>]*)>\s*;[^,]*\brel="?next"?')
_LARGEST = 1 << 53


class Away(Exception):
    """The Hub does not answer, or asks to be asked later."""


class Denied(Exception):
    """The Hub answered that it will not: no access, or something that cannot be."""


class Missing(Exception):
    """There is no such repository, revision or file, or not for this token."""


class Odd(Exception):
    """The Hub answered with what is no answer to the question."""


@dataclass(frozen=True, slots=True)
class Refs:
    """Branches and tags of a repository, each to the full id of a commit."""

    branches: Mapping[str, str]
    tags: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class File:
    """One file of a revision; `sha256` is "" for one that git itself keeps, whose blob id is `blob`."""

    path: str
    size: int
    blob: str
    sha256: str = ""


def is_commit(text: str) -> bool:
    """Whether a text is a full commit id."""
    return bool(_SHA.fullmatch(text))


class HubApi:
    """Calls to one Hub. Blocking; safe in several threads.

    Args:
        endpoint: `https://host`, without a slash at its end.
        client: to speak with; it decides whom redirects may lead to, and keeps the token from others.
        token: read anew for each call; "" or None for none.
        timeout: seconds that one call may take in all.
    """

    def __init__(
        self, endpoint: str, client: Client, token: Callable[[], str] | None, timeout: float
    ) -> None:
        self._endpoint = endpoint
        self._client = client
        self._token = token
        self._timeout = timeout

    def refs(self, repo: str, etag: str) -> tuple[Refs | None, str]:
        """Branches and tags, and the mark of this answer; None where it still is the one of that mark.

        Raises:
            Away, Denied, Missing, Odd.
        """
        more = {"If-None-Match": etag} if etag else {}
        response, body = self._ask("GET", f"{self._model(repo)}/refs", more)
        if response.status == 304:  # noqa: PLR2004 - HTTP's "not modified"
            return None, etag
        found = _json(body)
        if not isinstance(found, dict):
            raise Odd("branches and tags are no mapping")
        refs = Refs(_targets(found.get("branches")), _targets(found.get("tags")))
        return refs, response.headers.get("etag", "")

    def files(self, repo: str, commit: str) -> tuple[File, ...]:
        """All files of a commit. Raises Away, Denied, Missing, Odd."""
        url = f"{self._model(repo)}/tree/{commit}?recursive=true&expand=false"
        found: list[File] = []
        for _ in range(_MOST_PAGES):
            response, body = self._ask("GET", url)
            found += _files(_json(body))
            if len(found) > MOST_FILES:
                raise Odd(f"it has more than {MOST_FILES} files")
            following = _NEXT.search(response.headers.get("link", ""))
            if following is None:
                break
            url = urljoin(url, following[1])
            if origin_of(url) != origin_of(self._endpoint):
                raise Odd("its list of files goes on at another host")
        else:
            raise Odd("its list of files does not end")
        if len({file.path for file in found}) != len(found):
            raise Odd("its list of files names one of them twice")
        return tuple(found)

    def commit(self, repo: str, revision: str) -> str:
        """The full id of the commit that a revision is now. Raises Away, Denied, Missing, Odd."""
        _, body = self._ask("GET", f"{self._model(repo)}/revision/{quote(revision, safe='')}")
        found = _json(body)
        sha = found.get("sha") if isinstance(found, dict) else None
        if not isinstance(sha, str) or not is_commit(sha):
            raise Odd("its revision has no commit id")
        return sha

    def made(self, repo: str, commit: str) -> float | None:
        """When a commit was made, unix seconds; None where the Hub does not tell. Raises Away."""
        try:
            _, body = self._ask("GET", f"{self._model(repo)}/commits/{commit}?limit=1")
            found = _json(body)
        except (Denied, Missing, Odd):
            return None
        first = found[0] if isinstance(found, list) and found else None
        if not isinstance(first, dict) or first.get("id") != commit:
            return None
        try:
            date = datetime.datetime.fromisoformat(str(first.get("date")))
        except ValueError:
            return None
        return date.timestamp() if date.tzinfo is not None else None

    def make_tag(self, repo: str, tag: str, commit: str) -> None:
        """Make a tag that is not there yet. Raises Away, Denied, Missing."""
        body = json.dumps({"tag": tag}).encode()
        self._ask("POST", f"{self._model(repo)}/tag/{commit}", {"Content-Type": "application/json"}, body)

    def remove_tag(self, repo: str, tag: str) -> None:
        """Remove a tag. Raises Away, Denied, Missing."""
        self._ask("DELETE", f"{self._model(repo)}/tag/{quote(tag, safe='')}")

    def content(self, repo: str, commit: str, path: str, start: int, end: int | None) -> Response:
        """The bytes of a file from `start` on and before `end`, to be read and closed.

        Raises:
            Away, Denied, Missing, Odd: also where the Hub does not give the part that was asked for.
        """
        whole = start == 0 and end is None
        headers = {} if whole else {"Range": f"bytes={start}-{'' if end is None else end - 1}"}
        url = f"{self._endpoint}/{quote(repo)}/resolve/{commit}/{quote(path)}"
        response = self._send("GET", url, headers, None)
        told = response.headers.get("x-repo-commit", commit)
        given = response.headers.get("content-range", "").startswith(f"bytes {start}-")
        if told != commit:
            problem = f"it answers with commit {told[:40]!r}"
        elif response.headers.get("content-encoding", "identity") != "identity":
            problem = "it is sent in another form than asked for"
        elif whole or (response.status == 206 and given) or start == 0:  # noqa: PLR2004 - a part
            return response
        else:
            problem = "the Hub does not give parts of it"
        response.close()
        raise Odd(problem)

    def close(self) -> None:
        """Give back connections; calls that wait fail at once."""
        self._client.close()

    def _model(self, repo: str) -> str:
        return f"{self._endpoint}/api/models/{quote(repo)}"

    def _ask(
        self, method: str, url: str, headers: Mapping[str, str] | None = None, body: bytes | None = None
    ) -> tuple[Response, bytes]:
        late = time.monotonic() + self._timeout
        with self._send(method, url, headers or {}, body) as response:
            return response, _read(response, late)

    def _send(self, method: str, url: str, headers: Mapping[str, str], body: bytes | None) -> Response:
        token = self._token() if self._token is not None else ""
        secret = {"Authorization": f"Bearer {token}"} if token else {}
        sent = {"User-Agent": "stagegate", "Accept": "application/json", **headers, **secret}
        try:
            response = self._client.request(method, url, sent, body)
        except Unreachable as error:
            raise Away(str(error)) from error
        except Refused as error:
            raise Denied(str(error)) from error
        if response.status < 300 or response.status == 304:  # noqa: PLR2004 - HTTP's classes
            return response
        with response:
            raise _failure(response.status, _said(response))


def _failure(status: int, said: str) -> Exception:
    text = f"the Hub answers {status}{f': {said}' if said else ''}"
    if status in (404, 410):
        return Missing(text)
    if status == 429 or status >= 500:  # noqa: PLR2004 - too many requests; its own faults
        return Away(text)
    return Denied(text)


def _said(response: Response) -> str:
    """What an error says for people; short, on one line."""
    try:
        found = _json(_read(response, time.monotonic() + 1))
    except (Away, Odd):
        found = None
    text = found.get("error") if isinstance(found, dict) else None
    return " ".join(str(text or response.headers.get("x-error-message", "")).split())[:_CUT]


def _read(response: Response, late: float) -> bytes:
    body = bytearray()
    try:
        while piece := response.read1():
            body += piece
            if len(body) > _MOST_BODY:
                raise Odd(f"an answer is longer than {_MOST_BODY} bytes")
            if time.monotonic() > late:
                raise Away("an answer takes too long")
    except Unreachable as error:
        raise Away(str(error)) from error
    return bytes(body)


def _json(body: bytes) -> object:
    try:
        return told_json.parse(body)
    except ValueError as error:
        raise Odd("an answer is not JSON") from error


def _targets(value: object) -> dict[str, str]:
    """Names to commits; what has another form is left out."""
    found = {}
    for item in value if isinstance(value, list) else ():
        name = item.get("name") if isinstance(item, dict) else None
        commit = item.get("targetCommit") if isinstance(item, dict) else None
        if isinstance(name, str) and isinstance(commit, str) and is_commit(commit):
            found[name] = commit
    return found


def _files(value: object) -> list[File]:
    if not isinstance(value, list):
        raise Odd("its list of files is no list")
    return [_file(item) for item in value if not isinstance(item, dict) or item.get("type") != "directory"]


def _file(item: object) -> File:
    path = item.get("path") if isinstance(item, dict) else None
    if not isinstance(item, dict) or item.get("type") != "file" or not isinstance(path, str):
        raise Odd("its list of files has an entry that is neither a file nor a folder")
    try:
        plain = path_inside(path) == path
    except OddPath as error:
        raise Odd(str(error)) from error
    size, blob, lfs = item.get("size"), item.get("oid"), item.get("lfs")
    sha256 = lfs.get("oid") if isinstance(lfs, dict) else ""
    if isinstance(lfs, dict):
        size = lfs.get("size")
    good = isinstance(blob, str) and isinstance(sha256, str) and (lfs is None or _SHA256.fullmatch(sha256))
    if not plain or not good or not isinstance(size, int) or not 0 <= size < _LARGEST:
        raise Odd(f"its list of files tells no path, size or id of {path[:120]!r}")
    return File(path, size, str(blob), str(sha256))
