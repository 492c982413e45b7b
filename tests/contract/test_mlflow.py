"""What a real MLflow server does, beside what every registry promises."""

from __future__ import annotations

import http.server
import json
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from router.artifacts.digest import digest_of
from router.errors import (
    ArtifactMissing,
    ArtifactUnavailable,
    Conflict,
    InvalidInput,
    ModelNotFound,
    RegistryRefused,
    VersionNotFound,
    WebhookRefused,
)
from router.model import Contract, ModelName, PointerKind, TensorSpec, Version, VersionId
from router.ports import AliasChange, Hint, NewVersion, Registry, RegistryChange, StageTransition, TagChange
from router.registries.mlflow import TYPE
from tests.servers.between import Answer, Between, between
from tests.servers.mlflow import Server

SECRET = "of-this-test"  # noqa: S105 - it is one of a server that lives for one run
WRITES = ("model-versions/set-tag", "model-versions/delete-tag")


@pytest.fixture
def model(mlflow_server: Server, request: pytest.FixtureRequest) -> ModelName:
    """A registered model of this test's own."""
    name = ModelName(request.node.name.partition("[")[0])
    mlflow_server.model(name)
    return name


@pytest.fixture
def wire(mlflow_server: Server) -> Iterator[Between]:
    """What is between the registry and the server: it notes what is asked."""
    with between(mlflow_server.uri) as made:
        yield made


@pytest.fixture
def registry(wire: Between, request: pytest.FixtureRequest) -> Registry:
    """A registry of that one model."""
    name = request.node.name.partition("[")[0]
    return TYPE.open("prod", {"uri": wire.uri, "models": (name,), "webhook_secret": lambda: SECRET})


async def test_runs_are_metrics_and_lineage(
    registry: Registry, mlflow_server: Server, model: ModelName
) -> None:
    """Where a run logged them; an unfinished one too."""
    parent = mlflow_server.run()
    tags = {"mlflow.source.git.commit": "abc", "mlflow.user": "ann", "mlflow.parentRunId": parent.id}
    run = mlflow_server.run({"accuracy": 0.9}, **tags)
    dataset = {"name": "digits", "digest": "d1", "source_type": "local", "source": "{}"}
    mlflow_server.post("runs/log-inputs", run_id=run.id, datasets=[{"dataset": dataset}])
    mlflow_server.version(model, run=run, tags={"team": "a"})
    view = await registry.read()
    version = view.models[model].versions[VersionId("1")]

    assert view.problems == ()
    assert version.metrics == {"accuracy": 0.9}
    assert version.tags == {"team": "a"}
    assert version.lineage == {
        "run": run.id,
        "commit": "abc",
        "user": "ann",
        "parent": parent.id,
        "dataset": "digits@d1",
    }
    assert (version.format, version.unusable) == ("mlflow", "")


async def test_places_are_followed_to_where_files_lie(
    registry: Registry, mlflow_server: Server, model: ModelName
) -> None:
    """From logged models, runs, and versions that were copied."""
    run = mlflow_server.run()
    logged = mlflow_server.post("logged-models", experiment_id="0", name="m", source_run_id=run.id)["model"]
    logged_model = logged["info"]["model_id"]
    mlflow_server.version(model, source=f"models:/{logged_model}", model_id=logged_model)
    mlflow_server.version(model, source=f"runs:/{run.id}/some/model", run=run)
    mlflow_server.version(model, source=f"models:/{model}/1")
    mlflow_server.version(model, source=f"models:/{model}/2")
    versions = (await registry.read()).models[model].versions

    assert [version.artifact for version in versions.values()] == [
        logged["info"]["artifact_uri"],
        f"{run.artifacts}/some/model",
        logged["info"]["artifact_uri"],
        f"{run.artifacts}/some/model",
    ]
    assert {version.unusable for version in versions.values()} == {""}


async def test_a_stage_transition_archives_what_was_there(
    registry: Registry, mlflow_server: Server, wire: Between, model: ModelName
) -> None:
    """Once; the second time nothing is called that changes anything."""
    for _ in range(3):
        mlflow_server.version(model, source="s3://models/m")
    mlflow_server.stage(model, "1", "Production")
    change = StageTransition(model, VersionId("2"), "production", expected="1")
    await registry.write(change)
    wire.asked.clear()
    await registry.write(change)
    view = await registry.read(Hint(model))

    assert view.models[model].stages == {"archived": "1", "production": "2"}
    assert not [path for path in wire.paths() if path.endswith("transition-stage")]
    await registry.write(StageTransition(model, VersionId("2"), ""))
    assert (await registry.read(Hint(model))).models[model].stages == {"archived": "1"}


