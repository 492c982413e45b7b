"""Hosts and addresses in every disguise: what may be reached, and what never."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.remote.addresses import BadHost, Reach, canonical_host, reach_of


@pytest.mark.parametrize(
    "text",
    [
        *("169.254.169.254", "::ffff:169.254.169.254", "64:ff9b::a9fe:a9fe", "2002:a9fe:a9fe::"),
        *("::a9fe:a9fe", "fe80::1", "fd00:ec2::254", "100.100.100.200", "168.63.129.16", "192.0.0.192"),
        *("0.0.0.0", "0.0.0.1", "::", "224.0.0.1", "ff02::1", "255.255.255.255", "240.0.0.1"),
        "2001:0:a9fe:a9fe::1",  # Teredo by way of such a server
        "64:ff9b:1::a9fe:a9fe",
    ],
)
def test_metadata_and_link_local_addresses_are_never_reached(text: str) -> None:
    """In any form that a translator or tunnel would turn into one."""
    assert reach_of(ipaddress.ip_address(text)) is Reach.NEVER


@pytest.mark.parametrize(
    "text",
    [
        *("127.0.0.1", "127.255.0.1", "10.1.2.3", "172.16.0.1", "192.168.1.1", "100.64.0.1", "::1"),
        *("fc00::1", "fec0::1", "::ffff:10.0.0.1", "64:ff9b::7f00:1", "2002:7f00:1::", "198.18.0.1"),
    ],
)
def test_neighbours_are_private(text: str) -> None:
    """They are reached only where the operator wrote the host."""
    assert reach_of(ipaddress.ip_address(text)) is Reach.PRIVATE


@pytest.mark.parametrize("text", ["8.8.8.8", "2001:4860:4860::8888", "::ffff:8.8.8.8", "64:ff9b::808:808"])
def test_the_world_is_public(text: str) -> None:
    """Also by way of a translator."""
    assert reach_of(ipaddress.ip_address(text)) is Reach.PUBLIC


@given(st.ip_addresses(v=4))
def test_an_address_inside_another_is_judged_as_itself(address: ipaddress.IPv4Address) -> None:
    """IPv6-mapped, NAT64 and 6to4 forms open no door that the address itself does not."""
    number = int(address)
    for form in (0xFFFF << 32 | number, 0x64FF9B << 96 | number, 0x2002 << 112 | number << 80):
        wrapped = ipaddress.IPv6Address(form)
        assert reach_of(wrapped) is reach_of(address), wrapped


@pytest.mark.parametrize(
    "text",
    [
        *("2852039166", "0xa9fea9fe", "0251.0376.0251.0376", "127.1", "169.254.43518", "1.2.3.4.5"),
        *("", ".", "a..b", "-a.b", "a b", "a/b", "a\\b", "①②⑦.0.0.1", "host.0x7f", "fe80::1%eth0", "[::1"),
        *("x" * 64 + ".com", ".".join(["abc"] * 80), "::1::"),
    ],
)
def test_an_address_in_disguise_is_no_host(text: str) -> None:
    """Decimal, octal, hexadecimal, short and scoped forms, and what is no name at all."""
    with pytest.raises(BadHost):
        canonical_host(text)


@pytest.mark.parametrize(
    ("text", "host"),
    [
        *(("Models.Example.COM.", "models.example.com"), ("10.0.0.1", "10.0.0.1")),
        *(("[::0001]", "::1"), ("minio", "minio"), ("a_b.example", "a_b.example")),
    ],
)
def test_one_host_has_one_spelling(text: str, host: str) -> None:
    """So that comparing with a list of the operator's is comparing texts."""
    assert canonical_host(text) == host
