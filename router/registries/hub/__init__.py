"""Models on a Hugging Face Hub: branches and tags are aliases, commits are versions."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import cast
from urllib.parse import urlsplit

from router.errors import InvalidInput
from router.ports import Registry
from router.registries.hub.api import HubApi
from router.registries.hub.registry import HubRegistry, Settings
from router.registries.options import Option, OptionKind, RegistryType
from router.remote.addresses import BadHost, canonical_host
from router.remote.net import Client, Guard, Origin, Refused, origin_of

__all__ = ["TYPE", "HubRegistry"]

PUBLIC = "https://huggingface.co"
"""The Hub that everybody means."""

_STORES = ("huggingface.co", "hf.co")
"""The domains at which the public Hub has its stores of large files."""

_POLL = 5.0
_TIMEOUT = 30.0
_KEEP = 5
_REPO = re.compile(r"(?:[A-Za-z0-9][A-Za-z0-9._-]{0,95}/)?[A-Za-z0-9][A-Za-z0-9._-]{0,95}")


def _repos(value: object) -> None:
    for repo in value.values() if isinstance(value, Mapping) else cast(Sequence[str], value):
        if not _REPO.fullmatch(repo) or ".." in repo or "--" in repo:
            raise ValueError(f"{repo[:200]!r} is no repository; write ORG/MODEL")


def _endpoint(value: object) -> None:
    try:
        origin_of(str(value))
    except Refused as error:
        raise ValueError(str(error)) from error
    parts = urlsplit(str(value))
    if parts.query or parts.fragment:
        raise ValueError("must be https://host or http://host:port, maybe with a path")


def _hosts(value: object) -> None:
    for host in cast(Sequence[str], value):
        try:
            _origin(host)
        except Refused as error:
            raise ValueError(f"{host[:200]!r}: {error}") from error


def _origin(host: str) -> Origin:
    """Whom an entry of `hosts` means: `host` and `host:port` by https, `http://host:port` by http."""
    return origin_of(host if "://" in host else f"https://{host}")


def _stores(endpoint: str, hosts: Sequence[str]) -> Callable[[Origin], bool]:
    """Whether the Hub may redirect to an origin for the content of a file."""
    listed = {_origin(host) for host in hosts}
    public = origin_of(endpoint) == origin_of(PUBLIC)

    def allowed(origin: Origin) -> bool:
        known = any(origin.host == domain or origin.host.endswith(f".{domain}") for domain in _STORES)
        return origin in listed or (public and known and (origin.scheme, origin.port) == ("https", 443))

    return allowed


def _open(name: str, options: Mapping[str, object]) -> Registry:
    names = cast(Mapping[str, str], options.get("names") or {})
    repos = cast(Sequence[str], options.get("models") or ())
    if not names and not repos:
        raise InvalidInput(
            f"registry {name!r}: no repositories are listed", hint="names: {fraud: org/m}, or models: [org/m]"
        )
    endpoint = (cast(str | None, options.get("endpoint")) or PUBLIC).rstrip("/")
    hosts = cast(Sequence[str], options.get("hosts") or ())
    timeout = cast(float | None, options.get("timeout")) or _TIMEOUT
    token = cast(Callable[[], str] | None, options.get("token"))
    try:
        written = [canonical_host(origin.host) for origin in map(_origin, [*hosts, endpoint])]
        guard = Guard(private=written if endpoint != PUBLIC else written[:-1])
        stores = _stores(endpoint, hosts)
    except (Refused, BadHost) as error:
        raise InvalidInput(f"registry {name!r}: {error}") from error
    settings = Settings(
        names=names,
        repos=repos,
        stages=cast(Mapping[str, str] | None, options.get("stages")) or {"production": "main"},
        files=cast(Sequence[str], options.get("files") or ("*",)),
        format=cast(str | None, options.get("format")) or "",
        keep=cast(int, _KEEP if options.get("keep") is None else options["keep"]),
        push=bool(options.get("push")),
        poll=cast(float | None, options.get("poll")) or _POLL,
    )
    asks = HubApi(endpoint, Client(guard, timeout=timeout), token, timeout)

    def content() -> HubApi:
        return HubApi(endpoint, Client(guard, allowed=stores, timeout=timeout), token, timeout)

    return HubRegistry(name, asks, content, settings)


TYPE = RegistryType(
    about="repositories of a Hugging Face Hub: branches and tags are aliases, commits are versions",
    options=(
        Option("endpoint", OptionKind.TEXT, "address of the Hub", default=PUBLIC, check=_endpoint),
        Option("token", OptionKind.SECRET, "access token; none is looked for anywhere else"),
        Option("names", OptionKind.NAMES, "logical names to repositories, as {fraud: org/m}", check=_repos),
        Option("models", OptionKind.TEXTS, "repositories under their own names: org/m is m", check=_repos),
        Option("stages", OptionKind.NAMES, "stages to branches or tags; {production: main} without it"),
        Option("files", OptionKind.TEXTS, "globs of the files that are taken; all but hidden ones without"),
        Option("format", OptionKind.TEXT, "format of all models, where their files do not tell it"),
        Option("hosts", OptionKind.TEXTS, "hosts that files may be redirected to", default=(), check=_hosts),
        Option("keep", OptionKind.WHOLE, "commits that are kept once nothing names them", default=_KEEP),
        Option("push", OptionKind.FLAG, "whether aliases and stages are written back as tags", default=False),
        Option("poll", OptionKind.DURATION, "time between questions", default=_POLL),
        Option("timeout", OptionKind.DURATION, "time that one call may take", default=_TIMEOUT),
    ),
    open=_open,
)
