"""What operators ask for, what it becomes, and what is refused with nothing changed."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from router.control.decide import Order
from router.errors import (
    InvalidInput,
    InvalidName,
    InvalidReference,
    LoadFailed,
    ModelNotFound,
    NotSupported,
    RegistryUnavailable,
    StagegateError,
    VersionNotFound,
)
from router.model import Arm, BackendModel, Control, ModelName, Route, Shadow, VersionId
from tests.unit.control.deciding import ANA, Desk, Kept, M, Writable, a_desk


async def routed(desk: Desk, *arms: Arm, shadows: tuple[Shadow, ...] = ()) -> None:
    """Give the model a route."""
    await desk.store.put_routes(
        [Route(M, arms, shadows=shadows)], expected_revision=None, actor="ben", reason="x"
    )
    await desk.controller.load_routes()
    await desk.settle()


async def moved_there(desk: Desk, version: str) -> None:
    """Somebody moves the alias in the registry."""
    desk.triton.loaded.add((f"m.{version}", "1"))
    desk.shelf.set("m", "123", {"production": "1"}, {"champion": version})
    await desk.settle()


# === promote ===


async def test_a_stage_is_promoted_to_by_its_name() -> None:
    """In any case of letters; a version may be named by what points to it."""
    async with a_desk() as desk:
        await desk.promote("2")
        await desk.settle()
        outcome = await desk.promote("@champion", "Production")
        await desk.settle()

        assert (outcome.kind, outcome.name, outcome.before, outcome.after) == (
            "stage",
            "production",
            "1",
            "2",
        )
        assert (desk.shelf.stage(), desk.stable()) == ("2", "2")


async def test_a_pointer_may_be_new() -> None:
    """It is made, here and there."""
    async with a_desk() as desk:
        outcome = await desk.promote("2", "@challenger")
        await desk.settle()

        assert (outcome.before, outcome.after) == ("", "2")
        assert (desk.shelf.named("challenger"), desk.served("challenger")) == ("2", "2")


async def test_the_same_again_changes_nothing() -> None:
    """Also while it waits to be written."""
    async with a_desk() as desk:
        desk.shelf.fault = RegistryUnavailable("away")
        first = await desk.promote("2")
        await desk.settle()
        again = await desk.promote("2")
        assert (again.already, again.revision, again.write) == (True, first.revision, 0)
        assert "traffic follows 2" in again.said[0]

        desk.shelf.fault = None
        await desk.later(30)
        revision = await desk.store.revision()
        done = await desk.promote("2")

        assert (done.already, done.said) == (True, ())
        assert await desk.store.revision() == revision


@pytest.mark.parametrize(
    ("reference", "to", "kind", "words"),
    [
        ("9", "@champion", VersionNotFound, "no version, alias or stage '9'"),
        ("@nope", "@champion", VersionNotFound, "no alias 'nope'"),
        ("2", "3", InvalidInput, "'3' is a version"),
        ("2", "champion", InvalidInput, "write '@champion'"),
        ("2", "", InvalidReference, "empty"),
        ("2", "@@x", InvalidReference, "leading '@'"),
        ("2", "a\nb", InvalidReference, "control character"),
        ("2", "@forbidden", InvalidName, "registry 'local' can have no alias 'forbidden': .* take 'allowed'"),
        ("2", "Forbidden", InvalidName, "registry 'local' can have no stage 'forbidden': .* take 'allowed'"),
    ],
)
async def test_what_cannot_be_meant_changes_nothing(
    reference: str, to: str, kind: type[StagegateError], words: str
) -> None:
    """A typed error that says what would do."""
    async with a_desk() as desk:
        with pytest.raises(kind, match=words):
            await desk.promote(reference, to)

        assert (await desk.store.revision(), desk.shelf.asked, desk.served()) == (0, [], "1")


async def test_models_that_are_unknown_or_in_no_registry_cannot_be_promoted() -> None:
    """There is nothing to write."""
    async with a_desk() as desk:
        with pytest.raises(ModelNotFound):
            await desk.decider.promote(ModelName("nope"), "1", "production", ANA)
        wild = desk.world.add_triton("t9", Control.NONE)
        wild.loaded.add(("legacy", "4"))
        await desk.settle()
        with pytest.raises(NotSupported, match="in no registry"):
            await desk.decider.promote(ModelName("legacy"), "4", "production", ANA)


async def test_a_version_that_is_not_to_be_served_is_refused() -> None:
    """With what the registry says against it."""
    async with a_desk() as desk:
        model = desk.shelf.models[M]
        broken = replace(model.versions[VersionId("3")], unusable="its registration is not finished")
        versions = {**model.versions, VersionId("3"): broken}
        desk.shelf.models[M] = replace(model, versions=versions)
        desk.shelf.hint()
        await desk.settle()
        with pytest.raises(InvalidInput, match="registration is not finished"):
            await desk.promote("3")
        assert await desk.store.revision() == 0


async def test_a_version_whose_load_failed_is_refused() -> None:
    """Clients would never meet it."""
    async with a_desk() as desk:
        desk.triton.bad = {"m.3"}
        desk.controller.want(M, VersionId("3"))
        await desk.settle()
        with pytest.raises(LoadFailed, match="this model cannot be loaded") as refused:
            await desk.promote("3")
        assert refused.value.hint == "nothing was changed; its load may be tried again in 1 s"
        assert await desk.store.revision() == 0


async def test_decisions_at_the_same_moment_all_count() -> None:
    """Each is thought over where another came first; the last one holds, here and there."""
    async with a_desk() as desk:
        desk.triton.loaded.add(("m.3", "1"))
        await desk.settle()
        outcomes = await asyncio.gather(desk.promote("2"), desk.promote("3"), desk.promote("2", "production"))
        await desk.settle()
        await desk.settle()
        last = max(outcomes[:2], key=lambda one: one.revision)

        assert sorted(one.revision for one in outcomes) == [1, 2, 3]
        assert (desk.served(), desk.shelf.named()) == (last.after, last.after)
        assert (desk.shelf.stage(), desk.controller.writes) == ("2", ())


async def test_long_reasons_are_cut_in_tags() -> None:
    """A registry has limits of its own."""
    async with a_desk() as desk:
        await desk.promote("2", order=Order("ana", "because " * 100))
        await desk.settle()

        assert len(desk.shelf.tags("2")["stagegate.promoted_reason"]) == 500


# === rollback ===


async def test_rollback_undoes_a_promotion_here_and_there() -> None:
    """And says on the version that was left that it was."""
    async with a_desk() as desk:
        await desk.promote("2")
        await desk.settle()
        outcome = await desk.rollback()
        assert desk.served() == "1"
        await desk.settle()

        assert (outcome.kind, outcome.name, outcome.before, outcome.after) == ("alias", "champion", "2", "1")
        assert (desk.shelf.named(), desk.served()) == ("1", "1")
        tags = desk.shelf.tags("2")
        assert (tags["stagegate.rolled_back_by"], tags["stagegate.rolled_back_to"]) == ("ana", "1")


async def test_rollback_undoes_a_move_that_was_made_in_the_registry() -> None:
    """What clients met before it."""
    async with a_desk() as desk:
        await moved_there(desk, "2")
        await moved_there(desk, "3")
        outcome = await desk.rollback()
        await desk.settle()

        assert (outcome.before, outcome.after) == ("3", "2")
        assert (desk.shelf.named(), desk.served()) == ("2", "2")
        assert (await desk.store.moved())[0] == ("3", "2", "rollback")


async def test_rollback_twice_goes_back_once() -> None:
    """Whoever asks again because the answer was lost does not go back two versions, nor forth again."""
    async with a_desk() as desk:
        await moved_there(desk, "2")
        await moved_there(desk, "3")
        await desk.rollback()
        pending = await desk.rollback()
        await desk.settle()
        done = await desk.rollback()

        assert (pending.already, pending.after, done.already, done.after) == (True, "2", True, "2")
        assert desk.shelf.named() == "2"


async def test_after_a_rollback_a_new_move_can_be_rolled_back() -> None:
    """To what answered before that one."""
    async with a_desk() as desk:
        await desk.promote("2")
        await desk.settle()
        await desk.rollback()
        await desk.settle()
        await moved_there(desk, "3")
        outcome = await desk.rollback()
        await desk.settle()

        assert (outcome.before, outcome.after, desk.shelf.named()) == ("3", "1", "1")


async def test_rollback_to_a_named_version() -> None:
    """Any that there is."""
    async with a_desk() as desk:
        await moved_there(desk, "2")
        await moved_there(desk, "3")
        outcome = await desk.rollback("1")
        await desk.settle()
        assert (outcome.before, outcome.after, desk.shelf.named(), desk.served()) == ("3", "1", "1", "1")

        assert (await desk.rollback("1")).already
        with pytest.raises(VersionNotFound):
            await desk.rollback("9")


async def test_rollback_without_a_past_asks_for_a_version() -> None:
    """Nothing is guessed."""
    async with a_desk() as desk:
        with pytest.raises(InvalidInput, match="named nothing but version '1'"):
            await desk.rollback()
        assert await desk.store.revision() == 0


async def test_a_name_that_named_nothing_before_has_no_way_back() -> None:
    """It is not "already" back; while it waits to be written it can be given up."""
    async with a_desk() as desk:
        desk.triton.hold = asyncio.Event()
        outcome = await desk.promote("3", "@next")
        await desk.settle()
        given_up = rf"nothing but version '3'.*`stagegate writes clear {outcome.write}`"
        with pytest.raises(InvalidInput, match=given_up):
            await desk.rollback(name="@next")

        desk.triton.hold.set()
        await desk.settle()
        await desk.settle()
        with pytest.raises(InvalidInput, match=r"nothing but version '3'.*--to"):
            await desk.rollback(name="@next")
        assert (await desk.store.revision(), desk.shelf.named("next")) == (3, "3")


async def test_rollback_while_the_new_version_still_loads_stays_where_clients_are() -> None:
    """The registry's own move is undone before anybody met it."""
    async with a_desk() as desk:
        desk.triton.hold = asyncio.Event()
        desk.shelf.set("m", "123", {"production": "1"}, {"champion": "3"})
        await desk.settle()
        assert desk.served() == "1"
        outcome = await desk.rollback()
        await desk.settle()

        assert (outcome.before, outcome.after) == ("3", "1")
        assert (desk.shelf.named(), desk.served()) == ("1", "1")


