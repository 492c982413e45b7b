"""The control loop: what it puts into the table, and when."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from string import ascii_letters

import pytest

from router.control import controller
from router.control.catalog import Seat
from router.errors import RegistryUnavailable, Unavailable
from router.model import (
    Arm,
    BackendId,
    BackendModel,
    Capacity,
    Control,
    ModelName,
    Route,
    TritonName,
    Version,
    VersionId,
)
from router.ports import BackendDown, ColdWanted, VersionUse, WebhookArrived
from tests.unit.control.conftest import Triton, World

ONE = (ModelName("m"), VersionId("1"))


async def routed(world: World, version: str) -> None:
    """Let an operator send everything of a model to one version."""
    world.routes.put(Route(ModelName("m"), (Arm("stable", version, 10_000),)))
    await world.controller.load_routes()
    await world.settle()


async def loaded(world: World, model: str = "m", version: str = "1") -> None:
    """Ask for a version as a cold request does, and let it load."""
    world.plane.happen(ColdWanted(model, version))
    await world.settle()
    assert world.plane.state(model, version) == "ready"


async def test_a_registered_model_is_cold_until_somebody_asks(world: World) -> None:
    """Nothing is loaded for a plain model at first sight; a request loads exactly its version."""
    triton = world.add_triton()
    world.shelf.set("m", "12", {"production": "1"})
    await world.settle()
    assert triton.loads == []

    await loaded(world)

    assert triton.loads == ["m.1"]
    assert world.plane.arms("m") == {"stable": ("1", 10_000)}


async def test_many_requests_for_a_cold_version_cause_one_load(world: World) -> None:
    """While a load runs, asking again starts no second one."""
    triton = world.add_triton()
    triton.hold = asyncio.Event()
    world.shelf.set("m", "1")
    await world.settle()
    for _ in range(5):
        world.plane.happen(ColdWanted("m", "1"))
        await world.settle()
    triton.hold.set()
    await world.settle()

    assert triton.loads == ["m.1"]
    assert world.plane.state("m", "1") == "ready"


async def test_a_stage_moves_traffic_only_after_the_load(world: World) -> None:
    """While the new version loads, the old one keeps all traffic; afterwards the new one has it."""
    triton = world.add_triton()
    world.shelf.set("m", "12", {"production": "1"})
    await world.settle()
    await loaded(world)
    triton.hold = asyncio.Event()
    world.shelf.set("m", "12", {"production": "2"})
    await world.settle()
    while_loading = world.plane.arms("m")
    triton.hold.set()
    await world.settle()

    assert while_loading == {"stable": ("1", 10_000)}
    assert world.plane.arms("m") == {"stable": ("2", 10_000)}
    for table in world.plane.history:
        states = {version.version: version.state for version in table["m"].versions} if "m" in table else {}
        if "2" in states and any(arm.version == "2" for arm in table["m"].arms):
            assert states["2"] == "ready"


async def test_a_version_that_cannot_load_never_takes_traffic(world: World) -> None:
    """The failure is shown with its reason, retried with back-off, and the old version goes on."""
    triton = world.add_triton()
    triton.bad = {"m.2"}
    world.shelf.set("m", "12", {"production": "1"})
    await world.settle()
    await loaded(world)
    world.shelf.set("m", "12", {"production": "2"})
    await world.settle()
    failed = next(v for v in world.plane.models["m"].versions if v.version == "2")
    assert (failed.state, failed.reason) == ("failed", "this model cannot be loaded")
    assert world.plane.arms("m") == {"stable": ("1", 10_000)}

    triton.bad = set()
    await world.later(2.0)

    assert triton.loads == ["m.1", "m.2", "m.2"]
    assert world.plane.arms("m") == {"stable": ("2", 10_000)}


async def test_a_registry_that_cannot_be_read_changes_nothing(world: World) -> None:
    """The last reading goes on, and the registry's state says why."""
    world.add_triton()
    world.shelf.set("m", "1")
    await world.settle()
    await loaded(world)
    before = world.plane.models
    world.shelf.fault = RegistryUnavailable("the disk is gone")
    world.shelf.set("m", "12")
    await world.settle()

    assert world.plane.models == before
    assert world.controller.registries["local"].error == "the disk is gone"


