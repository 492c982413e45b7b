"""Versions of a Hub and of DVC through the engine that fetches: whole and right, or not at all."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from router.artifacts.fetch import Fetcher
from router.artifacts.policy import ArtifactSettings, CacheSettings, Origin
from router.errors import ArtifactError, ArtifactUnavailable, StagegateError
from router.model import ModelName, Version
from router.ports import Registry
from router.registries import dvc
from router.registries import hub as huggingface
from tests.servers.dvc import Repository
from tests.servers.hub import Hub, Repo

LARGE = bytes(range(256)) * 40_000
FILES = {"model.onnx": LARGE, "config.json": b"{}"}


def fetcher_of(registry: Registry, kind: str, cache: Path | None = None) -> Fetcher:
    """The engine with a policy that allows nothing beside what the registry gives access to."""
    return Fetcher(
        ArtifactSettings(timeout=30, cache=CacheSettings(cache)),
        origins=lambda _: Origin(kind),
        sources=lambda version: registry.source(version.artifact),
    )


async def newest(registry: Registry, model: str) -> Version:
    """The newest version of a model."""
    return list((await registry.read()).models[ModelName(model)].versions.values())[-1]


def fetched(fetcher: Fetcher, version: Version, folder: Path) -> dict[str, bytes]:
    """What a fetch puts into a folder of its own; nothing where it fails."""
    folder.mkdir(exist_ok=True)
    try:
        fetcher.fetch(version, folder)
        return {str(path.relative_to(folder)): path.read_bytes() for path in _files(folder)}
    except StagegateError:
        assert list(_files(folder)) == []
        raise


def _files(folder: Path) -> Iterator[Path]:
    return (path for path in sorted(folder.rglob("*")) if path.is_file())


@dataclass
class OnHub:
    """A version on a Hub, and the engine that fetches it."""

    hub: Hub
    fetcher: Fetcher
    version: Version


@pytest.fixture
async def on_hub(hub: Hub) -> AsyncIterator[OnHub]:
    """A large file and a small one."""
    hub.repos["org/m"] = repo = Repo()
    repo.commit({**FILES, ".gitattributes": b"x"}, "main")
    options = {"endpoint": hub.endpoint, "models": ("org/m",), "hosts": (hub.own_store,), "timeout": 5.0}
    registry = huggingface.TYPE.open("hub", options)
    yield OnHub(hub, fetcher_of(registry, "huggingface"), await newest(registry, "m"))
    await registry.close()


def test_a_commit_of_a_hub(on_hub: OnHub, tmp_path: Path) -> None:
    """All its files but the hidden ones."""
    assert fetched(on_hub.fetcher, on_hub.version, tmp_path / "a") == FILES


def test_a_store_that_stops_again_and_again(on_hub: OnHub, tmp_path: Path) -> None:
    """What came is kept, and the rest asked for."""
    on_hub.hub.cut = 6_000_000

    assert fetched(on_hub.fetcher, on_hub.version, tmp_path / "a") == FILES
    assert on_hub.hub.calls("store GET") > 1


def flip(hub: Hub) -> None:
    """One bit of the large file is another."""
    hub.sent = {"model.onnx": LARGE[:-1] + b"\xfe"}


def flip_small(hub: Hub) -> None:
    """One bit of the small file is another."""
    hub.sent = {"config.json": b"{\x5d"}


def refuse(hub: Hub) -> None:
    """The Hub wants a token."""
    hub.token = "needed"  # noqa: S105


def redirect(hub: Hub) -> None:
    """Files are said to be on a metadata service."""
    hub.store = "http://169.254.169.254"


@pytest.mark.parametrize("fault", [flip, flip_small, refuse, redirect])
def test_faults_of_a_hub(on_hub: OnHub, tmp_path: Path, fault: Callable[[Hub], None]) -> None:
    """Each is named, leaves nothing, and the next try succeeds."""
    fault(on_hub.hub)
    with pytest.raises((ArtifactError, ArtifactUnavailable), match=r"^m [0-9a-f]{40}"):
        fetched(on_hub.fetcher, on_hub.version, tmp_path / "a")
    on_hub.hub.sent, on_hub.hub.token, on_hub.hub.store = {}, "", ""

    assert fetched(on_hub.fetcher, on_hub.version, tmp_path / "a") == FILES


async def test_dvc(dvc_repository: Repository, tmp_path: Path) -> None:
    """A file, a folder, and a second fetch from the cache, although DVC knows no SHA-256."""
    dvc_repository.tag("digits@v1.0.0", "1")
    dvc_repository.tag("tree@v1.0.0", "2")
    options = {"path": dvc_repository.path, "remotes": (str(dvc_repository.remote),)}
    registry = dvc.TYPE.open("models", options)
    fetcher = fetcher_of(registry, "dvc", tmp_path / "cache")
    digits, tree = await newest(registry, "digits"), await newest(registry, "tree")
    one = fetched(fetcher, digits, tmp_path / "a")
    two = fetched(fetcher, tree, tmp_path / "b")
    again = fetched(fetcher, digits, tmp_path / "c")

    assert one == again == {"digits.onnx": b"digits 1"}
    assert two == {"1/model.py": b"VERSION = 2", "config.pbtxt": b'name: "tree2"'}
    await registry.close()


@pytest.mark.parametrize("broken", [b"digits X", b"digits", None])
async def test_faults_of_a_remote(dvc_repository: Repository, tmp_path: Path, broken: bytes | None) -> None:
    """Each is named, leaves nothing, and the next try succeeds."""
    dvc_repository.tag("digits@v1.0.0", "1")
    options = {"path": dvc_repository.path, "remotes": (str(dvc_repository.remote),)}
    registry = dvc.TYPE.open("models", options)
    fetcher, version = fetcher_of(registry, "dvc"), await newest(registry, "digits")
    md5 = version.lineage["md5"]
    stored = dvc_repository.remote / "files" / "md5" / md5[:2] / md5[2:]
    good = stored.read_bytes()
    stored.chmod(0o644)
    stored.unlink() if broken is None else stored.write_bytes(broken)
    with pytest.raises((ArtifactError, ArtifactUnavailable), match=r"^digits v1\.0\.0"):
        fetched(fetcher, version, tmp_path / "a")
    stored.write_bytes(good)

    assert fetched(fetcher, version, tmp_path / "a") == {"digits.onnx": b"digits 1"}
    await registry.close()
