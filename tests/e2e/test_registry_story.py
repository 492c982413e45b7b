"""From a training script to clients and back, on real servers: MLflow on S3, a bucket, a folder, Triton.

A model is trained and registered, a name is given, clients ask by that name; the name moves, and comes back.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import yaml

from gateway.cli.admin_client import AdminClient, connect
from gateway.operations import RegistryStatus
from router.traffic.routes import parse_short
from tests.e2e.conftest import ROOT, Gateway, start_gateway, wait_until
from tests.e2e.story import NamedLoad, is_resident, residency
from tests.servers import mlflow, s3

BUCKET = "story"
SECRET = "of the webhook"  # noqa: S105 - of servers that live for one run, on loopback
NOTICES = ("REGISTERED_MODEL", "MODEL_VERSION", "MODEL_VERSION_ALIAS")
RARELY, OFTEN = "1h", "1s"
IDLE_SECONDS = 1.0
SOON = 5.0
"""Seconds from residency to the first answer that no machine may need; the figure itself is printed."""

CONFIG = """
registries:
  prod: {{type: mlflow, uri: "{mlflow}", poll: {poll}, webhook_secret: {{env: WEBHOOK_SECRET}}}}
  bucket:
    type: s3
    uri: s3://{bucket}/registry
    endpoint: "{endpoint}"
    region: us-east-1
    access_key: {{env: S3_KEY}}
    secret_key: {{env: S3_SECRET}}
    poll: 1s
  shelf: {{type: folder, path: ./models}}
default_registry: prod
artifacts:
  allow: {{buckets: [{bucket}]}}
  s3:
    endpoint: "{endpoint}"
    region: us-east-1
    access_key: {{env: S3_KEY}}
    secret_key: {{env: S3_SECRET}}
residency: {{idle_unload: {idle:g}s, rollback_window: 10m}}
"""


@dataclass
class World:
    """The servers, and a gateway that follows the alias `@champion` of `digits` in MLflow.

    Attributes:
        process: MLflow, with its artifacts on S3.
        webhook: its number in MLflow; "" while there is none.
    """

    process: mlflow.Process
    s3: s3.Server
    gateway: Gateway
    admin: AdminClient
    webhook: str = field(default="", init=False)

    @property
    def mlflow(self) -> mlflow.Server:
        """Its REST API."""
        return self.process.server

    def by_notices(self) -> None:
        """Let MLflow post notices, so that there is no need to ask."""
        if not self.webhook:
            made = self.mlflow.post(
                "webhooks",
                name="gateway",
                url=f"http://{self.gateway.rest}/webhooks/prod",
                events=[{"entity": entity, "action": "CREATED"} for entity in NOTICES],
                secret=SECRET,
            )
            self.webhook = made["webhook"]["webhook_id"]
        self._poll(RARELY)

    def by_polls(self) -> None:
        """Let MLflow be asked each second, and post nothing."""
        if self.webhook:
            self.mlflow.delete(f"webhooks/{self.webhook}")
            self.webhook = ""
        self._poll(OFTEN)

    def _poll(self, every: str) -> None:
        path = self.gateway.folder / "stagegate.yaml"
        text = path.read_text()
        changed = text.replace(
            f"poll: {RARELY if every == OFTEN else OFTEN}, webhook", f"poll: {every}, webhook"
        )
        if changed != text:
            path.write_text(changed)
            self.admin.reload()

    def train(self, **variables: str) -> None:
        """Run the example as people do."""
        done = subprocess.run(
            [sys.executable, str(ROOT / "examples/log_to_mlflow.py")],
            env={**os.environ, **self.mlflow.environment(), **variables},
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        self.wait_for_version("2")

    def another(self, source: str) -> str:
        """Register what is there under one more number, which no Triton has yet."""
        number = self.mlflow.version("digits", source=source)
        self.wait_for_version(number)
        assert not is_resident(self.admin, "digits", number)
        return number

    def wait_for_version(self, number: str) -> None:
        """Return when the gateway knows a version of digits."""

        def known() -> bool:
            return any(row.version == number for row in self.admin.versions("digits").versions)

        wait_until(f"digits {number} is known", known)

    def champion(self) -> str:
        """What MLflow says at this moment."""
        said = self.mlflow.get("registered-models/alias", name="digits", alias="champion")
        return str(said["model_version"]["version"])

    def move(self, version: str) -> None:
        """Let MLflow's alias name a version, as people do in its pages."""
        self.mlflow.alias("digits", "champion", version)

    def prod(self) -> RegistryStatus:
        """How the gateway stands with MLflow."""
        return next(one for one in self.admin.status().registries if one.name == "prod")


