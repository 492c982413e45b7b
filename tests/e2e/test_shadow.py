"""Shadows on a real Triton: what they say is compared, and no client ever meets them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.e2e.conftest import UP, Gateway, start_gateway, wait_until
from tests.e2e.digits import IMAGES, inputs, production_version
from tests.e2e.load import SteadyLoad

ROUTE = """
model: digits
arms: [{{name: stable, version: "{stable}", weight: 100}}]
shadows:
  - {{name: next, version: "{shadow}", compare: {{atol: {tolerance}, rtol: {tolerance}}}}}
"""


@pytest.fixture(scope="module")
def gateway(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """A gateway of this module's own."""
    import shutil

    folder = tmp_path_factory.mktemp("shadow")
    models = Path(shutil.copytree(trained / "models", folder / "models"))
    running = start_gateway(folder, "up", UP, models)
    yield running
    running.stop()


def apply(gateway: Gateway, stable: str, shadow: str, tolerance: str) -> None:
    """Set the route, and wait until the shadow's version takes copies."""
    file = gateway.folder / "route.yaml"
    file.write_text(ROUTE.format(stable=stable, shadow=shadow, tolerance=tolerance))
    gateway.cli("route", "apply", str(file))
    wait_until("the shadow is loaded", lambda: view(gateway)["state"] == "ready")


def view(gateway: Gateway) -> dict[str, Any]:
    """The shadow as an operator sees it."""
    (shadow,) = gateway.json("route", "get", "digits")["shadows"]
    return dict(shadow)


def samples(gateway: Gateway, name: str, **labels: str) -> float:
    """The sum of a metric's samples that have these labels."""
    found = 0.0
    for family in text_string_to_metric_families(gateway.http("/metrics")[1]):
        for sample in family.samples:
            if sample.name == name and labels.items() <= sample.labels.items():
                found += sample.value
    return found


def ask(gateway: Gateway, count: int) -> set[str]:
    """Ask so often, each time with other images; the versions that answered."""
    client = gateway.client()
    metadata = client.get_model_metadata("digits")
    (asked,) = inputs(metadata)
    versions = set()
    for at in range(count):
        asked.set_data_from_numpy(IMAGES[at : at + 1])
        versions.add(client.infer("digits", [asked]).get_response().model_version)
    return versions


def all_compared(gateway: Gateway, labels: dict[str, str], asked: int) -> float:
    """Wait until every request is accounted for; how many were copied, which a busy machine makes less."""

    def copies(**more: str) -> float:
        return samples(gateway, "stagegate_shadow_requests_total", **labels, **more)

    wait_until("every copy is accounted for", lambda: copies() == asked)
    assert copies(result="ok") + copies(result="overload") == asked
    assert copies(result="ok") >= 1
    wait_until(
        "all are compared",
        lambda: samples(gateway, "stagegate_shadow_compared_total", **labels) == copies(result="ok"),
    )
    return copies(result="ok")


def test_a_worse_version_as_a_shadow_is_told_by_its_differences(gateway: Gateway) -> None:
    """Its copies are counted, its answers compared; clients get one version and no error."""
    stable = production_version(gateway.models)
    shadow = next(version for version in ("1", "2", "3") if version != stable)
    labels = {"model": "digits", "version": shadow, "shadow": "next"}
    apply(gateway, stable, shadow, "1e-6")

    answered = ask(gateway, 100)
    copied = all_compared(gateway, labels, 100)

    seen = view(gateway)
    assert answered == {stable}
    assert samples(gateway, "stagegate_requests_total", arm="next", code="OK") == copied
    assert samples(gateway, "stagegate_requests_total", arm="stable", code="OK") == 100
    assert samples(gateway, "stagegate_shadow_mismatch_total", **labels, kind="value") > 0
    assert samples(gateway, "stagegate_shadow_mismatch_total", kind="invalid") == 0
    assert seen["comparison"]["compared"] == copied
    assert seen["comparison"]["mismatches"]["value"] == len(seen["comparison"]["recent"]) or (
        len(seen["comparison"]["recent"]) == 16
    )
    assert all(len(one["request"]) == 16 for one in seen["comparison"]["recent"])
    assert "last differences of shadow next" in gateway.cli("route", "get", "digits").stdout


def test_a_version_as_its_own_shadow_shows_no_difference(gateway: Gateway) -> None:
    """The noise floor of this model is nothing at all; decisions agree in every row."""
    stable = production_version(gateway.models)
    labels = {"model": "digits", "version": stable, "shadow": "next"}
    apply(gateway, stable, stable, "0")

    ask(gateway, 30)
    copied = all_compared(gateway, labels, 30)

    assert samples(gateway, "stagegate_shadow_mismatch_total", **labels) == 0
    assert samples(gateway, "stagegate_shadow_decisions_total", **labels, agree="false") == 0
    assert samples(gateway, "stagegate_requests_total", version=stable, arm="next") == copied


def test_a_shadow_that_goes_away_under_load_costs_no_request(gateway: Gateway) -> None:
    """Its version is unloaded behind everybody's back: copies are given up or fail, and clients go on."""
    stable = production_version(gateway.models)
    shadow = next(version for version in ("1", "2", "3") if version != stable)
    apply(gateway, stable, shadow, "1e-6")
    name = gateway.client().get_model_metadata("digits").inputs[0].name
    rows = gateway.json("versions", "digits")["versions"]
    (seat,) = [row["backend_model"] for row in rows if row["version"] == shadow]
    address = gateway.json("status")["backends"][0]["address"]

    with SteadyLoad(gateway.inference, name, threads=2) as load:
        wait_until("answers", lambda: len(load.versions) > 50)
        import tritonclient.grpc as triton

        with triton.InferenceServerClient(address) as behind:
            behind.unload_model(seat)
        count = len(load.versions)
        wait_until("answers go on", lambda: len(load.versions) > count + 100)
        wait_until("it is loaded again", lambda: view(gateway)["state"] == "ready")

    assert load.failures == []
    assert set(load.versions) == {stable}
