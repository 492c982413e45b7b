"""Decisions reach their registry, whatever happens in between; who moved it there meanwhile wins."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest

from router.control import writebacks
from router.errors import (
    Conflict,
    InvalidInput,
    InvalidReference,
    NotFound,
    NotSupported,
    RegistryRefused,
    RegistryUnavailable,
    Unavailable,
    VersionNotFound,
)
from router.model import Arm, ModelName, Route, VersionId
from router.ports import Capability, TagChange
from tests.unit.control.deciding import ANA, Kept, M, Writable, a_desk

AWAY = RegistryUnavailable("registry 'local': connection refused")


async def test_traffic_and_registry_move_together() -> None:
    """At once where the version is loaded; the write-back ends when the registry reads so."""
    async with a_desk() as desk:
        outcome = await desk.promote("2")
        assert desk.served() == "2"
        await desk.settle()

        assert (outcome.before, outcome.after, outcome.already) == ("1", "2", False)
        assert (desk.shelf.named(), desk.served()) == ("2", "2")
        assert await desk.ended() == ("agreed", "")
        assert desk.controller.writes == ()
        assert desk.shelf.tags("2") == {
            "stagegate.promoted_at": "1970-01-01T00:16:40+00:00",
            "stagegate.promoted_by": "ana",
            "stagegate.promoted_to": "@champion",
            "stagegate.promoted_reason": "better",
        }
        assert desk.writes.results == {("local", "alias", "success"): 1, ("local", "tag", "success"): 4}


async def test_the_registry_waits_for_the_load() -> None:
    """A version that clients do not meet yet is not named there either; then both move."""
    async with a_desk() as desk:
        desk.triton.hold = asyncio.Event()
        outcome = await desk.promote("3")
        await desk.settle()
        assert (desk.shelf.named(), desk.served()) == ("1", "1")
        assert outcome.said == (
            "promote to version 3: alias champion of model 'm': waits for version 3 to be loaded; "
            "version 1 answers until then; the registry is written after that",
        )

        desk.triton.hold.set()
        await desk.settle()

        assert (desk.shelf.named(), desk.served()) == ("3", "3")
        assert await desk.ended() == ("agreed", "")


async def test_a_version_that_cannot_be_loaded_never_gets_into_the_registry() -> None:
    """It is tried for as long as nobody gives it up."""
    async with a_desk() as desk:
        desk.triton.bad = {"m.3"}
        outcome = await desk.promote("3")
        await desk.settle()
        await desk.later(3600)
        assert (desk.shelf.named(), desk.served(), desk.shelf.asked) == ("1", "1", [])

        await desk.writes.clear(outcome.write, actor="ben", reason="broken")
        await desk.settle()

        assert await desk.ended() == ("cleared", "given up by ben: broken")
        assert (desk.shelf.named(), desk.served()) == ("1", "1")


async def test_a_name_that_is_new_waits_for_the_load_in_the_registry() -> None:
    """Nobody has to ask for the version: the promotion has it loaded, and the registry is told then."""
    async with a_desk() as desk:
        desk.triton.hold = asyncio.Event()
        outcome = await desk.promote("3", "@challenger")
        await desk.settle()
        assert (desk.shelf.named("challenger"), desk.triton.loads) == ("", ["m.3"])
        assert outcome.said == (
            "promote to version 3: alias challenger of model 'm': waits for version 3 to be loaded; "
            "the registry is written after that",
        )

        desk.triton.hold.set()
        await desk.settle()

        assert (desk.shelf.named("challenger"), desk.served("challenger")) == ("3", "3")
        assert await desk.ended() == ("agreed", "")


async def test_a_new_name_for_what_cannot_be_loaded_is_told_and_can_be_given_up() -> None:
    """The registry never has it; after `clear` nobody has."""
    async with a_desk() as desk:
        desk.triton.bad = {"m.3"}
        outcome = await desk.promote("3", "staging")
        await desk.settle()
        (write,) = desk.controller.writes
        assert desk.writes.sentence(write) == (
            "promote to version 3: stage staging of model 'm': version 3 cannot be loaded: this model cannot "
            "be loaded; it is tried again; the registry is written after that; "
            f"`stagegate writes clear {outcome.write}` gives it up"
        )
        await desk.later(3600)
        assert (desk.shelf.stage("staging"), desk.shelf.asked) == ("", [])

        await desk.writes.clear(outcome.write, actor="ben", reason="broken")
        await desk.settle()

        assert (await desk.ended(), desk.served("staging")) == (("cleared", "given up by ben: broken"), "")


async def test_a_gateway_that_starts_loads_what_was_promised_before_it_writes() -> None:
    """What cannot be loaded does not get into the registry by a restart either."""
    async with a_desk() as desk:
        desk.triton.bad = {"m.3"}
        await desk.promote("3")
        await desk.settle()
        new = await desk.again(bad={"m.3"})
        try:
            await new.later(3600)
            named = {p.version for one in new.world.plane.history if "m" in one for p in one["m"].pointers}
            assert (new.shelf.named(), new.shelf.asked, named) == ("1", [], {"1"})
            assert "m.3" in new.triton.loads
        finally:
            await new.kill()


async def test_a_stage_that_its_model_gets_first_waits_for_the_load_too() -> None:
    """The highest version answers until then, and the registry names nothing."""
    shelf = Writable()
    shelf.set("m", "012")
    async with a_desk(shelf=shelf) as desk:
        desk.triton.hold = asyncio.Event()
        await desk.promote("0", "production")
        await desk.settle()
        assert (desk.stable(), desk.shelf.stage()) == ("2", "")

        desk.triton.hold.set()
        await desk.settle()
        await desk.settle()

        assert (desk.stable(), desk.shelf.stage(), await desk.ended()) == ("0", "0", ("agreed", ""))


async def test_a_promise_for_a_model_that_is_not_served_any_more_is_written_at_once() -> None:
    """Nothing could ever load it here."""
    async with a_desk() as desk:
        other = Writable()
        other._name = "other"
        other.set("x", "12")
        desk.controller.add_registry(other)
        await desk.settle()
        x = ModelName("x")
        route = Route(x, (Arm("stable", "1", 10_000),), registry="other")
        await desk.store.put_routes([route], expected_revision=None, actor="ben", reason="x")
        await desk.controller.load_routes()
        desk.triton.loaded.add(("x.1", "1"))
        await desk.settle()
        desk.triton.hold = asyncio.Event()
        await desk.decider.promote(x, "2", "@next", ANA)
        await desk.settle()
        assert other.models[x].aliases == {}

        await desk.store.delete_route(x, expected_revision=None, actor="ben", reason="x")
        await desk.controller.load_routes()
        await desk.settle()

        assert other.models[x].aliases == {"next": "2"}


async def test_a_registry_that_is_away_is_written_when_it_is_back() -> None:
    """Traffic follows the decision meanwhile, and everybody is told; pauses grow."""
    async with a_desk() as desk:
        desk.shelf.fault = AWAY
        await desk.promote("2")
        await desk.settle()
        (write,) = desk.controller.writes
        assert desk.served() == "2"
        assert desk.writes.sentence(write) == (
            "alias champion: registry 'local' names 1, traffic follows 2, because the promote by ana is not "
            "written yet: registry 'local': connection refused"
        )
        pauses = []
        for _ in range(9):
            (write,) = desk.controller.writes
            pauses.append(write.next_try - desk.world.clock.time)
            await desk.later(pauses[-1])
        assert pauses == [0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0, 30.0]

        desk.shelf.fault = None
        await desk.later(30)

        assert (desk.shelf.named(), desk.served()) == ("2", "2")
        assert await desk.ended() == ("agreed", "")


async def test_a_way_back_that_cannot_be_confirmed_says_why() -> None:
    """The registry that is away named the old version when it was read last."""
    async with a_desk() as desk:
        desk.shelf.fault = AWAY
        await desk.promote("2")
        await desk.settle()
        await desk.rollback()
        await desk.settle()
        (write,) = desk.controller.writes

        assert desk.writes.sentence(write) == (
            "alias champion: rollback to version 1 is being confirmed by the registry: registry 'local': "
            "connection refused"
        )


async def test_what_waits_is_written_when_the_registry_is_read_again() -> None:
    """And does not wait for the end of a pause that grew; one return is one try."""
    async with a_desk() as desk:
        desk.shelf.fault = AWAY
        desk.shelf.hint()
        await desk.promote("2")
        await desk.settle()
        for pause in (0.5, 1, 2, 4, 8, 16):
            await desk.later(pause)
        asked = len(desk.shelf.asked)

        desk.shelf.fault, desk.shelf.trouble = None, AWAY
        desk.shelf.hint()
        await desk.settle()
        assert len(desk.shelf.asked) == asked + 1

        desk.shelf.fault, desk.shelf.trouble = AWAY, None
        desk.shelf.hint()
        await desk.settle()
        desk.shelf.fault = None
        desk.shelf.hint()
        await desk.settle()

        assert (desk.shelf.named(), desk.served()) == ("2", "2")
        assert await desk.ended() == ("agreed", "")


async def test_a_registry_that_can_be_read_and_not_written_is_tried_again() -> None:
    """And each try is counted."""
    async with a_desk() as desk:
        desk.shelf.trouble = AWAY
        await desk.promote("2")
        await desk.settle()
        await desk.later(0.5)
        assert desk.writes.results == {("local", "alias", "unavailable"): 2}
        assert desk.served() == "2"

        desk.shelf.trouble = None
        await desk.later(30)

        assert desk.shelf.named() == "2"


async def test_a_registry_whose_file_is_broken_is_tried_again() -> None:
    """Somebody will mend it."""
    async with a_desk() as desk:
        desk.shelf.trouble = InvalidInput("model.yaml cannot be read")
        await desk.promote("2")
        await desk.settle()
        desk.shelf.trouble = None
        await desk.later(1)

        assert (desk.shelf.named(), await desk.ended()) == ("2", ("agreed", ""))


async def test_an_answer_that_was_lost_is_no_second_move() -> None:
    """The change was done and the connection broke: the next try finds it done."""
    async with a_desk() as desk:
        desk.shelf.after = AWAY
        await desk.promote("2")
        await desk.settle()
        assert (desk.shelf.named(), len(desk.controller.writes)) == ("2", 1)

        await desk.later(1)

        assert await desk.ended() == ("agreed", "")
        assert [type(change).__name__ for change in desk.shelf.asked].count("AliasChange") == 1


async def test_who_moved_it_in_the_registry_meanwhile_wins() -> None:
    """A third version is not written over; traffic follows the registry, and the end says why."""
    async with a_desk() as desk:
        desk.shelf.trouble = AWAY
        await desk.promote("2")
        await desk.settle()
        desk.triton.loaded.add(("m.3", "1"))
        desk.shelf.trouble = None
        desk.shelf.set("m", "123", {"production": "1"}, {"champion": "3"})
        await desk.later(1)

        assert (desk.shelf.named(), desk.served()) == ("3", "3")
        assert await desk.ended() == (
            "overtaken",
            "registry 'local' names 3 now, which was not decided here; traffic follows it",
        )


async def test_a_move_that_was_not_read_yet_is_not_written_over() -> None:
    """What the registry names at that moment counts, not what was read last."""
    async with a_desk() as desk:
        model = desk.shelf.models[M]
        moved = {**model.aliases, "champion": VersionId("3")}
        desk.shelf.models[M] = type(model)(
            model.registry, model.name, model.versions, model.stages, moved, model.description, model.tags
        )
        await desk.promote("2")
        await desk.settle()
        await desk.settle()

        assert (desk.shelf.named(), desk.served()) == ("3", "3")
        assert (await desk.ended())[0] == "overtaken"


async def test_a_conflict_at_the_last_moment_is_looked_at_again() -> None:
    """Somebody came between the question and the change."""
    async with a_desk() as desk:
        desk.shelf.trouble = Conflict("names 3", current_revision=0)
        await desk.promote("2")
        await desk.settle()
        assert desk.writes.results == {("local", "alias", "conflict"): 1}
        desk.shelf.trouble = None
        desk.triton.loaded.add(("m.3", "1"))
        desk.shelf.set("m", "123", {"production": "1"}, {"champion": "3"})
        await desk.later(1)

        assert (desk.shelf.named(), desk.served()) == ("3", "3")
        assert (await desk.ended())[0] == "overtaken"


@pytest.mark.parametrize(
    "problem",
    [
        RegistryRefused("locked by legal"),
        NotSupported("no aliases here"),
        InvalidReference("no such alias can be"),
    ],
)
async def test_what_a_registry_refuses_stays_a_decision(problem: Exception) -> None:
    """Traffic follows it, everybody is told, and no other try is made, until somebody gives it up."""
    async with a_desk() as desk:
        desk.shelf.trouble = problem
        outcome = await desk.promote("2")
        await desk.settle()
        await desk.later(3600)
        (write,) = desk.controller.writes
        assert (desk.served(), desk.shelf.named(), len(desk.shelf.asked)) == ("2", "1", 1)
        assert desk.writes.sentence(write) == (
            "alias champion: registry 'local' names 1, traffic follows 2, because the promote by ana cannot "
            f"be written: {problem}"
        )

        await desk.writes.clear(outcome.write, actor="ben", reason="")
        assert desk.served() == "1"
        assert await desk.ended() == ("cleared", "given up by ben")


@pytest.mark.parametrize("left", ["nothing", "models without pointers"])
async def test_nothing_is_written_where_a_registry_lost_most_of_what_it_had(left: str) -> None:
    """It is not believed, so what it names now is nobody's move; when all is back the decision goes on."""
    async with a_desk() as desk:
        if left == "nothing":
            desk.shelf.models.clear()
        else:
            desk.shelf.set("m", "123")
        desk.shelf.hint()
        await desk.settle()
        await desk.promote("2")
        await desk.settle()
        await desk.later(60)
        (write,) = desk.controller.writes
        assert (desk.served(), desk.stable(), write.state, desk.shelf.asked) == ("2", "1", "pending", [])
        assert write.note.startswith("registry 'local' is not believed: lost ")

        desk.shelf.set("m", "123", {"production": "1"}, {"champion": "1"})
        await desk.later(60)

        assert (desk.served(), desk.shelf.named(), await desk.ended()) == ("2", "2", ("agreed", ""))


