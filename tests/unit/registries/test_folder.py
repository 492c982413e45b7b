"""The folder registry's readings, file by file."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from router.errors import NotSupported, RegistryIncomplete, RegistryUnavailable
from router.model import ModelName, PointerKind, RegisteredModel, RegistryView, VersionId
from router.ports import Unknown
from router.registries import FolderRegistry, asking, folder

DIGITS = ModelName("digits")
MODEL = 'description: digits\nstages: {production: "1"}\naliases: {champion: "2"}\n'
VERSION = "format: onnx\nartifact: model.onnx\n"


def put(root: Path, path: str, text: str) -> None:
    """Write a file, folders included."""
    file = root / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text, encoding="utf-8")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A registry folder with one good model of two versions."""
    put(tmp_path, "digits/model.yaml", MODEL)
    for version in ("1", "2"):
        put(tmp_path, f"digits/{version}/version.yaml", VERSION)
    return tmp_path


@pytest.fixture
def registry(root: Path) -> FolderRegistry:
    """A registry over it."""
    return FolderRegistry("local", root)


def complaints(view: RegistryView) -> list[str]:
    """All problems as text."""
    return [f"{problem.subject}: {problem.message}" for problem in view.problems]


async def digits(registry: FolderRegistry) -> RegisteredModel:
    """The one good model."""
    return (await registry.read()).models[DIGITS]


async def test_a_model_is_read(registry: FolderRegistry, root: Path) -> None:
    """Versions, pointers, and the artifact as an absolute path beside its manifest."""
    view = await registry.read()
    model = view.models[DIGITS]

    assert (view.registry, view.problems) == ("local", ())
    assert (model.stages, model.aliases, model.description) == (
        {"production": "1"},
        {"champion": "2"},
        "digits",
    )
    assert [v.artifact for v in model.versions.values()] == [
        str(root / f"digits/{n}/model.onnx") for n in (1, 2)
    ]


async def test_what_did_not_change_is_the_same_object(registry: FolderRegistry) -> None:
    """So that nobody compares a thousand models field by field."""
    os.utime(registry.path)
    first = await digits(registry)

    assert (await digits(registry)) == first


async def test_versions_are_in_order(registry: FolderRegistry, root: Path) -> None:
    """10 comes after 2."""
    put(root, "digits/10/version.yaml", VERSION)

    assert list((await digits(registry)).versions) == ["1", "2", "10"]


