"""What a measurement found: as tables for people, as JSON for programs."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

from rich.table import Table

from loadtest.bench import tools
from loadtest.bench.measure import Pair, Running, Sample
from loadtest.bench.stats import Summary, paired_ratio

T = TypeVar("T", Sample, Pair)
YARDSTICKS = ("haproxy", "nginx", "tcp", "haproxy-tls", "nginx-tls")


@dataclass(frozen=True, slots=True)
class Result:
    """One whole measurement."""

    taken: datetime
    rounds: int
    pinned: bool
    peers: tuple[Running, ...]
    samples: tuple[Sample, ...]
    pairs: tuple[Pair, ...]

    def to_json(self) -> dict[str, Any]:
        """All of it, with the machine that it was taken on."""
        shapes = list(dict.fromkeys(sample.shape for sample in self.samples))
        summaries = {shape: summarize(self.cpu_by_peer(shape)) for shape in shapes}
        if self.pairs:
            summaries["added latency"] = summarize(self.added_by_peer())
        return {
            "taken": self.taken.isoformat(timespec="seconds"),
            "machine": machine(),
            "rounds": self.rounds,
            "pinned": self.pinned,
            "versions": {one.peer.name: one.version for one in self.peers},
            "summary_us": summaries,
            "samples": [asdict(sample) for sample in self.samples],
            "latency": [asdict(pair) for pair in self.pairs],
            "bad": self.bad(),
        }

    def bad(self) -> list[str]:
        """One line for each measurement that had answers which were not good."""
        found = [(s.peer, s.shape, s.run.bad, s.run.first_bad) for s in self.samples if s.run.bad]
        found += [(pair.peer, "latency", pair.bad, pair.first_bad) for pair in self.pairs if pair.bad]
        return [
            f"{peer}, {shape}: {bad} bad answers, the first: {first}" for peer, shape, bad, first in found
        ]

    def cpu_by_peer(self, shape: str) -> dict[str, list[float]]:
        """Microseconds of CPU a request in each round; a proxy with a bad answer has no figure."""
        spoiled = {sample.peer for sample in self.samples if sample.shape == shape and sample.run.bad}
        samples = [s for s in self.samples if s.shape == shape and s.peer not in spoiled]
        return self._by_peer(samples, lambda sample: sample.cpu_us)

    def added_by_peer(self) -> dict[str, list[float]]:
        """Microseconds that each proxy adds to one request, in each round."""
        spoiled = {pair.peer for pair in self.pairs if pair.bad}
        return self._by_peer([p for p in self.pairs if p.peer not in spoiled], lambda pair: pair.added_us)

    def _by_peer(self, items: Sequence[T], value: Callable[[T], float]) -> dict[str, list[float]]:
        ordered = sorted(items, key=lambda item: item.round)
        names = [one.peer.name for one in self.peers]
        found = {name: [value(item) for item in ordered if item.peer == name] for name in names}
        return {name: values for name, values in found.items() if values}


def machine() -> dict[str, Any]:
    """What figures depend on."""
    return {
        "cpus": os.cpu_count(),
        "load_average_after": os.getloadavg()[0],
        "cpu": _cpu_model(),
        "arch": platform.machine(),
        "kernel": platform.release(),
        "rustc": tools.first_line("rustc", "--version"),
        "commit": tools.first_line("git", "-C", str(tools.CHECKOUT), "describe", "--always", "--dirty"),
    }


def summarize(by_peer: dict[str, list[float]]) -> dict[str, dict[str, float]]:
    """Least, median and most for each proxy, and the ratio to each yardstick."""
    summaries = {}
    for name, values in by_peer.items():
        summary = {key: round(value, 2) for key, value in asdict(Summary.of(values)).items()}
        for yardstick in YARDSTICKS:
            if yardstick in by_peer:
                ratio = paired_ratio(values, by_peer[yardstick])
                summary[f"x_{yardstick}"] = round(ratio, 3)
        summaries[name] = summary
    return summaries


def tables(result: Result) -> list[Table]:
    """One table for each shape of load, and one for latency."""
    out = []
    for shape in dict.fromkeys(sample.shape for sample in result.samples):
        title = f"{shape}: CPU a request (user + system, microseconds), median of {result.rounds} rounds"
        out.append(_table(title, summarize(result.cpu_by_peer(shape))))
    if result.pairs:
        title = f"1x1: microseconds added to the mean latency, median of {result.rounds} interleaved pairs"
        out.append(_table(title, summarize(result.added_by_peer())))
    return out


def legend(result: Result) -> str:
    """One line for each proxy: what it is."""
    return "\n".join(f"{one.peer.name}: {one.peer.describes} ({one.version})" for one in result.peers)


def _table(title: str, summaries: dict[str, dict[str, float]]) -> Table:
    table = Table(title=title, title_justify="left", min_width=80)
    table.add_column("proxy")
    yardsticks = [name for name in YARDSTICKS if name in summaries]
    for heading in ("median", "min", "max", *(f"x {name}" for name in yardsticks)):
        table.add_column(heading, justify="right")
    for name, summary in summaries.items():
        figures = [f"{summary[key]:.1f}" for key in ("median", "least", "most")]
        ratios = [f"{summary[f'x_{yardstick}']:.2f}" for yardstick in yardsticks]
        style = "bold" if name.startswith("stagegate") else None
        table.add_row(name, *figures, *ratios, style=style)
    return table


def write_json(result: Result, folder: Path) -> Path:
    """Writes the result into `folder` and returns the file."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"bench-{result.taken:%Y%m%d-%H%M%S}.json"
    path.write_text(json.dumps(result.to_json(), indent=1) + "\n")
    return path


def now() -> datetime:
    """The time on the clock, in UTC."""
    return datetime.now(UTC)


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor()
