"""Moving stages and aliases by editing `model.yaml`."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from router.errors import InvalidInput, InvalidReference, ModelNotFound, VersionNotFound
from router.model import ModelName, VersionId
from router.ports import AliasChange, PointerChange, StageTransition
from router.registries.manifest import read_model
from router.registries.pointers import write_change

DIGITS = ModelName("digits")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A model with three versions and no model file."""
    for version in ("1", "2", "3"):
        (tmp_path / "digits" / version).mkdir(parents=True)
        (tmp_path / "digits" / version / "version.yaml").write_text("format: onnx\nartifact: m\n")
    return tmp_path


def text(root: Path) -> str:
    """The model file."""
    return (root / "digits/model.yaml").read_text()


def stage(version: str, name: str = "production", model: str = "digits") -> StageTransition:
    """A stage is to name a version; the name "" takes the version out of its stage."""
    return StageTransition(ModelName(model), VersionId(version), name)


def alias(name: str, version: str | None) -> AliasChange:
    """An alias is to name a version, or is to go."""
    return AliasChange(DIGITS, name, None if version is None else VersionId(version))


def move(root: Path, before: str, change: PointerChange) -> str:
    """Write a model file, move a pointer, and give the file back."""
    (root / "digits/model.yaml").write_text(before)
    write_change(root, change)
    return text(root)


def test_a_file_is_made_where_there_is_none(root: Path) -> None:
    """With only what was asked for."""
    write_change(root, stage("1", "Production"))
    write_change(root, alias("champion", "2"))
    manifest = read_model(text(root))

    assert (manifest.stages, manifest.aliases) == ({"production": "1"}, {"champion": "2"})


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("stages:\n  production: 1  # live\n", 'stages:\n  production: "2"  # live\n'),
        ("# top\nstages: {Production: '1', x: '3'}\n", "# top\nstages: {Production: \"2\", x: '3'}\n"),
        ("stages:\n  # all\n  x: 1 # y\n", 'stages:\n  # all\n  "production": "2"\n  x: 1 # y\n'),
        ("stages: {x: 1}\n", 'stages: {"production": "2", x: 1}\n'),
        ("stages: {} # none\n", 'stages: {"production": "2"} # none\n'),
        ("description: é # d", 'description: é # d\nstages:\n  "production": "2"\n'),
    ],
)
def test_a_stage_moves_and_the_rest_stays_as_it_was(root: Path, before: str, after: str) -> None:
    """Comments, layout, other keys and other spellings."""
    assert move(root, before, stage("2")) == after


@pytest.mark.parametrize("before", ["{}\n", "{tags: {a: b}}", "stages: {\n  x: 1\n}\ntags: {a: b}\n"])
def test_a_layout_that_is_not_simple_is_written_anew(root: Path, before: str) -> None:
    """Its values are kept."""
    manifest = read_model(move(root, before, stage("2")))

    assert manifest.stages["production"] == "2"
    assert manifest.tags == read_model(before).tags


def test_a_pointer_is_removed(root: Path) -> None:
    """And only that one."""
    after = move(root, "stages: {production: 1, x: 2}\naliases: {a: 3}\n", stage("1", ""))

    assert (read_model(after).stages, read_model(after).aliases) == ({"x": "2"}, {"a": "3"})


def test_nothing_is_written_where_nothing_changes(root: Path) -> None:
    """The file keeps its times, and nobody is woken."""
    before = "stages: {production: 1}\n"
    move(root, before, stage("1"))
    inode = (root / "digits/model.yaml").stat().st_ino
    write_change(root, stage("1"))
    write_change(root, alias("gone", None))

    assert (text(root), (root / "digits/model.yaml").stat().st_ino) == (before, inode)


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (stage("1", model="nope"), ModelNotFound),
        (stage("9"), VersionNotFound),
        (stage("../digits/1"), VersionNotFound),
        (stage("1", "@production"), InvalidReference),
        (alias("@champion", "1"), InvalidReference),
        (alias("", "1"), InvalidReference),
    ],
)
def test_a_mistake_changes_nothing(root: Path, change: PointerChange, error: type[Exception]) -> None:
    """No file appears."""
    with pytest.raises(error):
        write_change(root, change)

    assert not (root / "digits/model.yaml").exists()


def test_a_broken_file_is_left_for_its_owner(root: Path) -> None:
    """The error names the file and the line."""
    with pytest.raises(InvalidInput, match=r"model.yaml cannot be read, so it is not changed: line 2"):
        move(root, "a: b\nstages: [\n", stage("1"))

    assert text(root) == "a: b\nstages: [\n"


def test_writers_at_the_same_time_lose_nothing(root: Path) -> None:
    """Each waits for the other; no temporary file is left."""
    names = [f"a{number}" for number in range(24)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda name: write_change(root, alias(name, "1")), names))

    assert read_model(text(root)).aliases == dict.fromkeys(names, "1")
    assert sorted(path.name for path in (root / "digits").iterdir()) == ["1", "2", "3", "model.yaml"]
