"""What `/metrics` shows: names, help texts and labels, made from counters at the moment of a scrape.

Nothing is counted here but loads and unloads; the data plane counts requests, the control loop knows the
rest. Labels never hold what a client sent: unknown models count under `model="_unknown"`.
"""

from __future__ import annotations

import platform
import threading
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from gateway import __version__
from gateway.operations import Gauges, ShadowComparison
from router.model import FAILURES, WHOLE

BOUNDS_MS = (0.5, 1, 2.5, 5, 10, 25, 50, 100, 250, 500, 1000, 2500, 5000, 10_000, 30_000)
"""Upper bounds of the request histograms in milliseconds; one more bucket has no bound."""

LOAD_BOUNDS = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
"""Upper bounds of the load histogram in seconds."""

CODES = ("OK", *FAILURES)
"""gRPC status names by number."""

REJECTIONS = ("queue_full", "deadline", "displaced", "timeout")
"""Why a request is not admitted, in the order in which the data plane counts."""

SHADOW_RESULTS = (
    "ok",
    "error",
    "timeout",
    "unreachable",
    "not_ready",
    "overload",
    "queue_full",
    "bytes",
    "too_large",
    "deadline",
    "primary_failed",
)
"""What became of a copy, in the order of the data plane's numbers."""

UNCOMPARED = ("too_large", "busy", "unreadable")
"""Why an answer of a shadow was not compared, in the order of the data plane's numbers."""

_Series = TypeVar("_Series", bound=tuple[str, ...])
_Count = TypeVar("_Count")

_PERCENT = WHOLE / 100
_MICROSECONDS = 1_000_000


# === what is read: the shapes of `gateway.bridge.Counters` and its parts ===


class _Arm(Protocol):
    @property
    def model(self) -> str: ...
    @property
    def version(self) -> str: ...
    @property
    def arm(self) -> str: ...
    @property
    def codes(self) -> Sequence[int]: ...
    @property
    def buckets(self) -> Sequence[int]: ...
    @property
    def sum_us(self) -> int: ...
    @property
    def inflight(self) -> int: ...


class _Backend(Protocol):
    @property
    def model(self) -> str: ...
    @property
    def version(self) -> str: ...
    @property
    def backend(self) -> str: ...
    @property
    def buckets(self) -> Sequence[int]: ...
    @property
    def sum_us(self) -> int: ...


class _Queue(Protocol):
    @property
    def model(self) -> str: ...
    @property
    def version(self) -> str: ...
    @property
    def buckets(self) -> Sequence[int]: ...
    @property
    def sum_us(self) -> int: ...
    @property
    def waiting(self) -> int: ...
    @property
    def queued(self) -> int: ...
    @property
    def rejected(self) -> Sequence[int]: ...
    @property
    def limit(self) -> int: ...
    @property
    def sequences(self) -> int: ...


class _Stream(Protocol):
    @property
    def model(self) -> str: ...
    @property
    def version(self) -> str: ...
    @property
    def arm(self) -> str: ...
    @property
    def first_buckets(self) -> Sequence[int]: ...
    @property
    def first_sum_us(self) -> int: ...
    @property
    def inter_buckets(self) -> Sequence[int]: ...
    @property
    def inter_sum_us(self) -> int: ...
    @property
    def requests(self) -> int: ...
    @property
    def responses(self) -> int: ...
    @property
    def errors(self) -> int: ...


class _Shadow(Protocol):
    @property
    def model(self) -> str: ...
    @property
    def version(self) -> str: ...
    @property
    def shadow(self) -> str: ...
    @property
    def results(self) -> Sequence[int]: ...
    @property
    def uncompared(self) -> Sequence[int]: ...


class _Retry(Protocol):
    @property
    def model(self) -> str: ...
    @property
    def version(self) -> str: ...
    @property
    def reason(self) -> str: ...
    @property
    def count(self) -> int: ...


class _Fallback(Protocol):
    @property
    def model(self) -> str: ...
    @property
    def version(self) -> str: ...
    @property
    def arm(self) -> str: ...
    @property
    def codes(self) -> Sequence[int]: ...


class _Ejected(Protocol):
    @property
    def model(self) -> str: ...
    @property
    def version(self) -> str: ...
    @property
    def backend(self) -> str: ...


