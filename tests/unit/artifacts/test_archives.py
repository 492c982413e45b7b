"""Archives: unpacked where they are honest, refused before anything is written where they are not."""

from __future__ import annotations

import gzip
import io
import stat
import struct
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from router.artifacts import archives
from router.artifacts.archives import is_archive, unpack
from router.errors import ArtifactRefused, NoSpace

Member = tuple[str, bytes]


def tar(path: Path, *members: Member, **fields: object) -> Path:
    """A tar, packed by its name; `fields` are set on its last member."""
    with tarfile.open(path, "w:gz" if path.suffix in (".gz", ".tgz") else "w") as file:
        for index, (name, content) in enumerate(members):
            info = tarfile.TarInfo(name)
            info.size = len(content)
            if index == len(members) - 1:
                for key, value in fields.items():
                    setattr(info, key, value)
            file.addfile(info, io.BytesIO(content))
    return path


def zipped(path: Path, *members: Member, mode: int = 0) -> Path:
    """A zip."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in members:
            info = zipfile.ZipInfo(name)
            info.external_attr = mode << 16
            info.compress_type = zipfile.ZIP_DEFLATED
            file.NameToInfo.clear()  # it would warn of a name that comes twice
            file.writestr(info, content)
    return path


MAKERS: dict[str, Callable[..., Path]] = {"a.tar": tar, "a.tar.gz": tar, "a.tgz": tar, "a.zip": zipped}


@pytest.fixture
def target(tmp_path: Path) -> Path:
    """An empty folder in an empty folder."""
    path = tmp_path / "outer" / "target"
    path.mkdir(parents=True)
    return path


@pytest.mark.parametrize("name", MAKERS)
def test_an_honest_archive_is_unpacked(tmp_path: Path, target: Path, name: str) -> None:
    """Files and folders, whatever the archive begins its paths with."""
    archive = MAKERS[name](tmp_path / name, ("./model.onnx", b"weights" * 1000), ("sub/empty", b""))
    claimed: list[int] = []
    unpack(archive, target, claimed.append)

    assert {str(p.relative_to(target)) for p in target.rglob("*")} == {"model.onnx", "sub", "sub/empty"}
    assert (target / "model.onnx").read_bytes() == b"weights" * 1000
    assert claimed == [7000]


@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.parametrize(
    "paths",
    [
        *(["../evil"], ["a/../../evil"], ["/evil"], ["ok", "ok"], ["a", "a/b"], ["a\\..\\b"], ["a//b"]),
        *(["x" * 300], ["/".join("a" * 40)], ["new\nline"], ["./../evil"], ["a/./b"]),
    ],
)
def test_a_path_that_lies_is_refused(tmp_path: Path, target: Path, name: str, paths: list[str]) -> None:
    """Nothing is written, inside or outside."""
    archive = MAKERS[name](tmp_path / name, ("first", b"1"), *[(path, b"2") for path in paths])
    with pytest.raises(ArtifactRefused):
        unpack(archive, target)

    assert list(target.parent.rglob("*")) == [target]


@pytest.mark.parametrize(
    "kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE]
)
def test_links_and_devices_in_a_tar_are_refused(tmp_path: Path, target: Path, kind: bytes) -> None:
    """Of every kind."""
    archive = tar(tmp_path / "a.tar", ("first", b"1"), ("link", b""), type=kind, linkname="first")
    with pytest.raises(ArtifactRefused, match="no regular file"):
        unpack(archive, target)

    assert list(target.iterdir()) == []


def test_links_in_a_zip_are_refused(tmp_path: Path, target: Path) -> None:
    """They are files with a mode."""
    archive = zipped(tmp_path / "a.zip", ("link", b"/etc/passwd"), mode=stat.S_IFLNK | 0o777)
    with pytest.raises(ArtifactRefused, match="no regular file"):
        unpack(archive, target)


@pytest.mark.parametrize("name", ["a.tar.gz", "a.zip"])
def test_a_bomb_is_refused_by_what_it_says(
    tmp_path: Path, target: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Zeros pack a thousand to one; no model does."""
    monkeypatch.setattr(archives, "FREE_BYTES", 1 << 20)
    archive = MAKERS[name](tmp_path / name, ("first", b"1"), ("zeros", bytes(8 << 20)))
    with pytest.raises(ArtifactRefused, match="unpacks to more than"):
        unpack(archive, target)

    assert list(target.iterdir()) == []


