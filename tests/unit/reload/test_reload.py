"""A changed configuration file: taken whole, or refused whole."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from gateway.assembly import make_backend_states as make_backends
from gateway.config import load_config
from gateway.reload import Reloader, check_names
from gateway.settings import controller_settings
from router.control.controller import Controller
from router.errors import ArtifactError, ConfigInvalid, InvalidInput
from router.model import ModelName
from tests.unit.control.conftest import World

BEFORE = """\
registries: {local: {type: folder, path: ./models}}
backends: [{name: t0, grpc: "127.0.0.1:1", control: none}]
"""


class Site:
    """A configuration file, and a control loop that was started with it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.file = folder / "stagegate.yaml"
        (folder / "models").mkdir()
        self.file.write_text(BEFORE)
        self.world = World()
        config = load_config(self.file, {})
        self.reloader = Reloader(
            config, self.controller, settings=controller_settings, make_backends=make_backends
        )
        for state in make_backends([backend.to_backend() for backend in config.backends]):
            self.controller.add_backend(state)
        self.world.shelf.set("m", "1")
        self.controller.add_registry(self.world.shelf)

    @property
    def controller(self) -> Controller:
        """The control loop."""
        return self.world.controller

    def holds(self) -> tuple[set[str], set[str], float]:
        """What a reload may change: backends, registries, idle time."""
        backends = {f"{one.name} {one.backend.grpc}" for one in self.controller.residents.backends.values()}
        return backends, set(self.controller.registries), self.controller.settings.idle_unload


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    """A running one."""
    site = Site(tmp_path)
    task = asyncio.create_task(site.controller.run())
    yield site
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_changes_take_effect_without_a_restart(site: Site) -> None:
    """A backend under another address, one more registry and another idle time are in force afterwards."""
    site.file.write_text(
        "registries: {local: {type: folder, path: ./models}, more: {type: folder, path: ./more}}\n"
        "default_registry: local\n"
        'backends: [{name: t0, grpc: "127.0.0.1:2", control: none}]\n'
        "residency: {idle_unload: 5s}\n"
    )
    report = await site.reloader.reload()

    assert site.holds() == ({"t0 127.0.0.1:2"}, {"local", "more"}, 5.0)
    assert set(report.changed) == {"registries", "backends", "residency.idle_unload"}
    assert report.needs_restart == ()
    assert {spec.address for spec in site.world.plane.backends.values()} == {"127.0.0.1:2"}


async def test_a_file_with_mistakes_changes_nothing(site: Site) -> None:
    """Also what is right in it is left aside."""
    before = site.holds()
    site.file.write_text(BEFORE + "residency: {idle_unload: 5s}\nlimits: {max_message: plenty}\n")
    with pytest.raises(ConfigInvalid):
        await site.reloader.reload()

    assert site.holds() == before


@pytest.mark.parametrize("text", ["", "\n", "# to be written\n"])
async def test_a_file_that_was_emptied_changes_nothing(site: Site, text: str) -> None:
    """Whoever writes it may have begun only; all defaults, and no backend, is not what is meant."""
    before = site.holds()
    site.file.write_text(text)
    with pytest.raises(InvalidInput, match="is empty"):
        await site.reloader.reload()

    assert site.holds() == before


async def test_what_cannot_be_used_changes_nothing(site: Site) -> None:
    """A repository folder that cannot be made is found before anything else is changed."""
    before = site.holds()
    (site.folder / "file").write_text("")
    site.file.write_text(
        "registries: {other: {type: folder, path: ./models}}\n"
        "backends:\n"
        '  - {name: t1, grpc: "127.0.0.1:2", control: explicit, repository: ./file/models}\n'
        "residency: {idle_unload: 5s}\n"
    )
    with pytest.raises(ArtifactError, match="file/models cannot be used"):
        await site.reloader.reload()

    assert site.holds() == before


async def test_what_waits_for_a_restart_is_told_until_then(site: Site) -> None:
    """Ports and the like are fixed for the life of a process; each reload says that they wait."""
    site.file.write_text(BEFORE + "threads: 7\nlimits: {upstream_connections: 2, shadow_queue: 3}\n")
    first = await site.reloader.reload()
    second = await site.reloader.reload()

    waits = ("threads", "limits.upstream_connections", "limits.shadow_queue")
    assert (first.changed, first.needs_restart) == ((), waits)
    assert second == first


async def test_limits_are_taken_at_once(tmp_path: Path) -> None:
    """The data plane is told of the whole file; the answer names the keys."""
    site = Site(tmp_path)
    told: list[int] = []
    reloader = Reloader(
        load_config(site.file, {}),
        site.controller,
        settings=controller_settings,
        make_backends=make_backends,
        set_limits=lambda config: told.append(config.limits.max_message),
    )
    task = asyncio.create_task(site.controller.run())
    site.file.write_text(BEFORE + "limits: {max_message: 1MiB}\n")
    report = await reloader.reload()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)

    assert told == [1 << 20]
    assert (report.changed, report.needs_restart) == (("limits.max_message",), ())


async def test_a_registry_that_goes_takes_its_models(site: Site) -> None:
    """Requests for them are NOT_FOUND afterwards."""
    await site.controller.until(lambda: ModelName("m") in site.controller.models)
    site.file.write_text('backends: [{name: t0, grpc: "127.0.0.1:1", control: none}]\n')
    await site.reloader.reload()

    assert site.world.plane.models == {}


async def test_sighup_tells_the_outcome_in_the_log(
    site: Site, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What changed, what waits for a restart, and every mistake with its place."""
    monkeypatch.setattr(logging.getLogger("stagegate"), "propagate", True)
    site.file.write_text(BEFORE + "threads: 7\n")
    site.reloader.on_signal()
    await site.reloader.idle()
    site.file.write_text(BEFORE + "limits: {max_message: plenty}\n")
    site.reloader.on_signal()
    await site.reloader.idle()

    assert "these changes wait for the next start: threads" in caplog.text
    assert f"reload refused: {site.file}:3: limits.max_message" in caplog.text


async def test_a_backend_cannot_have_the_name_of_a_triton_that_up_started(site: Site) -> None:
    """It would take its place without a word."""
    config = load_config(site.file, {})

    with pytest.raises(InvalidInput, match="'t0' is the name of a Triton that `stagegate up` started"):
        check_names(config.backends, {"t0"})
