"""What watching asks of real servers, by polls and by their own notices; and that no change is no work."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from router.model import ModelName, VersionId
from router.ports import ANYTHING, ColdWanted, Registry, WebhookArrived
from router.registries import FolderRegistry, s3
from router.registries import mlflow as mlflow_type
from tests.servers.between import Answer, between
from tests.servers.faults import Proxy
from tests.servers.mlflow import Server
from tests.servers.s3 import Server as S3Server
from tests.unit.control.conftest import World

SECRET = "of-this-test"  # noqa: S105 - of a server that lives for one run
NAMES = [ModelName(f"watched-{letter}") for letter in "abc"]
MOVED = NAMES[1]
VERSION = "format: python\nartifact: s3://models/m\n"


@dataclass
class Source:
    """A registry of three models of three versions, whose alias `champion` is 1.

    Attributes:
        move: lets the alias of `MOVED` name another version.
        asked: what was asked since the last call of it.
        poll, found: what a poll asks that finds nothing, and one that finds the move.
    """

    registry: Registry
    move: Callable[[str], object]
    asked: Callable[[], list[str]]
    poll: list[str]
    found: list[str]


@contextlib.contextmanager
def on_mlflow(request: pytest.FixtureRequest, folder: Path) -> Iterator[Source]:
    """All of it in two calls, however many models there are."""
    server: Server = request.getfixturevalue("mlflow_server")
    names = [ModelName(f"{name}-{secrets.token_hex(3)}") for name in NAMES]
    for name in names:
        server.model(name)
        run = server.run()
        for _ in "123":
            server.version(name, run=run)
        server.alias(name, "champion", "1")
    with between(server.uri) as wire:
        logical = dict(zip(map(str, NAMES), names, strict=True))
        options = {"uri": wire.uri, "models": ("watched-*",), "names": logical}
        registry = mlflow_type.TYPE.open("local", {**options, "webhook_secret": lambda: SECRET})

        def asked() -> list[str]:
            paths = [path.rpartition("mlflow/")[2] for path in wire.paths()]
            wire.asked.clear()
            return paths

        searches = ["registered-models/search", "model-versions/search"]
        yield Source(
            registry,
            lambda version: server.alias(logical[MOVED], "champion", version),
            asked,
            poll=searches,
            found=searches,
        )
        for name in names:
            server.delete("registered-models/delete", name=name)


@contextlib.contextmanager
def on_s3(request: pytest.FixtureRequest, folder: Path) -> Iterator[Source]:
    """One listing for each 1,000 objects, and what changed."""
    server: S3Server = request.getfixturevalue("s3_server")
    wire: Proxy = request.getfixturevalue("s3_proxy")
    bucket, prefix = server.bucket("watching"), secrets.token_hex(4)
    with contextlib.closing(server.client()) as client:

        def put(path: str, text: str) -> None:
            client.put_object(Bucket=bucket, Key=f"{prefix}/{path}", Body=text.encode())

        fill(put)

        def asked() -> list[str]:
            seen = ["list" if "list-type" in path else path.rpartition("/")[2] for _, path in wire.seen]
            wire.seen.clear()
            return seen

        options: dict[str, Any] = {"uri": f"s3://{bucket}/{prefix}", "endpoint": wire.url}
        keys = {"access_key": lambda: server.access_key, "secret_key": lambda: server.secret_key}
        yield Source(
            s3.TYPE.open("local", {**options, **keys}),
            lambda version: put(f"{MOVED}/model.yaml", f'aliases: {{champion: "{version}"}}\n'),
            asked,
            poll=["list"],
            found=["list", "model.yaml"],
        )


@contextlib.contextmanager
def on_folder(request: pytest.FixtureRequest, folder: Path) -> Iterator[Source]:
    """Nobody is asked."""

    def put(path: str, text: str) -> None:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text)

    fill(put)
    yield Source(
        FolderRegistry("local", folder, poll=3600),
        lambda version: put(f"{MOVED}/model.yaml", f'aliases: {{champion: "{version}"}}\n'),
        asked=list,
        poll=[],
        found=[],
    )


def fill(put: Callable[[str, str], None]) -> None:
    """Manifests as the folder and the bucket have them."""
    for name in NAMES:
        put(f"{name}/model.yaml", 'aliases: {champion: "1"}\n')
        for version in "123":
            put(f"{name}/{version}/version.yaml", VERSION)


@pytest.fixture(params=[on_mlflow, on_s3, on_folder], ids=["mlflow", "s3", "folder"])
def source(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Source]:
    """A registry on its real server."""
    with request.param(request, tmp_path) as made:
        yield made


@pytest.fixture
async def world(source: Source) -> AsyncIterator[World]:
    """A control loop that has read it, with versions 1 and 2 of `MOVED` resident."""
    world = World()
    world.clock.time = time.time()
    running = asyncio.create_task(world.controller.run())
    world.add_triton()
    world.controller.add_registry(source.registry, poll=3600)
    await until(world, lambda: world.controller.models.keys() == set(NAMES))
    for version in "12":
        world.plane.happen(ColdWanted(MOVED, version))
    await until(world, lambda: states(world) == ["ready", "ready", "cold"])
    source.asked()
    yield world
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


async def until(world: World, holds: Callable[[], bool]) -> None:
    """Look after each turn of the loop."""
    async with asyncio.timeout(30):
        await world.controller.until(holds)


def states(world: World) -> list[str]:
    """Of the versions of `MOVED`, as the data plane has them."""
    spec = world.plane.models.get(MOVED)
    return [version.state for version in spec.versions] if spec else []


def champion(world: World) -> str:
    """The version that clients meet by the alias."""
    return next(one.version for one in world.controller.models[MOVED].serving.pointers)


async def poll(world: World) -> None:
    """What the loop does at each poll."""
    await world.controller.read("local", ANYTHING)
    await world.controller.turned()


async def test_a_poll_without_changes_is_no_work(
    world: World, source: Source, caplog: pytest.LogCaptureFixture
) -> None:
    """One or two calls; nothing is made anew, published, written or said."""
    caplog.set_level(logging.DEBUG, "stagegate")
    caplog.clear()
    state = world.controller.registries["local"]
    view, entries = state.view, dict(world.controller.models)
    tables, revision = len(world.plane.history), await world.routes.revision()
    for _ in range(3):
        await poll(world)

    assert source.asked() == 3 * source.poll
    assert len(source.poll) <= 2
    assert state.view is view
    assert all(world.controller.models[name] is entry for name, entry in entries.items())
    assert (len(world.plane.history), await world.routes.revision()) == (tables, revision)
    assert caplog.messages == []


async def test_a_move_that_a_poll_finds_is_one_model_in_one_delta(world: World, source: Source) -> None:
    """To a version that is resident: nothing is loaded, nothing else is looked at."""
    before, tables = world.plane.models, len(world.plane.history)
    source.move("2")
    await poll(world)

    assert champion(world) == "2"
    assert source.asked() == source.found
    assert [name for name in before if before[name] is not world.plane.models[name]] == [MOVED]
    assert len(world.plane.history) == tables + 1


@pytest.mark.parametrize("source", [on_mlflow], ids=["mlflow"], indirect=True)
async def test_a_notice_asks_for_the_one_alias_that_it_names(
    world: World, source: Source, mlflow_server: Server
) -> None:
    """Posted and signed by MLflow: one call, one model in one delta."""
    before, tables = world.plane.models, len(world.plane.history)
    with between() as door:
        came = threading.Event()
        door.script = lambda _: came.set() or Answer(200, b"{}")  # type: ignore[func-returns-value]
        events = [{"entity": "MODEL_VERSION_ALIAS", "action": "CREATED"}]
        made = mlflow_server.post("webhooks", name="watch", url=door.uri, events=events, secret=SECRET)
        await asyncio.to_thread(source.move, "2")
        assert await asyncio.to_thread(came.wait, 30)
        mlflow_server.delete(f"webhooks/{made['webhook']['webhook_id']}")
        (notice,) = door.asked
    world.clock.time = time.time()
    world.plane.happen(WebhookArrived(7, "local", notice.headers, notice.body))
    await until(world, lambda: champion(world) == VersionId("2"))

    assert source.asked() == ["registered-models/alias"]
    assert world.plane.answers == {7: (200, "")}
    assert [name for name in before if before[name] is not world.plane.models[name]] == [MOVED]
    assert len(world.plane.history) == tables + 1
