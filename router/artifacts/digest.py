"""The digest of an artifact: one number over names and content of all its files.

The rule (so that other tools can make one): for each file the line `<sha256 in hex>  <path>`, the path
relative to the artifact with `/` between its parts; the lines sorted by path as bytes, each ended by a
newline; `sha256:` and the SHA-256 of that text in hex. An artifact that is a single file has one line
with the file's name. It is what `sha256sum` prints, sorted.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from router.artifacts.paths import DEEPEST, check_names
from router.errors import ArtifactError, ArtifactMissing

_CHUNK = 1 << 20


def digest_of(artifact: Path) -> str:
    """The digest of a file, or of a folder with all that is below it.

    Raises:
        ArtifactMissing: there is nothing at that path.
        ArtifactError: it holds something that is neither a file nor a folder, such as a link, or what
            `check_names` refuses.
    """
    files = dict(files_of(artifact))
    check_names(files)
    return digest_of_hashes({path: file_digest(file) for path, file in files.items()})


def digest_of_hashes(hashes: Mapping[str, str]) -> str:
    """The digest of an artifact whose files have these SHA-256 in hex, by path."""
    lines = sorted((path.encode(), digest) for path, digest in hashes.items())
    text = b"".join(digest.encode() + b"  " + path + b"\n" for path, digest in lines)
    return "sha256:" + hashlib.sha256(text).hexdigest()


def file_digest(path: Path) -> str:
    """SHA-256 of one file in hex, read in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def files_of(artifact: Path) -> Iterator[tuple[str, Path]]:
    """Every file of an artifact with its path inside it; links and devices are refused.

    Raises:
        ArtifactMissing, ArtifactError: as `digest_of`.
    """
    if artifact.is_symlink():
        raise ArtifactError(f"artifact {artifact} is a link", hint="put the files themselves there")
    if artifact.is_file():
        yield artifact.name, artifact
        return
    if not artifact.is_dir():
        raise ArtifactMissing(f"there is no artifact at {artifact}")
    yield from _below(artifact, "")


def _below(folder: Path, prefix: str) -> Iterator[tuple[str, Path]]:
    with os.scandir(folder) as entries:
        for entry in sorted(entries, key=lambda entry: entry.name):
            inside = f"{prefix}{entry.name}"
            if prefix.count("/") >= DEEPEST:
                raise ArtifactError(f"{entry.path[:200]} lies deeper than {DEEPEST} folders")
            if entry.is_dir(follow_symlinks=False):
                yield from _below(Path(entry.path), f"{inside}/")
            elif entry.is_file(follow_symlinks=False):
                yield inside, Path(entry.path)
            else:
                raise ArtifactError(
                    f"{entry.path} is neither a file nor a folder", hint="links and devices are not taken"
                )


def copy_file(source: Path, target: Path) -> None:
    """Copy one file's bytes and put them on the disk before returning."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with source.open("rb") as reader, target.open("xb") as writer:
        while chunk := reader.read(_CHUNK):
            writer.write(chunk)
        writer.flush()
        os.fsync(writer.fileno())
