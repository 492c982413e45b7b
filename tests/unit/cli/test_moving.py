"""`promote`, `rollback`, `writes`: short sentences, a wait that ends, typed errors."""

from __future__ import annotations

from dataclasses import replace

import pytest

from gateway.cli import moving
from gateway.operations import Change, Moved
from router.errors import LoadFailed
from tests.fakes.operations import AGREED, NOTES, PENDING, FakeOperations
from tests.unit.cli.conftest import Terminal


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(moving, "LOOK_SECONDS", 0.0)


async def test_a_promotion_says_what_moves(terminal: Terminal, operations: FakeOperations) -> None:
    """And what is waited for."""
    outcome = await terminal.run("promote", "digits", "2", "--to", "@champion", "--reason", "better")

    assert outcome.out == "digits: @champion goes from 1 to 2\n  it is loading\n"
    (asked,) = operations.moves
    assert asked[:5] == ("@champion", "2", "promote", False, False)
    assert isinstance(asked[5], Change)
    assert asked[5].reason == "better"


@pytest.mark.parametrize("words", [("digits@2",), ("digits", "2")])
async def test_a_version_is_named_in_one_word_or_two(
    terminal: Terminal, operations: FakeOperations, words: tuple[str, ...]
) -> None:
    """As `show` and `rollback` take it; never both, never neither."""
    assert (await terminal.run("promote", *words, "--to", "@champion")).code == 0
    assert operations.moves[-1][:2] == ("@champion", "2")

    for wrong in (("digits",), ("digits@",), ("digits@2", "2")):
        outcome = await terminal.run("promote", *wrong, "--to", "@champion")
        assert (outcome.code, "name one version" in outcome.err) == (2, True)


async def test_a_stage_that_is_new_is_said_to_be(terminal: Terminal, operations: FakeOperations) -> None:
    """It may be one that was spelt wrong; those that everybody has are no surprise."""
    operations.moved = Moved("digits", "local", "stage", "prod", "", "2", revision=8, write=4)
    new = await terminal.run("promote", "digits", "2", "--to", "prod")
    operations.moved = Moved("digits", "local", "stage", "production", "", "2", revision=8, write=4)
    usual = await terminal.run("promote", "digits", "2", "--to", "production")

    assert new.out.splitlines()[1:] == ["  stage prod is new: only clients that ask for digits@prod meet it"]
    assert usual.out == "digits: stage production goes from nothing to 2\n"


async def test_a_promotion_can_be_forced(terminal: Terminal, operations: FakeOperations) -> None:
    """And leave others in the stage."""
    await terminal.run("promote", "digits", "2", "--to", "production", "--force", "--keep-existing")

    assert operations.moves[0][3:5] == (True, True)


async def test_a_version_is_accepted_in_one_sentence(terminal: Terminal, operations: FakeOperations) -> None:
    """A reason is needed; a route is forced by its own option."""
    outcome = await terminal.run("accept", "digits", "2", "--reason", "clients are out")
    without = await terminal.run("accept", "digits", "2")
    await terminal.run("route", "set", "digits", "stable=2:100", "--force", "--reason", "known")

    assert outcome.out == "digits: version 2 is accepted, and version 1 for the way back\n"
    assert without.code == 2
    assert operations.forced == [True]


async def test_a_rollback_names_what_goes_back(terminal: Terminal, operations: FakeOperations) -> None:
    """By default what the stable arm goes by."""
    operations.moved = Moved("digits", "local", "stage", "production", "2", "1", revision=8, write=4)
    outcome = await terminal.run("rollback", "digits")
    await terminal.run("rollback", "digits@@champion", "--to", "1")

    assert outcome.out == "digits: stage production goes from 2 to 1\n"
    assert [asked[:3] for asked in operations.moves] == [("", "", "rollback"), ("@champion", "1", "rollback")]


async def test_what_is_so_already_says_so(terminal: Terminal, operations: FakeOperations) -> None:
    """With exit code 0: scripts may ask again."""
    operations.moved = Moved("digits", "local", "alias", "champion", "1", "1", already=True)
    operations.rows = ()
    outcome = await terminal.run("rollback", "digits", "--wait")

    assert (outcome.code, outcome.out) == (0, "digits: @champion names 1 already\n")


