"""Log lines: one a line, nothing that waits, nothing that is lost without a word."""

from __future__ import annotations

import io
import json
import logging
import threading
from collections.abc import Iterator

import pytest

from gateway import log
from gateway.log import JsonFormatter, TextFormatter, set_up_logging


def record(message: str, level: int = logging.INFO) -> logging.LogRecord:
    """A line to be written."""
    return logging.LogRecord("stagegate.control", level, "", 0, message, None, None)


@pytest.fixture(autouse=True)
def logger() -> Iterator[logging.Logger]:
    """The logger, given back as it was."""
    logger = logging.getLogger("stagegate")
    before = logger.level, logger.propagate, list(logger.handlers)
    yield logger
    logger.level, logger.propagate, logger.handlers = before


def test_a_text_of_several_lines_is_one_line() -> None:
    """What Triton says may span lines, and what people write may hold control characters."""
    line = TextFormatter().format(record("ended: E0101 no memory\nE0102 bye \x1b[31m"))

    assert line[9:] == "ended: E0101 no memory | E0102 bye \\x1b[31m"


def test_json_is_one_object_a_line() -> None:
    """With time in UTC, level, logger and message."""
    text = JsonFormatter().format(record("a\nb", logging.WARNING))

    found = json.loads(text)
    assert "\n" not in text
    assert (found["level"], found["logger"], found["message"]) == ("warning", "stagegate.control", "a\nb")


class Stuck(io.StringIO):
    """A terminal that takes nothing until it is let go."""

    def __init__(self) -> None:
        super().__init__()
        self.free = threading.Event()

    def write(self, text: str) -> int:
        self.free.wait(10)
        return super().write(text)


def test_a_terminal_that_takes_nothing_does_not_keep_the_process(
    monkeypatch: pytest.MonkeyPatch, logger: logging.Logger
) -> None:
    """The end waits for the last lines a while and then goes without them."""
    monkeypatch.setattr(log, "QUEUE_LINES", 2)
    monkeypatch.setattr(log, "LAST_SECONDS", 0.01)
    out = Stuck()
    stop = set_up_logging("text", "info", out)
    for number in range(10):
        logger.info("line %d", number)
    stop()
    written = out.getvalue()
    out.free.set()

    assert written == ""


def test_lines_that_nobody_takes_are_dropped_and_told(
    monkeypatch: pytest.MonkeyPatch, logger: logging.Logger
) -> None:
    """A terminal that is stopped does not stop the process; afterwards the log says what is missing."""
    monkeypatch.setattr(log, "QUEUE_LINES", 2)
    out = Stuck()
    stop = set_up_logging("text", "info", out)
    for number in range(10):
        logger.info("line %d", number)
    out.free.set()
    while not logger.handlers[0].queue.empty():  # type: ignore[attr-defined]
        pass
    logger.info("the last")
    stop()

    assert "the last" in out.getvalue()
    assert "lines of this log were dropped" in out.getvalue()
