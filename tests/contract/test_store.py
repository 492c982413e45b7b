"""What every store promises, run on each adapter and on the fake."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from router.errors import Conflict, InvalidInput, RouteNotFound, StateUnavailable
from router.model import Arm, BackendModel, ModelName, Route, VersionId
from router.ports import (
    ACCEPT,
    PROMOTE,
    Accepted,
    AliasChange,
    Decision,
    PointerMove,
    StageTransition,
    StateStore,
    TagChange,
    WriteBack,
    WriteState,
)
from router.stores import MemoryStore, SqliteStore
from tests.fakes.models import a_route
from tests.fakes.store import FakeStore

DIGITS, FRAUD = ModelName("digits"), ModelName("fraud")
PLAIN = a_route(("stable", "production", 100))
SPLIT = a_route(("stable", "production", 66.66), ("canary", "@challenger", 33.34), deadline=0.25)
BROUGHT = Route(FRAUD, (Arm("old", "", 10_000, BackendModel("legacy", "2")),), registry="prod")


@pytest.fixture(params=["sqlite", "memory", "fake"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[StateStore]:
    """Each kind, new."""
    made: StateStore
    match request.param:
        case "sqlite":
            made = await SqliteStore.open(tmp_path / "state.db")
        case "memory":
            made = MemoryStore()
        case _:
            made = FakeStore()
    yield made
    await made.close()


async def put(store: StateStore, *routes: Route, expected: int | None = None) -> int:
    """Write routes as somebody with a reason."""
    return await store.put_routes(routes, expected_revision=expected, actor="ana", reason="try it")


async def test_a_new_store_is_empty(store: StateStore) -> None:
    """At revision 0."""
    assert await store.revision() == 0
    assert await store.routes() == (0, {})
    assert await store.history(DIGITS, 10) == ()


async def test_a_route_is_read_back_as_it_was_written(store: StateStore) -> None:
    """With who, why, when and at which revision."""
    assert await put(store, SPLIT) == 1
    revision, routes = await store.routes()
    stored = routes[DIGITS]

    assert (revision, stored.route, stored.revision) == (1, SPLIT, 1)
    assert (stored.actor, stored.reason) == ("ana", "try it")
    assert stored.at > 1_600_000_000


async def test_several_routes_are_one_change(store: StateStore) -> None:
    """One revision for all."""
    assert await put(store, PLAIN, BROUGHT) == 1
    revision, routes = await store.routes()

    assert {model: stored.route for model, stored in routes.items()} == {DIGITS: PLAIN, FRAUD: BROUGHT}
    assert {stored.revision for stored in routes.values()} == {revision} == {1}


async def test_every_change_counts_up_by_one(store: StateStore) -> None:
    """Also one that writes what is there."""
    found = [await put(store, PLAIN), await put(store, SPLIT), await put(store, SPLIT)]
    found.append(await store.delete_route(DIGITS, expected_revision=3, actor="ana", reason="done"))

    assert found == [1, 2, 3, 4]
    assert await store.routes() == (4, {})


async def test_a_stale_change_is_refused_and_changes_nothing(store: StateStore) -> None:
    """The error carries the revision to read again."""
    await put(store, PLAIN)
    before = await store.routes()
    for expected in (0, 2):
        with pytest.raises(Conflict) as caught:
            await put(store, SPLIT, BROUGHT, expected=expected)
        assert caught.value.current_revision == 1
        with pytest.raises(Conflict):
            await store.delete_route(DIGITS, expected_revision=expected, actor="ana", reason="")

    assert await store.routes() == before
    assert await put(store, SPLIT, expected=1) == 2


async def test_of_many_changes_on_one_revision_one_wins(store: StateStore) -> None:
    """Compare-and-set, however many try at the same moment."""
    results = await asyncio.gather(
        *(put(store, PLAIN, expected=0) for _ in range(20)), return_exceptions=True
    )

    assert sorted(type(result).__name__ for result in results) == ["Conflict"] * 19 + ["int"]
    assert await store.revision() == 1


async def test_changes_at_the_same_moment_all_count(store: StateStore) -> None:
    """Without an expected revision none is lost."""
    revisions = await asyncio.gather(*(put(store, PLAIN) for _ in range(20)))

    assert sorted(revisions) == list(range(1, 21))


async def test_deleting_what_is_not_there_is_an_error(store: StateStore) -> None:
    """And no change."""
    with pytest.raises(RouteNotFound, match="'digits' has no explicit route"):
        await store.delete_route(DIGITS, expected_revision=None, actor="ana", reason="")

    assert await store.revision() == 0


async def test_a_change_of_nothing_or_of_one_model_twice_is_refused(store: StateStore) -> None:
    """Neither has a meaning."""
    with pytest.raises(InvalidInput, match="no routes"):
        await put(store)
    with pytest.raises(InvalidInput, match="two routes for model 'digits'"):
        await put(store, PLAIN, SPLIT)

    assert await store.revision() == 0


async def test_history_tells_from_what_to_what(store: StateStore) -> None:
    """Newest first, of one model only, as many as were asked for."""
    await put(store, PLAIN, BROUGHT)
    await put(store, BROUGHT)
    await put(store, SPLIT)
    await store.delete_route(DIGITS, expected_revision=None, actor="ben", reason="too slow")
    history = await store.history(DIGITS, 10)

    assert [(change.revision, change.before, change.after) for change in history] == [
        (4, SPLIT, None),
        (3, PLAIN, SPLIT),
        (1, None, PLAIN),
    ]
    assert (history[0].actor, history[0].reason) == ("ben", "too slow")
    assert await store.history(DIGITS, 2) == history[:2]
    assert await store.history(DIGITS, 0) == await store.history(ModelName("nope"), 9) == ()


async def test_texts_of_any_kind_are_kept(store: StateStore) -> None:
    """Actor and reason are people's words."""
    reason = 'it\'s "bad"; DROP TABLE route; -- \u2603\n\x00'
    await store.put_routes([PLAIN], expected_revision=None, actor="Zoë", reason=reason)
    _, routes = await store.routes()

    assert (routes[DIGITS].actor, routes[DIGITS].reason) == ("Zoë", reason)