@pytest.fixture(scope="module")
def world(s3_server: s3.Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """Everything started once; two versions registered by the example, the first one `@champion`."""
    s3_server.bucket(BUCKET)
    keys = s3_server.environment()
    folder = tmp_path_factory.mktemp("story")
    (folder / "models").mkdir()
    secrets = {
        "WEBHOOK_SECRET": SECRET,
        "S3_KEY": s3_server.access_key,
        "S3_SECRET": s3_server.secret_key,
    }
    place = tmp_path_factory.mktemp("story-mlflow")
    with mlflow.process(place, artifacts=f"s3://{BUCKET}/mlflow", environment=keys) as process:
        body = CONFIG.format(
            mlflow=process.server.uri,
            endpoint=s3_server.endpoint,
            bucket=BUCKET,
            poll=RARELY,
            idle=IDLE_SECONDS,
        )
        gateway = start_gateway(folder, "up", body, folder / "models", variables=secrets)
        try:
            with connect(gateway.admin, actor="story", timeout=30) as admin:
                made = World(process, s3_server, gateway, admin)
                made.by_notices()
                made.train(**keys, **process.compiled)
                gateway.cli("route", "set", "digits", "stable=@champion:100")
                yield made
        finally:
            gateway.stop()


def there_and_back(world: World, new: str) -> dict[str, float]:
    """Move the alias in MLflow and roll it back here, under load; hold both to what they promise.

    Returns:
        What was measured, in seconds.
    """
    gateway, admin, old = world.gateway, world.admin, world.champion()
    with NamedLoad(gateway.inference, "digits@champion") as load, residency(admin, "digits", new) as seen:
        load.wait_for(old)
        moved = time.monotonic()
        world.move(new)
        load.wait_for(new)
        load.wait_longer(2 * IDLE_SECONDS)
        warm = is_resident(admin, "digits", old)
        told = gateway.cli("rollback", "digits", "--reason", "it is not better", "--wait").stdout
        named = world.champion()
        load.wait_for(old)
        load.wait_for_more()
    decided = decided_at(admin)

    assert load.failures == []
    assert load.turns() == [[old, new, old]] * len(load.answers)
    assert seen.absent < load.first(new)
    assert load.first(new) - seen.present < SOON
    assert warm
    assert told.splitlines()[0] == f"digits: @champion goes from {new} to {old}"
    assert named == old
    return {
        "from the move to residency": seen.present - moved,
        "from residency to the first answer": load.first(new) - seen.present,
        "from the rollback to the first answer": load.first(old, decided) - decided,
    }


def show(what: str, measured: Mapping[str, float]) -> None:
    """Print what was measured, for those who ask pytest for it."""
    print(f"{what}: " + ", ".join(f"{seconds * 1_000:.0f} ms {name}" for name, seconds in measured.items()))  # noqa: T201


def decided_at(admin: AdminClient) -> float:
    """When the last promotion or rollback was decided, in monotonic seconds."""
    newest = max(admin.writes(1), key=lambda write: write.id)
    return newest.at - time.time() + time.monotonic()


def test_an_alias_moves_in_mlflow_and_traffic_follows_its_notice_until_a_rollback(world: World) -> None:
    """By a signed webhook alone; the new version's files come from S3 through MLflow's proxy."""
    world.by_notices()
    measured = there_and_back(world, world.another("models:/digits/2"))
    _, metrics = world.gateway.http("/metrics")

    show("notice", measured)
    assert 'stagegate_registry_webhooks_total{registry="prod",result="taken"}' in metrics
    assert world.admin.describe("digits", "@champion").artifact.startswith("mlflow-artifacts:")


def test_an_alias_moves_in_mlflow_and_traffic_follows_at_a_poll_until_a_rollback(world: World) -> None:
    """Without a webhook; the new version's files come from S3 itself."""
    world.by_polls()
    proxied = world.admin.describe("digits", "2").artifact
    new = world.another(proxied.replace("mlflow-artifacts:", f"s3://{BUCKET}/mlflow"))
    show("poll", there_and_back(world, new))


def test_while_mlflow_is_killed_nothing_fails_and_a_rollback_reaches_it_when_it_is_back(world: World) -> None:
    """Traffic goes on, and back at once where that is asked for; people see how old MLflow's word is."""
    world.by_polls()
    gateway, admin, old, new = world.gateway, world.admin, world.champion(), "2"
    with NamedLoad(gateway.inference, "digits@champion") as load:
        load.wait_for(old)
        world.move(new)
        load.wait_for(new)
        world.process.kill()
        wait_until("people are told", lambda: world.prod().reason != "")
        wait_until("and how long ago it was read", lambda: (world.prod().age or 0.0) > 2.5)
        load.wait_for_more()
        shown = gateway.cli("status").stdout
        _, metrics = gateway.http("/metrics")
        gateway.cli("rollback", "digits", "--reason", "it is not better")
        load.wait_for(old)
        (write,) = admin.writes(0)
        decided = decided_at(admin)
        went_back = load.first(old, decided)
        world.process.start()
        back = time.monotonic()
        wait_until("MLflow says so too", lambda: admin.writes(0) == (), 60)
        agreed, named = time.monotonic(), world.champion()
        world.move(new)
        load.wait_for(new)
        load.wait_for_more()

    show(
        "outage",
        {
            "from the rollback to the first answer": went_back - decided,
            "from MLflow's return to its word": agreed - back,
            "from the next move to the first answer": load.first(new, agreed) - agreed,
        },
    )
    assert load.failures == []
    assert load.turns() == [[old, new, old, new]] * len(load.answers)
    assert "does not answer" in shown
    assert read_seconds_ago(metrics) > 2.0
    assert (write.version, write.registry_names, write.state) == (old, new, "pending")
    assert named == old


def read_seconds_ago(metrics: str) -> float:
    """How old what MLflow said is, as the metrics have it."""
    (line,) = (
        one
        for one in metrics.splitlines()
        if one.startswith('stagegate_registry_age_seconds{registry="prod"}')
    )
    return float(line.rpartition(" ")[2])


def in_bucket(world: World, model: str) -> str:
    """The manifest of a model, as it lies in the bucket."""
    with contextlib.closing(world.s3.client()) as client:
        found: bytes = client.get_object(Bucket=BUCKET, Key=f"registry/{model}/model.yaml")["Body"].read()
        return found.decode()


def in_folder(world: World, model: str) -> str:
    """The manifest of a model, as it lies in the folder."""
    return (world.gateway.models / model / "model.yaml").read_text()


@pytest.mark.parametrize(("registry", "manifest"), [("bucket", in_bucket), ("shelf", in_folder)])
def test_versions_are_registered_promoted_and_rolled_back_from_the_command_line(
    world: World, trained: Path, registry: str, manifest: Callable[[World, str], str]
) -> None:
    """In a bucket and in a folder, whose manifests say at each step what answers."""
    gateway, admin, model = world.gateway, world.admin, f"digits-{registry}"
    place = ("--registry", registry, "--config", str(gateway.folder / "stagegate.yaml"))

    def register(version: str) -> str:
        files = trained / f"models/digits/{version}/model.onnx"
        return gateway.cli("register", model, str(files), "--version", version, *place).stdout

    def champion() -> str:
        return str(yaml.load(manifest(world, model), Loader=yaml.BaseLoader)["aliases"]["champion"])

    def route(stable: str) -> None:
        admin.apply_routes(
            [parse_short(model, [f"stable={stable}:100"], registry=registry)],
            expected_revision=None,
            reason="",
        )

    told = register("1")
    register("2")
    wait_until(
        "the model is known",
        lambda: any(one.name == registry and one.models for one in admin.status().registries),
    )
    route("1")
    gateway.cli("promote", model, "1", "--to", "@champion", "--wait")
    route("@champion")
    with NamedLoad(gateway.inference, f"{model}@champion") as load:
        load.wait_for("1")
        gateway.cli("promote", model, "2", "--to", "@champion", "--wait")
        promoted = champion()
        load.wait_for("2")
        load.wait_for_more()
        gateway.cli("rollback", model, "--wait")
        named = champion()
        load.wait_for("1")
        load.wait_for_more()

    assert f"stagegate route set {model} stable=1:100 --registry {registry}" in told
    assert load.failures == []
    assert load.turns() == [["1", "2", "1"]] * len(load.answers)
    assert (promoted, named) == ("2", "1")
