"""A version that breaks its clients' contract does not meet them, until somebody accepts it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from router.control.decide import Decider, Order
from router.control.writebacks import WriteBacks
from router.errors import ContractBroken
from router.model import Arm, Contract, ModelName, Route, TensorSpec, VersionId
from router.ports import ACCEPT, ColdWanted, Decision
from tests.unit.control.conftest import Triton, World

M = ModelName("m")
TAKES_X = Contract((TensorSpec("x", "FP32", (-1,)),), (TensorSpec("y", "FP32", (-1,)),))
TAKES_Z = Contract((TensorSpec("z", "FP32", (-1,)),), (TensorSpec("y", "FP32", (-1,)),))


TAKES_Y = Contract((TensorSpec("y", "FP32", (-1,)),), (TensorSpec("y", "FP32", (-1,)),))


def registered(world: World, production: str, **second: Any) -> None:
    """Versions 1, 2 and 3, of which the second is this."""
    world.shelf.set("m", "123", {"production": production})
    model = world.shelf.models[M]
    two = replace(model.versions[VersionId("2")], **second)
    world.shelf.models[M] = replace(model, versions={**model.versions, two.version: two})


async def serving_version_1(world: World) -> Triton:
    """Production is version 1 and loaded; version 2 takes something else."""
    triton = world.add_triton()
    triton.contract_of = {"m.1": TAKES_X, "m.2": TAKES_Z, "m.3": TAKES_X}
    world.shelf.set("m", "123", {"production": "1"})
    await world.settle()
    world.plane.happen(ColdWanted("m", "1"))
    await world.settle()
    return triton


def stable(world: World) -> str:
    """What clients meet."""
    return world.plane.arms("m")["stable"][0]


def waits(world: World) -> str:
    """What is waited for."""
    return "\n".join(wait.sentence for wait in world.controller.models[M].serving.waiting)


async def accept(world: World, *versions: str) -> None:
    """Somebody accepts versions."""
    model = world.controller.models[M].registered
    accepted = tuple(world.controller.acceptance(model, VersionId(version)) for version in versions)
    await world.routes.decide(
        Decision(ACCEPT, accepted=accepted), expected_revision=None, actor="ana", reason="known"
    )
    await world.controller.load_routes()
    await world.settle()


async def test_a_stage_that_moves_to_what_breaks_its_clients_is_held_after_the_load_told(
    world: World,
) -> None:
    """Its contract is learned when it is loaded; it never took a request."""
    triton = await serving_version_1(world)
    world.shelf.set("m", "123", {"production": "2"})
    await world.settle()

    assert triton.loads == ["m.1", "m.2"]
    assert stable(world) == "1"
    assert "version 2 breaks the contract of version 1: input 'x'" in waits(world)
    for table in world.plane.history:
        assert all(arm.version != "2" for arm in table["m"].arms) if "m" in table else True


async def test_what_was_accepted_takes_over_and_stays_accepted(world: World) -> None:
    """Also by a process that comes later: it is in the state."""
    await serving_version_1(world)
    world.shelf.set("m", "123", {"production": "2"})
    await world.settle()

    await accept(world, "2")

    assert stable(world) == "2"
    assert world.controller.accepted["local", M].keys() == {"2"}
    later = World(world.routes)
    await later.controller.load_routes()
    assert later.controller.accepted == world.controller.accepted


@pytest.mark.parametrize("now", [{"digest": "sha256:b"}, {"format": "python"}, {"contract": TAKES_Y}])
async def test_what_comes_later_under_an_accepted_version_id_is_not_accepted(
    world: World, now: dict[str, Any]
) -> None:
    """Other files, or another contract: nobody has seen them. What was accepted still is, when it is back."""
    was = {"digest": "sha256:A", "contract": TAKES_Z}
    await serving_version_1(world)
    registered(world, "1", **was)
    await world.settle()
    await accept(world, "1", "2")
    registered(world, "2", **was)
    await world.settle()
    held = []
    for then in (was | now, was | {"digest": "sha256:a", "artifact": "/moved/2"}):
        registered(world, "1", **then)
        await world.settle()
        registered(world, "2", **then)
        await world.settle()
        held.append((stable(world), "breaks the contract" in waits(world)))

    assert held == [("1", True), ("2", False)]


async def test_what_fits_moves_on_though_nobody_accepted_it(world: World) -> None:
    """The gate asks nothing of versions that break nothing."""
    await serving_version_1(world)
    world.shelf.set("m", "123", {"production": "3"})
    await world.settle()

    assert stable(world) == "3"


async def test_a_contract_that_comes_to_be_known_later_lets_go(world: World) -> None:
    """Where the Triton did not tell at the load, it is asked again."""
    triton = await serving_version_1(world)
    del triton.contract_of["m.3"]
    world.shelf.set("m", "123", {"production": "3"})
    await world.settle()
    held = (stable(world), waits(world))
    triton.contract_of["m.3"] = TAKES_X
    for state in world.controller.residents.backends.values():
        for _ in range(3):
            await world.controller.ask_capacities(state)
    await world.settle()

    assert held[0] == "1"
    assert "waits for version 3 to tell what it takes and gives" in held[1]
    assert stable(world) == "3"


async def test_a_promotion_is_refused_or_forced_and_the_way_back_is_open(world: World) -> None:
    """Forced, it takes over, and a rollback needs no force of its own."""
    await serving_version_1(world)
    worker = WriteBacks(world.controller, world.routes, world.clock)
    decider = Decider(world.controller, world.routes, worker, world.clock)
    world.plane.happen(ColdWanted("m", "2"))
    await world.settle()

    with pytest.raises(ContractBroken) as refused:
        await decider.promote(M, "2", "production", Order("ana", "better"))
    await decider.promote(M, "2", "production", Order("ana", "better", force=True))
    await world.settle()
    forced = stable(world)
    await decider.rollback(M, "", Order("ana", "worse"))
    await world.settle()

    assert refused.value.differences
    assert "--force" in str(refused.value)
    assert (forced, stable(world)) == ("2", "1")
    assert {one.version for one in await world.routes.accepted()} == {"1", "2"}


async def test_a_canary_that_breaks_waits_with_its_whole_split(world: World) -> None:
    """And once it is accepted it is in."""
    await serving_version_1(world)
    world.plane.happen(ColdWanted("m", "2"))
    await world.settle()
    world.routes.put(Route(M, (Arm("stable", "production", 9_000), Arm("canary", "2", 1_000))))
    await world.controller.load_routes()
    await world.settle()
    held = world.plane.arms("m")

    await accept(world, "2")

    assert held == {"stable": ("1", 10_000)}
    assert world.plane.arms("m") == {"stable": ("1", 9_000), "canary": ("2", 1_000)}
