"""Ensembles: parts kept together under names that are the version's own."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from router.artifacts.fetch import Fetcher
from router.artifacts.layout import TritonRepository
from router.errors import ArtifactError, UnsupportedFormat
from router.model import TritonName, part_name, whole_of
from tests.unit.artifacts.shelf import ALLOWED, CONTRACT, NAME, config_of, everything, laid_out

PART = 'backend: "python"\n'


def ensemble(*steps: str) -> str:
    """An ensemble with steps such as `twice` or `twice:2`."""
    made = ""
    for step in steps:
        name, _, version = step.partition(":")
        made += f'step {{ model_name: "{name}" model_version: {version or -1} }}\n'
    return f'platform: "ensemble"\nensemble_scheduling {{ {made} }}'


def steps_of(repository: Path, name: str = NAME) -> list[tuple[str, int]]:
    """Names and versions in the steps of one model."""
    return [
        (one.model_name, one.model_version) for one in config_of(repository, name).ensemble_scheduling.step
    ]


def test_parts_get_names_of_their_own(tmp_path: Path) -> None:
    """After the version, with their own behind; the steps say so, and the ensemble has a version folder."""
    files = {
        "all/config.pbtxt": ensemble("twice", "half", "twice"),
        "twice/config.pbtxt": PART,
        "twice/1/model.py": "old",
        "twice/2/model.py": "new",
        "half/config.pbtxt": PART,
        "half/1/model.py": "half",
    }
    made = laid_out(tmp_path, files, "ensemble")

    assert steps_of(made) == [(f"{NAME}.part-{one}", -1) for one in ("twice", "half", "twice")]
    assert config_of(made, f"{NAME}.part-twice").name == f"{NAME}.part-twice"
    assert (made / f"{NAME}.part-twice/1/model.py").read_text() == "new"
    assert (made / NAME / "1").is_dir()
    assert len(list(made.iterdir())) == 3


def test_a_step_may_name_a_version_of_a_part(tmp_path: Path) -> None:
    """Two versions of one part are two parts."""
    files = {
        "all/config.pbtxt": ensemble("twice:1", "twice"),
        "twice/config.pbtxt": PART,
        "twice/1/model.py": "old",
        "twice/2/model.py": "new",
    }
    made = laid_out(tmp_path, files, "ensemble")

    assert steps_of(made) == [(f"{NAME}.part-twice-v1", -1), (f"{NAME}.part-twice", -1)]
    assert (made / f"{NAME}.part-twice-v1/1/model.py").read_text() == "old"
    assert (made / f"{NAME}.part-twice/1/model.py").read_text() == "new"


def test_an_ensemble_in_an_ensemble(tmp_path: Path) -> None:
    """The inner one is a part like others, and shares theirs; a folder around all is passed through."""
    files = {
        "box/all/config.pbtxt": ensemble("inner", "twice"),
        "box/inner/config.pbtxt": ensemble("twice"),
        "box/twice/config.pbtxt": PART,
        "box/twice/1/model.py": "",
    }
    made = laid_out(tmp_path, files, "ensemble")

    assert steps_of(made) == [(f"{NAME}.part-inner", -1), (f"{NAME}.part-twice", -1)]
    assert steps_of(made, f"{NAME}.part-inner") == [(f"{NAME}.part-twice", -1)]


def test_a_part_is_the_version_that_its_policy_chooses(tmp_path: Path) -> None:
    """As Triton would have it."""
    files = {
        "all/config.pbtxt": ensemble("twice").removeprefix('platform: "ensemble"'),
        "twice/config.pbtxt": f"{PART}version_policy {{ specific {{ versions: 3 }} }}",
        **{f"twice/{number}/model.py": number for number in "134"},
    }
    made = laid_out(tmp_path, files, "ensemble")

    assert (made / f"{NAME}.part-twice/1/model.py").read_text() == "3"
    assert not config_of(made, f"{NAME}.part-twice").HasField("version_policy")
    assert config_of(made).platform == "ensemble"


def test_the_contract_is_that_of_the_whole(tmp_path: Path) -> None:
    """It completes the ensemble's configuration, or contradicts it; tags are for others."""
    files = {"all/config.pbtxt": ensemble("b"), "b/config.pbtxt": PART, "b/1/model.py": ""}
    config = config_of(laid_out(tmp_path / "a", files, "ensemble", contract=CONTRACT))
    assert ([one.name for one in config.input], [one.name for one in config.output]) == (["X"], ["label"])

    files["all/config.pbtxt"] += 'output { name: "other" data_type: TYPE_FP32 dims: 1 }'
    with pytest.raises(ArtifactError, match=r"m 1: config.pbtxt contradicts the contract: output 'label'"):
        laid_out(tmp_path / "b", files, "ensemble", contract=CONTRACT)
    with pytest.raises(ArtifactError, match=r"tags triton\.\* are for versions without"):
        laid_out(tmp_path / "c", files, "ensemble", tags={"triton.max_batch_size": "8"})


