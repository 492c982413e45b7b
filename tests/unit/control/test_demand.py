"""What is to be loaded unasked, and what waits: remembered in the order in which it matters."""

from __future__ import annotations

from router.control.demand import Demand
from router.model import ModelName, VersionId


def key(model: str, version: str) -> tuple[ModelName, VersionId]:
    """One version."""
    return ModelName(model), VersionId(version)


def test_routes_come_first_then_what_was_used_last() -> None:
    """A restarted backend gets back what clients needed a moment ago before what they needed yesterday."""
    demand = Demand()
    demand.lose(key("a", "1"), 10.0)
    demand.lose(key("b", "1"), 20.0)
    demand.route(ModelName("c"), [VersionId("2"), VersionId("1")])

    assert list(demand.unasked()) == [key("c", "2"), key("c", "1"), key("b", "1"), key("a", "1")]


def test_a_route_that_wants_nothing_any_more_is_forgotten() -> None:
    """What a model wanted before does not stay beside what it wants now."""
    demand = Demand()
    demand.route(ModelName("m"), [VersionId("1")])
    demand.route(ModelName("m"), [])

    assert list(demand.unasked()) == []


def test_the_first_request_sets_the_time() -> None:
    """Others that ask for the same version do not push it back."""
    demand = Demand()
    demand.ask(key("m", "1"), 1.0)
    demand.ask(key("m", "1"), 5.0)

    assert demand.cold == {key("m", "1"): 1.0}


def test_ready_ends_waiting_and_the_memory_of_a_lost_backend_and_failure_only_the_waiting() -> None:
    """What failed is still to come back when its backend does; nobody waits for it meanwhile."""
    demand = Demand()
    for version in "12":
        demand.ask(key("m", version), 1.0)
        demand.lose(key("m", version), 1.0)
    demand.is_ready(key("m", "1"))
    demand.has_failed(key("m", "2"))

    assert demand.cold == {}
    assert list(demand.unasked()) == [key("m", "2")]


def test_the_way_back_ends_with_its_window() -> None:
    """One that is over does not keep a version loaded, one that is not does."""
    demand = Demand()
    demand.leave(key("m", "1"), 100.0, "stage production")
    demand.leave(key("m", "2"), 150.0, "arm stable")
    demand.expire(200.0, 60.0)

    assert list(demand.left) == [key("m", "2")]


def test_versions_that_are_gone_are_forgotten() -> None:
    """Who waited for them, and that a backend had them once."""
    demand = Demand()
    for version in "12":
        demand.ask(key("m", version), 1.0)
        demand.lose(key("m", version), 1.0)
    demand.keep({key("m", "2")})

    assert list(demand.cold) == [key("m", "2")]
    assert list(demand.unasked()) == [key("m", "2")]


def test_a_model_that_is_gone_wants_and_waits_for_nothing() -> None:
    """Another model's requests go on waiting."""
    demand = Demand()
    for model in "mn":
        demand.ask(key(model, "1"), 1.0)
        demand.route(ModelName(model), [VersionId("1")])
    demand.forget(ModelName("m"))

    assert list(demand.cold) == [key("n", "1")]
    assert list(demand.unasked()) == [key("n", "1")]
