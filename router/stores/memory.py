"""State that ends with the process: for trying things out, and for tests."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace

from router.errors import StateUnavailable
from router.model import ModelName, Route, VersionId
from router.ports import Accepted, Decision, PointerMove, RouteChangeRecord, StoredRoute, WriteBack
from router.stores.audit import AuditEntry, change_of, seal
from router.stores.changes import check_revision, check_routes, no_route, with_buckets
from router.stores.codec import encode_route
from router.stores.decisions import (
    MOST_ENDED,
    MOST_MOVES,
    WRITE_BACK,
    audited,
    check_decision,
    decided,
    pointer_of,
    superseded,
    target_of,
)


class MemoryStore:
    """`ports.StateStore` in memory; `clock` gives unix seconds."""

    def __init__(self, *, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._routes: dict[ModelName, StoredRoute] = {}
        self._audit: list[AuditEntry] = []
        self._writes: dict[int, WriteBack] = {}
        self._moves: list[PointerMove] = []
        self._accepted: dict[tuple[str, ModelName, VersionId], Accepted] = {}
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
        entry = self._record(
            "put_routes", actor, reason, *self._routed({route.model: route for route in after})
        )
        self._put(after, entry)
        return entry.revision

    async def delete_route(
        self, model: ModelName, *, expected_revision: int | None, actor: str, reason: str
    ) -> int:
        """Remove a route. Raises RouteNotFound, Conflict."""
        self._check_open()
        check_revision(len(self._audit), expected_revision)
        if model not in self._routes:
            raise no_route(model)
        entry = self._record("delete_route", actor, reason, *self._routed({model: None}))
        del self._routes[model]
        return entry.revision

    async def history(self, model: ModelName, limit: int) -> tuple[RouteChangeRecord, ...]:
        """Changes of one route, newest first, at most `limit`."""
        self._check_open()
        entries = [entry for entry in reversed(self._audit) if model in entry.targets]
        return tuple(change_of(model, entry) for entry in entries[: max(limit, 0)])

    async def decide(
        self, decision: Decision, *, expected_revision: int | None, actor: str, reason: str
    ) -> int:
        """Write a decision, all of it or nothing. Raises InvalidInput, Conflict."""
        self._check_open()
        check_decision(decision)
        check_revision(len(self._audit), expected_revision)
        routes = [with_buckets(self._route(route.model), route) for route in decision.routes]
        before, after = self._routed({route.model: route for route in routes})
        moved_from, moved_to = decided(decision)
        entry = self._record(decision.action, actor, reason, before | moved_from, after | moved_to)
        self._put(routes, entry)
        for write in decision.writes:
            self._supersede(write, f"{decision.action} at revision {entry.revision}", entry.at)
            number = max(self._writes, default=0) + 1
            self._writes[number] = replace(
                write, id=number, actor=actor, reason=reason, at=entry.at, revision=entry.revision
            )
        self._prune()
        for move in decision.moves:
            self._note(replace(move, actor=actor, reason=reason, revision=entry.revision, at=entry.at))
        for one in decision.accepted:
            self._accepted[one.registry, one.model, one.version] = replace(
                one, actor=actor, reason=reason, revision=entry.revision, at=entry.at
            )
        return entry.revision

    async def accepted(self) -> tuple[Accepted, ...]:
        """All versions that were accepted."""
        self._check_open()
        return tuple(self._accepted.values())

    async def write_backs(self, ended: int = 0) -> tuple[WriteBack, ...]:
        """The open ones, oldest first, and then the newest ended ones."""
        self._check_open()
        known = self._writes.values()
        over = sorted((one for one in known if one.state.ended), key=lambda one: -one.id)
        return (*(one for one in known if not one.state.ended), *over[: max(ended, 0)])

    async def save_write_back(self, write: WriteBack, *, actor: str = "", reason: str = "") -> bool:
        """Keep how far an open one came."""
        self._check_open()
        known = self._writes.get(write.id)
        if known is None or known.state.ended:
            return False
        if write.state.ended:
            write = replace(write, ended=self._clock())
        if write.state is not known.state:
            target = target_of(*pointer_of(write))
            self._record(WRITE_BACK, actor, reason, {target: audited(known)}, {target: audited(write)})
        self._writes[write.id] = write
        self._prune()
        return True

    async def note_moves(self, moves: Sequence[PointerMove]) -> None:
        """Remember moves that nobody decided here."""
        self._check_open()
        for move in moves:
            self._note(replace(move, revision=len(self._audit), at=self._clock()))

    async def moves(self, registry: str, model: ModelName, kind: str, name: str) -> tuple[PointerMove, ...]:
        """The last moves of a pointer, newest first."""
        self._check_open()
        return tuple(self._moves_of((registry, model, kind, name))[:MOST_MOVES])

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

    def _put(self, routes: Sequence[Route], entry: AuditEntry) -> None:
        for route in routes:
            stored = StoredRoute(route, entry.revision, entry.actor, entry.reason, entry.at)
            self._routes[route.model] = stored

    def _route(self, model: ModelName) -> Route | None:
        stored = self._routes.get(model)
        return stored.route if stored else None

    def _supersede(self, write: WriteBack, by: str, now: float) -> None:
        for number, one in self._writes.items():
            if one.state.overrides and pointer_of(one) == pointer_of(write):
                self._writes[number] = superseded(one, by, now)

    def _prune(self) -> None:
        ended = sorted(number for number, one in self._writes.items() if one.state.ended)
        for number in ended[:-MOST_ENDED]:
            del self._writes[number]

    def _note(self, move: PointerMove) -> None:
        pointer = (move.registry, move.model, move.kind, move.name)
        for old in self._moves_of(pointer)[MOST_MOVES - 1 :]:
            self._moves.remove(old)
        self._moves.append(move)

    def _moves_of(self, pointer: tuple[str, str, str, str]) -> list[PointerMove]:
        newest = reversed(self._moves)
        return [one for one in newest if (one.registry, one.model, one.kind, one.name) == pointer]

    def _routed(
        self, after: dict[ModelName, Route | None]
    ) -> tuple[dict[str, str | None], dict[str, str | None]]:
        """Routes before and after a change, as the audit log has them."""
        before = {model: self._route(model) for model in after}
        return _encoded(before), _encoded(after)

    def _record(
        self,
        action: str,
        actor: str,
        reason: str,
        before: dict[str, str | None],
        after: dict[str, str | None],
    ) -> AuditEntry:
        entry = seal(
            revision=len(self._audit) + 1,
            at=self._clock(),
            actor=actor,
            reason=reason,
            action=action,
            before=before,
            after=after,
            previous=self._audit[-1].hash if self._audit else "",
        )
        self._audit.append(entry)
        return entry


def _encoded(routes: dict[ModelName, Route | None]) -> dict[str, str | None]:
    return {model: encode_route(route) if route else None for model, route in routes.items()}
