"""Brings the files of an artifact over in parallel ranges, with their hashes made on the way.

Each file is cut into parts; several threads fetch parts and write each piece where it belongs as it comes,
so memory stays flat however large the artifact is. A range that was cut goes on where it stopped. A file in
one part is hashed as it is written; of a larger one the parts are read back in order, while they still are
in the page cache and others still come.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import random
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from router.artifacts.paths import check_paths
from router.artifacts.policy import shown
from router.artifacts.space import of_disk
from router.errors import (
    ArtifactChanged,
    ArtifactError,
    ArtifactUnavailable,
    DigestMismatch,
    StagegateError,
)
from router.ports import RemoteFile, Source

PART = 8 << 20
"""Bytes of a part."""
THREADS = 8

_CHUNK = 1 << 20
_TICK = 0.2
_TRIES = 7
_LONGEST_PAUSE = 5.0
_GROWTH = 64 << 20
_SMALL = 256 << 10
"""Bytes that a file counts for at least: to ask for it takes a store longer than to give a few bytes."""


@dataclass(frozen=True, slots=True)
class Pace:
    """When a download is given up.

    Attributes:
        until: the clock's time at which it must be done.
        stall: seconds over which `slowest` bytes a second must be reached; a file counts for some at least.
        pause: seconds before the first try again; doubled for each further one without progress.
    """

    until: float
    stall: float = 30.0
    slowest: int = 1_000_000
    pause: float = 0.1


_Read = Callable[[RemoteFile, int, int | None], Iterator[bytes]]


class Cancelled(ArtifactError):
    """Nobody wants the files any more."""

    retry = True


def list_files(
    source: Source,
    uri: str,
    *,
    pace: Pace,
    cancel: threading.Event | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> Sequence[RemoteFile]:
    """Ask a store for the files of an artifact, again and again where it does not answer.

    Raises:
        ArtifactUnavailable: the store failed again and again, or took too long.
        ArtifactMissing, ArtifactRefused, ArtifactError: as the source says.
    """
    for tried in range(1, _TRIES + 1):
        try:
            return _Asking(source, uri).wait(min(pace.until, clock() + 2 * pace.stall), cancel, clock)
        except ArtifactUnavailable:
            if tried == _TRIES or clock() >= pace.until:
                raise
            _pause(pace, tried, cancel or threading.Event())
    raise AssertionError  # the last try returned or raised


class _Asking:
    """One listing, in a thread of its own: a call that hangs is left behind."""

    def __init__(self, source: Source, uri: str) -> None:
        self._source, self._uri = source, uri
        self._done = threading.Event()
        self._files: Sequence[RemoteFile] = ()
        self._problem: Exception | None = None
        threading.Thread(target=self._ask, name="fetch-list", daemon=True).start()

    def _ask(self) -> None:
        try:
            self._files = self._source.files(self._uri)
        except Exception as problem:
            self._problem = problem
        self._done.set()

    def wait(
        self, until: float, cancel: threading.Event | None, clock: Callable[[], float]
    ) -> Sequence[RemoteFile]:
        """The files. Raises as `list_files`."""
        while not self._done.wait(_TICK):
            check_wanted(cancel)
            if clock() >= until:
                raise ArtifactUnavailable(f"the store does not say what is at {shown(self._uri)}")
        if self._problem is not None:
            raise _ours(self._problem)
        return self._files


def check_wanted(cancel: threading.Event | None) -> None:
    """Raises Cancelled where the event is set."""
    if cancel is not None and cancel.is_set():
        raise Cancelled("the fetch was given up: nobody waits for it any more")


def download(
    source: Source,
    uri: str,
    files: Sequence[RemoteFile],
    folder: Path,
    *,
    pace: Pace,
    cancel: threading.Event | None = None,
    tell: Callable[[int], None] = lambda done: None,
    grow: Callable[[int], None] = lambda more: None,
    clock: Callable[[], float] = time.monotonic,
) -> dict[str, str]:
    """Fetch files into a folder that is empty, each whole and on the disk, and return their SHA-256 in hex.

    What was written is left where it is when this raises; the caller removes the folder.

    Args:
        tell: is told the bytes that have come, several times a second.
        grow: asked before more bytes than were told of are written; raises NoSpace.

    Raises:
        ArtifactUnavailable: the store failed again and again, was too slow, or took too long.
        ArtifactChanged: a file is not the one that was listed.
        DigestMismatch: a file does not hash to what its store says.
        NoSpace, ArtifactMissing, ArtifactRefused, ArtifactError.
    """
    check_paths(files)
    written = [_File(one, folder / one.path, Hashes(md5=bool(one.md5))) for one in files]
    work = _Download(partial(source.read, uri), written, pace, grow)
    threads = [
        threading.Thread(target=target, name=f"fetch-{index}", daemon=True)
        for index, target in enumerate([work.hash_parts, *[work.work] * min(THREADS, work.count)])
    ]
    for thread in threads:
        thread.start()
    try:
        work.wait(cancel, tell, clock)
    finally:
        # Threads that hang in a read are not waited for: they write no more, and end with their connection.
        work.stop()
    for thread in threads:
        thread.join()
    return {file.remote.path: file.sha256 for file in work.files}


class _Handle:
    """An open file that lives as long as any thread that may still write to it."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        self.fd = os.open(path, flags, 0o644)

    def __del__(self) -> None:
        if hasattr(self, "fd"):
            os.close(self.fd)


