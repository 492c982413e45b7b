"""What every registry promises, run on each adapter and on the fake."""

from __future__ import annotations

import asyncio
import contextlib
import json
import secrets
import shutil
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import Protocol

import pytest

from router.errors import InvalidInput, NotSupported, RegistryRefused, RegistryUnavailable
from router.model import ModelName, PointerKind, RegistryProblem, VersionId
from router.ports import AliasChange, Capability, Hint, PointerChange, Registry, StageTransition
from router.registries import dvc, hub, s3
from router.registries import sagemaker as sagemaker_registry
from router.registries.folder import FolderRegistry
from router.registries.mlflow import TYPE as MLFLOW
from router.registries.types import registry_type
from tests.fakes.models import a_model
from tests.fakes.registry import FakeRegistry
from tests.servers import mlflow
from tests.servers.between import Answer, Asked, Between
from tests.servers.dvc import Repository
from tests.servers.faults import Fault, Proxy, proxy
from tests.servers.hub import Hub, Repo
from tests.servers.s3 import Server as S3Server
from tests.servers.sagemaker import SageMaker

DIGITS = ModelName("digits")


class World(Protocol):
    """A registry, and the hand that changes what is behind it."""

    @property
    def registry(self) -> Registry:
        """What is tested."""

    def id(self, version: str) -> str:
        """What the registry calls the version that the tests call so."""

    async def register(self, versions: tuple[str, ...], stages: Mapping[str, str]) -> None:
        """Make the model `digits` have these versions and stages."""

    async def spoil(self) -> None:
        """Make the model unreadable while its former reading is known."""

    async def remove(self) -> None:
        """Delete the model."""

    async def take_away(self) -> None:
        """Make the whole registry unreadable."""

    async def bring_back(self) -> None:
        """End that."""


class FolderWorld:
    """Files in a folder."""

    def __init__(self, root: Path) -> None:
        self._root = root / "models"
        self._root.mkdir()
        self.registry = FolderRegistry("local", self._root, poll=0.01, settle=0.01)

    def id(self, version: str) -> str:
        return version

    async def register(self, versions: tuple[str, ...], stages: Mapping[str, str]) -> None:
        for version in versions:
            folder = self._root / DIGITS / version
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "version.yaml").write_text("format: onnx\nartifact: model.onnx\n")
        lines = "".join(f'  {name}: "{to}"\n' for name, to in stages.items())
        (self._root / DIGITS / "model.yaml").write_text(f"stages:\n{lines}" if lines else "{}\n")

    async def spoil(self) -> None:
        (self._root / DIGITS / "model.yaml").write_text("stages: {produ")

    async def remove(self) -> None:
        shutil.rmtree(self._root / DIGITS)

    async def take_away(self) -> None:
        self._root.rename(self._root.with_name("away"))

    async def bring_back(self) -> None:
        self._root.with_name("away").rename(self._root)


class FakeWorld:
    """The fake, by its own methods."""

    def __init__(self) -> None:
        self.registry = FakeRegistry()

    def id(self, version: str) -> str:
        return version

    async def register(self, versions: tuple[str, ...], stages: Mapping[str, str]) -> None:
        await self.registry.put(a_model(versions, stages=stages))

    async def spoil(self) -> None:
        await self.registry.put(self.registry.models[DIGITS], RegistryProblem("digits", "cut"))

    async def remove(self) -> None:
        await self.registry.drop(DIGITS)

    async def take_away(self) -> None:
        await self.registry.fail("away")

    async def bring_back(self) -> None:
        await self.registry.fail("")


class DvcWorld:
    """Tags of a git repository that the real DVC made."""

    def __init__(self, repository: Repository) -> None:
        self._repository = repository
        self._moves = 0
        options = {
            "path": repository.path,
            "remotes": (str(repository.remote),),
            "poll": 0.02,
            "push": True,
        }
        self.registry = dvc.TYPE.open("local", options)

    def id(self, version: str) -> str:
        return f"v{version}.0.0"

    async def register(self, versions: tuple[str, ...], stages: Mapping[str, str]) -> None:
        known = self._repository.tags()
        for version in versions:
            if f"digits@{self.id(version)}" not in known:
                self._repository.tag(f"digits@{self.id(version)}", version)
        for stage, version in stages.items():
            self._stage(stage, version)

    def _stage(self, stage: str, at: str) -> None:
        self._moves += 1
        self._repository.tag(f"digits#{stage}#{self._moves}", at)

    async def spoil(self) -> None:
        self._stage("production", self._repository.write({"dvc.yaml": "artifacts: {dig"}))

    async def remove(self) -> None:
        self._repository.untag("digits*")

    async def take_away(self) -> None:
        self._repository.path.rename(self._repository.path.with_name("away"))

    async def bring_back(self) -> None:
        self._repository.path.with_name("away").rename(self._repository.path)


