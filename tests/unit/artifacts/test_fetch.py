"""Fetches as a whole: through the cache, onto full disks, given up, killed; whole or not at all."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import io
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from router.artifacts.cache import ArtifactCache
from router.artifacts.digest import digest_of_hashes
from router.artifacts.fetch import Fetcher
from router.artifacts.handing import LINKED_FROM
from router.artifacts.layout import TritonRepository
from router.artifacts.policy import Allow, ArtifactSettings, CacheSettings, SignatureSettings
from router.artifacts.space import Space
from router.errors import (
    ArtifactError,
    ArtifactRefused,
    ArtifactUnavailable,
    DigestMismatch,
    NoSpace,
    StagegateError,
)
from router.model import Contract, ModelName, TensorSpec, TritonName, Version, VersionId
from router.ports import RemoteFile
from tests.unit.artifacts.shelf import everything

FILES = {"model.onnx": b"weights" * 1000, "data/x": b"more"}
NAME = TritonName("m.1")
CONTRACT = Contract((TensorSpec("X", "FP32", (-1, 4)),), (TensorSpec("label", "INT64", (-1,)),))


@dataclass
class Store:
    """A source of files in memory, which counts what is read.

    Attributes:
        silent: whether reads give nothing until the source is closed.
    """

    files_: Mapping[str, bytes]
    reads: list[str] = field(default_factory=list)
    silent: bool = False
    reading: threading.Event = field(default_factory=threading.Event)
    closed: threading.Event = field(default_factory=threading.Event)

    def files(self, uri: str) -> Sequence[RemoteFile]:
        return [
            RemoteFile(path, len(content), seen=hashlib.md5(content, usedforsecurity=False).hexdigest())
            for path, content in self.files_.items()
        ]

    def read(self, uri: str, file: RemoteFile, start: int, end: int | None) -> Iterator[bytes]:
        self.reads.append(f"{uri}/{file.path}")
        self.reading.set()
        if self.silent:
            self.closed.wait(30)
            return
        yield self.files_[file.path][start:end]

    def close(self) -> None:
        self.closed.set()


def version_of(number: int = 1, files: Mapping[str, bytes] = FILES, *, digest: bool = True) -> Version:
    """A version of model `m`."""
    hashes = {path: hashlib.sha256(content).hexdigest() for path, content in files.items()}
    return Version(
        *("r", ModelName("m"), VersionId(str(number))),
        format="onnx",
        artifact=f"store://{number}",
        digest=digest_of_hashes(hashes) if digest else "",
        contract=CONTRACT,
    )


def fetcher_of(store: Store, cache: Path | None = None, size: int = 1 << 20, **settings: Any) -> Fetcher:
    """With access to one store."""
    made = ArtifactSettings(cache=CacheSettings(cache, size), pause=0.001, reserve=0, **settings)
    return Fetcher(made, sources=lambda _: store)


def fetched(fetcher: Fetcher, version: Version, target: Path, **more: Any) -> dict[str, bytes]:
    """What a fetch puts into a new folder."""
    target.mkdir()
    fetcher.fetch(version, target, **more)
    return {path: (target / path).read_bytes() for path in everything(target)}


def test_versions_with_one_digest_are_fetched_once(tmp_path: Path) -> None:
    """Whichever registry names them and wherever they are, also when they are wanted at once."""
    store = Store(FILES)
    fetcher = fetcher_of(store, tmp_path / "cache")
    with ThreadPoolExecutor(8) as pool:
        came = list(pool.map(lambda n: fetched(fetcher, version_of(n), tmp_path / f"t{n}"), range(8)))

    assert came == [FILES] * 8
    assert len(store.reads) == len(FILES)


def test_a_version_without_a_digest_stays_what_it_was(tmp_path: Path) -> None:
    """It is read again only where its store tells of a change, and a change is refused until it is meant."""
    store = Store(FILES)
    fetcher, version = fetcher_of(store, tmp_path / "cache"), version_of(digest=False)
    assert fetched(fetcher, version, tmp_path / "a") == fetched(fetcher, version, tmp_path / "b") == FILES
    assert len(store.reads) == len(FILES)

    store.files_ = {**FILES, "model.onnx": b"other"}
    with pytest.raises(DigestMismatch, match="when this version was first fetched") as raised:
        fetched(fetcher, version, tmp_path / "c")
    remembered = Path(raised.value.hint.rpartition(" ")[2])
    remembered.unlink()

    assert fetched(fetcher, version, tmp_path / "d") == store.files_


def test_a_cache_never_holds_more_than_its_budget(tmp_path: Path) -> None:
    """What is larger is fetched all the same; a smaller budget counts from the next start."""
    cache = tmp_path / "cache"
    for number in range(6):
        files = {"model.onnx": bytes([number]) * (400 if number < 5 else 4000)}
        fetcher = fetcher_of(Store(files), cache, 1000)
        assert fetched(fetcher, version_of(number, files), tmp_path / f"t{number}") == files
        assert sum(file.stat().st_size for file in cache.rglob("files/*")) <= 1000
    ArtifactCache(cache, 500)

    assert [file.stat().st_size for file in cache.rglob("files/*")] == [400]


def test_what_is_cached_gives_way_to_what_is_needed(tmp_path: Path) -> None:
    """A disk whose room is taken by the cache is not full."""
    cache = tmp_path / "cache"

    def free(folder: Path) -> int:
        return 1500 - sum(file.stat().st_size for file in cache.rglob("files/*"))

    settings = ArtifactSettings(cache=CacheSettings(cache, 1 << 20), reserve=0)
    for number in range(3):
        files = {"model.onnx": bytes([number]) * 700}
        store = Store(files)
        fetcher = Fetcher(settings, sources=lambda _, store=store: store, space=Space(free=free))  # type: ignore[misc]
        assert fetched(fetcher, version_of(number, files), tmp_path / f"t{number}") == files


@pytest.mark.parametrize("call", ["fsync", "rename", "mkdir"])
@pytest.mark.parametrize("cached", [True, False])
def test_a_full_disk_is_named_wherever_it_shows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, cached: bool
) -> None:
    """At each step in turn, until none is left: nothing stays, or the whole of it."""
    folder = tmp_path / "repository"
    repository = TritonRepository(folder, fetcher_of(Store(FILES), tmp_path / "cache" if cached else None))
    inner, failing, calls = getattr(os, call), 0, 0

    def refused(path: Any, *rest: Any, **named: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == failing:
            raise OSError(errno.ENOSPC, "No space left on device")
        return inner(path, *rest, **named)

    while calls >= failing:
        calls, failing = 0, failing + 1
        try:
            with monkeypatch.context() as patch:
                patch.setattr(os, call, refused)
                asyncio.run(repository.put(version_of(), NAME))
        except NoSpace as problem:
            assert problem.message.startswith("m 1: "), (failing, problem.message)  # noqa: PT017
            assert list(folder.iterdir()) == [], failing
        else:
            assert everything(folder / "m.1/1") >= {"model.onnx", "data/x"}
            asyncio.run(repository.remove(NAME))
        if cached:  # the next one shall not find it there
            shutil.rmtree(tmp_path / "cache/objects")
            (tmp_path / "cache/objects").mkdir()

    assert failing > 2, "the call was never made"


@pytest.mark.parametrize("part", ["incoming", "seen"])
@pytest.mark.parametrize("digest", [True, False])
def test_a_cache_that_fails_is_gone_without(tmp_path: Path, part: str, digest: bool) -> None:
    """It is there to save time, not to lose a model."""
    store = Store(FILES)
    fetcher = fetcher_of(store, tmp_path / "cache")
    shutil.rmtree(tmp_path / "cache" / part)
    (tmp_path / "cache" / part).write_text("a file, where there was a folder")

    assert fetched(fetcher, version_of(digest=digest), tmp_path / "t") == FILES


def test_a_cache_that_somebody_emptied_is_filled_again(tmp_path: Path) -> None:
    """While it is in use: to make room, an operator deletes what is in it."""
    store = Store(FILES)
    fetcher = fetcher_of(store, tmp_path / "cache")
    assert fetched(fetcher, version_of(), tmp_path / "a") == FILES
    shutil.rmtree(tmp_path / "cache")
    for target in "bc":
        assert fetched(fetcher, version_of(), tmp_path / target) == FILES

    assert len(store.reads) == 2 * len(FILES)


def test_a_cache_whose_disk_breaks_is_gone_without(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the middle of a fetch; the disk of the model folders is another one."""
    store = Store(FILES)
    fetcher = fetcher_of(store, tmp_path / "cache")
    write = os.pwrite

    def written(descriptor: int, *rest: Any) -> int:
        if "/cache/" in os.readlink(f"/proc/self/fd/{descriptor}"):
            raise OSError(errno.EIO, "Input/output error")
        return write(descriptor, *rest)

    monkeypatch.setattr(os, "pwrite", written)

    assert fetched(fetcher, version_of(), tmp_path / "t") == FILES


