"""Stagegate: its data plane alone, and the whole gateway process."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from loadtest.bench import tools
from loadtest.bench.certificates import certificates
from loadtest.bench.client import ASKED_MODEL, BACKEND_MODEL, BACKEND_VERSION
from loadtest.bench.peers.base import Launch
from loadtest.bench.process import free_port


@dataclass(frozen=True, slots=True)
class Dataplane:
    """The data plane with one worker, and all that it does for a request."""

    name: str = "stagegate"
    describes: str = (
        "names rewritten, split 90/10, match rule, sticky by header, admission, ejection, counters, deadline"
    )
    share: float = 1.0
    answers_as: str = ASKED_MODEL
    tls: bool = False

    def launch(self, *, port: int, backend_port: int, folder: Path) -> Launch:
        """See `Peer.launch`."""
        command = [str(tools.built() / "serve"), "--port", str(port), *serve_options(backend_port)]
        if self.tls:
            made = certificates(folder)
            command += ["--tls-cert", str(made.chain), "--tls-key", str(made.key)]
        return Launch(tuple(command), version=_commit())


@dataclass(frozen=True, slots=True)
class Gateway:
    """The whole process: the same data plane with one worker, and the control plane in Python beside it."""

    name: str = "stagegate-full"
    describes: str = "the gateway process, its control plane included"
    share: float = 1.0
    answers_as: str = ASKED_MODEL
    tls: bool = False

    def launch(self, *, port: int, backend_port: int, folder: Path) -> Launch:
        """See `Peer.launch`."""
        config = folder / "stagegate.yaml"
        config.write_text(gateway_config([port, *(free_port() for _ in range(2))], backend_port))
        command = (sys.executable, "-m", "gateway", "gateway", "--config", str(config))
        return Launch(command, _commit(), environment={"PYTHONPATH": str(tools.CHECKOUT)})


def gateway_config(ports: Sequence[int], backend_port: int) -> str:
    """A gateway in front of a Triton that somebody already runs, with one worker thread."""
    inference, metrics, admin = (f"127.0.0.1:{port}" for port in ports)
    return f"""\
listen: {{inference: "{inference}", http: "off", metrics: "{metrics}", admin: "{admin}"}}
state: memory://
threads: 1
backends:
  - {{name: t0, grpc: "127.0.0.1:{backend_port}", control: none}}
"""


def _commit() -> str:
    return tools.first_line("git", "-C", str(tools.CHECKOUT), "describe", "--always", "--dirty")


def serve_options(backend_port: int) -> tuple[str, ...]:
    """What the binary `serve` must be told to stand in front of the constant backend."""
    options = {
        "backend": f"127.0.0.1:{backend_port}",
        "model": ASKED_MODEL,
        "backend-model": BACKEND_MODEL,
        "backend-version": BACKEND_VERSION,
    }
    return tuple(word for key, value in options.items() for word in (f"--{key}", value))
