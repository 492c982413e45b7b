"""Blocking calls whose caller waits no longer than it said."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from typing import TypeVar

Result = TypeVar("Result")


class Threads:
    """Runs each call in a thread of its own.

    A call that takes too long is left behind, and its result is dropped. A thread pool would not do: what
    hangs would hold up those after it, and the end of the process.

    Args:
        name: of the threads.
        most: calls at once, those left behind included.
    """

    def __init__(self, name: str, most: int = 8) -> None:
        self._name = name
        self._free = threading.BoundedSemaphore(most)

    async def run(self, call: Callable[[], Result], seconds: float) -> Result:
        """What the call returns or raises.

        Raises:
            TimeoutError: it takes longer, too many that do are still under way, or there is no thread for it.
        """
        if not self._free.acquire(blocking=False):
            raise TimeoutError
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Result] = loop.create_future()

        def settle(result: Callable[[], None]) -> None:
            if not future.done():
                result()

        def work() -> None:
            try:
                found = call()
                answer: Callable[[], None] = lambda: future.set_result(found)  # noqa: E731
            except BaseException as error:  # the caller's, whatever it is
                problem = error
                answer = lambda: future.set_exception(problem)  # noqa: E731
            finally:
                self._free.release()
            with contextlib.suppress(RuntimeError):  # the loop has ended meanwhile
                loop.call_soon_threadsafe(settle, answer)

        try:
            threading.Thread(target=work, name=self._name, daemon=True).start()
        except RuntimeError as problem:
            self._free.release()
            raise TimeoutError from problem
        async with asyncio.timeout(seconds):
            return await future
