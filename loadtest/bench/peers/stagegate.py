"""Stagegate: its data plane alone, and the whole gateway process."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from loadtest.bench import tools
from loadtest.bench.client import ASKED_MODEL, BACKEND_MODEL, BACKEND_VERSION
from loadtest.bench.peers.base import Launch


@dataclass(frozen=True, slots=True)
class Dataplane:
    """The data plane with one worker: split 90/10, names rewritten, counters, deadline."""

    name: str = "stagegate"
    describes: str = "names read and rewritten, split 90/10, counters, deadline"
    share: float = 1.0
    answers_as: str = ASKED_MODEL

    def launch(self, *, port: int, backend_port: int, folder: Path) -> Launch:
        """See `Peer.launch`."""
        command = (str(tools.built() / "serve"), "--port", str(port), *serve_options(backend_port))
        return Launch(
            command, version=tools.first_line("git", "-C", str(tools.CHECKOUT), "describe", "--always")
        )


def serve_options(backend_port: int) -> tuple[str, ...]:
    """What the binary `serve` must be told to stand in front of the constant backend."""
    options = {
        "backend": f"127.0.0.1:{backend_port}",
        "model": ASKED_MODEL,
        "backend-model": BACKEND_MODEL,
        "backend-version": BACKEND_VERSION,
    }
    return tuple(word for key, value in options.items() for word in (f"--{key}", value))