async def test_a_closed_store_says_so(store: StateStore) -> None:
    """Closing twice does nothing."""
    await store.close()
    await store.close()
    with pytest.raises(StateUnavailable, match="closed"):
        await store.revision()
    with pytest.raises(StateUnavailable, match="closed"):
        await put(store, PLAIN)


async def test_buckets_follow_from_one_route_to_the_next(store: StateStore) -> None:
    """Raising a weight hands over the surplus; what a caller gives counts for nothing."""
    given = replace(a_route(("stable", "1", 90), ("canary", "2", 10)), buckets=(("canary", 10_000),))
    tables = []
    for route in (given, a_route(("stable", "1", 70), ("canary", "2", 10), ("blue", "3", 20))):
        await put(store, route)
        _, routes = await store.routes()
        tables.append(routes[DIGITS].route.buckets)
    await put(store, a_route(("stable", "1", 100)))
    _, routes = await store.routes()

    assert tables[0] == (("stable", 9_000), ("canary", 1_000))
    assert tables[1] == (("stable", 7_000), ("blue", 2_000), ("canary", 1_000))
    assert routes[DIGITS].route.buckets == ()


# === decisions about stages and aliases ===


def a_write(version: str = "2", *, name: str = "champion", registry: str = "prod") -> WriteBack:
    """An alias of digits that is to name a version; it named version 1."""
    change = AliasChange(DIGITS, name, VersionId(version))
    tags = (TagChange(DIGITS, VersionId(version), "stagegate.promoted_by", "ana"),)
    return WriteBack(registry, change, PROMOTE, before=("1",), tags=tags)


def a_move(before: str, after: str, name: str = "champion") -> PointerMove:
    """The alias went from one version to another."""
    return PointerMove("prod", DIGITS, "alias", name, before, after, PROMOTE)


async def decide(
    store: StateStore,
    *writes: WriteBack,
    routes: tuple[Route, ...] = (),
    moves: tuple[PointerMove, ...] = (),
    expected: int | None = None,
) -> int:
    """Decide as somebody with a reason."""
    decision = Decision(PROMOTE, writes, routes, moves)
    return await store.decide(decision, expected_revision=expected, actor="ana", reason="better")


async def test_a_decision_is_one_change_of_all_its_parts(store: StateStore) -> None:
    """Write-backs, moves and routes of one revision, with who, why and when."""
    stage = WriteBack("prod", StageTransition(DIGITS, VersionId("2"), "production"), PROMOTE, ("1", ""))
    revision = await decide(store, a_write(), stage, routes=(BROUGHT,), moves=(a_move("1", "2"),))
    first, second = await store.write_backs()
    _, routes = await store.routes()
    (move,) = await store.moves("prod", DIGITS, "alias", "champion")

    assert replace(first, id=0, at=0) == replace(a_write(), revision=1, actor="ana", reason="better")
    assert replace(second, id=0, at=0) == replace(stage, revision=1, actor="ana", reason="better")
    assert 0 < first.id < second.id
    assert first.at > 1_600_000_000
    assert (first.kind, first.name, first.version, first.model) == ("alias", "champion", "2", DIGITS)
    assert (second.kind, second.name, second.version) == ("stage", "production", "2")
    assert routes[FRAUD].revision == move.revision == revision == await store.revision() == 1
    assert (move.before, move.after, move.action, move.actor) == ("1", "2", PROMOTE, "ana")


async def test_a_decision_that_is_stale_empty_or_double_changes_nothing(store: StateStore) -> None:
    """Refused whole."""
    with pytest.raises(Conflict):
        await decide(store, a_write(), routes=(BROUGHT,), expected=1)
    with pytest.raises(InvalidInput, match="changes nothing"):
        await decide(store)
    with pytest.raises(InvalidInput, match="alias 'champion' of model 'digits' is moved twice"):
        await decide(store, a_write("2"), a_write("3"), moves=(a_move("1", "3"),))
    with pytest.raises(InvalidInput, match="two routes"):
        await decide(store, a_write(), routes=(PLAIN, SPLIT))

    assert (await store.routes(), await store.write_backs(9)) == ((0, {}), ())
    assert await store.moves("prod", DIGITS, "alias", "champion") == ()


