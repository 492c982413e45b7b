"""Threads for calls whose caller waits no longer than it said."""

from __future__ import annotations

import threading

import pytest

from router.registries.threads import Threads


async def test_a_machine_that_gives_no_thread_costs_no_place(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is as where all are busy; once there are threads again, calls are made."""
    threads = Threads("a", most=1)

    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", refuse)
        with pytest.raises(TimeoutError):
            await threads.run(lambda: 1, 5.0)

    assert await threads.run(lambda: 2, 5.0) == 2
