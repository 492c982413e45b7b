"""A Hub as a registry: what is read, what is written back, what goes wrong."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Protocol

import pytest

from router.artifacts.digest import digest_of
from router.errors import (
    Conflict,
    InvalidInput,
    ModelNotFound,
    NotSupported,
    RegistryRefused,
    RegistryUnavailable,
    VersionNotFound,
)
from router.model import ModelName, PointerKind, RegistryView, Version, VersionId
from router.ports import (
    ANYTHING,
    AliasChange,
    Capability,
    Hint,
    NewVersion,
    Registry,
    StageTransition,
    TagChange,
    Unknown,
)
from router.registries import hub as adapter
from tests.servers.hub import Hub, Repo

FRAUD, OTHER = ModelName("fraud"), ModelName("other")


class Opened(Protocol):
    """Opens a registry of `org/fraud`; all of them are closed after the test."""

    def __call__(self, **more: object) -> Registry:
        """With these options beside its own."""


@pytest.fixture
async def opened(hub: Hub) -> AsyncIterator[Opened]:
    """Registries of the server."""
    made = []

    def make(**more: object) -> Registry:
        options = {"endpoint": hub.endpoint, "models": ("org/fraud",), "poll": 0.01, "timeout": 5.0, **more}
        made.append(adapter.TYPE.open("hub", options))
        return made[-1]

    yield make
    for registry in made:
        await registry.close()


def said(view: RegistryView) -> str:
    """All problems of a view."""
    return "\n".join(f"{problem.subject}: {problem.message}" for problem in view.problems)


async def next_hint(changes: AsyncIterator[Hint]) -> Hint:
    """The next one, however long it takes."""
    return await anext(changes)


@pytest.fixture
def fraud(hub: Hub) -> Repo:
    """Two commits: `main` is at the second, tag v1 at the first."""
    repo = Repo()
    repo.tags["v1"] = repo.commit({"model.onnx": b"one", ".gitattributes": b"x"})
    repo.commit({"model.onnx": b"two", "README.md": b"readme", ".gitattributes": b"x"}, "main")
    hub.repos["org/fraud"] = repo
    return repo


async def test_a_repository(opened: Opened, hub: Hub, fraud: Repo, tmp_path: Path) -> None:
    """Branches and tags are aliases, `main` is production, commits are versions by their dates."""
    view = await opened().read()
    model = view.models[FRAUD]
    one, two = fraud.tags["v1"], fraud.branches["main"]
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "model.onnx").write_bytes(b"one")

    assert model.aliases == {"main": two, "v1": one}
    assert model.stages == {"production": two}
    assert list(model.versions) == [one, two]
    assert model.versions[VersionId(one)] == Version(
        registry="hub",
        model=FRAUD,
        version=VersionId(one),
        format="onnx",
        artifact=f"hf://org/fraud@{one}",
        digest=digest_of(tmp_path / "a"),
        lineage={"commit": one, "repository": "org/fraud"},
        created=1_760_000_000.0,
    )
    assert model.versions[VersionId(two)].digest == ""
    assert view.problems == ()


async def test_a_poll_is_one_call(opened: Opened, hub: Hub, fraud: Repo) -> None:
    """Which the Hub answers with "the same"; commits are asked for once."""
    registry = opened()
    first = await registry.read()
    hub.asked.clear()
    second = await registry.read()

    assert hub.asked == ["GET /api/models/org/fraud/refs"]
    assert second.models[FRAUD] is first.models[FRAUD]


async def test_a_hint_asks_one_repository(opened: Opened, hub: Hub, fraud: Repo) -> None:
    """And a move is found by polling, with the model's name."""
    hub.repos["org/other"] = other = Repo()
    other.commit({"model.onnx": b"o"}, "main")
    registry = opened(models=("org/fraud", "org/other"))
    await registry.read()
    changes = registry.changes()
    async with asyncio.timeout(20):
        waiting = asyncio.create_task(next_hint(changes))
        await asyncio.sleep(0)
        fraud.branches["main"] = fraud.tags["v1"]
        assert await waiting == Hint(FRAUD)
    hub.asked.clear()
    view = await registry.read(Hint(FRAUD))

    assert hub.calls("org/other") == 0
    assert view.models[FRAUD].stages == {"production": fraud.tags["v1"]}
    assert OTHER in view.models
    assert await registry.resolve(FRAUD, PointerKind.ALIAS, "main") == fraud.tags["v1"]


