"""Why a Triton could not read a model folder: it says so in its log and nowhere else."""

from __future__ import annotations

import re
from pathlib import Path

from router.model import TritonName, whole_of

SAID = "failed to poll from model repository"
"""What it answers instead."""

_LINE = re.compile(r"Poll failed for model directory '([^']*)': (.*?)\"?$", re.MULTILINE)
_MOST_READ = 1 << 18


def end_of(log: Path | None) -> int:
    """Where a log ends now; 0 where it cannot be read."""
    try:
        return log.stat().st_size if log else 0
    except OSError:
        return 0


def reason(log: Path | None, since: int, name: TritonName) -> str:
    """What a log says of a model and its parts since it ended at `since`, or where to look for it."""
    try:
        text = _read(log, since) if log else ""
    except OSError:
        text = ""
    ours = [why for model, why in _LINE.findall(text) if name in (model, whole_of(TritonName(model)))]
    return (
        "; ".join(dict.fromkeys(ours)) or "its log says why, where it says 'Poll failed for model directory'"
    )


def _read(log: Path, since: int) -> str:
    with log.open("rb") as file:
        file.seek(since)
        return file.read(_MOST_READ).decode(errors="replace")
