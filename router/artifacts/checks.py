"""What the files of a version must be like, beside being allowed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from router.artifacts.digest import digest_of_hashes
from router.artifacts.policy import shown
from router.errors import ArtifactMissing, ArtifactRefused, DigestMismatch
from router.model import Version
from router.ports import RemoteFile


def check_listing(version: Version, files: Sequence[RemoteFile]) -> None:
    """Look at what a store tells of a version's files before any of them is fetched.

    Raises:
        ArtifactMissing: there are none.
        ArtifactRefused: one is hidden, although a digest promises that people looked at all of it.
    """
    if not files:
        raise ArtifactMissing(f"{shown(version.artifact)} holds no files")
    for file in files:
        if version.digest and any(part.startswith(".") for part in file.path.split("/")):
            raise ArtifactRefused(
                f"{file.path} begins with a dot", hint="a verified artifact has no hidden files"
            )


def check_digest(version: Version, hashes: Mapping[str, str]) -> str:
    """The digest of fetched files. Raises DigestMismatch where the registry names another one."""
    actual = digest_of_hashes(hashes)
    if version.digest and actual != version.digest.lower():
        raise DigestMismatch(
            f"the files at {shown(version.artifact)} hash to {actual}, "
            f"not to {version.digest} as the registry says",
            hint="register the version again, or bring its files back",
        )
    return actual


def check_first(version: Version, digest: str, first: str, remembered: Path) -> None:
    """Raises DigestMismatch where a version that has no digest is not what it was when it was first fetched.

    Args:
        remembered: the file that holds `first`.
    """
    if first and digest != first:
        raise DigestMismatch(
            f"the files at {shown(version.artifact)} hash to {digest}, "
            f"and to {first} when this version was first fetched",
            hint=f"register changed files as a new version; if the change is meant, delete {remembered}",
        )
