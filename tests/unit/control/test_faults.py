"""A load that fails by the fault of its backend: tried elsewhere or later, not held against the version."""

from __future__ import annotations

import pytest

from router.control.faults import CHANCES, Faults
from router.control.residents import Key
from router.errors import BackendUnable, BackendUnavailable, NoSpace, StagegateError
from router.model import BackendId, ModelName, VersionId
from router.ports import ColdWanted
from tests.unit.control.conftest import Triton, World

M = ModelName("m")
ONE: Key = (M, VersionId("1"))
T0, T1 = BackendId("t0"), BackendId("t1")
AWAY = BackendUnavailable("Triton t0 at t0:1: UNAVAILABLE: connection reset by peer")
FULL = BackendUnable("m.1 on Triton t0: Unable to initialize shared memory key: No space left on device")


async def asked_for(world: World, *names: str) -> list[Triton]:
    """Tritons of these names of which the first cannot load, and a request that waits for version 1."""
    tritons = [world.add_triton(name) for name in names]
    world.shelf.set("m", "1")
    await world.settle()
    return tritons


async def ask(world: World) -> None:
    """A request comes for version 1."""
    world.plane.happen(ColdWanted("m", "1"))
    await world.settle()


async def test_a_triton_that_goes_away_during_a_load_is_no_fault_of_the_version(world: World) -> None:
    """Who waits goes on waiting: the load is tried again as soon as it may."""
    (triton,) = await asked_for(world, "t0")
    triton.fault = AWAY
    await ask(world)
    while_away = (world.plane.state("m", "1"), dict(world.controller.residents.failures))
    said = world.controller.residents.trouble(ONE)
    triton.fault = None
    await world.later(1.0)

    assert while_away == ("cold", {})
    assert said == str(AWAY)
    assert triton.loads == ["m.1", "m.1"]
    assert world.plane.state("m", "1") == "ready"
    assert world.controller.residents.trouble(ONE) == ""


@pytest.mark.parametrize("fault", [AWAY, FULL, NoSpace("m 1: cannot be put into /repository: disk full")])
async def test_another_triton_takes_what_one_cannot(world: World, fault: StagegateError) -> None:
    """At once, and nobody was told of a failure."""
    first, second = await asked_for(world, "t0", "t1")
    first.fault = fault
    await ask(world)

    assert (first.loads, second.loads) == (["m.1"], ["m.1"])
    assert world.plane.state("m", "1") == "ready"
    for table in world.plane.history:
        assert all(version.state != "failed" for model in table.values() for version in model.versions)


async def test_a_triton_without_room_says_so_to_who_waits(world: World) -> None:
    """Where no other one can take it; it is tried again, with pauses that grow."""
    (triton,) = await asked_for(world, "t0")
    triton.fault = FULL
    await ask(world)
    told = next(version for version in world.plane.models["m"].versions if version.version == "1")
    for _ in range(6):
        world.plane.happen(ColdWanted("m", "1"))
        await world.later(0.5)

    assert (told.state, told.reason) == ("failed", str(FULL))
    assert len(triton.loads) == 3
    assert world.controller.residents.failures == {}

    triton.fault = None
    world.plane.happen(ColdWanted("m", "1"))
    await world.later(4.0)
    assert world.plane.state("m", "1") == "ready"


async def test_what_takes_one_triton_after_the_other_is_held_to_it(world: World) -> None:
    """A version may be what ends them: it does not go on from one to the next without end."""
    tritons = await asked_for(world, "t0", "t1", "t2", "t3")
    for triton in tritons:
        triton.fault = AWAY
    await ask(world)

    loads = [name for triton in tritons for name in triton.loads]
    assert len(loads) == CHANCES
    assert f"each of the last {CHANCES} loads" in world.controller.residents.failures[ONE].reason
    assert world.plane.state("m", "1") == "failed"


async def test_other_files_start_anew(world: World) -> None:
    """What kept a backend from loading a version says nothing of files that come later."""
    (triton,) = await asked_for(world, "t0")
    triton.fault = FULL
    await ask(world)
    world.shelf.set("m", "2")
    await world.settle()

    assert world.controller.residents.trouble(ONE) == ""


def test_a_version_waits_longer_each_time_and_only_where_it_failed() -> None:
    """Until it was loaded."""
    faults = Faults()
    faults.note(ONE, T0, "full", 0.0, away=False)
    faults.note(ONE, T0, "full", 10.0, away=False)

    assert faults.held(11.9) == {(ONE, T0)}
    assert faults.held(12.0) == frozenset()
    assert list(faults.due(11.0, 12.0)) == [M]
    assert faults.refusal(ONE, [T0], 11.0) == "full"
    assert faults.refusal(ONE, [T0, T1], 11.0) == faults.refusal(ONE, [], 11.0) == ""
    faults.clear(ONE)
    assert (faults.reason(ONE), faults.held(0.0)) == ("", frozenset())


def test_nothing_is_kept_of_what_is_gone() -> None:
    """Neither of versions nor of backends."""
    faults = Faults()
    two: Key = (M, VersionId("2"))
    for key in (ONE, two):
        faults.note(key, T0, "full", 0.0, away=False)
        faults.note(key, T1, "full", 0.0, away=False)
    faults.keep({two})
    faults.forget_backend(T0)

    assert faults.held(0.0) == {(two, T1)}
