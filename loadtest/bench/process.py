"""Start a process, know when it listens, and end it by its id."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import IO

from loadtest.bench.errors import BenchError

LOOPBACK = "127.0.0.1"
_START_SECONDS = 20.0
_LISTEN_SECONDS = 120.0
_STOP_SECONDS = 5.0
_LOG_TAIL = 1_500


def free_port() -> int:
    """A TCP port that was free a moment ago."""
    return free_ports(1)[0]


def free_ports(count: int) -> list[int]:
    """Ports that were free a moment ago, all different."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for sock in sockets:
            sock.bind((LOOPBACK, 0))
        return [int(sock.getsockname()[1]) for sock in sockets]


class Process:
    """One child process with its output in a log file.

    Its standard input stays open as long as this object is not stopped: our own binaries end with it,
    and foreign ones are told to end with the runner where `setpriv` is at hand.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        *,
        folder: Path,
        cpus: Sequence[int] = (),
        environment: Mapping[str, str] | None = None,
        talks: bool = False,
    ) -> None:
        self.name = name
        self._log = folder / f"{name}.log"
        with self._log.open("wb") as log:
            self._child = subprocess.Popen(  # noqa: S603 - the commands are the bench's own
                [*_ends_with_us(), *_pinned(cpus), *command],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE if talks else log,
                stderr=log,
                env={**os.environ, **(environment or {})},
                text=True,
            )

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._child.pid

    def say(self, line: str) -> None:
        """Writes one line to its standard input."""
        try:
            self._pipe(self._child.stdin).write(line + "\n")
            self._pipe(self._child.stdin).flush()
        except BrokenPipeError:
            raise self.failure("has ended") from None

    def hear(self) -> str:
        """Reads one line of its standard output.

        Raises:
            BenchError: it ended instead; the text has the end of its log.
        """
        line = self._pipe(self._child.stdout).readline()
        if not line:
            raise self.failure("ended without an answer")
        return line

    def wait_for_port(self, port: int, seconds: float = _START_SECONDS) -> None:
        """Returns when somebody listens on `port`.

        Raises:
            BenchError: it ended, or the time is over.
        """
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if self._child.poll() is not None:
                raise self.failure(f"ended with code {self._child.returncode}")
            try:
                socket.create_connection((LOOPBACK, port), timeout=1).close()
            except OSError:
                time.sleep(0.05)
            else:
                return
        raise self.failure(f"does not listen on port {port} after {seconds:g} s")

    def wait_until_ready(
        self, port: int, seconds: float, tell: Callable[[str], None] = lambda line: None
    ) -> None:
        """Returns when `/readyz` on a port says yes; for gateways.

        Args:
            seconds: how long it may take after it listens.
            tell: is given what it says meanwhile, each line that is the last one for a moment.

        Raises:
            BenchError: it ended, or the time is over.
        """
        self.wait_for_port(port, _LISTEN_SECONDS)
        end = time.monotonic() + seconds
        told = ""
        while not _is_ready(port):
            if self._child.poll() is not None:
                raise self.failure(f"ended with code {self._child.returncode}")
            if time.monotonic() > end:
                raise self.failure(f"is not ready after {seconds:g} s")
            if (line := self.last_line()) != told:
                told = line
                tell(line)
            time.sleep(0.1)

    def finish(self, seconds: float) -> None:
        """Closes its standard input and waits for its own end, which must be a good one.

        Raises:
            BenchError: it did not end in time, or with an error.
        """
        self._pipe(self._child.stdin).close()
        try:
            code = self._child.wait(seconds)
        except subprocess.TimeoutExpired:
            raise self.failure(f"did not end within {seconds:g} s") from None
        if code != 0:
            raise self.failure(f"ended with code {code}")

    def stop(self) -> None:
        """Ends it, by force where it must be. Harmless when it has ended."""
        for pipe in (self._child.stdin, self._child.stdout):
            if pipe is not None:
                _close(pipe)
        if self._child.poll() is None:
            self._child.terminate()
            try:
                self._child.wait(_STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self._child.kill()
                self._child.wait()

    def last_line(self) -> str:
        """What it said last in its log; "" for nothing."""
        with self._log.open("rb") as log:
            log.seek(max(0, self._log.stat().st_size - _LOG_TAIL))
            lines = log.read().decode(errors="replace").splitlines()
        return lines[-1] if lines else ""

    def failure(self, what: str) -> BenchError:
        """An error about this process, with the end of its log."""
        tail = self._log.read_text(errors="replace")[-_LOG_TAIL:].strip()
        return BenchError(f"{self.name} {what}" + (f"; it said:\n{tail}" if tail else ""))

    def _pipe(self, pipe: IO[str] | None) -> IO[str]:
        if pipe is None:
            raise BenchError(f"{self.name} was not started to talk")
        return pipe


def _is_ready(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://{LOOPBACK}:{port}/readyz", timeout=5):
            return True
    except OSError:
        return False


def _close(pipe: IO[str]) -> None:
    try:
        pipe.close()
    except BrokenPipeError:  # a last line that nobody reads any more
        return


def _ends_with_us() -> list[str]:
    setpriv = shutil.which("setpriv")
    return [setpriv, "--pdeathsig", "TERM", "--"] if setpriv else []


def _pinned(cpus: Sequence[int]) -> list[str]:
    taskset = shutil.which("taskset")
    if not cpus or not taskset:
        return []
    return [taskset, "--cpu-list", ",".join(map(str, cpus))]