async def test_an_alias_moves_and_goes(
    registry: Registry, mlflow_server: Server, wire: Between, model: ModelName
) -> None:
    """And what already is so is not written: MLflow would post a notice of it."""
    for _ in range(2):
        mlflow_server.version(model, source="s3://models/m")
    change = AliasChange(model, "champion", VersionId("2"), expected="")
    await registry.write(change)
    wire.asked.clear()
    await registry.write(change)

    assert [asked.method for asked in wire.asked] == ["GET"]
    assert await registry.resolve(model, PointerKind.ALIAS, "champion") == "2"
    await registry.write(AliasChange(model, "champion", None, expected="2"))
    await registry.write(AliasChange(model, "champion", None, expected=""))
    assert await registry.resolve(model, PointerKind.ALIAS, "champion") is None


async def test_tags_are_set_and_taken_away(
    registry: Registry, mlflow_server: Server, wire: Between, model: ModelName
) -> None:
    """Also seen by `get`."""
    mlflow_server.version(model, source="s3://models/m")
    tag = TagChange(model, VersionId("1"), "stagegate.promoted-by", "ann & bob")
    await registry.write(tag)
    await registry.write(tag)
    version = await registry.get(model, VersionId("1"))
    assert isinstance(version, Version)
    assert version.tags == {"stagegate.promoted-by": "ann & bob"}
    await registry.write(replace(tag, value=None))
    await registry.write(replace(tag, value=None))

    assert [path.endswith(WRITES) for path in wire.paths()].count(True) == 2


async def test_what_cannot_be_written_says_why(
    registry: Registry, mlflow_server: Server, wire: Between, model: ModelName
) -> None:
    """And changes nothing."""
    for _ in range(2):
        mlflow_server.version(model, source="s3://models/m")
    mlflow_server.stage(model, "2", "Production")
    mlflow_server.alias(model, "champion", "2")
    other, first, ninth = ModelName("nobody"), VersionId("1"), VersionId("9")
    refused: list[tuple[RegistryChange, type[Exception]]] = [
        (StageTransition(model, first, "production", expected="1"), Conflict),
        (StageTransition(model, first, "production", expected=""), Conflict),
        (StageTransition(model, first, "canary"), RegistryRefused),
        (StageTransition(model, ninth, "staging"), VersionNotFound),
        (StageTransition(other, first, "staging"), ModelNotFound),
        (AliasChange(model, "champion", first, expected=""), Conflict),
        (AliasChange(model, "v7", first), RegistryRefused),
        (AliasChange(model, "new", ninth), VersionNotFound),
        (AliasChange(model, "new", VersionId("1.0")), VersionNotFound),
        (AliasChange(other, "new", first), ModelNotFound),
        (TagChange(model, ninth, "a", "b"), VersionNotFound),
        (TagChange(other, first, "a", "b"), ModelNotFound),
    ]
    for change, error in refused:
        with pytest.raises(error):
            await registry.write(change)
    model_now = (await registry.read()).models[model]

    assert (model_now.stages, model_now.aliases) == ({"production": "2"}, {"champion": "2"})


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """A model's files, one of them in a folder and with a blank in its name, one empty, one large."""
    folder = tmp_path / "model"
    (folder / "weights and more").mkdir(parents=True)
    (folder / "MLmodel").write_text("flavors: {onnx: {data: model.onnx}}\n")
    (folder / "model.onnx").write_bytes(bytes(range(256)) * 40_000)
    (folder / "weights and more" / "1 & 2.bin").write_bytes(b"one")
    (folder / "empty").write_bytes(b"")
    return folder


async def test_files_are_registered_and_read_back(
    registry: Registry, files: Path, request: pytest.FixtureRequest
) -> None:
    """With digest, format, contract, metrics and lineage; whole, and in ranges."""
    contract = Contract((TensorSpec("x", "FP32", (-1, 4)),), (TensorSpec("y", "INT64", (-1,)),))
    new = NewVersion(
        *(ModelName(request.node.name), files, "onnx", digest_of(files)),
        contract=contract,
        metrics={"accuracy": 0.75},
        tags={"team": "a"},
        lineage={"commit": "abc", "ticket": "7"},
        description="the first",
    )
    said: list[str] = []
    version = await registry.register(new, said.append)

    assert (version.version, version.digest, version.contract) == ("1", new.digest, contract)
    assert (version.format, version.metrics, version.tags["team"]) == ("onnx", {"accuracy": 0.75}, "a")
    assert version.lineage.items() >= {"commit": "abc", "ticket": "7", "description": "the first"}.items()
    assert said[0] == "uploading MLmodel (1 of 4)"
    source = registry.source(version.artifact)
    assert source is not None
    found = {file.path: file for file in source.files(version.artifact)}
    assert {path: file.size or 0 for path, file in found.items()} == {
        path.relative_to(files).as_posix(): path.stat().st_size for path in files.rglob("*") if path.is_file()
    }
    for path, file in found.items():
        assert b"".join(source.read(version.artifact, file, 0, None)) == (files / path).read_bytes()
    onnx = (files / "model.onnx").read_bytes()
    for start, end in ((0, 10), (1_000, None), (9_000_000, 9_000_001), (5, 5)):
        assert b"".join(source.read(version.artifact, found["model.onnx"], start, end)) == onnx[start:end]
    (alone,) = source.files(f"{version.artifact}/model.onnx")
    assert (alone.path, alone.size) == ("model.onnx", len(onnx))
    assert b"".join(source.read(f"{version.artifact}/model.onnx", alone, 3, 7)) == onnx[3:7]
    with pytest.raises(ArtifactMissing):
        source.files(f"{version.artifact}/nothing")
    source.close()