@pytest.mark.parametrize(
    ("files", "form"),
    [
        ({"MLmodel": b"", "model.onnx": b""}, "mlflow"),
        ({"config.pbtxt": b"", "1/model.onnx": b""}, "triton"),
        ({"saved_model.pb": b""}, "savedmodel"),
        ({"deep/model.onnx": b""}, "onnx"),
        ({"pytorch_model.bin": b""}, ""),
        ({"model.onnx": b"", "model.plan": b""}, ""),
        ({".hidden/model.onnx": b""}, ""),
    ],
)
async def test_formats(opened: Opened, hub: Hub, fraud: Repo, files: dict[str, bytes], form: str) -> None:
    """By the names of the files; what they do not tell is unusable, with what to do."""
    sha = fraud.commit(files, "main")
    version = (await opened().read()).models[FRAUD].versions[VersionId(sha)]

    assert version.format == form
    assert bool(version.unusable) == (not form)


async def test_files_that_are_taken(opened: Opened, hub: Hub, fraud: Repo) -> None:
    """By globs; the format and the digest are theirs."""
    files = {"a.onnx": b"a", "b.plan": b"b", "README.md": b"c"}
    sha = VersionId(fraud.commit(files, "main"))
    some = (await opened(files=("*.onnx",)).read()).models[FRAUD].versions[sha]
    given = (await opened(format="python").read()).models[FRAUD].versions[sha]
    none = (await opened(files=("*.zip",)).read()).models[FRAUD].versions[sha]

    line = f"{hashlib.sha256(b'a').hexdigest()}  a.onnx\n"
    assert (some.format, some.digest) == ("onnx", f"sha256:{hashlib.sha256(line.encode()).hexdigest()}")
    assert given.format == "python"
    assert "look at `files`" in none.unusable


async def test_names(opened: Opened, hub: Hub, fraud: Repo) -> None:
    """`names` wins; of two repositories with one name neither is served, with what to do."""
    for repo in ("a/fraud", "b/other", "c/other"):
        hub.repos[repo] = fraud
    listed = ("a/fraud", "b/other", "c/other", "org/fraud")
    view = await opened(models=listed, names={"fraud": "org/fraud", "x": "missing/x"}).read()

    assert set(view.models) == {"fraud"}
    assert view.models[FRAUD].versions[VersionId(fraud.tags["v1"])].artifact.startswith("hf://org/fraud@")
    assert "a/fraud: cannot be served: `names` gives 'fraud' to org/fraud" in said(view)
    assert "b/other: cannot be served: c/other would be 'other' too; use `names`" in said(view)
    assert "missing/x: missing/x is not there: the Hub answers 404: Repository not found" in said(view)


async def test_commits_that_nothing_names_any_more(opened: Opened, hub: Hub, fraud: Repo) -> None:
    """The last few stay, so that there is something to go back to."""
    registry = opened(keep=2)
    first = fraud.branches["main"]
    await registry.read()
    moved = []
    for number in range(4):
        moved.append(fraud.commit({"model.onnx": b"%d" % number}, "main"))
        view = await registry.read()

    assert set(view.models[FRAUD].versions) == {fraud.tags["v1"], *moved[1:]}
    assert first not in view.models[FRAUD].versions


async def test_any_commit_can_be_asked_for(opened: Opened, hub: Hub, fraud: Repo) -> None:
    """By its full id; it is listed from then on."""
    hidden = VersionId(fraud.commit({"model.onnx": b"hidden"}))
    registry = opened()
    found = await registry.get(FRAUD, hidden)

    assert isinstance(found, Version)
    assert (await registry.read()).models[FRAUD].versions[hidden] == found
    assert await registry.get(FRAUD, VersionId("main")) is None
    assert await registry.get(FRAUD, VersionId("0" * 40)) is None
    assert await registry.get(OTHER, hidden) is None
    hub.status = 500
    assert isinstance(await registry.get(FRAUD, hidden), Unknown)
    assert isinstance(await registry.resolve(FRAUD, PointerKind.ALIAS, "main"), Unknown)


async def test_names_that_cannot_be_aliases(opened: Opened, hub: Hub, fraud: Repo) -> None:
    """They are a problem; a tag wins over a branch of its name."""
    one, two = fraud.tags["v1"], fraud.branches["main"]
    fraud.branches |= {"@odd": one, "x" * 200: one, "a\nb": one, "feature/x": one, "both": one}
    fraud.tags["both"] = two
    view = await opened().read()

    assert view.models[FRAUD].aliases == {"main": two, "v1": one, "feature/x": one, "both": two}
    assert said(view).count("cannot be an alias") == 3


