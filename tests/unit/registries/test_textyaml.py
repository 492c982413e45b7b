"""YAML in which every scalar is its own text."""

from __future__ import annotations

import pytest

from router.registries.textyaml import MAX_DEPTH, YamlProblem, parse


def test_scalars_are_their_own_text() -> None:
    """No version becomes a float, no word a truth value, no date a date."""
    text = "a: 1.10\nb: on\nc: null\nd: ~\ne: 2026-01-01\nf: 0x10\n"

    assert parse(text).value == {
        **{"a": "1.10", "b": "on", "c": "null"},
        **{"d": "~", "e": "2026-01-01", "f": "0x10"},
    }


def test_nothing_is_not_the_empty_text() -> None:
    """A key that a cut file ends with has no value; a quoted one has."""
    assert parse('a:\nb: ""\n').value == {"a": None, "b": ""}
    assert parse("").value is None


def test_lines_are_known() -> None:
    """Of keys, of list items, and of what is around a path that is not there."""
    document = parse("a:\n  b:\n  - x\n  - y: 1\n")

    assert [document.line(path) for path in [("a", "b"), ("a", "b", 1, "y"), ("a", "zz"), ()]] == [2, 4, 1, 1]


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("a: 1\nb: 2\na: 3\n", 3, "key 'a' is given twice"),
        ("a: {b: 1, b: 2}", 1, "key 'b' is given twice"),
        ("a: 1\nb: @x\n", 2, "must be quoted"),
        ("a: &x 1\n", 1, "anchors"),
        ("a: *x\n", 1, "anchors"),
        ("a: 1\n---\nb: 2\n", 2, "more than one document"),
        ('a: 1\nb: "2', 2, "not valid YAML"),
        ("a: {b: 1", 1, "not valid YAML"),
        ("[a]: 1", 1, "must be plain text"),
        ("a: \x01", 1, "control characters"),
        ("[" * (MAX_DEPTH + 2) + "]" * (MAX_DEPTH + 2), 1, "nested deeper"),
        ("[" * 100_000, 1, "nested deeper"),
    ],
)
def test_what_cannot_be_read_is_told_with_its_line(text: str, line: int, message: str) -> None:
    """Half files, repeated keys, and features that only surprise."""
    with pytest.raises(YamlProblem) as caught:
        parse(text)

    assert message in caught.value.message
    assert caught.value.line == line


def test_tags_build_nothing() -> None:
    """A tag is ignored; the text stays text."""
    assert parse("a: !!python/object/apply:os.system [x]\nb: !!int 3\n").value == {"a": ["x"], "b": "3"}
