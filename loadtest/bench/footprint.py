"""What a process holds: memory, file descriptors, threads, from /proc."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

PROC = Path("/proc")
_PAGE = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True, slots=True)
class Footprint:
    """One look at a process.

    Attributes:
        resident: resident memory in bytes.
        descriptors: open file descriptors.
        threads: its threads.
    """

    resident: int
    descriptors: int
    threads: int


def footprint(pid: int, proc: Path = PROC) -> Footprint:
    """Look at a process now.

    Raises:
        OSError: it does not run, or is somebody else's.
    """
    folder = proc / str(pid)
    return Footprint(
        resident=int((folder / "statm").read_text().split()[1]) * _PAGE,
        descriptors=sum(1 for _ in (folder / "fd").iterdir()),
        threads=sum(1 for _ in (folder / "task").iterdir()),
    )
