"""Models in a bucket: the folder registry's manifests as objects, with S3's conditions around every write."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import cast

from router.errors import ArtifactError, InvalidInput
from router.ports import Registry
from router.registries.options import Option, OptionKind, RegistryType
from router.registries.s3.objects import Objects
from router.registries.s3.reading import ENDINGS
from router.registries.s3.registry import S3Registry, Settings
from router.remote.s3 import S3Access, S3Files, guarded_client, split_s3

__all__ = ["TYPE", "S3Registry"]

_POLL = 5.0
_TIMEOUT = 30.0
_SILENCE = 10.0
"""Seconds without a byte after which a connection is given up."""


def _place(value: object) -> None:
    try:
        split_s3(cast(str, value))
    except ArtifactError as error:
        raise ValueError("is not s3://bucket/prefix") from error


def _mark(value: object) -> None:
    if "/" in cast(str, value) or not cast(str, value).isprintable():
        raise ValueError("is no name without '/', such as CHANGED")


def _open(name: str, options: Mapping[str, object]) -> Registry:
    bucket, prefix = _split(cast(str, options["uri"]))
    settings = Settings(
        bucket=bucket,
        prefix=prefix,
        poll=cast(float | None, options.get("poll")) or _POLL,
        timeout=cast(float | None, options.get("timeout")) or _TIMEOUT,
        models=tuple(cast(Sequence[str], options.get("models") or ())),
        mark=cast(str | None, options.get("mark")) or "",
        files=_files(name, bucket, prefix, cast(str | None, options.get("files")) or ""),
    )
    endpoint = cast(str | None, options.get("endpoint")) or ""
    access = S3Access(
        endpoint=endpoint,
        region=cast(str | None, options.get("region")) or ("us-east-1" if endpoint else ""),
        access_key=cast(Callable[[], str] | None, options.get("access_key")),
        secret_key=cast(Callable[[], str] | None, options.get("secret_key")),
        timeout=min(settings.timeout, _SILENCE),
    )
    if (access.access_key is None) != (access.secret_key is None):
        raise InvalidInput(f"registry {name!r}: give both `access_key` and `secret_key`, or neither")

    def connect() -> Objects:
        wire, client = guarded_client(access)

        def close() -> None:
            wire.close()
            client.close()

        return Objects(name, client, close, bucket, ENDINGS)

    return S3Registry(name, settings, connect, lambda: S3Files(access))


def _split(uri: str) -> tuple[str, str]:
    bucket, key = split_s3(uri)
    return bucket, f"{key.strip('/')}/" if key.strip("/") else ""


def _files(name: str, bucket: str, prefix: str, uri: str) -> str:
    if not uri:
        return ""
    where, folder = _split(uri)
    if where != bucket or not folder or folder.startswith(prefix):
        raise InvalidInput(
            f"registry {name!r}: `files` must be a prefix in bucket {bucket!r}, not below {prefix or '/'!r}"
        )
    return folder


TYPE = RegistryType(
    about="manifests and files below a prefix of an S3 bucket, as a folder registry has them",
    options=(
        Option(
            "uri", OptionKind.TEXT, "s3://bucket/prefix that holds the models", required=True, check=_place
        ),
        Option("endpoint", OptionKind.TEXT, "address of the S3 server; AWS without it"),
        Option("region", OptionKind.TEXT, "region; without it what the environment says"),
        Option("access_key", OptionKind.SECRET, "key id; without it what the environment or AWS gives"),
        Option("secret_key", OptionKind.SECRET, "key for it"),
        Option("models", OptionKind.TEXTS, "globs of the models that are taken; all without it"),
        Option(
            "files",
            OptionKind.TEXT,
            "s3://bucket/prefix for files of registered versions; without it beside their manifests",
            check=_place,
        ),
        Option(
            "mark",
            OptionKind.TEXT,
            "object below the prefix that is written after every change; a poll then looks only at that",
            check=_mark,
        ),
        Option("poll", OptionKind.DURATION, "time between looks at the bucket", default=_POLL),
        Option("timeout", OptionKind.DURATION, "time that one look may take", default=_TIMEOUT),
    ),
    open=_open,
)
"""`type: s3`."""
