"""A real MLflow server on loopback: `mlflow server` on SQLite, one for all tests of a run."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.parse import quote, urlencode
from urllib.request import ProxyHandler, Request, build_opener

import pytest

from tests.servers.ports import free_port

_START_SECONDS = 120.0
_API = "/api/2.0/mlflow"
_OPENER = build_opener(ProxyHandler({}))


class Refused(Exception):
    """The server answered with an error; `status` and what it said."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(f"{status}: {text}")
        self.status = status


@dataclass(frozen=True)
class Run:
    """A run: its id, and the URI of its artifacts."""

    id: str
    artifacts: str


@dataclass(frozen=True)
class Server:
    """An MLflow server, and calls of its REST API."""

    uri: str

    def get(self, path: str, **query: object) -> Any:
        """Such as `get("registered-models/get", name="m")`. Raises Refused."""
        return self._send("GET", f"{_API}/{path}?{urlencode(query)}")

    def post(self, path: str, **body: object) -> Any:
        """Such as `post("registered-models/create", name="m")`. Raises Refused."""
        return self._send("POST", f"{_API}/{path}", json.dumps(body).encode())

    def patch(self, path: str, **body: object) -> Any:
        """As `post`."""
        return self._send("PATCH", f"{_API}/{path}", json.dumps(body).encode())

    def delete(self, path: str, **body: object) -> Any:
        """As `post`."""
        return self._send("DELETE", f"{_API}/{path}", json.dumps(body).encode())

    def upload(self, path: str, content: bytes) -> None:
        """Put a file behind the artifact proxy, under `mlflow-artifacts:/<path>`."""
        self._send("PUT", f"/api/2.0/mlflow-artifacts/artifacts/{quote(path)}", content)

    def model(self, name: str) -> None:
        """Make a registered model."""
        self.post("registered-models/create", name=name)

    def run(self, metrics: Mapping[str, float] | None = None, **tags: str) -> Run:
        """Make a finished run, as a training would; tags such as `mlflow.source.git.commit`."""
        made = self.post(
            "runs/create",
            experiment_id="0",
            start_time=int(time.time() * 1000),
            tags=[{"key": key, "value": value} for key, value in tags.items()],
        )["run"]["info"]
        at = int(time.time() * 1000)
        told = [{"key": key, "value": value, "timestamp": at} for key, value in (metrics or {}).items()]
        self.post("runs/log-batch", run_id=made["run_id"], metrics=told)
        self.post("runs/update", run_id=made["run_id"], status="FINISHED")
        return Run(made["run_id"], made["artifact_uri"])

    def version(
        self,
        model: str,
        files: Mapping[str, bytes] | None = None,
        *,
        run: Run | None = None,
        source: str = "",
        tags: Mapping[str, str] | None = None,
        model_id: str = "",
    ) -> str:
        """Make one more version of a model, by default with a run and a folder `model` of its own.

        Files are put behind the artifact proxy; `model_id` is the logged model that `source` names. Returns
        the version's number.
        """
        if not source:
            run = run or self.run()
            source = f"{run.artifacts}/model"
        for path, content in (files or {}).items():
            self.upload(f"{source.removeprefix('mlflow-artifacts:/')}/{path}", content)
        made = self.post(
            "model-versions/create",
            name=model,
            source=source,
            **({"run_id": run.id} if run else {}),
            **({"model_id": model_id} if model_id else {}),
            tags=[{"key": key, "value": value} for key, value in (tags or {}).items()],
        )
        return str(made["model_version"]["version"])

    def alias(self, model: str, alias: str, version: str) -> None:
        """Let an alias name a version."""
        self.post("registered-models/alias", name=model, alias=alias, version=version)

    def stage(self, model: str, version: str, stage: str, *, archive: bool = False) -> None:
        """Put a version into a stage."""
        self.post(
            "model-versions/transition-stage",
            name=model,
            version=version,
            stage=stage,
            archive_existing_versions=archive,
        )

    def environment(self) -> dict[str, str]:
        """What programs with MLflow's own client need in their environment to find it."""
        return {"MLFLOW_TRACKING_URI": self.uri, **_QUIET}

    def _send(self, method: str, path: str, body: bytes | None = None) -> Any:
        headers = {"content-type": "application/json"} if body is not None else {}
        request = Request(self.uri + path, body, headers, method=method)
        try:
            with _OPENER.open(request, timeout=60) as answer:
                return json.loads(answer.read() or b"{}")
        except HTTPError as error:
            with error:
                raise Refused(error.code, error.read().decode(errors="replace")) from None