async def test_registering_again_is_no_second_version(
    registry: Registry, files: Path, request: pytest.FixtureRequest
) -> None:
    """The same files under the same id are no error; other files or an id out of turn are."""
    new = NewVersion(ModelName(request.node.name), files, "onnx", digest_of(files))
    first = await registry.register(new)

    assert await registry.register(new) == first
    assert await registry.register(replace(new, version="1")) == first
    for wrong in ("3", "0", "1.0.0"):
        with pytest.raises(InvalidInput, match="not the next one"):
            await registry.register(replace(new, version=wrong))
    (files / "MLmodel").write_text("flavors: {}\n")
    other = replace(new, digest=digest_of(files))
    with pytest.raises(InvalidInput, match="has other files"):
        await registry.register(replace(other, version="1"))
    assert (await registry.register(replace(other, version="2"))).version == "2"
    assert list((await registry.read()).models[new.model].versions) == ["1", "2"]


async def test_nobody_sees_a_version_whose_files_did_not_arrive(
    registry: Registry, files: Path, wire: Between, request: pytest.FixtureRequest
) -> None:
    """Its run is marked as failed."""
    new = NewVersion(ModelName(request.node.name), files, "onnx", digest_of(files))
    wire.script = lambda asked: Answer(500) if "weights" in asked.path else None
    with pytest.raises(ArtifactUnavailable):
        await registry.register(new)

    assert (await registry.read()).models[new.model].versions == {}
    updates = [json.loads(asked.body) for asked in wire.asked if asked.path.endswith("runs/update")]
    assert updates[-1]["status"] == "FAILED"
    wire.script = lambda _: None
    assert (await registry.register(new)).version == "1"


@dataclass
class Listener:
    """What MLflow posts to us arrives here."""

    uri: str
    came: list[tuple[Mapping[str, str], bytes]]

    def wait(self, count: int) -> list[tuple[Mapping[str, str], bytes]]:
        """The first so many notices; MLflow posts from threads of its own."""
        end = time.monotonic() + 20
        while len(self.came) < count:
            assert time.monotonic() < end, f"only {len(self.came)} of {count} notices came"
            time.sleep(0.01)
        return self.came[:count]


@pytest.fixture
def listener() -> Iterator[Listener]:
    """An HTTP server for notices."""
    came: list[tuple[Mapping[str, str], bytes]] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            came.append(({name.lower(): value for name, value in self.headers.items()}, body))
            self.send_response(200)
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - as the base class calls it
            """Silent."""

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield Listener(f"http://127.0.0.1:{server.server_port}/webhooks/prod", came)
    server.shutdown()
    server.server_close()
    thread.join()


async def test_notices_that_mlflow_posts_are_hints(
    registry: Registry, mlflow_server: Server, model: ModelName, listener: Listener
) -> None:
    """Signed by its own code; one that is changed or comes twice is refused."""
    events = [
        {"entity": "MODEL_VERSION_ALIAS", "action": "CREATED"},
        {"entity": "MODEL_VERSION_ALIAS", "action": "DELETED"},
        {"entity": "MODEL_VERSION", "action": "CREATED"},
        {"entity": "MODEL_VERSION_TAG", "action": "SET"},
    ]
    made = mlflow_server.post("webhooks", name="gateway", url=listener.uri, events=events, secret=SECRET)
    await registry.read()
    mlflow_server.version(model, source="s3://models/m")
    listener.wait(1)
    mlflow_server.alias(model, "champion", "1")
    (_, alias) = listener.wait(2)
    now = time.time()
    hints = [registry.webhook(headers, body, now) for headers, body in listener.came]

    assert hints == [[Hint(model)], [Hint(model, "champion")]]
    view = await registry.read(hints[1][0])
    assert view.models[model].aliases == {"champion": "1"}
    with pytest.raises(WebhookRefused, match="it came before"):
        registry.webhook(*alias, now)
    with pytest.raises(WebhookRefused, match="signature"):
        registry.webhook(alias[0], alias[1].replace(b"champion", b"champio2"), now)
    mlflow_server.delete("registered-models/alias", name=model, alias="champion")
    assert registry.webhook(*listener.wait(3)[2], time.time()) == [Hint(model, "champion")]
    mlflow_server.delete(f"webhooks/{made['webhook']['webhook_id']}")
