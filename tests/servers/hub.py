"""A server that speaks the Hugging Face Hub's API, with a second one for large files as the Hub has.

That it speaks truly is proved by the Hub's own client in the tests of the adapter.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar
from urllib.parse import parse_qs, quote, unquote, urlsplit

import pytest

_DATE = 1_760_000_000
_PAGE = 3
_API = re.compile(r"/api/models/(?P<repo>[^/]+/[^/]+)(?:/(?P<what>[a-z]+)(?:/(?P<rest>.+))?)?")
_RESOLVE = re.compile(r"/(?P<repo>[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<path>.+)")


def blob_id(data: bytes) -> str:
    """Git's id of a file."""
    return hashlib.sha1(f"blob {len(data)}\0".encode() + data, usedforsecurity=False).hexdigest()


@dataclass
class Repo:
    """A repository: its commits with their files, oldest first, its branches and tags."""

    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)

    def commit(self, files: Mapping[str, bytes], *branches: str) -> str:
        """Add a commit, and let branches be at it; its id."""
        text = repr((len(self.commits), sorted(files.items())))
        sha = hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()
        self.commits[sha] = dict(files)
        for branch in branches:
            self.branches[branch] = sha
        return sha

    def at(self, revision: str) -> str | None:
        """The commit that a revision is."""
        found = self.tags.get(revision) or self.branches.get(revision) or revision
        return found if found in self.commits else None


@dataclass
class Hub:
    """The server, what it has, what was asked of it, and what is wrong with it.

    Attributes:
        repos: by ORG/MODEL.
        token: what callers must send; "" for nothing.
        asked: methods and paths, in order; those of the store for large files with `store ` before them.
        tokens: what was sent as a token to each of the two servers.
        status: answer everything with this status, as a server in trouble does.
        answers: paths with the body that is sent instead of the right one.
        store: where files are redirected to; "" for its own store.
        large: files that end so are large, whatever their size.
        sent: by path, what is sent instead of a file's own bytes.
        cut: bytes after which a file stops.
        ranges: whether parts of files are given.
    """

    endpoint: str = ""
    own_store: str = ""
    repos: dict[str, Repo] = field(default_factory=dict)
    token: str = ""
    asked: list[str] = field(default_factory=list)
    tokens: dict[str, set[str]] = field(default_factory=lambda: {"hub": set(), "store": set()})
    status: int = 0
    answers: dict[str, bytes] = field(default_factory=dict)
    store: str = ""
    large: tuple[str, ...] = (".onnx", ".bin")
    sent: dict[str, bytes] = field(default_factory=dict)
    cut: int = -1
    ranges: bool = True

    def calls(self, word: str) -> int:
        """How often a path with a word in it was asked for."""
        return sum(word in path for path in self.asked)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    # Two writes an answer would wait for each other's acknowledgement.
    wbufsize = -1
    disable_nagle_algorithm = True
    hub: ClassVar[Hub]

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
        """Nothing is printed."""

    def do_GET(self) -> None:
        self._answer()

    def do_HEAD(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer()

    def do_DELETE(self) -> None:
        self._answer()

    def _answer(self) -> None:
        raise NotImplementedError

    def _note(self, server: str) -> str:
        length = int(self.headers.get("Content-Length") or 0)
        self.body = self.rfile.read(length)
        self.hub.asked.append(f"{'store ' if server == 'store' else ''}{self.command} {self.path}")
        sent = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if sent:
            self.hub.tokens[server].add(sent)
        return sent

    def _send(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _send_file(self, data: bytes, **headers: str) -> None:
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        status, total = 200, len(data)
        if asked and self.hub.ranges:
            start, end = int(asked[1]), min(int(asked[2] or total - 1), total - 1) + 1
            status, data = 206, data[start:end]
            headers["Content_Range"] = f"bytes {start}-{end - 1}/{total}"
        if 0 <= self.hub.cut < len(data) and self.command == "GET":
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name.replace("_", "-"), value)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data[: self.hub.cut])
            self.close_connection = True
            return
        self._send(status, data, Accept_Ranges="bytes", **headers)


