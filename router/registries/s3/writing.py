"""Decisions and new versions, written so that nobody sees half of one and nobody overwrites another.

A manifest is written only if it still is the one that was read (`If-Match`), a new version's only if there is
none (`If-None-Match: *`). Its files are uploaded before it, into a folder that is named after their content.
"""

from __future__ import annotations

import contextlib
import os
import random
import time
from collections.abc import Callable
from pathlib import Path

from router.artifacts.digest import digest_of, files_of
from router.errors import (
    ArtifactError,
    InvalidInput,
    ModelNotFound,
    RegistryUnavailable,
    StagegateError,
    VersionNotFound,
)
from router.model import VersionId
from router.ports import AliasChange, NewVersion, RegistryChange, TagChange
from router.registries.documents import MAX_FILE, decoded
from router.registries.edits import NOTHING, with_change, with_tag
from router.registries.files import MODEL_FILE, VERSION_FILE
from router.registries.manifest import Unreadable, read_version
from router.registries.new_version import (
    check_id,
    check_inside,
    check_new,
    files_folder,
    next_id,
    taken,
    version_text,
)
from router.registries.pointers import check_pointer
from router.registries.s3.objects import ConditionFailed, Objects

PART = 16 << 20
"""Bytes of one part of an upload; a file of 160 GB has the 10,000 parts that S3 allows."""

_TRIES = 8
_PAUSE_SECONDS = 0.05
_SECONDS = 60.0


def write_change(objects: Objects, prefix: str, change: RegistryChange) -> None:
    """Carry a decision out; raises as `Registry.write` says."""
    folder = f"{prefix}{change.model}/"
    if change.version is not None:
        check_id(change.version)
    for attempt in range(_TRIES):
        try:
            _write_once(objects, folder, change)
            return
        except ConditionFailed:
            time.sleep(_PAUSE_SECONDS * 2**attempt * random.random())  # noqa: S311 - writers come apart
    raise RegistryUnavailable(f"{folder}{MODEL_FILE} is being changed by others all the time")


def _write_once(objects: Objects, folder: str, change: RegistryChange) -> None:
    version = change.version
    manifest = None if version is None else _text(objects, f"{folder}{version}/{VERSION_FILE}")
    if isinstance(change, TagChange):
        key = f"{folder}{version}/{VERSION_FILE}"
        if manifest is None:
            raise _not_there(objects, folder, change)
        text, etag = manifest
        after = with_tag(key, text, change.key, change.value)
        if after != text:
            objects.put(key, after.encode(), etag)
        return
    name = change.alias if isinstance(change, AliasChange) else change.stage
    if name or isinstance(change, AliasChange):
        check_pointer(name)
    key = f"{folder}{MODEL_FILE}"
    pointers = _text(objects, key)
    if (manifest is None and version is not None) or (pointers is None and manifest is None):
        raise _not_there(objects, folder, change)
    before, known = (NOTHING, None) if pointers is None else pointers
    after = with_change(key, before, change)
    if after != before:
        objects.put(key, after.encode(), known)


def _text(objects: Objects, key: str) -> tuple[str, str] | None:
    found = objects.get(key, MAX_FILE, _soon())
    if found is None:
        return None
    try:
        return decoded(found[0]), found[1]
    except Unreadable as error:
        raise InvalidInput(f"{key} cannot be read, so it is not changed: {error}", hint="mend it") from error


def _not_there(objects: Objects, folder: str, change: RegistryChange) -> ModelNotFound | VersionNotFound:
    if objects.get(f"{folder}{MODEL_FILE}", 0, _soon()) is None and not _versions(objects, folder):
        return ModelNotFound(f"s3://{objects.bucket}/{folder} holds no model")
    return VersionNotFound(
        f"model {change.model!r} has no version {change.version!r}",
        hint=f"looked for {change.version}/{VERSION_FILE}",
    )


def _soon() -> float:
    return time.monotonic() + _SECONDS


def _versions(objects: Objects, folder: str) -> list[str]:
    """Versions of a model that have a manifest."""
    found = []
    for _, page in objects.pages(folder, {}, _soon()):
        for listed in page.objects:
            parts = listed.key[len(folder) :].split("/")
            if len(parts) == 2 and parts[1] == VERSION_FILE:  # noqa: PLR2004
                found.append(parts[0])
    return found


