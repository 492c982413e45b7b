"""Log lines: text for people, JSON for machines, and lines that nobody reads are dropped, not waited for."""

from __future__ import annotations

import json
import logging
import logging.handlers
import queue
import sys
import time
from collections.abc import Callable
from typing import TextIO

QUEUE_LINES = 10_000
"""Lines kept while the reader of the log is slow; more are dropped and counted."""


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time, level, logger, message, and the error where there is one."""

    def format(self, record: logging.LogRecord) -> str:
        """The record as JSON."""
        line: dict[str, object] = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
            + f".{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)


class TextFormatter(logging.Formatter):
    """`12:30:01 message`, with the level only where it is worth a look."""

    def format(self, record: logging.LogRecord) -> str:
        """The record as one line, a traceback below it where there is one."""
        level = "" if record.levelno <= logging.INFO else f"{record.levelname.lower()}: "
        line = f"{time.strftime('%H:%M:%S', time.localtime(record.created))} {level}{record.getMessage()}"
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


class _Dropping(logging.handlers.QueueHandler):
    """Never waits: a full queue drops the line and counts it."""

    def __init__(self, lines: queue.Queue[logging.LogRecord]) -> None:
        super().__init__(lines)
        self.dropped = 0

    def prepare(self, record: logging.LogRecord) -> logging.LogRecord:
        return record

    def enqueue(self, record: logging.LogRecord) -> None:
        try:
            self.queue.put_nowait(record)
        except queue.Full:
            self.dropped += 1


def set_up_logging(log_format: str, level: str, out: TextIO | None = None) -> Callable[[], None]:
    """Send the `stagegate` loggers to a stream through a bounded queue.

    Args:
        log_format: `text` or `json`.
        level: `debug`, `info`, `warning` or `error`.
        out: where to; standard error by default.

    Returns:
        What to call at the end: it writes out what is left, for at most a second.
    """
    lines: queue.Queue[logging.LogRecord] = queue.Queue(QUEUE_LINES)
    handler = logging.StreamHandler(out or sys.stderr)
    handler.setFormatter(JsonFormatter() if log_format == "json" else TextFormatter())
    listener = logging.handlers.QueueListener(lines, handler)
    logger = logging.getLogger("stagegate")
    dropping = _Dropping(lines)
    logger.handlers = [dropping]
    logger.setLevel(level.upper())
    logger.propagate = False
    listener.start()

    def stop() -> None:
        logger.removeHandler(dropping)
        listener.stop()

    return stop