def test_names_that_cannot_be_file_names_are_made_safe(tmp_path: Path) -> None:
    """Dots, length and case apart: what was lost is kept apart by a mark."""
    long = "p" * 60
    files: dict[str, str | bytes] = {"all/config.pbtxt": ensemble("a.b", "a-b", long)}
    for name in ("a.b", "a-b", long):
        files |= {f"{name}/config.pbtxt": PART, f"{name}/1/model.py": name}
    made = laid_out(tmp_path, files, "ensemble")
    names = [name for name, _ in steps_of(made)]

    assert len(set(names)) == 3
    assert all(whole_of(TritonName(name)) == NAME and len(name) < 256 for name in names)
    assert [(made / name / "1/model.py").read_text() for name in names] == ["a.b", "a-b", long]


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({"readme": ""}, "there are no model folders"),
        ({"a/config.pbtxt": PART, "a/1/model.py": ""}, "exactly one ensemble .* and there is none"),
        (
            {"a/config.pbtxt": ensemble("c"), "b/config.pbtxt": ensemble("c"), "c/config.pbtxt": PART},
            "exactly one ensemble .* and there is a, b",
        ),
        (
            {"a/config.pbtxt": ensemble("b"), "b/config.pbtxt": ensemble("a")},
            "ensemble 'a' is a part of itself",
        ),
        ({"a/config.pbtxt": ensemble("a")}, "ensemble 'a' is a part of itself"),
        (
            {
                **{"a/config.pbtxt": ensemble("b", "d"), "b/config.pbtxt": ensemble("c")},
                **{"c/config.pbtxt": ensemble("b"), "d/config.pbtxt": PART, "d/1/model.py": ""},
            },
            "ensemble 'b' is a part of itself",
        ),
        ({f"p{at}/config.pbtxt": PART for at in range(66)}, "it has more than 64 parts"),
        ({"a/config.pbtxt": ensemble("b")}, "a step names model 'b', which is not in the folder"),
        (
            {"a/config.pbtxt": ensemble("b:7"), "b/config.pbtxt": PART, "b/1/model.py": ""},
            "there is no version folder 7/",
        ),
        (
            {
                **{"a/config.pbtxt": ensemble("b"), "b/config.pbtxt": PART, "b/1/model.py": ""},
                **{"c/config.pbtxt": PART, "c/1/model.py": ""},
            },
            "no step names model 'c'",
        ),
        ({"a/config.pbtxt": ensemble("b"), "b/1/model.py": ""}, "b has no config.pbtxt"),
        ({"a/config.pbtxt": ensemble("b"), "b/config.pbtxt": "x"}, "m 1: b: config.pbtxt: 1:"),
    ],
)
def test_what_is_no_whole_ensemble_is_named(tmp_path: Path, files: dict[str, str | bytes], said: str) -> None:
    """And nothing is left of it."""
    with pytest.raises(ArtifactError, match=said):
        laid_out(tmp_path, files, "ensemble")

    assert everything(tmp_path / "repository") == set()


def test_a_part_that_the_triton_cannot_run_is_named(tmp_path: Path) -> None:
    """Before anything of the ensemble is loaded."""
    files: dict[str, str | bytes] = {
        "a/config.pbtxt": ensemble("b"),
        "b/config.pbtxt": 'platform: "tensorrt_plan"',
        "b/1/model.plan": b"x",
    }
    with pytest.raises(UnsupportedFormat, match="needs Triton's backend 'tensorrt'"):
        laid_out(tmp_path, files, "ensemble", backends=frozenset({"python"}))


def test_parts_go_with_their_ensemble(tmp_path: Path) -> None:
    """Nothing of it stays."""
    files = {"all/config.pbtxt": ensemble("b"), "b/config.pbtxt": PART, "b/1/model.py": ""}
    made = laid_out(tmp_path, files, "ensemble")
    repository = TritonRepository(made, Fetcher(ALLOWED))
    asyncio.run(repository.remove(NAME))

    assert list(made.iterdir()) == []


def test_a_name_of_a_version_is_never_taken_for_a_part() -> None:
    """Its mark comes after a dot, and a part has none."""
    assert whole_of(part_name(NAME, "b")) == NAME
    assert whole_of(NAME) is None
    assert whole_of(TritonName(f"{NAME}.part-x.1.0b0b0b0b")) is None
