"""Counters as the data plane gives them, for tests of what is shown of them."""

from __future__ import annotations

from dataclasses import dataclass

BUCKETS = (1, 2, 3, *(0,) * 12, 4)
"""One, two and three requests in the first buckets, four beyond the last bound; ten in all."""


@dataclass(frozen=True, slots=True)
class ArmCounters:
    """Requests of one arm."""

    model: str = "digits"
    version: str = "1"
    arm: str = "stable"
    codes: tuple[int, ...] = (9, *(0,) * 13, 1, 0, 0)
    buckets: tuple[int, ...] = BUCKETS
    sum_us: int = 1_500_000
    inflight: int = 2


@dataclass(frozen=True, slots=True)
class BackendCounters:
    """Time of one backend."""

    model: str = "digits"
    version: str = "1"
    backend: str = "t0"
    buckets: tuple[int, ...] = BUCKETS
    sum_us: int = 500_000


@dataclass(frozen=True, slots=True)
class QueueCounters:
    """Waits of one version."""

    model: str = "digits"
    version: str = "1"
    buckets: tuple[int, ...] = BUCKETS
    sum_us: int = 250_000
    waiting: int = 5
    queued: int = 4
    rejected: tuple[int, ...] = (3, 0, 1, 0)
    limit: int = 2
    sequences: int = 6


@dataclass(frozen=True, slots=True)
class StreamCounters:
    """Stream answers of one arm."""

    model: str = "digits"
    version: str = "1"
    arm: str = "stable"
    first_buckets: tuple[int, ...] = BUCKETS
    first_sum_us: int = 1_000
    inter_buckets: tuple[int, ...] = BUCKETS
    inter_sum_us: int = 2_000
    requests: int = 11
    responses: int = 12
    errors: int = 2


@dataclass(frozen=True, slots=True)
class RetryCounters:
    """Requests that were sent once more."""

    model: str = "digits"
    version: str = "1"
    reason: str = "broken"
    count: int = 7


@dataclass(frozen=True, slots=True)
class FallbackCounters:
    """Requests that another arm answered."""

    model: str = "digits"
    version: str = "2"
    arm: str = "canary"
    codes: tuple[int, ...] = (*(0,) * 14, 6, 0, 0)


@dataclass(frozen=True, slots=True)
class EjectedCounters:
    """A backend that is passed over."""

    model: str = "digits"
    version: str = "1"
    backend: str = "t1"
    reason: str = "backend 't1' broke"
    since_ms: int = 4_200
    retry_ms: int = 1_500


@dataclass(frozen=True, slots=True)
class ShadowCounters:
    """Copies for one shadow."""

    model: str = "digits"
    version: str = "2"
    shadow: str = "next"
    results: tuple[int, ...] = (7, 1, *(0,) * 4, 3, *(0,) * 4)
    uncompared: tuple[int, ...] = (0, 2, 0)


@dataclass(frozen=True, slots=True)
class FakeCounters:
    """All of them; gives itself to whoever asks."""

    arms: tuple[ArmCounters, ...] = (ArmCounters(),)
    backends: tuple[BackendCounters, ...] = (BackendCounters(),)
    queues: tuple[QueueCounters, ...] = (QueueCounters(),)
    streams: tuple[StreamCounters, ...] = (StreamCounters(),)
    connections: int = 3
    events_dropped: int = 0
    retries: tuple[RetryCounters, ...] = (RetryCounters(),)
    fallbacks: tuple[FallbackCounters, ...] = (FallbackCounters(),)
    ejected: tuple[EjectedCounters, ...] = (EjectedCounters(),)
    shadows: tuple[ShadowCounters, ...] = (ShadowCounters(),)
    sequences_forgotten: int = 8

    def counters(self) -> FakeCounters:
        """Itself."""
        return self
