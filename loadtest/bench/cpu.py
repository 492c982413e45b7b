"""CPU time of a process and all its children, from /proc."""

from __future__ import annotations

import os
from pathlib import Path

PROC = Path("/proc")
_TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
# Fields of /proc/PID/stat after the name in brackets, which may hold blanks.
_UTIME, _STIME = 11, 12


def process_tree(pid: int, proc: Path = PROC) -> list[int]:
    """The process and its living descendants."""
    tree = [pid]
    for parent in tree:
        for task in _tasks(parent, proc):
            tree.extend(int(child) for child in _read(task / "children").split())
    return tree


def cpu_seconds(pid: int, proc: Path = PROC) -> float:
    """User and system seconds of the process and its descendants, over all their threads.

    The scheduler's own account (`schedstat`, nanoseconds) where the kernel keeps it, else clock ticks.
    """
    return sum(_process_seconds(member, proc) for member in process_tree(pid, proc))


def ticked_seconds(pid: int, proc: Path = PROC) -> float:
    """User and system seconds of one process, in clock ticks, with those of threads that ended since."""
    fields = _read(proc / str(pid) / "stat").rpartition(")")[2].split()
    return (int(fields[_UTIME]) + int(fields[_STIME])) / _TICKS_PER_SECOND if fields else 0.0


def _process_seconds(pid: int, proc: Path) -> float:
    accounts = [_read(task / "schedstat").split() for task in _tasks(pid, proc)]
    if accounts and all(accounts):
        return sum(int(account[0]) for account in accounts) / 1e9
    return ticked_seconds(pid, proc)


def _tasks(pid: int, proc: Path) -> list[Path]:
    try:
        return sorted((proc / str(pid) / "task").iterdir())
    except OSError:
        return []


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:  # the thread has ended since it was listed
        return ""