class MlflowWorld:
    """A real MLflow server, with somebody in between who can be told to spoil answers."""

    def __init__(self, server: mlflow.Server) -> None:
        self._server = server
        self._between = Between(server.uri)
        self.registry = MLFLOW.open("local", {"uri": self._between.uri, "poll": 0.05, "models": (DIGITS,)})
        with contextlib.suppress(mlflow.Refused):
            server.delete("registered-models/delete", name=DIGITS)
        server.model(DIGITS)

    def id(self, version: str) -> str:
        return version

    async def register(self, versions: tuple[str, ...], stages: Mapping[str, str]) -> None:
        await asyncio.to_thread(self._register, versions, stages)

    def _register(self, versions: tuple[str, ...], stages: Mapping[str, str]) -> None:
        query = {"filter": f"name='{DIGITS}'"}
        there = self._server.get("model-versions/search", **query).get("model_versions", [])
        for number in range(len(there) + 1, max(map(int, versions)) + 1):
            self._server.version(DIGITS, source=f"s3://models/digits/{number}")
        for version in there:
            if stages.get(version["current_stage"].lower()) != version["version"]:
                self._server.stage(DIGITS, version["version"], "None")
        for stage, named in stages.items():
            self._server.stage(DIGITS, named, stage.capitalize())

    async def spoil(self) -> None:
        def wrong(asked: Asked) -> Answer | None:
            if "model-versions/search" not in asked.path:
                return None
            return Answer(body=json.dumps({"model_versions": [{"name": DIGITS, "version": "?"}]}).encode())

        self._between.script = wrong

    async def remove(self) -> None:
        await asyncio.to_thread(self._server.delete, "registered-models/delete", name=DIGITS)

    async def take_away(self) -> None:
        self._between.script = lambda _: Answer(503, b"no")

    async def bring_back(self) -> None:
        self._between.script = lambda _: None

    def close(self) -> None:
        """Stop the one in between."""
        self._between.close()


class HubWorld:
    """A repository on a server that speaks the Hub's API; a stage is a tag that moves."""

    def __init__(self, server: Hub) -> None:
        self._hub = server
        self._commits: dict[str, str] = {}
        self._hub.repos["org/digits"] = Repo()
        options = {
            "endpoint": server.endpoint,
            "models": ("org/digits",),
            "stages": {"production": "production", "staging": "staging"},
            "poll": 0.02,
            "push": True,
        }
        self.registry = hub.TYPE.open("local", options)

    def id(self, version: str) -> str:
        return self._commits[version]

    async def register(self, versions: tuple[str, ...], stages: Mapping[str, str]) -> None:
        repo = self._hub.repos.setdefault("org/digits", Repo())
        for version in sorted(versions, key=int):
            if version not in self._commits:
                self._commits[version] = repo.commit({"model.onnx": version.encode()})
                repo.tags[f"v{version}"] = self._commits[version]
        for stage, version in stages.items():
            repo.tags[stage] = self._commits[version]

    async def spoil(self) -> None:
        repo = self._hub.repos["org/digits"]
        repo.tags["production"] = repo.commit({"../model.onnx": b"3"})

    async def remove(self) -> None:
        del self._hub.repos["org/digits"]

    async def take_away(self) -> None:
        self._hub.status = 503

    async def bring_back(self) -> None:
        self._hub.status = 0


class SageMakerWorld:
    """Model packages as moto keeps them, behind a proxy that can be away."""

    def __init__(self, sagemaker: SageMaker, stack: contextlib.ExitStack) -> None:
        self._packages = sagemaker
        self._proxy = stack.enter_context(proxy(sagemaker.url))
        options = {
            "endpoint": self._proxy.url,
            "region": "eu-central-1",
            "access_key": lambda: "tests",
            "secret_key": lambda: "tests",
            "poll": 0.02,
            "timeout": 60.0,
        }
        self.registry = sagemaker_registry.TYPE.open("local", options)
        self._known: list[str] = []

    def id(self, version: str) -> str:
        """SageMaker counts for itself: versions are numbered as they come."""
        if version not in self._known:
            self._known.append(version)
        return str(self._known.index(version) + 1)

    async def register(self, versions: tuple[str, ...], stages: Mapping[str, str]) -> None:
        for version in sorted(versions, key=int):
            if version not in self._known:
                self._packages.package("digits", "Rejected")
                self.id(version)
        status = {"production": "Approved", "staging": "PendingManualApproval"}
        wanted = {to: status[stage] for stage, to in stages.items()}
        for version in sorted(self._known, key=lambda one: wanted.get(one, "Rejected") == "Rejected"):
            self._packages.approve("digits", int(self.id(version)), wanted.get(version, "Rejected"))

    async def spoil(self) -> None:
        self._packages.package("digits", "Approved")
        self._proxy.fail(Fault.AWAY, "DescribeModelPackage")

    async def remove(self) -> None:
        self._packages.clear()

    async def take_away(self) -> None:
        self._proxy.fail(Fault.AWAY)

    async def bring_back(self) -> None:
        self._proxy.heal()


