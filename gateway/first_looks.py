"""The start waits until registries and backends were looked at."""

from __future__ import annotations

import asyncio
import logging

from gateway.last_readings import LastReadings
from gateway.stopping import Stop, cancel, unless_stopped
from router.control.controller import Controller

LOG = logging.getLogger("stagegate")

TELL_SECONDS = 15.0
"""How often a start says what it still waits for."""

TAKEOVER_SECONDS = 30.0
"""How long a gateway that takes another one over waits for backends that do not answer."""


async def looked_at(controller: Controller, stop: Stop, last: LastReadings, *, all_up: bool) -> None:
    """Wait until every registry and backend was looked at once, with or without success.

    With `all_up` backends are waited for, in a bound.

    There is no bound: a gateway that is ready before it has read a large registry would answer NOT_FOUND.
    One of which it is known what it said last is waited for a moment.
    """

    async def tell() -> None:
        while True:
            await asyncio.sleep(TELL_SECONDS)
            if waited := _not_looked_at(controller, last):
                LOG.info("still waiting for the first look at %s", ", ".join(waited))

    telling = asyncio.create_task(tell())
    try:
        await unless_stopped(stop, controller.until(lambda: not _not_looked_at(controller, last)))
    finally:
        await cancel(telling)
    last.recall()
    if all_up:
        await _all_up(controller, stop)
    await controller.turned()


async def _all_up(controller: Controller, stop: Stop) -> None:
    """Wait for every backend, in a bound: the gateway that is taken over has them, and serves meanwhile."""

    def down() -> list[str]:
        return [one.name for one in controller.residents.backends.values() if not one.up]

    try:
        async with asyncio.timeout(TAKEOVER_SECONDS):
            await unless_stopped(stop, controller.until(lambda: not down()))
    except TimeoutError:
        LOG.warning("taking over without %s", ", ".join(down()))


def _not_looked_at(controller: Controller, last: LastReadings) -> list[str]:
    registries, backends = controller.registries, controller.residents.backends
    waited = [
        f"registry {name}" + (f" ({one.progress})" if one.progress else "")
        for name, one in registries.items()
        if one.read_at is None and not one.error and not last.can_go_on(one)
    ]
    return waited + [f"backend {one.name}" for one in backends.values() if not (one.up or one.misses)]
