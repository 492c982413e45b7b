"""Tasks that go on whatever breaks in them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from router.control.watchers import Watchers


@pytest.fixture
async def watchers() -> AsyncIterator[Watchers]:
    """Watchers that begin anew without a pause."""
    watchers = Watchers(pause=0.0)
    yield watchers
    await watchers.close()


@pytest.mark.parametrize("problem", [RuntimeError("a bug"), asyncio.CancelledError()])
async def test_what_breaks_begins_anew(watchers: Watchers, problem: BaseException) -> None:
    """Neither a bug nor a call that somebody else cancelled ends a watcher."""
    begun = 0
    again = asyncio.Event()

    async def work() -> None:
        nonlocal begun
        begun += 1
        if begun == 1:
            raise problem
        again.set()
        await asyncio.Event().wait()

    watchers.start("it", work)
    await asyncio.wait_for(again.wait(), 5)

    assert begun == 2


async def test_a_watcher_of_the_same_name_takes_over(watchers: Watchers) -> None:
    """Starting one twice leaves one."""
    ended = asyncio.Event()

    async def first() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    async def second() -> None:
        await asyncio.Event().wait()

    watchers.start("it", first)
    await asyncio.sleep(0)
    watchers.start("it", second)

    await asyncio.wait_for(ended.wait(), 5)


async def test_closing_ends_all(watchers: Watchers) -> None:
    """After `close` nothing runs."""
    before = asyncio.all_tasks()

    async def work() -> None:
        await asyncio.Event().wait()

    watchers.start("a", work)
    watchers.start("b", work)
    await asyncio.sleep(0)
    await watchers.close()

    assert asyncio.all_tasks() == before
