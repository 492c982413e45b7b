"""The checking client, driven line by line."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from loadtest.bench.process import LOOPBACK, Process
from loadtest.bench.shapes import Shape

# The names that the constant backend answers with, and that clients ask for.
BACKEND_MODEL = "digits.1"
BACKEND_VERSION = "1"
ASKED_MODEL = "digits"
ANSWER_BYTES = 64


@dataclass(frozen=True, slots=True)
class Run:
    """What the client saw in one run; times in microseconds on the clock."""

    good: int
    bad: int
    first_bad: str | None
    seconds: float
    mean_us: float
    p50_us: float
    p99_us: float


class Client:
    """One client process with its connections open and warm.

    Raises:
        BenchError: it cannot connect, or the first answers are not good.
    """

    def __init__(
        self,
        binaries: Path,
        shape: Shape,
        *,
        name: str,
        port: int,
        answers_as: str,
        folder: Path,
        trusts: Path | None = None,
        cpus: Sequence[int] = (),
        limit_seconds: int = 60,
    ) -> None:
        command = [str(binaries / "check-client"), "--target", f"{LOOPBACK}:{port}"]
        options: dict[str, object] = {
            "connections": shape.connections,
            "streams": shape.streams,
            "request-bytes": shape.request_bytes,
            "early": "true" if shape.early else "false",
            "warmup": shape.warmup,
            "model": ASKED_MODEL,
            "expect-model": answers_as or BACKEND_MODEL,
            "backend-model": BACKEND_MODEL,
            "backend-version": BACKEND_VERSION,
            "answer-bytes": ANSWER_BYTES,
            "limit-seconds": limit_seconds,
        }
        if trusts:
            options["tls-ca"] = str(trusts)
        command += [word for key, value in options.items() for word in (f"--{key}", str(value))]
        self._process = Process(f"client-{name}", command, folder=folder, cpus=cpus, talks=True)
        try:
            self._process.hear()
        except BaseException:
            self._process.stop()
            raise

    def run(self, requests: int) -> Run:
        """Sends that many requests and checks each answer."""
        self.start(requests)
        return self.result()

    def start(self, requests: int) -> None:
        """Begins to send that many requests."""
        self._process.say(str(requests))

    def result(self) -> Run:
        """Waits for the end of what was started."""
        return Run(**json.loads(self._process.hear()))

    def stop(self) -> None:
        """Closes its connections and ends it."""
        self._process.stop()
