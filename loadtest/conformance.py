"""`python -m loadtest.conformance --h2spec PATH`: is what the gateway speaks HTTP/2?

Starts a gateway of its own on the loopback, runs h2spec with its strict cases against the inference port
and reads the count it ends with. The exit code is 0 only where every case passed.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from loadtest.bench import tools
from loadtest.bench.errors import BenchError
from loadtest.bench.peers.stagegate import gateway_config
from loadtest.bench.process import LOOPBACK, Process, free_port

# Cases of h2spec without its strict one; a run of fewer has left something out.
CASES = 145
# h2spec makes frames of five such headers and calls them too large: above `max_frame`, 64 KiB.
_HEADER_LENGTH = 16_000
_CASE_SECONDS = 3
_RUN_SECONDS = 600
_SUMMARY = re.compile(r"^(\d+) tests, (\d+) passed, (\d+) skipped, (\d+) failed", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Summary:
    """What h2spec counted."""

    tests: int
    passed: int
    skipped: int
    failed: int

    @property
    def good(self) -> bool:
        """Whether all cases ran and passed; one may be skipped."""
        return self.failed == 0 and self.skipped <= 1 and self.passed >= CASES

    def __str__(self) -> str:
        skipped = f", {self.skipped} skipped" if self.skipped else ""
        return f"h2spec: {self.passed} of {self.tests} passed{skipped}"


def parse_summary(text: str) -> Summary:
    """The counts in what h2spec printed.

    Raises:
        BenchError: it printed none.
    """
    match = _SUMMARY.search(text)
    if match is None:
        raise BenchError(f"h2spec ended without a count; it said:\n{text[-1_500:].strip()}")
    tests, passed, skipped, failed = map(int, match.groups())
    return Summary(tests, passed, skipped, failed)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs all cases and prints the count, and above it every case that failed."""
    parsed = _parser().parse_args(arguments)
    console = Console(markup=False, highlight=False, soft_wrap=True)
    try:
        with tempfile.TemporaryDirectory(prefix="stagegate-conformance-") as folder:
            said = _run(parsed.h2spec, Path(folder))
        summary = parse_summary(said)
    except BenchError as error:
        console.print(f"conformance: {error}", style="red")
        return 1
    console.print(said.partition("Failures:")[2].rpartition("Finished in")[0].strip() or "every case passed")
    console.print(str(summary))
    return 0 if summary.good else 1


def _run(h2spec: Path, folder: Path) -> str:
    """Everything that h2spec says of a gateway whose backend is not there: no case needs one."""
    ports = [free_port() for _ in range(4)]
    config = folder / "stagegate.yaml"
    config.write_text(gateway_config(ports[:3], ports[3]))
    command = (sys.executable, "-m", "gateway", "gateway", "--config", str(config))
    gateway = Process("gateway", command, folder=folder, environment={"PYTHONPATH": str(tools.CHECKOUT)})
    try:
        gateway.wait_for_port(ports[0])
        options = {
            "--host": LOOPBACK,
            "--port": ports[0],
            "--timeout": _CASE_SECONDS,
            "--max-header-length": _HEADER_LENGTH,
        }
        words = [str(word) for option in options.items() for word in option]
        return _output([str(h2spec), "--strict", *words])
    finally:
        gateway.stop()


def _output(command: Sequence[str]) -> str:
    try:
        done = subprocess.run(  # noqa: S603 - the path is the caller's
            command, capture_output=True, text=True, timeout=_RUN_SECONDS, check=False
        )
    except OSError as error:
        raise BenchError(f"h2spec does not start: {error}") from None
    except subprocess.TimeoutExpired:
        raise BenchError(f"h2spec did not end within {_RUN_SECONDS} s") from None
    return done.stdout + done.stderr


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m loadtest.conformance", description=__doc__)
    parser.add_argument("--h2spec", type=Path, required=True, help="the program")
    return parser


if __name__ == "__main__":
    sys.exit(main())