async def test_a_triton_that_restarts_gets_its_set_back(world: World) -> None:
    """What was loaded before is loaded again without a request."""
    triton = world.add_triton()
    world.shelf.set("m", "12")
    await world.settle()
    await loaded(world, version="1")
    triton.loaded.clear()
    await world.settle()

    assert triton.loads == ["m.1", "m.1"]
    assert world.plane.state("m", "1") == "ready"


async def test_a_lost_connection_takes_the_backend_out_at_once(world: World) -> None:
    """The data plane's own notice is enough: requests wait for the other backend instead of failing."""
    first = world.add_triton("t0")
    world.shelf.set("m", "1")
    await world.settle()
    await loaded(world)
    second = world.add_triton("t1")
    await world.settle()
    first.away = True
    world.plane.happen(BackendDown("t0", "connection refused"))
    await world.settle()

    assert second.loads == ["m.1"]
    assert world.plane.models["m"].versions[0].backends == ("t1",)


async def test_one_missed_look_does_not_take_a_backend_out(world: World) -> None:
    """A single slow answer changes nothing; the second in a row does."""
    triton = world.add_triton()
    world.shelf.set("m", "1")
    await world.settle()
    await loaded(world)
    triton.away = True
    state = next(iter(world.controller.residents.backends.values()))
    await world.controller.probe(state)
    assert state.up

    await world.controller.probe(state)

    assert not state.up


async def test_what_was_loaded_before_we_came_is_unloaded_when_idle(world: World) -> None:
    """Its time counts from when it was first seen; before that nobody knows of its use."""
    triton = world.add_triton()
    triton.loaded |= {("m.1", "1"), ("m.2", "1")}
    world.shelf.set("m", "12", {"production": "1"})
    await world.settle()
    await world.later(1799)
    assert len(triton.loaded) == 2
    await world.later(2)
    await world.settle()

    assert world.records.unloads == [("m", "2", "t0", "idle")]


async def test_a_version_that_nothing_names_is_unloaded_when_idle(world: World) -> None:
    """After the idle time it goes; what a stage names stays for ever."""
    triton = world.add_triton()
    world.shelf.set("m", "12", {"production": "1"})
    await world.settle()
    await loaded(world, version="1")
    await loaded(world, version="2")
    await world.later(1799.0)
    assert triton.loaded == {("m.1", "1"), ("m.2", "1")}

    await world.later(2.0)

    assert triton.loaded == {("m.1", "1")}
    assert world.records.unloads == [("m", "2", "t0", "idle")]
    assert world.plane.state("m", "2") == "cold"


async def test_a_split_waits_for_its_new_arm(world: World) -> None:
    """A canary with weight gets it only once it is resident; then both arms have exactly theirs."""
    triton = world.add_triton()
    world.shelf.set("m", "12", {"production": "1"})
    await world.settle()
    await loaded(world)
    triton.hold = asyncio.Event()
    world.routes.put(Route(ModelName("m"), (Arm("stable", "production", 9_000), Arm("canary", "2", 1_000))))
    await world.controller.load_routes()
    await world.settle()
    while_loading = world.plane.arms("m")
    triton.hold.set()
    await world.settle()

    assert while_loading == {"stable": ("1", 10_000)}
    assert world.plane.arms("m") == {"stable": ("1", 9_000), "canary": ("2", 1_000)}


async def test_models_of_a_triton_that_nobody_controls_are_routable(world: World) -> None:
    """Name and version are Triton's; the highest is the default; a registry model wins a clash."""
    triton = world.add_triton("legacy", Control.NONE)
    triton.loaded = {("resnet", "1"), ("resnet", "10"), ("resnet", "9"), ("m", "7")}
    world.shelf.set("m", "1")
    await world.settle()

    assert world.plane.arms("resnet") == {"stable": ("10", 10_000)}
    assert world.plane.models["resnet"].versions[0].backend_model == "resnet"
    assert [v.version for v in world.plane.models["m"].versions] == ["1"]


