"""Ports for servers that are told theirs before they listen."""

from __future__ import annotations

import itertools
import random
import socket

# Below those that the kernel gives to connections and to whoever binds port 0 (Linux: from 32768). Between
# our look and the server's bind, no such port can be lost to a client that happens to connect.
_FIRST, _COUNT = 15_000, 15_000
# Other test processes count from elsewhere, so that two do not look at the same port in the same moment.
_next = itertools.count(random.SystemRandom().randrange(_COUNT))


def free_ports(count: int) -> list[int]:
    """Ports of the loopback that nobody has bound, all different, none given out before by this process."""
    return [free_port() for _ in range(count)]


def free_port() -> int:
    """One such port. Raises OSError where all of them are taken."""
    for _ in range(_COUNT):
        port = _FIRST + next(_next) % _COUNT
        with socket.socket() as sock:
            # As servers bind: what waits after a closed connection is no hindrance.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                sock.bind(("127.0.0.1", port))
            except OSError:
                continue
        return port
    raise OSError(f"no port between {_FIRST} and {_FIRST + _COUNT} is free")
