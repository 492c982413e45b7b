"""Two gateways on one Triton: neither takes away what clients of the other use, and they do not fight."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from router.model import VersionId
from tests.unit.control.conftest import Triton, World

TWO = ("m.2", "1")


class Pair:
    """Two control loops with registries that say the same, over one Triton."""

    def __init__(self) -> None:
        self.mine, self.theirs = World(), World()
        self.triton = self.mine.add_triton()
        other: Triton = self.theirs.add_triton()
        other.loaded, other.loads, other.unloads = self.triton.loaded, self.triton.loads, self.triton.unloads
        other.used = self.triton.used
        for world in (self.mine, self.theirs):
            world.shelf.set("m", "12", {"production": "1"})

    async def settle(self) -> None:
        """Let everything that can happen now happen, in turns."""
        for world in (self.mine, self.theirs, self.mine, self.theirs):
            await world.settle()

    async def later(self, seconds: float) -> None:
        """Time goes on for both."""
        for world in (self.mine, self.theirs):
            world.clock.time += seconds
        for world in (self.mine, self.theirs, self.mine, self.theirs):
            world.controller.look_at_time()
            await world.settle()

    async def ask(self, world: World, version: str = "2") -> None:
        """A client of one of the gateways asks for a version."""
        name = next(iter(world.controller.models))
        world.controller.residents.last_use[name, VersionId(version)] = world.clock.now()
        world.controller.want(name, VersionId(version))
        await self.settle()


@pytest.fixture
async def pair() -> AsyncIterator[Pair]:
    """Both run."""
    pair = Pair()
    tasks = [asyncio.create_task(world.controller.run()) for world in (pair.mine, pair.theirs)]
    for world in (pair.mine, pair.theirs):
        world.controller.add_registry(world.shelf)
    await pair.settle()
    yield pair
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def test_what_another_gateway_loaded_is_used_and_left(pair: Pair) -> None:
    """Who loaded it unloads it."""
    await pair.ask(pair.theirs)
    assert pair.mine.plane.state("m", "2") == "ready"
    for _ in range(4):
        await pair.later(1_000.0)
        await pair.ask(pair.theirs)

    assert (TWO in pair.triton.loaded, pair.triton.loads, pair.triton.unloads) == (True, ["m.2"], [])
    await pair.later(1_801.0)
    assert (TWO in pair.triton.loaded, pair.triton.unloads) == (False, ["m.2"])


async def test_what_others_ask_for_is_not_idle(pair: Pair) -> None:
    """Triton knows of all requests; what was there before may be anybody's."""
    await pair.ask(pair.mine)
    for _ in range(4):
        await pair.later(1_000.0)
        pair.triton.used["m.2"] = pair.mine.clock.unix() - 10.0
    assert pair.triton.unloads == []
    await pair.later(1_780.0)
    assert pair.triton.unloads == []

    await pair.later(20.0)
    assert pair.triton.unloads == ["m.2"]


async def test_a_clock_that_is_ahead_keeps_nothing_for_ever(pair: Pair) -> None:
    """Only for as long as it is ahead."""
    await pair.ask(pair.mine)
    pair.triton.used["m.2"] = pair.mine.clock.unix() + 900.0
    for _ in range(4):
        await pair.later(1_000.0)

    assert pair.triton.unloads == ["m.2"]


async def test_what_one_unloads_the_other_does_not_load_again(pair: Pair) -> None:
    """Nobody asks for it; what was lost while it was in use comes back."""
    await pair.ask(pair.mine)
    for _ in range(6):
        await pair.later(1_000.0)
    assert (pair.triton.loads, pair.triton.unloads) == (["m.2"], ["m.2"])

    await pair.ask(pair.mine)
    pair.triton.loaded.discard(TWO)
    await pair.settle()
    assert TWO in pair.triton.loaded


async def test_a_triton_that_does_not_tell_is_believed_to_be_idle(pair: Pair) -> None:
    """What this gateway knows is all there is; one that does not answer is asked again later."""
    await pair.ask(pair.mine)
    pair.triton.silent = True
    await pair.later(1_801.0)
    assert pair.triton.unloads == []
    pair.triton.silent = False
    await pair.later(10.0)

    assert pair.triton.unloads == ["m.2"]
