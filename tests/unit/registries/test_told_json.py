"""JSON of other servers."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.registries import told_json

ANY = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(st.characters()),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(st.characters()), inner),
)


@given(ANY)
def test_what_was_told_can_be_written_down(told: object) -> None:
    """Whole characters are what they were, halves of them another one, and nothing else changes."""
    found = told_json.parse(json.dumps(told).encode())

    json.dumps(found, ensure_ascii=False).encode()
    if "\\ud" not in json.dumps(told):
        assert found == told


def test_pairs_stay_and_halves_do_not() -> None:
    """In keys too, and behind a backslash that is one itself."""
    page = rb'{"\ud83d\ude00\ud83d": "\\\ude00 \\\\ud83d"}'
    assert told_json.parse(page) == {"\U0001f600\ufffd": "\\\ufffd \\\\ud83d"}


@pytest.mark.parametrize("page", [b"", b"{", b"[" * 100_000, b"1" * 5_000, b"\xff", b"nul"])
def test_what_is_no_json_is_refused(page: bytes) -> None:
    """By one kind of error, whatever is wrong."""
    with pytest.raises(ValueError, match=r"."):
        told_json.parse(page)
