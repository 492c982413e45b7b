"""State that ends with the process: for trying things out, and for tests."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from router.errors import StateUnavailable
from router.model import ModelName, Route
from router.ports import RouteChangeRecord, StoredRoute
from router.stores.audit import AuditEntry, change_of, seal
from router.stores.changes import check_revision, check_routes, no_route, with_buckets
from router.stores.codec import encode_route


class MemoryStore:
    """`ports.StateStore` in memory; `clock` gives unix seconds."""

    def __init__(self, *, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._routes: dict[ModelName, StoredRoute] = {}
        self._audit: list[AuditEntry] = []
        self._closed = False

    async def revision(self) -> int:
        """The current revision; 0 for a new store."""
        self._check_open()
        return len(self._audit)

    async def routes(self) -> tuple[int, dict[ModelName, StoredRoute]]:
        """The revision and all routes at it."""
        self._check_open()
        return len(self._audit), dict(self._routes)

    async def put_routes(
        self, routes: Sequence[Route], *, expected_revision: int | None, actor: str, reason: str
    ) -> int:
        """Write several routes in one change. Raises InvalidInput, Conflict."""
        self._check_open()
        check_routes(routes)
        check_revision(len(self._audit), expected_revision)
        stored = {model: old.route for model, old in self._routes.items()}
        after = [with_buckets(stored.get(route.model), route) for route in routes]
        entry = self._record("put_routes", actor, reason, {route.model: route for route in after})
        for route in after:
            self._routes[route.model] = StoredRoute(route, entry.revision, actor, reason, entry.at)
        return entry.revision

    async def delete_route(
        self, model: ModelName, *, expected_revision: int | None, actor: str, reason: str
    ) -> int:
        """Remove a route. Raises RouteNotFound, Conflict."""
        self._check_open()
        check_revision(len(self._audit), expected_revision)
        if model not in self._routes:
            raise no_route(model)
        entry = self._record("delete_route", actor, reason, {model: None})
        del self._routes[model]
        return entry.revision

    async def history(self, model: ModelName, limit: int) -> tuple[RouteChangeRecord, ...]:
        """Changes of one route, newest first, at most `limit`."""
        self._check_open()
        entries = [entry for entry in reversed(self._audit) if model in entry.targets]
        return tuple(change_of(model, entry) for entry in entries[: max(limit, 0)])

    async def audit_log(self) -> tuple[AuditEntry, ...]:
        """The whole log, oldest first."""
        self._check_open()
        return tuple(self._audit)

    async def close(self) -> None:
        """Forget everything."""
        self._closed = True

    def _check_open(self) -> None:
        if self._closed:
            raise StateUnavailable("the state in memory is closed")

    def _record(
        self, action: str, actor: str, reason: str, after: dict[ModelName, Route | None]
    ) -> AuditEntry:
        before = {model: self._routes.get(model) for model in after}
        entry = seal(
            revision=len(self._audit) + 1,
            at=self._clock(),
            actor=actor,
            reason=reason,
            action=action,
            before={model: encode_route(old.route) if old else None for model, old in before.items()},
            after={model: encode_route(new) if new else None for model, new in after.items()},
            previous=self._audit[-1].hash if self._audit else "",
        )
        self._audit.append(entry)
        return entry
