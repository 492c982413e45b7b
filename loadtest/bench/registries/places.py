"""Registries on real servers, filled with many models of which a few will be resident."""

from __future__ import annotations

import json
import os
import sqlite3
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Protocol

from loadtest.bench.cpu import process_tree, ticked_seconds
from loadtest.bench.scale import model_name
from tests.servers import mlflow, s3
from tests.servers.faults import Proxy, proxy

HOT = 4
"""Models that are resident, in two versions."""

ALIAS = "champion"

_FILES = {
    "model.py": b"class TritonPythonModel:\n    def execute(self, requests):\n        return []\n",
}
_CONTRACT = {
    "inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 4]}],
    "outputs": [{"name": "y", "datatype": "FP32", "shape": [-1, 1]}],
}
_SECRET = "of-this-measurement"  # noqa: S105 - of a server that lives for one run, on loopback
_AT_ONCE = 16


@dataclass(slots=True)
class Calls:
    """What a registry's server was asked, with the monotonic time of each call.

    Attributes:
        begins: whether a path, with its query, is the first call of a poll.
        polls: when polls began.
    """

    begins: Callable[[str], bool] = lambda path: False
    polls: list[float] = field(default_factory=list)
    made: list[tuple[float, str]] = field(default_factory=list)

    def note(self, method: str, path: str) -> None:
        """One more."""
        if self.begins(path):
            self.polls.append(time.monotonic())
        self.made.append((time.monotonic(), f"{method} {path.partition('?')[0]}"))

    def between(self, begin: float, end: float) -> list[str]:
        """Those from one moment to another."""
        return [what for at, what in self.made if begin <= at < end]


class Place(Protocol):
    """A registry on a real server.

    Attributes:
        name: of its kind.
        calls: what the gateway asked; None where it asks no server.
        variables: for the gateway's environment.
        bounded: whether a poll costs the same however many models there are.
    """

    name: str
    bounded: bool
    calls: Calls | None
    variables: dict[str, str]

    def section(self, poll: float) -> str:
        """Its part of the configuration, from `registries` on."""
        ...

    def move(self, model: str, version: str) -> None:
        """Let the alias of a model name a version."""
        ...

    def server_seconds(self) -> float:
        """Processor time of its server so far."""
        ...

    def notices(self, gateway: str) -> Callable[[], list[float]] | None:
        """Let it post notices to a gateway's REST port from now on; None where it has none.

        Gives what tells when they came.
        """
        ...

    def silence(self) -> None:
        """No notices any more."""
        ...


def _children_of(started: set[int]) -> tuple[int, ...]:
    return tuple(sorted(set(process_tree(os.getpid())) - started))


class Mlflow:
    """An MLflow server on SQLite. All but one of its models are copied in its database."""

    name = "MLflow"
    bounded = True

    def __init__(self, server: mlflow.Server, between: Proxy, stack: ExitStack, pids: Sequence[int]) -> None:
        self.calls: Calls | None = Calls(lambda path: "registered-models/search" in path)
        self.variables = {"BENCH_SECRET": _SECRET}
        self._server, self._between, self._stack, self._pids = server, between, stack, pids
        between.between = self.calls.note
        self._webhook = ""

    def section(self, poll: float) -> str:
        """See `Place.section`."""
        return (
            f"{{type: mlflow, uri: {self._between.url}, poll: {poll:g}s, "
            "webhook_secret: {env: BENCH_SECRET}}"
        )

    def move(self, model: str, version: str) -> None:
        """See `Place.move`."""
        self._server.alias(model, ALIAS, version)

    def server_seconds(self) -> float:
        """See `Place.server_seconds`."""
        return sum(map(ticked_seconds, self._pids))

    def notices(self, gateway: str) -> Callable[[], list[float]] | None:
        """See `Place.notices`."""
        came = Calls()
        door = self._stack.enter_context(proxy(f"http://{gateway}"))
        door.between = came.note
        events = [{"entity": "MODEL_VERSION_ALIAS", "action": "CREATED"}]
        made = self._server.post(
            "webhooks", name="gateway", url=f"{door.url}/webhooks/models", events=events, secret=_SECRET
        )
        self._webhook = made["webhook"]["webhook_id"]
        return lambda: [at for at, _ in came.made]

    def silence(self) -> None:
        """See `Place.silence`."""
        if self._webhook:
            self._server.delete(f"webhooks/{self._webhook}")
        self._webhook = ""


