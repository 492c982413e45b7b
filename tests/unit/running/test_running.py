"""A running gateway as operators see it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import cast

import pytest

from gateway import catalogue
from gateway.bridge import DataPlane
from gateway.operations import (
    AcceptedVersion,
    Change,
    ModelSummary,
    ReloadReport,
    ShadowComparison,
    VersionState,
)
from gateway.running import RunningGateway
from gateway.standing import Addresses
from router.control.entries import ModelEntry
from router.control.residents import files_of
from router.errors import (
    ContractBroken,
    InvalidInput,
    InvalidRoute,
    RegistryUnavailable,
    StateUnavailable,
    VersionNotFound,
)
from router.model import Arm, Contract, ModelName, Route, Shadow, TensorSpec, VersionId
from router.traffic.table import ShadowSpec
from tests.fakes.store import FakeStore
from tests.unit.control.conftest import Folders, World

ME = Change(actor="ann", reason="try it")


def route(*arms: Arm, registry: str = "") -> Route:
    """A route of model m."""
    return Route(ModelName("m"), arms, registry=registry)


class House:
    """A control loop over a store that may fail, and its operator's side."""

    def __init__(self) -> None:
        self.store = FakeStore()
        self.world = World(self.store)
        self.gateway = RunningGateway(
            controller=self.world.controller,
            store=self.store,
            data_plane=cast(DataPlane, self.world.plane),
            clock=self.world.clock,
            addresses=Addresses("", "", "", "", ""),
            registry_types={"local": "folder"},
            reload=self._reload,
            comparisons=lambda: self.compared,
        )
        self.compared: tuple[ShadowComparison, ...] = ()

    async def _reload(self) -> ReloadReport:
        return ReloadReport("", (), ())


@pytest.fixture
async def house() -> AsyncIterator[House]:
    """A running one with one model of two versions."""
    house = House()
    task = asyncio.create_task(house.world.controller.run())
    house.world.controller.add_registry(house.world.shelf)
    house.world.add_triton()
    house.world.shelf.set("m", "12", {"production": "1"})
    await house.world.settle()
    yield house
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_a_route_is_in_force_when_its_change_returns(house: House) -> None:
    """No moment is left in which an operator's next look shows the old one."""
    changes = await house.gateway.apply_routes(
        [route(Arm("stable", "2", 10_000))], expected_revision=0, change=ME
    )

    assert [(change.revision, change.actor) for change in changes] == [(1, "ann")]
    assert house.world.plane.arms("m") == {"stable": ("2", 10_000)}


async def test_a_change_is_carried_through_when_its_caller_goes_away(house: House) -> None:
    """What is in the store is in force, also where the operator pressed Ctrl-C in between."""
    caller = asyncio.create_task(
        house.gateway.apply_routes([route(Arm("stable", "2", 10_000))], expected_revision=None, change=ME)
    )
    await asyncio.sleep(0)
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller
    await house.world.settle()

    assert house.world.plane.arms("m") == {"stable": ("2", 10_000)}


async def test_with_the_store_away_nothing_changes(house: House) -> None:
    """The error says so, and the route in force stays."""
    house.store.down = "the disk is full"
    with pytest.raises(StateUnavailable, match="the disk is full"):
        await house.gateway.apply_routes(
            [route(Arm("stable", "2", 10_000))], expected_revision=None, change=ME
        )

    assert house.world.plane.arms("m") == {"stable": ("1", 10_000)}


def teach(house: House, version: str, tensor: TensorSpec) -> None:
    """A Triton told what a version takes."""
    known = house.world.shelf.models[ModelName("m")].versions[VersionId(version)]
    told = files_of(known), Contract((tensor,), ())
    house.world.controller.residents.contracts[known.model, known.version] = told


async def test_a_canary_that_breaks_its_clients_is_refused_unless_somebody_forces_it(house: House) -> None:
    """With the differences; forced, route and acceptance are one change of the state."""
    teach(house, "1", TensorSpec("x", "FP32", (-1,)))
    teach(house, "2", TensorSpec("z", "FP32", (-1,)))
    house.world.shelf.hint()
    split = [route(Arm("stable", "production", 9_000), Arm("canary", "2", 1_000))]
    with pytest.raises(ContractBroken) as broken:
        await house.gateway.apply_routes(split, expected_revision=None, change=ME)
    with pytest.raises(InvalidInput, match="a reason is needed"):
        await house.gateway.apply_routes(split, expected_revision=None, change=Change("ann", ""), force=True)
    before = await house.store.revision()
    (change,) = await house.gateway.apply_routes(split, expected_revision=0, change=ME, force=True)
    await house.world.settle()

    assert "arm canary: version 2 breaks the contract of version 1: input 'x'" in broken.value.message
    assert len(broken.value.differences) == 2
    assert (before, change.revision) == (0, 1)
    assert {one.version for one in await house.store.accepted()} == {"1", "2"}
    assert [change.after for change in await house.store.history(ModelName("m"), 5)] == split
    assert house.world.plane.arms("m")["canary"] == ("2", 1_000)


