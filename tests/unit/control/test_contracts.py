"""What a version takes and gives, learned from the Triton that has it where the registry does not say."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from router.model import Contract, ModelName, TensorSpec, Version, VersionId
from router.ports import ColdWanted
from tests.unit.control.conftest import World

LEARNED = Contract((TensorSpec("x", "FP32", (-1,)),), (TensorSpec("y", "FP32", (-1,)),))
WRITTEN = Contract((TensorSpec("a", "INT64", (-1,)),), (TensorSpec("b", "INT64", (-1,)),))


def version(world: World) -> Version:
    """Version 1 of model m as the registry has it."""
    return world.shelf.models[ModelName("m")].versions[VersionId("1")]


def change(world: World, **fields: object) -> None:
    """Write version 1 of model m anew."""
    model = world.shelf.models[ModelName("m")]
    new = replace(version(world), **fields)  # type: ignore[arg-type]
    world.shelf.models[model.name] = replace(model, versions={new.version: new})
    world.shelf.hint()


async def test_a_load_teaches_the_contract(world: World) -> None:
    """It is known when the version is ready, and stays known when it is not loaded any more."""
    triton = world.add_triton()
    triton.contract_of["m.1"] = LEARNED
    world.shelf.set("m", "1")
    await world.settle()
    assert world.controller.residents.contract_of(version(world)) is None
    world.plane.happen(ColdWanted("m", "1"))
    await world.settle()
    assert world.plane.state("m", "1") == "ready"
    triton.loaded.clear()
    await world.settle()

    assert world.controller.residents.contract_of(version(world)) == LEARNED


async def test_what_the_registry_says_is_not_asked_for(world: World) -> None:
    """Its word stands, and the Triton's is not kept."""
    triton = world.add_triton()
    triton.contract_of["m.1"] = LEARNED
    world.shelf.set("m", "1")
    change(world, contract=WRITTEN)
    await world.settle()
    world.plane.happen(ColdWanted("m", "1"))
    await world.settle()

    assert world.controller.residents.contract_of(version(world)) == WRITTEN
    assert world.controller.residents.contracts == {}


async def test_what_was_loaded_before_we_came_is_asked_too(world: World) -> None:
    """A new process finds its versions resident, and needs their contracts to judge those that come."""
    triton = world.add_triton()
    triton.loaded.add(("m.1", "1"))
    triton.contract_of["m.1"] = LEARNED
    world.shelf.set("m", "1")
    await world.settle()
    (state,) = world.controller.residents.backends.values()
    await world.controller.ask_capacities(state)

    assert world.controller.residents.contract_of(version(world)) == LEARNED


async def test_a_contract_belongs_to_its_files(world: World) -> None:
    """Other words about the same files leave it; other files do not."""
    triton = world.add_triton()
    triton.contract_of["m.1"] = LEARNED
    world.shelf.set("m", "1")
    await world.settle()
    world.plane.happen(ColdWanted("m", "1"))
    await world.settle()
    change(world, tags={"team": "risk"})
    await world.settle()
    assert world.controller.residents.contract_of(version(world)) == LEARNED
    triton.contract_of.clear()
    change(world, digest="sha256:" + "1" * 64)
    await world.settle()

    assert world.controller.residents.contract_of(version(world)) is None


async def test_what_files_taught_that_were_replaced_meanwhile_is_not_taken_for_the_new_ones(
    world: World,
) -> None:
    """Their load ends after the registry named others under the same version."""
    triton = world.add_triton()
    triton.contract_of["m.1"] = LEARNED
    triton.hold = asyncio.Event()
    world.shelf.set("m", "1")
    await world.settle()
    world.plane.happen(ColdWanted("m", "1"))
    await world.settle()
    change(world, digest="sha256:" + "1" * 64)
    await world.settle()
    triton.hold.set()
    await world.settle()

    assert world.controller.residents.contract_of(version(world)) is None
