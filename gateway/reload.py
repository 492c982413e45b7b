"""Takes a changed configuration file without a restart, or refuses all of it."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Sequence
from pathlib import Path

from gateway.config import BUILT_IN, GatewayConfig, changed_keys, load_config
from gateway.operations import ReloadReport
from router.control.controller import Controller, ControllerSettings
from router.errors import InvalidInput, StagegateError
from router.model import Backend, BackendId
from router.registries import open_registry

LOG = logging.getLogger("stagegate")

_LIVE = ("registries", "default_registry", "backends", "residency.", "log.level")
"""Keys, or beginnings of keys, that take effect at once; all others wait for the next start."""


class Reloader:
    """Holds the configuration in force and applies the difference to the next one."""

    def __init__(
        self,
        config: GatewayConfig,
        controller: Controller,
        *,
        settings: Callable[[GatewayConfig], ControllerSettings],
        add_backends: Callable[[Sequence[Backend]], None],
    ) -> None:
        self._config = config
        self._controller = controller
        self._settings = settings
        self._add_backends = add_backends
        self._busy = asyncio.Lock()
        self._tasks: set[asyncio.Task[None]] = set()
        self.registry_types = {name: section.type for name, section in config.registries.items()}

    def on_signal(self) -> None:
        """SIGHUP: reload, and tell the outcome in the log."""
        task = asyncio.get_running_loop().create_task(self._reload_and_tell())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _reload_and_tell(self) -> None:
        try:
            report = await self.reload()
        except StagegateError as problem:
            LOG.warning("reload refused, nothing was changed: %s", problem)
            for one in getattr(problem, "problems", ()):
                LOG.warning("  line %d: %s: %s", one.line, one.path, one.message)
            return
        LOG.info("reloaded %s: %s", report.config, ", ".join(report.changed) or "nothing changed")

    async def reload(self) -> ReloadReport:
        """Read the file again and take what changed.

        Raises:
            ConfigInvalid: the file holds mistakes; all are listed and nothing was changed.
            InvalidInput: there is no file to read again.
        """
        async with self._busy:
            if self._config.source == BUILT_IN:
                raise InvalidInput(
                    "there is no configuration file to read again", hint="start with --config FILE"
                )
            fresh = await asyncio.to_thread(load_config, Path(self._config.source), os.environ)
            changed = changed_keys(self._config, fresh)
            await self._apply(fresh, changed)
            waits = tuple(key for key in changed if not key.startswith(_LIVE))
            self._config = fresh
            return ReloadReport(
                config=fresh.source,
                changed=tuple(key for key in changed if key not in waits),
                needs_restart=waits,
            )

    async def _apply(self, fresh: GatewayConfig, changed: Sequence[str]) -> None:
        self._controller.set_settings(self._settings(fresh))
        if "log.level" in changed:
            logging.getLogger("stagegate").setLevel(fresh.log.level.upper())
        if "registries" in changed:
            self._apply_registries(fresh)
        if "backends" in changed:
            await self._apply_backends(fresh)
        await self._controller.turned()

    def _apply_registries(self, fresh: GatewayConfig) -> None:
        before = self._config.registries
        for name in before.keys() | fresh.registries.keys():
            if before.get(name) == fresh.registries.get(name):
                continue
            section = fresh.registries.get(name)
            if section is None:
                self._controller.drop_registry(name)
                self.registry_types.pop(name, None)
                continue
            options = {"type": section.type, "path": section.path}
            self._controller.add_registry(open_registry(name, options, section.path))
            self.registry_types[name] = section.type

    async def _apply_backends(self, fresh: GatewayConfig) -> None:
        before = {backend.name: backend for backend in self._config.backends}
        after = {backend.name: backend for backend in fresh.backends}
        for name, backend in before.items():
            if after.get(name) != backend:
                await self._controller.drop_backend(BackendId(name))
        self._add_backends(
            [backend.to_backend() for name, backend in after.items() if before.get(name) != backend]
        )
