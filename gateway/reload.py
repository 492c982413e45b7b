"""Takes a changed configuration file without a restart, or refuses all of it."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Container, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from gateway.certificates import Certificates, Material
from gateway.config import (
    BUILT_IN,
    BackendConfig,
    GatewayConfig,
    changed_keys,
    describe_problems,
    load_config,
    parse_config,
)
from gateway.operations import ReloadReport
from router.control.controller import Controller, ControllerSettings
from router.control.residents import BackendState
from router.errors import ConfigInvalid, InvalidInput, StagegateError
from router.model import Backend, BackendId
from router.ports import Registry
from router.registries import open_registry

LOG = logging.getLogger("stagegate")

_LIVE = (
    "registries",
    "default_registry",
    "artifacts.",
    "backends",
    "residency.",
    "log.level",
    "limits.",
    "tls.",
)
"""Keys, or beginnings of keys, that take effect at once; all others wait for the next start."""

_WAITS = ("limits.upstream_connections", "limits.shadow_")
"""Keys that begin so and wait for the next start all the same."""


def _is_live(key: str) -> bool:
    return key.startswith(_LIVE) and not key.startswith(_WAITS)


@dataclass(frozen=True, slots=True)
class _Difference:
    """What a reload brings, made and found good before anything is changed."""

    drop_registries: tuple[str, ...]
    add_registries: tuple[tuple[Registry, float | None], ...]
    drop_backends: tuple[BackendId, ...]
    add_backends: tuple[BackendState, ...]
    material: Material | None


def check_names(backends: Iterable[BackendConfig], taken: Container[str]) -> None:
    """Refuse a configured backend that is called like a Triton started here. Raises InvalidInput."""
    for backend in backends:
        if backend.name in taken:
            raise InvalidInput(
                f"backends: {backend.name!r} is the name of a Triton that `stagegate up` started itself",
                hint="choose another name",
            )


class Reloader:
    """Holds the configuration as it was read last, and applies the difference to the next one."""

    def __init__(
        self,
        config: GatewayConfig,
        controller: Controller,
        *,
        settings: Callable[[GatewayConfig], ControllerSettings],
        make_backends: Callable[[Sequence[Backend]], list[BackendState]],
        certificates: Certificates | None = None,
        set_limits: Callable[[GatewayConfig], None] = lambda _: None,
        set_artifacts: Callable[[GatewayConfig], None] = lambda _: None,
    ) -> None:
        self._config = config
        self._started_with = config
        self._controller = controller
        self._settings = settings
        self._make_backends = make_backends
        self._certificates = certificates
        self._set_limits = set_limits
        self._set_artifacts = set_artifacts
        self._busy = asyncio.Lock()
        self._tasks: set[asyncio.Task[None]] = set()
        self.registry_types = {name: section.type for name, section in config.registries.items()}

    def on_signal(self) -> None:
        """SIGHUP: reload, and tell the outcome in the log."""
        task = asyncio.get_running_loop().create_task(self._reload_and_tell())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def idle(self) -> None:
        """Return when every reload that a signal asked for has ended."""
        await asyncio.gather(*self._tasks)

    async def _reload_and_tell(self) -> None:
        try:
            report = await self.reload()
        except StagegateError as problem:
            LOG.warning("reload refused, nothing was changed: %s", problem)
            for line in describe_problems(problem) if isinstance(problem, ConfigInvalid) else ():
                LOG.warning("reload refused: %s", line)
            return
        except Exception:
            LOG.exception("reload broke")
            return
        LOG.info("reloaded %s: %s", report.config, ", ".join(report.changed) or "nothing changed")
        if report.needs_restart:
            LOG.warning("these changes wait for the next start: %s", ", ".join(report.needs_restart))

    async def reload(self) -> ReloadReport:
        """Read the file again and take what changed.

        Raises:
            ConfigInvalid: the file holds mistakes; all are listed and nothing was changed.
            InvalidInput: there is no file to read again.
            StagegateError: something that it names cannot be used; nothing was changed.
        """
        async with self._busy:
            if self._config.source == BUILT_IN:
                raise InvalidInput(
                    "there is no configuration file to read again", hint="start with --config FILE"
                )
            fresh = await asyncio.to_thread(load_config, Path(self._config.source), os.environ)
            self._check_not_emptied(fresh)
            difference = self._difference(fresh)
            changed = tuple(key for key in changed_keys(self._config, fresh) if _is_live(key))
            self._config = fresh
            await self._apply(fresh, difference)
            # Told again and again until the restart: they are not in force.
            waits = (key for key in changed_keys(self._started_with, fresh) if not _is_live(key))
            return ReloadReport(config=fresh.source, changed=changed, needs_restart=tuple(waits))

    def _check_not_emptied(self, fresh: GatewayConfig) -> None:
        source = self._config.source
        # Many tools empty a file before they write it: taken for what is wanted, that would end the service.
        if fresh != self._config and fresh == parse_config(
            b"", source, Path(source).absolute().parent, os.environ
        ):
            raise InvalidInput(f"{source} is empty", hint="reload again once it is written")

    def _difference(self, fresh: GatewayConfig) -> _Difference:
        """Make what is new. Raises StagegateError where something of it cannot be used."""
        registries = self._config.registries
        backends = {backend.name: backend for backend in self._config.backends}
        check_names(fresh.backends, self._controller.residents.backends.keys() - backends.keys())
        kept = {backend.name for backend in fresh.backends if backends.get(backend.name) == backend}
        return _Difference(
            drop_registries=tuple(name for name in registries if name not in fresh.registries),
            add_registries=tuple(
                (open_registry(name, section.type, section.options), section.poll)
                for name, section in fresh.registries.items()
                if registries.get(name) != section
            ),
            drop_backends=tuple(BackendId(name) for name in backends if name not in kept),
            add_backends=tuple(
                self._make_backends([one.to_backend() for one in fresh.backends if one.name not in kept])
            ),
            material=None if self._certificates is None else self._certificates.read(fresh),
        )

    async def _apply(self, fresh: GatewayConfig, difference: _Difference) -> None:
        self._controller.set_settings(self._settings(fresh))
        self._set_limits(fresh)
        self._set_artifacts(fresh)
        logging.getLogger("stagegate").setLevel(fresh.log.level.upper())
        for name in difference.drop_registries:
            self._controller.drop_registry(name)
        for registry, poll in difference.add_registries:
            self._controller.add_registry(registry, poll)
        self.registry_types.clear()
        self.registry_types.update({name: section.type for name, section in fresh.registries.items()})
        for backend in difference.drop_backends:
            await self._controller.drop_backend(backend)
        if self._certificates is not None and difference.material is not None:
            self._certificates.take(fresh, difference.material)
        for state in difference.add_backends:
            self._controller.add_backend(state)
        await self._controller.turned()
