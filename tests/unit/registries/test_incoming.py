"""Files that come into the folder registry: all of them, or nothing that anybody sees."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from router.artifacts.digest import digest_of, digest_of_hashes, file_digest
from router.errors import InvalidInput, InvalidName, InvalidReference, RegistryUnavailable
from router.model import Contract, ModelName, TensorSpec, Version
from router.ports import NewVersion
from router.registries import FolderRegistry, incoming

DIGITS = ModelName("digits")
CONTRACT = Contract((TensorSpec("x", "FP32", (-1, 64)),), (TensorSpec("y", "INT64", (-1,)),))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """An empty registry."""
    (tmp_path / "models").mkdir()
    return tmp_path / "models"


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """A file to register."""
    (tmp_path / "model.onnx").write_bytes(b"weights")
    return tmp_path / "model.onnx"


def new(files: Path, **more: Any) -> NewVersion:
    """A new version of `digits`."""
    digest = more.pop("digest") if "digest" in more else digest_of(files)
    return NewVersion(**{"model": DIGITS, "files": files, "format": "onnx", "digest": digest, **more})


async def registered(root: Path, version: NewVersion) -> Version:
    """The version as the registry gives it back, which is also as it reads it."""
    registry = FolderRegistry("local", root)
    made = await registry.register(version)
    view = await FolderRegistry("local", root).read()
    assert (view.models[version.model].versions[made.version], view.problems) == (made, ())
    return made


async def test_all_that_is_said_is_written_down(root: Path, files: Path) -> None:
    """And the files lie where the manifest says."""
    made = await registered(
        root,
        new(
            files,
            version="v1.2",
            contract=CONTRACT,
            metrics={"accuracy": 0.97},
            tags={"team": "a: b"},
            lineage={"run": "0123"},
            description="the first",
        ),
    )

    assert (made.version, made.format, made.contract) == ("v1.2", "onnx", CONTRACT)
    assert (made.metrics, made.lineage) == ({"accuracy": 0.97}, {"run": "0123"})
    assert made.tags == {"description": "the first", "team": "a: b"}
    assert digest_of(Path(made.artifact)) == made.digest
    assert made.created is not None


async def test_a_folder_comes_with_all_that_is_below_it(root: Path, tmp_path: Path) -> None:
    """Under the digest of the folder."""
    (tmp_path / "m/1").mkdir(parents=True)
    (tmp_path / "m/config.pbtxt").write_text("")
    (tmp_path / "m/1/model.py").write_text("pass")
    made = await registered(root, new(tmp_path / "m", format="triton"))

    assert digest_of(Path(made.artifact)) == made.digest == digest_of(tmp_path / "m")


async def test_without_an_id_it_is_the_next_number(root: Path, files: Path) -> None:
    """Words and work in progress do not count."""
    ids = [(await registered(root, new(files))).version]
    (root / "digits/v9").mkdir()
    (root / "digits/11.tmp").mkdir()
    (root / "digits/10").mkdir()
    made = await FolderRegistry("local", root).register(new(files))

    assert [*ids, made.version] == ["1", "11"]


async def test_the_same_once_more_is_no_error(root: Path, files: Path) -> None:
    """And nothing is written again."""
    first = await registered(root, new(files, version="1"))
    before = os.stat(first.artifact).st_ino

    assert await registered(root, new(files, version="1")) == first
    assert os.stat(first.artifact).st_ino == before


async def test_an_id_that_other_files_have_is_refused(root: Path, files: Path) -> None:
    """Versions do not change."""
    first = await registered(root, new(files, version="1"))
    files.write_bytes(b"other")
    with pytest.raises(InvalidInput, match="has a version '1' already"):
        await FolderRegistry("local", root).register(new(files, version="1"))

    assert Path(first.artifact).read_bytes() == b"weights"


async def test_a_version_without_a_digest_is_compared_by_its_files(root: Path, files: Path) -> None:
    """Somebody put it there by hand."""
    (root / "digits/1").mkdir(parents=True)
    (root / "digits/1/version.yaml").write_text("format: onnx\nartifact: model.onnx\n")
    (root / "digits/1/model.onnx").write_bytes(b"weights")
    registry = FolderRegistry("local", root)

    assert (await registry.register(new(files, version="1"))).version == "1"
    (root / "digits/1/model.onnx").write_bytes(b"other")
    with pytest.raises(InvalidInput):
        await registry.register(new(files, version="1"))


@pytest.mark.parametrize(
    ("more", "error"),
    [
        ({"version": "a/b"}, InvalidReference),
        ({"version": "@a"}, InvalidReference),
        ({"version": ".."}, InvalidReference),
        ({"version": "1.tmp"}, InvalidReference),
        ({"version": "model.yaml"}, InvalidReference),
        ({"model": ModelName("..")}, InvalidInput),
        ({"model": ModelName("a/b")}, InvalidName),
        ({"format": ""}, InvalidInput),
        ({"digest": ""}, InvalidInput),
        ({"digest": "sha256:" + "0" * 64}, InvalidInput),
        ({"tags": {"a": None}}, None),
    ],
)
async def test_what_cannot_be_is_refused_and_leaves_nothing(
    root: Path, files: Path, more: dict[str, Any], error: type[Exception] | None
) -> None:
    """Neither a model nor work in progress."""
    registry = FolderRegistry("local", root)
    if error is None:
        assert (await registry.register(new(files, **more))).version == "1"
        return
    with pytest.raises(error):
        await registry.register(new(files, **more))

    assert list(root.iterdir()) == []


@pytest.mark.parametrize("name", [".hidden", "new\nline"])
async def test_files_with_odd_names_are_refused(root: Path, tmp_path: Path, name: str) -> None:
    """As they would be when they are fetched; also where the digest is theirs."""
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / name).write_text("")
    digest = digest_of_hashes({name: file_digest(tmp_path / "m" / name)})
    with pytest.raises(InvalidInput, match="cannot be a file of a version"):
        await FolderRegistry("local", root).register(new(tmp_path / "m", digest=digest))


async def test_links_and_empty_folders_are_refused(root: Path, files: Path, tmp_path: Path) -> None:
    """Each named."""
    (tmp_path / "m").mkdir()
    with pytest.raises(InvalidInput, match="holds no files"):
        await FolderRegistry("local", root).register(new(tmp_path / "m"))
    version = new(files)
    (tmp_path / "m/link").symlink_to(files)
    with pytest.raises(InvalidInput, match="neither a file nor a folder"):
        await FolderRegistry("local", root).register(
            NewVersion(DIGITS, tmp_path / "m", "onnx", version.digest)
        )


@pytest.mark.parametrize("step", ["copy_file", "digest_of", "version_text", "sync_folder", "_put"])
@pytest.mark.parametrize("there", [False, True])
async def test_a_failure_at_any_step_leaves_nothing(
    root: Path, files: Path, monkeypatch: pytest.MonkeyPatch, step: str, there: bool
) -> None:
    """Neither half a version nor a model without one; and the next try succeeds."""
    if there:
        await registered(root, new(files))
    before = sorted(path for path in root.rglob("*"))

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as broken:
        broken.setattr(incoming, step, full)
        with pytest.raises(RegistryUnavailable, match="No space left"):
            await FolderRegistry("local", root).register(new(files))
    assert sorted(path for path in root.rglob("*")) == before

    assert (await registered(root, new(files))).version == ("2" if there else "1")


class Crash(BaseException):
    """The process ended: nothing after it runs."""


@pytest.mark.parametrize("step", ["copy_file", "digest_of", "version_text", "_put"])
async def test_what_a_crash_leaves_is_seen_by_nobody_and_goes(
    root: Path, files: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """The leftovers are work in progress, until they are old."""

    def crash(*_: object) -> None:
        raise Crash

    with monkeypatch.context() as broken:
        broken.setattr(incoming, step, crash)
        broken.setattr(shutil, "rmtree", lambda *_, **__: None)
        with pytest.raises(Crash):
            incoming.bring_in(root, new(files))
    (left,) = root.iterdir()
    view = await FolderRegistry("local", root).read()
    assert (view.models, view.problems) == ({}, ())

    await registered(root, new(files))
    assert left.exists()
    os.utime(left, (0, 0))
    await registered(root, new(files))
    assert not left.exists()


async def test_many_at_once_all_get_their_number(root: Path, files: Path) -> None:
    """One model, eight makers: no number twice, none lost."""
    with ThreadPoolExecutor(8) as makers:
        ids = list(makers.map(lambda _: incoming.bring_in(root, new(files)), range(16)))
    view = await FolderRegistry("local", root).read()

    assert sorted(map(int, ids)) == list(range(1, 17))
    assert view.models[DIGITS].versions.keys() == set(ids)
    assert view.problems == ()
    assert {path.name for path in root.iterdir()} == {"digits"}


async def test_who_registers_sees_what_is_done(root: Path, files: Path) -> None:
    """File by file."""
    said: list[str] = []
    tell: Callable[[str], None] = said.append
    await FolderRegistry("local", root).register(new(files), tell)

    assert said == ["digits: copying model.onnx"]
