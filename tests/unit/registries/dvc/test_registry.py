"""A git repository with DVC as a registry: what is read, what is written back, what goes wrong."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from router.errors import (
    Conflict,
    InvalidInput,
    ModelNotFound,
    NotSupported,
    RegistryUnavailable,
    VersionNotFound,
)
from router.model import ModelName, PointerKind, RegistryView, Version, VersionId
from router.ports import (
    AliasChange,
    Capability,
    Hint,
    NewVersion,
    StageTransition,
    TagChange,
    Unknown,
)
from router.registries import dvc
from tests.servers.dvc import Repository
from tests.unit.registries.dvc.conftest import Opened

DIGITS, TREE = ModelName("digits"), ModelName("tree")
ONE, TWO = VersionId("v1.0.0"), VersionId("v2.0.0")


def said(view: RegistryView) -> str:
    """All problems of a view."""
    return "\n".join(f"{problem.subject}: {problem.message}" for problem in view.problems)


async def next_hint(changes: AsyncIterator[Hint]) -> Hint:
    """The next one, however long it takes."""
    return await anext(changes)


@pytest.fixture
def two(dvc_repository: Repository) -> Repository:
    """Two versions of digits, the first in prod."""
    for name, at in (("digits@v1.0.0", "1"), ("digits@v2.0.0", "2"), ("digits#prod#1", "1")):
        dvc_repository.tag(name, at)
    return dvc_repository


async def test_a_declared_model(opened: Opened, two: Repository) -> None:
    """What `dvc.yaml` says of it, and where it comes from."""
    view = await opened(two).read()
    model = view.models[DIGITS]
    version = model.versions[ONE]

    assert (model.description, model.stages, model.aliases) == ("Handwritten digits", {"prod": ONE}, {})
    assert version == Version(
        registry="models",
        model=DIGITS,
        version=ONE,
        format="onnx",
        artifact=f"dvc://models/{two.commit('1')}/models/digits.onnx",
        tags={"dvc.team": "vision"},
        lineage={
            "about": "Handwritten digits",
            "commit": two.commit("1"),
            "md5": version.lineage["md5"],
            "path": "models/digits.onnx",
            "tag": "digits@v1.0.0",
        },
        created=1_760_000_001.0,
    )
    assert view.problems == ()


async def test_a_folder_that_nobody_declared(opened: Opened, two: Repository) -> None:
    """Its `.dvc` file has its name, and its list of files tells its format."""
    two.tag("tree@v0.1.0", "3")
    version = (await opened(two).read()).models[TREE].versions[VersionId("v0.1.0")]

    assert (version.format, version.unusable) == ("triton", "")
    assert version.artifact.endswith("/models/tree")


@pytest.mark.parametrize(
    ("files", "reason"),
    [
        ({"dvc.yaml": "artifacts: {digits: {path: ../../etc/passwd}}"}, "leads out of the repository"),
        ({"dvc.yaml": "artifacts: {digits: {path: models/none.onnx}}"}, "DVC keeps nothing"),
        ({"dvc.yaml": "artifacts: {digits: {path: models/digits.onnx"}, r"dvc\.yaml:1: not valid YAML"),
        ({"models/digits.onnx.dvc": "outs: [{path: digits.onnx, md5: ../../x}]"}, "DVC keeps nothing"),
        ({"models/digits.onnx.dvc": f"outs: [{{path: ../../../x, md5: {'a' * 32}}}]"}, "leads out"),
        ({"dvc.yaml": "{}", "b/digits.dvc": "outs: []"}, "2 .dvc files are called digits"),
        ({"dvc.yaml": "x" * (2 << 20)}, "larger than"),
    ],
)
async def test_a_version_that_cannot_be_read(
    opened: Opened, two: Repository, files: dict[str, str], reason: str
) -> None:
    """It is left out, with a reason; others and the stages stay."""
    commit = two.write(files)
    two.tag("digits@v3.0.0", commit)
    registry = opened(two)
    view = await registry.read()

    assert list(view.models[DIGITS].versions) == [ONE, TWO]
    assert [problem.subject for problem in view.problems] == ["digits/v3.0.0"]
    with pytest.raises(AssertionError, match=reason):
        raise AssertionError(said(view))
    assert isinstance(await registry.get(DIGITS, VersionId("v3.0.0")), Unknown)


async def test_a_stage_that_moves_to_what_cannot_be_read(opened: Opened, two: Repository) -> None:
    """The one that was in it stays, as long as it was known; it moves on when it can."""
    registry = opened(two)
    await registry.read()
    broken = two.write({"dvc.yaml": "{artifacts"})
    two.tag("digits#prod#2", broken)
    kept = await registry.read()
    fresh = await opened(two).read()
    two.tag("digits#prod#3", "2")
    moved = await registry.read()

    assert kept.models[DIGITS].stages == {"prod": ONE}
    assert "v1.0.0 stays in it" in said(kept)
    assert fresh.models[DIGITS].stages == {}
    assert (moved.models[DIGITS].stages, moved.problems) == ({"prod": TWO}, ())


async def test_a_remote_that_is_not_allowed(opened: Opened, two: Repository) -> None:
    """The version is there, and says why it is not to be served."""
    view = await opened(two, remotes=("/srv/other",)).read()

    assert "does not allow" in view.models[DIGITS].versions[ONE].unusable


async def test_a_format_that_is_given(opened: Opened, two: Repository) -> None:
    """By the operator, else by `meta` in `dvc.yaml`, else by the files."""
    commit = two.write(
        {"dvc.yaml": "artifacts: {digits: {path: models/digits.onnx, meta: {format: python}}}"}
    )
    two.tag("digits@v3.0.0", commit)
    three = VersionId("v3.0.0")

    assert (await opened(two).read()).models[DIGITS].versions[three].format == "python"
    assert (await opened(two, format="triton").read()).models[DIGITS].versions[three].format == "triton"


async def test_a_format_that_nothing_tells(opened: Opened, two: Repository) -> None:
    """It is unusable, with what to do."""
    data = "outs: [{path: digits.bin, md5: 25d902b2750a84f4db28a445b9d7ef5b, hash: md5}]"
    files = {"models/digits.bin.dvc": data, "dvc.yaml": "artifacts: {digits: {path: models/digits.bin}}"}
    two.tag("digits@v3.0.0", two.write(files))
    version = (await opened(two).read()).models[DIGITS].versions[VersionId("v3.0.0")]

    assert (version.format, "give `format`" in version.unusable) == ("", True)


async def test_a_list_of_files_that_is_away_is_asked_for_again(opened: Opened, two: Repository) -> None:
    """What a remote cannot tell now is no lasting verdict."""
    two.tag("tree@v0.1.0", "1")
    two.remote.rename(two.remote.with_name("away"))
    registry = opened(two)
    before = (await registry.read()).models[TREE].versions[VersionId("v0.1.0")]
    two.remote.with_name("away").rename(two.remote)
    after = (await registry.read()).models[TREE].versions[VersionId("v0.1.0")]

    assert before.unusable
    assert (after.unusable, after.format) == ("", "triton")


async def test_names(opened: Opened, two: Repository) -> None:
    """A name that cannot be a logical one is a problem, until it is given one."""
    for name in ("team/digits@v1.0.0", "models=digits@v1.0.0", "tree@v1.0.0"):
        two.tag(name, "1")
    plain = await opened(two).read()
    named = await opened(two, names={"mine": "team/digits", "tree": "digits"}, models=("m*", "t*")).read()

    assert set(plain.models) == {"digits", "models:digits", "tree"}
    assert "team/digits: cannot be served" in said(plain)
    assert set(named.models) == {"mine", "tree", "models:digits"}
    assert named.models[TREE].stages == {"prod": ONE}
    assert "tree: cannot be served: `names` gives its name to 'digits'" in said(named)


async def test_a_lightweight_tag_is_a_problem(opened: Opened, two: Repository) -> None:
    """With what to do."""
    two.git("tag", "digits@v9.0.0", "at-9")

    assert "digits@v9.0.0: is a lightweight tag" in said(await opened(two).read())


async def test_what_did_not_change_is_the_same_object(opened: Opened, two: Repository) -> None:
    """A poll that finds nothing makes nothing; another model's move leaves this one as it is."""
    two.tag("tree@v0.1.0", "1")
    registry = opened(two)
    first = await registry.read()
    two.tag("tree@v0.2.0", "2")
    second = await registry.read()

    assert second.models[DIGITS] is first.models[DIGITS]
    assert list(second.models[TREE].versions) == ["v0.1.0", "v0.2.0"]


