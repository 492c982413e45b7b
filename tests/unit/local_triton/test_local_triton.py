"""The Tritons that `stagegate up` starts: all or none, and again when one dies."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import cast

import pytest

from gateway.config import TritonConfig
from gateway.local_triton import LocalTritons
from gateway.progress import Silent
from router.backends.process import TritonProcess
from router.errors import BackendUnavailable


class FakeProcess:
    """A Triton that starts and ends as the test says."""

    def __init__(self, *starts: Exception | None) -> None:
        self.starts = list(starts)
        self.begun = 0
        self.cancelled = False
        self.again = asyncio.Event()
        self.options = type("Options", (), {"name": "local-0"})

    async def start(self) -> None:
        self.begun += 1
        outcome = self.starts.pop(0) if self.starts else None
        if outcome is not None:
            raise outcome
        self.again.set()

    async def exited(self) -> int:
        if self.again.is_set():
            await asyncio.Event().wait()
        return 139


class Slow(FakeProcess):
    """One that takes for ever to start."""

    async def start(self) -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.cancelled = True
            raise


def tritons(folder: Path, *processes: FakeProcess) -> LocalTritons:
    """Local Tritons with these processes."""
    made = LocalTritons(TritonConfig.model_construct(instances=1, path=None, folder=folder), Silent())
    made._processes = [cast(TritonProcess, process) for process in processes]
    return made


@pytest.mark.parametrize("problem", [BackendUnavailable("no memory"), OSError(28, "no space left")])
async def test_one_that_cannot_start_again_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, problem: Exception
) -> None:
    """Neither Triton's refusal nor the system's ends the watch over it."""
    monkeypatch.setattr("gateway.local_triton.FIRST_WAIT", 0.0)
    process = FakeProcess(problem)
    watch = asyncio.create_task(tritons(tmp_path, process)._watch(cast(TritonProcess, process)))
    await asyncio.wait_for(process.again.wait(), 5)
    watch.cancel()
    await asyncio.gather(watch, return_exceptions=True)

    assert process.begun == 2


async def test_where_one_cannot_start_the_others_are_given_up(tmp_path: Path) -> None:
    """None goes on starting in the background once the failure was told."""
    bad, slow = FakeProcess(BackendUnavailable("no memory")), Slow()
    with pytest.raises(BackendUnavailable, match="no memory"):
        await tritons(tmp_path, bad, slow)._start_all()

    assert slow.cancelled
