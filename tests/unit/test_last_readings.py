"""What registries said last is kept on disk, and serves a gateway that starts while one is away."""

from __future__ import annotations

import asyncio
import errno
import gzip
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import NoReturn

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway import last_readings as module
from gateway.config.registries import RegistryConfig
from gateway.last_readings import LastReadings, decode, encode, origin_of
from router.errors import RegistryUnavailable
from router.model import (
    Contract,
    ModelName,
    RegisteredModel,
    RegistryProblem,
    RegistryView,
    TensorSpec,
    Version,
    VersionId,
)
from router.registries.compact import compact
from tests.unit.control.conftest import World

SECTION = RegistryConfig("folder", {"path": Path("/models"), "token": lambda: "secret"})

texts = st.text(st.characters(codec="utf-8"), max_size=8)
names = st.dictionaries(texts, texts, max_size=3)
tensors = st.lists(
    st.builds(TensorSpec, texts, texts, st.lists(st.integers(-1, 2**40), max_size=3).map(tuple)), max_size=2
).map(tuple)
versions = st.builds(
    Version,
    registry=st.just("local"),
    model=texts.map(ModelName),
    version=texts.map(VersionId),
    format=texts,
    artifact=texts,
    digest=texts,
    contract=st.none() | st.builds(Contract, tensors, tensors),
    metrics=st.dictionaries(texts, st.floats(allow_nan=False), max_size=3).map(compact),
    tags=names.map(compact),
    lineage=names,
    created=st.none() | st.floats(0, 1e10),
    unusable=texts,
)
pointers = st.dictionaries(texts, texts.map(VersionId), max_size=3)
models = st.builds(
    RegisteredModel,
    registry=st.just("local"),
    name=texts.map(ModelName),
    versions=st.dictionaries(texts.map(VersionId), versions, max_size=3),
    stages=pointers,
    aliases=pointers,
    description=texts,
    tags=names,
)
views = st.builds(
    RegistryView,
    registry=st.just("local"),
    models=st.dictionaries(texts.map(ModelName), models, max_size=3),
    problems=st.lists(st.builds(RegistryProblem, texts, texts), max_size=2).map(tuple),
)


@given(views)
def test_a_reading_comes_back_as_it_was(view: RegistryView) -> None:
    """With the order of its versions, which is the registry's."""
    back = decode(encode(view, "here"), "here")

    assert back == view
    assert back is not None
    assert [list(model.versions) for model in back.models.values()] == [
        list(model.versions) for model in view.models.values()
    ]


def test_no_piece_of_a_document_is_long() -> None:
    """While one is made nobody else gets to work in Python, whatever the number of models."""
    models = {ModelName(f"m{number}"): _model(f"m{number}") for number in range(300)}

    pieces = list(module._pieces(RegistryView("local", models), "here"))

    assert json.loads("".join(pieces))["view"]["registry"] == "local"
    assert max(map(len, pieces)) < 1_000 < len("".join(pieces)) / 20


def _model(name: str) -> RegisteredModel:
    version = Version("local", ModelName(name), VersionId("1"), "onnx", f"/models/{name}/model.onnx")
    return RegisteredModel("local", ModelName(name), {VersionId("1"): version})


def test_one_of_another_registry_or_format_is_not_used() -> None:
    """A section that says something else is about another registry."""
    view = RegistryView("local", {})
    other = gzip.compress(json.dumps({"format": 99, "origin": "here", "view": {}}).encode())

    assert decode(encode(view, "there"), "here") is None
    assert decode(other, "here") is None
    assert origin_of(SECTION) == origin_of(RegistryConfig("folder", {"path": Path("/models")}))
    assert origin_of(SECTION) != origin_of(RegistryConfig("folder", {"path": Path("/other")}))


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"no archive",
        encode(RegistryView("local", {}), "here")[:-9],
        gzip.compress(b"[]"),
        gzip.compress(b"\xff"),
        gzip.compress(b"[" * 100_000),
        gzip.compress(b'{"format": 1, "origin": "here", "view": {"models": 3}}'),
    ],
)
def test_a_damaged_one_is_a_value_error(content: bytes) -> None:
    """Whatever is wrong with it."""
    with pytest.raises(ValueError):  # noqa: PT011 - any
        decode(content, "here")


