"""What outlives the process: routes, decisions on their way to registries, and who changed what."""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from router.model import ModelName, PointerKind, Route, VersionId
from router.ports.registry import AliasChange, PointerChange, TagChange


@dataclass(frozen=True, slots=True)
class StoredRoute:
    """A route as the store holds it.

    Attributes:
        revision: the store's revision that wrote it.
        actor, reason: who changed it last and why.
        at: unix seconds of that change.
    """

    route: Route
    revision: int
    actor: str
    reason: str
    at: float


@dataclass(frozen=True, slots=True)
class RouteChangeRecord:
    """One change of one route as the audit log has it; `after` is None for a deletion."""

    revision: int
    before: Route | None
    after: Route | None
    actor: str
    reason: str
    at: float


ARM = "arm"
"""What kind of name a `PointerMove` has that is about an arm of a route."""

ACCEPT = "accept"
PUT_ROUTES = "put_routes"
PROMOTE = "promote"
ROLLBACK = "rollback"
"""Actions of operators that move a stage or alias."""

MOVED = "registry"
"""Action of a move that somebody made in the registry itself."""


class WriteState(enum.StrEnum):
    """Where a registry change that was decided here stands.

    PENDING: to be written. REFUSED: the registry cannot or will not; traffic goes on following the decision
    until the registry says the same or somebody clears it. TAGGING: the registry says the same; tags are
    still to be written. The others have ended. AGREED: the registry says what was decided. OVERTAKEN:
    somebody else moved the pointer in the registry meanwhile; that holds. SUPERSEDED: a later decision took
    its place. GONE: there is no such model or version any more. CLEARED: an operator gave it up.
    """

    PENDING = "pending"
    REFUSED = "refused"
    TAGGING = "tagging"
    AGREED = "agreed"
    OVERTAKEN = "overtaken"
    SUPERSEDED = "superseded"
    GONE = "gone"
    CLEARED = "cleared"

    @property
    def ended(self) -> bool:
        """Whether nothing more is to be done."""
        return self not in (WriteState.PENDING, WriteState.REFUSED, WriteState.TAGGING)

    @property
    def overrides(self) -> bool:
        """Whether traffic follows the decision, whatever the registry names."""
        return self in (WriteState.PENDING, WriteState.REFUSED)


@dataclass(frozen=True, slots=True)
class WriteBack:
    """One stage or alias that was moved here, and is to be moved in the registry.

    Attributes:
        id: from the store; 0 before it is there.
        action: `promote` or `rollback`.
        change: names a version; its `expected` is not set.
        before: the versions that the registry may name for it to be nobody else's move, "" for none.
        tags: to be written afterwards, as far as the registry takes tags.
        revision: the store's, that wrote the decision; 0 before that.
        at: unix seconds of the decision; `ended` those of its end, None before.
        attempts: tries so far.
        next_try: unix seconds before which there is no other try.
        written: whether the registry said yes to it.
        note: why it is not done yet, or how it ended; "" where there is nothing to tell.
    """

    registry: str
    change: PointerChange
    action: str
    before: tuple[str, ...] = ()
    tags: tuple[TagChange, ...] = ()
    id: int = 0
    actor: str = ""
    reason: str = ""
    at: float = 0.0
    revision: int = 0
    state: WriteState = WriteState.PENDING
    attempts: int = 0
    next_try: float = 0.0
    written: bool = False
    note: str = ""
    ended: float | None = None

    @property
    def model(self) -> ModelName:
        """The logical model."""
        return self.change.model

    @property
    def kind(self) -> PointerKind:
        """Whether it is a stage or an alias."""
        return PointerKind.ALIAS if isinstance(self.change, AliasChange) else PointerKind.STAGE

    @property
    def name(self) -> str:
        """The stage, in lower case, or the alias without `@`."""
        return self.change.alias if isinstance(self.change, AliasChange) else self.change.stage

    @property
    def version(self) -> VersionId:
        """The version that it is to name."""
        return self.change.version or VersionId("")


