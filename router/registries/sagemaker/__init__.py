"""Models in the SageMaker Model Registry: groups, packages, approval statuses; files on S3."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import cast

from router.errors import ArtifactChanged, ArtifactRefused, InvalidInput, RegistryUnavailable
from router.ports import Registry, RemoteFile, Source
from router.registries.options import Option, OptionKind, RegistryType
from router.registries.sagemaker.packages import Packages
from router.registries.sagemaker.registry import SageMakerRegistry, Settings
from router.remote.s3 import S3Access, S3Files, guarded_client

__all__ = ["TYPE", "SageMakerRegistry"]

_POLL = 30.0
_TIMEOUT = 60.0
_SILENCE = 10.0


class NotedFiles:
    """`ports.Source` of what packages name: an object must still be the one that SageMaker noted.

    Args:
        files: the objects.
        etags: by URI, without quotes.
    """

    def __init__(self, files: Source, etags: Mapping[str, str]) -> None:
        self._files = files
        self._etags = etags

    def files(self, uri: str) -> Sequence[RemoteFile]:
        """What is at a URI. Raises as the port says."""
        found = self._files.files(uri)
        noted = self._etags.get(uri)
        if noted and len(found) == 1 and found[0].seen.partition(" ")[0].strip('"') != noted:
            raise ArtifactChanged(
                f"{uri} was replaced after its package was made", hint="make a new version of it"
            )
        return found

    def read(self, uri: str, file: RemoteFile, start: int, end: int | None) -> Iterator[bytes]:
        """A range of a file. Raises as the port says."""
        return self._files.read(uri, file, start, end)

    def close(self) -> None:
        """Close all connections."""
        self._files.close()


def _open(name: str, options: Mapping[str, object]) -> Registry:
    if importlib.util.find_spec("botocore") is None:
        raise ImportError("boto3 is not installed")
    settings = Settings(
        poll=cast(float | None, options.get("poll")) or _POLL,
        timeout=cast(float | None, options.get("timeout")) or _TIMEOUT,
        models=tuple(cast(Sequence[str], options.get("models") or ())),
        format=cast(str | None, options.get("format")) or "",
    )
    access_key = cast(Callable[[], str] | None, options.get("access_key"))
    secret_key = cast(Callable[[], str] | None, options.get("secret_key"))
    if (access_key is None) != (secret_key is None):
        raise InvalidInput(f"registry {name!r}: give both `access_key` and `secret_key`, or neither")

    def access(endpoint: str) -> S3Access:
        return S3Access(
            endpoint=cast(str | None, options.get(endpoint)) or "",
            region=cast(str | None, options.get("region")) or "",
            access_key=access_key,
            secret_key=secret_key,
            timeout=min(settings.timeout, _SILENCE),
        )

    def connect() -> Packages:
        try:
            wire, client = guarded_client(access("endpoint"), "sagemaker")
        except ArtifactRefused as problem:
            raise RegistryUnavailable(f"registry {name!r}: {problem}", hint=problem.hint) from None

        def close() -> None:
            wire.close()
            client.close()

        return Packages(name, client, close)

    def source(etags: Mapping[str, str]) -> Source:
        return NotedFiles(S3Files(access("s3_endpoint")), etags)

    return SageMakerRegistry(name, settings, connect, source)


TYPE = RegistryType(
    about="the SageMaker Model Registry: model package groups, with their approval status as stage",
    options=(
        Option("region", OptionKind.TEXT, "AWS region; without it what the environment says"),
        Option("access_key", OptionKind.SECRET, "key id; without it what the environment or AWS gives"),
        Option("secret_key", OptionKind.SECRET, "key for it"),
        Option("models", OptionKind.TEXTS, "globs of the groups that are taken; all without it"),
        Option("format", OptionKind.TEXT, "format of packages without the property stagegate.format"),
        Option("endpoint", OptionKind.TEXT, "address of SageMaker's API, where it is not AWS's own"),
        Option("s3_endpoint", OptionKind.TEXT, "address of the S3 server, where it is not AWS's own"),
        Option("poll", OptionKind.DURATION, "time between looks at the packages", default=_POLL),
        Option("timeout", OptionKind.DURATION, "time that one look may take", default=_TIMEOUT),
    ),
    open=_open,
)
"""`type: sagemaker`."""
