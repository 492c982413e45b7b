"""What the control loop asks of a registry: readings, hints, and changes of what it holds."""

from __future__ import annotations

import enum
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from router.model import Contract, ModelName, PointerKind, RegistryView, Version, VersionId
from router.ports.source import Source


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

    def pointer_problem(self, kind: PointerKind, name: str) -> str:
        """Why it could never have a stage (in lower case) or alias (without `@`) of this name.

        One sentence that names what would do; "" where there could be one, also where nothing may be written
        now. By its rules and its configuration alone: nobody is asked. `write` refuses what has a problem.
        """
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
