"""Readings of MLflow: how much they ask, and what they keep."""

from __future__ import annotations

import asyncio
import threading

import pytest

from router.errors import RegistryUnavailable
from router.model import ModelName, PointerKind, Version, VersionId
from router.ports import Hint, Unknown
from router.registries.mlflow import TYPE, MlflowRegistry
from tests.fakes.mlflow import FakeMlflow, a_run
from tests.servers.between import Answer, Asked, Between

DIGITS, WINE = ModelName("digits"), ModelName("wine")
SEARCHES = ["/api/2.0/mlflow/registered-models/search", "/api/2.0/mlflow/model-versions/search"]


async def test_the_first_reading_asks_for_all_runs_at_once(registry: MlflowRegistry, server: Between) -> None:
    """Two searches, the experiments, and the runs."""
    model = (await registry.read()).models[DIGITS]

    assert server.paths()[:2] == SEARCHES
    assert [path.rpartition("mlflow/")[2] for path in server.paths()[2:]] == [
        "experiments/search",
        "runs/search",
    ]
    assert model.versions[VersionId("2")].metrics == {"accuracy": 0.52}
    assert model.versions[VersionId("2")].lineage == {"dataset": "digits@abc", "run": "digits-2"}


async def test_an_unchanged_poll_is_two_calls_and_the_very_same_view(
    registry: MlflowRegistry, server: Between
) -> None:
    """Nothing is made anew."""
    view = await registry.read()
    server.asked.clear()

    assert await registry.read() is view
    assert server.paths() == SEARCHES


async def test_an_alias_that_moved_leaves_other_models_the_very_same(
    registry: MlflowRegistry, fake: FakeMlflow, server: Between
) -> None:
    """And the versions too: no timestamp says that it moved."""
    before = await registry.read()
    fake.alias("digits", "champion", "1")
    server.asked.clear()
    after = await registry.read()

    assert after.models[DIGITS].aliases == {"champion": "1"}
    assert after.models[WINE] is before.models[WINE]
    assert after.models[DIGITS].versions["1"] is before.models[DIGITS].versions["1"]  # type: ignore[index]
    assert server.paths() == SEARCHES


async def test_a_hint_about_an_alias_is_one_call(
    registry: MlflowRegistry, fake: FakeMlflow, server: Between
) -> None:
    """What else changed is seen by the next whole reading."""
    before = await registry.read()
    fake.alias("digits", "champion", "1")
    fake.alias("wine", "champion", "1")
    server.asked.clear()
    view = await registry.read(Hint(DIGITS, "champion"))

    assert server.paths() == ["/api/2.0/mlflow/registered-models/alias"]
    assert view.models[DIGITS].aliases == {"champion": "1"}
    assert view.models[WINE] is before.models[WINE]
    assert (await registry.read()).models[WINE].aliases == {"champion": "1"}


async def test_a_hint_about_an_alias_of_a_new_version_brings_it(
    registry: MlflowRegistry, fake: FakeMlflow, server: Between
) -> None:
    """With its run: two calls."""
    await registry.read()
    fake.versions.append({"name": "digits", "version": "3", "source": "s3://m/3", "run_id": "r3"})
    fake.runs["r3"] = a_run("r3", {"accuracy": 0.9}, **{"mlflow.source.git.commit": "abc"})
    fake.alias("digits", "champion", "3")
    server.asked.clear()
    model = (await registry.read(Hint(DIGITS, "champion"))).models[DIGITS]

    assert len(server.asked) == 2
    assert (model.aliases["champion"], list(model.versions)) == ("3", ["1", "2", "3"])
    assert model.versions[VersionId("3")].lineage["commit"] == "abc"


async def test_a_hint_about_an_alias_that_is_gone_takes_it_away(
    registry: MlflowRegistry, fake: FakeMlflow
) -> None:
    """MLflow answers 400 and INVALID_PARAMETER_VALUE."""
    await registry.read()
    fake.models["digits"]["aliases"] = []

    assert (await registry.read(Hint(DIGITS, "champion"))).models[DIGITS].aliases == {}


async def test_a_move_back_before_the_next_poll_is_seen(registry: MlflowRegistry, fake: FakeMlflow) -> None:
    """The pages are then byte for byte those of the last whole reading, and yet not what we hold."""
    await registry.read()
    fake.alias("digits", "champion", "1")
    await registry.read(Hint(DIGITS, "champion"))
    fake.alias("digits", "champion", "2")

    assert (await registry.read()).models[DIGITS].aliases == {"champion": "2"}


async def test_a_hint_about_a_model_that_is_gone_takes_it_away(
    registry: MlflowRegistry, fake: FakeMlflow
) -> None:
    """Others stay."""
    await registry.read()
    del fake.models["digits"]

    assert list((await registry.read(Hint(DIGITS))).models) == [WINE]


