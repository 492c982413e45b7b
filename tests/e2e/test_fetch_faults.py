"""Two hundred fetches from a real S3 server through a network that spoils them, into a Triton's folder."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import random
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from router.artifacts import download
from router.artifacts.digest import digest_of_hashes
from router.artifacts.fetch import Fetcher
from router.artifacts.layout import TritonRepository
from router.artifacts.policy import Allow, ArtifactSettings, CacheSettings, S3Settings
from router.artifacts.space import Space
from router.errors import (
    ArtifactChanged,
    ArtifactMissing,
    ArtifactRefused,
    ArtifactUnavailable,
    DigestMismatch,
    NoSpace,
    StagegateError,
)
from router.model import Contract, ModelName, TensorSpec, TritonName, Version, VersionId
from tests.servers.faulty import LISTING_FAULTS, OBJECT_FAULTS, Fault, Proxy, in_front_of
from tests.servers.s3 import SECRET_KEY, Server

SEEDS = 200
AT_ONCE = 5
CONTRACT = Contract((TensorSpec("X", "FP32", (-1, 4)),), (TensorSpec("label", "INT64", (-1,)),))
EXPECTED: dict[str, tuple[type[StagegateError], ...]] = {
    "flip": (DigestMismatch,),
    "redirect": (ArtifactRefused,),
    "whole": (ArtifactChanged,),
    "long": (ArtifactChanged,),
    "unconditional": (ArtifactChanged, DigestMismatch),
    "replaced": (ArtifactChanged, DigestMismatch),
    "gone": (ArtifactMissing, DigestMismatch),
    "list short": (DigestMismatch,),
    "no room": (NoSpace,),
    "disk full": (NoSpace,),
}
"""What may be raised for a fault beside ArtifactUnavailable, which a slow machine may always get."""
KINDS = (*OBJECT_FAULTS, *LISTING_FAULTS, "replaced", "gone", "no room", "disk full")


@dataclass
class Store:
    """A bucket whose artifacts have a prefix each."""

    client: Any
    bucket: str
    proxy: Proxy

    def put(self, prefix: str, files: dict[str, bytes]) -> None:
        for path, content in files.items():
            self.client.put_object(Bucket=self.bucket, Key=f"{prefix}/{path}", Body=content)


@pytest.fixture(scope="module")
def store(s3_server: Server) -> Iterator[Store]:
    """Behind a proxy that does no harm yet."""
    bucket = s3_server.bucket("faults")
    with contextlib.closing(s3_server.client()) as client:

        def fetch(key: str) -> tuple[str, bytes]:
            told = client.get_object(Bucket=bucket, Key=key)
            return told["ETag"], told["Body"].read()

        with in_front_of(s3_server.endpoint, fetch) as proxy:
            yield Store(client, bucket, proxy)


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a file of a hundred KB has several; and no long pauses."""
    monkeypatch.setattr(download, "PART", 1 << 16)
    monkeypatch.setattr(download, "THREADS", 3)
    monkeypatch.setattr(download, "_TICK", 0.02)
    monkeypatch.setattr(download, "_TRIES", 3)


def settings(store: Store, *, stall: float = 30.0, cache: Path | None = None) -> ArtifactSettings:
    """What an operator would write for it."""
    return ArtifactSettings(
        cache=CacheSettings(cache, 1 << 30),
        stall=stall,
        slowest=20_000,
        pause=0.002,
        s3=S3Settings(store.proxy.endpoint, "us-east-1", lambda: "stagegate-tests", lambda: SECRET_KEY),
        allow=Allow(buckets=(store.bucket,)),
    )


def files_of_seed(seed: int) -> dict[str, bytes]:
    """A model of two or three parts, one of one part, and one without bytes."""
    chance = random.Random(seed)  # noqa: S311 - nothing secret
    return {
        "model.onnx": chance.randbytes(chance.randrange(70_000, 130_000)),
        "data/weights.bin": chance.randbytes(chance.randrange(1, 20_000)),
        "empty": b"",
    }


