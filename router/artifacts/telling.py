"""How far a fetch is, in words."""

from __future__ import annotations

import logging
from collections.abc import Callable

Progress = Callable[[str], None]

_TELL_SECONDS = 1.0
_LOG_SECONDS = 10.0
_MIB = 1 << 20

_log = logging.getLogger(__name__)


class Telling:
    """Says how far a fetch is: to whoever waits for it each second, to the log each ten."""

    def __init__(self, who: str, progress: Progress | None) -> None:
        self._who, self._progress = who, progress
        self._told = self._logged = float("-inf")
        self._last = -1

    def come(self, now: float, come: int, total: int | None) -> None:
        """So many bytes have come, of so many, if that is known; `now` in monotonic seconds."""
        of = f" of {total / _MIB:.1f}" if total is not None else ""
        text = f"{self._who}: fetched {come / _MIB:.1f}{of} MiB"
        due = now - self._told >= _TELL_SECONDS or come == total
        if self._progress is not None and due and come != self._last:
            self._told, self._last = now, come
            self._progress(text)
        if self._logged == float("-inf"):
            self._logged = now  # what takes less than the time between two lines has none
        elif now - self._logged >= _LOG_SECONDS:
            self._logged = now
            _log.info("%s", text)
