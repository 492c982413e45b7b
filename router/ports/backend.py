"""What the control loop asks of one Triton and of the folder that it loads from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from router.model import Backend, Capacity, Contract, IndexEntry, TritonName, Version


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
        """Load and return when ready.

        Raises:
            LoadFailed: the model cannot be loaded, or not in time; with Triton's reason.
            BackendUnable: it could not have loaded any model.
            BackendUnavailable: it does not answer, or went away meanwhile.
        """
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

    async def last_used(self, name: TritonName, version: str = "") -> float | None:
        """When a ready model got its last request from anybody, in unix seconds by the clock of its Triton.

        None where it got none, is not ready, or does not tell.

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
