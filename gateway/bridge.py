"""The data plane as the rest of the gateway sees it; the only importer of `gateway._dataplane`.

`Settings` and the structs of `router.traffic.table` have the same fields as their Rust counterparts;
`tests/bridge` compares them. What comes back (`Counters` and its parts, `Explanation`) are frozen values
of the extension.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field

from gateway._dataplane import (
    BUCKET_BOUNDS_US,
    REJECTION_REASONS,
    SHADOW_RESULTS,
    UNCOMPARED,
    VERSION,
    ArmCounters,
    BackendCounters,
    Core,
    Counters,
    EjectedCounters,
    Event,
    Explanation,
    FallbackCounters,
    QueueCounters,
    RetryCounters,
    ShadowCounters,
    ShadowPair,
    StreamCounters,
    check_backend_tls,
    check_tls,
)
from router.ports import (
    BackendDown,
    BackendUp,
    ColdWanted,
    CopyEjected,
    CopyRecovered,
    DataPlaneEvent,
    VersionUse,
    WebhookArrived,
)
from router.traffic.table import Delta, Snapshot

__all__ = [
    "BUCKET_BOUNDS_US",
    "REJECTION_REASONS",
    "SHADOW_RESULTS",
    "UNCOMPARED",
    "VERSION",
    "ArmCounters",
    "BackendCounters",
    "Counters",
    "DataPlane",
    "EjectedCounters",
    "Event",
    "Explanation",
    "FallbackCounters",
    "QueueCounters",
    "RetryCounters",
    "Settings",
    "ShadowCounters",
    "ShadowPair",
    "StreamCounters",
    "check_backend_tls",
    "check_tls",
]

_DRAIN_LOOK_S = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What the data plane is told at its start; `DataPlane.set_limits` changes what is a limit.

    Attributes:
        host: address to listen on.
        port: port to listen on; 0 for a free one.
        threads: worker threads, at least 1.
        max_message: longest message in bytes, on the wire and inflated.
        max_streams: concurrent streams on one client connection.
        max_header_list: bytes of a request's header list.
        max_frame: bytes of one frame that clients may send.
        max_connections: client connections in all.
        upstream_connections: connections of one thread to one backend.
        queue_per_model: requests of one model that may wait for a load, and of one version for a place.
        default_deadline_ms: deadline of unary calls that bring none; 0 for none.
        handshake_timeout_ms: time for the connection preface and for each block of headers.
        idle_timeout_ms: time after which a connection with nothing open is closed.
        inflate_ratio: most that a message may grow by being inflated.
        allow: groups (`repository`, `shared_memory`, `trace`, `log`) or methods open to clients.
        server_name: what ServerMetadata says; clients of Triton insist on `triton`.
        server_version: version in ServerMetadata.
        replay: longest message in bytes that is kept to be sent again.
        answer_timeout_ms: time for which a client may leave an answer untaken.
        resets_per_second: streams that a client connection may reset within a second.
        connections_per_address: client connections from one address; 0 for no bound.
        max_connection_age_ms: time after which a client is told to connect anew; 0 for never.
        tls_cert: certificate chain in PEM, b"" for plaintext.
        tls_key: its private key in PEM.
        tls_client_ca: certificates in PEM that those of clients must lead to, b"" where they need none.
        shadow_queue: copies for shadows that wait in one thread.
        shadow_concurrency: copies for shadows that one thread has under way.
        shadow_bytes: bytes of requests and answers that the copies of one thread hold.
        shadow_deadline_ms: time that a copy may take, waiting included.
        shadow_lag_ms: how late a thread may be before it gives its copies up.
        shadow_busy_percent: share of its time beyond which a busy thread gives its copies up.
        cancels_per_second: streams towards one backend that are reset because nobody wants their answer.
        max_buffered: bytes of requests that all threads together hold.
        http_host: address to listen on for the REST protocol; "" where it is not served.
        http_port: port for it; 0 for a free one.
    """

    host: str = "127.0.0.1"
    port: int = 0
    threads: int = 1
    max_message: int = 64 << 20
    max_streams: int = 256
    max_header_list: int = 16 << 10
    max_frame: int = 64 << 10
    max_connections: int = 20_000
    upstream_connections: int = 4
    queue_per_model: int = 256
    default_deadline_ms: int = 30_000
    handshake_timeout_ms: int = 10_000
    idle_timeout_ms: int = 300_000
    inflate_ratio: int = 100
    allow: tuple[str, ...] = ()
    server_name: str = "triton"
    server_version: str = VERSION
    replay: int = 1 << 20
    answer_timeout_ms: int = 30_000
    resets_per_second: int = 200
    connections_per_address: int = 0
    max_connection_age_ms: int = 0
    tls_cert: bytes = b""
    tls_key: bytes = field(default=b"", repr=False)
    tls_client_ca: bytes = b""
    shadow_queue: int = 256
    shadow_concurrency: int = 16
    shadow_bytes: int = 16 << 20
    shadow_deadline_ms: int = 10_000
    shadow_lag_ms: int = 50
    shadow_busy_percent: int = 80
    cancels_per_second: int = 2_000
    max_buffered: int = 1 << 30
    http_host: str = ""
    http_port: int = 0


