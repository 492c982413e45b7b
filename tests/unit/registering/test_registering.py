"""`stagegate register | import | registry check` on real folders."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import yaml

from gateway.config import GatewayConfig, load_config
from gateway.registering import (
    NewFiles,
    Way,
    check_registries,
    import_repository,
    import_version,
    read_contract,
    register,
)
from router.errors import InvalidInput, ModelNotFound, NotFound, RegistryUnavailable
from router.model import Contract, ModelName, TensorSpec
from tests.fakes.mlflow import FakeMlflow
from tests.servers.between import between
from tests.servers.sagemaker import REGION, SageMaker

DIGITS = ModelName("digits")
CONFIG = """\
registries:
  local: {type: folder, path: ./models}
  other: {type: folder, path: ./other}
default_registry: local
"""


def silent(_: str) -> None:
    """Progress that nobody sees."""


@pytest.fixture
def config(tmp_path: Path) -> GatewayConfig:
    """Two folder registries, both empty."""
    for name in ("models", "other"):
        (tmp_path / name).mkdir()
    (tmp_path / "stagegate.yaml").write_text(CONFIG)
    return load_config(tmp_path / "stagegate.yaml", os.environ)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A model of the Python backend."""
    (tmp_path / "made").mkdir()
    (tmp_path / "made" / "model.py").write_text("class TritonPythonModel: ...\n")
    return tmp_path / "made"


def manifest(root: Path, model: str, version: str) -> dict[str, object]:
    """What stands in a `version.yaml`."""
    found: dict[str, object] = yaml.safe_load((root / model / version / "version.yaml").read_text())
    return found


async def test_files_become_the_next_version(config: GatewayConfig, model: Path, tmp_path: Path) -> None:
    """With the format that they tell, and all that was said of them."""
    new = NewFiles(DIGITS, model, metrics={"accuracy": 0.9}, lineage={"commit": "abc"})
    first = await register(config, "", new, silent)
    (model / "model.py").write_text("class TritonPythonModel: pass\n")
    second = await register(config, "local", new, silent)

    assert (first.version, second.version, second.format) == ("1", "2", "python")
    assert first.digest != second.digest
    assert manifest(tmp_path / "models", "digits", "1")["lineage"] == {"commit": "abc"}


async def test_files_that_tell_no_format_are_not_guessed(config: GatewayConfig, tmp_path: Path) -> None:
    """The option is named, and nothing is registered."""
    (tmp_path / "weights.bin").write_bytes(b"1")
    with pytest.raises(InvalidInput, match="--format"):
        await register(config, "", NewFiles(DIGITS, tmp_path / "weights.bin"), silent)

    assert list((tmp_path / "models").iterdir()) == []


async def test_files_that_cannot_be_a_version_are_refused(config: GatewayConfig, tmp_path: Path) -> None:
    """Before anything is in the registry."""
    for folder in ("notes", "empty"):
        (tmp_path / folder).mkdir()
    (tmp_path / "notes" / "readme.txt").write_text("hello")
    for files, format_, told in (
        ("notes", "onnx", "has no .onnx, which format onnx needs"),
        ("notes", "onyx", "did you mean 'onnx'"),
        ("notes", "sculpture", "there are onnx, "),
        ("empty", "", "holds no files"),
    ):
        with pytest.raises(InvalidInput, match=told):
            await register(config, "", NewFiles(DIGITS, tmp_path / files, format=format_), silent)

    assert list((tmp_path / "models").iterdir()) == []


async def test_a_folder_that_is_not_there_is_told(config: GatewayConfig, model: Path, tmp_path: Path) -> None:
    """It may be a disk that is not mounted, so it is not made."""
    (tmp_path / "models").rmdir()
    with pytest.raises(RegistryUnavailable, match="there is no folder"):
        await register(config, "", NewFiles(DIGITS, model), silent)


async def test_a_version_goes_from_one_registry_to_another(
    config: GatewayConfig, model: Path, tmp_path: Path
) -> None:
    """The same files under another name, and where they came from."""
    before = await register(config, "", NewFiles(DIGITS, model, tags={"team": "risk"}), silent)
    after = await import_version(config, "digits@1", Way("local", "other", "fraud"), silent)

    assert (after.model, after.registry, after.digest) == ("fraud", "other", before.digest)
    assert after.tags == {"team": "risk"}
    assert manifest(tmp_path / "other", "fraud", "1")["lineage"] == {"imported_from": "local:digits@1"}


async def test_what_is_not_there_cannot_be_brought(config: GatewayConfig, model: Path) -> None:
    """Model, version, registry: each is named."""
    await register(config, "", NewFiles(DIGITS, model), silent)
    with pytest.raises(ModelNotFound, match="nope"):
        await import_version(config, "nope", Way("local", "other"), silent)
    with pytest.raises(NotFound, match="'7'"):
        await import_version(config, "digits@7", Way("local", "other"), silent)
    with pytest.raises(InvalidInput, match="no registry 'away'"):
        await import_version(config, "digits", Way("local", "away"), silent)


