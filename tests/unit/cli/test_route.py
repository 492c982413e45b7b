"""Commands that move traffic."""

from __future__ import annotations

import io
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from gateway.operations import RouteView
from router.errors import ModelNotFound
from router.model import Arm, Condition, Fallback, MatchRule, ModelName, Route, Shadow, Sticky, Tolerance
from tests.fakes.operations import DIGITS, SHADOW_VIEWS, VERSIONS, FakeOperations
from tests.unit.cli.conftest import Terminal

SPLIT = Route(DIGITS, (Arm("stable", "production", 9_000), Arm("canary", "@challenger", 1_000)))


async def test_a_route_is_set_in_short_form(terminal: Terminal, operations: FakeOperations) -> None:
    """From what to what is shown, and who did it and why is kept."""
    outcome = await terminal.run(
        "route", "set", "digits", "stable=production:90", "canary=@challenger:10", "--reason", "try"
    )

    assert outcome.code == 0
    assert operations.stored[DIGITS].route == SPLIT
    assert operations.changes[0].reason == "try"
    assert "@" in operations.changes[0].actor
    assert outcome.out.splitlines() == [
        "model     digits",
        "from      (implicit)",
        "to        stable=production:90 canary=@challenger:10",
        "revision  8",
    ]


RICH = Route(
    DIGITS,
    (Arm("stable", "production", 10_000), Arm("canary", "@challenger", 0)),
    registry="local",
    deadline=2.0,
    shadows=(Shadow("next", "staging"),),
    match=(MatchRule((Condition("header", "x-team", "risk"),), "canary"),),
    sticky=Sticky("header:x-user", "spring"),
    arm_header=True,
    fallback=Fallback(("UNAVAILABLE",), "stable"),
)
"""A route with all that a route can have."""


def store(operations: FakeOperations, route: Route) -> None:
    """Have this route in the store."""
    operations.stored[DIGITS] = RouteView(route, implicit=False, arms=(), revision=7)


async def test_what_is_not_named_stays(terminal: Terminal, operations: FakeOperations) -> None:
    """Weights are moved every day; rules, shadows, salt and the rest are not to be lost by that."""
    store(operations, RICH)

    outcome = await terminal.run("route", "set", "digits", "stable=production:90", "canary=@challenger:10")
    named = ("--sticky", "parameter:user", "--deadline", "1s", "--fallback", "INTERNAL=canary")
    arms = ("stable=1:50", "canary=2:50")
    again = await terminal.run("route", "set", "digits", *arms, *named)

    assert (outcome.code, again.code) == (0, 0)
    first, second = (change.after for change in operations.changes)
    assert first == replace(RICH, arms=SPLIT.arms)
    assert second == replace(
        RICH,
        arms=(Arm("stable", "1", 5_000), Arm("canary", "2", 5_000)),
        sticky=Sticky("parameter:user", "spring"),
        deadline=1.0,
        fallback=Fallback(("INTERNAL",), "canary"),
    )


async def test_what_is_not_named_goes_where_that_is_asked_for(
    terminal: Terminal, operations: FakeOperations
) -> None:
    """`--replace` writes what stands on the command line and nothing else."""
    store(operations, RICH)

    outcome = await terminal.run("route", "set", "digits", "stable=1:100", "--replace")

    assert outcome.code == 0
    assert operations.stored[DIGITS].route == Route(DIGITS, (Arm("stable", "1", 10_000),))


async def test_a_rule_that_stays_needs_its_arm(terminal: Terminal, operations: FakeOperations) -> None:
    """Nothing is dropped in silence."""
    store(operations, RICH)

    outcome = await terminal.run("route", "set", "digits", "stable=production:100")

    assert outcome.code == 2
    assert "match[0].arm: there is no arm 'canary'" in outcome.err
    assert "--replace" in outcome.err
    assert operations.changes == []