@contextmanager
def mlflow_place(folder: Path, models: int, versions: int) -> Iterator[Place]:
    """Start it and fill it."""
    with ExitStack() as stack:
        before = set(process_tree(os.getpid()))
        server = stack.enter_context(mlflow.running(folder))
        pids = _children_of(before)
        between = stack.enter_context(proxy(server.uri))
        tags = {"stagegate.format": "python", "stagegate.contract": json.dumps(_CONTRACT)}
        first = model_name(0)
        server.model(first)
        for number in range(versions):
            run = server.run({"accuracy": 0.9 + number / 100})
            server.version(first, _FILES, run=run, tags=tags)
        server.alias(first, ALIAS, "1")
        _copy_models(folder / "mlflow.db", [model_name(number) for number in range(models)])
        yield Mlflow(server, between, stack, pids)


_NAMED = ("registered_models", "model_versions", "model_version_tags", "registered_model_aliases")
_OF_RUNS = ("runs", "latest_metrics")


def _copy_models(database: Path, names: Sequence[str]) -> None:
    """Copies of the first model under the other names, each version with a run of its own."""
    with closing(sqlite3.connect(database, timeout=30)) as store:
        first, *others = names
        for table in _NAMED:
            columns = _columns(store, table)
            found = store.execute(f"SELECT * FROM {table} WHERE name = ?", (first,))  # noqa: S608 - our tables
            _insert(store, table, _renamed(columns, found.fetchall(), others))
        runs = [row[0] for row in store.execute("SELECT run_id FROM model_versions WHERE name = ?", (first,))]
        marks = ", ".join("?" * len(runs))
        for table in _OF_RUNS:
            columns = _columns(store, table)
            found = store.execute(f"SELECT * FROM {table} WHERE run_uuid IN ({marks})", runs)  # noqa: S608
            _insert(store, table, _with_other_runs(columns, found.fetchall(), len(others)))
        store.commit()


def _columns(store: sqlite3.Connection, table: str) -> list[str]:
    return [row[1] for row in store.execute(f"PRAGMA table_info({table})")]


def _renamed(
    columns: Sequence[str], rows: Sequence[tuple[object, ...]], names: Sequence[str]
) -> Iterator[tuple[object, ...]]:
    for number, name in enumerate(names):
        for row in rows:
            values = dict(zip(columns, row, strict=True)) | {"name": name}
            if values.get("run_id"):
                values["run_id"] = _run(str(values["run_id"]), number)
            yield tuple(values.values())


def _with_other_runs(
    columns: Sequence[str], rows: Sequence[tuple[object, ...]], count: int
) -> Iterator[tuple[object, ...]]:
    for number in range(count):
        for row in rows:
            values = dict(zip(columns, row, strict=True))
            yield tuple((values | {"run_uuid": _run(str(values["run_uuid"]), number)}).values())


def _run(run: str, number: int) -> str:
    return f"{number:08x}{run[8:]}"


def _insert(store: sqlite3.Connection, table: str, rows: Iterator[tuple[object, ...]]) -> None:
    for row in rows:
        marks = ", ".join("?" * len(row))
        store.execute(f"INSERT INTO {table} VALUES ({marks})", row)  # noqa: S608 - names of tables above


