"""Files of a version: named, verified, and put where Triton looks for them, whole or not at all."""

from __future__ import annotations

import asyncio
import hashlib
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.artifacts.digest import digest_of
from router.artifacts.files import LocalFiles
from router.artifacts.layout import TritonRepository
from router.artifacts.naming import triton_model_name
from router.artifacts.policy import local_path
from router.artifacts.temporary import temporary
from router.errors import ArtifactError, ArtifactMissing, ArtifactRefused, DigestMismatch, UnsupportedFormat
from router.model import Contract, ModelName, TensorSpec, TritonName, Version, VersionId

CONTRACT = Contract((TensorSpec("X", "FP32", (-1, 4)),), (TensorSpec("label", "INT64", (-1,)),))
NAME = TritonName("m.1.0a0a0a0a")


def version_of(artifact: Path | str, **changes: object) -> Version:
    """A version of model `m` with that artifact."""
    fields: dict[str, object] = {"format": "onnx", "contract": CONTRACT, **changes}
    return Version("local", ModelName("m"), VersionId("1"), artifact=str(artifact), **fields)  # type: ignore[arg-type]


@pytest.fixture
def onnx(tmp_path: Path) -> Path:
    """A file that is an ONNX model by its name."""
    path = tmp_path / "source" / "model.onnx"
    path.parent.mkdir()
    path.write_bytes(b"weights")
    return path


@pytest.fixture
def repository(tmp_path: Path) -> TritonRepository:
    """An empty repository folder."""
    return TritonRepository(tmp_path / "repository")


def everything(folder: Path) -> set[str]:
    """All paths below a folder, hidden ones too."""
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def test_the_digest_is_what_sha256sum_prints_sorted(tmp_path: Path) -> None:
    """One line a file, sorted by path, hashed again."""
    (tmp_path / "b").mkdir()
    (tmp_path / "b/x").write_bytes(b"2")
    (tmp_path / "a").write_bytes(b"1")
    lines = "".join(
        f"{hashlib.sha256(content).hexdigest()}  {path}\n" for path, content in (("a", b"1"), ("b/x", b"2"))
    )

    assert digest_of(tmp_path) == "sha256:" + hashlib.sha256(lines.encode()).hexdigest()


def test_a_single_file_has_one_line_with_its_name(onnx: Path) -> None:
    """So that renaming the file changes the digest."""
    line = f"{hashlib.sha256(b'weights').hexdigest()}  model.onnx\n"

    assert digest_of(onnx) == "sha256:" + hashlib.sha256(line.encode()).hexdigest()


@pytest.mark.parametrize("name", [b"a\nb", b"no text \xff", "a\u202eb".encode()])
def test_a_name_that_nobody_could_fetch_has_no_digest(tmp_path: Path, name: bytes) -> None:
    """It is refused when it is registered, and not when it is to be served."""
    (tmp_path / os.fsdecode(name)).write_text("x")

    with pytest.raises(ArtifactRefused, match="characters that are not taken"):
        digest_of(tmp_path)


def test_folders_without_end_are_refused(tmp_path: Path) -> None:
    """Before anything is made of them, here or by a fetch."""
    (tmp_path / "a" / "/".join("d" * 40)).mkdir(parents=True)

    with pytest.raises(ArtifactError, match="deeper than 32 folders"):
        digest_of(tmp_path / "a")
    with pytest.raises(ArtifactError, match="deeper than 32 folders"):
        LocalFiles([tmp_path]).files(str(tmp_path / "a"))


