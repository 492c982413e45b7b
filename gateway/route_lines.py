"""Routes as people read them in a line."""

from __future__ import annotations

from router.control.entries import ModelEntry
from router.model import Arm, Route, format_weight
from router.traffic.serving import implicit_route


def route_of(entry: ModelEntry) -> Route | None:
    """The route of a model, explicit or implicit; None where it has no versions."""
    return entry.route.route if entry.route else implicit_route(entry.registered)


def reference_of(arm: Arm) -> str:
    """What an arm names, as `route set` takes it."""
    target = arm.backend_model
    return arm.reference if target is None else f"{target.name}/{target.version}".rstrip("/")


def route_line(route: Route | None) -> str:
    """All arms: `stable=production:90 canary=@challenger:10`; "" for no route."""
    if route is None:
        return ""
    return " ".join(f"{arm.name}={reference_of(arm)}:{format_weight(arm.weight)}" for arm in route.arms)