def test_a_tar_that_says_ten_gigabytes_is_not_read_through(tmp_path: Path, target: Path) -> None:
    """The size in a header is enough."""
    info = tarfile.TarInfo("zeros")
    info.size = 10 << 30
    (tmp_path / "a.tar").write_bytes(info.tobuf())
    with pytest.raises(ArtifactRefused, match="unpacks to more than"):
        unpack(tmp_path / "a.tar", target)


def test_a_header_that_is_a_bomb_is_refused(tmp_path: Path, target: Path) -> None:
    """A tar's own extended headers are read into memory by whoever reads it."""
    info = tarfile.TarInfo("pax")
    info.type, info.size = tarfile.XHDTYPE, 1 << 30
    with gzip.open(tmp_path / "a.tar.gz", "wb") as file:
        file.write(info.tobuf() + bytes(10 << 20))
    with pytest.raises(ArtifactRefused, match="header of"):
        unpack(tmp_path / "a.tar.gz", target)


def test_headers_that_are_many_are_refused(
    tmp_path: Path, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Folders count for no file, and a million of them are a few packed bytes, and are all kept."""
    monkeypatch.setattr(archives, "_HEADERS", 1 << 20)
    folder = tarfile.TarInfo("folder/")
    folder.type = tarfile.DIRTYPE
    with gzip.open(tmp_path / "a.tar.gz", "wb") as file:
        file.write(folder.tobuf() * 4_000)
    with pytest.raises(ArtifactRefused, match="bytes of headers"):
        unpack(tmp_path / "a.tar.gz", target)


def test_headers_are_not_content(tmp_path: Path, target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is unpacked is bounded elsewhere."""
    monkeypatch.setattr(archives, "_HEADERS", 64 << 10)
    unpack(tar(tmp_path / "a.tar.gz", ("a", bytes(1 << 20)), ("b", bytes(1 << 20))), target)
    assert (target / "b").stat().st_size == 1 << 20


def test_a_zip_with_an_endless_list_is_refused(
    tmp_path: Path, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before zipfile makes objects of it."""
    monkeypatch.setattr(archives, "_LONGEST_LIST", 64 << 10)
    path = zipped(tmp_path / "a.zip", *((f"{at:050}", b"") for at in range(1_000)))
    with pytest.raises(ArtifactRefused, match="list of files"):
        unpack(path, target)


def test_looking_through_is_given_up_when_nobody_waits(tmp_path: Path, target: Path) -> None:
    """All of a packed tar is unpacked to find its second header."""
    path = tar(tmp_path / "a.tar.gz", ("a", bytes(40 << 20)), ("b", b""))

    def gone() -> None:
        raise NoSpace("nobody waits")

    with pytest.raises(NoSpace):
        unpack(path, target, lambda size: pytest.fail("it was looked through"), gone)
    assert list(target.iterdir()) == []


def test_a_zip_whose_sizes_lie_is_refused(tmp_path: Path, target: Path) -> None:
    """What it says is not believed while it is unpacked either."""
    path = zipped(tmp_path / "a.zip", ("x", bytes(1 << 20)))
    data = bytearray(path.read_bytes())
    for signature, offset in ((b"PK\1\2", 24), (b"PK\3\4", 22)):
        struct.pack_into("<I", data, data.index(signature) + offset, 1000)
    path.write_bytes(data)
    with pytest.raises(ArtifactRefused):
        unpack(path, target)


@pytest.mark.parametrize("name", MAKERS)
def test_a_damaged_archive_is_refused(tmp_path: Path, target: Path, name: str) -> None:
    """Cut, or no archive at all."""
    whole = MAKERS[name](tmp_path / name, ("x", bytes(range(256)) * 40)).read_bytes()
    for data in (whole[: len(whole) // 2], b"", b"no archive at all" * 100):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(ArtifactRefused):
            unpack(tmp_path / name, target)


def test_room_is_asked_for_before_anything_is_written(tmp_path: Path, target: Path) -> None:
    """And nothing is written without it."""

    def no(size: int) -> None:
        raise NoSpace("none")

    with pytest.raises(NoSpace):
        unpack(tar(tmp_path / "a.tar", ("x", b"1")), target, no)

    assert list(target.iterdir()) == []


def test_only_an_artifact_that_is_one_archive_is_unpacked() -> None:
    """A `.pt` is a zip inside and stays as it is."""
    assert is_archive(["model.TAR.GZ"])
    assert not is_archive(["model.pt"])
    assert not is_archive(["a.tar", "b"])
