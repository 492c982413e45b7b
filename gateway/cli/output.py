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
from rich.console import Console
from rich.table import Table
from rich.text import Text

from router.model import WHOLE, Route, format_weight
from router.traffic.routes import route_to_document

_PIPE_WIDTH = 10_000
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
    grid = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, header_style="bold")
    for heading in headings:
        grid.add_column(heading, overflow="fold")
    for row in listed:
        # Text, so that brackets in names are not taken for markup.
        grid.add_row(*(Text(cell) for cell in row))
    console().print(grid)


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