async def test_a_reading_that_was_begun_before_a_hint_takes_nothing_back(
    registry: MlflowRegistry, fake: FakeMlflow, server: Between
) -> None:
    """Its answer is older, though it comes later; the poll after it looks into the pages again."""
    await registry.read()
    hold, held = threading.Event(), threading.Event()

    def slow(asked: Asked) -> Answer:
        answer = fake.answer(asked)
        if "registered-models/search" in asked.path:
            held.set()
            return Answer(answer.status, answer.body, after=hold)
        return answer

    server.script = slow
    whole = asyncio.create_task(registry.read())
    await asyncio.to_thread(held.wait, 5)
    fake.alias("digits", "champion", "1")
    assert (await registry.read(Hint(DIGITS, "champion"))).models[DIGITS].aliases == {"champion": "1"}
    hold.set()

    assert (await whole).models[DIGITS].aliases == {"champion": "1"}
    assert (await registry.read()).models[DIGITS].aliases == {"champion": "1"}


async def test_half_a_list_deletes_nothing(
    registry: MlflowRegistry, fake: FakeMlflow, server: Between
) -> None:
    """What is missing from it is asked about by name."""
    view = await registry.read()

    def half(asked: Asked) -> Answer:
        return Answer(body=b"{}") if "registered-models/search" in asked.path else fake.answer(asked)

    server.script = half
    with pytest.raises(RegistryUnavailable, match="leaves out model 'digits', which exists"):
        await registry.read()
    server.script = fake.answer

    assert await registry.read() is view


async def test_a_version_that_is_deleted_is_gone(registry: MlflowRegistry, fake: FakeMlflow) -> None:
    """And an alias that still names it is a problem."""
    await registry.read()
    fake.versions = [each for each in fake.versions if (each["name"], each["version"]) != ("digits", "2")]
    view = await registry.read()

    assert list(view.models[DIGITS].versions) == ["1"]
    assert "alias 'champion' points to version '2'" in view.problems[0].message


async def test_pages_are_followed(registry: MlflowRegistry, fake: FakeMlflow, server: Between) -> None:
    """Whatever their size; and the tokens of pages that did not change are remembered."""
    fake.page = 1
    view = await registry.read()
    server.asked.clear()

    assert [len(model.versions) for model in view.models.values()] == [2, 2]
    assert await registry.read() is view
    assert server.paths() == [SEARCHES[0], *[SEARCHES[1]] * 4]


async def test_metrics_of_an_unfinished_run_are_asked_for_again(
    registry: MlflowRegistry, fake: FakeMlflow, monkeypatch: pytest.MonkeyPatch
) -> None:
    """People log metrics after they registered."""
    monkeypatch.setattr("router.registries.mlflow.facts._AGAIN", 0.0)
    fake.runs["digits-2"] = a_run("digits-2", {}, status="RUNNING")
    assert (await registry.read()).models[DIGITS].versions[VersionId("2")].metrics == {}
    fake.runs["digits-2"] = a_run("digits-2", {"accuracy": 0.7})

    assert (await registry.read()).models[DIGITS].versions[VersionId("2")].metrics == {"accuracy": 0.7}


async def test_versions_are_served_where_runs_cannot_be_asked(
    registry: MlflowRegistry, fake: FakeMlflow, server: Between
) -> None:
    """With a problem that says so."""
    server.script = lambda asked: Answer(500) if "runs" in asked.path else fake.answer(asked)
    view = await registry.read()

    assert view.models[DIGITS].versions[VersionId("1")].artifact == "s3://models/digits/1"
    assert view.models[DIGITS].versions[VersionId("1")].metrics == {}
    assert "runs and places of files cannot be asked about" in view.problems[0].message


async def test_only_models_that_are_wanted_are_taken(server: Between, fake: FakeMlflow) -> None:
    """Prompts never, names that cannot be logical only under one that the operator gave."""
    fake.add("team/fraud")
    fake.add("wine red")
    fake.add("greeting")
    fake.models["greeting"]["tags"] = [{"key": "mlflow.prompt.is_prompt", "value": "true"}]
    options = {"uri": server.uri, "names": {"fraud": "team/fraud"}, "models": ("*a*", "wine*", "greeting")}
    view = await TYPE.open("prod", options).read()

    assert sorted(view.models) == ["fraud", "wine"]
    assert [problem.subject for problem in view.problems] == ["wine red"]
    assert "cannot be served" in view.problems[0].message


async def test_one_question_is_one_call(registry: MlflowRegistry, server: Between) -> None:
    """For a version, an alias, a stage; None for what is not there."""
    await registry.read()
    server.asked.clear()
    version = await registry.get(DIGITS, VersionId("1"))

    assert isinstance(version, Version)
    assert version.metrics == {"accuracy": 0.51}
    assert await registry.resolve(DIGITS, PointerKind.ALIAS, "champion") == "2"
    assert await registry.resolve(DIGITS, PointerKind.STAGE, "Production") == "1"
    assert await registry.resolve(DIGITS, PointerKind.ALIAS, "other") is None
    assert await registry.resolve(ModelName("other"), PointerKind.ALIAS, "champion") is None
    assert await registry.get(DIGITS, VersionId("9")) is None
    assert len(server.asked) == 6


async def test_a_question_that_is_not_answered_is_unknown(registry: MlflowRegistry, server: Between) -> None:
    """Never an error, never None."""
    server.script = lambda _: Answer(502, b"<html>")

    assert isinstance(await registry.get(DIGITS, VersionId("1")), Unknown)
    assert isinstance(await registry.resolve(DIGITS, PointerKind.STAGE, "production"), Unknown)
