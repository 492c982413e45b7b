"""What every store promises, run on each adapter and on the fake."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from router.errors import Conflict, InvalidInput, RouteNotFound, StateUnavailable
from router.model import Arm, BackendModel, ModelName, Route
from router.ports import StateStore
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
