"""The documented example of a third-party registry, through a configuration as users write it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from gateway.config import describe_problems, load_config
from router.errors import (
    ConfigInvalid,
    Conflict,
    ModelNotFound,
    NotSupported,
    RegistryUnavailable,
    VersionNotFound,
)
from router.model import ModelName, PointerKind, VersionId
from router.ports import AliasChange, NewVersion, Registry, StageTransition, TagChange, Unknown
from router.registries.types import known_types, open_registry, registry_type
from tests.servers.third_party import EXAMPLE

DIGITS, ONE, TWO = ModelName("digits"), VersionId("1"), VersionId("2")

pytestmark = pytest.mark.usefixtures("third_party_registry")


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """The file that the example's docstring shows."""
    text = (EXAMPLE / "stagegate_json_registry.py").read_text()
    shown = re.search(r"^    (\{.*?\}\})\n\n", text, re.DOTALL | re.MULTILINE)
    assert shown is not None
    path = tmp_path / "models.json"
    path.write_text(shown[1])
    return path


@pytest.fixture
def registry(models: Path) -> Registry:
    """The example's registry on it."""
    return open_registry("mine", "json", {"path": models, "poll": 0.01})


def test_its_type_is_known_and_its_keys_are_checked(tmp_path: Path, models: Path) -> None:
    """As those of our own types: the README's section is taken, another key is not."""
    section = re.search(r"```yaml\n(.*?)```", (EXAMPLE / "README.md").read_text(), re.DOTALL)
    assert section is not None
    path = tmp_path / "stagegate.yaml"
    path.write_text(f"{section[1]}default_registry: mine\n")
    config = load_config(path, {})
    path.write_text(section[1].replace("path:", "paht:"))

    assert "json" in known_types()
    assert config.registries["mine"].options == {"path": models, "poll": 5.0}
    with pytest.raises(ConfigInvalid) as wrong:
        load_config(path, {})
    assert "did you mean path?" in "\n".join(describe_problems(wrong.value))


async def test_what_the_file_says(registry: Registry) -> None:
    """Stages, aliases and versions."""
    model = (await registry.read()).models[DIGITS]

    assert (list(model.versions), model.stages, model.aliases) == (
        [ONE, TWO],
        {"production": ONE},
        {"champion": TWO},
    )
    assert await registry.resolve(DIGITS, PointerKind.ALIAS, "champion") == TWO
    assert (await registry.read()).models[DIGITS] is model


async def test_it_writes_back(registry: Registry, models: Path) -> None:
    """By one rename, and only where something changes."""
    await registry.write(StageTransition(DIGITS, TWO, "Production", expected=ONE))
    before = models.stat().st_mtime_ns
    await registry.write(StageTransition(DIGITS, TWO, "production", expected=ONE))
    same = models.stat().st_mtime_ns
    await registry.write(AliasChange(DIGITS, "champion", None))
    model = (await registry.read()).models[DIGITS]
    await registry.write(StageTransition(DIGITS, TWO, ""))

    assert before == same
    assert (model.stages, model.aliases) == ({"production": TWO}, {})
    assert json.loads(models.read_text())["digits"]["stages"] == {}


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (StageTransition(DIGITS, TWO, "production", expected=""), Conflict),
        (AliasChange(DIGITS, "a", VersionId("9")), VersionNotFound),
        (AliasChange(ModelName("no"), "a", ONE), ModelNotFound),
        (TagChange(DIGITS, ONE, "a", "b"), NotSupported),
    ],
)
async def test_what_it_refuses(
    registry: Registry, models: Path, change: StageTransition, error: type[Exception]
) -> None:
    """Nothing is changed."""
    before = models.read_text()
    with pytest.raises(error):
        await registry.write(change)

    assert models.read_text() == before


async def test_what_it_cannot(registry: Registry, tmp_path: Path) -> None:
    """It says so."""
    with pytest.raises(NotSupported):
        await registry.register(NewVersion(DIGITS, tmp_path, "onnx", "sha256:"))
    with pytest.raises(NotSupported):
        registry.webhook({}, b"", 0)
    assert registry.source("/srv/x") is None


def remove(path: Path) -> None:
    """The file goes."""
    path.unlink()


def cut(path: Path) -> None:
    """Half of it stays."""
    path.write_text(path.read_text()[:40])


def nest(path: Path) -> None:
    """It is nested without end."""
    path.write_text("[" * 200_000)


@pytest.mark.parametrize("fault", [remove, cut, nest])
async def test_a_file_that_cannot_be_read(
    registry: Registry, models: Path, fault: Callable[[Path], None]
) -> None:
    """Nothing is known then."""
    fault(models)
    with pytest.raises(RegistryUnavailable, match="'mine'"):
        await registry.read()
    assert isinstance(await registry.get(DIGITS, ONE), Unknown)


@pytest.mark.parametrize(
    "entry",
    [
        *(1, {}, {"versions": []}, {"versions": {"1": {}}}),
        {"versions": {"1": {"format": 1, "artifact": "a"}}},
        {"versions": {}, "stages": {"production": "1"}},
        {"versions": {"@": {"artifact": "a"}}},
    ],
)
async def test_a_model_that_cannot_be_read(registry: Registry, models: Path, entry: object) -> None:
    """Its last good reading goes on."""
    before = await registry.read()
    models.write_text(json.dumps({"digits": entry, "a b": {}}))
    after = await registry.read()

    assert after.models == before.models
    assert [problem.subject for problem in after.problems] == ["digits", "a b"]


def test_a_type_says_what_it_is() -> None:
    """For the list of types."""
    assert registry_type("json").about == "models in one JSON file"