async def test_any_commit_can_be_asked_for(opened: Opened, two: Repository) -> None:
    """By its full id; it is listed from then on."""
    registry = opened(two)
    commit = VersionId(two.commit("9"))
    found = await registry.get(DIGITS, commit)
    listed = (await registry.read()).models[DIGITS].versions

    assert isinstance(found, Version)
    assert (found.lineage["commit"], found.format) == (commit, "onnx")
    assert listed[commit] == found
    assert list(listed) == [commit, ONE, TWO]
    assert await registry.get(DIGITS, VersionId("0" * 40)) is None
    assert await registry.get(DIGITS, VersionId("main")) is None
    assert await registry.get(ModelName("other"), commit) is None
    assert await registry.resolve(DIGITS, PointerKind.STAGE, "PROD") == ONE
    assert await registry.resolve(DIGITS, PointerKind.ALIAS, "prod") is None


async def test_a_repository_that_is_away(opened: Opened, two: Repository) -> None:
    """Nothing is known then; a hint tells it once, and again when it is back."""
    registry = opened(two)
    await registry.read()
    changes = registry.changes()
    async with asyncio.timeout(20):
        waiting = asyncio.create_task(next_hint(changes))
        await asyncio.sleep(0)
        two.path.rename(two.path.with_name("away"))
        await waiting
        assert isinstance(await registry.get(DIGITS, ONE), Unknown)
        with pytest.raises(RegistryUnavailable, match="'models'"):
            await registry.read()
        waiting = asyncio.create_task(next_hint(changes))
        two.path.with_name("away").rename(two.path)
        await waiting
    assert (await registry.read()).models[DIGITS].stages == {"prod": ONE}