class Triton:
    """Looks at repository folders all the time, as a Triton that polls would, and notes what is not whole."""

    def __init__(self) -> None:
        self.wrong: list[str] = []
        self.looks = 0
        self._passes = 0
        self._watched: dict[Path, dict[str, bytes]] = {}
        self._read: set[tuple[str, int, int]] = set()
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._look)
        self._thread.start()

    def watch(self, folder: Path, files: dict[str, bytes]) -> None:
        self._watched[folder] = files

    def unwatch(self, folder: Path) -> None:
        """Look at what is there now once more, from beginning to end, and then no more."""
        passes = self._passes
        while self._passes < passes + 2 and self._thread.is_alive():
            time.sleep(0.005)
        del self._watched[folder]

    def end(self) -> None:
        self._end.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._end.wait(0.01):
            for folder, files in list(self._watched.items()):
                for model in folder.iterdir() if folder.is_dir() else ():
                    if not model.name.startswith("."):
                        self.looks += 1
                        self.wrong += self._unlike(model, files)
            self._passes += 1

    def _unlike(self, model: Path, files: dict[str, bytes]) -> list[str]:
        with contextlib.suppress(FileNotFoundError):
            found = {path: (model / "1" / path).stat() for path in files}
            sizes = {path: status.st_size for path, status in found.items()}
            if sizes != {path: len(content) for path, content in files.items()}:
                return [f"{model} has files of {sizes} bytes"]
            if not (model / "config.pbtxt").is_file():
                return [f"{model} has no configuration"]
            # Bytes are read once for each file that is new; nobody writes to one that is in place.
            known = {path: (f"{model}/{path}", one.st_ino, one.st_ctime_ns) for path, one in found.items()}
            new = [path for path, key in known.items() if key not in self._read]
            self._read.update(known.values())
            return [f"{model} has a wrong {path}" for path in new if _bytes(model, path) != files[path]]
        # It was seen, and a part of it was not: half a folder, unless it was being taken away as a whole.
        return [f"{model} lacks files"] if model.is_dir() else []


def _bytes(model: Path, path: str) -> bytes:
    return (model / "1" / path).read_bytes()


@dataclass
class Case:
    """One of the two hundred."""

    seed: int
    kind: str
    often: int
    cached: bool
    files: dict[str, bytes]
    folder: Path

    @property
    def name(self) -> str:
        return f"s{self.seed}"

    @property
    def version(self) -> Version:
        digest = digest_of_hashes({path: sha256(content).hexdigest() for path, content in self.files.items()})
        return Version(
            *("bucket", ModelName("m"), VersionId(str(self.seed))),
            format="onnx",
            artifact=f"s3://faults/{self.name}",
            digest=digest,
            contract=CONTRACT,
        )


def case_of(seed: int, folder: Path) -> Case:
    """Every kind comes in turn; how often it happens is drawn."""
    chance = random.Random(f"often {seed}")  # noqa: S311 - likewise
    often = chance.choice([1, 2, 6, 1000, 1000])
    return Case(
        seed, KINDS[seed % len(KINDS)], often, seed % 3 == 0, files_of_seed(seed), folder / f"case-{seed}"
    )


def arm(case: Case, store: Store) -> Fault:
    """Let the fault of a case happen from now on."""
    before: Callable[[], None] | None = None
    if case.kind in ("replaced", "unconditional"):
        other = {path: content[::-1] + b"x" for path, content in case.files.items()}
        before = lambda: store.put(case.name, other)  # noqa: E731
    if case.kind == "gone":
        before = lambda: store.client.delete_object(Bucket=store.bucket, Key=f"{case.name}/model.onnx")  # noqa: E731
    fault = Fault(case.kind, case.often, case.seed, before)
    store.proxy.faults[case.name] = fault
    return fault


