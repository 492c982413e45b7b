"""The table that says which arm a sticky key belongs to: 10,000 buckets in runs. Pure.

A key is hashed into a bucket by the data plane (`gateway/dataplane/table/src/assign.rs`). The table depends
on its own past: which buckets an arm has follows from which it had. That is why the store keeps it with the
route; every gateway reads the same one, and it is the same after a restart.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import groupby

from router.model import WHOLE, BucketRuns, Route


def in_one_piece(weights: Mapping[str, int]) -> BucketRuns:
    """Each arm's buckets in one run, in the order of the arms."""
    return tuple((arm, weight) for arm, weight in weights.items() if weight)


def owned(runs: BucketRuns) -> dict[str, int]:
    """How many buckets each arm has."""
    counts: dict[str, int] = {}
    for arm, length in runs:
        counts[arm] = counts.get(arm, 0) + length
    return counts


def hand_over(previous: BucketRuns, weights: Mapping[str, int], keeper: str) -> BucketRuns:
    """The table after a change of weights; no more buckets change hands than must.

    An arm that had more buckets than its new weight gives up the surplus, and nothing else moves. The keeper
    gives up from its high end and the other arms from their low end, so that what an arm got last it gives
    back first, and a weight that is raised and lowered again leaves each key where it was.

    Args:
        previous: 10,000 buckets in order; arms that are gone may be among them.
        weights: of all arms now, 10,000 together.
        keeper: the stable arm.
    """
    table = [arm for arm, length in previous for _ in range(length)]
    surplus = {arm: count - weights.get(arm, 0) for arm, count in owned(previous).items()}
    freed: list[int] = []
    for arm, count in surplus.items():
        if count > 0:
            places = [at for at, owner in enumerate(table) if owner == arm]
            freed += places[-count:] if arm == keeper else places[:count]
    takers = _takers(weights, surplus)
    for at in sorted(freed):
        table[at] = next(takers)
    return _runs(table)


def buckets_of(route: Route) -> BucketRuns:
    """The table of a route."""
    return route.buckets or in_one_piece({arm.name: arm.weight for arm in route.arms})


def served_buckets(route: Route, before: BucketRuns, weights: Mapping[str, int]) -> BucketRuns:
    """The table for the split in force, which may differ from the route's while an arm waits for its version.

    Args:
        route: as the store has it.
        before: the table in force until now; empty for none.
        weights: of the arms in force, 10,000 together.

    Returns:
        The route's table where it fits, else the one before where that fits, else the route's changed as
        little as the weights allow; empty where one arm has everything.
    """
    wanted = {arm: weight for arm, weight in weights.items() if weight}
    if not wanted or WHOLE in wanted.values():
        return ()
    stored = buckets_of(route)
    for table in (stored, before):
        if owned(table) == wanted:
            return table
    return hand_over(stored, wanted, route.stable.name)


def keep_buckets(before: Route | None, after: Route) -> BucketRuns:
    """The table to store with a route, from the one that the route before it had."""
    weights = {arm.name: arm.weight for arm in after.arms}
    previous = buckets_of(before) if before else ((after.stable.name, WHOLE),)
    runs = hand_over(previous, weights, after.stable.name)
    return runs if len(runs) > 1 else ()


def _takers(weights: Mapping[str, int], surplus: Mapping[str, int]) -> Iterator[str]:
    for arm, weight in weights.items():
        # An arm that had nothing lacks all of its weight.
        for _ in range(-surplus.get(arm, -weight)):
            yield arm


def _runs(table: Iterable[str]) -> BucketRuns:
    return tuple((arm, sum(1 for _ in run)) for arm, run in groupby(table))
