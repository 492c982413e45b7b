"""What the SQLite store promises beyond the contract: durability, one owner, and refusals at the door."""

from __future__ import annotations

import contextlib
import os
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from router.errors import StateUnavailable
from router.model import ModelName, VersionId
from router.ports import ACCEPT, PROMOTE, Accepted, AliasChange, Decision, WriteBack
from router.stores import SqliteStore, open_store
from router.stores.sqlite import SCHEMA_VERSION
from tests.fakes.models import a_route

ROUTE = a_route(("stable", "production", 100))

WRITER = """
import asyncio, sys
from pathlib import Path
from router.model import Arm, ModelName, Route
from router.stores import SqliteStore

async def main():
    store = await SqliteStore.open(Path(sys.argv[1]))
    revision = await store.revision()
    while True:
        weight = revision % 10_000
        arms = (Arm("stable", "1", 10_000 - weight), Arm("canary", "2", weight))
        routes = [Route(ModelName(name), arms) for name in ("a", "b", "c")]
        revision = await store.put_routes(routes, expected_revision=revision, actor="x", reason="y")
        print(revision, flush=True)

asyncio.run(main())
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the state is."""
    return tmp_path / "state.db"


async def write(path: Path, times: int = 1) -> None:
    """Make some changes and close."""
    store = await SqliteStore.open(path)
    for _ in range(times):
        await store.put_routes([ROUTE], expected_revision=None, actor="ana", reason="why")
    await store.close()


def edit(path: Path, *statements: str) -> None:
    """Change the file behind the store's back."""
    with contextlib.closing(sqlite3.connect(path)) as db:
        for statement in statements:
            db.execute(statement)
        db.commit()


def content(path: Path) -> bytes:
    """What the file holds."""
    return path.read_bytes()


def replace(path: Path, data: bytes) -> None:
    """Make it hold something else."""
    path.write_bytes(data)


def mode(path: Path) -> int:
    """Who may read it."""
    return path.stat().st_mode & 0o777


def neighbours(path: Path) -> list[str]:
    """Files in its folder."""
    return sorted(file.name for file in path.parent.iterdir())


async def test_what_was_written_is_there_after_a_restart(path: Path) -> None:
    """Routes, revision and log."""
    await write(path, 3)
    store = await open_store("sqlite", path)

    assert (await store.routes())[0] == len(await store.audit_log()) == 3
    assert (await store.routes())[1][ModelName("digits")].route == ROUTE
    await store.close()


async def test_closing_leaves_one_file(path: Path) -> None:
    """No lock, no log beside it; and nobody else may read it."""
    await write(path)

    assert neighbours(path) == ["state.db"]
    assert mode(path) == 0o600


async def test_the_database_is_as_durable_as_it_can_be(path: Path) -> None:
    """A write-ahead log that is synced at every commit."""
    store = await SqliteStore.open(path)
    pragmas = await store._run(
        lambda: [
            store._db.execute(f"PRAGMA {name}").fetchone()[0] for name in ("journal_mode", "synchronous")
        ]
    )
    await store.close()

    assert pragmas == ["wal", 2]


async def test_a_missing_folder_is_made_one_level_deep(tmp_path: Path) -> None:
    """A mistyped path is still an error."""
    await write(tmp_path / ".stagegate/state.db")

    with pytest.raises(StateUnavailable, match="cannot be made: No such file"):
        await SqliteStore.open(tmp_path / "x/y/state.db")


async def test_a_second_owner_is_refused_with_the_first_ones_number(path: Path) -> None:
    """And gets it once the first is gone."""
    first = await SqliteStore.open(path)
    with pytest.raises(StateUnavailable) as caught:
        await SqliteStore.open(path)
    await first.close()
    second = await SqliteStore.open(path)
    await second.close()

    assert f"{path} is in use by process {os.getpid()}" in caught.value.message


async def test_the_lock_of_a_process_that_died_is_no_lock(path: Path) -> None:
    """Its file may still be there."""
    await write(path)
    replace(path.with_name("state.db.lock"), b"1\n")

    await write(path)


async def test_a_newer_schema_is_refused(path: Path) -> None:
    """And left as it is."""
    await write(path)
    edit(path, f"PRAGMA user_version = {SCHEMA_VERSION + 1}")
    before = content(path)

    with pytest.raises(StateUnavailable, match=f"has schema {SCHEMA_VERSION + 1}; this version reads up to"):
        await SqliteStore.open(path)
    assert content(path) == before


