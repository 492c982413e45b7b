"""Questions about a mirror's objects, put to one `git cat-file` that is kept: to start one costs more."""

from __future__ import annotations

import os
import select
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass

_PIECE = 1 << 16
_LONGEST_LINE = 1 << 14


class Broken(Exception):
    """The program ended, or did not answer in time; it is gone, and the next question starts another."""


@dataclass(frozen=True, slots=True)
class Object:
    """A commit, tree, blob or tag: its id, what it is, and its bytes."""

    id: str
    kind: str
    size: int


class Objects:
    """One question at a time; the caller sees to that.

    Args:
        start: starts `git cat-file --batch-command` with pipes.
        timeout: seconds that one answer may take.
    """

    def __init__(self, start: Callable[[], subprocess.Popen[bytes]], timeout: float) -> None:
        self._start = start
        self._timeout = timeout
        self._process: subprocess.Popen[bytes] | None = None
        self._read = bytearray()

    def find(self, name: str) -> Object | None:
        """What a name such as `COMMIT:path` means; None where there is nothing. Raises Broken."""
        if "\n" in name or "\0" in name:
            return None
        self._ask(f"info {name}")
        return _object(self._line())

    def read(self, name: str, most: int) -> tuple[Object, bytes] | None:
        """What a name means, with its bytes; None where there is nothing.

        Of one with more than `most` bytes, none are given. Raises Broken.
        """
        if "\n" in name or "\0" in name:
            return None
        self._ask(f"contents {name}")
        found = _object(self._line())
        if found is None:
            return None
        if found.size > most:
            self.close()  # which is done sooner than to read all of it
            return found, b""
        return found, self._take(found.size + 1)[:-1]

    def close(self) -> None:
        """End the program."""
        process, self._process = self._process, None
        self._read.clear()
        if process is not None:
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    pipe.close()

    def _ask(self, line: str) -> None:
        if self._process is None or self._process.poll() is not None:
            self.close()
            self._process = self._start()
        question = f"{line}\n".encode(errors="surrogateescape")
        try:
            # Questions are short and read at once, so a pipe always has room.
            os.write(self._pipe(self._process.stdin), question)
        except OSError as error:
            self.close()
            raise Broken(f"git ended: {error.strerror}") from error

    def _line(self) -> str:
        late = time.monotonic() + self._timeout
        while (end := self._read.find(b"\n")) < 0:
            if len(self._read) > _LONGEST_LINE:
                self.close()
                raise Broken("git answers without end")
            self._more(late)
        line = bytes(self._read[:end]).decode(errors="replace")
        del self._read[: end + 1]
        return line

    def _take(self, size: int) -> bytes:
        late = time.monotonic() + self._timeout
        while len(self._read) < size:
            self._more(late)
        taken = bytes(self._read[:size])
        del self._read[:size]
        return taken

    def _more(self, late: float) -> None:
        process = self._process
        left = late - time.monotonic()
        if process is None:
            raise Broken("git ended")
        pipe = self._pipe(process.stdout)
        waiting = select.poll()
        waiting.register(pipe, select.POLLIN)
        piece = os.read(pipe, _PIECE) if left > 0 and waiting.poll(left * 1000) else b""
        if not piece:
            self.close()
            raise Broken("git ended, or did not answer in time")
        self._read += piece

    @staticmethod
    def _pipe(pipe: object) -> int:
        return pipe.fileno()  # type: ignore[attr-defined, no-any-return]


def _object(line: str) -> Object | None:
    words = line.rsplit(" ", 2)
    if len(words) != 3 or not words[2].isdecimal():  # noqa: PLR2004 - id, kind and size
        return None
    return Object(words[0], words[1], int(words[2]))
