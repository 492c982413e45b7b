"""Calls that block have threads of their own: what hangs costs itself only."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway import threads as module
from gateway.threads import OwnThreads, take_turns
from router.errors import Unavailable


@pytest.fixture(autouse=True)
def short_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """The loop of a test ends before what it holds is let go."""
    monkeypatch.setattr(module, "END_SECONDS", 0.2)


@pytest.fixture
def held() -> Iterator[threading.Event]:
    """Until it is set, calls hang; in the end it is."""
    event = threading.Event()
    yield event
    event.set()


async def use(threads: OwnThreads) -> None:
    """Let `asyncio.to_thread` use them."""
    asyncio.get_running_loop().set_default_executor(threads)


async def test_calls_that_hang_hold_up_no_other(held: threading.Event) -> None:
    """However many; the pool of asyncio has some six threads on a small machine."""
    await use(OwnThreads())
    hanging = [asyncio.create_task(asyncio.to_thread(held.wait)) for _ in range(40)]
    await asyncio.sleep(0)

    assert await asyncio.wait_for(asyncio.to_thread(lambda: "answered"), 10) == "answered"
    held.set()
    assert await asyncio.gather(*hanging) == [True] * 40


async def test_what_a_call_raises_arrives() -> None:
    """As it was."""
    await use(OwnThreads())

    with pytest.raises(ZeroDivisionError):
        await asyncio.to_thread(lambda: 1 // 0)


async def test_one_owner_cannot_have_all_threads(held: threading.Event) -> None:
    """Its calls that hang are counted though nobody waits for them any more; others go on."""
    owner = "registry a"
    await use(OwnThreads(lambda: owner, most_each=3))
    hanging = [asyncio.create_task(asyncio.to_thread(held.wait)) for _ in range(3)]
    await asyncio.sleep(0)
    for task in hanging:
        task.cancel()
    await asyncio.gather(*hanging, return_exceptions=True)

    with pytest.raises(Unavailable, match="3 calls of registry a are under way"):
        await asyncio.to_thread(lambda: None)
    owner = "registry b"
    assert await asyncio.to_thread(lambda: 1) == 1
    owner = ""
    assert await asyncio.gather(*(asyncio.to_thread(lambda: 2) for _ in range(9))) == [2] * 9


def test_an_owner_whose_calls_ended_may_begin_others(held: threading.Event) -> None:
    """The count goes down again."""
    threads = OwnThreads(lambda: "a", most_each=1)
    first = threads.submit(held.wait)
    with pytest.raises(Unavailable):
        threads.submit(held.wait)
    held.set()
    first.result(10)
    until = time.monotonic() + 10
    while time.monotonic() < until and threads._under_way:
        time.sleep(0.001)

    assert threads.submit(lambda: 5).result(10) == 5


async def test_there_is_a_bound_for_all(held: threading.Event) -> None:
    """Else a machine runs out of them."""
    threads = OwnThreads(most=2)
    for _ in range(2):
        threads.submit(held.wait)

    with pytest.raises(Unavailable, match="2 calls are under way"):
        threads.submit(held.wait)


def test_the_end_waits_for_what_ends(held: threading.Event) -> None:
    """Such as a file that is being written; not for what hangs."""
    threads = OwnThreads()
    begun, written = threading.Event(), []

    def write() -> None:
        begun.wait()
        written.append("all")

    ends = threads.submit(write)
    threads.submit(held.wait)
    begun.set()
    threads.shutdown()

    assert (ends.done(), written) == (True, ["all"])


def test_a_process_ends_though_a_call_hangs() -> None:
    """A disk that never answers would keep it for ever."""
    code = """
import asyncio, threading
from gateway import threads
threads.END_SECONDS = 0.1
async def main():
    asyncio.get_running_loop().set_default_executor(threads.OwnThreads())
    asyncio.create_task(asyncio.to_thread(threading.Event().wait))
    await asyncio.sleep(0.05)
asyncio.run(main())
print("ended")
"""
    root = Path(__file__).parents[2]
    environ = {**os.environ, "PYTHONPATH": str(root)}
    command = [sys.executable, "-c", code]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=60, env=environ, check=False)

    assert (ran.stdout, ran.returncode) == ("ended\n", 0), ran.stderr


def test_a_thread_that_computes_lets_others_have_their_turn_soon() -> None:
    """The control loop is one of them."""
    before = sys.getswitchinterval()
    try:
        take_turns()

        assert sys.getswitchinterval() <= before / 2
    finally:
        sys.setswitchinterval(before)