async def test_more_commits_than_are_served(
    opened: Opened, hub: Hub, fraud: Repo, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The limit is told, and `main` is never the one that is left out."""
    monkeypatch.setattr("router.registries.hub.registry.MOST_COMMITS", 3)
    for number in range(5):
        fraud.branches[f"a{number}"] = fraud.commit({"model.onnx": b"%d" % number})
    view = await opened().read()

    assert len(view.models[FRAUD].versions) == 3
    assert "main" in view.models[FRAUD].aliases
    assert "more than 3 commits" in said(view)


@pytest.mark.parametrize(
    "tree",
    [
        *(b"{}", b"[1]", b"x", b"[" * 100_000, b'[{"type": "link", "path": "a", "oid": "b", "size": 1}]'),
        *(
            json.dumps([{"type": "file", "oid": "b", "size": 1, "path": path}]).encode()
            for path in ("../a", "/a", "a/../../b", "a\\b", "a//b", "a/.", "", "a\x00")
        ),
        json.dumps([{"type": "file", "oid": "b", "size": size, "path": "a"} for size in (-1, "1")]).encode(),
        json.dumps([{"type": "file", "oid": "b", "size": 1, "path": "a"}] * 2).encode(),
        json.dumps(
            [{"type": "file", "oid": "b", "size": 1, "path": "a", "lfs": {"oid": "x", "size": 1}}]
        ).encode(),
    ],
)
async def test_a_listing_that_lies(opened: Opened, hub: Hub, fraud: Repo, tree: bytes) -> None:
    """The commit is left out, and what moved to it stays where it was."""
    registry = opened()
    before = await registry.read()
    sha = fraud.commit({"model.onnx": b"3"}, "main")
    hub.answers[f"/api/models/org/fraud/tree/{sha}"] = tree
    after = await registry.read()

    assert after.models == before.models
    assert [problem.subject for problem in after.problems] == ["fraud"]
    assert f"main is at {sha}, which cannot be read" in said(after)


async def test_a_listing_that_does_not_end_or_leads_away(opened: Opened, hub: Hub, fraud: Repo) -> None:
    """Pages are counted, and stay on their host."""
    many = {f"{number}.txt": b"" for number in range(30)}
    sha = fraud.commit({**many, "model.onnx": b"x"}, "main")
    view = await opened().read()
    own, hub.endpoint = hub.endpoint, "http://169.254.169.254"
    away = await opened(endpoint=own).read()

    assert view.models[FRAUD].versions[VersionId(sha)].format == "onnx"
    assert "goes on at another host" in said(away)


@pytest.mark.parametrize(
    "refs",
    [
        b"[]",
        b"x",
        b'{"branches": [{"name": "main", "targetCommit": "../../x"}]}',
        b'{"branches": {"a": 1}}',
        b"{}",
    ],
)
async def test_branches_that_lie(opened: Opened, hub: Hub, fraud: Repo, refs: bytes) -> None:
    """What is no commit is no pointer, and nothing that was known is touched by nonsense."""
    registry = opened()
    before = await registry.read()
    hub.answers["/api/models/org/fraud/refs"] = refs
    after = await registry.read()

    if refs in (b"[]", b"x"):
        assert after.models == before.models
        assert [problem.subject for problem in after.problems] == ["fraud"]
    else:
        assert dict(after.models[FRAUD].aliases) == {}
        assert set(after.models[FRAUD].versions) == set(before.models[FRAUD].versions)


@pytest.mark.parametrize("status", [401, 403, 429, 500, 503])
async def test_a_hub_in_trouble(opened: Opened, hub: Hub, fraud: Repo, status: int) -> None:
    """What was read goes on; a Hub that is away says so, one that refuses is a problem."""
    registry = opened()
    before = await registry.read()
    hub.status = status
    if status in (401, 403):
        view = await registry.read()
        assert view.models == before.models
        assert f"the Hub answers {status}: in trouble" in said(view)
    else:
        with pytest.raises(RegistryUnavailable, match=r"'hub': the Hub answers"):
            await registry.read()
    hub.status = 0

    assert await registry.read() == before


async def test_going_away_and_coming_back_are_told(opened: Opened, hub: Hub, fraud: Repo) -> None:
    """Once each."""
    registry = opened()
    await registry.read()
    changes = registry.changes()
    async with asyncio.timeout(20):
        for status in (503, 0, 403, 0):
            waiting = asyncio.create_task(next_hint(changes))
            await asyncio.sleep(0)
            hub.status = status
            assert await waiting == ANYTHING


async def test_a_token(opened: Opened, hub: Hub, fraud: Repo) -> None:
    """It is read anew for each call, and is in no message."""
    hub.token = "good"  # noqa: S105
    tokens = ["hunter2"]
    registry = opened(token=lambda: tokens[0])
    view = await registry.read()
    tokens[0] = "good"

    assert "401: Invalid username or password" in said(view)
    assert "hunter2" not in said(view)
    assert FRAUD in (await registry.read()).models
    assert hub.tokens["hub"] == {"hunter2", "good"}


async def test_no_token_is_looked_for(
    opened: Opened, hub: Hub, fraud: Repo, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Neither in the environment nor on the disk; nor a proxy."""
    (tmp_path / "token").write_text("from-disk")
    monkeypatch.setenv("HF_TOKEN", "from-environment")
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    await opened().read()

    assert hub.tokens["hub"] == set()
    assert hub.calls("refs") == 1


async def test_an_alias_is_written_back(opened: Opened, hub: Hub, fraud: Repo) -> None:
    """As a tag: made, moved and removed; done twice is done once."""
    one, two = VersionId(fraud.tags["v1"]), VersionId(fraud.branches["main"])
    registry = opened(push=True)
    await registry.write(AliasChange(FRAUD, "champion", one, expected=""))
    made = dict(fraud.tags)
    await registry.write(AliasChange(FRAUD, "champion", two, expected=one))
    await registry.write(AliasChange(FRAUD, "champion", two, expected=one))
    moved = (await registry.read()).models[FRAUD].aliases["champion"]
    await registry.write(AliasChange(FRAUD, "champion", None))
    await registry.write(AliasChange(FRAUD, "champion", None))

    assert registry.capabilities == {Capability.ALIASES, Capability.STAGES}
    assert (made["champion"], moved) == (one, two)
    assert "champion" not in fraud.tags
    assert (hub.calls("POST"), hub.calls("DELETE")) == (2, 2)


async def test_a_stage_is_written_back(opened: Opened, hub: Hub, fraud: Repo) -> None:
    """As the tag that it is; a branch is moved by commits only."""
    one, two = VersionId(fraud.tags["v1"]), VersionId(fraud.branches["main"])
    registry = opened(push=True, stages={"Production": "live", "staging": "main"})
    await registry.write(StageTransition(FRAUD, one, "production"))
    staged = (await registry.read()).models[FRAUD].stages
    await registry.write(StageTransition(FRAUD, two, "staging"))
    with pytest.raises(NotSupported, match="branch"):
        await registry.write(StageTransition(FRAUD, one, "staging"))
    with pytest.raises(NotSupported, match="no stage 'archived'"):
        await registry.write(StageTransition(FRAUD, one, "archived"))
    await registry.write(StageTransition(FRAUD, one, ""))

    assert staged == {"production": one, "staging": two}
    assert "live" not in fraud.tags


async def test_what_is_not_written(opened: Opened, hub: Hub, fraud: Repo) -> None:
    """It is refused, and nothing is changed."""
    one, two = VersionId(fraud.tags["v1"]), VersionId(fraud.branches["main"])
    registry = opened(push=True)
    before = dict(fraud.tags)
    with pytest.raises(Conflict, match="was left as it is"):
        await registry.write(AliasChange(FRAUD, "v1", two, expected=two[::-1]))
    with pytest.raises(VersionNotFound):
        await registry.write(AliasChange(FRAUD, "v1", VersionId("0" * 40)))
    with pytest.raises(ModelNotFound):
        await registry.write(AliasChange(OTHER, "v1", one))
    with pytest.raises(NotSupported):
        await registry.write(TagChange(FRAUD, one, "a", "b"))
    with pytest.raises(NotSupported, match="push: true"):
        await opened().write(AliasChange(FRAUD, "v1", two))
    with pytest.raises(NotSupported, match="hf upload"):
        await registry.register(NewVersion(FRAUD, Path("/x"), "onnx", "sha256:"))
    with pytest.raises(NotSupported):
        registry.webhook({}, b"", 0)
    for status, error in ((403, RegistryRefused), (500, RegistryUnavailable)):
        hub.status = status
        with pytest.raises(error):
            await registry.write(AliasChange(FRAUD, "v1", two))

    assert fraud.tags == before


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"models": ()},
        {"models": ("org/m",), "endpoint": "ftp://x"},
        {"models": ("org/m",), "endpoint": "https://user:secret@x"},
        {"models": ("org/m",), "endpoint": "http://2852039166"},
        {"models": ("org/m",), "hosts": ("http://",)},
    ],
)
def test_options_that_cannot_be(options: dict[str, object]) -> None:
    """Refused before anything is asked."""
    with pytest.raises(InvalidInput):
        adapter.TYPE.open("hub", options)


@pytest.mark.parametrize(
    "repo", ["", "/m", "a/b/c", "../m", "org/..", "org/m?x", "org/m#", "org/a--b", "-a/b", "o/m\n"]
)
def test_names_that_are_no_repository(repo: str) -> None:
    """The configuration is refused."""
    check = next(option.check for option in adapter.TYPE.options if option.name == "names")
    assert check is not None
    with pytest.raises(ValueError, match="ORG/MODEL"):
        check({"m": repo})