async def test_an_arm_may_name_a_model_of_such_a_triton(world: World) -> None:
    """`backend_model` puts a model that somebody else loads behind a logical name."""
    triton = world.add_triton("legacy", Control.NONE)
    triton.loaded = {("fraud_old", "3")}
    world.routes.put(Route(ModelName("fraud"), (Arm("stable", "", 10_000, BackendModel("fraud_old", "3")),)))
    await world.controller.load_routes()
    await world.settle()
    version = world.plane.models["fraud"].versions[0]

    assert (version.state, version.backend_model, version.backend_version) == ("ready", "fraud_old", "3")
    triton.loaded = set()
    await world.settle()
    assert world.plane.models["fraud"].versions[0].state == "failed"


async def test_a_model_that_goes_from_the_registry_goes_from_the_table(world: World) -> None:
    """A deleted model is unknown at the next look."""
    world.add_triton()
    world.shelf.set("m", "1")
    world.shelf.set("n", "1")
    await world.settle()
    del world.shelf.models[ModelName("n")]
    world.shelf.set("m", "1")
    await world.settle()

    assert set(world.plane.models) == {"m"}


async def test_a_copy_of_what_its_registry_has_no_more_goes(world: World) -> None:
    """At once, unless clients met it a moment ago: then after the rollback window."""
    triton = world.add_triton()
    world.shelf.set("m", "12", {"production": "1"})
    world.shelf.set("n", "1")
    await world.settle()
    await loaded(world)
    assert Seat(TritonName("m.1"), "1") in next(iter(world.controller.residents.backends.values())).ready
    await loaded(world, version="2")
    del world.shelf.models[ModelName("m")]
    world.shelf.hint()
    await world.settle()
    await world.later(1.0)
    at_once = set(triton.loaded)
    await world.later(world.controller.settings.rollback_window)

    assert at_once == {("m.1", "1")}
    assert triton.loaded == set()
    assert world.records.unloads == [("m", "2", "t0", "stale"), ("m", "1", "t0", "stale")]


async def test_new_files_are_tried_at_once_whatever_the_old_ones_did(world: World) -> None:
    """The back-off of a failed load belongs to its files; a version id with another digest starts anew."""
    triton = world.add_triton()
    triton.bad = {"m.1"}
    world.shelf.set("m", "1")
    await world.settle()
    world.plane.happen(ColdWanted("m", "1"))
    await world.settle()
    assert world.plane.state("m", "1") == "failed"
    triton.bad = set()
    model = world.shelf.models[ModelName("m")]
    fresh = {key: replace(version, digest="sha256:" + "0" * 64) for key, version in model.versions.items()}
    world.shelf.models[ModelName("m")] = replace(model, versions=fresh)
    world.shelf.hint()
    await world.settle()

    assert world.plane.state("m", "1") == "cold"


async def test_wanting_a_version_that_is_ready_leaves_nothing_pending(world: World) -> None:
    """A wish that comes late neither waits for ever nor keeps the version loaded for ever."""
    triton = world.add_triton()
    world.shelf.set("m", "12", {"production": "1"})
    await world.settle()
    await loaded(world, version="2")
    world.plane.happen(ColdWanted("m", "2"))
    await world.settle()
    assert not world.controller.pending((ModelName("m"), VersionId("2")))

    await world.later(1801.0)

    assert triton.loaded == set()


async def test_requests_whose_event_was_lost_get_their_load(world: World) -> None:
    """Whoever is seen waiting is served, also where the event that asks for the load never came."""
    triton = world.add_triton()
    world.shelf.set("m", "1")
    await world.settle()
    world.plane.uses["m", "1"] = VersionUse("m", "1", requests=0, inflight=0, waiting=3)

    await world.later(1.0)

    assert triton.loads == ["m.1"]