async def test_a_disk_that_gives_a_file_in_pieces_gives_all_of_it(
    registry: FolderRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As disks over a network may: half a file could be read as one that names fewer versions."""
    read = os.read
    monkeypatch.setattr("router.registries.folder.os.read", lambda file, most: read(file, min(most, 10)))
    model = await digits(registry)

    assert (model.stages, model.aliases) == ({"production": "1"}, {"champion": "2"})


async def test_a_file_of_unknown_size_is_not_read_byte_by_byte(
    registry: FolderRegistry, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some disks tell no size, and a file may have grown since it was told."""
    (root / "digits/model.yaml").write_text(MODEL + "# note\n" * 10_000)
    asked = []
    read = os.read

    def counted(file: int, most: int) -> bytes:
        asked.append(most)
        return read(file, most)

    monkeypatch.setattr("router.registries.folder.os.read", counted)
    file = os.open(root / "digits/model.yaml", os.O_RDONLY)
    data = folder._read_all(file, 0)
    os.close(file)

    assert data == (root / "digits/model.yaml").read_bytes()
    assert len(asked) <= 5


@pytest.mark.parametrize("keep", range(1, len(MODEL) - 1))
async def test_a_model_file_cut_anywhere_takes_nothing_away(
    registry: FolderRegistry, root: Path, keep: int
) -> None:
    """Unless it ends where a line does, which is what deleting lines looks like."""
    before = await digits(registry)
    (root / "digits/model.yaml").write_text(MODEL[:keep])
    view = await registry.read()

    if MODEL[keep - 1] != "\n" and MODEL[keep] != "\n":
        assert view.models[DIGITS] == before
        assert "digits: digits/model.yaml:" in complaints(view)[0]
        assert complaints(view)[0].endswith("; the last good reading goes on")


async def test_an_emptied_file_takes_nothing_away(registry: FolderRegistry, root: Path) -> None:
    """Many programs empty a file before they write it."""
    before = await digits(registry)
    (root / "digits/model.yaml").write_text("")
    view = await registry.read()

    assert view.models[DIGITS] == before
    assert complaints(view) == [
        "digits: digits/model.yaml:1: is empty; write {} to say nothing; the last good reading goes on"
    ]


async def test_a_deleted_model_file_takes_nothing_away(registry: FolderRegistry, root: Path) -> None:
    """To remove all pointers, say so in the file."""
    before = await digits(registry)
    (root / "digits/model.yaml").unlink()

    assert (await digits(registry)) == before


async def test_a_mended_file_counts_again(registry: FolderRegistry, root: Path) -> None:
    """And the problem is gone."""
    await registry.read()
    put(root, "digits/model.yaml", 'stages: {production: "1')
    await registry.read()
    put(root, "digits/model.yaml", 'stages: {production: "2"}\n')
    view = await registry.read()

    assert (view.models[DIGITS].stages, view.problems) == ({"production": "2"}, ())


async def test_a_broken_version_keeps_its_last_reading_and_holds_up_nothing(
    registry: FolderRegistry, root: Path
) -> None:
    """A stage can be moved while somebody writes nonsense into another version."""
    await registry.read()
    put(root, "digits/2/version.yaml", "format: [\n")
    put(root, "digits/model.yaml", 'stages: {production: "2"}\n')
    view = await registry.read()

    assert view.models[DIGITS].stages == {"production": "2"}
    assert view.models[DIGITS].versions.keys() == {"1", "2"}
    assert [problem.subject for problem in view.problems] == ["digits/2"]


async def test_a_version_that_was_never_good_is_left_out(registry: FolderRegistry, root: Path) -> None:
    """The others are served."""
    put(root, "digits/3/version.yaml", "format: onnx\n")
    put(root, "digits/4/model.onnx", "")
    view = await registry.read()

    assert view.models[DIGITS].versions.keys() == {"1", "2"}
    assert complaints(view) == [
        "digits/3: digits/3/version.yaml:1: artifact: is missing; the version is left out",
        "digits/4: digits/4/version.yaml:1: is not there; the version is left out",
    ]


async def test_a_version_folder_that_goes_is_gone(registry: FolderRegistry, root: Path) -> None:
    """Deleting a folder is meant; what still points there is a problem."""
    await registry.read()
    (root / "digits/1/version.yaml").unlink()
    (root / "digits/1").rmdir()
    view = await registry.read()

    assert view.models[DIGITS].versions.keys() == {"2"}
    assert view.models[DIGITS].stages == {"production": "1"}
    assert complaints(view) == [
        "digits: digits/model.yaml: stage 'production' points to version '1', which does not exist"
    ]


async def test_a_model_whose_file_was_never_good_is_left_out(registry: FolderRegistry, root: Path) -> None:
    """Without its stages, nobody can say which version clients should get."""
    put(root, "fraud/1/version.yaml", VERSION)
    put(root, "fraud/model.yaml", "stages: {production: ")
    view = await registry.read()

    assert view.models.keys() == {"digits"}
    assert complaints(view)[0].endswith("; the model is left out")


async def test_a_model_without_a_model_file_has_no_pointers(registry: FolderRegistry, root: Path) -> None:
    """The file is optional; once there, a broken one changes nothing."""
    put(root, "fraud/1/version.yaml", VERSION)
    before = (await registry.read()).models[ModelName("fraud")]
    put(root, "fraud/model.yaml", "stages: [")
    view = await registry.read()

    assert (before.stages, before.aliases) == ({}, {})
    assert view.models[ModelName("fraud")] == before
    assert len(view.problems) == 1


async def test_names_that_cannot_be_logical_names_are_listed(registry: FolderRegistry, root: Path) -> None:
    """With the rule for names."""
    put(root, "my model/1/version.yaml", VERSION)
    view = await registry.read()

    assert view.models.keys() == {"digits"}
    assert complaints(view)[0].startswith("my model: cannot be served: model name 'my model' is not allowed")


async def test_folders_that_are_no_models_are_listed_and_work_in_progress_is_not(
    registry: FolderRegistry, root: Path
) -> None:
    """Dot folders, `*.tmp` and plain files are nobody's business."""
    for name in (".git", "digits.tmp", "docs", "digits/.trash", "digits/3.part"):
        (root / name).mkdir()
    put(root, "README.md", "models")
    view = await registry.read()

    assert complaints(view) == [
        "docs: has neither model.yaml nor a version that can be read; the model is left out"
    ]


async def test_a_version_id_that_looks_like_an_alias_is_refused(registry: FolderRegistry, root: Path) -> None:
    """No client could name it."""
    put(root, "digits/@x/version.yaml", VERSION)
    view = await registry.read()

    assert complaints(view)[0].startswith("digits/@x: cannot be a version id")


async def test_a_link_out_of_the_folder_is_refused(
    registry: FolderRegistry, root: Path, tmp_path: Path
) -> None:
    """As `..` is."""
    put(root, "digits/3/version.yaml", VERSION)
    (root / "digits/3/model.onnx").symlink_to("/etc/hosts")

    assert "is a link out of the folder" in complaints(await registry.read())[0]


async def test_a_file_that_is_no_text_or_too_large_is_a_problem(registry: FolderRegistry, root: Path) -> None:
    """With the line where the text ends."""
    before = await digits(registry)
    (root / "digits/model.yaml").write_bytes(b"description: a\nstages: \xff\n")
    binary = await registry.read()
    (root / "digits/model.yaml").write_bytes(b"#" * 2_000_000)
    large = await registry.read()

    assert binary.models[DIGITS] == large.models[DIGITS] == before
    assert "digits/model.yaml:2: is not UTF-8 text" in complaints(binary)[0]
    assert "is larger than 1048576 bytes" in complaints(large)[0]


async def test_a_folder_that_is_not_there_is_unavailable(registry: FolderRegistry, tmp_path: Path) -> None:
    """What was read before goes on elsewhere; here the error names the folder."""
    with pytest.raises(RegistryUnavailable, match=r"'x': folder .*nowhere cannot be read: No such file"):
        await FolderRegistry("x", tmp_path / "nowhere").read()


@pytest.mark.parametrize("where", ["loop", "digits/loop"])
async def test_a_link_that_leads_round_in_a_circle_harms_nobody(
    registry: FolderRegistry, root: Path, where: str
) -> None:
    """Among the models or among the versions: it is no folder, and all else is read."""
    (root / where).symlink_to("loop")

    assert set((await digits(registry)).versions) == {"1", "2"}


@pytest.mark.parametrize("file", ["model.yaml", "1/version.yaml"])
async def test_a_pipe_is_no_manifest(registry: FolderRegistry, root: Path, file: str) -> None:
    """It is complained of; to read it would wait for ever."""
    (root / "pipe" / "1").mkdir(parents=True)
    put(root, "pipe/2/version.yaml", VERSION)
    os.mkfifo(root / "pipe" / file)

    view = await registry.read()

    assert DIGITS in view.models
    assert any("is no regular file" in complaint for complaint in complaints(view))


@pytest.mark.parametrize("name", [b"\xff\xfe", b"a\nb", b"digits/\xff", b"digits/a\nb"])
async def test_odd_folder_names_are_told_as_text(registry: FolderRegistry, root: Path, name: bytes) -> None:
    """What is complained of can be printed and sent, whatever bytes the name holds."""
    folder = os.fsencode(root) + b"/" + name
    os.mkdir(folder)
    Path(os.fsdecode(folder), "version.yaml").write_text(VERSION)

    view = await registry.read()

    assert view.problems
    assert all(complaint.isprintable() for complaint in complaints(view))


async def test_very_many_models_are_read_in_several_readings(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each tells how far it is and gets further; nobody sees a part of them before."""
    monkeypatch.setattr(folder, "_FRESH_NS", 0)  # else what was just written is read each time
    for name in ("a", "b"):
        put(root, f"{name}/1/version.yaml", VERSION)
    registry = FolderRegistry("local", root, longest=0.0)
    told = []
    for _ in range(2):
        with pytest.raises(RegistryIncomplete) as caught:
            await registry.read()
        told.append(caught.value.message)

    assert told == ["1 of 3 models are read", "2 of 3 models are read"]
    assert (await registry.read()).models.keys() == {"a", "b", "digits"}
    assert (await asking.read_on(FolderRegistry("local", root, longest=0.0))).models.keys() == {
        "a",
        "b",
        "digits",
    }


async def test_what_cannot_be_asked_is_unknown(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the reason, such as a program that is missing."""
    registry = FolderRegistry("local", root)

    async def lacking(_hint: object = None) -> RegistryView:
        raise NotSupported("git is not installed")

    monkeypatch.setattr(registry, "read", lacking)

    assert isinstance(await registry.get(ModelName("digits"), VersionId("1")), Unknown)
    assert isinstance(await registry.resolve(ModelName("digits"), PointerKind.STAGE, "production"), Unknown)
