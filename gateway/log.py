"""Log lines: text for people, JSON for machines, and lines that nobody reads are dropped, not waited for."""

from __future__ import annotations

import json
import logging
import logging.handlers
import queue
import sys
import threading
import time
from collections.abc import Callable
from typing import TextIO

QUEUE_LINES = 10_000
"""Lines kept while the reader of the log is slow; more are dropped and counted."""

LAST_SECONDS = 1.0
"""How long the end of the process waits for the last lines to be written."""


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
        message = record.getMessage()
        if not message.isprintable():
            message = "".join(sign if sign.isprintable() else _visible(sign) for sign in message)
        line = f"{time.strftime('%H:%M:%S', time.localtime(record.created))} {level}{message}"
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


def _visible(sign: str) -> str:
    """A line stays one line, and nothing that others wrote can steer a terminal."""
    return " | " if sign == "\n" else sign.encode("unicode_escape").decode()


class _Dropping(logging.handlers.QueueHandler):
    """Never waits: a full queue drops the line and counts it, and the next one that has room tells."""

    def __init__(self, lines: queue.Queue[logging.LogRecord | None]) -> None:
        super().__init__(lines)
        self.dropped = 0

    def prepare(self, record: logging.LogRecord) -> logging.LogRecord:
        return record

    def enqueue(self, record: logging.LogRecord) -> None:
        try:
            self.queue.put_nowait(record)
            if self.dropped:
                self.queue.put_nowait(self._told())
                self.dropped = 0
        except queue.Full:
            self.dropped += 1

    def _told(self) -> logging.LogRecord:
        text = "%d lines of this log were dropped, because they were not taken fast enough"
        return logging.LogRecord(
            "stagegate", logging.WARNING, __file__, 0, text, (self.dropped,), exc_info=None
        )


class _Listener(logging.handlers.QueueListener):
    """Can be ended while the queue is full."""

    def __init__(self, lines: queue.Queue[logging.LogRecord | None], handler: logging.Handler) -> None:
        super().__init__(lines, handler)
        self._lines = lines

    def enqueue_sentinel(self) -> None:
        self._lines.put(None)


def set_up_logging(log_format: str, level: str, out: TextIO | None = None) -> Callable[[], None]:
    """Send the `stagegate` loggers to a stream through a bounded queue.

    Args:
        log_format: `text` or `json`.
        level: `debug`, `info`, `warning` or `error`.
        out: where to; standard error by default.

    Returns:
        What to call at the end: it writes out what is left, for at most `LAST_SECONDS`.
    """
    lines: queue.Queue[logging.LogRecord | None] = queue.Queue(QUEUE_LINES)
    handler = logging.StreamHandler(out or sys.stderr)
    handler.setFormatter(JsonFormatter() if log_format == "json" else TextFormatter())
    listener = _Listener(lines, handler)
    logger = logging.getLogger("stagegate")
    dropping = _Dropping(lines)
    logger.handlers = [dropping]
    logger.setLevel(level.upper())
    logger.propagate = False
    listener.start()

    def stop() -> None:
        logger.removeHandler(dropping)
        # In a thread of its own: a terminal that is stopped must not keep the process from ending.
        ending = threading.Thread(target=listener.stop, daemon=True)
        ending.start()
        ending.join(LAST_SECONDS)

    return stop
