"""How fast an artifact is fetched, and in how much memory: `python -m loadtest.bench.artifacts`.

A SeaweedFS on loopback holds one large object. It is fetched in turns by Stagegate (download, SHA-256,
checks, fsync, in place by one rename) and by the plain way: boto3's `download_file`, then `sha256sum`, then
`sync` of the file. Each fetch is a process of its own, timed from after its imports. The result is the ratio
of speeds in each pair of neighbours, and their median: a busy machine is slow for both.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

from router.artifacts.digest import digest_of_hashes
from router.artifacts.fetch import Fetcher
from router.artifacts.policy import Allow, ArtifactSettings, S3Settings
from router.model import ModelName, Version, VersionId
from tests.servers import s3

BAR = 0.8
_GROWTH = 30_000_000
"""Bytes of memory that ten times the size may cost more."""
_BUCKET, _NAME = "bench", "model.onnx"
_WAYS = ("ours", "plain")


def main() -> int:
    """Run the rounds and print what they came to; 1 where a bar is not reached."""
    parser = argparse.ArgumentParser(prog="python -m loadtest.bench.artifacts", description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--size", type=int, default=300, help="MB")
    parser.add_argument("--folder", type=Path, help="where files are put; a temporary folder without it")
    parser.add_argument("--child", nargs=3, metavar=("WAY", "FOLDER", "DIGEST"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child is not None:
        way, folder, digest = arguments.child
        print(json.dumps(_one(way, Path(folder), digest)))  # noqa: T201 - for the process that started it
        return 0
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        return _rounds(Path(folder), arguments.rounds, arguments.size * 1_000_000)


def _rounds(folder: Path, rounds: int, size: int) -> int:
    store = folder / "store"
    store.mkdir()
    with s3.running(store) as server:
        server.bucket(_BUCKET)
        digests = {length: _upload(server, length) for length in (size, size // 10)}
        told: dict[str, list[Mapping[str, float]]] = {way: [] for way in _WAYS}
        for turn in range(rounds + 1):
            for way in _WAYS if turn % 2 else reversed(_WAYS):
                result = _in_a_process(way, folder, server, size, digests[size])
                if turn:  # the first warms the store's and the system's caches
                    told[way].append(result)
        small = _in_a_process("ours", folder, server, size // 10, digests[size // 10])
    return _say(told, small, size)


def _upload(server: s3.Server, size: int) -> str:
    """Put an object of random bytes there; its artifact's digest."""
    content = os.urandom(size)
    with contextlib.closing(server.client()) as client:
        client.put_object(Bucket=_BUCKET, Key=f"{size}/{_NAME}", Body=content)
    return digest_of_hashes({_NAME: hashlib.sha256(content).hexdigest()})


def _in_a_process(way: str, folder: Path, server: s3.Server, size: int, digest: str) -> Mapping[str, float]:
    target = folder / "target"
    target.mkdir()
    command = [sys.executable, "-m", "loadtest.bench.artifacts", "--child", way, str(target), digest]
    place = {"BENCH_ENDPOINT": server.endpoint, "BENCH_KEY": f"{size}/{_NAME}"}
    done = subprocess.run(  # noqa: S603 - this very program
        command, check=True, capture_output=True, env={**os.environ, **place}
    )
    shutil.rmtree(target)
    result: Mapping[str, float] = json.loads(done.stdout)
    return result


def _one(way: str, folder: Path, digest: str) -> Mapping[str, float]:
    """Fetch in this process: seconds, processor seconds of it and its children, and its peak memory."""
    server = s3.Server(os.environ["BENCH_ENDPOINT"])
    import boto3  # noqa: PLC0415 - not timed

    del boto3
    started = time.perf_counter()
    before = _processor()
    (_ours if way == "ours" else _plain)(server, os.environ["BENCH_KEY"], folder, digest)
    return {
        "seconds": time.perf_counter() - started,
        "processor": _processor() - before,
        "peak": _peak(),
    }


def _peak() -> int:
    """Most bytes of memory so far; getrusage would count what the process was that started this one."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))


def _processor() -> float:
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def _ours(server: s3.Server, key: str, folder: Path, digest: str) -> None:
    keys = S3Settings(server.endpoint, server.region, lambda: server.access_key, lambda: server.secret_key)
    fetcher = Fetcher(ArtifactSettings(s3=keys, allow=Allow(buckets=(_BUCKET,))))
    work = folder / "work"
    work.mkdir()
    uri = f"s3://{_BUCKET}/{key}"
    fetcher.fetch(Version("bench", ModelName("m"), VersionId("1"), artifact=uri, digest=digest), work)
    work.rename(folder / "model")


def _plain(server: s3.Server, key: str, folder: Path, digest: str) -> None:
    file = folder / _NAME
    with contextlib.closing(server.client()) as client:
        client.download_file(_BUCKET, key, str(file))
    printed = subprocess.run(  # noqa: S603 - what a person would type
        ["sha256sum", file],  # noqa: S607
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    if digest_of_hashes({_NAME: printed.split()[0]}) != digest:
        raise SystemExit("the plain way fetched other bytes")
    subprocess.run(["sync", file], check=True)  # noqa: S603, S607 - likewise


def _say(told: Mapping[str, list[Mapping[str, float]]], small: Mapping[str, float], size: int) -> int:
    ratios = [
        plain["seconds"] / ours["seconds"] for ours, plain in zip(told["ours"], told["plain"], strict=True)
    ]
    for way, results in told.items():
        seconds = statistics.median(result["seconds"] for result in results)
        processor = statistics.median(result["processor"] for result in results)
        peak = max(result["peak"] for result in results) / 1e6
        _print(
            f"{way:6} {seconds:6.2f} s  {size / seconds / 1e6:6.0f} MB/s  "
            f"{processor:5.2f} s of processor  {peak:4.0f} MB at most"
        )
    ratio = statistics.median(ratios)
    spread = f"{min(ratios):.2f} to {max(ratios):.2f}"
    _print(f"speed against the plain way: {ratio:.2f} (of {len(ratios)} pairs {spread})")
    _print(f"memory for a tenth of the size: {small['peak'] / 1e6:.0f} MB")
    grown = max(result["peak"] for result in told["ours"]) - small["peak"]
    return 0 if ratio >= BAR and grown < _GROWTH else 1


def _print(text: str) -> None:
    print(text, flush=True)  # noqa: T201 - a report for people


if __name__ == "__main__":
    raise SystemExit(main())