class _HubHandler(_Handler):
    def _answer(self) -> None:
        sent = self._note("hub")
        path = urlsplit(self.path).path
        if self.hub.status:
            return self._fail(self.hub.status, "in trouble")
        if path in self.hub.answers:
            return self._send(200, self.hub.answers[path], Content_Type="application/json")
        if self.hub.token and sent != self.hub.token:
            return self._fail(401, "Invalid username or password.")
        if found := _API.fullmatch(path):
            return self._api(found["repo"], found["what"] or "", unquote(found["rest"] or ""))
        if found := _RESOLVE.fullmatch(path):
            return self._resolve(found["repo"], unquote(found["revision"]), unquote(found["path"]))
        return self._fail(404, "not here")

    def _fail(self, status: int, text: str, code: str = "") -> None:
        headers = {"X_Error_Message": text, **({"X_Error_Code": code} if code else {})}
        self._send(status, json.dumps({"error": text}).encode(), Content_Type="application/json", **headers)

    def _json(self, value: object, **headers: str) -> None:
        body = json.dumps(value).encode()
        mark = f'W/"{hashlib.sha256(body).hexdigest()[:20]}"'
        if self.headers.get("If-None-Match") == mark:
            return self._send(304, ETag=mark)
        return self._send(200, body, Content_Type="application/json", ETag=mark, **headers)

    def _api(self, name: str, what: str, rest: str) -> None:  # noqa: PLR0911 - one for each kind of call
        repo = self.hub.repos.get(name)
        if repo is None:
            return self._fail(404, "Repository not found", "RepoNotFound")
        if what == "refs":
            refs = {
                "branches": [_ref("heads", *ref) for ref in repo.branches.items()],
                "converts": [],
                "tags": [_ref("tags", *ref) for ref in repo.tags.items()],
            }
            return self._json(refs)
        if what == "tag":
            return self._tag(repo, rest)
        sha = repo.at(rest or "main")
        if sha is None:
            return self._fail(404, f"Invalid rev id: {rest}", "RevisionNotFound")
        if what in ("", "revision"):
            files = [{"rfilename": path} for path in repo.commits[sha]]
            return self._json({"_id": "0", "id": name, "modelId": name, "sha": sha, "siblings": files})
        if what == "commits":
            return self._json(_history(repo, sha))
        if what == "tree":
            return self._tree(repo.commits[sha])
        return self._fail(404, "not here")

    def _tree(self, files: Mapping[str, bytes]) -> None:
        query = parse_qs(urlsplit(self.path).query)
        folders = sorted({path.rpartition("/")[0] for path in files if "/" in path})
        listed: list[dict[str, object]] = [
            {"type": "directory", "oid": blob_id(path.encode()), "size": 0, "path": path} for path in folders
        ]
        listed += [self._entry(path, data) for path, data in files.items()]
        start = int(query.get("cursor", ["0"])[0])
        more = {}
        if start + _PAGE < len(listed):
            url = f"{self.hub.endpoint}{urlsplit(self.path).path}?recursive=true&cursor={start + _PAGE}"
            more["Link"] = f'<{url}>; rel="next"'
        self._json(listed[start : start + _PAGE], **more)

    def _entry(self, path: str, data: bytes) -> dict[str, object]:
        entry: dict[str, object] = {"type": "file", "oid": blob_id(data), "size": len(data), "path": path}
        if path.endswith(self.hub.large):
            pointer = (
                f"version https://git-lfs.github.com/spec/v1\noid sha256:{_sha256(data)}\nsize {len(data)}\n"
            )
            entry["oid"] = blob_id(pointer.encode())
            entry["lfs"] = {"oid": _sha256(data), "size": len(data), "pointerSize": len(pointer)}
        return entry

    def _tag(self, repo: Repo, rest: str) -> None:
        if self.command == "DELETE":
            if repo.tags.pop(rest, None) is None:
                return self._fail(404, "no such tag", "RevisionNotFound")
            return self._send(200)
        tag, sha = str(json.loads(self.body)["tag"]), repo.at(rest)
        if sha is None:
            return self._fail(404, "Invalid rev id", "RevisionNotFound")
        if tag in repo.tags:
            return self._fail(409, "Tag reference exists already")
        repo.tags[tag] = sha
        return self._send(200)

    def _resolve(self, name: str, revision: str, path: str) -> None:
        repo = self.hub.repos.get(name)
        sha = repo.at(revision) if repo is not None else None
        if repo is None or sha is None or path not in repo.commits[sha]:
            return self._fail(404, "Entry not found", "EntryNotFound")
        data = repo.commits[sha][path]
        if not path.endswith(self.hub.large):
            sent = self.hub.sent.get(path, data)
            return self._send_file(sent, ETag=f'"{blob_id(data)}"', X_Repo_Commit=sha)
        return self._send(
            302,
            Location=f"{self.hub.store or self.hub.own_store}/{quote(name)}/{_sha256(data)}?signature=s",
            X_Repo_Commit=sha,
            X_Linked_Etag=f'"{_sha256(data)}"',
            X_Linked_Size=str(len(data)),
        )


class _StoreHandler(_Handler):
    def _answer(self) -> None:
        self._note("store")
        wanted = urlsplit(self.path).path.rpartition("/")[2]
        for repo in self.hub.repos.values():
            for files in repo.commits.values():
                for path, data in files.items():
                    if _sha256(data) == wanted:
                        return self._send_file(self.hub.sent.get(path, data), ETag=f'"{wanted}"')
        return self._send(403)


def _ref(kind: str, name: str, commit: str) -> dict[str, str]:
    return {"name": name, "ref": f"refs/{kind}/{name}", "targetCommit": commit}


def _history(repo: Repo, sha: str) -> list[dict[str, object]]:
    """A commit and those before it, newest first; each was made a second after the one before."""
    commits = list(repo.commits)
    return [
        {
            "id": commits[index],
            "title": "x",
            "message": "",
            "authors": [],
            "date": datetime.fromtimestamp(_DATE + index, UTC).isoformat().replace("+00:00", "Z"),
        }
        for index in range(commits.index(sha), -1, -1)
    ]


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@contextlib.contextmanager
def running() -> Iterator[Hub]:
    """Start both servers; they end with the block."""
    hub = Hub()
    with contextlib.ExitStack() as stack:
        for kind in (_HubHandler, _StoreHandler):
            handler = type(kind.__name__, (kind,), {"hub": hub})
            server = stack.enter_context(ThreadingHTTPServer(("127.0.0.1", 0), handler))
            server.daemon_threads = True
            server.block_on_close = False
            thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
            thread.start()
            stack.callback(thread.join)
            stack.callback(server.shutdown)
            url = f"http://127.0.0.1:{server.server_address[1]}"
            if kind is _HubHandler:
                hub.endpoint = url
            else:
                hub.own_store = url
        yield hub


@pytest.fixture
def hub() -> Iterator[Hub]:
    """A Hub with nothing on it."""
    with running() as made:
        yield made
