"""Whatever the weights were and become, no more buckets change hands than must."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from router.model import WHOLE, Arm, BucketRuns, ModelName, Route
from router.traffic.buckets import buckets_of, hand_over, in_one_piece, keep_buckets, owned, served_buckets
from router.traffic.serving import split_exactly

ARMS = ("stable", "canary", "blue", "green", "next")


@st.composite
def splits(draw: st.DrawFn) -> dict[str, int]:
    """Weights of some arms, in any order, 10,000 together; some may be 0."""
    names = draw(st.permutations(ARMS))[: draw(st.integers(1, len(ARMS)))]
    parts = draw(st.lists(st.integers(0, 1_000), min_size=len(names), max_size=len(names)))
    shares = split_exactly([part + 1 for part in parts]) if not any(parts) else split_exactly(parts)
    return dict(zip(names, shares, strict=True))


def table(runs: BucketRuns) -> list[str]:
    """The owner of each bucket."""
    return [arm for arm, length in runs for _ in range(length)]


def moved(before: BucketRuns, after: BucketRuns) -> int:
    """Buckets that changed hands."""
    return sum(1 for was, now in zip(table(before), table(after), strict=True) if was != now)


def least(before: Mapping[str, int], after: Mapping[str, int]) -> int:
    """Buckets that must change hands: what arms have too many."""
    return sum(max(0, count - after.get(arm, 0)) for arm, count in before.items())


def whole(weights: Mapping[str, int]) -> dict[str, int]:
    """Weights of arms that have any."""
    return {arm: weight for arm, weight in weights.items() if weight}


@given(st.lists(splits(), min_size=2, max_size=6))
def test_a_change_moves_the_surplus_and_nothing_else(history: list[dict[str, int]]) -> None:
    """Over any history of weights: as many buckets as each weight says, and the fewest moves."""
    runs = in_one_piece(history[0])
    for before, weights in pairwise(history):
        after = hand_over(runs, weights, "stable")

        assert owned(after) == whole(weights)
        assert moved(runs, after) == least(before, weights)
        assert all(length > 0 for _, length in after)
        runs = after


@given(st.lists(st.integers(0, WHOLE), min_size=1, max_size=8))
def test_of_two_arms_a_weight_says_everything(canary: list[int]) -> None:
    """A ramp up and down any number of times ends where a single step would have ended."""
    runs: BucketRuns = (("stable", WHOLE),)
    for weight in canary:
        runs = hand_over(runs, {"stable": WHOLE - weight, "canary": weight}, "stable")

    last = {"stable": WHOLE - canary[-1], "canary": canary[-1]}
    assert runs == in_one_piece(last)


def route(weights: Mapping[str, int], buckets: BucketRuns = ()) -> Route:
    """A route of these weights."""
    arms = tuple(Arm(name, "1", weight) for name, weight in weights.items())
    return Route(ModelName("m"), arms, buckets=buckets)


@given(splits(), splits())
def test_buckets_do_not_depend_on_who_counts_them(before: dict[str, int], after: dict[str, int]) -> None:
    """The same routes one after the other are the same table in every process, whatever a caller says."""
    first = route(before, keep_buckets(None, route(before)))
    tables = {keep_buckets(first, route(after, given)) for given in ((), (("stable", WHOLE),))}

    assert len(tables) == 1
    assert owned(buckets_of(route(after, tables.pop()))) == whole(after)


@given(splits(), splits())
def test_a_split_that_is_held_keeps_its_table(before: dict[str, int], after: dict[str, int]) -> None:
    """While an arm waits for its version nobody moves; then the route's table takes over."""
    old = route(before, keep_buckets(None, route(before)))
    new = route(after, keep_buckets(old, route(after)))
    held = served_buckets(old, (), before)

    waiting = served_buckets(new, held, before)
    done = served_buckets(new, waiting, after)

    assert waiting in (held, done)
    assert waiting == held or whole(before) == whole(after)
    assert done == (() if WHOLE in after.values() else buckets_of(new))
