"""`python -m loadtest.bench.registries`: how soon a move in a registry is live, and what watching it costs.

Fills a real MLflow server, a real S3 server and a folder with a thousand models of three versions, starts a
whole gateway on each, makes a few of the models resident, and moves an alias of those to and fro: with the
registry's own notices, where it has any, and without. A client asks for the alias all the time; a move is
live when the new version has answered it. In between nothing changes for a while: then calls and processor
time are counted. The times are those of this machine, and of what else it does.
"""

from __future__ import annotations

import argparse
import random
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from loadtest.bench.errors import BenchError
from loadtest.bench.registries.gateway import Watched
from loadtest.bench.registries.places import ALIAS, HOT, PLACES, Calls, Place
from loadtest.bench.scale import model_name

NOTICE_BAR = 1.0
"""Seconds from a notice until its move is live."""

CALLS_BAR = 2.0
"""Calls of one poll."""

_FOLDER_SECONDS = 1.0
_SPREAD = 1.1
_SLACK = 1.0
_MOST_SECONDS = 90.0


@dataclass(frozen=True, slots=True)
class Unchanged:
    """What a gateway costs while nothing changes in its registry.

    Attributes:
        calls: of one poll; None where it asks no server.
        gateway, server: processor milliseconds of one poll; of each second where there are no calls to
            tell polls by.
        touched: what it said or wrote down meanwhile; "" for nothing.
    """

    calls: float | None
    gateway: float
    server: float
    touched: str


@dataclass(frozen=True, slots=True)
class Moves:
    """Seconds until moves were live.

    Attributes:
        after: what they are counted from.
        calls: that the gateway made of the server, apart from those of polls.
    """

    after: str
    seconds: tuple[float, ...]
    bar: float
    calls: Counter[str]


