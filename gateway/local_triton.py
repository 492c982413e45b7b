"""The Tritons that `stagegate up` starts itself, and starts again when one dies."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import replace
from pathlib import Path

from gateway.config import TritonConfig
from gateway.progress import Progress
from router.backends.process import TritonOptions, TritonProcess
from router.backends.wheel import find_triton
from router.errors import StagegateError
from router.model import Backend

LOG = logging.getLogger("stagegate.triton")

FIRST_WAIT = 0.2
LONGEST_WAIT = 30.0
STEADY_SECONDS = 60.0
"""A Triton that ran for this long before it died is started again without a wait."""


class LocalTritons:
    """Starts them side by side and watches over them until `stop`."""

    def __init__(self, config: TritonConfig, progress: Progress) -> None:
        self._config = config
        self._progress = progress
        self._processes: list[TritonProcess] = []
        self._watchers: list[asyncio.Task[None]] = []

    @property
    def backends(self) -> list[Backend]:
        """What was started, as backends; complete after `start`."""
        return [process.backend() for process in self._processes]

    async def start(self) -> None:
        """Start all and return when all are ready.

        Raises:
            NotSupported: there is no Triton that runs here; says what to install.
            BackendUnavailable: one did not become ready, with the last lines of its log.
        """
        install = await asyncio.to_thread(find_triton, self._config.path)
        folder = self._config.folder / "triton"
        self._processes = [
            TritonProcess(install, self._options(f"local-{number}", folder))
            for number in range(self._config.instances)
        ]
        count = self._config.instances
        with self._progress.step("starting Triton" if count == 1 else f"starting {count} Tritons"):
            await self._start_all()
        for process in self._processes:
            ports = [
                int(address.rpartition(":")[2]) for address in (process.grpc, process.http, process.metrics)
            ]
            # From now on on the same ports: clients of the backend know it by its address.
            process.options = replace(
                process.options, grpc_port=ports[0], http_port=ports[1], metrics_port=ports[2]
            )
            LOG.info("%s: Triton on %s, its log in %s", process.options.name, process.grpc, process.log)
            self._watchers.append(asyncio.create_task(self._watch(process)))

    async def _start_all(self) -> None:
        """Start all side by side; where one cannot start, the others are ended before that is told."""
        starting = [asyncio.create_task(process.start()) for process in self._processes]
        try:
            await asyncio.gather(*starting)
        finally:
            for task in starting:
                task.cancel()
            await asyncio.gather(*starting, return_exceptions=True)

    @staticmethod
    def _options(name: str, folder: Path) -> TritonOptions:
        return TritonOptions(name=name, repository=folder / name / "models", work=folder / name)

    async def stop(self) -> None:
        """End all, with everything that is theirs."""
        for watcher in self._watchers:
            watcher.cancel()
        await asyncio.gather(*self._watchers, return_exceptions=True)
        await asyncio.gather(*(process.stop() for process in self._processes))

    async def _watch(self, process: TritonProcess) -> None:
        """Start it again whenever it ends by itself, with a growing wait while it does not stay up."""
        loop, wait = asyncio.get_running_loop(), FIRST_WAIT
        while True:
            since = loop.time()
            code = await process.exited()
            if loop.time() - since > STEADY_SECONDS:
                wait = FIRST_WAIT
            name = process.options.name
            LOG.warning("%s: Triton ended with code %d; starting it again in %.1f s", name, code, wait)
            await asyncio.sleep(wait)
            wait = min(LONGEST_WAIT, wait * 2)
            try:
                await process.start()
                LOG.info("%s: Triton runs again", name)
            except StagegateError as problem:
                LOG.warning("%s: %s", name, problem)
            except Exception:  # such as a full disk: the next try may do better
                LOG.exception("%s: cannot be started", name)
