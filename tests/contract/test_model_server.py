"""What every ModelServer does: run on a real Triton and on the fake."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import pytest_asyncio
from tritonclient.grpc import service_pb2

from router.backends.process import TritonOptions, TritonProcess
from router.backends.triton import TritonServer
from router.backends.wheel import find_triton
from router.errors import BackendUnavailable, LoadFailed, NotSupported
from router.model import Capacity, Contract, TensorSpec, TritonName
from router.ports import ModelServer
from tests.fakes.model_server import FakeModel, FakeModelServer
from tests.fakes.triton_models import write_model

pytestmark = pytest.mark.asyncio(loop_scope="module")

GOOD, BROKEN, SLOW, NOPE = (TritonName(name) for name in ("good", "broken", "slow", "nope"))
REASON = "no weights in this file"


@dataclass
class World:
    """A server with the models good, broken and slow in its folder, and a way to take it away."""

    server: ModelServer
    take_away: Callable[[], Awaitable[None]]

    async def ready_names(self) -> set[TritonName]:
        """What its index calls ready."""
        return {entry.name for entry in await self.server.index() if entry.ready}


def fake() -> World:
    """The fake with the same three models."""
    server = FakeModelServer(
        {GOOD: FakeModel(), BROKEN: FakeModel(broken=REASON), SLOW: FakeModel(endless=True)}
    )

    async def take_away() -> None:
        server.away = True

    return World(server, take_away)


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=["triton", "fake"])
async def world(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[World]:
    """One server for the module; the tests leave `good` unloaded."""
    if request.param == "fake":
        yield fake()
        return
    try:
        install = find_triton()
    except NotSupported as reason:
        pytest.skip(str(reason))
    folder: Path = tmp_path_factory.mktemp("triton")
    write_model(folder / "models", GOOD)
    write_model(folder / "models", BROKEN, f"raise RuntimeError({REASON!r})")
    write_model(folder / "models", SLOW, "import time; time.sleep(3)")
    async with TritonProcess(install, TritonOptions("t0", folder / "models", folder / "work")) as process:
        server = TritonServer(process.backend())
        yield World(server, process.stop)
        await server.close()


async def test_ready(world: World) -> None:
    """A server without a loaded model is ready."""
    assert await world.server.ready()


async def test_info(world: World) -> None:
    """It says which server it is."""
    info = await world.server.info()

    assert info.name == "triton"
    assert "model_repository" in info.extensions


async def test_index_before_any_load(world: World) -> None:
    """Models in the folder are listed, and none is ready before it is loaded."""
    entries = await world.server.index()

    assert {GOOD, BROKEN, SLOW} <= {entry.name for entry in entries}
    assert not await world.ready_names()


async def test_load_and_unload(world: World) -> None:
    """A model is ready when `load` returns and gone when `unload` returns."""
    await world.server.load(GOOD, timeout=30)
    loaded = await world.ready_names()
    await world.server.unload(GOOD, timeout=30)

    assert loaded == {GOOD}
    assert not await world.ready_names()
    assert not any(entry.name == GOOD and entry.state == "UNLOADING" for entry in await world.server.index())


async def test_load_twice(world: World) -> None:
    """Loading what is loaded leaves it ready."""
    await world.server.load(GOOD, timeout=30)
    await world.server.load(GOOD, timeout=30)
    loaded = await world.ready_names()
    await world.server.unload(GOOD, timeout=30)

    assert loaded == {GOOD}


async def test_load_of_what_is_not_there(world: World) -> None:
    """A model without a folder is named in the error."""
    with pytest.raises(LoadFailed, match="nope"):
        await world.server.load(NOPE, timeout=30)


async def test_load_of_a_broken_model(world: World) -> None:
    """The error of a load has the model's own reason, the index keeps it, and the server stays ready."""
    with pytest.raises(LoadFailed, match=REASON):
        await world.server.load(BROKEN, timeout=30)

    (entry,) = [entry for entry in await world.server.index() if entry.name == BROKEN]
    assert REASON in entry.reason
    assert not entry.ready
    assert await world.server.ready()


async def test_load_that_takes_too_long(world: World) -> None:
    """A load over its time is an error that tells the limit, and others load meanwhile."""
    with pytest.raises(LoadFailed, match=r"0\.5 s"):
        await world.server.load(SLOW, timeout=0.5)

    await world.server.load(GOOD, timeout=30)
    loaded = await world.ready_names()
    await world.server.unload(GOOD, timeout=30)
    assert loaded == {GOOD}


async def test_unload_of_what_is_not_loaded(world: World) -> None:
    """Unloading twice, or what was never there, is no error."""
    await world.server.unload(GOOD, timeout=30)
    await world.server.unload(NOPE, timeout=30)

    assert not await world.ready_names()


async def test_metadata(world: World) -> None:
    """A loaded model is described in the inference protocol's own message."""
    await world.server.load(GOOD, timeout=30)
    data = await world.server.metadata(GOOD)
    await world.server.unload(GOOD, timeout=30)

    answer = service_pb2.ModelMetadataResponse.FromString(data)
    assert answer.name == GOOD
    assert [(tensor.name, tensor.datatype, list(tensor.shape)) for tensor in answer.inputs] == [
        ("x", "FP32", [-1])
    ]
    assert [tensor.name for tensor in answer.outputs] == ["y"]


@pytest.mark.parametrize("name", [GOOD, NOPE])
async def test_metadata_of_what_is_not_loaded(world: World, name: TritonName) -> None:
    """A model that is not loaded is named in the error."""
    with pytest.raises(LoadFailed, match=name):
        await world.server.metadata(name)


async def test_contract(world: World) -> None:
    """A loaded model says what it takes and gives; one that is not loaded says nothing."""
    await world.server.load(GOOD, timeout=30)
    loaded = await world.server.contract(GOOD, "1")
    await world.server.unload(GOOD, timeout=30)

    assert loaded == Contract((TensorSpec("x", "FP32", (-1,)),), (TensorSpec("y", "FP32", (-1,)),))
    assert await world.server.contract(GOOD) is None
    assert await world.server.contract(NOPE) is None


async def test_capacity(world: World) -> None:
    """One instance works on one request at a time; of a model that is not loaded nothing is known."""
    await world.server.load(GOOD, timeout=30)
    loaded = await world.server.capacity(GOOD, "1")
    await world.server.unload(GOOD, timeout=30)

    assert loaded == Capacity(at_once=1)
    assert await world.server.capacity(NOPE) == Capacity()


async def test_last_use(world: World) -> None:
    """Of a model that nobody asked anything, or that is not loaded, there is none."""
    await world.server.load(GOOD, timeout=30)
    loaded = await world.server.last_used(GOOD, "1")
    await world.server.unload(GOOD, timeout=30)

    assert loaded is None
    assert await world.server.last_used(NOPE) is None


async def test_server_away(world: World) -> None:
    """A server that is gone is not ready, every call names it, and closing twice is fine. Last test here."""
    await world.take_away()

    assert not await world.server.ready()
    for call in (
        world.server.info(),
        world.server.index(),
        world.server.capacity(GOOD),
        world.server.last_used(GOOD),
        world.server.contract(GOOD),
        world.server.load(GOOD, timeout=5),
        world.server.unload(GOOD, timeout=5),
        world.server.metadata(GOOD),
    ):
        with pytest.raises(BackendUnavailable, match=world.server.backend.name):
            await call
    await world.server.close()
    await world.server.close()
