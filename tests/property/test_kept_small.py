"""What a registry keeps small is what it was given."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.registries.compact import Pairs, compact
from router.registries.kept_text import pack, unpack

texts = st.text(st.characters(codec="utf-8"))
mappings = st.dictionaries(texts, st.one_of(texts, st.floats(allow_nan=False)), max_size=12)


@given(texts)
def test_a_packed_text_comes_back(text: str) -> None:
    """Any text; nothing packs to nothing."""
    assert unpack(pack(text)) == text
    assert bool(pack(text)) == bool(text)


def test_a_manifest_packs_to_a_fraction() -> None:
    """That is what it is for."""
    text = "format: onnx\nartifact: model.onnx\ncontract:\n  inputs:\n"
    text += "    - {name: x, datatype: FP32, shape: [-1, 64]}\n"

    assert len(pack(text)) < len(text) / 2


@given(mappings, mappings)
def test_a_compact_mapping_is_like_the_dict(found: dict[str, object], other: dict[str, object]) -> None:
    """Same names in the same order, same values, equal to the same."""
    small = compact(found)

    assert list(small.items()) == list(found.items())
    assert small == found
    assert found == small
    assert (small == compact(other)) is (found == other)
    assert all(small[name] == value for name, value in found.items())
    assert ("absent" in small) is ("absent" in found)


def test_what_is_not_there_is_a_key_error() -> None:
    """As in a dict."""
    with pytest.raises(KeyError, match="b"):
        Pairs({"a": 1})["b"]
    assert Pairs({"a": 1}).get("b") is None


def test_nothing_is_one_value() -> None:
    """Most versions have no tags."""
    assert compact({}) is compact({})
