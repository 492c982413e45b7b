"""A pass-through written with grpc.aio: what a gateway in Python would cost at the least."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from loadtest.bench.peers.base import Launch

_SCRIPT = Path(__file__).with_name("grpc_aio_proxy.py")


@dataclass(frozen=True, slots=True)
class GrpcAio:
    """Generic handler, bytes in, bytes out."""

    name: str = "grpc.aio"
    describes: str = "Python pass-through, messages not parsed"
    share: float = 0.1
    answers_as: str = ""
    tls: bool = False

    def launch(self, *, port: int, backend_port: int, folder: Path) -> Launch:
        """See `Peer.launch`."""
        command = (sys.executable, str(_SCRIPT), str(port), str(backend_port))
        return Launch(command, version=f"grpcio {version('grpcio')}")