async def test_somebody_elses_database_is_refused(path: Path) -> None:
    """And left as it is."""
    edit(path, "CREATE TABLE users (name TEXT)")
    before = content(path)

    with pytest.raises(StateUnavailable, match="database of something else"):
        await SqliteStore.open(path)
    assert content(path) == before


@pytest.mark.parametrize(
    "found", [b"not a database, but long enough to be looked at" * 100, b"SQLite format 3\0" * 99]
)
async def test_a_file_that_is_no_database_is_refused(path: Path, found: bytes) -> None:
    """By name, and left as it is; nothing stays locked."""
    replace(path, found)
    with pytest.raises(StateUnavailable, match=r"state\.db"):
        await SqliteStore.open(path)

    assert content(path) == found
    assert neighbours(path) == ["state.db"]


async def test_a_damaged_database_is_refused(path: Path) -> None:
    """Before anything is served from it."""
    await write(path, 50)
    data = bytearray(content(path))
    data[4096:] = b"\xff" * (len(data) - 4096)
    replace(path, bytes(data))

    with pytest.raises(StateUnavailable, match=r"state\.db"):
        await SqliteStore.open(path)


async def test_the_log_can_only_grow(path: Path) -> None:
    """The database itself refuses anything else."""
    await write(path)

    for statement in ("UPDATE audit SET actor = 'ben'", "DELETE FROM audit"):
        with pytest.raises(sqlite3.IntegrityError, match="append-only"):
            edit(path, statement)


@pytest.mark.parametrize(
    ("statement", "message"),
    [
        ("UPDATE audit SET actor = 'ben' WHERE revision = 2", "entry 2 was changed"),
        ("UPDATE audit SET targets = 'x' WHERE revision = 2", "entry 2 was changed"),
        ("DELETE FROM audit WHERE revision = 2", "entry 2 is missing"),
        ("UPDATE state SET revision = 7", "3 entries for 7 revisions"),
    ],
)
async def test_a_log_that_was_changed_is_refused(path: Path, statement: str, message: str) -> None:
    """By somebody who removed the triggers first."""
    await write(path, 3)
    edit(path, *(f"DROP TRIGGER audit_is_append_only_{number}" for number in (1, 2)), statement)

    with pytest.raises(StateUnavailable, match=message):
        await SqliteStore.open(path)


async def test_a_change_that_cannot_be_written_changes_nothing(path: Path) -> None:
    """A full disk says so, and the store goes on afterwards."""
    store = await SqliteStore.open(path)
    await store.put_routes([ROUTE], expected_revision=None, actor="ana", reason="fits")
    before = await store.routes()
    pages = await store._run(lambda: store._db.execute("PRAGMA page_count").fetchone()[0])
    await store._run(lambda: store._db.execute(f"PRAGMA max_page_count = {pages}").fetchone())

    with pytest.raises(StateUnavailable, match="full"):
        await store.put_routes([ROUTE], expected_revision=None, actor="ana", reason="x" * 100_000)
    assert await store.routes() == before

    await store._run(lambda: store._db.execute("PRAGMA max_page_count = 100000").fetchone())
    assert await store.put_routes([ROUTE], expected_revision=1, actor="ana", reason="fits") == 2
    await store.close()