async def test_a_refused_decision_ends_when_the_registry_says_the_same() -> None:
    """Somebody with the right to do it did it there."""
    async with a_desk() as desk:
        desk.shelf.trouble = RegistryRefused("locked by legal")
        await desk.promote("2")
        await desk.settle()
        desk.shelf.set("m", "123", {"production": "1"}, {"champion": "2"})
        await desk.settle()
        await desk.settle()

        assert (await desk.ended())[0] == "agreed"
        assert desk.served() == "2"


async def test_a_refused_decision_ends_when_somebody_moves_the_pointer_elsewhere() -> None:
    """The registry's own move is newer than the decision."""
    async with a_desk() as desk:
        desk.shelf.trouble = RegistryRefused("locked by legal")
        await desk.promote("2")
        await desk.settle()
        desk.triton.loaded.add(("m.3", "1"))
        desk.shelf.set("m", "123", {"production": "1"}, {"champion": "3"})
        await desk.settle()
        await desk.settle()

        assert (await desk.ended())[0] == "overtaken"
        assert desk.served() == "3"


async def test_a_registry_without_aliases_is_not_asked() -> None:
    """What it can do is known before."""
    async with a_desk() as desk:
        desk.shelf.lacks = frozenset({Capability.ALIASES})
        await desk.promote("2")
        await desk.settle()
        (write,) = desk.controller.writes

        assert (write.state, desk.shelf.asked, desk.served()) == ("refused", [], "2")
        assert write.note == "registry 'local' lets nobody set aliases"


