"""What a scrape shows."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Mapping

import grpc
import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families

from gateway.metrics import BOUNDS_MS, CODES, REJECTIONS, LoadRecorder, render
from gateway.operations import Gauges
from tests.fakes.counters import ArmCounters, FakeCounters
from tests.fakes.operations import GAUGES

PROMTOOL = shutil.which("promtool")
OPENMETRICS = "application/openmetrics-text; version=1.0.0"
Labels = frozenset[tuple[str, str]]


def loads() -> LoadRecorder:
    """Two loads, one of them bad, and an unload."""
    recorder = LoadRecorder()
    recorder.loaded("digits", "1", "t0", 1.25, ok=True)
    recorder.loaded("digits", "1", "t0", 9.0, ok=False)
    recorder.unloaded("digits", "1", "t0", "idle")
    return recorder


def scrape(counters: FakeCounters | None = None, gauges: Gauges = GAUGES) -> dict[str, dict[Labels, float]]:
    """All samples by name and labels."""
    body, _ = render(counters or FakeCounters(), gauges, loads(), "")
    found: dict[str, dict[Labels, float]] = {}
    for family in text_string_to_metric_families(body.decode()):
        for sample in family.samples:
            found.setdefault(sample.name, {})[frozenset(sample.labels.items())] = sample.value
    return found


def labels(**values: str) -> Labels:
    """Labels as `scrape` has them."""
    return frozenset(values.items())


STABLE: Mapping[str, str] = {"model": "digits", "version": "1", "arm": "stable"}


def test_requests_are_counted_by_status_name() -> None:
    """OK is always there; other codes from their first time on."""
    assert scrape()["stagegate_requests_total"] == {
        labels(**STABLE, code="OK"): 9,
        labels(**STABLE, code="UNAVAILABLE"): 1,
    }


def test_codes_have_the_names_and_numbers_of_grpc() -> None:
    """The data plane counts by number."""
    assert {code.value[0]: code.name for code in grpc.StatusCode} == dict(enumerate(CODES))


def test_histograms_are_cumulative_and_in_seconds() -> None:
    """The last bucket is the count, so rates and quantiles are right."""
    found = scrape()
    buckets = found["stagegate_request_duration_seconds_bucket"]

    assert [buckets[labels(**STABLE, le=le)] for le in ("0.0005", "0.001", "0.0025", "30.0", "+Inf")] == [
        1,
        3,
        6,
        6,
        10,
    ]
    assert found["stagegate_request_duration_seconds_count"] == {labels(**STABLE): 10}
    assert found["stagegate_request_duration_seconds_sum"] == {labels(**STABLE): 1.5}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("stagegate_backend_duration_seconds_sum", {labels(model="digits", version="1", backend="t0"): 0.5}),
        ("stagegate_queue_duration_seconds_sum", {labels(model="digits", version="1"): 0.25}),
        ("stagegate_queued_requests", {labels(model="digits", version="1"): 9}),
        ("stagegate_admission_limit", {labels(model="digits", version="1"): 2}),
        ("stagegate_open_sequences", {labels(model="digits", version="1"): 6}),
        ("stagegate_sequences_forgotten_total", {labels(): 8}),
        (
            "stagegate_admission_rejected_total",
            {
                labels(model="digits", version="1", reason="queue_full"): 3,
                labels(model="digits", version="1", reason="displaced"): 1,
            },
        ),
        ("stagegate_stream_first_response_seconds_sum", {labels(**STABLE): 0.001}),
        ("stagegate_stream_inter_response_seconds_sum", {labels(**STABLE): 0.002}),
        ("stagegate_stream_requests_total", {labels(**STABLE): 11}),
        (
            "stagegate_stream_responses_total",
            {labels(**STABLE, result="success"): 12, labels(**STABLE, result="error"): 2},
        ),
        ("stagegate_client_connections", {labels(): 3}),
        ("stagegate_config_revision", {labels(): 7}),
        ("stagegate_backend_up", {labels(backend="t0"): 1, labels(backend="t1"): 0}),
        ("stagegate_registry_age_seconds", {labels(registry="local"): 0.4}),
        ("stagegate_registry_models_lost", {labels(registry="local"): 0.0, labels(registry="away"): 7.0}),
        ("stagegate_registry_pointers_lost", {labels(registry="local"): 0.0, labels(registry="away"): 9.0}),
        (
            "stagegate_registry_writes_total",
            {
                labels(registry="local", kind="alias", result="success"): 3,
                labels(registry="local", kind="tag", result="refused"): 1,
            },
        ),
        ("stagegate_registry_writes_pending", {labels(registry="local"): 2, labels(registry="away"): 0}),
        ("stagegate_registry_problems", {labels(registry="local"): 1, labels(registry="away"): 0}),
        (
            "stagegate_route_weight",
            {
                labels(model="digits", arm="stable", version="1"): 99.5,
                labels(model="digits", arm="canary", version="2"): 0.5,
            },
        ),
        (
            "stagegate_model_loads_total",
            {
                labels(model="digits", version="1", backend="t0", result="success"): 1,
                labels(model="digits", version="1", backend="t0", result="failure"): 1,
            },
        ),
        (
            "stagegate_model_unloads_total",
            {labels(model="digits", version="1", backend="t0", reason="idle"): 1},
        ),
        (
            "stagegate_model_load_duration_seconds_sum",
            {labels(model="digits", version="1", backend="t0"): 1.25},
        ),
    ],
)
def test_a_metric_has_its_name_labels_and_unit(name: str, expected: dict[Labels, float]) -> None:
    """The contract with dashboards and alerts."""
    assert scrape()[name] == expected


def test_requests_in_flight_are_summed_over_arms() -> None:
    """They are shown by version."""
    counters = FakeCounters(arms=(ArmCounters(inflight=2), ArmCounters(arm="pinned", inflight=3)))

    assert scrape(counters)["stagegate_inflight_requests"] == {labels(model="digits", version="1"): 5}


def test_requests_that_reached_no_arm_are_shown() -> None:
    """Unknown models count under a name that no model can have, with empty labels."""
    counters = FakeCounters(arms=(ArmCounters(model="_unknown", version="", arm=""),))

    assert (
        labels(model="_unknown", version="", arm="", code="OK")
        in scrape(counters)["stagegate_requests_total"]
    )


def test_what_went_wrong_behind_the_gateway_is_counted() -> None:
    """Retries by reason, failures that another arm answered by code, and who is passed over now."""
    found = scrape()

    assert found["stagegate_retries_total"] == {labels(model="digits", version="1", reason="broken"): 7}
    fallback = labels(model="digits", version="2", arm="canary", code="UNAVAILABLE")
    assert found["stagegate_fallback_total"] == {fallback: 6}
    assert found["stagegate_ejected"] == {labels(model="digits", version="1", backend="t1"): 1}


def test_a_load_is_counted_in_its_bucket() -> None:
    """A load of exactly a bound belongs below it."""
    recorder = LoadRecorder()
    for seconds in (0.1, 0.11, 1_000.0):
        recorder.loaded("m", "1", "t", seconds, ok=True)
    body, _ = render(FakeCounters(), GAUGES, recorder, "")
    buckets = {
        sample.labels["le"]: sample.value
        for family in text_string_to_metric_families(body.decode())
        for sample in family.samples
        if sample.name == "stagegate_model_load_duration_seconds_bucket"
    }

    assert (buckets["0.1"], buckets["0.25"], buckets["300.0"], buckets["+Inf"]) == (1, 2, 2, 3)


def test_counts_of_loads_of_versions_that_come_and_go_are_bounded() -> None:
    """What was counted longest ago goes; what still is counted stays whole."""
    recorder = LoadRecorder(most=3)
    for version in map(str, range(9)):
        for _ in range(2):
            recorder.loaded("m", "stays", "t", 1.0, ok=True)
            recorder.unloaded("m", "stays", "t", "idle")
        recorder.loaded("m", version, "t", 1.0, ok=False)
        recorder.unloaded("m", version, "t", "idle")
    loads, unloads = recorder.families()[1:]
    good = {s.labels["version"]: s.value for s in loads.samples if s.labels["result"] == "success"}

    assert good == {"7": 0, "stays": 18, "8": 0}
    assert {s.labels["version"]: s.value for s in unloads.samples} == {"7": 1, "stays": 18, "8": 1}


def test_nothing_is_shown_before_the_first_request() -> None:
    """Series appear with their first request; what is always there stays."""
    found = scrape(FakeCounters(arms=(), backends=(), queues=(), streams=(), shadows=()))

    assert not any(name.startswith("stagegate_request") for name in found)
    assert "stagegate_build_info" in found


def test_the_bounds_are_those_of_the_data_plane() -> None:
    """Fifteen bounds and one bucket beyond."""
    bridge = pytest.importorskip("gateway.bridge", reason="the extension is not built")

    assert [round(bound * 1_000) for bound in BOUNDS_MS] == list(bridge.BUCKET_BOUNDS_US)


def test_the_reasons_are_those_of_the_data_plane() -> None:
    """The data plane counts by number."""
    bridge = pytest.importorskip("gateway.bridge")

    assert bridge.REJECTION_REASONS == REJECTIONS


def test_openmetrics_is_spoken_to_who_asks_for_it() -> None:
    """Same numbers, its own format."""
    body, content_type = render(FakeCounters(), GAUGES, loads(), OPENMETRICS)

    families = {family.name for family in parse_openmetrics(body.decode())}  # type: ignore[no-untyped-call]
    assert content_type.startswith("application/openmetrics-text")
    assert {"stagegate_requests", "stagegate_model_loads", "stagegate_config_revision"} <= families


@pytest.mark.skipif(PROMTOOL is None, reason="Prometheus' promtool is not installed")
def test_promtool_has_nothing_to_say() -> None:
    """Prometheus' own lint of names, help texts and units."""
    body, _ = render(FakeCounters(), GAUGES, loads(), "")

    lint = subprocess.run([str(PROMTOOL), "check", "metrics"], input=body, capture_output=True, check=False)

    assert (lint.returncode, lint.stdout + lint.stderr) == (0, b"")


SHADOW: Mapping[str, str] = {"model": "digits", "version": "2", "shadow": "next"}


def test_copies_are_counted_by_what_became_of_them() -> None:
    """A result has its series from its first time on."""
    found = scrape()

    assert found["stagegate_shadow_requests_total"] == {
        labels(**SHADOW, result="ok"): 7,
        labels(**SHADOW, result="error"): 1,
        labels(**SHADOW, result="queue_full"): 3,
    }
    assert found["stagegate_shadow_uncompared_total"] == {labels(**SHADOW, reason="busy"): 2}


def test_mismatches_are_counted_by_kind_and_decisions_by_agreement() -> None:
    """Beside how many were compared at all, so that a share can be made."""
    found = scrape()

    assert found["stagegate_shadow_compared_total"] == {labels(**SHADOW): 40}
    assert found["stagegate_shadow_mismatch_total"] == {
        labels(**SHADOW, kind="invalid"): 1,
        labels(**SHADOW, kind="value"): 2,
    }
    assert found["stagegate_shadow_decisions_total"] == {
        labels(**SHADOW, agree="true"): 37,
        labels(**SHADOW, agree="false"): 2,
    }