def written_until_killed(path: Path, changes: int) -> int:
    """Let a process write, kill it at a moment it does not choose, and say what it had confirmed."""
    writer = subprocess.Popen([sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, text=True)
    assert writer.stdout is not None
    confirmed = [int(writer.stdout.readline()) for _ in range(changes)]
    writer.send_signal(signal.SIGKILL)
    confirmed += [int(line) for line in writer.stdout.read().split("\n")[:-1]]
    writer.stdout.close()
    assert writer.wait() == -signal.SIGKILL
    return confirmed[-1]


async def test_a_kill_in_the_middle_of_writes_loses_nothing_that_was_confirmed(path: Path) -> None:
    """Revision, entries and routes agree, the chain holds, and the lock is free."""
    for changes in (1, 7, 23):
        confirmed = written_until_killed(path, changes)
        store = await SqliteStore.open(path)
        revision, routes = await store.routes()
        log = await store.audit_log()
        await store.close()

        assert revision in (confirmed, confirmed + 1)
        assert len(log) == revision
        assert {stored.revision for stored in routes.values()} == {revision}
        assert {stored.route.arms[1].weight for stored in routes.values()} == {revision - 1}


async def test_another_process_may_have_it_for_a_while(tmp_path: Path) -> None:
    """While it is lent every call says so and the lock is free; taken back, it is whole again."""
    path = tmp_path / "state.db"
    store = await SqliteStore.open(path)
    await store.put_routes([ROUTE], expected_revision=None, actor="x", reason="y")
    await store.lend()
    with pytest.raises(StateUnavailable, match="is not open"):
        await store.revision()
    other = await SqliteStore.open(path)
    with pytest.raises(StateUnavailable, match="in use by process"):
        await store.take_back()
    await other.delete_route(ROUTE.model, expected_revision=None, actor="x", reason="y")
    await other.close()
    await store.take_back()

    assert await store.routes() == (2, {})
    await store.close()


async def test_a_state_that_cannot_be_taken_back_is_not_held(tmp_path: Path) -> None:
    """A newer version brought it to its own schema, and ended: nobody reads it by halves, and it is free."""
    path = tmp_path / "state.db"
    store = await SqliteStore.open(path)
    await store.lend()
    with contextlib.closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA user_version = 99")
    with pytest.raises(StateUnavailable, match="schema 99"):
        await store.take_back()
    with pytest.raises(StateUnavailable, match="is not open"):
        await store.revision()

    assert not path.with_name("state.db.lock").exists()
    await store.close()


SCHEMA_3 = Path(__file__).parent / "data/schema-3.sql"
"""A state with a version that was accepted, as the third version of the schema had it."""
SCHEMA_1 = Path(__file__).parent / "data/schema-1.sql"
"""A whole state as the first version of the schema had it."""


async def test_a_file_of_the_first_schema_is_brought_up_to_date(path: Path) -> None:
    """In place, with all that it holds; then it takes what is new, and opens again."""
    with contextlib.closing(sqlite3.connect(path)) as db:
        db.executescript(SCHEMA_1.read_text())
    store = await SqliteStore.open(path)
    revision, routes = await store.routes()
    history = await store.history(ModelName("digits"), 9)
    write = WriteBack("prod", AliasChange(ModelName("digits"), "champion", VersionId("2")), PROMOTE, ("1",))
    await store.decide(Decision(PROMOTE, (write,)), expected_revision=4, actor="ana", reason="why")
    await store.close()
    again = await SqliteStore.open(path)
    (kept,) = await again.write_backs()
    await again.close()
    with contextlib.closing(sqlite3.connect(path)) as db:
        (schema,) = db.execute("PRAGMA user_version").fetchone()

    assert (revision, [str(model) for model in routes]) == (4, ["digits"])
    assert [change.revision for change in history] == [2, 1]
    assert kept.version == "2"
    assert schema == SCHEMA_VERSION > 1


async def test_what_was_accepted_before_its_files_were_noted_is_kept_and_says_nothing_of_files(
    path: Path,
) -> None:
    """So it holds for no files; somebody who has seen them says it anew."""
    one = Accepted("prod", ModelName("digits"), VersionId("2"), "files", "contract")
    with contextlib.closing(sqlite3.connect(path)) as db:
        db.executescript(SCHEMA_3.read_text())
    store = await SqliteStore.open(path)
    (before,) = await store.accepted()
    revision = await store.revision()
    await store.decide(
        Decision(ACCEPT, accepted=(one,)), expected_revision=revision, actor="ana", reason="seen"
    )
    (after,) = await store.accepted()
    await store.close()

    assert (before.version, before.files, before.actor, before.reason) == ("2", "", "ana", "new clients")
    assert (after.files, after.contract, after.reason) == ("files", "contract", "seen")


async def test_an_upgrade_that_breaks_leaves_the_file_as_it_was(path: Path) -> None:
    """A table that is in the way: refused, nothing of it half done."""
    with contextlib.closing(sqlite3.connect(path)) as db:
        db.executescript(SCHEMA_1.read_text())
        db.execute("CREATE TABLE pointer_move (x TEXT)")
        before = list(db.iterdump())
    with pytest.raises(StateUnavailable, match="pointer_move"):
        await SqliteStore.open(path)
    with contextlib.closing(sqlite3.connect(path)) as db:
        assert list(db.iterdump()) == before
        assert db.execute("PRAGMA user_version").fetchone() == (1,)