async def test_a_change_that_the_data_plane_refuses_is_published_in_the_end(world: World) -> None:
    """One refused delta loses nothing: the table is what it would have been."""
    world.add_triton()
    world.shelf.set("m", "1")
    await world.settle()
    world.plane.revision += 7  # out of step: every delta is refused
    world.shelf.set("n", "1")
    await world.settle()

    assert set(world.plane.models) == {"m", "n"}


async def test_a_model_that_the_data_plane_refuses_holds_up_no_other(world: World) -> None:
    """It stays as it was, and is listed with the reason; all others go on."""
    world.add_triton()
    world.shelf.set("m", "1")
    await world.settle()
    world.plane.refused = {"m"}
    world.shelf.set("m", "12")
    world.shelf.set("n", "1")
    await world.settle()
    assert [version.version for version in world.plane.models["m"].versions] == ["1"]
    assert "n" in world.plane.models
    assert [(item.subject, item.reason) for item in world.controller.unservable] == [("m", "refused: m")]

    world.plane.refused = set()
    world.shelf.set("m", "123")
    await world.settle()

    assert [version.version for version in world.plane.models["m"].versions] == ["1", "2", "3"]
    assert world.controller.unservable == ()


async def test_a_broken_turn_is_told_and_made_good(world: World) -> None:
    """Whoever waits for a change hears that it is not in force; the next turn brings all of it."""
    world.add_triton()
    world.shelf.set("m", "1")
    await world.settle()
    world.plane.fault = RuntimeError("out of memory")
    world.shelf.set("n", "1")
    with pytest.raises(Unavailable, match="not in force yet: RuntimeError: out of memory"):
        await world.settle()
    world.plane.fault = None
    world.controller._try_turn()

    assert set(world.plane.models) == {"m", "n"}


async def test_a_model_that_cannot_be_settled_holds_up_no_other(world: World) -> None:
    """A fault in one model's contract is that model's only."""
    world.add_triton()
    world.faulty.add("m")
    world.shelf.set("m", "1")
    world.shelf.set("n", "1")
    await world.settle()

    assert set(world.plane.models) == {"n"}
    assert [item.subject for item in world.controller.unservable] == ["m"]


@pytest.mark.parametrize("control", [Control.NONE, Control.EXPLICIT])
async def test_a_backend_that_is_dropped_leaves_the_table(world: World, control: Control) -> None:
    """Nothing names it any more, whoever loaded its models."""
    triton = world.add_triton("t0", control)
    triton.loaded = {("m", "1")} if control is Control.NONE else set()
    world.shelf.set("other", "1")
    if control is Control.EXPLICIT:
        world.shelf.set("m", "1")
        await world.settle()
        await loaded(world)
    await world.settle()
    assert world.plane.models["m"].versions[0].backends == ("t0",)

    await world.controller.drop_backend(BackendId("t0"))
    await world.settle()

    assert world.plane.backends == {}
    assert "m" not in world.plane.models or world.plane.state("m", "1") == "failed"


async def test_a_backend_that_hangs_does_not_hold_up_cold_requests(world: World) -> None:
    """While a look at one backend has no answer, a request's load on another one starts."""
    hanging = world.add_triton("t0")
    world.shelf.set("m", "1")
    await world.settle()
    world.add_triton("t1")
    await world.settle()
    hanging.hangs = True
    world.plane.happen(BackendDown("t0", "no answer"))
    await asyncio.sleep(0)
    world.plane.happen(ColdWanted("m", "1"))
    for _ in range(50):
        await asyncio.sleep(0)

    assert world.controller.residents.loading or world.records.loads


async def test_a_notice_for_no_registry_is_not_found(world: World) -> None:
    """Its sender is told at once."""
    world.plane.happen(WebhookArrived(7, "nobody", {}, b""))
    await world.settle()

    status, text = world.plane.answers[7]
    assert status == 404
    assert "no registry" in text


async def test_an_unload_that_fails_is_not_tried_again_at_once(world: World) -> None:
    """A backend that refuses to let go is asked every few seconds, not as fast as it can refuse."""
    triton = world.add_triton()
    world.shelf.set("m", "12", {"production": "1"})
    await world.settle()
    await loaded(world, version="2")
    triton.keeps = True
    await world.later(1801.0)
    await world.later(1.0)
    assert triton.unloads == ["m.2"]

    await world.later(5.0)

    assert triton.unloads == ["m.2", "m.2"]


