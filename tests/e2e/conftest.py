"""Real processes on loopback: the trained examples, and a gateway with a real Triton behind it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import tritonclient.grpc as triton

from tests.servers.ports import free_ports

ROOT = Path(__file__).parents[2]
START_SECONDS = 120.0
STOP_SECONDS = 40.0


def wait_until(what: str, check: Callable[[], bool], seconds: float = 30.0) -> None:
    """Look twenty times a second until it holds; fail with `what` after `seconds`."""
    end = time.monotonic() + seconds
    while not check():
        assert time.monotonic() < end, f"not within {seconds:.0f} s: {what}"
        time.sleep(0.05)


@dataclass
class Gateway:
    """A running `stagegate` process and where it listens."""

    process: subprocess.Popen[bytes]
    folder: Path
    inference: str
    metrics: str
    admin: str
    models: Path
    log: Path
    environment: dict[str, str] = field(default_factory=dict)
    rest: str = ""

    def http(self, path: str) -> tuple[int, str]:
        """GET on the metrics port: status and body; (0, "") where nobody listens."""
        try:
            with urllib.request.urlopen(f"http://{self.metrics}{path}", timeout=5) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()
        except OSError:
            return 0, ""

    def cli(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run the command line against this gateway."""
        done = subprocess.run(
            [sys.executable, "-m", "gateway", *arguments],
            env={**self.environment, "STAGEGATE_SERVER": self.admin},
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert not check or done.returncode == 0, done.stdout + done.stderr
        return done

    def json(self, *arguments: str) -> Any:
        """Run the command line with `--json` and read what it prints."""
        return json.loads(self.cli(*arguments, "--json").stdout)

    def client(self) -> triton.InferenceServerClient:
        """A stock synchronous client."""
        return triton.InferenceServerClient(self.inference)

    def said(self) -> str:
        """All that the process printed so far."""
        return self.log.read_text(errors="replace")

    def stop(self, signum: int = signal.SIGTERM) -> int:
        """Send a signal, wait, and return the exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signum)
        return self.process.wait(STOP_SECONDS)


def environment() -> dict[str, str]:
    """The environment of a user who has set nothing of ours."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("STAGEGATE_")}
    return {**kept, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}


def start_gateway(
    folder: Path,
    command: str,
    body: str,
    models: Path,
    *,
    addresses: tuple[str, str, str, str] | None = None,
    variables: dict[str, str] | None = None,
) -> Gateway:
    """Write a configuration, start `stagegate up|gateway` on it and wait until it is ready.

    `body` is YAML that follows the `listen` and `state` keys. `addresses` are those for inference, REST,
    metrics and admin; `variables` are added to the environment, also to that of its command line.
    """
    free = (f"127.0.0.1:{port}" for port in free_ports(4))
    inference, http, metrics, admin = free if addresses is None else addresses
    config = folder / "stagegate.yaml"
    config.write_text(
        f'listen: {{inference: "{inference}", http: "{http}", metrics: "{metrics}", admin: "{admin}"}}\n'
        "state: sqlite:///state/stagegate.db\n" + body
    )
    log = folder / "gateway.log"
    around = {**environment(), **(variables or {})}
    with log.open("wb") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "gateway", command, "--config", str(config)],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            env=around,
            cwd=folder,
            start_new_session=True,
        )
    gateway = Gateway(process, folder, inference, metrics, admin, models, log, around, http)
    end = time.monotonic() + START_SECONDS
    while gateway.http("/readyz")[0] != 200:
        if process.poll() is not None or time.monotonic() > end:
            gateway.stop(signal.SIGKILL)
            pytest.fail(f"stagegate {command} did not become ready:\n{gateway.said()}")
        time.sleep(0.1)
    return gateway


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example models, trained once for the session."""
    folder = tmp_path_factory.mktemp("trained")
    subprocess.run(
        [sys.executable, str(ROOT / "examples/train.py"), "--output", str(folder)],
        check=True,
        env=environment(),
        timeout=300,
    )
    return folder


@pytest.fixture
def models(trained: Path, tmp_path: Path) -> Path:
    """A registry folder that a test may change."""
    return Path(shutil.copytree(trained / "models", tmp_path / "models"))


UP = "registries:\n  local: {type: folder, path: ./models}\ndefault_registry: local\n"


@pytest.fixture(scope="module")
def up(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """`stagegate up` on the examples, shared by the tests of one module."""
    folder = tmp_path_factory.mktemp("up")
    models = Path(shutil.copytree(trained / "models", folder / "models"))
    gateway = start_gateway(folder, "up", UP, models)
    yield gateway
    gateway.stop()
