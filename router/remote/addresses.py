"""Which hosts and addresses may be spoken to: pure decisions on text and numbers.

What a registry says is untrusted: an artifact's URI can name this machine, a neighbour, or the service
that hands out a cloud machine's credentials, in many spellings. So a host is either a plain name or an
address in its one canonical form, and what a name resolves to is judged where the connection is made.
"""

from __future__ import annotations

import enum
import ipaddress
import re
from ipaddress import IPv4Address, IPv6Address

Address = IPv4Address | IPv6Address

_LABEL = re.compile(r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?")
_NUMERIC = re.compile(r"[0-9]+|0x[0-9a-f]*")
_LONGEST_NAME = 253

_METADATA = frozenset(
    ipaddress.ip_address(text)
    for text in (
        "100.100.100.200",  # Alibaba Cloud
        "168.63.129.16",  # Azure
        "192.0.0.192",  # Oracle Cloud
        "fd00:ec2::254",  # AWS
        "fd20:ce::254",  # Google Cloud
    )
)
"""Services for a cloud's machines that do not sit on link-local addresses."""

_THIS_NETWORK = ipaddress.ip_network("0.0.0.0/8")
_SHARED = ipaddress.ip_network("100.64.0.0/10")
_NAT64 = (ipaddress.ip_network("64:ff9b::/96"), ipaddress.ip_network("64:ff9b:1::/48"))
_COMPATIBLE = ipaddress.ip_network("::/96")


class Reach(enum.Enum):
    """Who may be reached at an address."""

    PUBLIC = "public"
    PRIVATE = "private"
    """This machine or a neighbour: only for a host that the operator wrote."""
    NEVER = "never"
    """Link-local, metadata services, multicast and what is no address of a host."""


class BadHost(ValueError):
    """A host that is neither a name nor an address in its usual form."""


def canonical_host(text: str) -> str:
    """A host in lower case without a last dot; an IPv6 address without brackets, shortened.

    Raises:
        BadHost: it is empty, has characters that no host name has, or is an address in a disguise such as
            `2852039166`, `0xa9fea9fe`, `0251.0376.0251.0376` or `127.1`.
    """
    host = text.lower().removesuffix(".")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    if ":" in host:
        return _ipv6(host, text)
    labels = host.split(".")
    if _NUMERIC.fullmatch(labels[-1]):
        # A name cannot end in a number (URL standard, "ends in a number"): programs read these as addresses.
        try:
            return str(IPv4Address(host))
        except ValueError:
            raise BadHost(f"{text[:80]!r} is an address in an unusual form") from None
    if len(host) > _LONGEST_NAME or not all(_LABEL.fullmatch(label) for label in labels):
        raise BadHost(f"{text[:80]!r} is no host name")
    return host


def _ipv6(host: str, text: str) -> str:
    try:
        address = IPv6Address(host)
    except ValueError:
        raise BadHost(f"{text[:80]!r} is no host name") from None
    if address.scope_id is not None:
        raise BadHost(f"{text[:80]!r} names an interface")
    return str(address)


def reach_of(address: Address) -> Reach:
    """Who may be reached at an address; one that carries an IPv4 address inside counts as that one too."""
    reaches = {_plain_reach(one) for one in (address, *_inside(address))}
    return next(reach for reach in (Reach.NEVER, Reach.PRIVATE, Reach.PUBLIC) if reach in reaches)


def _plain_reach(address: Address) -> Reach:
    never = address.is_link_local or address.is_multicast or address.is_unspecified or address in _METADATA
    if never or address in _THIS_NETWORK:
        return Reach.NEVER
    if address.is_loopback or address in _SHARED or getattr(address, "is_site_local", False):
        return Reach.PRIVATE
    if address.is_global or _inside(address):
        return Reach.PUBLIC
    return Reach.NEVER if address.is_reserved else Reach.PRIVATE


def _inside(address: Address) -> tuple[IPv4Address, ...]:
    """IPv4 addresses that a translator or tunnel on the way would reach."""
    if isinstance(address, IPv4Address):
        return ()
    number = int(address)
    if address.ipv4_mapped is not None:
        return (address.ipv4_mapped,)
    if address.sixtofour is not None:
        return (address.sixtofour,)
    if address.teredo is not None:
        return address.teredo
    if any(address in net for net in _NAT64) or (address in _COMPATIBLE and number > 1):
        return (IPv4Address(number & 0xFFFFFFFF),)
    return ()