class Site:
    """A control loop over one registry, and a folder of what it said last."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.tasks: list[asyncio.Task[None]] = []
        self.world = World()
        self.start()

    def start(self, section: RegistryConfig = SECTION) -> None:
        """A new process over the same folder; the registry is not followed yet."""
        time = self.world.clock.time
        self.world = World()
        self.world.clock.time = time
        self.tasks.append(asyncio.create_task(self.world.controller.run()))
        sections = {"local": section}
        self.last = LastReadings(self.folder, self.world.controller, self.world.clock, sections)

    async def followed(self) -> None:
        """The registry is followed and was looked at."""
        self.world.controller.add_registry(self.world.shelf)
        await self.world.settle()

    async def kept(self) -> None:
        """A process has read a model with two versions, kept that and is gone; another one starts."""
        self.world.shelf.set("m", "12", {"production": "1"})
        await self.followed()
        await self.last.save()
        self.start()

    @property
    def served(self) -> set[str]:
        """Models in the table."""
        return set(self.world.plane.models)


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    """The folder is made where it is needed."""
    site = Site(tmp_path / "stagegate.db.registries")
    yield site
    for task in site.tasks:
        task.cancel()
    await asyncio.gather(*site.tasks, return_exceptions=True)


async def test_a_start_while_the_registry_is_away_serves_what_it_said_last(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    """Its age is that of the reading, and people are told; the first answer is what counts then."""
    await site.kept()
    site.world.clock.time += 50.0
    site.world.shelf.fault = RegistryUnavailable("it is away")
    await site.followed()
    without = site.served
    site.last.recall()
    await site.world.settle()
    state = site.world.controller.registries["local"]
    recalled, age = site.served, state.age(site.world.clock.now())
    warned = state.warning(site.world.clock.now())
    site.world.shelf.fault = None
    site.world.shelf.set("n", "1")
    await site.world.settle()

    assert (without, recalled, age) == (set(), {"m"}, 50.0)
    assert "registry local cannot be read; what it said 50 s ago goes on" in caplog.messages
    assert warned == "was last read 50 s ago; what it said then goes on"
    assert site.served == {"n"}
    assert state.warning(site.world.clock.now()) == ""


async def test_a_start_waits_a_moment_only_for_one_that_does_not_answer(site: Site) -> None:
    """Where it is known what it said last."""
    await site.kept()
    await site.followed()
    state = site.world.controller.registries["local"]
    at_once = site.last.can_go_on(state)
    site.world.clock.time += module.PATIENCE
    later = site.last.can_go_on(state)
    site.start(RegistryConfig("folder", {"path": Path("/other")}))
    site.world.clock.time += module.PATIENCE
    await site.followed()
    site.world.clock.time += module.PATIENCE

    assert (at_once, later) == (False, True)
    assert not site.last.can_go_on(site.world.controller.registries["local"])


async def test_one_that_was_read_is_not_overruled(site: Site) -> None:
    """Also where it says that there is nothing."""
    await site.kept()
    await site.followed()
    site.last.recall()
    await site.world.settle()

    assert site.served == set()


async def test_what_was_recalled_is_not_kept_as_if_it_were_read(site: Site) -> None:
    """Its age goes on from one start to the next."""
    await site.kept()
    for _ in range(2):
        site.world.clock.time += 50.0
        site.world.shelf.fault = RegistryUnavailable("it is away")
        await site.followed()
        site.last.recall()
        await site.last.save()
        site.start()
    site.world.shelf.fault = RegistryUnavailable("it is away")
    await site.followed()
    site.last.recall()

    assert site.world.controller.registries["local"].age(site.world.clock.now()) == 100.0


async def test_a_clock_that_was_set_back_gives_no_age_below_zero(site: Site) -> None:
    """A reading of the future was just read."""
    await site.kept()
    site.world.clock.time -= 500.0
    site.world.shelf.fault = RegistryUnavailable("it is away")
    await site.followed()
    site.last.recall()

    assert site.world.controller.registries["local"].age(site.world.clock.now()) == 0.0


async def test_a_damaged_file_is_told_and_left(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    """The gateway starts without it."""
    await site.kept()
    (file,) = site.folder.iterdir()
    file.write_bytes(file.read_bytes()[:-20])
    site.world.shelf.fault = RegistryUnavailable("it is away")
    await site.followed()
    site.last.recall()

    assert site.world.controller.registries["local"].view is None
    assert f"registry local: what was kept of it in {file} cannot be read" in caplog.text


async def test_a_file_is_written_where_something_is_new_only(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By rename, for its owner only; its time is that of the reading."""
    written: list[RegistryView] = []

    def encoded(view: RegistryView, origin: str) -> bytes:
        written.append(view)
        return encode(view, origin)

    monkeypatch.setattr(module, "encode", encoded)
    site.world.shelf.set("m", "12")
    await site.followed()
    await site.last.save()
    site.world.clock.time += 30.0
    site.world.shelf.hint()
    await site.world.settle()
    await site.last.save()
    (file,) = site.folder.iterdir()

    assert len(written) == 1
    assert (file.name, file.stat().st_mode & 0o777, file.stat().st_mtime) == ("local.json.gz", 0o600, 1_030.0)