async def test_a_version_that_is_gone_ends_the_decision() -> None:
    """Never a version that does not exist."""
    async with a_desk() as desk:
        desk.shelf.trouble = VersionNotFound("model 'm' has no version '2'")
        await desk.promote("2")
        await desk.settle()

        assert await desk.ended() == ("gone", "model 'm' has no version '2'; traffic follows the registry")
        assert (desk.served(), desk.shelf.named()) == ("1", "1")


async def test_a_version_that_vanishes_while_its_registry_is_not_written_is_not_served() -> None:
    """The registry's own pointer holds, and the decision ends."""
    async with a_desk() as desk:
        desk.shelf.trouble = AWAY
        await desk.promote("2")
        await desk.settle()
        desk.shelf.set("m", "13", {"production": "1"}, {"champion": "1"})
        await desk.settle()
        assert desk.served() == "1"

        desk.shelf.trouble = None
        await desk.later(30)

        assert (await desk.ended())[0] == "gone"
        assert desk.served() == "1"


async def test_a_gateway_that_dies_after_the_registry_said_yes_finds_that_out() -> None:
    """Done twice is done once: the new one reads, agrees and writes nothing more."""
    store, shelf = Kept(), Writable()
    async with a_desk(store, shelf) as desk:
        await desk.promote("2")
        store.full = True
        await desk.settle()
        assert (shelf.named(), len(await store.write_backs())) == ("2", 1)
        store.full = False
        new = await desk.again()
        try:
            await new.later(1)
            assert await new.ended() == ("agreed", "")
            assert (new.served(), shelf.named()) == ("2", "2")
            assert [type(one).__name__ for one in shelf.asked].count("AliasChange") == 1
        finally:
            await new.kill()


