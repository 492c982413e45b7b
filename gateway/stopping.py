"""Being told to stop: what asks for it, and work that is given up for it."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import AsyncIterator, Coroutine
from dataclasses import dataclass, field
from typing import Any


@dataclass(slots=True)
class Stop:
    """Why and whether the process is to end."""

    asked: asyncio.Event = field(default_factory=asyncio.Event)
    at_once: asyncio.Event = field(default_factory=asyncio.Event)

    def ask(self) -> None:
        """First time: drain and stop. Second time: stop without draining."""
        if self.asked.is_set():
            self.at_once.set()
        self.asked.set()


@contextlib.asynccontextmanager
async def signals(stop: Stop) -> AsyncIterator[None]:
    """Meanwhile SIGTERM and SIGINT ask for a stop, and SIGHUP does not end the process."""
    loop = asyncio.get_running_loop()
    for signum in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(signum, stop.ask)
    # Replaced once there is something to reload; until then a SIGHUP must not end the process.
    loop.add_signal_handler(signal.SIGHUP, lambda: None)
    try:
        yield
    finally:
        for signum in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            loop.remove_signal_handler(signum)


async def unless_stopped(stop: Stop, work: Coroutine[None, None, None]) -> bool:
    """Do something, or give it up when a stop is asked for; whether it was done."""
    doing = asyncio.create_task(work)
    asked = asyncio.create_task(stop.asked.wait())
    try:
        await asyncio.wait({doing, asked}, return_when=asyncio.FIRST_COMPLETED)
        if not doing.done():
            return False
        await doing
        return True
    finally:
        await cancel(asked)
        await cancel(doing)


async def cancel(task: asyncio.Task[Any]) -> None:
    """End a task, and return when it has ended, however."""
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
