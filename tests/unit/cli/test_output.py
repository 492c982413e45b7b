"""Tables fit where they are shown: in a terminal words stay whole, in a pipe columns stay where they are."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
from rich.console import Console

from gateway.cli import output

HEADINGS = ("VERSION", "STATE", "STAGES", "ALIASES", "ARMS", "BACKENDS", "METRICS", "DIGEST", "REASON")
LONG = "stays loaded for 599 s: alias champion went on from it"

Show = Callable[[int, str], list[str]]


@pytest.fixture
def show(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Show:
    """What a terminal of some width shows of two versions, one of them with a reason."""

    def shown(width: int, reason: str) -> list[str]:
        plain = partial(Console, width=width, force_terminal=True, color_system=None)
        monkeypatch.setattr(output, "console", plain)
        rows = [
            ("1", "ready", "production", "@champion, @a", "stable", "local-0", "auc=0.93", "66826e00", ""),
            ("2", "ready", "staging", "@challenger", "", "local-0", "auc=0.95", "9afb7079", reason),
        ]
        output.table(HEADINGS, rows, empty="")
        return [line.rstrip() for line in capsys.readouterr().out.splitlines()]

    return shown


def test_a_column_without_text_takes_no_room(show: Show) -> None:
    """In a terminal."""
    assert show(100, "")[0].split() == list(HEADINGS[:-1])


def test_words_stay_whole(show: Show) -> None:
    """A line is broken between them."""
    lines = "\n".join(show(80, ""))

    assert all(word in lines for word in ("production", "@champion,", "@challenger", "auc=0.93"))


def test_a_reason_for_which_there_is_no_room_stands_below(show: Show) -> None:
    """After what it is about."""
    assert show(80, LONG)[-1] == f"2: {LONG}"
    assert LONG in show(160, LONG)[-1]
    assert show(160, LONG)[-1].split()[0] == "2"


def test_a_pipe_gets_all_columns(capsys: pytest.CaptureFixture[str]) -> None:
    """And a row is one line, however long."""
    output.table(("A", "B", "REASON"), [("1", "", LONG * 9), ("2", "", "")], empty="")

    heading, _, *rows = capsys.readouterr().out.splitlines()
    assert heading.split() == ["A", "B", "REASON"]
    assert len(rows) == 2


@pytest.mark.parametrize(("number", "told"), [(0, "0 routes"), (1, "1 route"), (2, "2 routes")])
def test_one_is_told_as_one(number: int, told: str) -> None:
    """Not `1 routes`."""
    assert output.count(number, "route") == told