async def test_a_repository_of_triton_becomes_versions(config: GatewayConfig, tmp_path: Path) -> None:
    """Each version folder one of its own, with the model's configuration."""
    for version in ("1", "3"):
        folder = tmp_path / "repository" / "echo" / version
        folder.mkdir(parents=True)
        (folder / "model.py").write_text(f"# {version}\n")
    (tmp_path / "repository" / "echo" / "config.pbtxt").write_text('backend: "python"\n')
    made = await import_repository(config, "", Way(str(tmp_path / "repository"), "local"), silent)

    assert [(version.model, version.version, version.format) for version in made] == [
        ("echo", "1", "triton"),
        ("echo", "3", "triton"),
    ]
    files = {path.name for path in (tmp_path / "models" / "echo" / "3").rglob("*")}
    assert {"config.pbtxt", "3", "model.py"} <= files
    assert "1" not in files


async def test_a_repository_that_is_none_is_refused(config: GatewayConfig, tmp_path: Path) -> None:
    """A path that is no folder, and a folder without models."""
    with pytest.raises(InvalidInput, match="neither a registry nor a folder"):
        await import_repository(config, "", Way(str(tmp_path / "no"), "local"), silent)
    with pytest.raises(ModelNotFound, match="no Triton models"):
        await import_repository(config, "", Way(str(tmp_path / "other"), "local"), silent)


async def test_registries_are_checked(config: GatewayConfig, model: Path, tmp_path: Path) -> None:
    """What is in them, what can be written, and what cannot be read."""
    await register(config, "", NewFiles(DIGITS, model), silent)
    (tmp_path / "other").rmdir()
    local, other = await check_registries(config, "", 30)

    assert (local.models, local.versions, local.error) == (1, 1, "")
    assert "aliases" in local.capabilities
    assert "cannot be read" in other.error
    with pytest.raises(InvalidInput, match="'away'"):
        await check_registries(config, "away", 30)


async def test_a_secret_that_only_notices_need_is_looked_at(tmp_path: Path) -> None:
    """Reading works without it, and each notice would be refused."""
    with between() as server:
        server.script = FakeMlflow().answer
        (tmp_path / "stagegate.yaml").write_text(
            f"registries:\n  prod: {{type: mlflow, uri: '{server.uri}', webhook_secret: {{env: SECRET}}}}\n"
        )
        (without,) = await check_registries(load_config(tmp_path / "stagegate.yaml", {}), "", 30)
        (given,) = await check_registries(load_config(tmp_path / "stagegate.yaml", {"SECRET": "s"}), "", 30)

    assert [problem.subject for problem in without.problems] == ["webhook_secret"]
    assert "SECRET is not set" in without.problems[0].message
    assert (without.error, given.error, given.problems) == ("", "", ())


async def test_an_artifact_that_the_policy_refuses_is_told(config: GatewayConfig, tmp_path: Path) -> None:
    """Before any gateway meets it."""
    folder = tmp_path / "models" / "fraud" / "1"
    folder.mkdir(parents=True)
    (folder / "version.yaml").write_text("format: onnx\nartifact: s3://elsewhere/model.onnx\n")
    (local,) = await check_registries(config, "local", 30)

    assert local.refused == 1
    assert "elsewhere" in local.problems[0].message


async def test_what_its_registry_rejected_is_not_asked_about(sagemaker: SageMaker, tmp_path: Path) -> None:
    """Nobody is to fetch it, wherever it lies."""
    sagemaker.package("fraud", "Approved")
    sagemaker.package("fraud", "Rejected")
    (tmp_path / "stagegate.yaml").write_text(
        "registries:\n"
        f"  aws: {{type: sagemaker, region: {REGION}, endpoint: '{sagemaker.url}',\n"
        "        access_key: {env: KEY}, secret_key: {env: KEY}}\n"
    )
    config = load_config(tmp_path / "stagegate.yaml", {"KEY": "tests"})
    (aws,) = await check_registries(config, "aws", 30)

    assert (aws.versions, aws.refused, aws.problems[0].subject) == (2, 1, "fraud 1")
    assert "artifacts.allow.buckets" in aws.problems[0].message


def test_a_contract_is_read_from_a_file(tmp_path: Path) -> None:
    """As version.yaml has it; mistakes name the file."""
    path = tmp_path / "contract.yaml"
    path.write_text("inputs: [{name: x, datatype: FP32, shape: [-1, 4]}]\noutputs: []\n")
    assert read_contract(path) == Contract((TensorSpec("x", "FP32", (-1, 4)),), ())

    path.write_text("inputs: 7\n")
    with pytest.raises(InvalidInput, match=r"contract\.yaml"):
        read_contract(path)