def _sagemaker(request: pytest.FixtureRequest, _: Path) -> World:
    stack = contextlib.ExitStack()
    request.addfinalizer(stack.close)
    return SageMakerWorld(request.getfixturevalue("sagemaker"), stack)


class ThirdPartyWorld:
    """The example of somebody else's adapter, found by its entry point."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / "models.json"
        self._models: dict[str, dict[str, dict[str, object]]] = {}
        self.registry = registry_type("json").open("local", {"path": self._file, "poll": 0.02})

    def id(self, version: str) -> str:
        return version

    def _write(self) -> None:
        beside = self._file.with_suffix(".new")
        beside.write_text(json.dumps(self._models))
        beside.rename(self._file)

    async def register(self, versions: tuple[str, ...], stages: Mapping[str, str]) -> None:
        known = self._models.setdefault("digits", {"versions": {}, "stages": {}})
        known["versions"] |= {one: {"format": "onnx", "artifact": f"/srv/{one}.onnx"} for one in versions}
        known["stages"] = dict(stages)
        self._write()

    async def spoil(self) -> None:
        self._models["digits"]["stages"] = {"production": "gone"}
        self._write()

    async def remove(self) -> None:
        del self._models["digits"]
        self._write()

    async def take_away(self) -> None:
        self._file.write_text('{"digits": {"vers')

    async def bring_back(self) -> None:
        self._write()


def _third_party(request: pytest.FixtureRequest, folder: Path) -> World:
    request.getfixturevalue("third_party_registry")
    return ThirdPartyWorld(folder)


class S3World:
    """Objects in a bucket of a real S3 server, behind a proxy that can be away."""

    def __init__(self, server: S3Server, proxy: Proxy) -> None:
        self._client = server.client()
        self._bucket = server.bucket("contract-tests")
        self._prefix = secrets.token_hex(4)
        self._proxy = proxy
        options = {
            "uri": f"s3://{self._bucket}/{self._prefix}",
            "endpoint": proxy.url,
            "access_key": lambda: server.access_key,
            "secret_key": lambda: server.secret_key,
            "poll": 0.02,
            "timeout": 60.0,
        }
        self.registry = s3.TYPE.open("local", options)

    def id(self, version: str) -> str:
        return version

    def _put(self, path: str, text: str) -> None:
        self._client.put_object(Bucket=self._bucket, Key=f"{self._prefix}/digits/{path}", Body=text.encode())

    async def register(self, versions: tuple[str, ...], stages: Mapping[str, str]) -> None:
        for version in versions:
            self._put(f"{version}/version.yaml", "format: onnx\nartifact: model.onnx\n")
        lines = "".join(f'  {name}: "{to}"\n' for name, to in stages.items())
        self._put("model.yaml", f"stages:\n{lines}" if lines else "{}\n")

    async def spoil(self) -> None:
        self._put("model.yaml", "stages: {produ")

    async def remove(self) -> None:
        listed = self._client.list_objects_v2(Bucket=self._bucket, Prefix=f"{self._prefix}/digits/")
        for found in listed["Contents"]:
            self._client.delete_object(Bucket=self._bucket, Key=found["Key"])

    async def take_away(self) -> None:
        self._proxy.fail(Fault.AWAY)

    async def bring_back(self) -> None:
        self._proxy.heal()


WORLDS: Mapping[str, Callable[[pytest.FixtureRequest, Path], World]] = {
    "folder": lambda _, folder: FolderWorld(folder),
    "fake": lambda _, __: FakeWorld(),
    "mlflow": lambda request, _: MlflowWorld(request.getfixturevalue("mlflow_server")),
    "huggingface": lambda request, _: HubWorld(request.getfixturevalue("hub")),
    "sagemaker": _sagemaker,
    "third party": _third_party,
    "s3": lambda request, _: S3World(
        request.getfixturevalue("s3_server"), request.getfixturevalue("s3_proxy")
    ),
    "dvc": lambda request, _: DvcWorld(request.getfixturevalue("dvc_repository")),
}
"""Every kind of registry, made from the fixtures that it needs and a folder of its own."""


@pytest.fixture(params=WORLDS)
async def world(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[World]:
    """Each kind, with one model of two versions."""
    made = WORLDS[request.param](request, tmp_path)
    await made.register(("1", "2"), {"production": "1"})
    yield made
    await made.registry.close()
    if isinstance(made, MlflowWorld):
        made.close()


@contextlib.asynccontextmanager
async def hints(registry: Registry) -> AsyncIterator[AsyncIterator[Hint]]:
    """The registry's changes, with a limit on how long a test waits for one."""
    changes = registry.changes()
    async with asyncio.timeout(10):
        yield changes


