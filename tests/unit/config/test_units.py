"""Sizes, durations and addresses as people write them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.config.units import (
    Address,
    format_duration,
    format_size,
    parse_address,
    parse_duration,
    parse_listen_address,
    parse_remote_address,
    parse_size,
)


@pytest.mark.parametrize(
    ("text", "size"), [("64MiB", 64 << 20), ("1.5KiB", 1536), ("512B", 512), ("2 GiB", 2 << 30)]
)
def test_a_size_is_bytes(text: str, size: int) -> None:
    """Binary units, with a fraction where it gives whole bytes."""
    assert parse_size(text) == size


@pytest.mark.parametrize(
    "text", ["64", "64M", "64MB", "-1MiB", "1e3KiB", "", "MiB", "0.0001KiB", "64mib", "٣MiB"]
)
def test_a_size_without_a_known_unit_is_refused(text: str) -> None:
    """The message repeats what was written."""
    with pytest.raises(ValueError, match="is not a"):
        parse_size(text)


@given(st.integers(min_value=0, max_value=1 << 29))
def test_a_size_survives_being_written(size: int) -> None:
    """`format_size` writes what `parse_size` reads."""
    assert parse_size(format_size(size)) == size


@pytest.mark.parametrize(
    ("text", "seconds"), [("30s", 30.0), ("500ms", 0.5), ("5m", 300.0), ("1.5h", 5400.0), ("0s", 0.0)]
)
def test_a_duration_is_seconds(text: str, seconds: float) -> None:
    """Milliseconds to hours."""
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["30", "30 sec", "1d", "-1s", "", "s", "0.1ms", "inf", "1_0s"])
def test_a_duration_without_a_known_unit_is_refused(text: str) -> None:
    """Whole milliseconds only."""
    with pytest.raises(ValueError, match="is not a"):
        parse_duration(text)


@given(st.integers(min_value=0, max_value=10**9))
def test_a_duration_survives_being_written(milliseconds: int) -> None:
    """`format_duration` writes what `parse_duration` reads."""
    assert parse_duration(format_duration(milliseconds / 1000)) == milliseconds / 1000


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.1:8001", Address("127.0.0.1", 8001)),
        ("[::1]:8001", Address("::1", 8001)),
        ("[0:0::0:1]:1", Address("::1", 1)),
        ("triton-0.triton.svc:80", Address("triton-0.triton.svc", 80)),
        ("localhost:0", Address("localhost", 0)),
    ],
)
def test_an_address_is_host_and_port(text: str, address: Address) -> None:
    """IPv4, IPv6 in brackets, names."""
    assert parse_address(text) == address


@pytest.mark.parametrize(
    "text",
    [
        "8001",
        ":8001",
        "host",
        "host:",
        "host:65536",
        "host:-1",
        "::1:8001",
        "[::1]",
        "[x]:1",
        "1.2.3:4",
        "256.1.1.1:1",
        "a b:1",
        "-:1",
        "h:٣",
    ],
)
def test_what_is_no_address_is_refused(text: str) -> None:
    """The message repeats what was written."""
    with pytest.raises(ValueError) as problem:  # noqa: PT011 -- the text is checked below
        parse_address(text)

    assert repr(text) in str(problem.value)


@given(st.ip_addresses(), st.integers(min_value=0, max_value=65_535))
def test_an_address_survives_being_written(host: object, port: int) -> None:
    """`str` writes what `parse_address` reads."""
    address = Address(str(host), port)

    assert parse_address(str(address)) == address


def test_loopback_is_known() -> None:
    """All of 127/8, ::1 and localhost; a name could be anywhere."""
    loopback = [host for host in ("127.0.0.1", "127.9.9.9", "::1", "localhost") if Address(host, 1).loopback]
    elsewhere = [host for host in ("10.0.0.1", "::", "fe80::1", "db") if not Address(host, 1).loopback]

    assert (len(loopback), len(elsewhere)) == (4, 4)


def test_a_name_is_not_listened_on() -> None:
    """Which address a name means is decided elsewhere, and may change."""
    with pytest.raises(ValueError, match="not on a name"):
        parse_listen_address("gateway.example:8001")


def test_port_zero_cannot_be_connected_to() -> None:
    """It only means "any free one" to a listener."""
    with pytest.raises(ValueError, match="port 0"):
        parse_remote_address("127.0.0.1:0")
