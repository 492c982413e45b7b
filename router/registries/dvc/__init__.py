"""Models in a git repository with DVC: tags in GTO's form, `.dvc` files, remotes on disk and on S3."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import cast

from router.errors import InvalidInput
from router.ports import Registry
from router.registries.dvc.artifacts import Remotes
from router.registries.dvc.git import Mirror, check_url
from router.registries.dvc.registry import DvcRegistry, Settings
from router.registries.dvc.remotes import plain_place
from router.registries.options import Option, OptionKind, RegistryType
from router.remote.s3 import S3Access

__all__ = ["TYPE", "DvcRegistry"]

_POLL = 5.0
_TIMEOUT = 60.0
_SILENCE = 10.0
"""Seconds without a byte from a remote after which a connection is given up."""


def _places(value: object) -> None:
    for place in cast(Sequence[str], value):
        try:
            plain_place(place)
        except ValueError as error:
            raise ValueError(f"{place!r} {error}") from error


def _open(name: str, options: Mapping[str, object]) -> Registry:
    uri = cast(str | None, options.get("uri")) or ""
    path = cast(Path | None, options.get("path"))
    if bool(uri) == (path is not None):
        raise InvalidInput(f"registry {name!r}: give either `uri` or `path` of the git repository")
    mirror = Mirror(
        name,
        check_url(uri) if uri else str(path),
        cast(Path | None, options.get("mirror")),
        token=cast(Callable[[], str] | None, options.get("token")),
        timeout=cast(float | None, options.get("timeout")) or _TIMEOUT,
    )
    places = [plain_place(place) for place in cast(Sequence[str], options.get("remotes") or ())]
    remotes = Remotes(mirror, path, places, _access(name, options))
    settings = Settings(
        poll=cast(float | None, options.get("poll")) or _POLL,
        names=cast(Mapping[str, str], options.get("names") or {}),
        models=cast(Sequence[str], options.get("models") or ("*",)),
        format=cast(str | None, options.get("format")) or "",
        push=bool(options.get("push")),
    )
    return DvcRegistry(name, mirror, remotes, settings)


def _access(name: str, options: Mapping[str, object]) -> S3Access:
    endpoint = cast(str | None, options.get("endpoint")) or ""
    access = S3Access(
        endpoint=endpoint,
        region=cast(str | None, options.get("region")) or ("us-east-1" if endpoint else ""),
        access_key=cast(Callable[[], str] | None, options.get("access_key")),
        secret_key=cast(Callable[[], str] | None, options.get("secret_key")),
        timeout=min(cast(float | None, options.get("timeout")) or _TIMEOUT, _SILENCE),
    )
    if (access.access_key is None) != (access.secret_key is None):
        raise InvalidInput(f"registry {name!r}: give both `access_key` and `secret_key`, or neither")
    return access


TYPE = RegistryType(
    about="a git repository with DVC: versions and stages are its tags, files lie in DVC's remotes",
    options=(
        Option("uri", OptionKind.TEXT, "https, ssh or file address of the git repository"),
        Option("path", OptionKind.PATH, "a git repository on this machine, instead of `uri`"),
        Option("token", OptionKind.SECRET, "access token for https"),
        Option("mirror", OptionKind.PATH, "where the bare mirror is kept; a temporary folder without it"),
        Option(
            "remotes",
            OptionKind.TEXTS,
            "where DVC's remotes may lie: s3://bucket/prefix or absolute folders",
            default=(),
            check=_places,
        ),
        Option("endpoint", OptionKind.TEXT, "address of the S3 server of the remotes"),
        Option("region", OptionKind.TEXT, "region of that server"),
        Option("access_key", OptionKind.SECRET, "key id for it"),
        Option("secret_key", OptionKind.SECRET, "key for it"),
        Option("names", OptionKind.NAMES, "logical names to names in tags, as {fraud: 'models:fraud'}"),
        Option("models", OptionKind.TEXTS, "globs of the logical names that are taken"),
        Option("format", OptionKind.TEXT, "format of all models, where their files do not tell it"),
        Option("push", OptionKind.FLAG, "whether stages are written back as tags", default=False),
        Option("poll", OptionKind.DURATION, "time between questions", default=_POLL),
        Option("timeout", OptionKind.DURATION, "time that one call of git may take", default=_TIMEOUT),
    ),
    open=_open,
)