@pytest.fixture(scope="session")
def mlflow_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The MLflow of this run, with artifacts in a folder behind its proxy. Models need names of their own."""
    with running(tmp_path_factory.mktemp("mlflow")) as server:
        yield server


class Process:
    """A server that keeps all it has in a folder, and can be killed and started again where it was.

    Attributes:
        compiled: what programs that import MLflow need in their environment to find it compiled already.

    Args:
        folder: for its database and log.
        artifacts: where artifacts are to lie, such as `s3://bucket/prefix`; "" for `folder`.
        proxied: whether clients reach them through the server, or go to `artifacts` themselves.
        environment: added to the server's, such as the keys of an S3.
    """

    def __init__(
        self,
        folder: Path,
        *,
        artifacts: str = "",
        proxied: bool = True,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        port = free_port()
        self.server = Server(f"http://127.0.0.1:{port}")
        self._folder = folder
        self._log = folder / "mlflow.log"
        self._command = _command(folder, port, artifacts, proxied=proxied)
        self.compiled = _compiled(folder)
        self._environment = _environment(folder, {**self.compiled, **(environment or {})})
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, and return when it answers."""
        with self._log.open("ab") as output:
            self._process = subprocess.Popen(
                self._command,
                cwd=self._folder,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env=self._environment,
            )
        _wait(self._process, self.server, self._log)

    def kill(self) -> None:
        """End it and its children at once; nothing where it does not run."""
        process, self._process = self._process, None
        if process is not None:
            _end(process)


@contextlib.contextmanager
def process(
    folder: Path,
    *,
    artifacts: str = "",
    proxied: bool = True,
    environment: Mapping[str, str] | None = None,
) -> Iterator[Process]:
    """A started `Process`; it ends with the block, and its folder is removed."""
    made = Process(folder, artifacts=artifacts, proxied=proxied, environment=environment)
    try:
        made.start()
        yield made
    finally:
        made.kill()
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def running(
    folder: Path,
    *,
    artifacts: str = "",
    proxied: bool = True,
    environment: Mapping[str, str] | None = None,
) -> Iterator[Server]:
    """As `process`, for those who only speak to it."""
    with process(folder, artifacts=artifacts, proxied=proxied, environment=environment) as made:
        yield made.server


_QUIET = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "GIT_PYTHON_REFRESH": "quiet",
}


def _command(folder: Path, port: int, artifacts: str, *, proxied: bool) -> list[str]:
    root = artifacts or str(folder / "artifacts")
    place = ["--serve-artifacts", "--artifacts-destination", root]
    if not proxied:
        place = ["--no-serve-artifacts", "--default-artifact-root", root]
    return [
        *(sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port)),
        *("--workers", "1", "--backend-store-uri", f"sqlite:///{folder / 'mlflow.db'}"),
        *place,
    ]


def _environment(folder: Path, more: Mapping[str, str]) -> dict[str, str]:
    ours = {key: value for key, value in os.environ.items() if not key.startswith("MLFLOW_")}
    return {
        **ours,
        **_QUIET,
        # Without these it sends webhooks to https and to public addresses only.
        "MLFLOW_WEBHOOK_ALLOWED_SCHEMES": "http,https",
        "MLFLOW_WEBHOOK_ALLOW_PRIVATE_IPS": "true",
        # Without it each of its processes would make a key of its own.
        "MLFLOW_WEBHOOK_SECRET_ENCRYPTION_KEY": base64.urlsafe_b64encode(os.urandom(32)).decode(),
        # It remembers which webhooks there are for so many seconds.
        "MLFLOW_WEBHOOK_CACHE_TTL": "0",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "HOME": str(folder),
        **more,
    }


def _compiled(folder: Path) -> dict[str, str]:
    """Where nobody may write beside the sources, each start would compile them anew, for many seconds."""
    if not os.environ.get("PYTHONDONTWRITEBYTECODE"):
        return {}
    return {"PYTHONDONTWRITEBYTECODE": "", "PYTHONPYCACHEPREFIX": str(folder.with_name("mlflow-compiled"))}


def _wait(process: subprocess.Popen[bytes], server: Server, log: Path) -> None:
    end = time.monotonic() + _START_SECONDS
    while True:
        assert process.poll() is None, f"mlflow ended with {process.returncode}:\n{_tail(log)}"
        assert time.monotonic() < end, f"mlflow did not start:\n{_tail(log)}"
        with contextlib.suppress(OSError), _OPENER.open(f"{server.uri}/health", timeout=2):
            return
        time.sleep(0.1)


def _tail(log: Path) -> str:
    return log.read_text(errors="replace")[-3000:]


def _end(process: subprocess.Popen[bytes]) -> None:
    """End the process group at once; what is to be kept is in its database."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