async def test_what_another_one_wrote_in_between_stays_too(
    terminal: Terminal, operations: FakeOperations, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is seen by the revision, and what is kept is read anew."""
    store(operations, SPLIT)
    read = FakeOperations.route
    seen: list[str] = []

    async def route_and_change(self: FakeOperations, model: ModelName) -> RouteView:
        view = await read(self, model)
        if not seen:
            store(operations, RICH)
            operations.revision += 1
        seen.append(model)
        return view

    monkeypatch.setattr(FakeOperations, "route", route_and_change)
    arms = ("stable=production:90", "canary=@challenger:10")
    outcome = await terminal.run("route", "set", "digits", *arms)

    assert outcome.code == 0
    assert len(seen) == 2
    assert operations.stored[DIGITS].route == replace(RICH, arms=SPLIT.arms)


async def test_wrong_weights_change_nothing(terminal: Terminal, operations: FakeOperations) -> None:
    """The error says what they sum to."""
    outcome = await terminal.run("route", "set", "digits", "stable=production:90")

    assert outcome.code == 2
    assert "weights sum to 90, not 100" in outcome.err
    assert operations.changes == []


async def test_a_model_that_has_no_route_yet_gets_one(
    terminal: Terminal, operations: FakeOperations, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As one of another registry than the default one, of which the gateway tells nothing before."""

    async def unknown(_: FakeOperations, model: ModelName) -> RouteView:
        raise ModelNotFound(f"model {model!r} has no route")

    monkeypatch.setattr(FakeOperations, "route", unknown)
    outcome = await terminal.run("route", "set", "digits", "stable=2:100", "--registry", "bucket")

    assert (outcome.code, outcome.err) == (0, "")
    assert operations.stored[DIGITS].route.registry == "bucket"


async def test_a_lost_compare_and_set_is_exit_code_4(terminal: Terminal) -> None:
    """So that scripts can look again and retry."""
    outcome = await terminal.run("route", "set", "digits", "a=1:100", "--expected-revision", "3")

    assert outcome.code == 4
    assert "error: the store is at revision 7, not 3\nhint: look again and retry\n" in outcome.err


async def test_a_route_is_shown_with_what_answers_now(terminal: Terminal) -> None:
    """An implicit one says so."""
    outcome = await terminal.run("route", "get", "digits")

    assert "implicit: the store has no route" in outcome.out
    assert "production" in outcome.out


async def test_a_route_in_json_has_the_shape_of_its_document(terminal: Terminal) -> None:
    """So that it can be applied again."""
    await terminal.run("route", "set", "digits", "stable=production:99.5", "canary=2:0.5", "--deadline", "2s")

    outcome = await terminal.run("route", "get", "digits", "--json")

    assert outcome.json["route"] == {
        "model": "digits",
        "arms": [
            {"name": "stable", "version": "production", "weight": 99.5},
            {"name": "canary", "version": "2", "weight": 0.5},
        ],
        "deadline": "2s",
    }


async def test_routes_are_listed(terminal: Terminal) -> None:
    """Those of the store; none is said in a sentence."""
    before = await terminal.run("route", "list")
    await terminal.run("route", "set", "digits", "stable=1:100")
    after = await terminal.run("route", "list")

    assert "the store has no routes" in before.out
    assert "stable=1:100" in after.out


async def test_a_file_of_several_routes_is_one_change(
    terminal: Terminal, operations: FakeOperations, tmp_path: Path
) -> None:
    """Documents and lists alike; versions such as 1.10 stay text."""
    for name in ("a", "b"):
        operations.catalogue = {**operations.catalogue, ModelName(name): VERSIONS}
    file = tmp_path / "routes.yaml"
    file.write_text(
        "model: digits\narms: [{name: stable, version: '@champion', weight: 100}]\n"
        "---\n"
        "- {model: a, arms: [{name: stable, version: 1.10, weight: 100}]}\n"
        "- model: b\n"
        "  arms: [{name: stable, version: production, weight: 33.34}, {name: x, version: 2, weight: 66.66}]\n"
        "---\n"
    )

    outcome = await terminal.run("route", "apply", str(file))

    assert outcome.code == 0
    assert {change.revision for change in operations.changes} == {8}
    assert [arm.reference for view in operations.stored.values() for arm in view.route.arms] == [
        "@champion",
        "1.10",
        "production",
        "2",
    ]


async def test_routes_are_read_from_standard_input(
    terminal: Terminal, operations: FakeOperations, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`-`, as everywhere."""
    text = b"{model: digits, arms: [{name: stable, version: '1', weight: 100}]}"
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text)))

    outcome = await terminal.run("route", "apply", "-")

    assert outcome.code == 0
    assert len(operations.changes) == 1


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a: 1\nmodel: digits\narms: []\n", "routes.yaml:1: route of 'digits':"),
        (
            "model: digits\narms:\n  - {name: a, version: @x, weight: 100}\n",
            "routes.yaml:3: a value that begins with '@'",
        ),
        ("", "routes.yaml: holds no route"),
        ("just text", "routes.yaml:1: is not a route"),
        (
            "model: digits\nmodel: digits\narms: [{name: a, version: '1', weight: 100}]\n",
            "routes.yaml:2: model: is given twice",
        ),
    ],
    ids=["unknown key", "unquoted alias", "empty", "text", "twice"],
)
async def test_a_wrong_file_names_its_line_and_changes_nothing(
    terminal: Terminal, operations: FakeOperations, tmp_path: Path, text: str, expected: str
) -> None:
    """Exit code 2, and not even the routes that are right."""
    file = tmp_path / "routes.yaml"
    file.write_text(text)

    outcome = await terminal.run("route", "apply", str(file))

    assert outcome.code == 2
    assert outcome.err.startswith(f"{tmp_path}/{expected}")
    assert operations.changes == []


async def test_mistakes_of_all_routes_come_together(terminal: Terminal, tmp_path: Path) -> None:
    """Each with the line where its route begins."""
    file = tmp_path / "routes.yaml"
    file.write_text("model: a b\narms: []\n---\nmodel: c\narms: [{name: x, version: '1', weight: 1}]\n")

    outcome = await terminal.run("route", "apply", str(file))

    lines = outcome.err.splitlines()
    assert [line.split(":")[1] for line in lines[:2]] == ["1", "4"]
    assert lines[2].startswith("error: ")


async def test_a_route_is_deleted(terminal: Terminal, operations: FakeOperations) -> None:
    """The implicit one takes over; a second time there is none."""
    await terminal.run("route", "set", "digits", "stable=1:100")
    first = await terminal.run("route", "delete", "digits")
    second = await terminal.run("route", "delete", "digits")

    assert (first.code, second.code) == (0, 3)
    assert "to        (implicit)" in first.out
    assert operations.stored == {}


async def test_history_shows_from_and_to(terminal: Terminal) -> None:
    """Newest first."""
    await terminal.run("route", "set", "digits", "stable=1:100", "--reason", "first")
    await terminal.run("route", "set", "digits", "stable=1:90", "canary=2:10", "--reason", "second")

    outcome = await terminal.run("route", "history", "digits")

    _, _, newest, oldest = outcome.out.splitlines()
    assert "stable=1:100" in newest
    assert "stable=1:90 canary=2:10" in newest
    assert newest.rstrip().endswith("second")
    assert "(implicit)" in oldest


async def test_shadows_and_their_last_differences_are_shown(
    terminal: Terminal, operations: FakeOperations
) -> None:
    """What is copied, what came of it, and what differs."""
    route = replace(SPLIT, shadows=(Shadow("next", "staging", 2_500), Shadow("old", "@champion")))
    operations.stored[DIGITS] = RouteView(route, implicit=False, arms=(), at=1.0, shadows=SHADOW_VIEWS)

    outcome = await terminal.run("route", "get", "digits")
    found = await terminal.run("route", "get", "digits", "--json")

    for part in (
        "0.25",
        "ok 40, queue_full 3",
        "3 (same decision in 37 of 39 rows)",
        "it gets no copies",
        "last differences of shadow next",
        "0123456789abcdef",
        "2 of 10 elements differ",
    ):
        assert part in outcome.out
    assert found.json["shadows"][0]["comparison"]["mismatches"] == {"invalid": 1, "value": 2}
    assert found.json["shadows"][0]["sample"] == found.json["route"]["shadows"][0]["sample"] == 0.25


async def test_a_change_of_shadows_is_seen_in_the_history(
    terminal: Terminal, tmp_path: Path, operations: FakeOperations
) -> None:
    """They are applied from a file; `set` knows arms only."""
    file = tmp_path / "route.yaml"
    file.write_text(
        "model: digits\n"
        "arms: [{name: stable, version: production, weight: 100}]\n"
        "shadows: [{name: next, version: staging, sample: 0.25, compare: {atol: 0.001, rtol: 0.001}}]\n"
    )

    await terminal.run("route", "apply", str(file))
    outcome = await terminal.run("route", "history", "digits")

    assert operations.stored[DIGITS].route.shadows == (
        Shadow("next", "staging", 2_500, Tolerance(0.001, 0.001)),
    )
    assert "stable=production:100 next=staging:0.25 (shadow)" in outcome.out


RULED = """
model: digits
arms:
  - {name: stable, version: production, weight: 90}
  - {name: canary, version: "@challenger", weight: 10}
match:
  - {when: {header: {X-Team: risk}, parameter: {tier: 7}}, arm: canary}
sticky: {by: "header:X-User-Id", salt: second}
arm_header: true
"""


async def test_rules_and_keys_are_applied_and_shown(
    terminal: Terminal, operations: FakeOperations, tmp_path: Path
) -> None:
    """From YAML to the store and back, all of it."""
    file = tmp_path / "routes.yaml"
    file.write_text(RULED)

    applied = await terminal.run("route", "apply", str(file))
    shown = await terminal.run("route", "get", "digits")

    assert applied.code == 0, applied.err
    route = operations.stored[DIGITS].route
    assert (route.sticky, route.arm_header) == (Sticky("header:x-user-id", "second"), True)
    said = (Condition("header", "x-team", "risk"), Condition("parameter", "tier", "7"))
    assert route.match == (MatchRule(said, "canary"),)
    assert "(1 match rule) (sticky header:x-user-id, salt 'second') (arm header)" in applied.out
    assert "sticky      header:x-user-id, salt 'second'" in shown.out
    assert "header x-team = risk and parameter tier = 7   canary" in shown.out


async def test_the_key_may_be_set_in_short_form(terminal: Terminal, operations: FakeOperations) -> None:
    """Beside the weights."""
    await terminal.run("route", "set", "digits", "a=1:50", "b=2:50", "--sticky", "parameter:user")

    assert operations.stored[DIGITS].route.sticky == Sticky("parameter:user")
