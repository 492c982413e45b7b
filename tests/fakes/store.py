"""A store that fails when a test says so."""

from __future__ import annotations

from collections.abc import Sequence

from router.errors import StateUnavailable
from router.model import ModelName, Route
from router.ports import Accepted, Decision, PointerMove, RouteChangeRecord, StoredRoute, WriteBack
from router.stores.memory import MemoryStore


class FakeStore(MemoryStore):
    """The memory store with a manual clock and a switch: while `down` says why, every call fails."""

    def __init__(self) -> None:
        super().__init__(clock=lambda: self.time)
        self.time = 1_700_000_000.0
        self.down = ""

    def _up(self) -> None:
        if self.down:
            raise StateUnavailable(self.down)

    async def revision(self) -> int:
        self._up()
        return await super().revision()

    async def routes(self) -> tuple[int, dict[ModelName, StoredRoute]]:
        self._up()
        return await super().routes()

    async def put_routes(
        self, routes: Sequence[Route], *, expected_revision: int | None, actor: str, reason: str
    ) -> int:
        self._up()
        return await super().put_routes(
            routes, expected_revision=expected_revision, actor=actor, reason=reason
        )

    async def delete_route(
        self, model: ModelName, *, expected_revision: int | None, actor: str, reason: str
    ) -> int:
        self._up()
        return await super().delete_route(
            model, expected_revision=expected_revision, actor=actor, reason=reason
        )

    async def history(self, model: ModelName, limit: int) -> tuple[RouteChangeRecord, ...]:
        self._up()
        return await super().history(model, limit)

    async def decide(
        self, decision: Decision, *, expected_revision: int | None, actor: str, reason: str
    ) -> int:
        self._up()
        return await super().decide(decision, expected_revision=expected_revision, actor=actor, reason=reason)

    async def accepted(self) -> tuple[Accepted, ...]:
        self._up()
        return await super().accepted()

    async def write_backs(self, ended: int = 0) -> tuple[WriteBack, ...]:
        self._up()
        return await super().write_backs(ended)

    async def save_write_back(self, write: WriteBack, *, actor: str = "", reason: str = "") -> bool:
        self._up()
        return await super().save_write_back(write, actor=actor, reason=reason)

    async def note_moves(self, moves: Sequence[PointerMove]) -> None:
        self._up()
        await super().note_moves(moves)

    async def moves(self, registry: str, model: ModelName, kind: str, name: str) -> tuple[PointerMove, ...]:
        self._up()
        return await super().moves(registry, model, kind, name)
