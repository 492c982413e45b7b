"""Readings that overtake each other leave what the one that began last knew."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from router.control.readings import Readings, age_allowed
from router.model import ModelName, RegisteredModel, RegistryProblem, RegistryView, Version, VersionId
from router.ports import ANYTHING, Hint

M, N = ModelName("m"), ModelName("n")


def model(name: str, champion: str = "", versions: str = "12") -> RegisteredModel:
    """A model of a few versions whose alias names one."""
    found = {VersionId(v): Version("r", ModelName(name), VersionId(v)) for v in versions}
    aliases = {"champion": VersionId(champion)} if champion else {}
    return RegisteredModel("r", ModelName(name), found, aliases=aliases)


def view(*models: RegisteredModel, problems: tuple[RegistryProblem, ...] = ()) -> RegistryView:
    """A whole reading."""
    return RegistryView("r", {one.name: one for one in models}, problems)


def champion(readings: Readings, name: ModelName = M) -> str:
    """What the alias names as it is known now."""
    assert readings.view is not None
    return readings.view.models[name].aliases.get("champion", "")


def test_an_older_reading_of_everything_does_not_undo_a_notice() -> None:
    """It began before; all else that it found is taken."""
    readings = Readings()
    readings.take(readings.begin(), ANYTHING, view(model("m", "1"), model("n", "1")))
    slow = readings.begin()
    quick = readings.begin()
    assert readings.take(quick, Hint(M), view(model("m", "2"), model("n", "1")))

    readings.take(slow, ANYTHING, view(model("m", "1"), model("n", "2")))

    assert (champion(readings, M), champion(readings, N)) == ("2", "2")
    assert readings.take(readings.begin(), ANYTHING, view(model("m", "1")))
    assert champion(readings) == "1"


def test_a_notice_s_reading_that_began_before_is_dropped() -> None:
    """What everything was read for later is newer, whichever ended first."""
    readings = Readings()
    readings.take(readings.begin(), ANYTHING, view(model("m", "1")))
    late = readings.begin()
    readings.take(readings.begin(), ANYTHING, view(model("m", "2")))

    assert not readings.take(late, Hint(M), view(model("m", "1")))
    assert champion(readings) == "2"


def test_a_notice_touches_only_its_model() -> None:
    """What the adapter remembers of others may be older than what is known."""
    readings = Readings()
    readings.take(readings.begin(), ANYTHING, view(model("m", "1"), model("n", "2")))

    readings.take(readings.begin(), Hint(M), view(model("m", "2"), model("n", "1")))

    assert (champion(readings, M), champion(readings, N)) == ("2", "2")


def test_a_notice_of_one_alias_touches_only_that_alias_and_brings_its_version() -> None:
    """Also where the version is a new one; other pointers stay."""
    readings = Readings()
    readings.take(readings.begin(), ANYTHING, view(model("m", "1")))

    readings.take(readings.begin(), Hint(M, "shadow"), view(model("m", "2", versions="123")))
    unasked = champion(readings)
    assert readings.take(readings.begin(), Hint(M, "champion"), view(model("m", "3", versions="123")))

    assert (unasked, champion(readings)) == ("1", "3")
    assert readings.view is not None
    assert set(readings.view.models[M].versions) == {"1", "2", "3"}


def test_a_model_that_came_or_went_is_seen_by_its_notice() -> None:
    """A new one with its problems, and one that was deleted."""
    readings = Readings()
    trouble = RegistryProblem("n/1", "cannot be read")
    readings.take(readings.begin(), ANYTHING, view(model("m", "1")))

    readings.take(readings.begin(), Hint(N), view(model("n", "1"), problems=(trouble,)))
    assert readings.view == view(model("m", "1"), model("n", "1"), problems=(trouble,))
    readings.take(readings.begin(), Hint(N), view())

    assert readings.view == view(model("m", "1"))


def test_nothing_new_is_no_change() -> None:
    """An equal view and an equal model."""
    readings = Readings()
    readings.take(readings.begin(), ANYTHING, view(model("m", "1")))

    assert not readings.take(readings.begin(), ANYTHING, view(model("m", "1")))
    assert not readings.take(readings.begin(), Hint(M), view(model("m", "1")))
    assert not readings.take(readings.begin(), Hint(M, "champion"), view(model("m", "1")))


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 30)), min_size=1, max_size=8))
def test_the_truth_wins_whatever_order_readings_end_in(plan: list[tuple[bool, int]]) -> None:
    """Each reading sees what was so when it began; in the end the last beginning is what is known."""
    readings = Readings()
    readings.take(readings.begin(), ANYTHING, view(model("m", "1", versions="1")))
    begun = [
        (readings.begin(), Hint(M) if hinted else ANYTHING, ends, index)
        for index, (hinted, ends) in enumerate(plan)
    ]
    for number, hint, _, index in sorted(begun, key=lambda one: (one[2], one[0])):
        readings.take(number, hint, view(model("m", f"{index}", versions=f"{index}")))

    assert champion(readings) == str(len(plan) - 1)


def test_how_old_a_reading_may_be() -> None:
    """Three polls, and at least half a minute."""
    assert [age_allowed(poll) for poll in (None, 5.0, 60.0)] == [30.0, 30.0, 180.0]