@pytest.mark.parametrize("end", ["cancelled", "late"])
def test_copying_from_the_cache_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, end: str
) -> None:
    """Ten thousand files, or a cache on another disk, may take long; nothing of it is left."""
    files = {str(number): b"x" for number in range(50)}
    now, cancel = [0.0], threading.Event()
    settings = ArtifactSettings(cache=CacheSettings(tmp_path / "cache"), timeout=60, reserve=0)
    fetcher = Fetcher(settings, sources=lambda _: Store(files), clock=lambda: now[0])
    fetched(fetcher, version_of(files=files), tmp_path / "a")
    synced = []
    sync = os.fsync

    def fsync(descriptor: int) -> None:
        synced.append(descriptor)
        if len(synced) == 10:
            cancel.set()
            now[0] += 0.0 if end == "cancelled" else 61.0
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(StagegateError, match="given up" if end == "cancelled" else "copied from the cache"):
        fetched(fetcher, version_of(files=files), tmp_path / "b", cancel=None if end == "late" else cancel)

    assert len(synced) == 10
    assert list((tmp_path / "b").iterdir()) == []


def test_a_digest_is_the_same_in_capital_letters(tmp_path: Path) -> None:
    """Some registries write it so: its files are found in the cache all the same."""
    store = Store(FILES)
    fetcher, version = fetcher_of(store, tmp_path / "cache"), version_of()
    capital = replace(version, digest=version.digest.upper())
    for number, one in enumerate((capital, version, capital)):
        assert fetched(fetcher, one, tmp_path / str(number)) == FILES

    assert len(store.reads) == len(FILES)


