"""Options and arguments that several commands share."""

# ruff: noqa: PLC0415 -- commands import when they run, so that --help is quick
from __future__ import annotations

import getpass
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from gateway.cli.admin_client import AdminClient

DEFAULT_SERVER = "127.0.0.1:8003"

Server = Annotated[
    str,
    typer.Option("--server", envvar="STAGEGATE_SERVER", metavar="HOST:PORT", help="The gateway's admin API."),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
Force = Annotated[
    bool, typer.Option("--force", help="Also where it breaks the contract of what it replaces; say why.")
]
Reason = Annotated[str, typer.Option("--reason", "-r", help="Why; kept in the route's history.")]
Revision = Annotated[
    int | None,
    typer.Option("--expected-revision", min=0, help="Refuse unless the store is at this revision."),
]
Model = Annotated[str, typer.Argument(metavar="MODEL", help="Logical model name.")]

TIMEOUT_SECONDS = 20.0


@contextmanager
def admin(server: str) -> Iterator[AdminClient]:
    """The admin API at an address. Raises InvalidInput for text that is no address."""
    # Imported here, so that `stagegate --help` does not wait for gRPC.
    from gateway.cli.admin_client import connect
    from gateway.config.units import parse_remote_address
    from router.errors import InvalidInput

    try:
        address = parse_remote_address(server)
    except ValueError as error:
        raise InvalidInput(f"--server: {error}") from None
    with connect(str(address), actor=actor(), timeout=TIMEOUT_SECONDS) as client:
        yield client


def actor() -> str:
    """Who runs this: `user@host`."""
    try:
        user = getpass.getuser()
    except (OSError, KeyError):
        user = "unknown"
    return f"{user}@{socket.gethostname()}"


def pairs(option: str, given: Sequence[str]) -> dict[str, str]:
    """`NAME=VALUE` as a mapping. Raises InvalidInput, naming the option."""
    from router.errors import InvalidInput

    found: dict[str, str] = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not (name and equals):
            raise InvalidInput(f"{option}: {text!r} is not NAME=VALUE")
        found[name] = value
    return found