@dataclass(frozen=True, slots=True)
class Found:
    """What one registry showed; bytes and seconds. `bounded` as of its `Place`."""

    name: str
    bounded: bool
    ready: float
    memory: int
    unchanged: Unchanged
    moves: tuple[Moves, ...]

    def faults(self) -> list[str]:
        """One line for each bar that does not hold."""
        calls = self.unchanged.calls
        held = [
            (calls is None or calls <= CALLS_BAR or not self.bounded, f"{calls} calls a poll"),
            (not self.unchanged.touched, f"a poll without changes: {self.unchanged.touched}"),
        ]
        held += [
            (max(one.seconds) <= one.bar, f"{one.after}: {max(one.seconds):.2f} s, bar {one.bar:g} s")
            for one in self.moves
        ]
        return [f"{self.name}: {text}" for good, text in held if not good]


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit code is 1 where a bar does not hold, or nothing was measured."""
    parsed = _parser().parse_args(arguments)
    console = Console(markup=False, highlight=False, soft_wrap=True)
    try:
        with tempfile.TemporaryDirectory(prefix="stagegate-bench-") as folder:
            measuring = Measuring(parsed, console, *_empty(Path(folder), parsed.seconds))
            found = [measuring.place(name, Path(folder) / name) for name in parsed.registries]
    except BenchError as error:
        console.print(f"bench.registries: {error}", style="red")
        return 1
    console.print(_table(parsed, found))
    faults = [fault for one in found for fault in one.faults()]
    for fault in faults:
        console.print(fault, style="red")
    return 1 if faults else 0


def _empty(folder: Path, seconds: float) -> tuple[float, int]:
    """Processor seconds a second, and resident bytes, of a gateway with nothing to watch."""
    (folder / "empty" / "models").mkdir(parents=True)
    section = f"{{type: folder, path: {folder / 'empty' / 'models'}}}"
    with Watched(section, {}, folder / "empty") as gateway:
        time.sleep(3)
        return _rate(gateway, seconds), gateway.resident()


def _rate(gateway: Watched, seconds: float) -> float:
    began, spent = time.monotonic(), gateway.seconds()
    time.sleep(seconds)
    return (gateway.seconds() - spent) / (time.monotonic() - began)


@dataclass(frozen=True, slots=True)
class Measuring:
    """What all registries are measured with.

    Attributes:
        idle: processor seconds a second of a gateway with nothing to watch.
        base: its resident bytes.
    """

    parsed: argparse.Namespace
    console: Console
    idle: float
    base: int

    def place(self, name: str, folder: Path) -> Found:
        """Measure one registry. Raises BenchError."""
        parsed = self.parsed
        (folder / "server").mkdir(parents=True)
        (folder / "gateway").mkdir()
        began = time.monotonic()
        with PLACES[name](folder / "server", parsed.models, parsed.versions) as place:
            self._tell(f"{place.name}: filled in {time.monotonic() - began:.0f} s")
            with Watched(place.section(parsed.poll), place.variables, folder / "gateway") as gateway:
                memory = gateway.resident() - self.base
                _make_resident(gateway)
                self._tell(f"{place.name}: ready after {gateway.ready_after:.1f} s")
                unchanged = _unchanged(place, gateway, parsed, self.idle)
                self._tell(f"{place.name}: {unchanged}")
                moves = [*_with_notices(place, gateway, parsed), _without(place, gateway, parsed)]
                found = Found(place.name, place.bounded, gateway.ready_after, memory, unchanged, tuple(moves))
                self._tell(f"{place.name}: {_rows(found)}")
                return found

    def _tell(self, what: str) -> None:
        self.console.print(what, style="dim")


def _make_resident(gateway: Watched) -> None:
    for model in map(model_name, range(HOT)):
        for version in "12":
            gateway.answers(model, version)


def _unchanged(place: Place, gateway: Watched, parsed: argparse.Namespace, idle: float) -> Unchanged:
    calls = place.calls
    began = _next_poll(calls)
    before = gateway.kept()
    spent, there = gateway.seconds(), place.server_seconds()
    time.sleep(parsed.seconds)
    ended = _next_poll(calls)
    here, there = gateway.seconds() - spent, place.server_seconds() - there
    said, stored = gateway.kept()
    new = said[len(before[0]) :].decode(errors="replace")
    touched = new or ("its state was written" if stored != before[1] else "")
    each = here - idle * (ended - began)
    if calls is None:
        return Unchanged(None, each * 1_000 / (ended - began), 0.0, touched)
    polls = sum(began <= at < ended for at in calls.polls)
    asked = len(calls.between(began, ended))
    return Unchanged(asked / polls, each * 1_000 / polls, there * 1_000 / polls, touched)


def _next_poll(calls: Calls | None) -> float:
    """When the next poll begins, or now where nobody is polled. Raises BenchError."""
    if calls is None:
        return time.monotonic()
    known, end = len(calls.polls), time.monotonic() + _MOST_SECONDS
    while len(calls.polls) == known:
        if time.monotonic() > end:
            raise BenchError("the registry is not polled")
        time.sleep(0.01)
    return calls.polls[known]


def _with_notices(place: Place, gateway: Watched, parsed: argparse.Namespace) -> list[Moves]:
    came = place.notices(gateway.http)
    if came is None:
        return []
    calls = place.calls
    notices, all_in_all = [], []
    began = time.monotonic()
    for number in range(parsed.moves):
        time.sleep(random.random())  # noqa: S311 - moves come at any time between two polls
        started = time.monotonic()
        moved, live = _move(place, gateway, number)
        notice = [at for at in came() if at >= started]
        notices.append(live - notice[0] if notice else _MOST_SECONDS)
        all_in_all.append(live - moved)
    asked = Counter(calls.between(began, time.monotonic())) if calls else Counter[str]()
    place.silence()
    return [
        Moves("the notice", tuple(notices), NOTICE_BAR, asked),
        Moves("the move, with notices", tuple(all_in_all), parsed.poll * _SPREAD + _SLACK, Counter()),
    ]


def _without(place: Place, gateway: Watched, parsed: argparse.Namespace) -> Moves:
    times = []
    for number in range(parsed.moves, 2 * parsed.moves):
        time.sleep(random.random() * parsed.poll)  # noqa: S311 - not only right after a poll
        moved, live = _move(place, gateway, number)
        times.append(live - moved)
    bar = _FOLDER_SECONDS if place.calls is None else parsed.poll * _SPREAD + _SLACK
    return Moves("the move, by polls", tuple(times), bar, Counter())


def _move(place: Place, gateway: Watched, number: int) -> tuple[float, float]:
    """When the registry had been told, and when it was live."""
    model = model_name(number % HOT)
    asked = f"{model}@@{ALIAS}"
    version = "2" if gateway.answers(asked) == "1" else "1"
    place.move(model, version)
    moved = time.monotonic()
    return moved, gateway.until_answered_by(version, asked, _MOST_SECONDS)


def _table(parsed: argparse.Namespace, found: Sequence[Found]) -> Table:
    table = Table(
        title=f"{parsed.models} models x {parsed.versions} versions, poll {parsed.poll:g} s, "
        f"{parsed.moves} moves",
        title_justify="left",
    )
    table.add_column("")
    for one in found:
        table.add_column(one.name, justify="right")
    rows: dict[str, list[str]] = {}
    for one in found:
        for label, value in _rows(one).items():
            rows.setdefault(label, [""] * len(found))[found.index(one)] = value
    for label, values in rows.items():
        table.add_row(label, *values)
    return table


def _rows(found: Found) -> dict[str, str]:
    unchanged = found.unchanged
    unit = "ms/s" if unchanged.calls is None else "ms"
    rows = {
        f"live after {one.after}, p50 / max": f"{statistics.median(one.seconds):.3f} / "
        f"{max(one.seconds):.3f} s"
        for one in found.moves
    }
    asked = next((one.calls for one in found.moves if one.calls), None)
    return {
        **rows,
        **({"calls while notices came": ", ".join(f"{n} {w}" for w, n in asked.items())} if asked else {}),
        "calls of an unchanged poll": "none" if unchanged.calls is None else f"{unchanged.calls:g}",
        "CPU of one, gateway": f"{unchanged.gateway:.1f} {unit}",
        "CPU of one, server": "" if unchanged.calls is None else f"{unchanged.server:.0f} ms",
        "said or written meanwhile": unchanged.touched[:60] or "nothing",
        "memory": f"{found.memory / (1 << 20):.1f} MiB",
        "ready after": f"{found.ready:.1f} s",
    }


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m loadtest.bench.registries", description=main.__doc__)
    parser.add_argument("registries", nargs="*", choices=[*PLACES, []], default=list(PLACES), metavar="TYPE")
    parser.add_argument("--models", type=int, default=1_000, help="how many models (1,000)")
    parser.add_argument("--versions", type=int, default=3, help="versions of each (3)")
    parser.add_argument("--poll", type=float, default=5.0, help="seconds between two polls (5)")
    parser.add_argument("--moves", type=int, default=20, help="of each kind (20)")
    parser.add_argument("--seconds", type=float, default=40.0, help="that nothing changes for (40)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
