"""What is made of what MLflow tells."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from router.model import Contract, ModelName, RegistryProblem, TensorSpec, Version
from router.registries.mlflow.facts import Facts, LoggedModel, Run, logged_model, run_of
from router.registries.mlflow.told import Malformed, ToldVersion, page_of, version_of
from router.registries.mlflow.versions import contract_of, contract_text, stages_of
from router.registries.mlflow.versions import version_of as made

TOLD = version_of(
    {
        "name": "digits",
        "version": "3",
        "creation_timestamp": 1700000000500,
        "current_stage": "Staging",
        "source": "models:/m-0a1b",
        "run_id": "r1",
        "status": "READY",
        "tags": [{"key": "team", "value": "a"}, {"key": "empty"}],
    }
)
CONTRACT = Contract((TensorSpec("x", "FP32", (-1, 4)),), (TensorSpec("y", "INT64", (-1,)),))


def facts() -> Facts:
    """A run, a logged model of it, and a copy of the version."""
    known = Facts()
    known.runs["r1"] = Run("s3://b/r1/artifacts", {"loss": 0.5, "accuracy": 0.1}, {"run": "r1"}, ended=True)
    known.models["m-0a1b"] = LoggedModel("mlflow-artifacts:/0/models/m-0a1b/artifacts", {"accuracy": 0.9})
    known.copies["models:/digits/3"] = "models:/m-0a1b"
    return known


def version(told: ToldVersion) -> tuple[Version, list[RegistryProblem]]:
    """What is made of it."""
    problems: list[RegistryProblem] = []
    return made("prod", ModelName("digits"), told, facts(), problems), problems


def tagged(**tags: str) -> ToldVersion:
    """With tags `stagegate.*`."""
    return replace(TOLD, tags={f"stagegate.{key}": value for key, value in tags.items()})


def test_a_version_of_a_logged_model() -> None:
    """Its place and its own metrics are the logged model's, the rest is the run's."""
    found, problems = version(TOLD)

    assert problems == []
    assert found.artifact == "mlflow-artifacts:/0/models/m-0a1b/artifacts"
    assert found.metrics == {"loss": 0.5, "accuracy": 0.9}
    assert (found.format, found.digest, found.contract, found.unusable) == ("mlflow", "", None, "")
    assert (found.created, found.tags) == (1700000000.5, {"team": "a", "empty": ""})


@pytest.mark.parametrize(
    ("source", "place"),
    [
        ("runs:/r1/model", "s3://b/r1/artifacts/model"),
        ("models:/digits/3", "mlflow-artifacts:/0/models/m-0a1b/artifacts"),
        ("s3://bucket/some where", "s3://bucket/some where"),
        ("file:///etc", "file:///etc"),
    ],
)
def test_where_files_lie(source: str, place: str) -> None:
    """MLflow's indirections are followed; whether a place is allowed is not decided here."""
    assert version(replace(TOLD, source=source))[0].artifact == place


@pytest.mark.parametrize(
    "source", ["models:/m-ffff", "runs:/r2/model", "models:/wine/1", "models:/digits@a", ""]
)
def test_a_version_whose_place_nobody_tells_is_not_to_be_served(source: str) -> None:
    """It says so, and has no place."""
    found, _ = version(replace(TOLD, source=source))

    assert found.artifact == ""
    assert found.unusable.startswith("MLflow does not tell where its files lie")


def test_a_version_that_is_not_ready_is_not_to_be_served() -> None:
    """With MLflow's own words."""
    told = replace(TOLD, status="FAILED_REGISTRATION", status_text="disk full")

    assert version(told)[0].unusable == "MLflow says FAILED_REGISTRATION disk full"


def test_tags_of_ours() -> None:
    """Digest, format and contract."""
    digest = "sha256:" + "0" * 64
    found, problems = version(tagged(digest=digest, format="onnx", contract=contract_text(CONTRACT)))

    assert (found.digest, found.format, found.contract, problems) == (digest, "onnx", CONTRACT, [])


@pytest.mark.parametrize("tags", [{"digest": "md5:0"}, {"digest": "sha256:zz"}, {"format": "../x"}])
def test_a_wrong_tag_of_ours_stops_the_version(tags: dict[str, str]) -> None:
    """What cannot be verified as its owner wants is not served."""
    assert "its tag stagegate." in version(tagged(**tags))[0].unusable


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]",
        '{"inputs": []}',
        json.dumps({"inputs": [{"name": "x"}], "outputs": []}),
        '{"a": "x\\u0000"}',
    ],
)
def test_a_wrong_contract_is_a_problem(text: str) -> None:
    """The version goes on without one: Triton tells its own after the load."""
    found, problems = version(tagged(contract=text))

    assert (found.contract, found.unusable) == (None, "")
    assert [problem.subject for problem in problems] == ["digits/3"]


def test_a_contract_reads_as_it_was_written() -> None:
    """And nothing is none."""
    assert contract_of(contract_text(CONTRACT)) == CONTRACT
    assert contract_of("") is None


def test_a_stage_of_several_is_the_highest_that_is_ready() -> None:
    """Else the highest; versions without a stage have none."""
    told = [
        replace(TOLD, version="2", stage="production"),
        replace(TOLD, version="10", stage="production"),
        replace(TOLD, version="11", stage="production", status="PENDING_REGISTRATION"),
        replace(TOLD, version="1", stage="archived"),
        replace(TOLD, version="4", stage="archived"),
        replace(TOLD, version="12", stage="none"),
        replace(TOLD, version="13", stage="staging", status="PENDING_REGISTRATION"),
    ]

    assert stages_of(told) == {"archived": "4", "production": "10", "staging": "13"}


@pytest.mark.parametrize(
    "entry",
    [
        None,
        [],
        {"version": "1"},
        {"name": "", "version": "1"},
        {"name": "digits"},
        {"name": "digits", "version": 1},
        {"name": "digits", "version": "latest"},
        {"name": "digits", "version": "-1"},
        {"name": "digits", "version": "²"},
        {"name": "digits", "version": "1", "tags": {"a": "b"}},
        {"name": "digits", "version": "1", "tags": ["a"]},
        {"name": "digits", "version": "1", "source": 7},
    ],
)
def test_an_entry_that_is_not_mlflows_is_malformed(entry: object) -> None:
    """It names its model where it can."""
    with pytest.raises(Malformed) as problem:
        version_of(entry)
    named = isinstance(entry, dict) and entry.get("name") == "digits"
    assert problem.value.model == ("digits" if named else "")


def test_a_page_without_its_list_is_empty_only_where_it_is_all_empty() -> None:
    """MLflow leaves empty lists out."""
    assert page_of({}, "registered_models") == ([], "")
    with pytest.raises(Malformed):
        page_of({"message": "welcome"}, "registered_models")


def test_sources_are_told_apart() -> None:
    """A logged model's id begins with `m-`."""
    assert logged_model("models:/m-0a1b") == "m-0a1b"
    assert [
        logged_model(each) for each in ("models:/wine/1", "models:/m-a/b", "s3://m-a", "models:/m-../x")
    ] == [
        *("", "", "", ""),
    ]
    assert (run_of("runs:/r1/a/b"), run_of("s3://runs:/r1")) == ("r1", "")