async def next_view(world: World, changes: AsyncIterator[Hint], what: str) -> object:
    """Read after each hint until the model says what is expected, as the control loop does."""
    async for _ in changes:
        model = (await world.registry.read()).models.get(DIGITS)
        seen = model.stages.get("production") if model else None
        if str(seen) == what:
            return seen
    raise AssertionError("the hints ended")


async def test_it_has_its_name(world: World) -> None:
    """In itself, in its view, and in every version."""
    view = await world.registry.read()

    assert world.registry.name == view.registry == view.models[DIGITS].registry == "local"
    assert {version.registry for version in view.models[DIGITS].versions.values()} == {"local"}


async def test_everything_is_read(world: World) -> None:
    """Versions in order, stages to version ids."""
    await world.register(("10", "9"), {"production": "10", "staging": "9"})
    model = (await world.registry.read()).models[DIGITS]

    assert list(model.versions)[-2:] == [world.id("9"), world.id("10")]
    assert model.stages == {"production": world.id("10"), "staging": world.id("9")}
    assert all(key == version.version for key, version in model.versions.items())


async def test_reading_twice_is_reading_the_same(world: World) -> None:
    """Equal by value."""
    assert await world.registry.read() == await world.registry.read()


async def test_a_spoiled_model_keeps_its_last_good_reading(world: World) -> None:
    """And is listed as a problem that names it."""
    before = await world.registry.read()
    await world.spoil()
    after = await world.registry.read()

    assert after.models == before.models
    assert [problem.subject for problem in after.problems] == ["digits"]


async def test_a_removed_model_is_gone(world: World) -> None:
    """Removing is no fault of the model; only what the operator listed by another name is missed."""
    await world.registry.read()
    await world.remove()
    view = await world.registry.read()

    assert view.models == {}
    assert [problem for problem in view.problems if problem.subject == DIGITS] == []


async def test_a_registry_that_is_away_says_so_and_comes_back(world: World) -> None:
    """RegistryUnavailable, then the same as before."""
    before = await world.registry.read()
    await world.take_away()
    with pytest.raises(RegistryUnavailable, match="'local'"):
        await world.registry.read()
    await world.bring_back()

    assert (await world.registry.read()).models == before.models


async def test_a_change_is_told(world: World) -> None:
    """One after the other, without a reader asking."""
    await world.registry.read()
    async with hints(world.registry) as changes:
        for version in ("2", "1", "2"):
            waiting = asyncio.create_task(next_view(world, changes, world.id(version)))
            await asyncio.sleep(0)
            await world.register(("1", "2"), {"production": version})
            assert await waiting == world.id(version)


async def test_a_model_that_goes_is_told(world: World) -> None:
    """A removal is a change."""
    await world.registry.read()
    async with hints(world.registry) as changes:
        waiting = asyncio.create_task(next_view(world, changes, "None"))
        await asyncio.sleep(0)
        await world.remove()
        assert await waiting is None


NAMES = (
    *("production", "champion", "prod-eu_2", "none", "latest", "v7", "with blank", "team/eu", "bad..dots"),
    *("a//b", "ends.lock", "-dash", "dot.", "@x", "ünicode", "x" * 129, "forbidden", "tab\tinside"),
)


@pytest.mark.parametrize("kind", PointerKind)
async def test_a_name_can_be_written_or_has_a_problem(world: World, kind: PointerKind) -> None:
    """What it says beforehand, asking nobody, is what comes of it; what is refused changes nothing."""
    registry, version = world.registry, VersionId(world.id("2"))
    await registry.read()
    problems = {name: registry.pointer_problem(kind, name) for name in NAMES}
    good = [name for name in NAMES if not problems[name]]
    for name in good:
        await registry.write(pointing(kind, name, version))
    view = await registry.read()
    for name in NAMES:
        if problems[name]:
            with pytest.raises((NotSupported, RegistryRefused, InvalidInput)):
                await registry.write(pointing(kind, name, version))
    named = view.models[DIGITS].stages if kind is PointerKind.STAGE else view.models[DIGITS].aliases
    needed = Capability.STAGES if kind is PointerKind.STAGE else Capability.ALIASES

    assert {name: named.get(name) for name in good} == dict.fromkeys(good, version)
    assert (await registry.read()).models == view.models
    assert bool(good) == (needed in registry.capabilities)
    assert len(good) < len(NAMES)


def pointing(kind: PointerKind, name: str, version: VersionId) -> PointerChange:
    """A stage or alias that is to name a version."""
    if kind is PointerKind.STAGE:
        return StageTransition(DIGITS, version, name)
    return AliasChange(DIGITS, name, version)
