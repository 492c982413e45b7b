"""Tables for people, JSON for programs; on standard output."""

# ruff: noqa: T201 -- standard output is what a command line is for
from __future__ import annotations

import dataclasses
import enum
import json
import math
import sys
import time
from collections.abc import Iterable, Mapping, Sequence

from rich import box
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from router.model import WHOLE, Route, format_weight
from router.traffic.routes import route_to_document

_PIPE_WIDTH = 10_000
_BETWEEN = 2
"""Spaces between two columns of a table in a terminal."""
_SENTENCE_WIDTH = 30
_SENTENCES = ("REASON", "NOTE", "PROBLEM", "MESSAGE", "ERROR")
"""Last columns that stand below a table for which a terminal is too narrow."""
_MINUTE, _HOUR, _DAY = 60, 3_600, 86_400
_WEIGHTS = ("weight", "served_weight")


def console() -> Console:
    """Standard output; where it is no terminal, without colour, and a row is always one line."""
    return Console() if sys.stdout.isatty() else Console(width=_PIPE_WIDTH, no_color=True)


def print_json(value: object) -> None:
    """A value of `gateway.operations` (or a list or mapping of them) as JSON."""
    print(json.dumps(plain(value), indent=2, ensure_ascii=False))


def plain(value: object) -> object:
    """Frozen values as JSON has them: weights in percent, samples as shares, routes as their documents."""
    if isinstance(value, Route):
        value = route_to_document(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: _field(value, field.name) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, Iterable) and not isinstance(value, (str, bytes)):
        return [plain(item) for item in value]
    return _scalar(value)


def _scalar(value: object) -> object:
    if isinstance(value, enum.Enum):
        return value.value
    # JSON has no word for these; a text is better than a file that cannot be read.
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def _field(value: object, name: str) -> object:
    item = getattr(value, name)
    if name in _WEIGHTS:
        return item / 100 if item % 100 else item // 100
    if name == "sample":
        return item / WHOLE
    return plain(item)


def table(headings: Sequence[str], rows: Iterable[Sequence[str]], *, empty: str) -> None:
    """Print rows under headings, or one sentence where there are none."""
    listed = list(rows)
    if not listed:
        print(empty)
        return
    to = console()
    columns = [(head, [row[at] for row in listed]) for at, head in enumerate(headings)]
    remarks: Sequence[str] = ()
    if to.is_terminal:
        # Its width is dear; where programs read, columns stay where they are.
        columns = [(head, cells) for head, cells in columns if any(cells)]
        if len(columns) > 1 and columns[-1][0] in _SENTENCES and _widths(columns, to.width) is None:
            remarks = columns.pop()[1]
    widths: Sequence[int | None] = _widths(columns, to.width) or [None] * len(columns)
    grid = Table(
        box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0 if to.is_terminal else 1), pad_edge=False, show_edge=False
    )
    for (head, _), width in zip(columns, widths, strict=True):
        grid.add_column(head, overflow="fold", width=width, header_style="bold")
    for cells in zip(*(cells for _, cells in columns), strict=True):
        # Text, so that brackets in names are not taken for markup.
        grid.add_row(*(Text(cell) for cell in cells))
    to.print(grid)
    for row, remark in zip(listed, remarks, strict=False):
        if remark:
            print(f"{next(cell for cell in row if cell)}: {remark}")


def _widths(columns: Sequence[tuple[str, Sequence[str]]], room: int) -> list[int] | None:
    """How wide each column is, so that words stay whole; None where there is no room for that."""
    room -= _BETWEEN * (len(columns) - 1)
    texts = [(head, *cells) for head, cells in columns]
    wanted = [max(cell_len(text) for text in column) for column in texts]
    if sum(wanted) <= room:
        return wanted
    widths = [max(cell_len(word) for text in column for word in (*text.split(), "-")) for column in texts]
    if columns and columns[-1][0] in _SENTENCES:
        widths[-1] = min(wanted[-1], max(widths[-1], _SENTENCE_WIDTH))
    if sum(widths) > room:
        return None
    for _ in range(room - sum(widths)):
        # To the one that has the least of what it wants: its cells have the most lines.
        at = max(range(len(widths)), key=lambda one: wanted[one] / widths[one])
        widths[at] += 1
    return widths


def facts(pairs: Iterable[tuple[str, str]]) -> None:
    """Print names and values in two columns; pairs without a value are left out."""
    listed = [(name, value) for name, value in pairs if value]
    width = max((len(name) for name, _ in listed), default=0)
    for name, value in listed:
        print(f"{name:<{width}}  {value}")


def heading(text: str) -> None:
    """A line above a table."""
    print(f"\n{text}")


def weight(value: int) -> str:
    """`90 %`."""
    return f"{format_weight(value)} %"


def share(value: int) -> str:
    """`0.25`."""
    return f"{value / WHOLE:g}"


def count(number: int, noun: str) -> str:
    """`1 route`, `2 routes`."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def ago(seconds: float) -> str:
    """A duration at a glance: `12 s`, `5 min`, `3 h`, `2 d`."""
    for unit, length in (("d", _DAY), ("h", _HOUR), ("min", _MINUTE)):
        if seconds >= length:
            return f"{seconds // length:.0f} {unit}"
    return f"{seconds:.0f} s"


def when(unix: float | None) -> str:
    """A time in this machine's zone, or nothing."""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(unix)) if unix is not None else ""


def names(values: Iterable[str], prefix: str = "") -> str:
    """`a, b`."""
    return ", ".join(f"{prefix}{value}" for value in values)
