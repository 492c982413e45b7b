"""What the control loop hands to the data plane, and what it hears from it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from router.traffic.table import Delta, Snapshot


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