@dataclass(eq=False)
class _File:
    remote: RemoteFile
    path: Path
    hashing: Hashes
    waiting: int = 0
    handle: _Handle | None = None
    synced: bool = False
    sha256: str = ""


@dataclass(eq=False)
class _Part:
    """A range of a file; `at` is how far it has come, `alone` whether it is all of the file."""

    file: _File
    start: int
    end: int | None
    alone: bool
    at: int = 0
    done: bool = False


def _parts(file: _File) -> list[_Part]:
    size = file.remote.size
    starts = range(0, size, PART) if size else range(1)
    file.waiting = len(starts)
    ends = [None if size is None else min(start + PART, size) for start in starts]
    return [
        _Part(file, start, end, alone=len(starts) == 1, at=start)
        for start, end in zip(starts, ends, strict=True)
    ]


class Hashes:
    """SHA-256 of what it is given, and MD5 for stores that know nothing else."""

    def __init__(self, *, md5: bool) -> None:
        self._sha256 = hashlib.sha256()
        self._md5 = hashlib.md5(usedforsecurity=False) if md5 else None

    def update(self, data: bytes | memoryview) -> None:
        """Go on with these bytes."""
        self._sha256.update(data)
        if self._md5 is not None:
            self._md5.update(data)

    def check(self, remote: RemoteFile) -> str:
        """SHA-256 in hex. Raises DigestMismatch where a store says otherwise."""
        sha256 = self._sha256.hexdigest()
        md5 = self._md5.hexdigest() if self._md5 is not None else remote.md5
        for kind, actual, told in (("SHA-256", sha256, remote.sha256), ("MD5", md5, remote.md5)):
            if told and actual != told.lower():
                raise DigestMismatch(f"{remote.path} has {kind} {actual}, not {told[:80]} as its store says")
        return sha256