async def test_an_older_reading_of_the_store_does_not_win(world: World) -> None:
    """Routes that were read before a change and arrive after it are left aside."""
    world.add_triton()
    world.shelf.set("m", "12")
    world.routes.put(Route(ModelName("m"), (Arm("stable", "1", 10_000),)))
    await world.controller.load_routes()
    newest = world.controller.routes
    world.routes.forget()

    await world.controller.load_routes()

    assert (world.controller.store_revision, world.controller.routes) == (1, newest)


def capacity(world: World, model: str, version: str) -> int:
    """What the table says that the copies of a version work on at once."""
    found = next(v for v in world.plane.models[model].versions if v.version == version)
    return found.capacity


async def test_a_version_is_never_ready_without_what_it_works_on(world: World) -> None:
    """Its backend is asked before the table says that it is loaded."""
    triton = world.add_triton()
    triton.capacity_of["m.1"] = Capacity(3)
    world.shelf.set("m", "1")
    await world.settle()
    await loaded(world)

    assert capacity(world, "m", "1") == 3
    tables = [table["m"].versions[0] for table in world.plane.history if "m" in table]
    assert {spec.capacity for spec in tables if spec.state == "ready"} == {3}


async def test_what_a_triton_brings_is_asked_about_and_asked_again(world: World) -> None:
    """Copies on two Tritons count together, and a configuration that changes is seen."""
    for name in ("t0", "t1"):
        triton = world.add_triton(name, Control.NONE)
        triton.loaded.add(("theirs", "3"))
        triton.capacity_of["theirs"] = Capacity(2, priority_levels=4, default_priority=3)
    await world.settle()
    states = list(world.controller.residents.backends.values())
    for state in states:
        await world.controller.ask_capacities(state)
    await world.settle()
    spec = world.plane.models["theirs"].versions[0]
    assert (spec.capacity, spec.priority_levels, spec.default_priority) == (4, 4, 3)

    triton.capacity_of["theirs"] = Capacity(5)
    for state in states:
        await world.controller.ask_capacities(state)
    await world.settle()

    assert capacity(world, "theirs", "3") == 7


async def test_the_version_before_a_move_stays_loaded_for_the_rollback_window(world: World) -> None:
    """Idle for longer than any other may be; after the window it goes."""
    triton = world.add_triton()
    world.controller.set_settings(replace(world.controller.settings, idle_unload=60.0, rollback_window=600.0))
    world.shelf.set("m", "12", {}, {"champion": "1"})
    await world.settle()
    await loaded(world, version="1")
    await loaded(world, version="2")
    world.shelf.set("m", "12", {}, {"champion": "2"})
    await world.settle()
    await world.later(590.0)
    within, kept = set(triton.loaded), world.controller.kept(ONE)
    await world.later(20.0)

    assert within == {("m.1", "1"), ("m.2", "1")}
    assert kept == "stays loaded for 10 s: alias champion went on from it"
    assert triton.loaded == {("m.2", "1")}
    assert world.controller.kept(ONE) == ""


async def test_a_route_that_goes_on_leaves_its_version_loaded_for_a_while(world: World) -> None:
    """And one that comes back finds it there."""
    triton = world.add_triton()
    world.controller.set_settings(replace(world.controller.settings, idle_unload=60.0, rollback_window=600.0))
    world.shelf.set("m", "12")
    await routed(world, "1")
    await loaded(world, version="1")
    await routed(world, "2")
    await loaded(world, version="2")
    await world.later(300.0)
    kept = world.controller.kept(ONE)
    await routed(world, "1")
    await world.later(1_000.0)

    assert kept == "stays loaded for 300 s: arm stable went on from it"
    assert world.plane.arms("m") == {"stable": ("1", 10_000)}
    assert world.controller.kept(ONE) == ""
    assert triton.loads == ["m.1", "m.2"]
    assert triton.loaded == {("m.1", "1")}


