"""A registry that lost most of what it had is not believed at first."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.control import losses
from router.control.losses import Loss, weigh, weigh_pointers
from router.model import ModelName, PointerKind, RegisteredModel, RegistryView, Version, VersionId
from router.traffic.overlay import pointers as pointers_of

WINDOW = 100.0


def view(models: str, *, empty: str = "", note: str = "") -> RegistryView:
    """A reading: one letter for each model with a version, and for each without any."""
    made = {}
    for letter in models + empty:
        name = ModelName(letter)
        versions = {VersionId("1"): Version("r", name, VersionId("1"))} if letter in models else {}
        made[name] = RegisteredModel("r", name, versions, description=note)
    return RegistryView("r", made)


@pytest.mark.parametrize(
    ("before", "now", "empty", "lost"),
    [
        ("abcd", "", "", "abcd"),
        ("abcd", "d", "", "abc"),
        ("abcd", "d", "abc", "abc"),
        ("a", "", "", "a"),
        ("abcd", "xyz", "", "abcd"),
        ("abcd", "ab", "", ""),
        ("abcd", "abc", "", ""),
        ("ab", "a", "", ""),
        ("", "", "", ""),
    ],
)
def test_more_than_half_must_be_gone(before: str, now: str, empty: str, lost: str) -> None:
    """Then it goes on; what was registered meanwhile is there as well."""
    believed, loss = weigh(view(before), view(now, empty=empty), None, 10.0, WINDOW)

    assert loss == (Loss(10.0, tuple(map(ModelName, lost)), len(before)) if lost else None)
    assert set(believed.models) == set(now + empty + lost)
    assert all(believed.models[ModelName(name)].versions for name in lost)


def test_what_it_still_tells_counts_at_once() -> None:
    """Only what is missing is as it was."""
    believed, _ = weigh(view("abc", note="old"), view("a", note="new"), None, 0.0, WINDOW)

    assert [believed.models[ModelName(name)].description for name in "abc"] == ["new", "old", "old"]


def test_a_first_reading_is_believed() -> None:
    """There is nothing to hold against it."""
    assert weigh(None, view(""), None, 0.0, WINDOW) == (view(""), None)


def test_a_loss_that_lasts_is_believed_in_the_end() -> None:
    """Counted from its beginning."""
    known, loss = weigh(view("abcd"), view("a"), None, 0.0, WINDOW)
    known, loss = weigh(known, view("a"), loss, 99.0, WINDOW)
    within = set(known.models)
    known, loss = weigh(known, view("a"), loss, 100.0, WINDOW)

    assert within == set("abcd")
    assert (set(known.models), loss) == ({"a"}, None)


def test_what_is_not_to_be_held_is_believed_at_once() -> None:
    """With a window of nothing."""
    assert weigh(view("abcd"), view(""), None, 0.0, 0.0) == (view(""), None)


@given(st.lists(st.tuples(st.floats(0.1, 60.0), st.booleans()), max_size=30))
def test_one_that_says_two_things_in_turns_never_takes_anything_away(turns: list[tuple[float, bool]]) -> None:
    """Unless it says for the whole window that nothing is there."""
    known, loss, at, without = view("abc"), None, 0.0, 0.0
    for pause, has in turns:
        at += pause
        known, loss = weigh(known, view("abc" if has else ""), loss, at, WINDOW)
        without = 0.0 if has else without or at
        held = has or at - without < WINDOW
        assert (set(known.models) == set("abc")) or not held
        if not known.models:
            break


@pytest.mark.parametrize(
    ("loss", "window", "text"),
    [
        (Loss(0.0, (ModelName("a"),), 1), 60.0, "lost 1 of 1 models at once (a); they go on as they were; "
         "believed in 50 s, or at once with `residency.loss_window: 0s` and a reload"),
        (Loss(0.0, tuple(map(ModelName, "abcde")), 7), float("inf"),
         "lost 5 of 7 models at once (a, b, c "
         "and 2 more); they go on as they were; believed only with `residency.loss_window: 0s` and a reload"),
    ],
)  # fmt: skip
def test_people_are_told_of_it(loss: Loss, window: float, text: str) -> None:
    """How much, what, for how long, and what to do."""
    assert loss.told(10.0, window) == text


def pointed(**models: str) -> RegistryView:
    """A reading: of each model, aliases as `a1` (alias a to version 1) and stages as `P1`; versions 1-3."""
    made = {}
    for name, pointers in models.items():
        versions = {VersionId(v): Version("r", ModelName(name), VersionId(v)) for v in "123"}
        to = {word[0]: VersionId(word[1]) for word in pointers.split()}
        made[ModelName(name)] = RegisteredModel(
            "r",
            ModelName(name),
            versions,
            {key: version for key, version in to.items() if key.isupper()},
            {key: version for key, version in to.items() if key.islower()},
        )
    return RegistryView("r", made)


@pytest.mark.parametrize(
    ("before", "now", "lost"),
    [
        ({"m": "P1 c1"}, {"m": ""}, ("alias c of m", "stage P of m")),
        ({"m": "P1 c1 s2"}, {"m": "s2"}, ("alias c of m", "stage P of m")),
        ({"m": "P1", "n": "P2", "o": "c3"}, {"m": "", "n": "", "o": "c3"}, ("stage P of m", "stage P of n")),
        ({"m": "c1"}, {"m": ""}, ()),
        ({"m": "P1 c1"}, {"m": "P1"}, ()),
        ({"m": "P1 c1 s2 t3"}, {"m": "s2 t3"}, ()),
        ({"m": "P1 c1"}, {"m": "P2 c3"}, ()),
        ({"m": "P1 S2"}, {"m": "A2 B1"}, ()),
        ({"m": "a1 b2"}, {"m": "x1 y2"}, ()),
        ({"m": "P1 c1", "n": "c1"}, {"n": "c1"}, ()),
        ({}, {"m": ""}, ()),
    ],
)
def test_more_than_half_of_the_stages_and_aliases_must_be_gone(
    before: dict[str, str], now: dict[str, str], lost: tuple[str, ...]
) -> None:
    """One that was deleted, those of a model that was, and what has another name now, somebody did."""
    believed, loss = weigh_pointers(pointed(**before), pointed(**now), None, 10.0, WINDOW)

    count = sum(len(words.split()) for words in before.values())
    assert loss == (Loss(10.0, lost, count, "stages and aliases") if lost else None)
    assert believed == (pointed(**before) if lost else pointed(**now))


def test_a_pointer_whose_version_is_gone_went_with_it() -> None:
    """To go on naming it would be of no use."""
    before, now = pointed(m="P1 c1"), pointed(m="")
    model = now.models[ModelName("m")]
    without = {key: version for key, version in model.versions.items() if key != "1"}
    now = RegistryView("r", {ModelName("m"): replace(model, versions=without)})

    assert weigh_pointers(before, now, None, 0.0, WINDOW) == (now, None)


def test_what_else_a_reading_tells_counts_while_pointers_are_not_believed() -> None:
    """New pointers and moves; in the end the loss is believed, counted from its beginning."""
    known, loss = weigh_pointers(pointed(m="P1 c1 s1"), pointed(m="s2"), None, 0.0, WINDOW)
    assert known == pointed(m="P1 c1 s2")
    known, loss = weigh_pointers(known, pointed(m="s3 n3"), loss, 99.0, WINDOW)
    assert (known, loss and loss.since) == (pointed(m="P1 c1 s3 n3"), 0.0)
    assert weigh_pointers(known, pointed(m="s3 n3"), loss, 100.0, WINDOW) == (pointed(m="s3 n3"), None)


def test_pointers_that_are_there_again_end_the_loss() -> None:
    """And a first reading is believed."""
    known, loss = weigh_pointers(pointed(m="P1 c1"), pointed(m=""), None, 0.0, WINDOW)
    assert weigh_pointers(known, pointed(m="P2 c1"), loss, 9.0, WINDOW) == (pointed(m="P2 c1"), None)
    assert weigh_pointers(None, pointed(m=""), None, 0.0, WINDOW) == (pointed(m=""), None)
    assert weigh_pointers(pointed(m="P1 c1"), pointed(m=""), None, 0.0, 0.0) == (pointed(m=""), None)


def test_models_that_are_the_very_same_are_not_gone_through(monkeypatch: pytest.MonkeyPatch) -> None:
    """A registry of very many models is read again and again; the loop must not be held up by what stands."""
    asked: list[str] = []

    def counted(model: RegisteredModel, kind: PointerKind) -> Mapping[str, VersionId]:
        asked.append(model.name)
        return pointers_of(model, kind)

    monkeypatch.setattr(losses, "pointers", counted)
    before = pointed(m="P1 c1", **{f"other-{number}": "P1 c1" for number in range(50)})
    now = replace(before, models={**before.models, **pointed(m="P2 c1").models})

    assert weigh_pointers(before, now, None, 0.0, WINDOW) == (now, None)
    assert set(asked) == {"m"}