async def test_a_version_is_accepted_with_the_way_back(house: House) -> None:
    """Told again it changes nothing; without a reason it is refused."""
    teach(house, "1", TensorSpec("x", "FP32", (-1,)))
    teach(house, "2", TensorSpec("z", "FP32", (-1,)))
    house.world.shelf.set("m", "12", {"production": "2"})
    await house.world.settle()
    held = (await house.gateway.versions(ModelName("m"))).problem
    with pytest.raises(InvalidInput, match="a reason is needed"):
        await house.gateway.accept(ModelName("m"), "production", change=Change("ann", " "))

    first = await house.gateway.accept(ModelName("m"), "production", change=ME)
    await house.world.settle()
    again = await house.gateway.accept(ModelName("m"), "2", change=ME)

    assert "version 2 breaks the contract of version 1" in held
    assert "`stagegate accept m 2 --reason TEXT`" in held
    assert first == AcceptedVersion("m", "2", ("1",), revision=1)
    assert again == AcceptedVersion("m", "2", already=True, revision=1)
    assert house.world.plane.arms("m") == {"stable": ("2", 10_000)}


async def test_one_impossible_route_refuses_the_whole_change(house: House) -> None:
    """Nothing is written where one route names what is not there."""
    good = route(Arm("stable", "2", 10_000))
    with pytest.raises(VersionNotFound):
        await house.gateway.apply_routes(
            [good, route(Arm("stable", "7", 10_000))], expected_revision=None, change=ME
        )
    with pytest.raises(InvalidRoute, match="no registry 'prod'"):
        await house.gateway.apply_routes(
            [route(Arm("stable", "1", 10_000), registry="prod")], expected_revision=None, change=ME
        )

    assert await house.store.revision() == 0


async def test_a_shadow_is_loaded_and_shown(house: House) -> None:
    """Because the route names it; an operator sees what came of its copies and its answers."""
    shadowed = replace(route(Arm("stable", "1", 10_000)), shadows=(Shadow("next", "2", 2_500),))
    await house.gateway.apply_routes([shadowed], expected_revision=None, change=ME)
    await house.world.settle()
    house.compared = (ShadowComparison("m", "2", "next", compared=7, mismatches={"value": 2}),)

    view = await house.gateway.route(ModelName("m"))
    status = await house.gateway.status()
    gauges = await house.gateway.gauges()

    assert house.world.plane.models["m"].shadows == (ShadowSpec("next", "2", 2_500),)
    assert house.world.plane.state("m", "2") == "ready"
    (shadow,) = view.shadows
    assert (shadow.version, shadow.state, shadow.waiting) == ("2", VersionState.READY, "")
    assert shadow.results == {"ok": 7, "error": 1, "queue_full": 3}
    assert shadow.comparison == house.compared[0]
    assert gauges.shadows == house.compared
    assert status.requests == 10, "copies are no requests of clients"


async def test_a_shadow_that_could_never_be_served_is_refused(house: House) -> None:
    """As an arm is."""
    shadowed = replace(route(Arm("stable", "1", 10_000)), shadows=(Shadow("next", "7"),))

    with pytest.raises(VersionNotFound):
        await house.gateway.apply_routes([shadowed], expected_revision=None, change=ME)


async def test_deleting_a_route_goes_back_to_production(house: House) -> None:
    """The implicit route decides again."""
    await house.gateway.apply_routes([route(Arm("stable", "2", 10_000))], expected_revision=None, change=ME)
    await house.gateway.delete_route(ModelName("m"), expected_revision=1, change=ME)

    assert house.world.plane.arms("m") == {"stable": ("1", 10_000)}


# === promotions and rollbacks ===


async def problems_of(house: House) -> list[str]:
    """What the status tells of model m."""
    return [one.message for one in (await house.gateway.status()).problems if one.subject == "m"]