@pytest.mark.parametrize("left", ["2", ""], ids=["version", "model"])
async def test_what_comes_and_goes_in_a_registry_is_not_loaded_anew_each_time(
    world: World, left: str
) -> None:
    """A registry that says two things in turns: what clients met stays loaded for the rollback window."""
    triton = world.add_triton()
    world.shelf.set("m", "12", {"production": "1"})
    world.shelf.set("other", "1")
    await world.settle()
    await loaded(world, version="1")
    for _ in range(5):
        world.shelf.set("m", left)
        if not left:
            del world.shelf.models[ModelName("m")]
        await world.later(5.0)
        without = world.plane.arms("m") if left else None
        world.shelf.set("m", "12", {"production": "1"})
        await world.later(5.0)
        assert world.plane.arms("m") == {"stable": ("1", 10_000)} != without
    world.shelf.set("m", "2")
    await world.settle()
    await world.later(world.controller.settings.rollback_window + 1)

    assert triton.loads.count("m.1") == 1
    assert ("m.1", "1") not in triton.loaded


async def emptied(world: World) -> Triton:
    """Three models, one loaded and met by clients; then their registry says that there are none."""
    triton = world.add_triton()
    for name in "mno":
        world.shelf.set(name, "12", {"production": "1"})
    await world.settle()
    await loaded(world)
    world.shelf.models.clear()
    world.shelf.hint()
    await world.settle()
    return triton


