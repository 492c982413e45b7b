"""Artifacts that are one archive: looked through whole before anything of them is written.

Refused are paths that lead out of the folder, links, devices, names that come twice, and bombs: what unpacks
to much more than it is. What an archive says of its sizes is not believed while it is unpacked either.
"""

from __future__ import annotations

import gzip
import io
import os
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Protocol

from router.artifacts.paths import check_names
from router.errors import ArtifactRefused

SUFFIXES = (".tar", ".tar.gz", ".tgz", ".zip")

MOST_BYTES = 256 << 30
"""Bytes that an archive may hold unpacked."""
MOST_TIMES = 100
"""How much larger than itself an archive may be unpacked, once that is more than `FREE_BYTES`."""
FREE_BYTES = 64 << 20

_CHUNK = 1 << 20
_LONGEST_HEADER = 4 << 20
_HEADERS = 32 << 20
"""Bytes of all headers of a tar together; of 10,000 files it has about 15 MB."""
_LONGEST_LIST = 16 << 20
"""Bytes that are read of a zip at once: the list of its files is, and becomes many times as much."""
_STEP = 16 << 20
"""Bytes that are passed over between two looks whether it is still wanted."""


@dataclass(frozen=True, slots=True)
class _Member:
    path: str
    size: int
    key: object


class _Archive(Protocol):
    def members(self) -> Iterator[_Member]:
        """Files in it, in order; folders are left out. Raises ArtifactRefused for anything else."""
        ...

    def open(self, member: _Member) -> IO[bytes]:
        """The content of one."""
        ...


def is_archive(paths: Sequence[str]) -> bool:
    """Whether files of an artifact, by path, are one archive, by its name."""
    return len(paths) == 1 and paths[0].lower().endswith(SUFFIXES)


def unpack(
    archive: Path,
    target: Path,
    claim: Callable[[int], None] = lambda size: None,
    check: Callable[[], None] = lambda: None,
) -> None:
    """Unpack an archive into a folder that is there, each file on the disk.

    What was written is left where it is when this raises while writing; the caller removes the folder.

    Args:
        claim: asked for the bytes that it unpacks to, before the first is written; raises NoSpace.
        check: called again and again while it is written; raises to give up.

    Raises:
        ArtifactRefused: it holds what no archive may, or is none.
    """
    try:
        most = _most(archive)
        with _opened(archive, most, check) as opened:
            members = _looked_through(opened, archive, most)
            claim(sum(member.size for member in members))
            for member in members:
                _write(opened, member, target / member.path, check)
    except (tarfile.TarError, zipfile.BadZipFile, zlib.error, EOFError, gzip.BadGzipFile) as problem:
        raise ArtifactRefused(f"{archive.name} is damaged, or no archive: {str(problem)[:200]}") from None
    except (RuntimeError, NotImplementedError, UnicodeError, ValueError) as problem:
        raise ArtifactRefused(f"{archive.name} cannot be unpacked: {str(problem)[:200]}") from None


def _most(archive: Path) -> int:
    return min(MOST_BYTES, max(FREE_BYTES, archive.stat().st_size * MOST_TIMES))


def _looked_through(opened: _Archive, archive: Path, most: int) -> list[_Member]:
    members: list[_Member] = []
    total = 0

    def names() -> Iterator[str]:
        nonlocal total
        for member in opened.members():
            total += member.size
            if member.size < 0 or total > most:
                raise _bomb(archive.name, most)
            members.append(member)
            yield member.path

    check_names(names())
    if not members:
        raise ArtifactRefused(f"{archive.name} holds no files")
    return members


def _bomb(name: str, most: int) -> ArtifactRefused:
    return ArtifactRefused(
        f"{name} unpacks to more than {most} bytes", hint="register the files themselves, not packed"
    )