async def test_json_is_what_came_of_it(terminal: Terminal) -> None:
    """For programs."""
    found = (await terminal.run("promote", "digits", "2", "--to", "@champion", "--json")).json

    assert (found["after"], found["write"], found["said"]) == ("2", 4, ["it is loading"])


async def test_wait_returns_when_the_registry_says_the_same(
    terminal: Terminal, operations: FakeOperations
) -> None:
    """Asked for until then."""
    done = replace(PENDING, state="agreed", ended=1.0)
    operations.rows = (PENDING,)
    operations.next_rows = [(PENDING,), (done,)]
    outcome = await terminal.run("promote", "digits", "2", "--to", "@champion", "--wait")

    assert (outcome.code, operations.next_rows) == (0, [])
    assert outcome.out.splitlines()[-1] == "  registry local says so too"
    assert outcome.err == "  waiting: connection refused\n"


@pytest.mark.parametrize(
    ("state", "code", "words"),
    [
        ("refused", 1, "registry 'local' does not: locked"),
        ("overtaken", 4, "it was overtaken: locked"),
        ("gone", 3, "locked"),
        ("cleared", 4, "it was cleared: locked"),
    ],
)
async def test_wait_ends_where_the_registry_will_not(
    terminal: Terminal, operations: FakeOperations, state: str, code: int, words: str
) -> None:
    """With an error of its kind."""
    operations.rows = (replace(PENDING, state=state, note="locked", ended=1.0),)
    outcome = await terminal.run("promote", "digits", "2", "--to", "@champion", "--wait")

    assert outcome.code == code
    assert words in outcome.err


async def test_wait_gives_up(terminal: Terminal, operations: FakeOperations) -> None:
    """The decision holds."""
    outcome = await terminal.run("promote", "digits", "2", "--to", "@champion", "--wait", "--timeout", "0")

    assert outcome.code == 5
    assert "not within 0 s: connection refused" in outcome.err
    assert "stagegate writes" in outcome.err


async def test_wait_for_an_arm_asks_for_its_route(terminal: Terminal, operations: FakeOperations) -> None:
    """No registry has a part in it."""
    operations.moved = Moved("digits", "", "arm", "stable", "2", "1", revision=8)
    outcome = await terminal.run("rollback", "digits", "--wait")

    assert outcome.out == "digits: arm stable goes from 2 to 1\n  clients meet it\n"


async def test_errors_are_typed(terminal: Terminal, operations: FakeOperations) -> None:
    """As everywhere."""
    assert (await terminal.run("promote", "nope", "2", "--to", "production")).code == 3
    operations.failure = LoadFailed("version '2' cannot be loaded: bad magic")
    outcome = await terminal.run("rollback", "digits")
    assert (outcome.code, "bad magic" in outcome.err) == (5, True)


async def test_writes_are_a_table(terminal: Terminal, operations: FakeOperations) -> None:
    """Open ones; with --all the others as well."""
    outcome = await terminal.run("writes")
    whole = await terminal.run("writes", "--all", "--json")
    operations.rows = (AGREED,)
    nothing = await terminal.run("writes")

    heading, _, first, second = outcome.out.splitlines()
    assert heading.split()[:3] == ["ID", "MODEL", "POINTER"]
    assert "@champion" in first
    assert "connection refused" in first
    assert "nothing" in second
    assert [row["id"] for row in whole.json] == [4, 5, 3]
    assert nothing.out == "every registry says what was decided here\n"


async def test_a_write_is_given_up(terminal: Terminal) -> None:
    """By its number."""
    outcome = await terminal.run("writes", "clear", "4", "--reason", "no need")
    gone = await terminal.run("writes", "clear", "9")

    assert outcome.out == "digits: @champion follows registry local again, which names 1\n"
    assert (gone.code, "no open write 9" in gone.err) == (3, True)


async def test_a_route_shows_where_the_registry_says_something_else(terminal: Terminal) -> None:
    """Openly."""
    assert NOTES[0] in (await terminal.run("route", "get", "digits")).out
