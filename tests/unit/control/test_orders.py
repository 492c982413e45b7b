"""What operators want: each new reading tells which models it concerns, and no others."""

from __future__ import annotations

from dataclasses import replace

from router.control.orders import Orders
from router.model import Arm, BackendModel, ModelName, Route, VersionId
from router.ports import Accepted, StageTransition, StoredRoute, WriteBack, WriteState

M, N = ModelName("m"), ModelName("n")


def stored(model: ModelName, arm: Arm) -> StoredRoute:
    """A route with one arm."""
    return StoredRoute(Route(model, (arm,)), 1, "ada", "", 0.0)


def moved(model: ModelName, version: str) -> WriteBack:
    """A promotion on its way to the registry."""
    return WriteBack("local", StageTransition(model, VersionId(version), "production"), "promote")


def test_only_routes_that_came_went_or_changed_concern_their_models() -> None:
    """A store gives equal routes as new objects at each reading: that is no change."""
    one, two = Arm("stable", "1", 10_000), Arm("stable", "2", 10_000)
    orders = Orders()

    assert orders.set_routes(1, {M: stored(M, one), N: stored(N, one)}) == {M, N}
    assert orders.set_routes(2, {M: stored(M, two), N: stored(N, one)}) == {M}
    assert orders.set_routes(3, {M: stored(M, two)}) == {N}
    assert orders.revision == 3


def test_a_decision_concerns_its_model_until_the_registry_has_it() -> None:
    """A try that failed changes nothing for clients; the end of the decision does."""
    orders = Orders()
    write = moved(M, "2")

    assert orders.set_writes([write]) == {M}
    assert orders.set_writes([replace(write, attempts=1, note="away")]) == set()
    assert orders.about() == {M}
    assert orders.set_writes([replace(write, state=WriteState.AGREED)]) == {M}
    assert orders.about() == set()


def test_what_was_accepted_concerns_its_model() -> None:
    """Versions are collected for each model of each registry."""
    orders = Orders()
    first = Accepted("local", M, VersionId("2"))
    other = Accepted("local", M, VersionId("3"))

    assert orders.set_accepted([first]) == {M}
    assert orders.set_accepted([first, other]) == {M}
    assert orders.set_accepted([first, other]) == set()
    assert orders.accepted == {("local", M): {"2": first, "3": other}}
    assert orders.set_accepted([replace(first, files="others"), other]) == {M}


def test_routes_to_what_backends_have_are_known() -> None:
    """They follow what comes and goes on backends that load for themselves."""
    orders = Orders()
    mixed = stored(M, Arm("stable", "", 10_000, BackendModel("legacy", "1")))
    orders.set_routes(1, {M: mixed, N: stored(N, Arm("stable", "1", 10_000))})

    assert orders.to_backend_models() == {M}
