"""The MLflow registry: `ports.Registry` over MLflow's REST API."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from router.errors import ArtifactRefused, RegistryUnavailable
from router.model import ModelName, PointerKind, RegistryView, Version, VersionId
from router.ports import (
    ANYTHING,
    Capability,
    Hint,
    NewVersion,
    RegistryChange,
    Source,
    Unknown,
)
from router.registries.mlflow.artifacts import ProxiedFiles, proxied_path
from router.registries.mlflow.names import Names
from router.registries.mlflow.reading import Reading
from router.registries.mlflow.registering import Registration
from router.registries.mlflow.rest import Secret, Server
from router.registries.mlflow.webhook import Inbox
from router.registries.mlflow.writing import pointer_problem, write_change
from router.registries.polling import pause

_SLACK = 1.0
_SILENCE = 60.0

Answer = TypeVar("Answer")


@dataclass(frozen=True)
class Settings:
    """How an MLflow is watched.

    Attributes:
        poll: seconds between two whole readings.
        timeout: seconds that one of them may take.
        names: which models are taken, and what they are called.
        webhook_secret: that of the webhook in MLflow; None where there is none.
        experiment: where runs are made for versions that are registered from here.
    """

    poll: float = 5.0
    timeout: float = 30.0
    names: Names = field(default_factory=lambda: Names({}))
    webhook_secret: Secret | None = None
    experiment: str = "stagegate"


class MlflowRegistry:
    """`ports.Registry` over one MLflow. It is asked in threads."""

    def __init__(self, server: Server, settings: Settings) -> None:
        self._server = server
        self._settings = settings
        self._reading = Reading(server, settings.names, settings.timeout)
        self._inbox = Inbox(server.registry, settings.webhook_secret, settings.names)

    @property
    def name(self) -> str:
        """Its key in the configuration."""
        return self._server.registry

    @property
    def capabilities(self) -> frozenset[Capability]:
        """All; webhooks only with a secret to check them by."""
        without = set() if self._settings.webhook_secret is not None else {Capability.WEBHOOKS}
        return frozenset(Capability) - without

    async def read(self, hint: Hint = ANYTHING) -> RegistryView:
        """Read everything by two calls, or ask about one model, or one alias of it by one call.

        The very same view where nothing changed. Raises RegistryUnavailable.
        """
        if hint.model is None or not self._reading.read_at:
            return await self._patiently(self._reading.whole)
        model, alias = hint.model, hint.alias
        return await self._patiently(lambda: self._reading.question(model, alias))

    async def get(self, model: ModelName, version: VersionId) -> Version | Unknown | None:
        """One version as MLflow has it now; its run is asked too where it is not known or not finished."""
        try:
            return await self._patiently(lambda: self._reading.version(model, version))
        except RegistryUnavailable as problem:
            return Unknown(str(problem))

    async def resolve(self, model: ModelName, kind: PointerKind, name: str) -> VersionId | Unknown | None:
        """What an alias or stage names now, by one call."""
        try:
            return await self._patiently(lambda: self._reading.pointer(model, kind, name))
        except RegistryUnavailable as problem:
            return Unknown(str(problem))

    async def changes(self) -> AsyncIterator[Hint]:
        """Yield once each `poll`: no call of MLflow tells whether an alias moved but the search itself.

        Where it was read meanwhile, for whatever reason, later; where it is away, less and less often, down
        to once a minute.
        """
        took = 0.0
        while True:
            wait = pause(self._settings.poll, self._reading.failures, random.random(), took)  # noqa: S311
            await asyncio.sleep(wait)
            since = time.monotonic() - self._reading.read_at
            if since < wait / 2:
                await asyncio.sleep(wait / 2)
            asked = time.monotonic()
            yield ANYTHING
            took = time.monotonic() - asked

    def pointer_problem(self, kind: PointerKind, name: str) -> str:
        """What MLflow has no stage or alias of."""
        return pointer_problem(kind, name)

    async def write(self, change: RegistryChange) -> None:
        """Carry a decision out; what already is so is not called for. Raises as the port."""
        name = self._settings.names.registered(change.model)

        def write() -> None:
            with self._reading.session() as session:
                write_change(session, name, change)

        await self._patiently(write)

    async def register(self, new: NewVersion, progress: Callable[[str], None] | None = None) -> Version:
        """Upload files behind the artifact proxy and make a version of them, with a run of its own."""
        files = ProxiedFiles(self._server, _SILENCE)
        registration = Registration(self._server, self._settings.names, self._settings.experiment, files)
        with contextlib.closing(files):
            number = await asyncio.to_thread(registration.register, new, progress or (lambda _: None))
        made = await self.get(new.model, VersionId(number))
        if isinstance(made, Version):
            return made
        why = made.reason if isinstance(made, Unknown) else "it is gone already"
        raise RegistryUnavailable(f"registry {self.name!r}: version {number} was registered; {why}"[:500])

    def webhook(self, headers: Mapping[str, str], body: bytes, now: float) -> Sequence[Hint]:
        """Check a notice of MLflow's. Raises WebhookRefused, NotSupported."""
        return self._inbox.take(headers, body, now)

    def source(self, uri: str) -> Source | None:
        """The artifact proxy for what lies behind it; None for S3 and other stores, which have their own."""
        try:
            if proxied_path(self._server, uri) is None:
                return None
        except ArtifactRefused:
            pass  # it says what is wrong when it is asked
        return ProxiedFiles(self._server, _SILENCE)

    async def close(self) -> None:
        """Nothing is held: connections end with the questions that they are for."""

    async def _patiently(self, work: Callable[[], Answer]) -> Answer:
        """Work in a thread, and no longer than it may take, even where a name is being resolved for ever."""
        try:
            async with asyncio.timeout(self._settings.timeout + _SLACK):
                return await asyncio.to_thread(work)
        except TimeoutError:
            raise RegistryUnavailable(
                f"registry {self.name!r}: no answer within {self._settings.timeout:g} s"
            ) from None
