"""Checks that every store makes before it writes; all raise and change nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from router.errors import Conflict, InvalidInput, RouteNotFound
from router.model import ModelName, Route
from router.traffic.buckets import keep_buckets


def check_routes(routes: Sequence[Route]) -> None:
    """Raises InvalidInput for no routes at all, or two for one model."""
    if not routes:
        raise InvalidInput("no routes were given", hint="give at least one")
    models = [route.model for route in routes]
    for model in models:
        if models.count(model) > 1:
            raise InvalidInput(f"two routes for model {model!r} were given", hint="give one for each model")


def with_buckets(before: Route | None, after: Route) -> Route:
    """A route as it is to be stored: with the buckets of the one before it, as few handed over as its weights
    demand, whatever the caller gave."""
    return replace(after, buckets=keep_buckets(before, after))


def check_revision(current: int, expected: int | None) -> None:
    """Raises Conflict where the store is not at the expected revision."""
    if expected is not None and expected != current:
        raise Conflict(
            f"the state is at revision {current}, not {expected}",
            current_revision=current,
            hint="read it again and repeat the change",
        )


def no_route(model: ModelName) -> RouteNotFound:
    """The error of deleting what is not there."""
    return RouteNotFound(f"model {model!r} has no explicit route", hint="its implicit one cannot be removed")