async def test_rollback_of_a_promotion_that_is_not_written_yet() -> None:
    """Whether or not the registry has it by then, in the end both name the old one."""
    async with a_desk() as desk:
        desk.shelf.fault = RegistryUnavailable("away")
        await desk.promote("2")
        await desk.settle()
        await desk.rollback()
        assert desk.served() == "1"
        desk.shelf.fault = None
        await desk.later(30)

        assert (desk.shelf.named(), desk.served()) == ("1", "1")
        assert await desk.ended() == ("agreed", "")


async def test_rollback_to_a_cold_version_waits_for_it_here_and_there() -> None:
    """Never a cold version in front of clients; both move when it is loaded."""
    async with a_desk() as desk:
        await moved_there(desk, "2")
        desk.triton.loaded.discard(("m.1", "1"))
        desk.triton.hold = asyncio.Event()
        await desk.settle()
        outcome = await desk.rollback()
        await desk.settle()
        assert (desk.served(), desk.shelf.named()) == ("2", "2")
        assert "waits for version 1 to be loaded" in outcome.said[0]

        desk.triton.hold.set()
        await desk.settle()
        await desk.settle()

        assert (desk.served(), desk.shelf.named()) == ("1", "1")


async def test_the_past_outlives_the_gateway() -> None:
    """A new one knows what was before."""
    store, shelf = Kept(), Writable()
    async with a_desk(store, shelf) as desk:
        await moved_there(desk, "2")
        new = await desk.again()
        try:
            outcome = await new.rollback()
            await new.settle()
            assert (outcome.after, shelf.named()) == ("1", "1")
        finally:
            await new.kill()


