"""What the control loop needs from the outside world, as small protocols.

Adapters implement these; one contract suite for each port runs on every adapter and on the fake.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from router.model import (
    Backend,
    Capacity,
    IndexEntry,
    ModelName,
    RegistryView,
    Route,
    TritonName,
    Version,
)
from router.traffic.table import Delta, Snapshot


class Registry(Protocol):
    """Where versions, stages and aliases come from."""

    @property
    def name(self) -> str:
        """Its key in the configuration."""
        ...

    async def read(self) -> RegistryView:
        """Read everything, whole.

        A model that cannot be read now (half a file) keeps its last good reading and is listed in
        `problems`.

        Raises:
            RegistryUnavailable: nothing can be read at all.
        """
        ...

    def changes(self) -> AsyncIterator[None]:
        """Yield once each time the registry may have changed. A hint: `read` tells the truth."""
        ...


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

    async def close(self) -> None:
        """Give back files and locks."""
        ...


@dataclass(frozen=True, slots=True)
class ServerInfo:
    """What a Triton says of itself."""

    name: str
    version: str
    extensions: tuple[str, ...]


class ModelServer(Protocol):
    """The control side of one Triton."""

    @property
    def backend(self) -> Backend:
        """Which one."""
        ...

    async def ready(self) -> bool:
        """Whether it answers and says ready. Never raises for a server that is away."""
        ...

    async def info(self) -> ServerInfo:
        """Name, version, extensions. Raises BackendUnavailable."""
        ...

    async def index(self) -> tuple[IndexEntry, ...]:
        """All models it knows, with state and reason. Raises BackendUnavailable."""
        ...

    async def load(self, name: TritonName, *, timeout: float) -> None:
        """Load and return when ready. Raises LoadFailed (with Triton's reason), BackendUnavailable."""
        ...

    async def unload(self, name: TritonName, *, timeout: float) -> None:
        """Unload and return when it is gone from the ready index. Raises BackendUnavailable."""
        ...

    async def metadata(self, name: TritonName, version: str = "") -> bytes:
        """A serialised `inference.ModelMetadataResponse`. Raises BackendUnavailable, LoadFailed."""
        ...

    async def capacity(self, name: TritonName, version: str = "") -> Capacity:
        """What its copy of a ready model works on at once; unknown where it does not tell.

        Raises:
            BackendUnavailable: it does not answer.
        """
        ...

    async def close(self) -> None:
        """Close its channel."""
        ...


class ModelFolders(Protocol):
    """Writes versions as Triton model folders where one Triton looks for them."""

    async def put(
        self, version: Version, name: TritonName, progress: Callable[[str], None] | None = None
    ) -> Path:
        """Fetch, verify and lay out one version; return its folder. Idempotent; by one rename.

        Raises:
            ArtifactMissing, DigestMismatch, UnsupportedFormat: named, with nothing left behind.
        """
        ...

    async def remove(self, name: TritonName) -> None:
        """Delete the folder of a version, if it is there."""
        ...

    def present(self) -> frozenset[TritonName]:
        """Names of complete folders."""
        ...


@dataclass(frozen=True, slots=True)
class ColdWanted:
    """A request asks for a version that is not loaded."""

    model: str
    version: str


@dataclass(frozen=True, slots=True)
class BackendDown:
    """The data plane lost its connections to a backend or cannot connect."""

    backend: str
    reason: str


@dataclass(frozen=True, slots=True)
class BackendUp:
    """The data plane has a working connection to a backend again."""

    backend: str


@dataclass(frozen=True, slots=True)
class CopyEjected:
    """The data plane passes a backend over for one version, because it failed again and again."""

    model: str
    version: str
    backend: str
    reason: str


@dataclass(frozen=True, slots=True)
class CopyRecovered:
    """A backend that was passed over for a version answers again."""

    model: str
    version: str
    backend: str


DataPlaneEvent = ColdWanted | BackendDown | BackendUp | CopyEjected | CopyRecovered


@dataclass(frozen=True, slots=True)
class VersionUse:
    """How much one version has been used since the process started."""

    model: str
    version: str
    requests: int
    inflight: int
    waiting: int


class DataPlane(Protocol):
    """The part that serves requests, as the control loop sees it."""

    def publish(self, snapshot: Snapshot) -> None:
        """Swap the whole table in. Raises ValueError for a table that contradicts itself."""
        ...

    def publish_delta(self, delta: Delta) -> None:
        """Swap a change in. Raises ValueError, also where `base_revision` is not the current one."""
        ...

    def set_ready(self, ready: bool) -> None:
        """What ServerReady and the health service say."""
        ...

    async def events(self) -> Sequence[DataPlaneEvent]:
        """Wait for events and return all there are."""
        ...

    def usage(self) -> Sequence[VersionUse]:
        """Use of every version that had a request, over all arms and threads."""
        ...


class Clock(Protocol):
    """Time, injected so that tests need not wait."""

    def now(self) -> float:
        """Monotonic seconds."""
        ...

    def unix(self) -> float:
        """Unix seconds."""
        ...