async def test_of_two_processes_over_one_folder_only_the_new_one_keeps(site: Site) -> None:
    """The old one drains for a while, by a configuration that may be another, and saves in the end."""
    site.world.shelf.set("m", "12")
    await site.followed()
    old, world = site.last, site.world
    await old.save()
    await old.lend()
    site.start(RegistryConfig("folder", {"path": Path("/other")}))
    site.world.shelf.set("n", "1")
    await site.followed()
    await site.last.save()
    (file,) = site.folder.iterdir()
    new = file.read_bytes()
    world.shelf.set("m", "123")
    await world.settle()
    await old.save()
    meanwhile = file.read_bytes()
    old.take_back()
    await old.save()

    assert meanwhile == new
    assert decode(file.read_bytes(), origin_of(SECTION)) == world.controller.registries["local"].view


async def test_what_another_process_kept_is_replaced_also_where_nothing_is_new(site: Site) -> None:
    """It ended before it served, and was told of another registry under that name."""
    site.world.shelf.set("m", "12")
    await site.followed()
    await site.last.save()
    (file,) = site.folder.iterdir()
    await site.last.lend()
    file.write_bytes(encode(RegistryView("local", {}), "there"))
    site.last.take_back()
    await site.last.save()

    assert decode(file.read_bytes(), origin_of(SECTION)) == site.world.controller.registries["local"].view


async def test_what_takes_long_is_kept_less_often(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """A large registry of which something always changes does not keep a core busy."""
    pauses: list[float] = []

    async def save() -> None:
        site.world.clock.time += 3.0 * len(pauses)

    async def sleep(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 2:
            raise asyncio.CancelledError

    monkeypatch.setattr(site.last, "save", save)
    monkeypatch.setattr(asyncio, "sleep", sleep)
    with pytest.raises(asyncio.CancelledError):
        await site.last.run()

    assert pauses == [module.SAVE_SECONDS, module.REST * 3.0]


async def test_a_disk_that_takes_nothing_is_told_once(
    site: Site, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Nothing else comes of it, and nothing is left behind."""

    def full(_file: int) -> NoReturn:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    site.world.shelf.set("m", "12")
    await site.followed()
    await site.last.save()
    await site.last.save()

    assert caplog.text.count("what it says cannot be kept") == 1
    assert list(site.folder.iterdir()) == []


async def test_nothing_is_kept_of_what_is_not_configured_any_more(site: Site) -> None:
    """Nor without a folder."""
    await site.kept()
    site.last.configure({})
    without = LastReadings(None, site.world.controller, site.world.clock, {"local": SECTION})
    await site.followed()
    await without.save()
    without.recall()

    assert list(site.folder.iterdir()) == []


async def test_a_registry_whose_section_changed_is_kept_as_what_it_is_now(site: Site) -> None:
    """It says the same as before; the next start, by the new section, finds it all the same."""
    changed = RegistryConfig("folder", {"path": Path("/other")})
    site.world.shelf.set("m", "12")
    await site.followed()
    await site.last.save()
    site.last.configure({"local": changed})
    await site.last.save()
    site.start(changed)
    site.world.shelf.fault = RegistryUnavailable("it is away")
    await site.followed()
    site.last.recall()
    await site.world.settle()

    assert site.served == {"m"}


async def test_a_file_that_cannot_be_removed_ends_no_reload(
    site: Site, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It is told; the rest of the configuration is taken."""
    await site.kept()

    def refuse(path: Path, missing_ok: bool = False) -> NoReturn:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "unlink", refuse)
    site.last.configure({})

    assert "cannot be removed" in caplog.text
