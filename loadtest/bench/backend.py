"""The constant backend that every proxy stands in front of."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from loadtest.bench.client import ANSWER_BYTES, ASKED_MODEL, BACKEND_MODEL, BACKEND_VERSION
from loadtest.bench.process import Process


class Backend:
    """Its process; `port` is where it listens."""

    def __init__(self, binaries: Path, *, folder: Path, cpus: Sequence[int] = ()) -> None:
        command = [str(binaries / "constant-backend"), "--model", BACKEND_MODEL, "--version", BACKEND_VERSION]
        command += ["--answer-bytes", str(ANSWER_BYTES), "--listed-as", ASKED_MODEL]
        self._process = Process("backend", command, folder=folder, cpus=cpus, talks=True)
        try:
            self.port: int = json.loads(self._process.hear())["port"]
        except BaseException:
            self._process.stop()
            raise

    def stop(self) -> None:
        """Ends it."""
        self._process.stop()