async def test_a_move_while_no_gateway_ran_is_rolled_back_to_what_clients_met_last() -> None:
    """The last version that is known to have answered."""
    store, shelf = Kept(), Writable()
    async with a_desk(store, shelf) as desk:
        await moved_there(desk, "2")
        await desk.kill()
        shelf.set("m", "123", {"production": "1"}, {"champion": "3"})
        new = await desk.again()
        try:
            assert new.served() == "3"
            assert (await new.rollback()).after == "2"
        finally:
            await new.kill()


async def test_a_version_before_that_is_gone_is_named() -> None:
    """And nothing is changed."""
    async with a_desk() as desk:
        await moved_there(desk, "2")
        desk.shelf.set("m", "23", {}, {"champion": "2"})
        await desk.settle()
        with pytest.raises(VersionNotFound, match="version '1', which alias 'champion'"):
            await desk.rollback()
        assert desk.shelf.asked == []


async def test_without_a_name_it_is_what_the_stable_arm_goes_by() -> None:
    """Of the route, else of the implicit one; shadows and other arms stay."""
    async with a_desk() as desk:
        desk.shelf.set("m", "123", {"production": "2"}, {"champion": "1"})
        await desk.settle()
        implicit = await desk.rollback(name="")
        await desk.settle()
        assert (implicit.kind, implicit.before, implicit.after, desk.stable()) == ("stage", "2", "1", "1")

        await routed(desk, Arm("stable", "@champion", 9_000), Arm("canary", "2", 1_000))
        await moved_there(desk, "3")
        explicit = await desk.rollback(name="")
        await desk.settle()
        assert (explicit.kind, explicit.name, explicit.after) == ("alias", "champion", "1")
        assert desk.world.plane.arms("m") == {"stable": ("1", 9_000), "canary": ("2", 1_000)}


