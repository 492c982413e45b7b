"""Finds what DVC keeps for a model at a commit, and reads it from the remote."""

from __future__ import annotations

import hashlib
import posixpath
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

from router.errors import ArtifactChanged, ArtifactMissing, ArtifactRefused, ArtifactUnavailable, Unavailable
from router.ports import RemoteFile
from router.registries.dvc.files import (
    CONFIG_FILE,
    LOCK_FILE,
    PROJECT_FILE,
    SUFFIX,
    Declared,
    Entry,
    Out,
    Unusable,
    declared,
    entries,
    outs_of_dvc_file,
    outs_of_lock,
    place,
)
from router.registries.dvc.git import Mirror
from router.registries.dvc.remotes import Remote, open_remote, where
from router.remote.s3 import S3Access

SCHEME = "dvc"

MOST_LIST = 16 << 20
"""Bytes of the list of a folder's files."""

_MOST_SIZES = 64
"""Files whose sizes a store is asked for one by one."""

_MOST_HELD = 256


@dataclass(frozen=True, slots=True)
class Located:
    """What DVC keeps for a model at a commit; `declared` is None where only a `.dvc` file names it."""

    out: Out
    declared: Declared | None = None


def uri_of(registry: str, commit: str, out: Out) -> str:
    """`dvc://REGISTRY/COMMIT/path/from/the/top`."""
    return f"{SCHEME}://{quote(registry, safe='')}/{commit}/{quote(out.path)}"


def locate(mirror: Mirror, commit: str, artifact: str) -> Located:
    """What a model's name (`name` or `folder:name`) means at a commit.

    The `artifacts` section of the folder's `dvc.yaml` decides; where it does not name the model, the one
    `.dvc` file in or below the folder does that is called `name.dvc` or `name.ending.dvc`.

    Raises:
        Unusable: nothing or several things are meant, or a file cannot be read.
        Unavailable: git does not answer.
    """
    folder, _, name = artifact.rpartition(":")
    folder = "" if not folder else _folder(folder)
    text = _read(mirror, commit, posixpath.join(folder, PROJECT_FILE))
    said = declared(text, folder, name) if text is not None else None
    if said is not None:
        return Located(out_at(mirror, commit, said.path), said)
    candidates = [path for path in mirror.paths(commit) if _is_called(path, folder, name)]
    if len(candidates) != 1:
        raise Unusable(
            f"{len(candidates)} .dvc files are called {name}{SUFFIX} or {name}.*{SUFFIX}, exactly one is "
            f"needed; or declare it under `artifacts` in {posixpath.join(folder, PROJECT_FILE)}"
        )
    return Located(out_at(mirror, commit, candidates[0].removesuffix(SUFFIX)))


def out_at(mirror: Mirror, commit: str, path: str) -> Out:
    """What DVC keeps under a path at a commit: by the `.dvc` file beside it, else a `dvc.lock` above it.

    Raises:
        Unusable, Unavailable: as `locate`.
    """
    found: list[Out] = []
    text = _read(mirror, commit, path + SUFFIX)
    if text is not None:
        found += outs_of_dvc_file(text, path + SUFFIX)
    folder = path
    while folder and not any(out.path == path for out in found):
        folder = posixpath.dirname(folder)
        text = _read(mirror, commit, posixpath.join(folder, LOCK_FILE))
        if text is not None:
            found += outs_of_lock(text, folder)
    for out in found:
        if out.path == path:
            return out
    raise Unusable(
        f"DVC keeps nothing with an MD5 at {path}: neither {path}{SUFFIX} nor a {LOCK_FILE} has it"
    )


class Remotes:
    """Opens the remotes that commits of one repository name. Safe in several threads.

    Args:
        mirror: the repository.
        top: its checkout on this machine, if any: relative remotes start there.
        allowed: places where remotes may lie, as `plain_place` returns them.
        access: the operator's own way into S3.
    """

    def __init__(self, mirror: Mirror, top: Path | None, allowed: Sequence[str], access: S3Access) -> None:
        self._mirror = mirror
        self._top = top
        self._allowed = tuple(allowed)
        self._access = access
        self._lock = threading.Lock()
        self._open: dict[str, Remote] = {}
        self._closed = False

    def another(self) -> Remotes:
        """The same for somebody else, with connections of its own."""
        return Remotes(self._mirror, self._top, self._allowed, self._access)

    def of(self, commit: str, out: Out) -> Remote:
        """The remote that has an out.

        Raises:
            Unusable: the repository names none.
            ArtifactRefused: it may not be read.
            NotSupported: boto3 is missing.
            ArtifactUnavailable: this was closed.
        """
        config = _read(self._mirror, commit, CONFIG_FILE) or ""
        found = where(config, out.remote, self._top, self._allowed)
        with self._lock:
            if self._closed:
                raise ArtifactUnavailable("access to the remotes was closed")
            if found not in self._open:
                self._open[found] = open_remote(found, self._access)
            return self._open[found]

    def close(self) -> None:
        """Close all connections; nothing is asked any more."""
        with self._lock:
            self._closed = True
            remotes = tuple(self._open.values())
            self._open.clear()
        for remote in remotes:
            remote.close()


