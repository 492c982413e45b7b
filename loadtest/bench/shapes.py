"""The shapes of load that are measured."""

from __future__ import annotations

from dataclasses import dataclass, replace

SMALL = 150
LARGE = 1 << 20


@dataclass(frozen=True, slots=True)
class Shape:
    """A closed loop of requests.

    Attributes:
        name: how tables call it.
        connections: client connections.
        streams: requests in flight on each of them.
        request_bytes: size of a ModelInferRequest.
        early: the backend answers before it has read the body.
        requests: how many requests one measurement counts.
        tls: the client speaks TLS.
    """

    name: str
    connections: int
    streams: int
    request_bytes: int
    early: bool
    requests: int
    tls: bool = False

    @property
    def warmup(self) -> int:
        """Requests sent before anything is counted."""
        return max(self.requests // 10, self.connections * self.streams * 2)

    def scaled(self, share: float) -> Shape:
        """The same shape with a share of the requests, at least 50."""
        return replace(self, requests=max(int(self.requests * share), 50))


CPU_SHAPES = (
    Shape("32x1", connections=32, streams=1, request_bytes=SMALL, early=False, requests=20_000),
    Shape("8x8", connections=8, streams=8, request_bytes=SMALL, early=False, requests=20_000),
    Shape("8x1-1MiB", connections=8, streams=1, request_bytes=LARGE, early=False, requests=600),
    Shape("8x1-1MiB-early", connections=8, streams=1, request_bytes=LARGE, early=True, requests=600),
    Shape("32x1-tls", connections=32, streams=1, request_bytes=SMALL, early=False, requests=20_000, tls=True),
    Shape("8x8-tls", connections=8, streams=8, request_bytes=SMALL, early=False, requests=20_000, tls=True),
    Shape("8x1-1MiB-tls", connections=8, streams=1, request_bytes=LARGE, early=False, requests=600, tls=True),
)
LATENCY_SHAPE = Shape("1x1", connections=1, streams=1, request_bytes=SMALL, early=False, requests=2_000)
