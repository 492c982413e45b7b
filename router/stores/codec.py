"""Routes as the store keeps them: canonical JSON with a format number, and hashes of it."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace

from router.errors import InvalidRoute, StateUnavailable
from router.model import Route
from router.traffic.routes import route_from_document, route_to_document

ROUTE_FORMAT = 1
"""Raised when a reader of the old format could not read the new one."""


def canonical(value: object) -> str:
    """JSON with one spelling: sorted keys, no blanks."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True)


def encode_route(route: Route) -> str:
    """A route as text, with its buckets where they say more than its weights do."""
    document: dict[str, object] = {"format": ROUTE_FORMAT, "route": route_to_document(route)}
    if route.buckets:
        document["buckets"] = [list(run) for run in route.buckets]
    return canonical(document)


def decode_route(model: str, text: str) -> Route:
    """The route of a model from `encode_route`. Raises StateUnavailable where it cannot be read."""
    try:
        # Decimals stay text, so that no weight ever passes through a binary float.
        document = json.loads(text, parse_float=str)
        found = document["format"]
        if found != ROUTE_FORMAT:
            raise StateUnavailable(
                f"the stored route of {model!r} has format {found!r}; this version reads {ROUTE_FORMAT}",
                hint="use the version that wrote it",
            )
        route = route_from_document(document["route"])
        runs = tuple((str(arm), int(length)) for arm, length in document.get("buckets", ()))
        return replace(route, buckets=runs)
    except (ValueError, KeyError, TypeError, InvalidRoute) as error:
        raise StateUnavailable(f"the stored route of {model!r} cannot be read: {error}") from error


def digest(text: str) -> str:
    """Hex SHA-256 of a text; "" for no text."""
    return hashlib.sha256(text.encode()).hexdigest() if text else ""