@contextmanager
def _opened(archive: Path, most: int, check: Callable[[], None]) -> Iterator[_Archive]:
    name = archive.name.lower()
    if name.endswith(".zip"):
        with archive.open("rb") as raw, zipfile.ZipFile(_Short(raw, archive.name)) as file:
            yield _Zip(file, archive.name)
        return
    with archive.open("rb") as raw:
        packed = name.endswith((".gz", ".tgz"))
        plain: IO[bytes] = gzip.GzipFile(fileobj=raw) if packed else raw  # type: ignore[assignment]
        # Beside the files there are headers and padding of up to some blocks for each.
        bounded = _Bounded(plain, archive.name, most + most // 2, check)
        with tarfile.open(fileobj=bounded, mode="r:") as tar:
            yield _Tar(tar, archive.name, bounded)


class _Short(io.RawIOBase):
    """What zipfile reads from: never much at once."""

    def __init__(self, inner: IO[bytes], name: str) -> None:
        super().__init__()
        self._inner, self._name = inner, name

    def read(self, size: int = -1) -> bytes:
        """As any file's, within bounds."""
        wanted = size if 0 <= size <= _LONGEST_LIST else _LONGEST_LIST + 1
        found = self._inner.read(wanted)
        if len(found) > _LONGEST_LIST:
            raise ArtifactRefused(f"{self._name} has a list of files of more than {_LONGEST_LIST} bytes")
        return found

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """As any file's."""
        return self._inner.seek(offset, whence)

    def tell(self) -> int:
        """Where it is."""
        return self._inner.tell()

    def seekable(self) -> bool:
        """It is."""
        return True


class _Bounded(io.RawIOBase):
    """What tarfile reads from: no further than is allowed, and never much at once.

    tarfile reads a header's own data, whose size the archive names, in one piece, and keeps all headers; a
    few bytes that are packed become very many of them.

    Attributes:
        headers: bytes that may still be read of headers; None once they are all known.
    """

    def __init__(self, inner: IO[bytes], name: str, most: int, check: Callable[[], None]) -> None:
        super().__init__()
        self._inner, self._name, self._most, self._check = inner, name, most, check
        self.headers: int | None = _HEADERS

    def read(self, size: int = -1) -> bytes:
        """As any file's, within bounds."""
        if not 0 <= size <= _LONGEST_HEADER:
            raise ArtifactRefused(f"{self._name} has a header of {size} bytes")
        if self._inner.tell() + size > self._most + _LONGEST_HEADER:
            raise _bomb(self._name, self._most)
        if self.headers is not None:
            self.headers -= size
            if self.headers < 0:
                raise ArtifactRefused(f"{self._name} has more than {_HEADERS} bytes of headers")
        return self._inner.read(size)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """To a position that is allowed; all on the way to it is unpacked, which may take long."""
        if whence != os.SEEK_SET or offset > self._most + _LONGEST_HEADER:
            raise _bomb(self._name, self._most)
        for step in range(self._inner.tell() + _STEP, offset, _STEP):
            self._check()
            self._inner.seek(step)
        return self._inner.seek(offset)

    def tell(self) -> int:
        """Where it is."""
        return self._inner.tell()

    def seekable(self) -> bool:
        """It is."""
        return True


@dataclass(frozen=True, slots=True)
class _Tar:
    tar: tarfile.TarFile
    name: str
    file: _Bounded

    def members(self) -> Iterator[_Member]:
        for info in self.tar:
            if info.isdir():
                _check_folder(info.name)
                continue
            if not info.isreg() or info.issparse():
                raise ArtifactRefused(f"{self.name} holds {info.name[:200]!r}, which is no regular file")
            yield _Member(info.name.removeprefix("./"), info.size, info)
        self.file.headers = None

    def open(self, member: _Member) -> IO[bytes]:
        assert isinstance(member.key, tarfile.TarInfo)  # noqa: S101 - made above
        file = self.tar.extractfile(member.key)
        assert file is not None  # noqa: S101 - it is a regular file
        return file


@dataclass(frozen=True, slots=True)
class _Zip:
    zip: zipfile.ZipFile
    name: str

    def members(self) -> Iterator[_Member]:
        for info in self.zip.infolist():
            if info.orig_filename != info.filename and "\0" in info.orig_filename:
                raise ArtifactRefused(f"{self.name} holds {info.filename[:200]!r}, a name with a hidden end")
            if info.is_dir():
                _check_folder(info.filename)
                continue
            kind = stat.S_IFMT(info.external_attr >> 16)
            if kind not in (0, stat.S_IFREG):
                raise ArtifactRefused(f"{self.name} holds {info.filename[:200]!r}, which is no regular file")
            if info.flag_bits & 1:
                raise ArtifactRefused(f"{self.name} holds {info.filename[:200]!r}, which is encrypted")
            yield _Member(info.filename.removeprefix("./"), info.file_size, info)

    def open(self, member: _Member) -> IO[bytes]:
        assert isinstance(member.key, zipfile.ZipInfo)  # noqa: S101 - made above
        return self.zip.open(member.key)


def _check_folder(path: str) -> None:
    """An empty folder is not made, but it may not lie about where it is either."""
    inside = path.removeprefix("./").rstrip("/")
    if inside not in ("", "."):
        check_names([inside])


def _write(opened: _Archive, member: _Member, target: Path, check: Callable[[], None]) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    left = member.size
    with opened.open(member) as reader, target.open("xb") as writer:
        while piece := reader.read(_CHUNK):
            check()
            left -= len(piece)
            if left < 0:
                raise ArtifactRefused(f"{member.path} is larger than its archive says")
            writer.write(piece)
        if left:
            raise ArtifactRefused(f"{member.path} is smaller than its archive says")
        writer.flush()
        os.fsync(writer.fileno())
