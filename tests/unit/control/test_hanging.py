"""Registries whose calls hang in threads for ever: what else there is goes on as if they were not there."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from gateway.threads import OwnThreads
from router.control import reader as module
from router.control.reader import READING
from router.model import RegistryView
from router.ports import ANYTHING, ColdWanted, Hint, WebhookArrived
from router.registries.folder import FolderRegistry
from tests.fakes.registry import FakeRegistry
from tests.unit.control.conftest import World

AWAY, EACH = 30, 4


class Hanging(FakeRegistry):
    """An adapter without a time limit over something that never answers; one lock, as many have."""

    def __init__(self, name: str, held: threading.Event) -> None:
        super().__init__(name)
        self._held = held
        self._lock = threading.Lock()
        self.begun = 0
        self.hangs = True

    async def read(self, hint: Hint = ANYTHING) -> RegistryView:
        self.begun += 1
        if self.hangs:
            await asyncio.to_thread(self._hang)
        return await super().read(hint)

    async def close(self) -> None:
        await asyncio.to_thread(self._hang)

    def _hang(self) -> None:
        with self._lock:
            self._held.wait()


class Site:
    """A control loop over one folder and many registries that hang."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.held = threading.Event()
        self.world = World()
        self.world.add_triton()
        asyncio.get_running_loop().set_default_executor(OwnThreads(READING.get, most_each=EACH))
        self.hanging = [Hanging(f"away{number}", self.held) for number in range(AWAY)]
        for registry in self.hanging:
            self.world.controller.add_registry(registry)
        self.point("1")
        self.world.controller.add_registry(FolderRegistry("local", root, poll=0.01, settle=0.0))
        self.loop = asyncio.create_task(self.world.controller.run())

    def point(self, version: str) -> None:
        """Let `production` name a version."""
        for number in "12":
            folder = self.root / "m" / number
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "version.yaml").write_text("format: onnx\nartifact: model.onnx\n")
        (self.root / "new").write_text(f'stages: {{production: "{version}"}}\n')
        (self.root / "new").rename(self.root / "m" / "model.yaml")

    async def until_it_answers(self, version: str) -> None:
        """Return when clients meet a version and it is loaded."""
        async with asyncio.timeout(20):
            while not self._answers(version):
                self.world.plane.happen(ColdWanted("m", version))
                await asyncio.sleep(0.01)

    def _answers(self, version: str) -> bool:
        plane = self.world.plane
        if "m" not in plane.models or plane.arms("m")["stable"][0] != version:
            return False
        return plane.state("m", version) == "ready"


@pytest.fixture
async def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Site]:
    """In the end nothing hangs any more."""
    monkeypatch.setattr(module, "CLOSE_SECONDS", 0.05)
    site = Site(tmp_path)
    yield site
    site.loop.cancel()
    await asyncio.gather(site.loop, return_exceptions=True)
    site.held.set()


async def test_another_registry_is_read_and_followed(site: Site) -> None:
    """Its models load, and its moves are seen."""
    await site.until_it_answers("1")
    site.point("2")
    await site.until_it_answers("2")

    assert all(registry.begun >= 1 for registry in site.hanging)


async def test_notices_are_answered_and_pile_up_no_threads(site: Site) -> None:
    """Each asks for a reading that hangs too; what is too much for one registry is refused to it alone."""
    away = site.hanging[0]
    away.hangs = False
    site.world.controller.add_registry(away)
    await site.until_it_answers("1")
    away.hangs, began = True, away.begun
    for number in range(40):
        site.world.plane.happen(
            WebhookArrived(number, "away0", {"x-signature": "signed"}, f"m{number}".encode())
        )
    async with asyncio.timeout(20):
        while away.begun < began + 40:  # noqa: ASYNC110 - the fake cannot tell of it
            await asyncio.sleep(0.01)
    site.point("2")
    await site.until_it_answers("2")

    assert {site.world.plane.answers[number] for number in range(40)} == {(200, "")}
    names = [thread.name for thread in threading.enumerate()]
    assert names.count("call registry away0") == EACH
    assert site.world.controller.registries["away0"].error.endswith("are under way, and none of them ends")


async def test_a_reload_that_drops_one_and_the_end_do_not_wait(site: Site) -> None:
    """It is given a moment to close and then left."""
    await site.until_it_answers("1")
    site.world.controller.drop_registry("away0")
    await asyncio.wait_for(site.world.controller.turned(), 5)
    site.loop.cancel()
    _, pending = await asyncio.wait({site.loop}, timeout=10)

    assert not pending