async def run(case: Case, store: Store, triton: Triton, full_disks: set[str]) -> str:
    """One fetch under the fault and, where it fails, one without; what the first came to."""
    chance = random.Random(f"room {case.seed}")  # noqa: S311 - likewise
    room = chance.randrange(80_000) if case.kind == "no room" else 1 << 40
    repository_folder, cache = case.folder / "repository", case.folder / "cache" if case.cached else None
    triton.watch(repository_folder, case.files)
    stall = 0.4 if case.kind in ("hang", "stall", "slow") else 30.0
    fetcher = Fetcher(settings(store, stall=stall, cache=cache), space=Space(free=lambda _: room))
    repository = TritonRepository(repository_folder, fetcher)
    arm(case, store)
    name = TritonName("m.x")
    problem = await failure_of(repository.put(case.version, name))
    store.proxy.faults.pop(case.name)
    full_disks.discard(str(case.folder))
    if cache is not None:
        assert list((cache / "incoming").iterdir()) == []
    if problem is not None:
        allowed = (*EXPECTED.get(case.kind, ()), ArtifactUnavailable)
        assert isinstance(problem, allowed), (case.kind, repr(problem))
        assert problem.message.startswith(f"m {case.seed}: "), problem.message
        assert list(repository_folder.iterdir()) == [], "something was left behind"
        if case.kind in ("replaced", "unconditional", "gone"):
            await asyncio.to_thread(store.put, case.name, case.files)
        again = TritonRepository(repository_folder, Fetcher(settings(store, cache=cache)))
        await again.put(case.version, name)
    check_whole(case)
    assert [entry.name for entry in repository_folder.iterdir()] == [name]
    await asyncio.to_thread(triton.unwatch, repository_folder)
    return type(problem).__name__


async def failure_of(work: Awaitable[object]) -> StagegateError | None:
    """What it raises, within a time."""
    try:
        await asyncio.wait_for(work, 60)
    except StagegateError as problem:
        return problem
    return None


def check_whole(case: Case) -> None:
    """Every byte of the folder that Triton sees."""
    model = case.folder / "repository/m.x"
    assert {path: (model / "1" / path).read_bytes() for path in case.files} == case.files
    assert {path.name for path in model.iterdir()} == {"1", "config.pbtxt"}


async def test_two_hundred_fetches_with_faults(store: Store, tmp_path: Path, full_disks: set[str]) -> None:
    """No partial or wrong folder is ever seen, every failure is named, and the next try succeeds."""
    cases = [case_of(seed, tmp_path) for seed in range(SEEDS)]
    full_disks |= {str(case.folder) for case in cases if case.kind == "disk full"}
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda case: store.put(case.name, case.files), cases))
    triton, outcomes = Triton(), {}
    gate = asyncio.Semaphore(AT_ONCE)

    async def one(case: Case) -> None:
        async with gate:
            outcomes[case.seed] = await run(case, store, triton, full_disks)

    try:
        await asyncio.gather(*map(one, cases))
    finally:
        triton.end()

    assert triton.wrong == []
    assert triton.looks >= SEEDS
    failed = {KINDS[seed % len(KINDS)] for seed, came in outcomes.items() if came != "NoneType"}
    healed = {KINDS[seed % len(KINDS)] for seed, came in outcomes.items() if came == "NoneType"}
    assert failed >= set(KINDS) - {"unconditional", "whole"}, "a fault did not strike"
    assert healed >= {"cut", "reset", "error", "busy", "short"}, "what passes is to be survived"


@pytest.fixture
def full_disks(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """Folders whose disk is full after 50 KB of any file."""
    full: set[str] = set()
    write = os.pwrite

    def pwrite(descriptor: int, data: memoryview, at: int) -> int:
        path = os.readlink(f"/proc/self/fd/{descriptor}")
        if at + len(data) > 50_000 and any(path.startswith(f"{folder}/") for folder in list(full)):
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(descriptor, data, at)

    monkeypatch.setattr(os, "pwrite", pwrite)
    return full
