"""The SageMaker Model Registry as moto speaks it, with somebody in between where answers are to be other."""

from __future__ import annotations

import io
import json
import secrets
import tarfile
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from router.artifacts.fetch import Fetcher
from router.artifacts.policy import Allow, ArtifactSettings, Origin
from router.errors import (
    ArtifactChanged,
    ArtifactRefused,
    Conflict,
    InvalidInput,
    ModelNotFound,
    NotSupported,
    RegistryIncomplete,
    RegistryRefused,
    RegistryUnavailable,
    VersionNotFound,
)
from router.model import ModelName, PointerKind, RegisteredModel, Version, VersionId
from router.ports import AliasChange, Capability, Hint, NewVersion, StageTransition, TagChange
from router.registries import sagemaker as adapter
from router.registries.sagemaker import SageMakerRegistry, packages
from router.registries.types import open_registry
from tests.servers.between import Answer, Asked, Between, between
from tests.servers.s3 import Server
from tests.servers.sagemaker import REGION, SageMaker, container

FRAUD = ModelName("fraud")
LIST, DESCRIBE, UPDATE = "ListModelPackages", "DescribeModelPackage", "UpdateModelPackage"
GROUPS = "ListModelPackageGroups"


class Line:
    """The way to moto: counts calls by their names, and changes answers."""

    def __init__(self, way: Between) -> None:
        self._way = way
        self.uri = way.uri

    @property
    def calls(self) -> list[str]:
        """Names of the calls so far; looking forgets them."""
        found = [_name(asked) for asked in self._way.asked]
        self._way.asked.clear()
        return found

    @property
    def updates(self) -> list[dict[str, Any]]:
        """What was asked to be changed; looking forgets all calls."""
        found = [json.loads(asked.body) for asked in self._way.asked if _name(asked) == UPDATE]
        self._way.asked.clear()
        return found

    def answer(self, call: str, made: Callable[[Asked], Answer | None]) -> None:
        """Have a call answered so; None passes it on."""
        self._way.script = lambda asked: made(asked) if _name(asked) == call else None

    def alter(self, call: str, change: Callable[[Any], None]) -> None:
        """Have moto's answers to a call changed."""

        def altered(asked: Asked) -> Answer:
            answer = self._way._forwarded(asked)
            told = json.loads(answer.body)
            change(told)
            return Answer(answer.status, json.dumps(told).encode(), answer.headers)

        self.answer(call, altered)

    def heal(self) -> None:
        """Pass all on."""
        self._way.script = lambda _: None


def _name(asked: Asked) -> str:
    return asked.headers.get("x-amz-target", "").partition(".")[2]


def refusal(code: str, status: int = 400) -> Answer:
    """An error as AWS writes it."""
    return Answer(status, json.dumps({"__type": code, "message": f"{code} it is"}).encode())


@pytest.fixture
def line(sagemaker: SageMaker) -> Iterator[Line]:
    """One for each test."""
    with between(sagemaker.url) as way:
        yield Line(way)


Open = Callable[..., SageMakerRegistry]


