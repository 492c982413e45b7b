"""Threads for calls that block: one each, so that what hangs holds up nothing else, nor the end."""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import ParamSpec, TypeVar

from router.errors import Unavailable

MOST = 512
"""Calls under way at once, all together."""

MOST_EACH = 32
"""Calls under way at once for one owner, those included that hang and that nobody waits for any more."""

END_SECONDS = 5.0
"""How long the end waits for calls that are under way, such as a file that is being written."""

TURN_SECONDS = 0.001
"""How long one thread may go on in Python while another one waits. A change of a route waits for some turns:
with Python's own five milliseconds, it takes three times as long while metrics are put together."""

_Parameters = ParamSpec("_Parameters")
_Result = TypeVar("_Result")


def take_turns() -> None:
    """Let the threads of this process take turns as `TURN_SECONDS` says."""
    sys.setswitchinterval(TURN_SECONDS)


class OwnThreads(ThreadPoolExecutor):
    """What `asyncio.to_thread` uses: a thread for each call.

    A pool has a few threads for everybody: some reads of a disk or server that never answers, and nobody
    else's call begins any more; and a process waits for all of them before it ends.

    Args:
        owner: whose call it is that is being begun; "" for nobody's in particular.
        most: see `MOST`.
        most_each: see `MOST_EACH`.
    """

    def __init__(
        self, owner: Callable[[], str] = lambda: "", *, most: int = MOST, most_each: int = MOST_EACH
    ) -> None:
        super().__init__(max_workers=1)
        self._owner = owner
        self._most = most
        self._most_each = most_each
        self._guard = threading.Lock()
        self._under_way: dict[threading.Thread, str] = {}
        self._each: Counter[str] = Counter()

    def submit(
        self, fn: Callable[_Parameters, _Result], /, *args: _Parameters.args, **kwargs: _Parameters.kwargs
    ) -> Future[_Result]:
        """Begin a call.

        Raises:
            Unavailable: too many are under way.
        """
        owner = self._owner()
        future: Future[_Result] = Future()

        def work() -> None:
            try:
                if future.set_running_or_notify_cancel():
                    _answer(future, lambda: fn(*args, **kwargs))
            finally:
                self._ended(threading.current_thread())

        thread = threading.Thread(target=work, name=f"call {owner}".strip(), daemon=True)
        self._begin(thread, owner)
        try:
            thread.start()
        except RuntimeError as problem:
            self._ended(thread)
            raise Unavailable("this machine gives no more threads") from problem
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Wait for calls under way for a moment; those that hang are left behind."""
        until = time.monotonic() + (END_SECONDS if wait else 0.0)
        with self._guard:
            threads = tuple(self._under_way)
        for thread in threads:
            with contextlib.suppress(RuntimeError):  # it is about to begin
                thread.join(max(0.0, until - time.monotonic()))
        super().shutdown(wait=False, cancel_futures=cancel_futures)

    def _begin(self, thread: threading.Thread, owner: str) -> None:
        with self._guard:
            if owner and self._each[owner] >= self._most_each:
                raise Unavailable(f"{self._most_each} calls of {owner} are under way, and none of them ends")
            if len(self._under_way) >= self._most:
                raise Unavailable(f"{self._most} calls are under way, and none of them ends")
            self._under_way[thread] = owner
            self._each[owner] += 1

    def _ended(self, thread: threading.Thread) -> None:
        with self._guard:
            owner = self._under_way.pop(thread)
            self._each[owner] -= 1
            if not self._each[owner]:
                del self._each[owner]


def _answer(future: Future[_Result], call: Callable[[], _Result]) -> None:
    try:
        result = call()
    except BaseException as problem:  # the caller's, whatever it is
        future.set_exception(problem)
    else:
        future.set_result(result)
