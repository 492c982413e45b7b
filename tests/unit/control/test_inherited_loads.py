"""What an earlier process of the same gateway loads, or one that takes it over, is as its own load."""

from __future__ import annotations

import asyncio

from router.model import ModelName, VersionId
from tests.unit.control.conftest import Folders, Triton, World

TWO = ("m.2", "1")


async def followed(world: World) -> Triton:
    """A Triton, looked at once, and a model of which nobody asks for version 2."""
    triton = world.add_triton()
    world.shelf.set("m", "12", {"production": "1"})
    await world.settle()
    return triton


async def unloads(world: World, triton: Triton) -> list[str]:
    """What is unloaded of what nobody asks for."""
    for _ in range(3):
        await world.later(1_801.0)
    return triton.unloads


async def test_what_the_other_process_loads_meanwhile_is_ours(world: World) -> None:
    """The overlap may be long; it began before the first look."""
    world.controller.overlap()
    triton = await followed(world)
    await world.later(500.0)
    triton.loaded.add(TWO)
    await world.settle()

    assert await unloads(world, triton) == ["m.2"]


async def test_what_it_began_to_load_is_ours_when_it_ends(world: World) -> None:
    """It drains, and a load that it asked for last may take as long as loads may."""
    world.controller.overlap()
    triton = await followed(world)
    world.controller.overlapped(30.0)
    await world.later(89.0)
    triton.loaded.add(TWO)
    await world.settle()

    assert await unloads(world, triton) == ["m.2"]


async def test_after_that_it_is_somebody_elses(world: World) -> None:
    """Of another gateway, who unloads it."""
    world.controller.overlap()
    triton = await followed(world)
    world.controller.overlapped(30.0)
    await world.later(91.0)
    triton.loaded.add(TWO)
    await world.settle()

    assert await unloads(world, triton) == []


async def test_a_load_that_a_process_before_left_behind_is_ours(world: World) -> None:
    """It was under way when this one came, as what was ready then."""
    triton = world.add_triton()
    triton.arriving.add("m.2")
    world.shelf.set("m", "12", {"production": "1"})
    await world.settle()
    triton.arriving.clear()
    triton.loaded.add(TWO)
    await world.settle()

    assert await unloads(world, triton) == ["m.2"]


async def test_a_stale_copy_of_somebody_else_stays_where_one_of_ours_goes(world: World) -> None:
    """Both hold files that the registry no longer has."""
    triton = await followed(world)
    await asyncio.sleep(0)
    for name in ("m.2", "m.2-theirs"):
        world.controller.residents.seats[name] = ("m", "2")  # type: ignore[index,assignment]
    world.controller.want("m", "2")  # type: ignore[arg-type]
    await world.settle()
    triton.loaded.add(("m.2-theirs", "1"))
    await world.settle()
    world.shelf.set("m", "1", {"production": "1"})
    await world.settle()

    assert triton.unloads == ["m.2"]
    assert ("m.2-theirs", "1") in triton.loaded


async def test_a_backend_that_is_dropped_while_files_come_gets_no_load(world: World) -> None:
    """As a reload does that changes its section: the one that came instead loads it, and owns it."""
    before = await followed(world)
    (state,) = world.controller.residents.backends.values()
    assert isinstance(state.folders, Folders)
    hold = state.folders.hold = asyncio.Event()
    world.controller.want(ModelName("m"), VersionId("2"))
    await world.settle()
    await world.controller.drop_backend(state.name)
    after = world.add_triton()
    hold.set()
    await world.settle()
    await world.later(60.0)

    assert "m.2" not in before.loads
    world.controller.want(ModelName("m"), VersionId("2"))
    await world.settle()
    assert "m.2" in after.loads
    assert "m.2" in await unloads(world, after)
