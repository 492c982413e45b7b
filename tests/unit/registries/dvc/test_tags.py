"""Tags of a git repository as a registry of models."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.registries.dvc.git import Mirror
from router.registries.dvc.tags import Act, GitTag, Meaning, meaning, read_tags, tag_of_stage
from tests.servers.dvc import Repository, environment

A, B, C = "a" * 40, "b" * 40, "c" * 40


def tags(*named: tuple[str, str]) -> list[GitTag]:
    """Tags at commits, each a second after the one before."""
    return [GitTag(name, commit, float(date)) for date, (name, commit) in enumerate(named)]


@pytest.mark.parametrize(
    ("tag", "means"),
    [
        ("digits@v1.2.3", Meaning("digits", Act.REGISTER, "v1.2.3")),
        ("digits@v1.2.3-rc.1+x", Meaning("digits", Act.REGISTER, "v1.2.3-rc.1+x")),
        ("digits@v1.2.3!#4", Meaning("digits", Act.DEREGISTER, "v1.2.3", 4)),
        ("digits#Prod", Meaning("digits", Act.ASSIGN, "prod")),
        ("digits#prod#12", Meaning("digits", Act.ASSIGN, "prod", 12)),
        ("digits#prod!#13", Meaning("digits", Act.UNASSIGN, "prod", 13)),
        ("models/a=digits#prod", Meaning("models/a:digits", Act.ASSIGN, "prod")),
        ("team/digits@v1.0.0", Meaning("team/digits", Act.REGISTER, "v1.0.0")),
        ("digits@deprecated", Meaning("digits", Act.DEPRECATE)),
        ("digits@created#1", Meaning("digits", Act.CREATE, "", 1)),
    ],
)
def test_what_a_tag_means(tag: str, means: Meaning) -> None:
    """The forms that GTO writes."""
    assert meaning(tag) == means


@pytest.mark.parametrize(
    "tag",
    [
        *("v1.0.0", "digits", "digits@1.0.0", "digits@v1", "-a@v1.0.0", "a-@v1.0.0", "#prod", "a@@v1.0.0"),
        *("a#prod#x", "a#", "a@v1.0.0?", "\xe4@v1.0.0", "a b@v1.0.0", "a@v\uff11.0.0", "a@v1.0.0\n"),
        "a" * 600 + "@v1.0.0",
    ],
)
def test_other_tags_mean_nothing(tag: str) -> None:
    """They are somebody else's."""
    assert meaning(tag) is None


@given(st.text(max_size=60))
def test_any_name_has_an_answer(text: str) -> None:
    """No name of a tag is a surprise, and a meaning never leaves the repository's own words."""
    said = meaning(text)

    assert said is None or (said.artifact.isascii() and said.counter >= 0)


def test_the_newest_assignment_wins() -> None:
    """By date, not by counter or name."""
    models, _ = read_tags(
        tags(
            *(("m@v1.0.0", A), ("m@v2.0.0", B), ("m#prod#9", A), ("m#prod#3", B), ("m#prod#4", A)),
            ("m#staging#5", B),
        )
    )

    assert models["m"].stages == {"prod": "v1.0.0", "staging": "v2.0.0"}
    assert models["m"].counter == 9


def test_what_leaves_a_stage_gives_it_back_to_the_one_before() -> None:
    """As long as that one was not taken out too."""
    before = (("m@v1.0.0", A), ("m@v2.0.0", B), ("m#prod#1", A), ("m#prod#2", B))
    left, _ = read_tags(tags(*before, ("m#prod!#3", B)))
    empty, _ = read_tags(tags(*before, ("m#prod!#3", B), ("m#prod!#4", A)))

    assert left["m"].stages == {"prod": "v1.0.0"}
    assert empty["m"].stages == {}


def test_a_stage_names_the_highest_version_of_its_commit() -> None:
    """A commit without a version is one under its own id."""
    models, _ = read_tags(tags(("m@v1.10.0", A), ("m@v1.9.0", A), ("m#prod#1", A), ("m#staging#1", C)))

    assert models["m"].stages == {"prod": "v1.10.0", "staging": C}
    assert list(models["m"].versions) == ["v1.10.0", "v1.9.0", C]


def test_what_is_given_up_is_gone_until_it_comes_back() -> None:
    """A version, or the whole model."""
    gone, _ = read_tags(tags(("m@v1.0.0", A), ("m@v2.0.0", B), ("m@v1.0.0!#1", A)))
    deprecated, _ = read_tags(tags(("m@v1.0.0", A), ("m#prod#1", A), ("m@deprecated#2", A)))
    back, _ = read_tags(tags(("m@v1.0.0", A), ("m@deprecated#2", A), ("m@v2.0.0", B)))

    assert list(gone["m"].versions) == ["v2.0.0"]
    assert (dict(deprecated["m"].versions), deprecated["m"].stages) == ({}, {})
    assert list(back["m"].versions) == ["v2.0.0"]


def test_a_lightweight_tag_is_complained_of() -> None:
    """Nobody who reads this form counts it; other lightweight tags are nobody's business."""
    models, complaints = read_tags([GitTag("m@v1.0.0", A, None), GitTag("release", A, None)])

    assert models == {}
    assert list(complaints) == ["m@v1.0.0"]


def test_a_stage_is_written_as_it_is_read() -> None:
    """The folder's colon is an equals sign in a tag."""
    assert meaning(tag_of_stage("a/b:m", "prod", 7)) == Meaning("a/b:m", Act.ASSIGN, "prod", 7)
    assert meaning(tag_of_stage("m", "prod", 8, leaves=True)) == Meaning("m", Act.UNASSIGN, "prod", 8)


def test_it_agrees_with_gto(dvc_repository: Repository, tmp_path: Path) -> None:
    """The tool that invented the form, on one repository with everything in it."""
    named = [("digits@v1.0.0", "1"), ("digits@v1.2.0", "2"), ("digits@v1.10.0-rc.1", "3")]
    named += [("digits#prod#1", "1"), ("digits#prod#2", "2"), ("digits#staging#3", "3")]
    named += [("digits#prod!#4", "2"), ("digits#dev#5", "9"), ("digits@v1.2.0!#6", "2"), ("tree@v0.1.0", "1")]
    for name, at in named:
        dvc_repository.tag(name, at)
    shown = "{name: gto.api.show('.', name=name, table=False) for name in ('digits', 'tree')}"
    done = subprocess.run(
        [sys.executable, "-c", f"import json, gto.api; print(json.dumps({shown}, default=str))"],
        cwd=dvc_repository.path,
        env=environment(HOME=str(dvc_repository.folder)),
        check=True,
        capture_output=True,
        text=True,
    )
    theirs = json.loads(done.stdout)
    mirror = Mirror("local", str(dvc_repository.path), tmp_path / "mirror")
    mirror.fetch()
    ours, _ = read_tags(mirror.tags())
    mirror.close()

    assert theirs.keys() == {"digits", "tree"}
    for model, found in theirs.items():
        assert {one["version"] for one in found} == set(ours[model].versions)
        stages = {stage["stage"]: one["version"] for one in found for stage in one["stages"]}
        assert stages == ours[model].stages