class Counters(Protocol):
    """All counters of the data plane at one moment. Buckets are not cumulative, sums microseconds."""

    @property
    def arms(self) -> Sequence[_Arm]:
        """Requests by model, version and arm."""
        ...

    @property
    def backends(self) -> Sequence[_Backend]:
        """Backend time by model, version and backend."""
        ...

    @property
    def queues(self) -> Sequence[_Queue]:
        """Waits for a load by model and version."""
        ...

    @property
    def streams(self) -> Sequence[_Stream]:
        """Stream answers by model, version and arm."""
        ...

    @property
    def shadows(self) -> Sequence[_Shadow]:
        """Copies by model, version and shadow."""
        ...

    @property
    def connections(self) -> int:
        """Open client connections."""
        ...

    @property
    def sequences_forgotten(self) -> int:
        """Idle sequences that were forgotten for want of room."""
        ...

    @property
    def events_dropped(self) -> int:
        """Events that the control plane did not fetch in time."""
        ...

    @property
    def retries(self) -> Sequence[_Retry]:
        """Requests that were sent to a backend once more, by model, version and reason."""
        ...

    @property
    def fallbacks(self) -> Sequence[_Fallback]:
        """Requests that one arm failed and another answered, by model, version and arm."""
        ...

    @property
    def ejected(self) -> Sequence[_Ejected]:
        """Backends that are passed over now, by model and version."""
        ...


class CounterSource(Protocol):
    """Gives the counters; may be called on any thread."""

    def counters(self) -> Counters:
        """All counters at this moment."""
        ...


# === loads and unloads ===


@dataclass(slots=True)
class _Loads:
    buckets: list[int] = field(default_factory=lambda: [0] * (len(LOAD_BOUNDS) + 1))
    seconds: float = 0.0
    success: int = 0
    failure: int = 0


class LoadRecorder:
    """Counts loads and unloads. Written by the control loop, read by scrapes on another thread.

    Of versions that come and go the counts of those that were counted longest ago go, too.

    Args:
        most: series of loads, and of unloads, that are kept.
    """

    def __init__(self, most: int = 10_000) -> None:
        self._most = most
        self._lock = threading.Lock()
        self._loads: dict[tuple[str, str, str], _Loads] = {}
        self._unloads: dict[tuple[str, str, str, str], int] = {}

    def loaded(self, model: str, version: str, backend: str, seconds: float, *, ok: bool) -> None:
        """Count one load that ended, well or not; only good ones enter the histogram."""
        with self._lock:
            loads = _latest(self._loads, (model, version, backend), _Loads(), self._most)
            if not ok:
                loads.failure += 1
                return
            loads.success += 1
            loads.seconds += seconds
            loads.buckets[sum(seconds > bound for bound in LOAD_BOUNDS)] += 1

    def unloaded(self, model: str, version: str, backend: str, reason: str) -> None:
        """Count one unload that ended; `reason` is one of a few words."""
        with self._lock:
            key = (model, version, backend, reason)
            self._unloads[key] = _latest(self._unloads, key, 0, self._most) + 1

    def families(self) -> list[Metric]:
        """The three metrics of loads and unloads."""
        duration = HistogramMetricFamily(
            "stagegate_model_load_duration_seconds",
            "Time from the start of a load (fetching the files included) until Triton had the model ready.",
            labels=("model", "version", "backend"),
        )
        loads = CounterMetricFamily(
            "stagegate_model_loads",
            "Loads that ended, by result: success or failure.",
            labels=("model", "version", "backend", "result"),
        )
        unloads = CounterMetricFamily(
            "stagegate_model_unloads",
            "Unloads that ended, by the reason for them.",
            labels=("model", "version", "backend", "reason"),
        )
        with self._lock:
            for key, counted in self._loads.items():
                if counted.success:
                    duration.add_metric(key, _cumulative(LOAD_BOUNDS, counted.buckets), counted.seconds)
                loads.add_metric((*key, "success"), counted.success)
                loads.add_metric((*key, "failure"), counted.failure)
            for labels, count in self._unloads.items():
                unloads.add_metric(labels, count)
        return [duration, loads, unloads]


def _latest(kept: dict[_Series, _Count], key: _Series, new: _Count, most: int) -> _Count:
    """What is kept under a key, or `new`, as the last of at most `most`; what was asked for first goes."""
    found = kept.pop(key, new)
    kept[key] = found
    if len(kept) > most:
        del kept[next(iter(kept))]
    return found


# === exposition ===


