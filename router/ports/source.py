"""Where the files of a version come from."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """One file of an artifact, as its store tells of it.

    Attributes:
        path: inside the artifact, with `/` between its parts.
        size: bytes, or None where the store does not tell.
        sha256: in hex, "" where the store does not tell.
        md5: in hex, from stores that know their files by nothing better (DVC); whoever fetches checks it as
            well as `sha256`.
        seen: what the store needs to give these very bytes and no others later, such as an ETag.
    """

    path: str
    size: int | None = None
    sha256: str = ""
    seen: str = ""
    md5: str = ""


class Source(Protocol):
    """A store of files, read by blocking calls from several threads at once."""

    def files(self, uri: str) -> Sequence[RemoteFile]:
        """All files of an artifact; one file, or all below a folder or prefix.

        Raises:
            ArtifactMissing, ArtifactRefused, ArtifactUnavailable.
        """
        ...

    def read(self, uri: str, file: RemoteFile, start: int, end: int | None) -> Iterator[bytes]:
        """The bytes of a file from `start` on and before `end` (None: all), in pieces.

        Raises:
            ArtifactChanged: the file is not the one that `files` told of.
            ArtifactMissing, ArtifactRefused, ArtifactUnavailable.
        """
        ...

    def close(self) -> None:
        """Give back connections."""
        ...
