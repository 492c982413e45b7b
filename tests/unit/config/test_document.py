"""YAML whose scalars stay text and whose values know their lines."""

from __future__ import annotations

import pytest

from gateway.config import read_document, read_documents
from router.errors import ConfigInvalid


def problem_of(text: str | bytes) -> tuple[int, str]:
    """Line and message of the one problem that stops the reading."""
    with pytest.raises(ConfigInvalid) as caught:
        read_documents(text, "f.yaml")
    (problem,) = caught.value.problems
    return problem.line, problem.message


def test_every_scalar_is_its_own_text() -> None:
    """Nothing becomes a number, a truth value, a date or nothing."""
    text = "{a: 1.10, b: on, c: no, d: 0x10, e: 2024-01-01, f: null, g: ~, h: '', i: 1_000}"

    assert read_document(text, "f").root == {
        "a": "1.10",
        "b": "on",
        "c": "no",
        "d": "0x10",
        "e": "2024-01-01",
        "f": "null",
        "g": "~",
        "h": "",
        "i": "1_000",
    }


def test_a_key_without_a_value_has_none() -> None:
    """It is told apart from an empty text, so that a forgotten value is found."""
    assert read_document("a:\nb: ''\n", "f").root == {"a": None, "b": ""}


def test_values_know_their_lines() -> None:
    """Also below lists; what has no line has that of what is around it."""
    document = read_document("a:\n  b:\n    - x\n    - y: 1\n", "f")

    lines = [document.line(path) for path in (("a",), ("a", "b", 1), ("a", "b", 1, "y"), ("a", "q", "r"))]

    assert lines == [1, 4, 4, 1]


def test_a_key_given_twice_is_a_problem() -> None:
    """The first one holds; both lines are named."""
    document = read_document("a: 1\nb: 2\na: 3\n", "f")

    (problem,) = document.problems
    assert document.root == {"a": "1", "b": "2"}
    assert (problem.path, problem.line, problem.message) == ("a", 3, "is given twice; the first is in line 1")


@pytest.mark.parametrize(
    "text", ["x: 1\nversion: @champion\n", "x: 1\nv: {version: @champion}\n", "x: 1\nv: [@a]\n"]
)
def test_an_unquoted_alias_says_to_quote_it(text: str) -> None:
    """YAML reserves `@`."""
    line, message = problem_of(text)

    assert (line, message) == (2, "a value that begins with '@' must be quoted, such as \"@champion\"")


def test_broken_yaml_names_its_line() -> None:
    """A bracket that is never closed."""
    line, message = problem_of("a: 1\nb: [1, 2\nc: 3\n")

    assert line == 3
    assert message.startswith("not valid YAML")


def test_bytes_that_are_no_text_name_their_line() -> None:
    """A file in another encoding."""
    line, message = problem_of(b"a: 1\nb: \xff\xfe\n")

    assert line == 2
    assert message.startswith("is not UTF-8 text")


def test_aliases_cannot_unfold_without_end() -> None:
    """Nine levels of nine aliases would be hundreds of millions of values."""
    levels = ["a0: &a0 [x,x,x,x,x,x,x,x,x]"]
    levels += [f"a{n}: &a{n} [{','.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 9)]

    _, message = problem_of("\n".join(levels))

    assert "unfolds to too much" in message


def test_a_value_that_holds_itself_is_refused() -> None:
    """It would never end."""
    _, message = problem_of("a: &a [*a]\n")

    assert "nested too deep" in message


@pytest.mark.parametrize("text", ["[" * 100_000, "\n" + "{a: " * 3000 + "1" + "}" * 3000])
def test_depth_is_an_error_like_any_other(text: str) -> None:
    """Thousands of brackets are refused with a line, not with a traceback, and soon."""
    line, message = problem_of(text)

    assert "nested too deep" in message
    assert line == text.count("\n") + 1


def test_tags_are_refused() -> None:
    """They would type a value behind the schema's back."""
    document = read_document("a: !!int 5\nb: !python/object:x {}\n", "f")

    assert [problem.line for problem in document.problems] == [1, 2]


def test_a_second_document_is_refused_where_one_is_meant() -> None:
    """Half of the file would be ignored silently."""
    with pytest.raises(ConfigInvalid) as caught:
        read_document("a: 1\n---\nb: 2\n", "f")

    assert caught.value.problems[0].line == 3