async def test_a_later_decision_takes_the_place_of_an_open_one(store: StateStore) -> None:
    """Of the same pointer only."""
    await decide(store, a_write("2"), a_write("2", name="shadow"), a_write("2", registry="other"))
    await decide(store, a_write("3"))
    *still, ended = await store.write_backs(10)

    assert [(one.registry, one.name, one.version) for one in still] == [
        ("prod", "shadow", "2"),
        ("other", "champion", "2"),
        ("prod", "champion", "3"),
    ]
    assert (ended.version, ended.state, ended.note) == (
        "2",
        WriteState.SUPERSEDED,
        "a later decision took its place: promote at revision 2",
    )
    assert ended.ended is not None


async def test_how_far_a_write_back_came_is_kept(store: StateStore) -> None:
    """Tries are no change of desired state; another state is one, and the end of it counts once."""
    await decide(store, a_write())
    (write,) = await store.write_backs()
    tried = replace(write, attempts=3, next_try=12.5, note="is away", written=True)
    assert await store.save_write_back(tried)
    assert (await store.revision(), await store.write_backs()) == (1, (tried,))

    refused = replace(tried, state=WriteState.REFUSED)
    assert await store.save_write_back(refused, actor="gateway", reason="no aliases")
    assert (await store.revision(), await store.write_backs()) == (2, (refused,))

    assert await store.save_write_back(replace(refused, state=WriteState.CLEARED, note="given up"))
    assert await store.revision() == 3
    assert await store.write_backs() == ()
    (ended,) = await store.write_backs(1)
    assert (ended.state, ended.note) == (WriteState.CLEARED, "given up")
    assert ended.ended is not None

    assert not await store.save_write_back(tried)
    assert not await store.save_write_back(replace(tried, id=99))
    assert (await store.revision(), await store.write_backs(9)) == (3, (ended,))


async def test_the_last_moves_of_each_pointer_are_kept(store: StateStore) -> None:
    """Newest first, those of others untouched, and not for ever."""
    await store.note_moves([a_move("1", "2", "other"), a_move("0", "1")])
    for number in range(1, 40):
        await store.note_moves([a_move(str(number), str(number + 1))])
    moves = await store.moves("prod", DIGITS, "alias", "champion")

    assert [(move.before, move.after) for move in moves[:2]] == [("39", "40"), ("38", "39")]
    assert 10 <= len(moves) <= 30
    assert len(await store.moves("prod", DIGITS, "alias", "other")) == 1
    assert await store.moves("local", DIGITS, "alias", "champion") == ()
    assert await store.revision() == 0


async def test_only_the_newest_ended_write_backs_are_kept(store: StateStore) -> None:
    """Some hundred; open ones for as long as they are open."""
    await decide(store, a_write(name="kept"))
    for _ in range(230):
        await decide(store, a_write())
    assert len(await store.write_backs(1_000)) <= 220
    open_one = (await store.write_backs())[-1]
    await store.save_write_back(replace(open_one, state=WriteState.AGREED))
    found = await store.write_backs(1_000)

    assert found[0].name == "kept"
    assert 100 <= len(found) <= 220
    assert found[1].state is WriteState.AGREED


async def test_decisions_are_no_changes_of_routes(store: StateStore) -> None:
    """The history of a route tells of routes."""
    await put(store, PLAIN)
    await decide(store, a_write(), moves=(a_move("1", "2"),))
    await decide(store, a_write("3"), routes=(SPLIT,))

    assert [change.revision for change in await store.history(DIGITS, 10)] == [3, 1]
    assert (await store.routes())[1][DIGITS].route == SPLIT


async def test_an_accepted_version_is_kept_with_who_and_why(store: StateStore) -> None:
    """One change of the state, in the audit log, and given again it is the later one's."""
    one = Accepted("prod", DIGITS, VersionId("2"), "files", "contract")
    decision = Decision(ACCEPT, accepted=(one, replace(one, version=VersionId("1"))))

    first = await store.decide(decision, expected_revision=0, actor="ana", reason="new clients are out")
    second = await store.decide(
        Decision(ACCEPT, accepted=(one,)), expected_revision=1, actor="bo", reason="x"
    )
    found = {kept.version: replace(kept, at=0.0) for kept in await store.accepted()}

    assert (first, second, await store.revision()) == (1, 2, 2)
    assert found == {
        "1": Accepted("prod", DIGITS, VersionId("1"), "files", "contract", "ana", "new clients are out", 1),
        "2": Accepted("prod", DIGITS, VersionId("2"), "files", "contract", "bo", "x", 2),
    }
    assert await store.routes() == (2, {})
