"""The idle connections of the benchmark are real ones, and a footprint is a process's own."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hpack import Decoder

from loadtest.bench.footprint import footprint
from loadtest.bench.idle import request_frames


def test_a_request_is_two_whole_frames() -> None:
    """HEADERS that end their block, DATA that ends the stream."""
    frames = request_frames(b"abc")
    size = int.from_bytes(frames[:3], "big")
    decoded = Decoder().decode(frames[9 : 9 + size], raw=True)
    data = frames[9 + size :]

    assert frames[3:5] == b"\x01\x04"
    assert (b":method", b"POST") in [(one[0], one[1]) for one in decoded]
    assert data[3:5] == b"\x00\x01"
    assert data[9:] == b"\0\0\0\0\x03abc"


def test_a_footprint_counts_what_is_open(tmp_path: Path) -> None:
    """One file more is one descriptor more."""
    before = footprint(os.getpid())
    with (tmp_path / "file").open("w"):
        after = footprint(os.getpid())

    assert after.descriptors == before.descriptors + 1
    assert after.resident > 1 << 20
    assert after.threads >= 1


def test_a_process_that_is_gone_has_none(tmp_path: Path) -> None:
    """Rather than zero."""
    with pytest.raises(OSError, match="1"):
        footprint(1, proc=tmp_path)
