"""Words of a configuration file that mean more than their text: sizes, durations, addresses. Pure.

Each `parse_*` takes the scalar as written and raises ValueError with a sentence that says what would be
right; the sentence reaches the operator as it is.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from decimal import Decimal

_SIZE = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,3})?) ?(B|KiB|MiB|GiB|TiB)")
_SIZES = {"B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40}
_DURATION = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,3})?) ?(ms|s|m|h)")
_MILLISECONDS = {"ms": 1, "s": 1_000, "m": 60_000, "h": 3_600_000}
_HOST = re.compile(
    r"(?=.{1,253}\Z)[A-Za-z0-9_]([A-Za-z0-9_-]{0,62})(\.[A-Za-z0-9_]([A-Za-z0-9_-]{0,62}))*\.?"
)
_PORT = re.compile(r"[0-9]{1,5}")
_MAX_PORT = 65_535


def parse_size(text: str) -> int:
    """Bytes of `64MiB`, `1.5GiB`, `512B`; the unit is always written."""
    found = _SIZE.fullmatch(text.strip())
    if not found:
        raise ValueError(
            f"{text!r} is not a size; write a number with B, KiB, MiB, GiB or TiB, such as 64MiB"
        )
    size = Decimal(found[1]) * _SIZES[found[2]]
    if size != int(size):
        raise ValueError(f"{text!r} is not a whole number of bytes")
    return int(size)


def format_size(size: int) -> str:
    """Bytes as `parse_size` reads them, in the largest unit that holds them whole."""
    unit = next(unit for unit in reversed(_SIZES) if size % _SIZES[unit] == 0 and (size or unit == "B"))
    return f"{size // _SIZES[unit]}{unit}"


def parse_duration(text: str) -> float:
    """Seconds of `30s`, `5m`, `500ms`, `1.5h`; the unit is always written."""
    found = _DURATION.fullmatch(text.strip())
    if not found:
        raise ValueError(f"{text!r} is not a duration; write a number with ms, s, m or h, such as 30s")
    milliseconds = Decimal(found[1]) * _MILLISECONDS[found[2]]
    if milliseconds != int(milliseconds):
        raise ValueError(f"{text!r} is not a whole number of milliseconds")
    return int(milliseconds) / 1_000


def format_duration(seconds: float) -> str:
    """Seconds as `parse_duration` reads them, in the largest unit that holds them whole."""
    milliseconds = round(seconds * 1_000)
    unit = next(
        unit
        for unit in reversed(_MILLISECONDS)
        if milliseconds % _MILLISECONDS[unit] == 0 and (milliseconds or unit == "ms")
    )
    return f"{milliseconds // _MILLISECONDS[unit]}{unit}"


@dataclass(frozen=True, slots=True)
class Address:
    """A `host:port`; `host` is without the brackets that an IPv6 address has in text."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def numeric(self) -> str:
        """The host as an IP address to bind to; `localhost` is 127.0.0.1."""
        return "127.0.0.1" if self.host == "localhost" else self.host

    @property
    def loopback(self) -> bool:
        """Whether only this machine can reach it; a name other than `localhost` counts as reachable."""
        try:
            return ipaddress.ip_address(self.numeric).is_loopback
        except ValueError:
            return False


def parse_address(text: str) -> Address:
    """A `host:port`, `1.2.3.4:port` or `[::1]:port`; port 0 is left to the caller to judge."""
    host, colon, port = text.strip().rpartition(":")
    if not colon or not host:
        raise ValueError(f"{text!r} is not HOST:PORT, such as 127.0.0.1:8001 or [::1]:8001")
    if not _PORT.fullmatch(port) or int(port) > _MAX_PORT:
        raise ValueError(f"{text!r} has no port between 0 and {_MAX_PORT} after the last colon")
    return Address(_parse_host(text, host), int(port))


def _parse_host(text: str, host: str) -> str:
    if host.startswith("[") and host.endswith("]"):
        try:
            return str(ipaddress.IPv6Address(host[1:-1]))
        except ValueError:
            raise ValueError(f"{text!r}: {host} is not an IPv6 address") from None
    if ":" in host:
        raise ValueError(f"{text!r}: an IPv6 address is written in brackets, such as [::1]:8001")
    if re.fullmatch(r"[0-9.]+", host):
        try:
            return str(ipaddress.IPv4Address(host))
        except ValueError:
            raise ValueError(f"{text!r}: {host} is not an IPv4 address") from None
    if not _HOST.fullmatch(host):
        raise ValueError(f"{text!r}: {host!r} is not a host name")
    return host


def parse_listen_address(text: str) -> Address:
    """An address to listen on: an IP address or `localhost`, and a port (0: any free one)."""
    address = parse_address(text)
    try:
        ipaddress.ip_address(address.numeric)
    except ValueError:
        raise ValueError(
            f"{text!r}: listen on an IP address or localhost, not on a name; 0.0.0.0 is every IPv4 interface"
        ) from None
    return address


def parse_remote_address(text: str) -> Address:
    """An address to connect to: as `parse_address`, with a port of at least 1."""
    address = parse_address(text)
    if address.port == 0:
        raise ValueError(f"{text!r}: port 0 cannot be connected to")
    return address