async def test_a_decision_that_its_registry_does_not_take_is_told_everywhere(house: House) -> None:
    """In the list of models, the versions, the route and the status; and counted."""
    worker = asyncio.create_task(house.gateway.moving.worker.run())
    house.world.shelf.fault = RegistryUnavailable("registry 'local': away")
    moved = await house.gateway.promote(
        ModelName("m"), "2", "@champion", keep_existing=False, force=False, change=ME
    )
    await house.world.settle()
    sentence = (
        "alias champion: registry 'local' names nothing, traffic follows 2, because the promote by ann is "
        "not written yet: registry 'local': away"
    )
    (summary,) = await house.gateway.models()
    gauges = await house.gateway.gauges()
    (row,) = await house.gateway.writes(0)

    assert (moved.before, moved.after, moved.write) == ("", "2", row.id)
    assert (summary.problem, summary.aliases) == (sentence, {"champion": "2"})
    assert (await house.gateway.versions(ModelName("m"))).problem == sentence
    assert (await house.gateway.route(ModelName("m"))).notes == (sentence,)
    assert await problems_of(house) == [sentence]
    assert gauges.writes_pending == {"local": 1}
    assert (row.state, row.registry_names, row.note) == ("pending", "", "registry 'local': away")

    cleared = await house.gateway.clear_write(row.id, change=ME)
    assert (cleared.state, (await house.gateway.models())[0].problem) == ("cleared", "")
    worker.cancel()
    await asyncio.gather(worker, return_exceptions=True)


async def test_a_decision_that_came_to_nothing_is_told_for_a_while(house: House) -> None:
    """Somebody moved the stage in the registry; an hour later it is history."""
    worker = asyncio.create_task(house.gateway.moving.worker.run())
    house.world.shelf.fault = RegistryUnavailable("registry 'local': away")
    await house.gateway.promote(
        ModelName("m"), "2", "production", keep_existing=False, force=False, change=ME
    )
    house.world.shelf.set("m", "123", {"production": "3"})
    house.world.shelf.fault = None
    await house.world.settle()
    await house.world.later(1)
    told = await problems_of(house)
    await house.world.later(3_700)

    assert told == [
        "stage production: the promote to version 2 by ann came to nothing: registry 'local' names 3 now, "
        "which was not decided here; traffic follows it"
    ]
    assert await problems_of(house) == []
    worker.cancel()
    await asyncio.gather(worker, return_exceptions=True)


async def test_forcing_needs_a_reason(house: House) -> None:
    """Nothing is changed without."""
    with pytest.raises(InvalidInput, match="a reason is needed"):
        await house.gateway.promote(
            ModelName("m"),
            "2",
            "production",
            keep_existing=False,
            force=True,
            change=Change("ann", " "),
        )
    assert await house.store.revision() == 0


async def test_a_rollback_goes_by_the_stable_arm(house: House) -> None:
    """And says what it came to."""
    await house.gateway.promote(
        ModelName("m"), "2", "production", keep_existing=False, force=False, change=ME
    )
    moved = await house.gateway.rollback(ModelName("m"), "", "", change=ME)

    assert (moved.kind, moved.name, moved.before, moved.after) == ("stage", "production", "2", "1")


async def test_a_version_that_is_fetched_says_how_far_it_is(house: House) -> None:
    """In the list of versions, and in what the stage waits for in the status; both end with the load."""
    (backend,) = house.world.controller.residents.backends.values()
    folders = cast(Folders, backend.folders)
    folders.hold = asyncio.Event()
    house.world.shelf.set("m", "12", {"production": "2"})
    await house.world.settle()

    new = (await house.gateway.versions(ModelName("m"))).versions[-1]
    assert (new.state, new.reason) == (VersionState.LOADING, "m 2: fetched 3.0 of 7.0 MiB")
    told = (await house.gateway.status()).problems
    waits = "stage production of model 'm': waits for version 2 to be loaded; version 1 answers until then"
    assert ("model m", waits) in [(one.subject, one.message) for one in told]

    folders.hold.set()
    await house.world.settle()

    new = (await house.gateway.versions(ModelName("m"))).versions[-1]
    assert (new.state, new.reason) == (VersionState.READY, "")
    told = (await house.gateway.status()).problems
    assert [one for one in told if one.subject.startswith("model")] == []


async def test_others_have_their_turn_while_a_long_list_is_made(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of very many models it takes long, and loads and routes must not wait for it."""
    monkeypatch.setattr(catalogue, "AT_ONCE", 2)
    for letter in "nopqrstuvw":
        house.world.shelf.set(letter, "1")
    await house.world.settle()
    told: list[int] = []
    summary = house.gateway._catalogue._summary

    def counted(entry: ModelEntry) -> ModelSummary:
        told.append(len(told))
        return summary(entry)

    monkeypatch.setattr(house.gateway._catalogue, "_summary", counted)
    seen: set[int] = set()

    async def other() -> None:
        while True:
            seen.add(len(told))
            await asyncio.sleep(0)

    task = asyncio.create_task(other())
    models = await house.gateway.models()
    task.cancel()

    assert [model.name for model in models] == list("mnopqrstuvw")
    assert {2, 4, 6, 8, 10} <= seen