class DataPlane:
    """A running data plane; implements `router.ports.DataPlane`.

    It listens and runs its threads from construction until `stop`. It cannot be used in a forked
    process: every method raises RuntimeError there.

    Args:
        settings: fixed for its life, but for what `set_limits` changes.
        inherited: `listeners` of another data plane; they stay the caller's.
        held: connections are left waiting until `accept`, when there is something to answer them with.

    Raises:
        OSError: the port cannot be listened on; names the address.
        TypeError, ValueError: a setting of the wrong type or beyond its range; names the field.
    """

    def __init__(self, settings: Settings, inherited: Sequence[int] = (), *, held: bool = False) -> None:
        self._core = Core(settings, tuple(inherited), held)

    def accept(self) -> None:
        """Begin to accept connections; some may wait already."""
        self._core.accept()

    @property
    def listeners(self) -> tuple[int, ...]:
        """Descriptors of the listening sockets, for another process; () once it drains."""
        return tuple(self._core.listeners())

    @property
    def inference_port(self) -> int:
        """The bound port."""
        return self._core.inference_port

    @property
    def http_port(self) -> int:
        """The bound port of the REST protocol; 0 where it is not served."""
        return self._core.http_port

    def publish(self, snapshot: Snapshot) -> None:
        """Swap the whole table in.

        Raises:
            ValueError: the table contradicts itself; names the object. The old one stays.
        """
        self._core.publish(snapshot)

    def publish_delta(self, delta: Delta) -> None:
        """Swap a change in, at a cost that does not grow with the table.

        Raises:
            ValueError: the delta contradicts itself or the table, or `base_revision` is not the current
                revision. The old table stays.
        """
        self._core.publish_delta(delta)

    def set_limits(self, settings: Settings) -> None:
        """Keep the limits of these settings from now on; what else they say stays as at the start.

        Open connections keep the number of streams, the header list and the frame that they began with.
        """
        self._core.set_limits(settings)

    def set_tls(self, cert: bytes, key: bytes, client_ca: bytes) -> None:
        """Show another certificate to clients that connect from now on; all in PEM.

        Without effect where the settings held none.

        Raises:
            ValueError: they cannot be used; says why. The old ones stay.
        """
        self._core.set_tls(cert, key, client_ca)

    def set_backend_tls(self, name: str, ca: bytes, cert: bytes, key: bytes, server_name: str) -> None:
        """Speak TLS with a backend on connections from now on. Before a table names the backend.

        Args:
            name: of the backend.
            ca: certificates in PEM that the backend's must lead to.
            cert: our own certificate chain for it in PEM, b"" for none.
            key: its private key.
            server_name: what the backend's certificate must be for; "" for the host of its address.

        Raises:
            ValueError: they cannot be used; says why. The old ones stay.
        """
        self._core.set_backend_tls(name, ca, cert, key, server_name)

    def clear_backend_tls(self, name: str) -> None:
        """Speak plaintext with a backend on connections from now on."""
        self._core.clear_backend_tls(name)

    def set_ready(self, ready: bool) -> None:
        """Say what ServerReady and the health service answer."""
        self._core.set_ready(ready)

    async def events(self) -> Sequence[DataPlaneEvent]:
        """Wait for events and return all there are. One caller at a time; may be cancelled."""
        while True:
            events = self._core.drain_events()
            if events:
                return tuple(_event(event) for event in events)
            await _readable(self._core.event_fd())

    def answer_webhook(self, notice: int, status: int, text: str) -> bool:
        """Answer a `WebhookArrived`.

        Args:
            notice: id of the event.
            status: of HTTP, 200 to 599.
            text: what is wrong, for the sender to read; "" where nothing is.

        Returns:
            Whether its sender still waited.

        Raises:
            ValueError: the status is none of an answer.
        """
        return self._core.answer_webhook(notice, status, text)

    async def shadow_pairs(self, most: int) -> Sequence[ShadowPair]:
        """Wait for answers of shadows, and return at most so many. One caller at a time; may be cancelled.

        What nobody fetches is bounded, and what does not fit is counted and given up.
        """
        while True:
            pairs = self._core.drain_shadows(most)
            if pairs:
                return pairs
            await _readable(self._core.shadow_fd())

    def usage(self) -> Sequence[VersionUse]:
        """Use of every version that had a request: begun, in flight and waiting, over all arms."""
        return version_use(self._core.counters())

    def counters(self) -> Counters:
        """All counters of all threads, at this moment."""
        return self._core.counters()

    def explain(
        self,
        model: str,
        version: str = "",
        draw: int = 0,
        headers: Sequence[tuple[str, str]] = (),
        parameters: Sequence[tuple[str, str]] = (),
    ) -> Explanation:
        """How a request with these names would be answered, by the code that answers requests.

        Args:
            model: as in `model_name`, with or without `@ref`.
            version: as in `model_version`.
            draw: which lot of the split, 0 to 9,999; for a request that no key, rule or header decides on.
            headers: its metadata, names and values.
            parameters: its parameters, as text.

        Raises:
            ValueError: `draw` is out of range, or a header cannot be one.
        """
        return self._core.explain(model, version, draw, headers, parameters)

    async def drain(self, timeout: float) -> bool:
        """Refuse new connections, let clients finish, close what is left after `timeout` seconds.

        Returns:
            Whether every client connection is closed.
        """
        loop = asyncio.get_running_loop()
        until = loop.time() + timeout
        self._core.drain(int(timeout * 1000))
        # The last connection may close in any thread, and none of them tells Python.
        while not self._core.drained() and loop.time() < until:  # noqa: ASYNC110
            await asyncio.sleep(_DRAIN_LOOK_S)
        return self._core.drained()

    def stop(self) -> None:
        """Close everything and wait for the threads to end. Idempotent."""
        self._core.stop()


