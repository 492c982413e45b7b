"""What is read of simple YAML in a hurry is what the parser reads."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from router.registries import plainyaml
from router.registries.plainyaml import read_plain
from router.registries.textyaml import YamlProblem, parse, parse_whole

MANIFEST = """\
# who asks
format: onnx
artifact: "s3://bucket/a b.onnx"
digest: sha256:00ff
contract:
  inputs:
    - {name: x, datatype: FP32, shape: [-1, 64]}
metrics: {accuracy: 0.91, loss: -0.5}
tags: {}
lineage:
  run: run-7
  at: 12:30:00

created: "2026-01-01T00:00:00Z"
"""

_BITS = [
    *("a:", "b:", "a: 1", "b: x y", "c: {k: v}", "c: {k: v, k: w}", 'd: {a: 1, b: "two"}', "e: {", "e: }"),
    *("  k: v", "  k:", "    deep: 1", "  - item", "- item", "# note", "  # note", "", " ", "f: |", "  text"),
    *(
        'g: "open',
        'close"',
        'g: "whole"',
        "g: 'it''s'",
        "h: &x 1",
        "h: *x",
        "h: !!int 3",
        "---",
        "...",
        "? a",
    ),
    *("i: a # note", "i: a#b", "i: a:b", "i: a: b", "i: -1", "i: - 1", "i: @x", "i: ~", "i: null", "i:  two"),
    *(
        "j:\tx",
        "\tk: v",
        "k: v ",
        'l: "\\n"',
        'l: ""',
        "m: {a: 1 , b: 2}",
        "m: {a: b:c}",
        "m: [1, 2]",
        "n : 1",
    ),
    *(
        "ä: 1",
        "o: ä",
        "o: {k: ä}",
        "p: x\ry: 2",
        "p: x\u2028q: 2",
        "%TAG ! x",
        "\ufeffa: 1",
        "q: >-",
        "r: a  b",
        "s: -",
    ),
    *(
        "t: {a: -}",
        "t: {a: - b}",
        "t: {a: 1,b: 2}",
        "t: {a: 1, }",
        "t: {,}",
        "u: http://x/y?z=1",
        "u: http://x/y",
        "v: 50%",
    ),
    *(
        "w: =",
        "w: .",
        "w: ...",
        "w: ---",
        "x: \x01",
        'x: {a: "b", c: "d e"}',
        '  k: "v"',
        "  k: v w",
        "   odd: 1",
    ),
]
lines = st.one_of(
    st.sampled_from(_BITS), st.text(st.sampled_from("ab1:-{},\"'#&*!|> \t[]@%\\.=~?"), max_size=12)
)
documents = st.builds(
    lambda found, end: "\n".join(found) + end,
    st.lists(lines, max_size=7),
    st.sampled_from(["", "\n", "\n\n"]),
)


def _by_the_parser(text: str) -> object:
    try:
        return parse_whole(text)
    except YamlProblem as problem:
        return problem.line, problem.message


def _read(text: str) -> object:
    try:
        return parse(text).value
    except YamlProblem as problem:
        return problem.line, problem.message


@given(documents)
@example(MANIFEST)
@example('a: "x\nb: y"\n')
@example("a:\n- x\n")
@example("a: {k: v}\n# note\nb: 1")
@example("a: b\r...\nb: 1\n")
@example("a: [b] # note\x85...\nb: 1\n")
@example("a:\n  - b\n #\u2028...\nb: 1\n")
@example("# note\na: |\n  b\u2029...\nb: 1\n")
def test_the_same_is_read(text: str) -> None:
    """Value or complaint, the order of keys included; also where parts are known already."""
    wanted = _by_the_parser(text)

    for _ in range(2):
        found = _read(text)
        assert found == wanted
        assert repr(found) == repr(wanted)


def test_a_manifest_is_simple() -> None:
    """What people write is read in a hurry, and only the contract by the parser: once."""
    asked: list[str] = []

    def counted(text: str) -> object:
        asked.append(text)
        return parse_whole(text)

    plainyaml.forget()
    first, second = (read_plain(MANIFEST.replace("00ff", digest), counted) for digest in ("00ff", "11ee"))

    assert first is not None
    assert second is not None
    assert [text.partition(":")[0] for text in asked] == ["contract"]
    assert first.value["contract"] is second.value["contract"]
    assert second.value["digest"] == "sha256:11ee"


@pytest.mark.parametrize(
    "text", ["a: 1\na: 2\n", "a: {k: 1, k: 2}\n", "a:\n  k: 1\n  k: 2\n", "- a\n", "", "a: &x 1\n"]
)
def test_what_is_not_simple_is_left_to_the_parser(text: str) -> None:
    """It says what is wrong, with the line."""
    assert read_plain(text, parse_whole) is None


def test_what_is_kept_has_an_end() -> None:
    """Many different contracts do not fill the memory."""
    plainyaml.forget()
    for number in range(3_000):
        read_plain(f"contract: [{number}]\n", parse_whole)

    assert plainyaml.kept() <= 1_024


def test_a_document_of_very_many_parts_is_read_by_one_parser() -> None:
    """Else one for each would be begun, which takes longer than to read all of it."""
    asked: list[str] = []

    def counted(text: str) -> object:
        asked.append(text)
        return parse_whole(text)

    plainyaml.forget()
    text = "".join(f"k{number}: [v]\n" for number in range(10_000))

    assert read_plain(text, counted) is None
    assert len(asked) <= 100
    assert parse(text).value == parse_whole(text)
