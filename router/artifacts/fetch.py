"""Brings the files of a version beside where they will stay, and proves that they are the right ones."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from urllib.parse import unquote, urlsplit

from router.artifacts.digest import copy_file, digest_of, files_of
from router.errors import ArtifactError, DigestMismatch, NotSupported
from router.model import Version

Progress = Callable[[str], None]


def local_path(version: Version) -> Path:
    """Where the artifact of a version is on this machine.

    Raises:
        NotSupported: its URI has a scheme that is not `file`.
    """
    url = urlsplit(version.artifact)
    if not url.scheme or "://" not in version.artifact:
        return Path(version.artifact)
    if url.scheme != "file":
        raise NotSupported(
            f"{version.model} {version.version}: artifact {version.artifact!r} has scheme {url.scheme!r}",
            hint="this version of Stagegate fetches file:// URIs and plain paths",
        )
    if url.netloc not in ("", "localhost"):
        raise ArtifactError(
            f"{version.model} {version.version}: artifact {version.artifact!r} names another host",
            hint="write file:///path with three slashes",
        )
    return Path(unquote(url.path))


def fetch(version: Version, target: Path, progress: Progress | None = None) -> None:
    """Copy an artifact into the new folder `target` and check the copy against its digest.

    A single file is put into the folder under its own name. The caller removes the folder when this raises.

    Raises:
        ArtifactMissing: nothing is where the registry says.
        ArtifactError: it holds links, devices, or names that begin with a dot although it is to be verified.
        DigestMismatch: the copy does not hash to the digest that the registry names.
    """
    source = local_path(version)
    found = list(files_of(source))
    for inside, file in found:
        if version.digest and any(part.startswith(".") for part in inside.split("/")):
            raise ArtifactError(
                f"{version.model} {version.version}: {inside} begins with a dot",
                hint="a verified artifact has no hidden files",
            )
        if progress is not None:
            progress(f"{version.model} {version.version}: copying {inside}")
        copy_file(file, target / inside)
    if not found:
        raise ArtifactError(f"{version.model} {version.version}: the folder {source} holds no files")
    verify(version, target, single=source.is_file())


def verify(version: Version, folder: Path, *, single: bool) -> None:
    """Check fetched files against the version's digest, if it has one. Raises DigestMismatch."""
    if not version.digest:
        return
    files = [path for _, path in files_of(folder)]
    actual = digest_of(files[0] if single else folder)
    if actual != version.digest:
        raise DigestMismatch(
            f"{version.model} {version.version}: the files at {version.artifact} hash to {actual}, "
            f"not to {version.digest} as the registry says",
            hint="register the version again, or bring its files back",
        )


def sync_folder(folder: Path) -> None:
    """Put a folder's own entries on the disk, so that a rename of it cannot be seen before its content."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