def test_a_folder_of_too_many_files_is_not_read_through(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is refused all the same; a folder of millions would fill the memory first."""
    monkeypatch.setattr("router.artifacts.files.MOST_FILES", 10)
    for number in range(30):
        (tmp_path / str(number)).touch()

    assert len(LocalFiles([tmp_path]).files(str(tmp_path))) == 11


def test_a_link_in_an_artifact_is_refused(onnx: Path) -> None:
    """What it points to is not what was registered."""
    (onnx.parent / "other").symlink_to("/etc/hostname")

    with pytest.raises(ArtifactError, match="other is neither a file nor a folder"):
        digest_of(onnx.parent)


@given(st.text(min_size=1, max_size=300), st.text(min_size=1, max_size=128))
def test_a_triton_name_is_a_file_name_whatever_the_version_is_called(model: str, version: str) -> None:
    """At most 255 bytes, no separator, not hidden, never `.` or `..`."""
    name = triton_model_name(Version("r", ModelName(model), VersionId(version)))

    assert 0 < len(name.encode()) <= 255
    assert name == Path(name).name
    assert not name.startswith(".") or name.count(".") > 1


def test_versions_that_look_alike_have_names_of_their_own() -> None:
    """The hash keeps apart what the safe characters do not, and what another registry or digest has."""
    versions = [
        Version("r", ModelName("a:b"), VersionId("1")),
        Version("r", ModelName("a_b"), VersionId("1")),
        Version("s", ModelName("a_b"), VersionId("1")),
        Version("r", ModelName("a_b"), VersionId("1"), digest="sha256:00"),
        Version("r", ModelName("a_b.1"), VersionId("1")),
    ]

    assert len({triton_model_name(version) for version in versions}) == len(versions)


async def test_an_onnx_file_becomes_a_python_model(onnx: Path, repository: TritonRepository) -> None:
    """The file, a generated model.py beside it, and a config.pbtxt."""
    folder = await repository.put(version_of(onnx, digest=digest_of(onnx)), NAME)

    assert everything(folder) == {"1", "1/model.onnx", "1/model.py", "config.pbtxt"}
    assert list(folder.parent.iterdir()) == [folder]


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"digest": "sha256:" + "0" * 64}, DigestMismatch),
        ({"format": "coreml"}, UnsupportedFormat),
        ({"artifact": "/nowhere/model.onnx"}, ArtifactMissing),
        ({"artifact": "s3://bucket/model.onnx"}, ArtifactRefused),
        ({"artifact": "file://other-host/model.onnx"}, ArtifactError),
    ],
)
async def test_a_version_that_cannot_be_used_leaves_nothing_behind(
    onnx: Path,
    tmp_path: Path,
    repository: TritonRepository,
    changes: dict[str, object],
    error: type[Exception],
) -> None:
    """Each failure is named, and the repository folder is as it was."""
    artifact = changes.pop("artifact", onnx)
    with pytest.raises(error):
        await repository.put(version_of(str(artifact), **changes), NAME)

    assert everything(tmp_path / "repository") == set()


async def test_a_hidden_file_in_a_verified_artifact_is_refused(
    onnx: Path, repository: TritonRepository
) -> None:
    """A digest promises that all of it was looked at, also by people."""
    (onnx.parent / ".git").mkdir()
    (onnx.parent / ".git/config").write_text("x")
    with pytest.raises(ArtifactError, match=r"\.git/config begins with a dot"):
        await repository.put(version_of(onnx.parent, digest=digest_of(onnx.parent)), NAME)


async def test_many_puts_at_once_make_one_folder(onnx: Path, repository: TritonRepository) -> None:
    """Everybody gets the same complete folder."""
    version = version_of(onnx, digest=digest_of(onnx))
    folders = await asyncio.gather(*(repository.put(version, NAME) for _ in range(8)))

    assert len(set(folders)) == 1
    assert "1/model.onnx" in everything(folders[0])


async def test_files_without_a_digest_are_brought_anew(onnx: Path, repository: TritonRepository) -> None:
    """Somebody may have replaced them under the same version."""
    await repository.put(version_of(onnx), NAME)
    onnx.write_bytes(b"better weights")
    folder = await repository.put(version_of(onnx), NAME)

    assert (folder / "1/model.onnx").read_bytes() == b"better weights"


async def test_a_removed_version_is_gone(onnx: Path, repository: TritonRepository) -> None:
    """And removing what is not there is no fault."""
    folder = await repository.put(version_of(onnx), NAME)
    await repository.remove(NAME)
    await repository.remove(NAME)

    assert list(folder.parent.iterdir()) == []


def test_what_a_dead_process_left_half_made_is_cleaned(tmp_path: Path) -> None:
    """Half a folder of a process that is gone goes; that of one that lives stays, whoever it is."""
    dead = tmp_path / ".stagegate-0123456789abcdef"
    dead.mkdir()
    with temporary(tmp_path) as alive:
        TritonRepository(tmp_path)

        assert list(tmp_path.iterdir()) == [alive]
    assert not alive.exists()


@pytest.mark.parametrize("artifact", ["/a/b c", "file:///a/b%20c", "file://localhost/a/b c"])
def test_paths_and_file_uris_name_the_same_place(artifact: str) -> None:
    """A URI's escapes are undone, a path's are not."""
    assert local_path("m 1", artifact) == Path("/a/b c")


async def test_a_folder_has_one_writer_whatever_order_they_come_in(tmp_path: Path) -> None:
    """Put, remove and put again of one name never work side by side."""
    source = tmp_path / "source"
    source.mkdir()
    (source / "model.py").write_text("class TritonPythonModel: pass\n")
    version = version_of(source, format="python")
    inside, most = 0, 0

    class Watched(TritonRepository):
        def _make(self, *work: object) -> None:
            nonlocal inside, most
            inside += 1
            most = max(most, inside)
            super()._make(*work)  # type: ignore[arg-type]
            inside -= 1

    repository = Watched(tmp_path / "repository")
    first = asyncio.create_task(repository.put(version, NAME))
    await asyncio.sleep(0)
    going = asyncio.create_task(repository.remove(NAME))
    second = asyncio.create_task(repository.put(version, NAME))
    await going
    third = asyncio.create_task(repository.put(version, NAME))
    await asyncio.gather(first, second, third)

    assert most == 1
    assert [folder.name for folder in (tmp_path / "repository").iterdir()] == [NAME]