def test_a_cache_that_fails_does_not_let_a_changed_version_in(tmp_path: Path) -> None:
    """What was seen at the first fetch still counts."""
    store, version = Store(FILES), version_of(digest=False)
    fetcher = fetcher_of(store, tmp_path / "cache")
    fetched(fetcher, version, tmp_path / "a")
    store.files_ = {"model.onnx": b"other"}
    shutil.rmtree(tmp_path / "cache/incoming")

    with pytest.raises(DigestMismatch, match="when this version was first fetched"):
        fetched(fetcher, version, tmp_path / "b")


def packed(files: Mapping[str, bytes]) -> bytes:
    """A tar of files."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as file:
        for path, content in files.items():
            info = tarfile.TarInfo(path)
            info.size = len(content)
            file.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


@pytest.mark.parametrize("cached", [True, False])
def test_an_artifact_that_is_an_archive_is_unpacked(tmp_path: Path, cached: bool) -> None:
    """The digest is the archive's; what is in it, however it is called, comes alone."""
    files = {"model.tar": packed({**FILES, "model.tar": b"inner"})}
    fetcher = fetcher_of(Store(files), tmp_path / "cache" if cached else None)
    for turn in range(2):
        assert fetched(fetcher, version_of(1, files), tmp_path / f"t{turn}") == {
            **FILES,
            "model.tar": b"inner",
        }


def test_an_archive_that_lies_leaves_nothing(tmp_path: Path) -> None:
    """Neither inside nor outside."""
    files = {"model.tar": packed({"first": b"1", "../evil": b"2"})}
    with pytest.raises(ArtifactRefused, match="m 1: "):
        fetched(fetcher_of(Store(files)), version_of(1, files), tmp_path / "t")

    assert everything(tmp_path) == set()


def test_unpacking_ends_at_the_deadline(tmp_path: Path) -> None:
    """The time is for the whole."""
    files = {"model.tar": packed({f"{n}": b"x" for n in range(50)})}
    times = iter(range(1_000_000))
    fetcher = Fetcher(
        ArtifactSettings(timeout=25, stall=1e9, reserve=0),
        sources=lambda _: Store(files),
        clock=lambda: float(next(times)),
    )
    with pytest.raises(ArtifactUnavailable, match="too long"):
        fetched(fetcher, version_of(1, files), tmp_path / "t")

    assert everything(tmp_path) == set()


def test_what_must_be_signed_and_is_not_is_refused(tmp_path: Path) -> None:
    """Although its digest is right."""
    fetcher = fetcher_of(Store(FILES), signature=SignatureSettings(("m*",), public_key=tmp_path / "key"))
    with pytest.raises(ArtifactRefused, match=r"m 1: it must be signed"):
        fetched(fetcher, version_of(), tmp_path / "t")

    assert everything(tmp_path) == set()


