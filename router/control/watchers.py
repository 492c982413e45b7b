"""Tasks that go on for as long as they are wanted, whatever breaks in them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine

LOG = logging.getLogger("stagegate.control")

Work = Callable[[], Coroutine[None, None, None]]


class Watchers:
    """Named tasks; one that breaks is told in the log and begun anew."""

    def __init__(self, pause: float) -> None:
        """`pause`: seconds before a broken one is begun anew."""
        self._pause = pause
        self._tasks: dict[str, asyncio.Task[None]] = {}

    def start(self, name: str, work: Work) -> None:
        """Begin one; another of that name ends."""
        self.stop(name)
        self._tasks[name] = asyncio.create_task(self._keep(name, work), name=name)

    def stop(self, name: str) -> None:
        """End one, if there is one of that name."""
        task = self._tasks.pop(name, None)
        if task is not None:
            task.cancel()

    async def close(self) -> None:
        """End all, and return when they ended."""
        tasks = tuple(self._tasks.values())
        self._tasks.clear()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _keep(self, name: str, work: Work) -> None:
        task = asyncio.current_task()
        while True:
            try:
                await work()
            except asyncio.CancelledError:
                # A channel that is closed cancels the calls on it: that is not us being told to end.
                if task is None or task.cancelling():
                    raise
                LOG.warning("watching %s was interrupted; it goes on", name)
            except Exception:
                LOG.exception("watching %s broke; it begins anew in %g s", name, self._pause)
            else:
                return
            await asyncio.sleep(self._pause)