async def test_a_registry_that_is_empty_all_at_once_takes_nothing_away(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    """A folder that is not mounted, a wrong bucket: what is served goes on, cold versions can be loaded, and
    people are told."""
    triton = await emptied(world)
    state = world.controller.registries["local"]
    told, unloads = state.warning(world.clock.now()), list(triton.unloads)
    await loaded(world, "n")

    assert told.startswith(
        "lost 3 of 3 models at once (m, n, o); they go on as they were; believed in 3600 s"
    )
    assert f"registry local {told}" in caplog.messages
    assert unloads == []
    assert [world.plane.arms(name) for name in "mno"] == [{"stable": ("1", 10_000)}] * 3
    world.shelf.set("m", "12", {"production": "2"})
    for name in "no":
        world.shelf.set(name, "12", {"production": "1"})
    await world.settle()
    assert (state.warning(world.clock.now()), world.plane.arms("m")) == ("", {"stable": ("2", 10_000)})


@pytest.mark.parametrize("by", ["time", "reload"])
async def test_an_empty_registry_is_believed_in_the_end(world: World, by: str) -> None:
    """Or when an operator says so; what clients met stays loaded for the rollback window all the same."""
    triton = await emptied(world)
    if by == "reload":
        world.controller.set_settings(replace(world.controller.settings, loss_window=0.0))
    else:
        await world.later(3_600.0)
        world.shelf.hint()
    await world.settle()
    kept = set(triton.loaded)
    await world.later(world.controller.settings.rollback_window)

    assert world.plane.history[-1] == {}
    assert world.controller.registries["local"].warning(world.clock.now() - 600.0) == ""
    assert (kept, triton.loaded) == ({("m.1", "1")}, set())


async def test_a_registry_that_lost_what_points_to_versions_takes_nothing_away(world: World) -> None:
    """Clients go on to meet what they met; one alias that is deleted is gone at once."""
    world.add_triton().loaded |= {("m.1", "1"), ("m.2", "1")}
    world.shelf.set("m", "12", {"production": "1"}, {"champion": "1", "next": "2"})
    await world.settle()
    world.shelf.set("m", "12", {"production": "1"}, {"champion": "1"})
    await world.settle()
    assert {one.name for one in world.plane.models["m"].pointers} == {"production", "champion"}

    world.shelf.set("m", "12")
    await world.settle()
    state = world.controller.registries["local"]
    assert state.warning(world.clock.now()).startswith(
        "lost 2 of 2 stages and aliases at once (alias champion of m, stage production of m); they go on as"
    )
    assert world.plane.arms("m") == {"stable": ("1", 10_000)}
    assert {one.name for one in world.plane.models["m"].pointers} == {"production", "champion"}

    await world.later(3_600.0)
    world.shelf.hint()
    await world.settle()
    assert (world.plane.arms("m"), world.plane.models["m"].pointers) == ({"stable": ("2", 10_000)}, ())


async def test_a_registry_that_is_full_and_empty_in_turns_changes_nothing(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    """No load, no unload, no change of the table, and a line in the log at most once a minute."""
    triton = await emptied(world)
    before, tables = dict(world.plane.history[-1]), len(world.plane.history)
    for turn in range(60):
        for name in "mno" if turn % 2 else "":
            world.shelf.set(name, "12", {"production": "1"})
        if not turn % 2:
            world.shelf.models.clear()
        world.shelf.hint()
        await world.later(5.0)

    assert world.plane.history[tables:] == []
    assert world.plane.history[-1] == before
    assert (triton.loads, triton.unloads) == (["m.1"], [])
    assert 4 <= sum("at once" in line for line in caplog.messages) <= 6


async def test_a_stage_that_goes_to_and_fro_costs_two_loads(world: World) -> None:
    """A registry that says two things in turns, at each poll: clients meet what is ready, as it names it."""
    triton = world.add_triton()
    world.controller.set_settings(replace(world.controller.settings, idle_unload=1.0))
    world.shelf.set("m", "12", {"production": "1"})
    await world.settle()
    await loaded(world)
    for turn in range(60):
        world.shelf.set("m", "12", {"production": "21"[turn % 2]})
        await world.settle()
        await world.later(5.0)

    assert (triton.loads, triton.unloads) == (["m.1", "m.2"], [])
    for table in world.plane.history:
        states = {version.version: version.state for version in table["m"].versions} if "m" in table else {}
        assert states.get("1") != "ready" or all(states[arm.version] == "ready" for arm in table["m"].arms)


async def test_what_is_known_of_versions_that_are_gone_goes_too(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A gateway runs for years while versions come and go; what still is on a Triton stays known.

    Also where that Triton is away, and where another one has been for long.
    """
    monkeypatch.setattr(controller, "FORGET_BEYOND", 10)
    triton = world.add_triton()
    triton.keeps = True
    other = world.add_triton("t1")
    other.away = True
    for version in ascii_letters:
        triton.away = version == "Y"
        world.shelf.set("m", version)
        await world.settle()
        if version == "a":
            await loaded(world, version=version)
        key = (ModelName("m"), VersionId(version))
        world.controller.residents.last_use[key] = world.clock.now()
        world.controller.residents.fail(key, "no memory", world.clock.now())
        world.controller.residents.backends[BackendId("t0")].asked.add(TritonName(f"m.{version}"))
        world.controller.residents.faults.note(key, BackendId("t1"), "full", world.clock.now(), away=False)
        await world.later(1)
    residents = world.controller.residents

    assert {"m.a", "m.Z"} <= residents.seats.keys()
    assert max(len(residents.seats), len(residents.last_use), len(residents.failures)) <= 30
    assert len(residents.faults.held(0.0)) <= 30
    assert len(residents.backends[BackendId("t0")].asked) <= 30
    assert next(state for state in residents.backends.values() if state.up).ready == {
        Seat(TritonName("m.a"), "1")
    }


async def test_names_of_all_versions_are_not_made_to_find_that_nothing_is_gone(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of very many versions that takes seconds, and each second asks for it."""
    monkeypatch.setattr(controller, "FORGET_BEYOND", 2)
    made: list[str] = []
    name = world.controller.places._triton_name

    def triton_name(version: Version) -> TritonName:
        made.append(version.version)
        return name(version)

    monkeypatch.setattr(world.controller.places, "_triton_name", triton_name)
    world.add_triton()
    world.shelf.set("m", ascii_letters)
    await world.settle()
    assert world.controller.models
    made.clear()

    for _ in range(3):
        await world.later(1)

    assert not made