def render(counters: Counters, gauges: Gauges, loads: LoadRecorder, accept: str) -> tuple[bytes, str]:
    """The body and the content type of one scrape; takes long with many series, so not for the event loop.

    Args:
        accept: the scraper's Accept header; Prometheus asks for OpenMetrics with it.
    """
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Scrape(counters, gauges, loads))
    ProcessCollector(registry=registry)
    encode, content_type = choose_encoder(accept)
    return encode(registry), content_type


class _Scrape(Collector):
    """One scrape's numbers in Prometheus' families."""

    def __init__(self, counters: Counters, gauges: Gauges, loads: LoadRecorder) -> None:
        self._counters = counters
        self._gauges = gauges
        self._loads = loads

    def describe(self) -> Iterable[Metric]:
        """Nothing: each scrape has a registry of its own, so no names can clash."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """All families."""
        yield from _request_families(self._counters.arms)
        yield _backend_family(self._counters.backends)
        yield from _queue_families(self._counters.queues)
        yield from _stream_families(self._counters.streams)
        yield from _trouble_families(self._counters)
        yield from _shadow_families(self._counters.shadows, self._gauges.shadows)
        yield from _connection_families(self._counters)
        yield from self._loads.families()
        yield from _gauge_families(self._gauges)
        yield _build_family()


def _request_families(arms: Sequence[_Arm]) -> Iterator[Metric]:
    requests = CounterMetricFamily(
        "stagegate_requests",
        "Finished requests by gRPC status name; a stream counts once.",
        labels=("model", "version", "arm", "code"),
    )
    duration = HistogramMetricFamily(
        "stagegate_request_duration_seconds",
        "Whole time of a request in the gateway, backend and waiting included.",
        labels=("model", "version", "arm"),
    )
    inflight: dict[tuple[str, str], int] = {}
    for arm in arms:
        labels = (arm.model, arm.version, arm.arm)
        for code, count in zip(CODES, arm.codes, strict=True):
            # OK is always there, so that an error ratio has something to divide by.
            if count or code == "OK":
                requests.add_metric((*labels, code), count)
        _add_histogram(duration, labels, arm.buckets, arm.sum_us)
        key = (arm.model, arm.version)
        inflight[key] = inflight.get(key, 0) + arm.inflight
    yield requests
    yield duration
    yield _gauge(
        "stagegate_inflight_requests",
        "Requests that were begun and have not ended.",
        ("model", "version"),
        inflight.items(),
    )


def _backend_family(backends: Sequence[_Backend]) -> Metric:
    family = HistogramMetricFamily(
        "stagegate_backend_duration_seconds",
        "Time from sending a request to a backend until its answer ended.",
        labels=("model", "version", "backend"),
    )
    for backend in backends:
        labels = (backend.model, backend.version, backend.backend)
        _add_histogram(family, labels, backend.buckets, backend.sum_us)
    return family


def _queue_families(queues: Sequence[_Queue]) -> Iterator[Metric]:
    labels = ("model", "version")
    duration = HistogramMetricFamily(
        "stagegate_queue_duration_seconds",
        "Time that requests waited for a version to be loaded, or for a place at its backends.",
        labels=labels,
    )
    rejected = CounterMetricFamily(
        "stagegate_admission_rejected",
        "Requests that were refused because their version is busy.",
        labels=(*labels, "reason"),
    )
    for queue in queues:
        _add_histogram(duration, (queue.model, queue.version), queue.buckets, queue.sum_us)
        for reason, count in zip(REJECTIONS, queue.rejected, strict=True):
            if count:
                rejected.add_metric((queue.model, queue.version, reason), count)
    yield duration
    yield rejected
    yield _gauge(
        "stagegate_queued_requests",
        "Requests that wait for a version to be loaded, or for a place at its backends.",
        labels,
        (((queue.model, queue.version), queue.waiting + queue.queued) for queue in queues),
    )
    yield _gauge(
        "stagegate_admission_limit",
        "Most requests that the backends of a version are given at once, now; not there without a bound.",
        labels,
        (((queue.model, queue.version), queue.limit) for queue in queues if queue.limit),
    )
    yield _gauge(
        "stagegate_open_sequences",
        "Stateful sequences whose state is in a version now.",
        labels,
        (((queue.model, queue.version), queue.sequences) for queue in queues if queue.sequences),
    )


def _stream_families(streams: Sequence[_Stream]) -> Iterator[Metric]:
    labels = ("model", "version", "arm")
    first = HistogramMetricFamily(
        "stagegate_stream_first_response_seconds",
        "Time from a request on a stream until its first response.",
        labels=labels,
    )
    inter = HistogramMetricFamily(
        "stagegate_stream_inter_response_seconds",
        "Time between responses on a stream.",
        labels=labels,
    )
    requests = CounterMetricFamily(
        "stagegate_stream_requests", "Request messages on streams, as they were routed.", labels=labels
    )
    responses = CounterMetricFamily(
        "stagegate_stream_responses",
        "Response messages on streams, by result: success, or error for those that carry one.",
        labels=(*labels, "result"),
    )
    for stream in streams:
        key = (stream.model, stream.version, stream.arm)
        requests.add_metric(key, stream.requests)
        responses.add_metric((*key, "success"), stream.responses)
        responses.add_metric((*key, "error"), stream.errors)
        _add_histogram(first, key, stream.first_buckets, stream.first_sum_us)
        _add_histogram(inter, key, stream.inter_buckets, stream.inter_sum_us)
    yield first
    yield inter
    yield requests
    yield responses


def _trouble_families(counters: Counters) -> Iterator[Metric]:
    """What went wrong behind the gateway, mostly without a client noticing."""
    retries = CounterMetricFamily(
        "stagegate_retries",
        "Requests sent to a backend once more, by reason: refused, unreachable, gone, unavailable or broken.",
        labels=("model", "version", "reason"),
    )
    for retry in counters.retries:
        retries.add_metric((retry.model, retry.version, retry.reason), retry.count)
    fallbacks = CounterMetricFamily(
        "stagegate_fallback",
        "Requests that this arm failed with this gRPC status and another arm answered.",
        labels=("model", "version", "arm", "code"),
    )
    for fallback in counters.fallbacks:
        for code, count in zip(CODES, fallback.codes, strict=True):
            if count:
                fallbacks.add_metric((fallback.model, fallback.version, fallback.arm, code), count)
    yield retries
    yield fallbacks
    yield _gauge(
        "stagegate_ejected",
        "1 while a backend is passed over for a version, because it failed again and again.",
        ("model", "version", "backend"),
        (((one.model, one.version, one.backend), 1) for one in counters.ejected),
    )


def _shadow_families(shadows: Sequence[_Shadow], comparisons: Sequence[ShadowComparison]) -> Iterator[Metric]:
    labels = ("model", "version", "shadow")
    requests = CounterMetricFamily(
        "stagegate_shadow_requests",
        "Requests that were sampled for a shadow, by what became of the copy.",
        labels=(*labels, "result"),
    )
    uncompared = CounterMetricFamily(
        "stagegate_shadow_uncompared",
        "OK answers of shadows that were not compared with the client's, by the reason.",
        labels=(*labels, "reason"),
    )
    for shadow in shadows:
        key = (shadow.model, shadow.version, shadow.shadow)
        _add_words(requests, key, SHADOW_RESULTS, shadow.results)
        _add_words(uncompared, key, UNCOMPARED, shadow.uncompared)
    compared = CounterMetricFamily(
        "stagegate_shadow_compared",
        "Answers of shadows that were compared with those that clients got.",
        labels=labels,
    )
    mismatch = CounterMetricFamily(
        "stagegate_shadow_mismatch",
        "Of those, how many differ, by the kind of their worst difference.",
        labels=(*labels, "kind"),
    )
    decisions = CounterMetricFamily(
        "stagegate_shadow_decisions",
        "Rows of classifiers' outputs that were compared, by whether the largest stands at the same place.",
        labels=(*labels, "agree"),
    )
    for one in comparisons:
        key = (one.model, one.version, one.shadow)
        compared.add_metric(key, one.compared)
        for kind, count in sorted(one.mismatches.items()):
            mismatch.add_metric((*key, kind), count)
        if one.rows:
            decisions.add_metric((*key, "true"), one.agreed)
            decisions.add_metric((*key, "false"), one.rows - one.agreed)
    yield from (requests, uncompared, compared, mismatch, decisions)


def _add_words(
    family: CounterMetricFamily, labels: Sequence[str], words: Sequence[str], counts: Sequence[int]
) -> None:
    """A sample for each word that was counted at all."""
    for word, count in zip(words, counts, strict=True):
        if count:
            family.add_metric((*labels, word), count)


def _connection_families(counters: Counters) -> Iterator[Metric]:
    yield GaugeMetricFamily(
        "stagegate_client_connections",
        "Open client connections on the inference port.",
        value=counters.connections,
    )
    yield CounterMetricFamily(
        "stagegate_events_dropped",
        "Events of the data plane that the control plane did not fetch in time.",
        value=counters.events_dropped,
    )
    yield CounterMetricFamily(
        "stagegate_sequences_forgotten",
        "Idle sequences that were forgotten before their time, because too many were open.",
        value=counters.sequences_forgotten,
    )


def _gauge_families(gauges: Gauges) -> Iterator[Metric]:
    yield _gauge(
        "stagegate_route_weight",
        "Share of a model's traffic that an arm gets, from 0 to 100, as weights are written in routes.",
        ("model", "arm", "version"),
        (((w.model, w.arm, w.version), w.weight / _PERCENT) for w in gauges.weights),
    )
    yield GaugeMetricFamily(
        "stagegate_config_revision",
        "Revision of the state store that is in force.",
        value=gauges.revision,
    )
    yield _gauge(
        "stagegate_backend_up",
        "Whether a backend answers and takes traffic: 1 or 0.",
        ("backend",),
        (((name,), int(up)) for name, up in gauges.backends.items()),
    )
    yield _gauge(
        "stagegate_registry_age_seconds",
        "Time since a registry was last read whole; not there before the first time.",
        ("registry",),
        (((r.name,), r.age) for r in gauges.registries if r.age is not None),
    )
    yield _gauge(
        "stagegate_registry_problems",
        "Things in a registry that cannot be used now.",
        ("registry",),
        (((r.name,), r.problems) for r in gauges.registries),
    )
    yield _gauge(
        "stagegate_registry_models_lost",
        "Models that a registry has no more and that go on, because it lost most of them at once.",
        ("registry",),
        (((r.name,), r.lost) for r in gauges.registries),
    )
    yield _gauge(
        "stagegate_registry_pointers_lost",
        "Stages and aliases that a registry has no more and that go on, because it lost most at once.",
        ("registry",),
        (((r.name,), r.pointers_lost) for r in gauges.registries),
    )
    webhooks = CounterMetricFamily(
        "stagegate_registry_webhooks",
        "Notices that were posted for a registry, by what came of them.",
        labels=("registry", "result"),
    )
    for notice in gauges.webhooks:
        webhooks.add_metric((notice.registry, notice.result), notice.count)
    yield webhooks
    yield from _write_families(gauges)
    yield _gauge(
        "stagegate_tls_certificate_expiry_seconds",
        "Unix time until which a certificate of the gateway is valid.",
        ("certificate",),
        (((name,), until) for name, until in gauges.certificates.items()),
    )
    yield CounterMetricFamily(
        "stagegate_tls_certificates_refused",
        "Changed certificate files that could not be used; the old certificates stayed.",
        value=gauges.certificates_refused,
    )


def _write_families(gauges: Gauges) -> Iterator[Metric]:
    writes = CounterMetricFamily(
        "stagegate_registry_writes",
        "Changes that a registry was asked for, by what they are about and what came of them.",
        labels=("registry", "kind", "result"),
    )
    for one in gauges.writes:
        writes.add_metric((one.registry, one.kind, one.result), one.count)
    yield writes
    yield _gauge(
        "stagegate_registry_writes_pending",
        "Decisions about stages and aliases that a registry does not say yet.",
        ("registry",),
        (((name,), count) for name, count in gauges.writes_pending.items()),
    )


def _build_family() -> Metric:
    family = GaugeMetricFamily(
        "stagegate_build_info", "Always 1; the labels say what runs.", labels=("version", "python")
    )
    family.add_metric((__version__, platform.python_version()), 1)
    return family


def _gauge(
    name: str, text: str, labels: Sequence[str], samples: Iterable[tuple[Sequence[str], float]]
) -> GaugeMetricFamily:
    family = GaugeMetricFamily(name, text, labels=labels)
    for values, value in samples:
        family.add_metric(values, value)
    return family


_BOUNDS = tuple(bound / 1_000 for bound in BOUNDS_MS)


def _add_histogram(
    family: HistogramMetricFamily, labels: Sequence[str], buckets: Sequence[int], sum_us: int
) -> None:
    family.add_metric(labels, _cumulative(_BOUNDS, buckets), sum_us / _MICROSECONDS)


def _cumulative(bounds: Sequence[float], buckets: Sequence[int]) -> list[tuple[str, float]]:
    """Prometheus' cumulative buckets from counts of each bucket; the last has no bound."""
    total = 0
    result: list[tuple[str, float]] = []
    for bound, count in zip((*map(str, map(float, bounds)), "+Inf"), buckets, strict=True):
        total += count
        result.append((bound, total))
    return result
