"""The audit log read as changes of one route."""

from __future__ import annotations

import json

from router.model import ModelName, Route
from router.ports import RouteChangeRecord
from router.stores.audit import AuditEntry
from router.stores.codec import decode_route


def route_change(entry: AuditEntry, model: ModelName) -> RouteChangeRecord:
    """What one entry did to one model's route. Raises StateUnavailable where it cannot be read."""
    return RouteChangeRecord(
        revision=entry.revision,
        before=_route(entry.before, model),
        after=_route(entry.after, model),
        actor=entry.actor,
        reason=entry.reason,
        at=entry.at,
    )


def _route(text: str, model: ModelName) -> Route | None:
    encoded = json.loads(text).get(model)
    return None if encoded is None else decode_route(model, encoded)
