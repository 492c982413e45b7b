"""Looks at a source by calls that block: each ends in time, and who is away is asked less and less often."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import TypeVar

from router.errors import RegistryIncomplete, RegistryUnavailable
from router.model import RegistryView
from router.ports import ANYTHING, Hint
from router.registries.polling import pause
from router.registries.threads import Threads

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Asked:
    """Who is asked, and how.

    Attributes:
        registry: its name in the configuration.
        source: who answers, as people call it.
        poll: seconds between two looks.
        timeout: seconds that one look may take.
        from_begin: whether looks begin a poll apart; else there is a poll between two of them.
    """

    registry: str
    source: str
    poll: float
    timeout: float
    from_begin: bool = False


class Looks:
    """Runs blocking calls in threads of their own and counts which failed.

    Args:
        abandon: leaves a connection that hangs, so that the next call makes a new one.
        abandoned_by: errors after which a connection is left as well.
    """

    def __init__(
        self,
        asked: Asked,
        abandon: Callable[[], None],
        *,
        abandoned_by: type[Exception] | tuple[type[Exception], ...] = (),
    ) -> None:
        self._asked = asked
        self._abandon = abandon
        self._abandoned_by = abandoned_by
        self._threads = Threads(f"registry-{asked.registry}")
        self._failures = 0

    async def read(self, call: Callable[[], RegistryView]) -> RegistryView:
        """What a reading returns.

        Raises:
            RegistryUnavailable: it takes too long, or says so.
            RegistryIncomplete: it says so; the source answers.
        """
        try:
            view = await self.call(call)
        except RegistryIncomplete:
            raise
        except RegistryUnavailable:
            self._failures += 1
            raise
        self._failures = 0
        return view

    async def call(self, call: Callable[[], Result], seconds: float = 0.0) -> Result:
        """What a blocking call returns or raises.

        Args:
            seconds: where it may take longer than one look.

        Raises:
            RegistryUnavailable: it takes longer than that.
        """
        longest = seconds or self._asked.timeout + 1
        try:
            return await self._threads.run(call, longest)
        except self._abandoned_by:
            self._abandon()
            raise
        except TimeoutError as error:
            self._abandon()
            raise RegistryUnavailable(
                f"registry {self._asked.registry!r}: {self._asked.source} gave no answer in {longest:g} s"
            ) from error

    async def changes(self) -> AsyncIterator[Hint]:
        """Yield once each poll: to look whether anything changed is to list everything, as a reading does.

        Where it is away, less and less often, down to once a minute.
        """
        took = 0.0
        while True:
            await asyncio.sleep(pause(self._asked.poll, self._failures, random.random(), took))  # noqa: S311
            asked = time.monotonic()
            yield ANYTHING
            if self._asked.from_begin:
                took = time.monotonic() - asked