async def test_a_pinned_arm_is_rolled_back_in_the_route() -> None:
    """No registry has a part in it; twice is once."""
    async with a_desk() as desk:
        await routed(desk, Arm("stable", "1", 10_000))
        await routed(desk, Arm("stable", "2", 9_000), Arm("canary", "3", 1_000), shadows=(Shadow("s", "3"),))
        desk.triton.loaded.add(("m.3", "1"))
        await desk.settle()
        outcome = await desk.rollback(name="")
        route = desk.controller.routes[M].route
        assert (outcome.kind, outcome.name, outcome.before, outcome.after) == ("arm", "stable", "2", "1")
        assert "no registry changes" in outcome.said[0]
        assert (route.arms, route.shadows) == (
            (Arm("stable", "1", 9_000), Arm("canary", "3", 1_000)),
            (Shadow("s", "3"),),
        )
        assert (desk.stable(), desk.shelf.asked, desk.controller.writes) == ("1", [], ())

        assert (await desk.rollback(name="")).already
        assert (await desk.rollback("3", name="")).after == "3"
        assert (await desk.store.history(M, 1))[0].actor == "ana"


async def test_an_arm_that_never_named_anything_else_asks_for_a_version() -> None:
    """Nothing is guessed."""
    async with a_desk() as desk:
        await routed(desk, Arm("stable", "1", 10_000))
        with pytest.raises(InvalidInput, match="named nothing but '1'"):
            await desk.rollback(name="")


async def test_a_model_whose_highest_version_answers_gets_a_route() -> None:
    """There is no pointer that could be moved."""
    shelf = Writable()
    shelf.set("m", "12")
    async with a_desk(shelf=shelf) as desk:
        with pytest.raises(InvalidInput, match="highest version answers"):
            await desk.rollback(name="")
        outcome = await desk.rollback("1", name="")

        assert (outcome.kind, outcome.before, outcome.after) == ("arm", "2", "1")
        assert (desk.stable(), desk.controller.routes[M].route.arms) == ("1", (Arm("stable", "1", 10_000),))


async def test_what_a_backend_brought_itself_cannot_be_rolled_back() -> None:
    """There is no version before it that is known."""
    async with a_desk() as desk:
        await routed(desk, Arm("stable", "", 10_000, BackendModel("legacy", "1")))
        with pytest.raises(NotSupported, match="brought itself"):
            await desk.rollback(name="")
        with pytest.raises(InvalidInput, match="no stage or alias"):
            await desk.rollback(name="2")