async def test_a_gateway_that_starts_follows_what_was_decided_before_it() -> None:
    """From its first table on, whatever the registry still names."""
    store, shelf = Kept(), Writable()
    async with a_desk(store, shelf) as desk:
        shelf.trouble = RegistryRefused("locked by legal")
        await desk.promote("2")
        await desk.settle()
        new = await desk.again()
        try:
            tables = [one["m"] for one in new.world.plane.history if "m" in one]
            named = [{p.name: p.version for p in table.pointers}["champion"] for table in tables]
            assert set(named) == {"2"}
            assert shelf.named() == "1"
        finally:
            await new.kill()


async def test_a_store_that_is_full_keeps_nothing_back() -> None:
    """The registry is written, the end is noted when the store can be written again."""
    async with a_desk() as desk:
        await desk.promote("2")
        desk.store.full = True
        await desk.settle()
        assert desk.served() == "2"
        assert len(await desk.store.write_backs()) == 1

        desk.store.full = False
        await desk.later(30)

        assert (desk.shelf.named(), desk.served()) == ("2", "2")
        assert await desk.ended() == ("agreed", "")


async def test_moves_in_the_registry_are_remembered_when_the_store_can_be_written_again(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Each of them, in order, so that a rollback goes to the version before; people are told once."""
    async with a_desk() as desk:
        desk.store.full = True
        for version in ("2", "1", "2"):
            desk.shelf.set("m", "123", {"production": "1"}, {"champion": version})
            await desk.settle()
            await desk.later(1)
        assert await desk.moved_by() == []
        desk.store.full = False
        await desk.later(1)

        assert await desk.moved_by() == [("1", "2"), ("2", "1"), ("1", "2")]
        assert caplog.text.count("are not remembered yet") == 1


async def test_a_store_that_breaks_is_not_asked_without_a_pause() -> None:
    """Whatever it raises: the next try comes after its wait."""
    async with a_desk() as desk:
        await desk.promote("2")
        desk.store.broken = ValueError("a bug")
        await desk.settle()
        await desk.settle()
        saved = desk.store.saved
        desk.store.broken = None
        await desk.later(60)

        assert saved <= 4
        assert await desk.ended() == ("agreed", "")


async def test_somebody_who_moves_it_back_after_the_registry_said_yes_wins() -> None:
    """The old version then is their move; it is not written over again."""
    async with a_desk() as desk:
        desk.shelf.slow = await desk.shelf.read()
        await desk.promote("2")
        await desk.settle()
        (write,) = desk.controller.writes
        assert (write.written, desk.shelf.named(), desk.served()) == (True, "2", "2")
        desk.shelf.slow = None
        desk.shelf.set("m", "123", {"production": "1"}, {"champion": "1"})
        for _ in range(12):
            await desk.later(30)

        assert (desk.shelf.named(), desk.served()) == ("1", "1")
        assert (await desk.ended())[0] == "overtaken"


async def test_a_registry_that_is_slow_to_show_what_it_said_yes_to_is_waited_for() -> None:
    """Traffic does not fall back meanwhile, and nothing is written twice."""
    async with a_desk() as desk:
        desk.shelf.slow = await desk.shelf.read()
        await desk.promote("2")
        await desk.settle()
        await desk.later(1)
        assert desk.served() == "2"
        desk.shelf.slow = None
        await desk.later(30)

        assert await desk.ended() == ("agreed", "")
        named = [table["m"].pointers[0].version for table in desk.world.plane.history if "m" in table]
        assert named == sorted(named)
        assert [type(one).__name__ for one in desk.shelf.asked].count("AliasChange") == 1


async def test_a_change_that_hangs_holds_up_its_model_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is written for that model before it came back: it could land on what was decided later."""
    monkeypatch.setattr(writebacks, "TRY_SECONDS", 0.01)
    async with a_desk() as desk:
        desk.shelf.hangs = asyncio.Event()
        await desk.promote("2")
        await desk.settle()
        await asyncio.sleep(0.02)
        await desk.settle()
        (write,) = desk.controller.writes
        assert (write.note, desk.served()) == ("it does not answer within 0.01 s", "2")
        await desk.rollback()
        await desk.later(60)
        assert (desk.served(), len(desk.shelf.asked)) == ("1", 1)
        with pytest.raises(Unavailable, match="under way"):
            await desk.writes.clear(desk.controller.writes[0].id, actor="ben", reason="")

        desk.shelf.hangs.set()
        await desk.settle()
        await desk.later(60)

        assert (desk.shelf.named(), desk.served()) == ("1", "1")
        assert (await desk.ended())[0] == "agreed"


async def test_tags_are_remarks() -> None:
    """What cannot be tagged is left out and told; traffic and the pointer do not wait for it."""
    async with a_desk() as desk:
        desk.shelf.tag_trouble = NotSupported("no tags on Sundays")
        await desk.promote("2")
        await desk.settle()
        state, note = await desk.ended()

        assert (state, desk.shelf.named()) == ("agreed", "2")
        assert note.startswith("without tags: stagegate.promoted_at: no tags on Sundays")
        assert len(note) <= 500


async def test_tags_are_tried_a_few_times() -> None:
    """Meanwhile the override has ended: somebody may move the pointer in the registry."""
    async with a_desk() as desk:
        desk.shelf.tag_trouble = AWAY
        await desk.promote("2")
        await desk.settle()
        (write,) = desk.controller.writes
        assert write.state == "tagging"
        desk.shelf.set("m", "123", {"production": "1"}, {"champion": "1"})
        await desk.settle()
        assert desk.served() == "1"
        for _ in range(8):
            await desk.later(30)

        assert (await desk.ended())[0] == "agreed"
        assert desk.shelf.tags("2") == {}


async def test_a_registry_without_tags_gets_none() -> None:
    """And is not asked."""
    async with a_desk() as desk:
        desk.shelf.lacks = frozenset({Capability.TAGS})
        await desk.promote("2")
        await desk.settle()

        assert await desk.ended() == ("agreed", "")
        assert not any(isinstance(change, TagChange) for change in desk.shelf.asked)


async def test_models_are_written_side_by_side_and_each_in_order() -> None:
    """One that hangs holds up no other; of one model nothing is written at the same time."""
    async with a_desk() as desk:
        desk.shelf.set("n", "12", {"production": "1"}, {"champion": "1"})
        desk.triton.loaded |= {("n.1", "1"), ("n.2", "1")}
        await desk.settle()
        desk.shelf.hangs = asyncio.Event()
        await desk.promote("2")
        await desk.promote("2", "production")
        await desk.decider.promote(ModelName("n"), "2", "@champion", ANA)
        await desk.settle()

        assert [(one.model, type(one).__name__) for one in desk.shelf.asked] == [
            ("m", "AliasChange"),
            ("n", "AliasChange"),
        ]
        desk.shelf.hangs.set()
        await desk.settle()
        await desk.settle()
        assert (desk.shelf.named(), desk.shelf.stage()) == ("2", "2")


async def test_only_what_is_open_can_be_given_up() -> None:
    """Named by its number."""
    async with a_desk() as desk:
        with pytest.raises(NotFound, match="no open write 7"):
            await desk.writes.clear(7, actor="ana", reason="")


async def test_a_decision_that_is_being_given_up_is_not_written_meanwhile() -> None:
    """The store takes its time to say so; the registry, which is back just then, is left as it is."""
    async with a_desk() as desk:
        desk.shelf.trouble = AWAY
        await desk.promote("2")
        await desk.settle()
        asked = len(desk.shelf.asked)
        desk.shelf.trouble = None
        desk.store.slow = asyncio.Event()
        clearing = asyncio.create_task(
            desk.writes.clear(desk.controller.writes[0].id, actor="ana", reason="")
        )
        await desk.settle()
        await desk.later(60)
        desk.store.slow.set()
        await clearing
        await desk.later(60)

        assert (len(desk.shelf.asked), desk.shelf.named(), desk.served()) == (asked, "1", "1")
        assert (await desk.ended())[0] == "cleared"


async def test_a_clock_that_is_set_back_delays_no_write() -> None:
    """A pause is never longer than the longest, whatever the time was when it was noted."""
    async with a_desk() as desk:
        desk.shelf.trouble = AWAY
        await desk.promote("2")
        await desk.settle()
        desk.shelf.trouble = None
        desk.world.clock.set_back(3_600.0)
        await desk.later(60)

        assert desk.shelf.named() == "2"


async def test_the_end_tells_of_no_answer_that_never_came(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A registry that hangs when the gateway ends did not answer after all."""
    monkeypatch.setattr(writebacks, "TRY_SECONDS", 0.01)
    async with a_desk() as desk:
        desk.shelf.hangs = asyncio.Event()
        await desk.promote("2")
        await desk.settle()
        await asyncio.sleep(0.02)
        await desk.settle()

    assert "answered after all" not in caplog.text


def test_a_process_that_is_killed_leaves_before_or_after_and_never_between(tmp_path: Path) -> None:
    """Twenty times, at any moment, with the real store and a real folder."""
    for version in ("1", "2"):
        folder = tmp_path / "models/m" / version
        folder.mkdir(parents=True)
        (folder / "version.yaml").write_text("format: onnx\nartifact: model.onnx\n")
        (folder / "model.onnx").write_bytes(b"onnx")
    (tmp_path / "models/m/model.yaml").write_text('aliases: {champion: "1"}\n')
    done = subprocess.run(
        [sys.executable, "-m", "tests.unit.control.killed", str(tmp_path), "20"],
        cwd=Path(__file__).parents[3],
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )

    assert (done.returncode, done.stderr) == (0, "")