class _Download:
    def __init__(self, read: _Read, files: Sequence[_File], pace: Pace, grow: Callable[[int], None]) -> None:
        self._read, self._pace, self._grow = read, pace, grow
        self.files = files
        self._parts = [part for file in self.files for part in _parts(file)]
        self._queue = deque(self._parts)
        self._to_hash = deque(part for part in self._parts if not part.alone)
        self._reading = len(self._parts)
        self._left = len(self.files)
        self._changed = threading.Condition()
        self._stopped = threading.Event()
        self._failure: Exception | None = None
        self._bytes = 0
        self._small = 0

    @property
    def count(self) -> int:
        """How many parts there are."""
        return len(self._parts)

    def wait(
        self, cancel: threading.Event | None, tell: Callable[[int], None], clock: Callable[[], float]
    ) -> None:
        """Return when all files are whole; raise what failed, or that it is too slow."""
        samples: deque[tuple[float, int, int]] = deque([(clock(), 0, 0)])
        while True:
            with self._changed:
                if self._left and self._failure is None:
                    self._changed.wait(_TICK)
                left, failure, come, reading = self._left, self._failure, self._bytes, self._reading
                small = self._small
            if failure is not None:
                raise failure
            tell(come)
            if not left:
                return
            now = clock()
            check_wanted(cancel)
            if now >= self._pace.until:
                raise ArtifactUnavailable(
                    f"the fetch took too long; {come} bytes had come",
                    hint="raise artifacts.timeout for artifacts this large",
                )
            if reading:
                self._check_speed(samples, now, come, small)

    def _check_speed(self, samples: deque[tuple[float, int, int]], now: float, come: int, small: int) -> None:
        """`small`: what files that came whole count for beyond their bytes."""
        samples.append((now, come, small))
        while len(samples) > 1 and samples[1][0] <= now - self._pace.stall:
            samples.popleft()
        since, before, before_small = samples[0]
        seconds, counted = now - since, come - before + small - before_small
        if seconds >= self._pace.stall and counted < self._pace.slowest * seconds:
            raise ArtifactUnavailable(
                f"the store stalled: {come - before} bytes in the last {seconds:.0f} s",
                hint="artifacts.stall and artifacts.slowest say what is too slow",
            )

    def stop(self) -> None:
        """Let all threads end; nothing is written after this."""
        with self._changed:
            self._stopped.set()
            self._changed.notify_all()

    def work(self) -> None:
        """One thread: parts, one after the other."""
        try:
            while (part := self._next()) is not None:
                self._bring(part)
        except Exception as problem:
            self._fail(problem)

    def hash_parts(self) -> None:
        """One thread: the parts of large files, in order, as they come."""
        buffer = bytearray(_CHUNK)
        try:
            while self._to_hash:
                part = self._to_hash[0]
                with self._changed:
                    while not part.done and not self._stopped.is_set():
                        self._changed.wait()
                    if self._stopped.is_set():
                        return
                self._to_hash.popleft()
                self._read_back(part, memoryview(buffer))
                if not self._to_hash or self._to_hash[0].file is not part.file:
                    self._finish(part.file)
        except Exception as problem:
            self._fail(problem)

    def _read_back(self, part: _Part, buffer: memoryview) -> None:
        handle, file = part.file.handle, part.file
        assert handle is not None  # noqa: S101 - a part that is done has been written
        at = part.start
        while at < part.at and not self._stopped.is_set():
            count = os.preadv(handle.fd, [buffer[: min(len(buffer), part.at - at)]], at)
            if not count:
                raise ArtifactError(f"{file.remote.path} was cut on this machine's disk while it was fetched")
            file.hashing.update(buffer[:count])
            at += count

    def _next(self) -> _Part | None:
        with self._changed:
            if self._stopped.is_set() or not self._queue:
                return None
            part = self._queue.popleft()
            if part.file.handle is None:
                part.file.handle = self._open(part.file)
            return part

    @staticmethod
    def _open(file: _File) -> _Handle:
        try:
            return _Handle(file.path)
        except OSError as problem:
            raise _disk(file.remote, problem) from problem

    def _bring(self, part: _Part) -> None:
        tries = 0
        while not self._stopped.is_set():
            before = part.at
            try:
                self._stream(part)
                break
            except ArtifactUnavailable:
                tries = 1 if part.at > before else tries + 1
                if tries >= _TRIES:
                    raise
                _pause(self._pace, tries, self._stopped)
        else:
            return
        self._written(part)

    def _stream(self, part: _Part) -> None:
        remote = part.file.remote
        if part.end == part.at:
            return
        with _closing(self._read(remote, part.at, part.end)) as pieces:
            for piece in pieces:
                if self._stopped.is_set():
                    return
                if part.end is not None and len(piece) > part.end - part.at:
                    raise ArtifactChanged(f"{remote.path} gives more bytes than its store told of")
                self._write(part, piece)
        if part.end is not None and part.at < part.end:
            raise ArtifactUnavailable(f"{remote.path} stopped {part.end - part.at} bytes before the end")

    def _write(self, part: _Part, piece: bytes) -> None:
        handle, view = part.file.handle, memoryview(piece)
        assert handle is not None  # noqa: S101 - opened when the part was taken
        if part.end is None and part.at // _GROWTH != (part.at + len(piece)) // _GROWTH:
            self._grow(_GROWTH)
        if part.alone:
            part.file.hashing.update(view)
        try:
            while view:
                count = os.pwrite(handle.fd, view, part.at)
                part.at += count
                view = view[count:]
        except OSError as problem:
            raise _disk(part.file.remote, problem) from problem
        with self._changed:
            self._bytes += len(piece)

    def _written(self, part: _Part) -> None:
        file, handle = part.file, part.file.handle
        with self._changed:
            part.done = True
            self._small += max(0, _SMALL - (part.at - part.start)) if part.alone else 0
            self._reading -= 1
            file.waiting -= 1
            last = not file.waiting
            self._changed.notify_all()
        if not last or handle is None:
            return
        try:
            os.fsync(handle.fd)
        except OSError as problem:
            raise _disk(file.remote, problem) from problem
        with self._changed:
            file.synced = True
            self._changed.notify_all()
        if part.alone:
            self._finish(file)

    def _finish(self, file: _File) -> None:
        """All bytes are hashed; with them on the disk too, the file is done."""
        file.sha256 = file.hashing.check(file.remote)
        with self._changed:
            while not file.synced and not self._stopped.is_set():
                self._changed.wait()
            file.handle = None
            self._left -= 1
            self._changed.notify_all()

    def _fail(self, problem: Exception) -> None:
        with self._changed:
            self._failure = self._failure or _ours(problem)
            self._stopped.set()
            self._changed.notify_all()


@contextlib.contextmanager
def _closing(pieces: Iterator[bytes]) -> Iterator[Iterator[bytes]]:
    """Let a generator give back its connection although it was not read to the end."""
    try:
        yield pieces
    finally:
        close = getattr(pieces, "close", None)
        if close is not None:
            close()


def _disk(remote: RemoteFile, problem: OSError) -> ArtifactError:
    return of_disk(f"{remote.path} cannot be written", problem)


def _ours(problem: Exception) -> StagegateError:
    """An error of ours for whatever a source raised."""
    if isinstance(problem, StagegateError):
        return problem
    return ArtifactError(f"the fetch failed: {type(problem).__name__}: {str(problem)[:300]}")


def _pause(pace: Pace, tries: int, end: threading.Event) -> None:
    """Wait before a further try, longer each time, and not all at once; or until `end`."""
    seconds = min(pace.pause * 2 ** (tries - 1), _LONGEST_PAUSE)
    end.wait(seconds * random.uniform(0.5, 1))  # noqa: S311 - spreads tries, hides nothing
