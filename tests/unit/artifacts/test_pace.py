"""When a download is too slow: by its bytes, and by its files where those are small."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from router.artifacts.download import Pace, download
from router.errors import ArtifactUnavailable
from router.ports import RemoteFile

COUNT, SIZE = 200, 10


class Slow:
    """A store that takes some seconds of a test's clock for each of its small files.

    Attributes:
        now: that clock's time.
        seen: set once somebody looked how far it is, with one file to go.
    """

    def __init__(self, seconds: float) -> None:
        self.now = 0.0
        self.seen = threading.Event()
        self._seconds = seconds
        self._lock = threading.Lock()

    def files(self, uri: str = "") -> Sequence[RemoteFile]:
        return [RemoteFile(f"{number:03}", SIZE) for number in range(COUNT)]

    def read(self, uri: str, file: RemoteFile, start: int, end: int | None) -> Iterator[bytes]:
        if file.path == f"{COUNT - 1:03}":
            self.seen.wait(30)
        else:
            with self._lock:
                self.now += self._seconds
        yield b"x" * SIZE

    def close(self) -> None:
        pass

    def looked(self, come: int) -> None:
        """Somebody looks how far it is."""
        if come == (COUNT - 1) * SIZE:
            self.seen.set()


def fetched(store: Slow, folder: Path) -> dict[str, str]:
    """All of its files, with the limits that are set by default."""
    pace = Pace(until=3600.0, stall=30.0, slowest=1_000_000)
    try:
        return download(
            store, "store:", store.files(), folder, pace=pace, tell=store.looked, clock=lambda: store.now
        )
    finally:
        store.seen.set()


def test_many_small_files_are_no_stall(tmp_path: Path) -> None:
    """Each costs its store a question: four or five a second is what many of them give."""
    assert len(fetched(Slow(0.22), tmp_path)) == COUNT


def test_small_files_that_hardly_come_are_one(tmp_path: Path) -> None:
    """One in two seconds is nobody's pace."""
    with pytest.raises(ArtifactUnavailable, match="the store stalled"):
        fetched(Slow(2.0), tmp_path)
