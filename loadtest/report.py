"""Whether a load test passed, and which versions answered."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from rich.table import Table


@dataclass(slots=True)
class Answers:
    """Good answers by version, and how many of them were right."""

    given: Counter[str] = field(default_factory=Counter)
    right: Counter[str] = field(default_factory=Counter)

    def add(self, version: str, *, right: bool) -> None:
        """Counts one answer."""
        self.given[version] += 1
        self.right[version] += right


ANSWERS = Answers()


@dataclass(frozen=True, slots=True)
class Limits:
    """What a run must keep: the share of failed requests, and the 99th percentile in milliseconds."""

    max_failures: float
    max_p99_ms: float


@dataclass(frozen=True, slots=True)
class Totals:
    """What locust counted."""

    requests: int
    failures: int
    p99_ms: float


def problems(totals: Totals, limits: Limits) -> list[str]:
    """What the run did not keep, one line each; empty when it passed."""
    if totals.requests == 0:
        return ["no request was sent"]
    found = []
    share = totals.failures / totals.requests
    if share > limits.max_failures:
        found.append(f"{totals.failures} of {totals.requests} failed; allowed {limits.max_failures:.2%}")
    if totals.p99_ms > limits.max_p99_ms:
        found.append(f"p99 is {totals.p99_ms:.0f} ms; allowed {limits.max_p99_ms:.0f} ms")
    return found


def table(answers: Answers) -> Table:
    """Versions, their share of the answers, and how often they were right."""
    out = Table(title="answers by version", title_justify="left")
    for heading in ("version", "answers", "share", "right"):
        out.add_column(heading, justify="left" if heading == "version" else "right")
    total = sum(answers.given.values())
    for version, given in sorted(answers.given.items()):
        right = answers.right[version] / given
        out.add_row(version, str(given), f"{given / total:.1%}", f"{right:.1%}")
    return out