class Uploads:
    """Brings a version's files into the bucket.

    Args:
        files: prefix under which they go; "" for beside their manifest.
        progress: is told of each file.
    """

    def __init__(
        self, objects: Objects, prefix: str, files: str, progress: Callable[[str], None] | None
    ) -> None:
        self._objects = objects
        self._prefix = prefix
        self._files = files
        self._progress = progress

    def register(self, new: NewVersion, now: float) -> VersionId:
        """Upload, and return the id; raises as `Registry.register` says. `now` in unix seconds."""
        check_new(new)
        try:
            found = list(files_of(new.files))
            check_inside((inside for inside, _ in found), new)
            if digest_of(new.files) != new.digest:
                raise InvalidInput(f"{new.files} does not hash to {new.digest}", hint="try again")
        except ArtifactError as error:
            raise InvalidInput(
                f"{new.files} cannot be registered: {error.message}", hint=error.hint
            ) from error
        except OSError as error:
            raise InvalidInput(f"{new.files} cannot be read: {error.strerror}") from error
        for _ in range(_TRIES):
            version = VersionId(new.version or next_id(_versions(self._objects, self._model(new))))
            if new.version and self._is_there(new, version):
                return version
            artifact = self._upload(new, version, found)
            try:
                text = version_text(new, artifact, now)
                self._objects.put(f"{self._model(new)}{version}/{VERSION_FILE}", text.encode(), None)
            except ConditionFailed:
                # Somebody registered that id meanwhile; with the same files they are one.
                if new.version and self._is_there(new, version):
                    return version
            else:
                return version
        raise RegistryUnavailable(f"others take each id of {new.model!r} before we have it")

    def _model(self, new: NewVersion) -> str:
        return f"{self._prefix}{new.model}/"

    def _is_there(self, new: NewVersion, version: VersionId) -> bool:
        """Whether that version has these files. Raises InvalidInput where it has others."""
        found = self._objects.get(f"{self._model(new)}{version}/{VERSION_FILE}", MAX_FILE, _soon())
        if found is None:
            return False
        try:
            there = read_version(decoded(found[0])).digest
        except Unreadable as error:
            raise taken(new, version) from error
        if there != new.digest:
            raise taken(new, version)
        return True

    def _upload(self, new: NewVersion, version: VersionId, found: list[tuple[str, Path]]) -> str:
        """Put the files into the bucket; returns where, as the manifest says it."""
        beside = not self._files
        folder = files_folder(new)
        root = (self._model(new) if beside else f"{self._files}{new.model}/") + f"{version}/{folder}"
        for inside, file in found:
            if self._progress is not None:
                self._progress(f"{new.model} {version}: uploading {inside}")
            self._send(file, f"{root}/{inside}")
        single = f"/{new.files.name}" if new.files.is_file() else ""
        return f"{folder}{single}" if beside else f"s3://{self._objects.bucket}/{root}{single}"

    def _send(self, file: Path, key: str) -> None:
        what = f"s3://{self._objects.bucket}/{key} cannot be written"
        with file.open("rb") as reader:
            before = os.fstat(reader.fileno())
            if before.st_size <= PART:
                self._objects.call(what, "put_object", Key=key, Body=reader.read())
            else:
                self._send_parts(reader.read, key, what)
            after = os.fstat(reader.fileno())
        if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
            raise InvalidInput(f"{file} changed while it was uploaded", hint="try again")

    def _send_parts(self, read: Callable[[int], bytes], key: str, what: str) -> None:
        upload = self._objects.call(what, "create_multipart_upload", Key=key)["UploadId"]
        try:
            parts: list[dict[str, object]] = []
            while piece := read(PART):
                number = len(parts) + 1
                told = self._objects.call(
                    what, "upload_part", Key=key, UploadId=upload, PartNumber=number, Body=piece
                )
                parts.append({"PartNumber": number, "ETag": told["ETag"]})
            self._objects.call(
                what,
                "complete_multipart_upload",
                Key=key,
                UploadId=upload,
                MultipartUpload={"Parts": parts},
            )
        except BaseException:
            # What went wrong first is what people are told; a store drops parts that nobody completes.
            with contextlib.suppress(StagegateError):
                self._objects.call(what, "abort_multipart_upload", Key=key, UploadId=upload)
            raise