class Bucket:
    """A bucket of SeaweedFS, with the files of each version beside its manifest."""

    def __init__(self, server: s3.Server, between: Proxy, pids: Sequence[int], *, marked: bool) -> None:
        self.name = "S3 with a mark" if marked else "S3"
        self.bounded = marked
        self.calls: Calls | None = Calls(_is_mark if marked else _is_first_page)
        self.variables = {"BENCH_KEY": server.access_key, "BENCH_SECRET": server.secret_key}
        self._between, self._pids, self._bucket = between, pids, server.bucket("registry")
        between.between = self.calls.note
        self._client = server.client()

    def section(self, poll: float) -> str:
        """See `Place.section`."""
        return (
            f"{{type: s3, uri: 's3://{self._bucket}/models', endpoint: {self._between.url}, poll: {poll:g}s, "
            "access_key: {env: BENCH_KEY}, secret_key: {env: BENCH_SECRET}"
            f"{', mark: CHANGED' if self.bounded else ''}}}"
        )

    def move(self, model: str, version: str) -> None:
        """See `Place.move`."""
        self._client.put_object(
            Bucket=self._bucket, Key=f"models/{model}/model.yaml", Body=_model_manifest(version)
        )
        self._mark()

    def fill(self, models: int, versions: int) -> None:
        """Write all objects."""

        def put(entry: tuple[str, bytes]) -> None:
            self._client.put_object(Bucket=self._bucket, Key=f"models/{entry[0]}", Body=entry[1])

        with ThreadPoolExecutor(_AT_ONCE) as pool:
            for _ in pool.map(put, _all_files(models, versions)):
                pass
        self._mark()

    def _mark(self) -> None:
        if self.bounded:
            now = str(time.time_ns()).encode()
            self._client.put_object(Bucket=self._bucket, Key="models/CHANGED", Body=now)

    def server_seconds(self) -> float:
        """See `Place.server_seconds`."""
        return sum(map(ticked_seconds, self._pids))

    def notices(self, gateway: str) -> Callable[[], list[float]] | None:
        """See `Place.notices`."""
        return None

    def silence(self) -> None:
        """See `Place.silence`."""

    def close(self) -> None:
        """Give back connections."""
        self._client.close()


def _is_mark(path: str) -> bool:
    return path.endswith("/CHANGED")


def _is_first_page(path: str) -> bool:
    return "list-type" in path and "start-after" not in path


@contextmanager
def bucket_place(folder: Path, models: int, versions: int, *, marked: bool = False) -> Iterator[Place]:
    """Start it and fill it."""
    with ExitStack() as stack:
        before = set(process_tree(os.getpid()))
        server = stack.enter_context(s3.running(folder))
        pids = _children_of(before)
        between = stack.enter_context(proxy(server.endpoint))
        place = stack.enter_context(closing(Bucket(server, between, pids, marked=marked)))
        place.fill(models, versions)
        yield place


class Folder:
    """A folder of this machine."""

    name = "folder"
    bounded = True

    def __init__(self, path: Path) -> None:
        self.calls: Calls | None = None
        self.variables: dict[str, str] = {}
        self._path = path

    def section(self, poll: float) -> str:
        """See `Place.section`; it looks as often as it likes."""
        return f"{{type: folder, path: {self._path}}}"

    def move(self, model: str, version: str) -> None:
        """See `Place.move`."""
        target = self._path / model / "model.yaml"
        descriptor, beside = tempfile.mkstemp(dir=target.parent, prefix=".model.yaml.", suffix=".tmp")
        with os.fdopen(descriptor, "wb") as file:
            file.write(_model_manifest(version))
        os.replace(beside, target)

    def server_seconds(self) -> float:
        """See `Place.server_seconds`."""
        return 0.0

    def notices(self, gateway: str) -> Callable[[], list[float]] | None:
        """See `Place.notices`."""
        return None

    def silence(self) -> None:
        """See `Place.silence`."""


@contextmanager
def folder_place(folder: Path, models: int, versions: int) -> Iterator[Place]:
    """Fill it."""
    for path, content in _all_files(models, versions):
        target = folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)
    yield Folder(folder)


def _all_files(models: int, versions: int) -> Iterator[tuple[str, bytes]]:
    for name in map(model_name, range(models)):
        for version in range(1, versions + 1):
            for path, content in _FILES.items():
                yield f"{name}/{version}/model/{path}", content
            yield f"{name}/{version}/version.yaml", _version_manifest()
        yield f"{name}/model.yaml", _model_manifest("1")


def _version_manifest() -> bytes:
    return f"format: python\nartifact: model\ncontract: {json.dumps(_CONTRACT)}\n".encode()


def _model_manifest(version: str) -> bytes:
    return f'aliases: {{{ALIAS}: "{version}"}}\n'.encode()


PLACES: dict[str, Callable[[Path, int, int], AbstractContextManager[Place]]] = {
    "mlflow": mlflow_place,
    "s3": bucket_place,
    "s3-mark": partial(bucket_place, marked=True),
    "folder": folder_place,
}
"""Starts one with so many models and versions."""
