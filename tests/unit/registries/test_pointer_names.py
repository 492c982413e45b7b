"""Names of stages and aliases: what is refused is what the other side refuses."""

from __future__ import annotations

import shutil
import subprocess

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from router.model import PointerKind
from router.registries.dvc.tags import stage_problem
from router.registries.mlflow.writing import pointer_problem as of_mlflow
from router.registries.pointer_names import git_problem, one_of_problem, reference_problem

NAMES = (
    *("champion", "v1.0", "team/eu", "ünicode", "a@b", "a-b", "a.b", "a#b", "HEADS", "a.locks", "{x}"),
    *("a b", "a\tb", "a~b", "a^b", "a:b", "a?b", "a*b", "a[b", "a\\b", "a..b", "a//b", "a@{b", "x.lock/y"),
    *(".a", "a/.b", "a.lock", "/a", "a/", "a.", "-a", "a\x7f"),
)


def git_takes(name: str) -> bool:
    """Whether git itself would make a tag of this name."""
    done = subprocess.run(
        [str(shutil.which("git")), "check-ref-format", f"refs/tags/{name}"], check=False, timeout=30
    )
    return done.returncode == 0 and not name.startswith("-")


@pytest.mark.parametrize("name", NAMES)
def test_what_git_takes_as_a_tag_has_no_problem(name: str) -> None:
    """And what it does not take has one, as git itself says."""
    assert (git_problem(name) == "") == git_takes(name)


@settings(max_examples=60, deadline=None)
@given(st.text("ab./@{}-~:^? lock", min_size=1, max_size=8).filter(lambda name: name[0] != "@"))
def test_git_says_the_same_of_any_name(name: str) -> None:
    """Whatever comes together."""
    assert (git_problem(name) == "") == git_takes(name)


@pytest.mark.parametrize("name", ["@", "@@x", "@x", "", "a\nb", "x" * 129])
def test_what_clients_could_not_name_is_no_pointer(name: str) -> None:
    """Whatever a registry takes."""
    assert reference_problem(name)
    assert git_problem(name)


def test_a_stage_must_come_back_out_of_its_tag() -> None:
    """Or the registry would name something else than was written."""
    assert [stage_problem(name) for name in ("production", "prod-eu_2", "team/eu", "2")] == [""] * 4
    assert all(map(stage_problem, ("a b", "prod!", "a#b", "a.b", "-a", "a/", "a//b", "ünicode", "x" * 600)))


@pytest.mark.parametrize(
    ("kind", "name", "words"),
    [
        (PointerKind.STAGE, "canary", "its stages are archived, production and staging; for"),
        (PointerKind.STAGE, "none", "MLflow has no stage 'none'"),
        (PointerKind.ALIAS, "Latest", "neither 'latest' nor 'v' with a number"),
        (PointerKind.ALIAS, "V12", "neither 'latest'"),
        (PointerKind.ALIAS, "a.b", "letters, digits, '_' and '-'"),
        (PointerKind.ALIAS, "x" * 200, "200 characters"),
    ],
)
def test_people_are_told_what_would_do(kind: PointerKind, name: str, words: str) -> None:
    """In one sentence."""
    assert words in of_mlflow(kind, name)
    assert of_mlflow(PointerKind.ALIAS, "v1x") == of_mlflow(PointerKind.STAGE, "archived") == ""


def test_where_there_are_no_stages_none_is_listed() -> None:
    """A configuration may leave them out."""
    assert one_of_problem("it", "a", []) == "it has no stage 'a'; its stages are none"