def listed(remote: Remote, out: Out) -> tuple[Entry, ...]:
    """The files of a folder, by the list that its remote keeps, proved by its MD5.

    Raises:
        Unusable: it is no list.
        ArtifactMissing, ArtifactChanged, ArtifactUnavailable: it cannot be read, or is another.
    """
    size = remote.size(out.key)
    if size > MOST_LIST:
        raise Unusable(f"the list of the files of {out.path} is larger than {MOST_LIST} bytes")
    data = b"".join(remote.read(out.key, 0, size))
    if hashlib.md5(data, usedforsecurity=False).hexdigest() != out.md5:
        raise ArtifactChanged(f"the list of the files of {out.path} does not hash to {out.md5}")
    return entries(data)


class DvcSource:
    """Implements `router.ports.Source` over DVC's remotes; a file's `seen` is its key there.

    Args:
        remotes: closed with this.
    """

    def __init__(self, mirror: Mirror, remotes: Remotes) -> None:
        self._mirror = mirror
        self._remotes = remotes
        self._lock = threading.Lock()
        self._held: dict[str, tuple[Remote, Out]] = {}

    def files(self, uri: str) -> Sequence[RemoteFile]:
        """All files, with their MD5 and, where it is cheap to know, size. Raises as the port says."""
        remote, out = self._at(uri)
        if not out.folder:
            name = posixpath.basename(out.path)
            return (RemoteFile(name, out.size, seen=out.key, md5=out.md5),)
        try:
            found = listed(remote, out)
        except Unusable as error:
            raise ArtifactRefused(f"{uri}: {error}") from error
        few = len(found) <= _MOST_SIZES
        keys = [(entry, place(entry.md5, old=out.old)) for entry in found]
        return [
            RemoteFile(entry.path, remote.size(key) if few else None, seen=key, md5=entry.md5)
            for entry, key in keys
        ]

    def read(self, uri: str, file: RemoteFile, start: int, end: int | None) -> Iterator[bytes]:
        """The bytes of a file. Raises as the port says.

        A file that is read whole is proved by its MD5 before its last piece is given; whoever reads it in
        parts proves it by `RemoteFile.md5`.
        """
        remote, _ = self._at(uri)
        pieces = remote.read(file.seen, start, end)
        whole = start == 0 and (end is None or end == file.size)
        yield from _proved(pieces, file) if whole and file.md5 else pieces

    def close(self) -> None:
        """Close all connections, and forget what was found."""
        with self._lock:
            self._held.clear()
        self._remotes.close()

    def _at(self, uri: str) -> tuple[Remote, Out]:
        with self._lock:
            held = self._held.get(uri)
        if held is None:
            held = self._find(uri)
            with self._lock:
                if len(self._held) >= _MOST_HELD:
                    self._held.clear()
                self._held[uri] = held
        return held

    def _find(self, uri: str) -> tuple[Remote, Out]:
        commit, _, path = urlsplit(uri).path.removeprefix("/").partition("/")
        try:
            if not self._mirror.has(commit):
                raise ArtifactMissing(f"{uri}: the repository has no such commit")
            out = out_at(self._mirror, commit, unquote(path))
            return self._remotes.of(commit, out), out
        except Unusable as error:
            raise ArtifactMissing(f"{uri}: {error}") from error
        except Unavailable as error:
            raise ArtifactUnavailable(f"{uri}: {error}") from error


def _proved(pieces: Iterator[bytes], file: RemoteFile) -> Iterator[bytes]:
    sums = hashlib.md5(usedforsecurity=False)
    last = b""
    for piece in pieces:
        sums.update(piece)
        if last:
            yield last
        last = piece
    if sums.hexdigest() != file.md5:
        raise ArtifactChanged(
            f"{file.path} hashes to MD5 {sums.hexdigest()}, not to {file.md5} as the repository says",
            hint="bring the right file to the remote by `dvc push`",
        )
    if last:
        yield last


def _read(mirror: Mirror, commit: str, path: str) -> str | None:
    try:
        return mirror.read(commit, path)
    except ValueError as error:
        raise Unusable(str(error)) from error


def _folder(folder: str) -> str:
    plain = posixpath.normpath(folder)
    if plain.startswith(("/", "..")) or plain == ".":
        raise Unusable(f"folder {folder[:120]!r} leads out of the repository")
    return plain


def _is_called(path: str, folder: str, name: str) -> bool:
    if not path.endswith(SUFFIX) or (folder and not path.startswith(f"{folder}/")):
        return False
    called = posixpath.basename(path).removesuffix(SUFFIX)
    return called == name or posixpath.splitext(called)[0] == name