async def _readable(descriptor: int) -> None:
    loop = asyncio.get_running_loop()
    readable = asyncio.Event()
    loop.add_reader(descriptor, readable.set)
    try:
        await readable.wait()
    finally:
        loop.remove_reader(descriptor)


def _event(event: Event) -> DataPlaneEvent:
    match event.kind:
        case "cold":
            return ColdWanted(model=event.model, version=event.version)
        case "backend_down":
            return BackendDown(backend=event.backend, reason=event.detail)
        case "backend_up":
            return BackendUp(backend=event.backend)
        case "ejected":
            return CopyEjected(
                model=event.model, version=event.version, backend=event.backend, reason=event.detail
            )
        case "recovered":
            return CopyRecovered(model=event.model, version=event.version, backend=event.backend)
        case "webhook" if (notice := event.webhook) is not None:
            return WebhookArrived(
                id=notice.id, registry=notice.registry, headers=dict(notice.headers), body=notice.body
            )
        case other:
            raise ValueError(f"the data plane sent an event of unknown kind {other!r}")


def version_use(counters: Counters) -> tuple[VersionUse, ...]:
    """Add counters up by version, over arms; requests that reached no version are left out."""
    sums: dict[tuple[str, str], tuple[int, int, int]] = {}
    for arm in counters.arms:
        if arm.version:
            begun, inflight, waiting = sums.get((arm.model, arm.version), (0, 0, 0))
            begun += sum(arm.codes) + arm.inflight
            sums[arm.model, arm.version] = (begun, inflight + arm.inflight, waiting)
    for queue in counters.queues:
        begun, inflight, waiting = sums.get((queue.model, queue.version), (0, 0, 0))
        # A sequence uses its version between its requests too: its state must not be unloaded.
        in_use = inflight + queue.sequences
        sums[queue.model, queue.version] = (begun, in_use, waiting + queue.waiting)
    return tuple(
        VersionUse(model=model, version=version, requests=begun, inflight=inflight, waiting=waiting)
        for (model, version), (begun, inflight, waiting) in sorted(sums.items())
    )