@pytest.fixture
async def opened(line: Line) -> AsyncIterator[Open]:
    """Opens the registry."""
    made: list[SageMakerRegistry] = []

    def make(**options: Any) -> SageMakerRegistry:
        given = {
            "endpoint": line.uri,
            "region": REGION,
            "access_key": lambda: "tests",
            "secret_key": lambda: secrets.token_hex(4),
            "poll": 0.02,
            "timeout": 60.0,
        }
        found = adapter.TYPE.open("sm", {**given, **options})
        assert isinstance(found, SageMakerRegistry)
        made.append(found)
        return found

    yield make
    for registry in made:
        await registry.close()


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pauses between tries are short."""
    monkeypatch.setattr(packages, "_FIRST_PAUSE", 0.001)


async def fraud(registry: SageMakerRegistry) -> RegisteredModel:
    """The model as it is read now."""
    return (await registry.read()).models[FRAUD]


def move(version: int, stage: str, **more: Any) -> StageTransition:
    """A version into a stage."""
    return StageTransition(FRAUD, VersionId(str(version)), stage, **more)


async def test_a_group_is_a_model(opened: Open, sagemaker: SageMaker) -> None:
    """Versions by number, approval as stage; what is rejected is listed and not to be served."""
    for approval in ("Approved", "Rejected", "PendingManualApproval"):
        sagemaker.package("fraud", approval, MetadataProperties={"CommitId": "abc"})
    model = await fraud(opened())

    assert (list(model.versions), model.description) == (["1", "2", "3"], "fraud")
    assert model.stages == {"production": "1", "staging": "3"}
    first, second, third = model.versions.values()
    assert (first.artifact, first.format, first.lineage["commit"]) == ("s3://models/m.tar.gz", "onnx", "abc")
    assert first.created is not None
    assert [each.unusable for each in (first, second, third)] == ["", "it was rejected", ""]


async def test_packages_outside_of_groups_are_left_out(opened: Open, sagemaker: SageMaker) -> None:
    """They have no versions."""
    sagemaker.package("fraud")
    sagemaker.client.create_model_package(
        ModelPackageName="alone", InferenceSpecification=container("s3://models/alone")
    )

    assert list((await opened().read()).models) == ["fraud"]


async def test_all_pages_are_read(
    opened: Open, sagemaker: SageMaker, line: Line, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of packages, and of groups for their descriptions."""
    monkeypatch.setattr(packages, "_PAGE", 2)
    for group in ("a", "b", "c"):
        sagemaker.package(group)
        sagemaker.package(group)
    sagemaker.package("c")
    view = await opened().read()
    calls = line.calls

    assert {name: len(model.versions) for name, model in view.models.items()} == {"a": 2, "b": 2, "c": 3}
    assert [model.description for model in view.models.values()] == ["a", "b", "c"]
    assert (calls.count(LIST), calls.count(GROUPS), calls.count(DESCRIBE)) == (4, 2, 7)