async def test_a_stage_is_written_back(opened: Opened, two: Repository) -> None:
    """As GTO would: the next number, dated after all that are there; once."""
    two.tag("digits#staging#7", "1")
    registry = opened(two, push=True)
    change = StageTransition(DIGITS, TWO, "Prod", expected="v1.0.0")
    await registry.write(change)
    await registry.write(change)
    moved = (await registry.read()).models[DIGITS].stages
    await registry.write(StageTransition(DIGITS, ONE, ""))
    left = (await registry.read()).models[DIGITS].stages

    assert registry.capabilities == {Capability.STAGES}
    assert moved == {"prod": TWO, "staging": ONE}
    assert left == {"prod": TWO}
    assert {name for name in two.tags() if name.startswith("digits#")} == {
        *("digits#prod#1", "digits#staging#7", "digits#prod#8"),
        *("digits#prod!#9", "digits#staging!#10"),
    }
    assert two.commit("digits#prod#8") == two.commit("2")


async def test_a_stage_that_somebody_else_moved_is_left(opened: Opened, two: Repository) -> None:
    """And what is not there cannot be put into one."""
    registry = opened(two, push=True)
    with pytest.raises(Conflict, match=r"names v1\.0\.0"):
        await registry.write(StageTransition(DIGITS, TWO, "prod", expected=""))
    with pytest.raises(VersionNotFound):
        await registry.write(StageTransition(DIGITS, VersionId("v9.0.0"), "prod"))
    with pytest.raises(ModelNotFound):
        await registry.write(StageTransition(TREE, ONE, "prod"))

    assert [name for name in two.tags() if "#" in name] == ["digits#prod#1"]


async def test_what_it_cannot_do(opened: Opened, two: Repository) -> None:
    """It says so, and nothing is changed."""
    registry = opened(two)
    before = two.tags()
    for change in (
        StageTransition(DIGITS, TWO, "prod"),
        AliasChange(DIGITS, "champion", TWO),
        TagChange(DIGITS, TWO, "a", "b"),
    ):
        with pytest.raises(NotSupported):
            await registry.write(change)
    with pytest.raises(NotSupported, match="dvc push"):
        await registry.register(NewVersion(DIGITS, Path("/x"), "onnx", "sha256:"))
    with pytest.raises(NotSupported, match="polled"):
        registry.webhook({}, b"", 0)

    assert registry.capabilities == frozenset()
    assert two.tags() == before


@pytest.mark.parametrize("options", [{}, {"uri": "https://h/a", "path": Path("/a")}, {"uri": "http://h/a"}])
def test_options_that_cannot_be(options: dict[str, object]) -> None:
    """Refused before anything is asked."""
    with pytest.raises(InvalidInput):
        dvc.TYPE.open("models", options)


async def test_a_temporary_mirror_goes(
    opened: Opened, two: Repository, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """With the registry."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()
    registry = opened(two)
    await registry.read()
    there = [path.name for path in (tmp_path / "tmp").iterdir()]
    await registry.close()

    assert len(there) == 1
    assert list((tmp_path / "tmp").iterdir()) == []