@dataclass(frozen=True, slots=True)
class PointerMove:
    """A stage, alias or arm that went from one version to another for clients.

    Attributes:
        registry: "" for an arm.
        kind: `stage`, `alias` or `arm`.
        before, after: version ids; "" for nothing.
        action: `promote`, `rollback`, or `registry` where somebody moved it there.
        revision: the store's at that time.
        at: unix seconds.
    """

    registry: str
    model: ModelName
    kind: str
    name: str
    before: str
    after: str
    action: str
    actor: str = ""
    reason: str = ""
    revision: int = 0
    at: float = 0.0


@dataclass(frozen=True, slots=True)
class Accepted:
    """A version that may take the place of any other of its model, whatever contract it breaks.

    Attributes:
        files, contract: what was seen of it then, as `router.traffic.accepting` has it; other files under
            the same version id were not accepted.
        actor, reason: who said so, and why.
        revision: the store's that has it; 0 before it is there.
        at: unix seconds.
    """

    registry: str
    model: ModelName
    version: VersionId
    files: str = ""
    contract: str = ""
    actor: str = ""
    reason: str = ""
    revision: int = 0
    at: float = 0.0


@dataclass(frozen=True, slots=True)
class Decision:
    """What an operator decided about one model: one atomic change.

    Attributes:
        action: `promote` or `rollback`, for the audit log.
        writes: they take the place of those of the same stages and aliases that override their registry.
        routes: written with it.
        moves: what it changes for clients, for the history of each pointer.
        accepted: versions that may take over whatever contract they break.
    """

    action: str
    writes: tuple[WriteBack, ...] = ()
    routes: tuple[Route, ...] = ()
    moves: tuple[PointerMove, ...] = ()
    accepted: tuple[Accepted, ...] = ()


class StateStore(Protocol):
    """Desired state, with one revision that rises by one with every change."""

    async def revision(self) -> int:
        """The current revision; 0 for a new store. Raises StateUnavailable."""
        ...

    async def routes(self) -> tuple[int, dict[ModelName, StoredRoute]]:
        """The revision and all routes at it, read in one transaction. Raises StateUnavailable."""
        ...

    async def put_routes(
        self, routes: Sequence[Route], *, expected_revision: int | None, actor: str, reason: str
    ) -> int:
        """Write several routes in one atomic change and return the new revision.

        `expected_revision=None` means "whatever is there".

        Raises:
            Conflict: the store is at another revision than expected; nothing was written.
            StateUnavailable: the store cannot be written now.
        """
        ...

    async def delete_route(
        self, model: ModelName, *, expected_revision: int | None, actor: str, reason: str
    ) -> int:
        """Remove a route. Raises RouteNotFound, Conflict, StateUnavailable."""
        ...

    async def history(self, model: ModelName, limit: int) -> tuple[RouteChangeRecord, ...]:
        """Changes of one route, newest first, at most `limit`. Raises StateUnavailable."""
        ...

    async def decide(
        self, decision: Decision, *, expected_revision: int | None, actor: str, reason: str
    ) -> int:
        """Write a decision, all of it or nothing, and return the new revision, which its writes carry.

        Raises:
            InvalidInput: it changes nothing, or one thing twice.
            Conflict: the store is at another revision than expected; nothing was written.
            StateUnavailable: the store cannot be written now.
        """
        ...

    async def accepted(self) -> tuple[Accepted, ...]:
        """All versions that were accepted, in no order. Raises StateUnavailable."""
        ...

    async def write_backs(self, ended: int = 0) -> tuple[WriteBack, ...]:
        """The open ones, oldest first, and then the newest ended ones, at most `ended` (and some hundred).

        Raises:
            StateUnavailable: the store cannot be read now.
        """
        ...

    async def save_write_back(self, write: WriteBack, *, actor: str = "", reason: str = "") -> bool:
        """Keep how far an open one came; where its state is a new one, that is a change with a revision.

        Returns:
            False where there is no open one of that id any more; then nothing was written.

        Raises:
            StateUnavailable: the store cannot be written now.
        """
        ...

    async def note_moves(self, moves: Sequence[PointerMove]) -> None:
        """Remember moves that nobody decided here; no change of desired state. Raises StateUnavailable."""
        ...

    async def moves(self, registry: str, model: ModelName, kind: str, name: str) -> tuple[PointerMove, ...]:
        """The last moves of a pointer, newest first, some twenty at most. Raises StateUnavailable."""
        ...

    async def close(self) -> None:
        """Give back files and locks."""
        ...