async def test_there_is_an_end_to_pages(
    opened: Open, sagemaker: SageMaker, line: Line, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever gives the same one for ever is not listened to."""
    monkeypatch.setattr(packages, "_MOST_PAGES", 3)
    sagemaker.package("fraud")
    registry = opened()
    line.answer(LIST, lambda _: Answer(body=b'{"ModelPackageSummaryList": [], "NextToken": "x"}'))
    with pytest.raises(RegistryUnavailable, match="more than 300 packages"):
        await registry.read()


async def test_nothing_new_costs_one_call(opened: Open, sagemaker: SageMaker, line: Line) -> None:
    """And gives the same view; what was approved or is new is described, and nothing else."""
    for _ in range(3):
        sagemaker.package("fraud")
    sagemaker.package("spam")
    registry = opened()
    first = await registry.read()
    assert sorted(line.calls) == [DESCRIBE] * 4 + [GROUPS, LIST]

    assert await registry.read() is first
    assert line.calls == [LIST]

    sagemaker.approve("fraud", 2, "Approved")
    view = await registry.read()
    assert line.calls == [LIST, DESCRIBE]
    assert view.models[FRAUD].stages == {"production": "2", "staging": "3"}
    assert view.models[ModelName("spam")] is first.models[ModelName("spam")]

    sagemaker.approve("fraud", 2, "Rejected")
    again = await fraud(registry)
    assert line.calls == [LIST]
    assert (again.versions[VersionId("2")].artifact, again.stages) == (
        "s3://models/m.tar.gz",
        {"staging": "3"},
    )


async def test_of_several_approved_ones_the_highest_answers(opened: Open, sagemaker: SageMaker) -> None:
    """Rejecting it lets the one below answer again."""
    for _ in range(3):
        sagemaker.package("fraud", "Approved")
    registry = opened()
    assert await registry.resolve(FRAUD, PointerKind.STAGE, "Production") == "3"

    sagemaker.approve("fraud", 3, "Rejected")
    assert await registry.resolve(FRAUD, PointerKind.STAGE, "production") == "2"
    assert await registry.resolve(FRAUD, PointerKind.ALIAS, "champion") is None


async def test_a_life_cycle_is_a_stage(opened: Open, sagemaker: SageMaker, line: Line) -> None:
    """moto knows none, so its answers get one on the way; it is not written."""
    sagemaker.package("fraud", "Approved")
    sagemaker.package("fraud", "Approved")

    def in_qa(told: Any) -> None:
        for entry in told["ModelPackageSummaryList"]:
            if entry["ModelPackageVersion"] == 2:
                entry["ModelLifeCycle"] = {"Stage": "QA", "StageStatus": "Approved"}

    line.alter(LIST, in_qa)
    registry = opened()
    model = await fraud(registry)

    assert model.stages == {"production": "1", "qa": "2"}
    assert model.versions[VersionId("2")].tags["life_cycle"] == "qa: Approved"
    for change in (move(2, "production"), move(1, "qa")):
        with pytest.raises(NotSupported, match="life cycle"):
            await registry.write(change)
    assert line.updates == []


async def test_groups_are_taken_by_globs(opened: Open, sagemaker: SageMaker, line: Line) -> None:
    """Plain names are listed one by one; the account may hold thousands of others."""
    for group in ("fraud", "fraud-eu", "spam"):
        sagemaker.package(group)
    assert list((await opened(models=("fraud*",)).read()).models) == ["fraud", "fraud-eu"]
    assert line.calls.count(LIST) == 1

    assert list((await opened(models=("spam", "fraud", "gone")).read()).models) == ["fraud", "spam"]
    assert line.calls.count(LIST) == 3


async def test_with_a_hint_one_group_is_asked_for(opened: Open, sagemaker: SageMaker, line: Line) -> None:
    """The others are as they were."""
    sagemaker.package("fraud")
    sagemaker.package("spam")
    registry = opened()
    await registry.read()
    sagemaker.approve("spam", 1, "Approved")
    sagemaker.approve("fraud", 1, "Approved")
    assert GROUPS in line.calls
    view = await registry.read(Hint(FRAUD))

    assert line.calls == [LIST, DESCRIBE]
    assert {name: dict(model.stages) for name, model in view.models.items()} == {
        "fraud": {"production": "1"},
        "spam": {"staging": "1"},
    }
    assert (await registry.read()).models[ModelName("spam")].stages == {"production": "1"}


async def test_questions_about_one_version(opened: Open, sagemaker: SageMaker) -> None:
    """There is none, or it is told."""
    sagemaker.package("fraud")
    registry = opened()
    found = await registry.get(FRAUD, VersionId("1"))

    assert isinstance(found, Version)
    assert (found.version, found.format) == ("1", "onnx")
    assert await registry.get(FRAUD, VersionId("2")) is None
    assert await registry.get(ModelName("gone"), VersionId("1")) is None


@pytest.mark.usefixtures("quick")
async def test_too_many_calls_are_made_slower(opened: Open, sagemaker: SageMaker, line: Line) -> None:
    """The same call again after a pause; where it never is well the registry counts as away."""
    sagemaker.package("fraud")
    left = [*(["ThrottlingException"] * 3), "ServiceUnavailable"]

    def throttled(_: Asked) -> Answer | None:
        return refusal(left[-1], 503 if left.pop() == "ServiceUnavailable" else 400) if left else None

    line.answer(DESCRIBE, throttled)
    assert "1" in (await fraud(opened())).versions
    assert line.calls.count(DESCRIBE) == 5

    line.answer(LIST, lambda _: refusal("ThrottlingException"))
    with pytest.raises(RegistryUnavailable, match=r"ListModelPackages.*ThrottlingException"):
        await opened(timeout=0.5).read()
    assert 3 < len(line.calls) < 100


def _empty(told: Any) -> None:
    told.clear()


def _one_less(told: Any) -> None:
    told["ModelPackageSummaryList"].pop(0)


def _none(told: Any) -> None:
    told["ModelPackageSummaryList"].clear()


@pytest.mark.parametrize("change", [_empty, _one_less, _none])
async def test_half_a_list_deletes_nothing(
    opened: Open, sagemaker: SageMaker, line: Line, change: Callable[[Any], None]
) -> None:
    """What is missing is asked for by name before it is believed to be gone."""
    sagemaker.package("fraud", "Approved")
    sagemaker.package("spam")
    registry = opened()
    before = await registry.read()
    line.alter(LIST, change)
    with pytest.raises(RegistryUnavailable, match="'sm'"):
        await registry.read()
    line.heal()

    assert await registry.read() is before


async def test_many_packages_are_described_in_several_readings(
    opened: Open, sagemaker: SageMaker, line: Line, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was described is kept; nobody sees a registry that is read in part."""
    monkeypatch.setattr(f"{SageMakerRegistry.__module__}._AT_ONCE", 1)
    for _ in range(3):
        sagemaker.package("fraud")
    now = 0.0

    def late(asked: Asked) -> None:
        nonlocal now
        now += 2.0

    line.answer(DESCRIBE, late)
    monkeypatch.setattr(f"{SageMakerRegistry.__module__}.monotonic", lambda: now)
    registry = opened(timeout=3.0)
    with pytest.raises(RegistryIncomplete, match="2 of 3 packages are described"):
        await registry.read()
    assert line.calls.count(DESCRIBE) == 2

    assert list((await fraud(registry)).versions) == ["1", "2", "3"]
    assert line.calls.count(DESCRIBE) == 1


@pytest.mark.parametrize(
    "answer",
    [
        Answer(body=b"<html>Welcome</html>"),
        Answer(body=b'{"ModelPackageSummaryList": [{"ModelPack', cut=True),
        Answer(body=b'{"ModelPackageSummaryList": "all"}'),
        Answer(body=b"{}"),
        Answer(404, b"<html>nobody here</html>"),
        Answer(302, headers={"location": "http://169.254.169.254/"}),
    ],
)
async def test_other_answers_are_none(opened: Open, sagemaker: SageMaker, line: Line, answer: Answer) -> None:
    """The registry counts as away, and is back with the next good answer."""
    sagemaker.package("fraud")
    registry = opened()
    before = await registry.read()
    line.answer(LIST, lambda _: answer)
    with pytest.raises(RegistryUnavailable, match="'sm'"):
        await registry.read()
    line.heal()

    assert await registry.read() is before


async def test_a_description_that_is_not_whole_keeps_the_last_good_reading(
    opened: Open, sagemaker: SageMaker, line: Line
) -> None:
    """It is asked for again with the next reading, until it is whole."""
    sagemaker.package("fraud", "Approved")
    registry = opened()
    before = await fraud(registry)
    sagemaker.package("fraud", "Approved")
    line.alter(DESCRIBE, _empty)
    view = await registry.read()

    assert view.models[FRAUD] is before
    assert [problem.subject for problem in view.problems] == ["fraud"]
    assert "not whole; its last good reading goes on" in view.problems[0].message

    line.heal()
    after = await registry.read()
    assert (after.models[FRAUD].stages, after.problems) == ({"production": "2"}, ())


async def test_descriptions_of_groups_are_not_needed(opened: Open, sagemaker: SageMaker, line: Line) -> None:
    """Who may not list groups has models all the same."""
    sagemaker.package("fraud")
    line.answer(GROUPS, lambda _: refusal("AccessDeniedException"))

    assert (await fraud(opened())).description == ""


async def test_keys_are_read_anew_where_they_open_nothing(
    opened: Open, sagemaker: SageMaker, line: Line
) -> None:
    """What was denied is told with a hint; keys that were changed meanwhile need no restart."""
    sagemaker.package("fraud")
    keys = iter(["old", "new"])
    used: list[str] = []

    def key() -> str:
        used.append(next(keys))
        return used[-1]

    def only_new(asked: Asked) -> Answer | None:
        good = "Credential=new/" in asked.headers["authorization"]
        return None if good else refusal("UnrecognizedClientException")

    line.answer(LIST, only_new)
    registry = opened(access_key=key)
    with pytest.raises(RegistryUnavailable, match=r"UnrecognizedClientException.*look at its keys"):
        await registry.read()

    assert list((await registry.read()).models) == ["fraud"]
    assert used == ["old", "new"]


async def test_a_stage_is_an_approval(opened: Open, sagemaker: SageMaker, line: Line) -> None:
    """Those above leave the stage, the highest last, so that it never names one between."""
    for _ in range(4):
        sagemaker.package("fraud", "Approved")
    sagemaker.approve("fraud", 2, "PendingManualApproval")
    registry = opened()
    await registry.read()
    await registry.write(move(2, "Production", expected="4"))

    told = [(each["ModelPackageArn"][-1], each["ModelApprovalStatus"]) for each in line.updates]
    assert told == [("2", "Approved"), ("3", "PendingManualApproval"), ("4", "PendingManualApproval")]
    assert (await fraud(registry)).stages == {"production": "2", "staging": "4"}

    line.calls.clear()
    await registry.write(move(2, "production", expected="4"))
    await registry.write(move(2, "production"))
    assert line.updates == []

    await registry.write(move(2, "", expected=""))
    assert (await fraud(registry)).stages == {"production": "1", "staging": "4"}


async def test_what_is_below_stays_approved(opened: Open, sagemaker: SageMaker, line: Line) -> None:
    """One call is enough."""
    sagemaker.package("fraud", "Approved")
    sagemaker.package("fraud")
    registry = opened()
    await registry.write(move(2, "production", expected="1"))

    assert len(line.updates) == 1
    assert (await fraud(registry)).stages == {"production": "2"}
    assert sagemaker.told("fraud", 1)["ModelApprovalStatus"] == "Approved"


REFUSED: Mapping[str, tuple[Any, type[Exception]]] = {
    "no aliases": (AliasChange(FRAUD, "champion", VersionId("1")), NotSupported),
    "production and staging": (move(1, "archived"), NotSupported),
    "names 3, not 2": (move(1, "production", expected="2"), Conflict),
    "names the highest version in it, 3": (move(1, "production", archive_existing=False), RegistryRefused),
    "approved or rejected": (move(2, "staging"), RegistryRefused),
    "no version '9'": (move(9, "production"), VersionNotFound),
    "gone": (StageTransition(ModelName("gone"), VersionId("1"), "production"), ModelNotFound),
    "takes no property 'a,b'": (TagChange(FRAUD, VersionId("1"), "a,b", "x"), RegistryRefused),
}


@pytest.mark.parametrize("why", REFUSED)
async def test_what_cannot_be_written_changes_nothing(
    opened: Open, sagemaker: SageMaker, line: Line, why: str
) -> None:
    """And says why."""
    change, error = REFUSED[why]
    for approval in ("Approved", "Rejected", "Approved", "PendingManualApproval"):
        sagemaker.package("fraud", approval)
    registry = opened()
    with pytest.raises(error, match=why):
        await registry.write(change)

    assert line.updates == []


async def test_an_unfinished_version_takes_no_stage(opened: Open, sagemaker: SageMaker, line: Line) -> None:
    """The stage would not name it."""
    sagemaker.package("fraud")
    line.alter(LIST, lambda told: told["ModelPackageSummaryList"][0].update(ModelPackageStatus="InProgress"))
    with pytest.raises(RegistryRefused, match="registration of version 1 is InProgress"):
        await opened().write(move(1, "production"))


async def test_tags_are_properties(opened: Open, sagemaker: SageMaker, line: Line) -> None:
    """Nothing is sent where nothing changes; the others stay."""
    sagemaker.package("fraud", CustomerMetadataProperties={"stagegate.format": "onnx", "team": "risk"})
    registry = opened()
    assert (await fraud(registry)).versions[VersionId("1")].tags["team"] == "risk"
    await registry.write(TagChange(FRAUD, VersionId("1"), "team", "risk"))
    await registry.write(TagChange(FRAUD, VersionId("1"), "nothing", None))
    assert line.updates == []

    await registry.write(TagChange(FRAUD, VersionId("1"), "team", None))
    (removed,) = line.updates
    assert removed["CustomerMetadataPropertiesToRemove"] == ["team"]
    assert set(removed) == {"ModelPackageArn", "CustomerMetadataPropertiesToRemove"}

    await registry.write(TagChange(FRAUD, VersionId("1"), "stagegate.rollback_reason", "bad, really"))
    (made,) = line.updates
    properties = {"stagegate.format": "onnx", "stagegate.rollback_reason": "bad_ really"}
    assert made["CustomerMetadataProperties"] == properties
    model = await fraud(registry)
    assert dict(model.versions[VersionId("1")].tags) == properties
    assert model.stages == {"staging": "1"}


@pytest.mark.parametrize(
    ("code", "error"),
    [
        ("AccessDeniedException", RegistryRefused),
        ("ConflictException", RegistryRefused),
        ("UnrecognizedClientException", RegistryUnavailable),
    ],
)
async def test_a_refused_write(
    opened: Open, sagemaker: SageMaker, line: Line, code: str, error: type[Exception]
) -> None:
    """What others may not do either is final; keys that open nothing can be changed."""
    sagemaker.package("fraud")
    line.answer(UPDATE, lambda _: refusal(code))
    with pytest.raises(error, match=code):
        await opened().write(move(1, "production"))


def an_archive(files: Mapping[str, bytes]) -> bytes:
    """A `model.tar.gz` as training jobs of SageMaker leave them."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return packed.getvalue()


class Bucket:
    """Model data on a real S3 server, and the engine that fetches it."""

    def __init__(self, server: Server, client: Any) -> None:
        self.client = client
        self.name = server.bucket("sagemaker-tests")
        self.key = f"{secrets.token_hex(4)}/output/model.tar.gz"
        self.uri = f"s3://{self.name}/{self.key}"
        self.options = {
            "s3_endpoint": server.endpoint,
            "access_key": lambda: server.access_key,
            "secret_key": lambda: server.secret_key,
        }

    def put(self, data: bytes) -> str:
        """Write the object; returns its ETag as SageMaker would note it."""
        return str(self.client.put_object(Bucket=self.name, Key=self.key, Body=data)["ETag"])

    def fetch(self, registry: SageMakerRegistry, version: Version, folder: Path, *buckets: str) -> list[str]:
        """Paths of what a fetch brings."""
        fetcher = Fetcher(
            ArtifactSettings(timeout=30, allow=Allow(buckets=buckets or (self.name,))),
            origins=lambda _: Origin("sagemaker"),
            sources=lambda each: registry.source(each.artifact),
        )
        folder.mkdir()
        fetcher.fetch(version, folder)
        return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


@pytest.fixture
def bucket(s3_server: Server) -> Iterator[Bucket]:
    """A place for one object."""
    client = s3_server.client()
    yield Bucket(s3_server, client)
    client.close()


async def test_model_data_is_fetched_and_unpacked(
    opened: Open, sagemaker: SageMaker, bucket: Bucket, tmp_path: Path
) -> None:
    """With this registry's keys, from buckets that are allowed; an archive is opened."""
    etag = bucket.put(an_archive({"model.onnx": b"onnx", "code/notes.txt": b"x"}))
    sagemaker.package(
        "fraud", "Approved", InferenceSpecification=container(bucket.uri, ModelDataETag=etag.strip('"'))
    )
    registry = opened(**bucket.options)
    version = (await fraud(registry)).versions[VersionId("1")]

    assert bucket.fetch(registry, version, tmp_path / "a") == ["code/notes.txt", "model.onnx"]
    assert bucket.fetch(registry, version, tmp_path / "b") == ["code/notes.txt", "model.onnx"]
    with pytest.raises(ArtifactRefused, match=r"artifacts\.allow\.buckets"):
        bucket.fetch(registry, version, tmp_path / "c", "another-bucket")
    assert registry.source("https://models/m.tar.gz") is None


async def test_model_data_that_was_replaced_is_not_served(
    opened: Open, sagemaker: SageMaker, bucket: Bucket, tmp_path: Path
) -> None:
    """Silently, or by a newer package, which then is served instead."""
    first = bucket.put(an_archive({"model.onnx": b"one"}))
    sagemaker.package("fraud", InferenceSpecification=container(bucket.uri, ModelDataETag=first))
    registry = opened(**bucket.options)
    version = (await fraud(registry)).versions[VersionId("1")]
    second = bucket.put(an_archive({"model.onnx": b"two"}))
    with pytest.raises(ArtifactChanged, match="was replaced after its package was made"):
        bucket.fetch(registry, version, tmp_path / "a")

    sagemaker.package("fraud", InferenceSpecification=container(bucket.uri, ModelDataETag=second))
    versions = (await fraud(registry)).versions
    assert versions[VersionId("1")].unusable == "its model data was overwritten by fraud version 2"
    assert bucket.fetch(registry, versions[VersionId("2")], tmp_path / "b") == ["model.onnx"]


async def test_what_it_cannot_do_is_said(opened: Open, tmp_path: Path) -> None:
    """By its capabilities, and by what it answers."""
    registry = opened()

    assert registry.capabilities == {Capability.STAGES, Capability.TAGS}
    with pytest.raises(NotSupported, match="SageMaker's own tools"):
        await registry.register(NewVersion(FRAUD, tmp_path, "onnx", "sha256:0"))
    with pytest.raises(NotSupported, match="sends no notices"):
        registry.webhook({}, b"", 0.0)


def test_half_a_key_is_none(opened: Open) -> None:
    """Both, or what the environment gives."""
    with pytest.raises(InvalidInput, match="both `access_key` and `secret_key`"):
        opened(secret_key=None)


async def test_an_endpoint_that_is_none(opened: Open) -> None:
    """It is told as what it is, and not with S3's words."""
    with pytest.raises(RegistryUnavailable, match="'sm': sagemaker at ftp://host cannot be used"):
        await opened(endpoint="ftp://host").read()


def test_without_boto3_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a registry of the type is opened."""
    monkeypatch.setattr("importlib.util.find_spec", lambda name, *_: None if name == "botocore" else object())
    with pytest.raises(NotSupported, match=r"pip install 'stagegate\[sagemaker\]'"):
        open_registry("sm", "sagemaker", {})