@pytest.mark.parametrize(
    ("settings", "said"), [({"timeout": 0.2}, "took too long"), ({"stall": 0.2}, "stalled")]
)
@pytest.mark.parametrize("cached", [True, False])
def test_a_silent_store_is_given_up(tmp_path: Path, settings: Any, said: str, cached: bool) -> None:
    """After the time for the whole, or for some bytes; its reads end with the source."""
    store = Store(FILES, silent=True)
    fetcher = fetcher_of(store, tmp_path / "cache" if cached else None, **settings)
    with pytest.raises(ArtifactUnavailable, match=said):
        fetched(fetcher, version_of(), tmp_path / "t")

    assert store.closed.is_set()
    assert everything(tmp_path) <= {"cache/lock"}


async def test_a_fetch_that_nobody_waits_for_is_given_up(tmp_path: Path) -> None:
    """And has cleaned up when the caller goes on."""
    store = Store(FILES, silent=True)
    repository = TritonRepository(tmp_path / "repository", fetcher_of(store, tmp_path / "cache"))
    waiting = asyncio.create_task(repository.put(version_of(), NAME))
    await asyncio.to_thread(store.reading.wait, 30)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting

    assert everything(tmp_path) <= {"cache/lock"}
    assert list((tmp_path / "repository").iterdir()) == []


def test_how_far_it_is_is_told(tmp_path: Path) -> None:
    """In words; at least when all has come."""
    told: list[str] = []
    fetched(fetcher_of(Store(FILES)), version_of(), tmp_path / "t", progress=told.append)

    assert told[-1] == "m 1: fetched 0.0 of 0.0 MiB"


KILLED = """
import asyncio, sys, threading
from pathlib import Path
from tests.unit.artifacts.test_fetch import FILES, NAME, Store, fetcher_of, version_of
from router.artifacts.layout import TritonRepository

class Half(Store):
    def read(self, uri, file, start, end):
        if file.path == "data/x":
            print("half", flush=True)
            threading.Event().wait()
        yield from super().read(uri, file, start, end)

folder = Path(sys.argv[1])
repository = TritonRepository(folder / "repository", fetcher_of(Half(FILES), folder / "cache"))
asyncio.run(repository.put(version_of(), NAME))
"""


def test_what_a_killed_process_was_fetching_is_nowhere(tmp_path: Path) -> None:
    """Not in the cache, not where Triton looks; the next process fetches it whole."""
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == "half\n"
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    assert any("model.onnx" in path for path in everything(tmp_path / "cache/incoming")), "too early"
    assert len(list((tmp_path / "repository").iterdir())) == 1

    store = Store(FILES)
    repository = TritonRepository(tmp_path / "repository", fetcher_of(store, tmp_path / "cache"))
    assert list((tmp_path / "repository").iterdir()) == []
    assert everything(tmp_path / "cache") == {"lock"}
    folder = asyncio.run(repository.put(version_of(), NAME))

    assert (folder / "1/model.onnx").read_bytes() == FILES["model.onnx"]


def test_a_large_file_of_a_model_folder_shares_its_room_with_the_cache(tmp_path: Path) -> None:
    """And a process that writes into one costs no other model its bytes."""
    files = {"model.onnx": bytes(LINKED_FROM)}
    store = Store(files)
    fetcher = fetcher_of(store, tmp_path / "cache", 2 * LINKED_FROM)
    fetched(fetcher, version_of(1, files), tmp_path / "a")
    file = tmp_path / "a/model.onnx"
    assert file.stat().st_nlink == 2
    file.chmod(0o644)
    with file.open("r+b") as writer:
        writer.write(b"damage")

    assert fetched(fetcher, version_of(2, files), tmp_path / "b") == files


def test_files_of_this_machine_need_no_network_and_no_copy_that_lies(tmp_path: Path) -> None:
    """A file that grows while it is read is noticed."""
    source = tmp_path / "source"
    source.mkdir()
    (source / "model.onnx").write_bytes(b"x" * 100)
    (tmp_path / "t").mkdir()
    fetcher = Fetcher(ArtifactSettings(allow=Allow(files=(source,)), reserve=0))
    version = Version("r", ModelName("m"), VersionId("1"), artifact=str(source))
    fetcher.fetch(version, tmp_path / "t")
    os.mkfifo(source / "pipe")
    (tmp_path / "u").mkdir()
    with pytest.raises(ArtifactError, match="neither a file nor a folder"):
        fetcher.fetch(version, tmp_path / "u")

    assert (tmp_path / "t/model.onnx").read_bytes() == b"x" * 100
