"""Changes to manifests, as text."""

from __future__ import annotations

import pytest

from router.errors import InvalidInput
from router.model import ModelName, VersionId
from router.ports import StageTransition
from router.registries.edits import with_change, with_tag
from router.registries.manifest import read_model, read_version

VERSION = "format: onnx  # by hand\nartifact: m\n"


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (VERSION, VERSION + 'tags:\n  "stagegate.at": "1"\n'),
        (VERSION + "tags: {a: b}\n", VERSION + 'tags: {"stagegate.at": "1", a: b}\n'),
        (
            VERSION + "tags:\n  # x\n  stagegate.at: 0 # y\n",
            VERSION + 'tags:\n  # x\n  stagegate.at: "1" # y\n',
        ),
        (VERSION + "tags: {stagegate.at: 1}\n", VERSION + "tags: {stagegate.at: 1}\n"),
    ],
)
def test_a_tag_is_one_value_or_one_line(before: str, after: str) -> None:
    """Comments stay."""
    assert with_tag("version.yaml", before, "stagegate.at", "1") == after


@pytest.mark.parametrize(
    "value", ["", "a\nb", 'q"\\', "naïve: #", "\x07", "no", "1.10", " x ", "{", "null", "~"]
)
def test_any_text_can_be_a_tag(value: str) -> None:
    """It is read as it was given, and the rest as it was."""
    before = VERSION + "tags: {a: '1.10', b: 'no'}\nmetrics: {f1: 0.50}\n"
    now = read_version(with_tag("version.yaml", before, "k: '\"", value))

    assert now.tags == {"a": "1.10", "b": "no", "k: '\"": value}
    assert (now.format, now.artifact, now.metrics) == ("onnx", "m", {"f1": 0.5})


def test_a_tag_is_taken_away() -> None:
    """The others stay; one that is not there is left alone."""
    text = VERSION + "tags: {a: '1', b: '2'}\n"

    assert read_version(with_tag("version.yaml", text, "a", None)).tags == {"b": "2"}
    assert with_tag("version.yaml", text, "c", None) == text


@pytest.mark.parametrize(
    ("key", "value"), [("", "x"), ("a\n", "x"), ("k" * 251, "x"), ("a", "v" * 5001), ("a", "\ud800")]
)
def test_what_can_be_no_tag_is_refused(key: str, value: str) -> None:
    """Before anything is written."""
    with pytest.raises(InvalidInput, match="tag"):
        with_tag("version.yaml", VERSION, key, value)


def test_a_manifest_that_cannot_be_read_is_not_changed() -> None:
    """It is told where, and what is wrong."""
    with pytest.raises(InvalidInput, match=r"v\.yaml cannot be read, so it is not changed: line 1"):
        with_tag("v.yaml", "format: [", "a", "b")


def test_a_version_leaves_all_stages_that_name_it() -> None:
    """Taking it out of its stage."""
    text = 'stages: {production: "1", Live: "1", staging: "2"}\n'
    left = with_change("model.yaml", text, StageTransition(ModelName("m"), VersionId("1"), ""))

    assert read_model(left).stages == {"staging": "2"}
