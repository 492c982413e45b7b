"""The process between us and a tritonserver: it ends Triton and cleans up after it, whatever happens to us.

Run as a script by `router.backends.process`, with nothing but the standard library. Standard input is the
life line: its first line is the order (JSON, see `Order`), and when it closes, because the gateway stopped
or died by any signal, Triton is ended. Standard output tells one line, `{"pid": ..., "prefix": ...}`. The
exit code is Triton's, 128 + N where signal N ended it.

Triton is ended alone first, since it must end its stubs itself to free their shared memory; a stub that
outlives it becomes a child of this process (it is their subreaper) and is killed; then what is left under
this instance's own prefix in /dev/shm is removed. Should this process be killed, Triton gets SIGTERM, and
the next guard on the machine removes what is left.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import re
import select
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_SHM = Path("/dev/shm")  # noqa: S108 -- where POSIX shared memory lives; the names in it are ours
_OWNED = re.compile(r"stagegate-(\d+)-(\d+)-(\d+)-")
_PARENT_LOOK = 1.0
_STUB_GRACE = 0.5


@dataclass(frozen=True)
class Order:
    """What to run.

    Attributes:
        command: Triton's command line; the flag with the prefix in /dev/shm is added to it.
        environment: all of its environment.
        log: file to which its output is appended.
        patience: seconds from SIGTERM to SIGKILL.
    """

    command: list[str]
    environment: dict[str, str]
    log: str
    patience: float


def main() -> int:
    """Run one Triton until it ends or our life line closes; return its exit code."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    wakeups = _wake_on(signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD)
    parent = os.getppid()
    line = _read_line(0)
    if not line:
        return 0
    order = Order(**json.loads(line))
    sweep()
    prefix = _own_prefix()
    command = [*order.command, f"--backend-config=python,shm-region-prefix-name={prefix}"]
    with open(order.log, "ab") as log:
        triton = subprocess.Popen(  # noqa: S603 -- the command is ours
            command,
            env=order.environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            preexec_fn=lambda: libc.prctl(_PR_SET_PDEATHSIG, int(signal.SIGTERM), 0, 0, 0),  # noqa: PLW1509
        )
    try:
        with contextlib.suppress(BrokenPipeError):
            os.write(1, json.dumps({"pid": triton.pid, "prefix": prefix}).encode() + b"\n")
        _watch(triton, wakeups, parent)
    finally:
        _end(triton, order.patience)
        _end_orphans()
        _remove_shared_memory(prefix)
    code = triton.returncode
    return code if code >= 0 else 128 - code


def _wake_on(*signals: signal.Signals) -> int:
    """A descriptor that gets one byte, its number, for each signal."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    os.set_blocking(reader, False)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    for signum in signals:
        signal.signal(signum, lambda *_: None)
    return reader


def _read_line(descriptor: int) -> bytes:
    """The first line, or b"" where the other end closed before it was whole."""
    data = b""
    while not data.endswith(b"\n"):
        piece = os.read(descriptor, 1 << 16)
        if not piece:
            return b""
        data += piece
    return data


def _watch(triton: subprocess.Popen[bytes], wakeups: int, parent: int) -> None:
    """Return when Triton ended, the life line closed, a signal asks for the end, or our parent is gone.

    The parent is looked at too, because a process that the gateway forked may hold the life line open.
    """
    while triton.poll() is None and os.getppid() == parent:
        ready, _, _ = select.select([0, wakeups], [], [], _PARENT_LOOK)
        if 0 in ready and not os.read(0, 1 << 16):
            return
        if wakeups in ready:
            arrived = os.read(wakeups, 1 << 10)
            if any(signum != signal.SIGCHLD for signum in arrived):
                return


def _end(triton: subprocess.Popen[bytes], patience: float) -> None:
    """SIGTERM to Triton alone, then SIGKILL. SIGCONT lets a stopped one see the first."""
    triton.terminate()
    triton.send_signal(signal.SIGCONT)
    try:
        triton.wait(patience)
    except subprocess.TimeoutExpired:
        triton.kill()
        triton.wait()


def _end_orphans() -> None:
    """End and reap the stubs that Triton left to us: a moment to go by themselves, then SIGKILL."""
    deadline = time.monotonic() + _STUB_GRACE
    while True:
        try:
            pid, _ = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if pid:
            continue
        if time.monotonic() >= deadline:
            for child in _children():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(child, signal.SIGKILL)
        time.sleep(0.01)


def _children() -> list[int]:
    own = os.getpid()
    found = []
    for pid in _pids():
        fields = _stat(pid)
        if fields is not None and int(fields[1]) == own:
            found.append(pid)
    return found


def _pids() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdecimal()]


def _stat(pid: int) -> list[str] | None:
    """The fields of /proc/PID/stat after the name (state, parent, ...), or None where it is gone."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return text.rpartition(")")[2].split()


def _started(pid: int) -> int:
    """When a process started, in clock ticks since boot; 0 where it is gone or dead."""
    fields = _stat(pid)
    return 0 if fields is None or fields[0] in "ZX" else int(fields[19])


def _namespace() -> int:
    """Containers may share /dev/shm without sharing process numbers."""
    return os.stat("/proc/self/ns/pid").st_ino


def _own_prefix() -> str:
    """A name in /dev/shm that says who owns it: process namespace, process, and when that one started."""
    pid = os.getpid()
    return f"stagegate-{_namespace()}-{pid}-{_started(pid)}-"


def sweep() -> None:
    """Remove what killed guards of this machine left: shared memory, and processes that name its prefix."""
    abandoned = set()
    with contextlib.suppress(FileNotFoundError):
        for name in os.listdir(_SHM):
            owner = _OWNED.match(name)
            if owner and int(owner[1]) == _namespace() and _started(int(owner[2])) != int(owner[3]):
                abandoned.add(owner[0])
    for prefix in abandoned:
        _kill_users(prefix)
        _remove_shared_memory(prefix)


def _kill_users(prefix: str) -> None:
    """Kill a Triton and the stubs of an instance that nobody guards: their command lines name its prefix."""
    for pid in _pids():
        try:
            command = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
            if any(
                word.startswith(
                    (prefix.encode(), f"--backend-config=python,shm-region-prefix-name={prefix}".encode())
                )
                for word in command
            ):
                os.kill(pid, signal.SIGKILL)
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue


def _remove_shared_memory(prefix: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        for name in os.listdir(_SHM):
            if name.startswith(prefix):
                with contextlib.suppress(FileNotFoundError, PermissionError):
                    (_SHM / name).unlink()


if __name__ == "__main__":
    sys.exit(main())
