"""What the control loop needs from the outside world, as small protocols.

Adapters implement these; one contract suite for each port runs on every adapter and on the fake.
"""

from __future__ import annotations

import enum
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from router.model import (
    Backend,
    Capacity,
    Contract,
    IndexEntry,
    ModelName,
    PointerKind,
    RegistryView,
    Route,
    TritonName,
    Version,
    VersionId,
)
from router.traffic.table import Delta, Snapshot


class Capability(enum.StrEnum):
    """What a registry can do beside being read."""

    STAGES = "stages"
    ALIASES = "aliases"
    TAGS = "tags"
    REGISTER = "register"
    WEBHOOKS = "webhooks"


@dataclass(frozen=True, slots=True)
class Hint:
    """What may have changed in a registry.

    Attributes:
        model: its logical name; None for anything.
        alias: the one alias of it, without `@`; None for anything of that model.
    """

    model: ModelName | None = None
    alias: str | None = None


ANYTHING = Hint()
"""Anything may have changed."""


@dataclass(frozen=True, slots=True)
class Unknown:
    """A registry cannot tell now; what was known goes on."""

    reason: str


@dataclass(frozen=True, slots=True)
class StageTransition:
    """Put a version into a stage, as MLflow's `transition_model_version_stage`.

    Attributes:
        stage: in lower case; "" takes the version out of its stage.
        archive_existing: whether the versions that are in that stage now leave it.
        expected: the version that the stage must name for this to be done, "" for none; None for any.
    """

    model: ModelName
    version: VersionId
    stage: str
    archive_existing: bool = True
    expected: str | None = None


@dataclass(frozen=True, slots=True)
class AliasChange:
    """Let an alias name a version; None removes the alias. `expected` as in `StageTransition`."""

    model: ModelName
    alias: str
    version: VersionId | None
    expected: str | None = None


@dataclass(frozen=True, slots=True)
class TagChange:
    """Set a tag of a version, or take it away with None."""

    model: ModelName
    version: VersionId
    key: str
    value: str | None


PointerChange = StageTransition | AliasChange

RegistryChange = PointerChange | TagChange


@dataclass(frozen=True, slots=True)
class NewVersion:
    """What is to be registered.

    Attributes:
        version: the id that it is to have; "" lets the registry choose.
        files: a file or folder on this machine.
        digest: of `files`, by `router.artifacts.digest`.
    """

    model: ModelName
    files: Path
    format: str
    digest: str
    version: str = ""
    contract: Contract | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)
    lineage: Mapping[str, str] = field(default_factory=dict)
    description: str = ""


class Registry(Protocol):
    """Where versions, stages and aliases come from, and where a decision is written back to."""

    @property
    def name(self) -> str:
        """Its key in the configuration."""
        ...

    @property
    def capabilities(self) -> frozenset[Capability]:
        """What it can do beside being read; what is not in here raises NotSupported."""
        ...

    async def read(self, hint: Hint = ANYTHING) -> RegistryView:
        """Read, and return everything, whole.

        A model that cannot be read now (half a file) keeps its last good reading and is listed in
        `problems`. With a hint about a model only that is asked for at the source, and the rest is as it
        was read last.

        Raises:
            RegistryUnavailable: nothing can be read at all.
            RegistryIncomplete: there is more than one reading takes in. It got further than the one before,
                and the next one goes on from there; the text says how far it is.
        """
        ...

    async def get(self, model: ModelName, version: VersionId) -> Version | Unknown | None:
        """Ask the source for one version; None where there is no such model or version. Never raises."""
        ...

    async def resolve(self, model: ModelName, kind: PointerKind, name: str) -> VersionId | Unknown | None:
        """Ask the source what a stage or alias names now; None where it names nothing. Never raises."""
        ...

    def changes(self) -> AsyncIterator[Hint]:
        """Yield each time the registry may have changed. A hint: `read` tells the truth."""
        ...

    async def write(self, change: RegistryChange) -> None:
        """Write a decision back. What already is so is left as it is.

        Raises:
            NotSupported: it cannot do that; nothing was changed.
            Conflict: a stage or alias names another version than expected; nothing was changed.
            ModelNotFound, VersionNotFound: there is no such thing.
            RegistryRefused: it answered that it will not.
            RegistryUnavailable: it may or may not have been done; doing it again is right.
        """
        ...

    async def register(self, new: NewVersion, progress: Callable[[str], None] | None = None) -> Version:
        """Bring files into the registry as a new version, seen by nobody before it is whole.

        The same files under the same id once more are no error.

        Raises:
            NotSupported, RegistryRefused, RegistryUnavailable: as `write`.
            InvalidInput: the id is taken by other files, or cannot be one.
        """
        ...

    def webhook(self, headers: Mapping[str, str], body: bytes, now: float) -> Sequence[Hint]:
        """Check a notice that was posted to us, and say what it is about; `now` in unix seconds.

        Args:
            headers: names in lower case.

        Raises:
            WebhookRefused: it is not from the registry, is too old, or came before.
            NotSupported: this registry sends none.
        """
        ...

    def source(self, uri: str) -> Source | None:
        """Access to the files of a version of this registry; None where no access of its own is needed.

        Whoever asked closes it, and it answers nobody else then.
        """
        ...

    async def close(self) -> None:
        """Give back connections and threads."""
        ...


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """One file of an artifact, as its store tells of it.

    Attributes:
        path: inside the artifact, with `/` between its parts.
        size: bytes, or None where the store does not tell.
        sha256: in hex, "" where the store does not tell.
        md5: in hex, from stores that know their files by nothing better (DVC); whoever fetches checks it as
            well as `sha256`.
        seen: what the store needs to give these very bytes and no others later, such as an ETag.
    """

    path: str
    size: int | None = None
    sha256: str = ""
    seen: str = ""
    md5: str = ""


class Source(Protocol):
    """A store of files, read by blocking calls from several threads at once."""

    def files(self, uri: str) -> Sequence[RemoteFile]:
        """All files of an artifact; one file, or all below a folder or prefix.

        Raises:
            ArtifactMissing, ArtifactRefused, ArtifactUnavailable.
        """
        ...

    def read(self, uri: str, file: RemoteFile, start: int, end: int | None) -> Iterator[bytes]:
        """The bytes of a file from `start` on and before `end` (None: all), in pieces.

        Raises:
            ArtifactChanged: the file is not the one that `files` told of.
            ArtifactMissing, ArtifactRefused, ArtifactUnavailable.
        """
        ...

    def close(self) -> None:
        """Give back connections."""
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

    async def contract(self, name: TritonName, version: str = "") -> Contract | None:
        """What a ready model takes and gives; None where it does not tell, or is not ready.

        Raises:
            BackendUnavailable: it does not answer.
        """
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


@dataclass(frozen=True, slots=True)
class WebhookArrived:
    """A notice was posted for a registry; its sender waits 5 s for `DataPlane.answer_webhook`.

    Attributes:
        id: what it is answered by.
        registry: the name in its path; any name that a registry could have.
        headers: names in lower case; values of one name joined by ", ".
        body: as it was sent, at most 1 MiB.
    """

    id: int
    registry: str
    headers: Mapping[str, str] = field(repr=False)
    body: bytes = field(repr=False)


DataPlaneEvent = ColdWanted | BackendDown | BackendUp | CopyEjected | CopyRecovered | WebhookArrived


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

    def answer_webhook(self, notice: int, status: int, text: str) -> bool:
        """Answer a `WebhookArrived` with an HTTP status, and what is wrong; "" where nothing is.

        Returns whether its sender still waited.
        """
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
