"""The files of a commit on the Hub, by its own access."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from fnmatch import fnmatchcase
from urllib.parse import quote, unquote

from router.errors import (
    ArtifactChanged,
    ArtifactError,
    ArtifactMissing,
    ArtifactRefused,
    ArtifactUnavailable,
)
from router.ports import RemoteFile
from router.registries.hub.api import Away, Denied, File, HubApi, Missing, Odd, is_commit
from router.remote.net import Unreachable

SCHEME = "hf"

_BLOB = "blob:"


def uri_of(repo: str, commit: str) -> str:
    """`hf://ORG/MODEL@COMMIT`."""
    return f"{SCHEME}://{quote(repo)}@{commit}"


def taken(files: Sequence[File], wanted: Sequence[str]) -> tuple[File, ...]:
    """The files of a revision that make the artifact: no hidden ones, and those that a glob names."""
    return tuple(
        file
        for file in files
        if not any(part.startswith(".") for part in file.path.split("/"))
        and any(fnmatchcase(file.path, glob) for glob in wanted)
    )


def digest_of(files: Sequence[File]) -> str:
    """The digest of files (`router.artifacts.digest` has its rule); "" where one has no SHA-256."""
    if not files or not all(file.sha256 for file in files):
        return ""
    named = sorted((file.path.encode(), file.sha256.encode()) for file in files)
    lines = b"".join(sha256 + b"  " + path + b"\n" for path, sha256 in named)
    return "sha256:" + hashlib.sha256(lines).hexdigest()


class HubSource:
    """Implements `router.ports.Source` over the Hub.

    Args:
        api: for content; it may be redirected to the Hub's stores of large files.
        files: the files of a repository's commit that make its artifact.
    """

    def __init__(self, api: HubApi, files: Callable[[str, str], Sequence[File]]) -> None:
        self._api = api
        self._files = files

    def files(self, uri: str) -> Sequence[RemoteFile]:
        """All files with size, and SHA-256 of those that are in large file storage."""
        repo, commit = _parts(uri)
        try:
            found = self._files(repo, commit)
        except (Away, Denied, Missing, Odd) as error:
            raise _as_artifact(uri, error) from error
        if not found:
            raise ArtifactMissing(f"{uri} has no files that are taken", hint="look at `files`")
        return [RemoteFile(file.path, file.size, file.sha256, seen=f"{_BLOB}{file.blob}") for file in found]

    def read(self, uri: str, file: RemoteFile, start: int, end: int | None) -> Iterator[bytes]:
        """The bytes of a file at the URI's commit.

        A small file that is read whole is proved by git's id of it before its last piece is given.
        """
        if end is not None and end <= start:
            return
        repo, commit = _parts(uri)
        whole = start == 0 and (end is None or end == file.size)
        try:
            with self._api.content(repo, commit, file.path, start, None if whole else end) as response:
                pieces = _cut(response.pieces(), None if end is None else end - start)
                yield from _proved(pieces, uri, file) if whole and not file.sha256 else pieces
        except Unreachable as error:
            raise ArtifactUnavailable(f"{uri}: {error}") from error
        except (Away, Denied, Missing, Odd) as error:
            raise _as_artifact(f"{uri}: {file.path}", error) from error

    def close(self) -> None:
        """Give back connections."""
        self._api.close()


def _parts(uri: str) -> tuple[str, str]:
    repo, _, commit = uri.removeprefix(f"{SCHEME}://").rpartition("@")
    if not repo or not is_commit(commit):
        raise ArtifactRefused(f"{uri[:200]!r} is not {SCHEME}://ORG/MODEL@COMMIT")
    return unquote(repo), commit


def _as_artifact(what: str, error: Exception) -> ArtifactError | ArtifactUnavailable:
    if isinstance(error, Missing):
        return ArtifactMissing(f"{what}: {error}")
    if isinstance(error, Away):
        return ArtifactUnavailable(f"{what}: {error}")
    return ArtifactRefused(f"{what}: {error}")


def _cut(pieces: Iterator[bytes], left: int | None) -> Iterator[bytes]:
    """No more bytes than were asked for, whatever is sent."""
    for piece in pieces:
        if left is not None:
            piece = piece[:left]  # noqa: PLW2901
            left -= len(piece)
        yield piece
        if left == 0:
            return


def _proved(pieces: Iterator[bytes], uri: str, file: RemoteFile) -> Iterator[bytes]:
    sums = hashlib.sha1(f"blob {file.size}\0".encode(), usedforsecurity=False)
    last = b""
    for piece in pieces:
        sums.update(piece)
        if last:
            yield last
        last = piece
    if f"{_BLOB}{sums.hexdigest()}" != file.seen:
        raise ArtifactChanged(f"{uri}: {file.path} is not the file of that commit: git's id of it is another")
    if last:
        yield last
