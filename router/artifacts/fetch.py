"""Brings the files of a version beside where they will stay, and proves that they are the right ones."""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from router.artifacts.digest import digest_of_hashes
from router.artifacts.download import Pace, download
from router.artifacts.files import LocalFiles
from router.artifacts.policy import (
    ArtifactSettings,
    Code,
    HttpPlace,
    LocalPlace,
    Origin,
    Place,
    Policy,
    S3Place,
)
from router.artifacts.space import Space
from router.errors import (
    ArtifactChanged,
    ArtifactError,
    ArtifactMissing,
    ArtifactRefused,
    DigestMismatch,
    NotSupported,
    StagegateError,
)
from router.model import Version
from router.ports import RemoteFile, Source
from router.remote.s3 import S3Access, S3Files

Progress = Callable[[str], None]

_AFRESH = 2
"""How often a fetch begins again from nothing, because what it fetched was replaced or came damaged."""

_TELL_SECONDS = 1.0
_LOG_SECONDS = 10.0
_MIB = 1 << 20

_log = logging.getLogger(__name__)


def no_source(version: Version) -> Source | None:
    """The `sources` of a fetcher whose registries bring no access of their own."""
    return None


def this_machine(registry: str) -> Origin:
    """The `origins` of a fetcher that trusts every path of this machine."""
    return Origin("folder", Path("/"))


class Fetcher:
    """Fetches versions within the operator's policy. Calls block; several threads may call at once.

    Args:
        settings: the section `artifacts` of the configuration; `configure` replaces it.
        origins: what a registry, by name, is as far as artifacts go.
        sources: the access that a version's registry gives to its artifact, or None where it gives none;
            closed after use.
        clock: monotonic seconds.
        space: the room on this machine's disks; None for what they say, less the reserve.
    """

    def __init__(
        self,
        settings: ArtifactSettings = ArtifactSettings(),  # noqa: B008 - a frozen value
        *,
        origins: Callable[[str], Origin] = this_machine,
        sources: Callable[[Version], Source | None] = no_source,
        clock: Callable[[], float] = time.monotonic,
        space: Space | None = None,
    ) -> None:
        self._origins, self._sources, self._clock = origins, sources, clock
        self._settings, self._policy = settings, Policy.of(settings)
        self._space = space or Space(settings.reserve)

    def configure(self, settings: ArtifactSettings) -> None:
        """Use other settings from the next fetch on."""
        self._settings, self._policy = settings, Policy.of(settings)
        self._space.reserve = settings.reserve

    def may_run_code(self, version: Version, kind: Code) -> bool:
        """Whether a version may bring such code."""
        return self._policy.may_run_code(version, kind, self._origins(version.registry))

    def check_code(self, version: Version, kind: Code) -> None:
        """Raises ArtifactRefused, naming the key that would allow it, where it may not."""
        self._policy.check_code(version, kind, self._origins(version.registry))

    def check_place(self, version: Version) -> None:
        """Raises ArtifactRefused where a version's artifact may not be fetched; asks nobody for it."""
        with self._opened(version):
            pass

    def fetch(
        self,
        version: Version,
        target: Path,
        progress: Progress | None = None,
        cancel: threading.Event | None = None,
    ) -> None:
        """Put the files of a version into a folder that is there and empty; a single file under its own name.

        The folder is empty again when this raises.

        Args:
            progress: is told, in words, how far it is; about once a second.
            cancel: set by another thread to give up.

        Raises:
            ArtifactRefused: the policy does not allow it; no byte was fetched.
            ArtifactMissing: nothing is where the registry says.
            ArtifactChanged: it was replaced while it was fetched, again and again.
            DigestMismatch: the files do not hash to the digest that the registry names.
            ArtifactUnavailable: the store does not answer, is too slow, or took longer than allowed.
            NoSpace: it would not fit on the disk.
            NotSupported: a package is missing.
            ArtifactError: it holds what no artifact may, or cannot be written.
        """
        who = f"{version.model} {version.version}"
        try:
            with self._opened(version) as source:
                self._again_and_again(_Job(version, source, target, _Telling(who, progress), cancel))
        except OSError as problem:
            _empty(target)
            raise ArtifactError(f"{who}: cannot be put into {target}: {problem.strerror}") from problem
        except StagegateError as problem:
            _empty(target)
            if who not in problem.message:
                problem.message = f"{who}: {problem.message}"
            raise

    @contextlib.contextmanager
    def _opened(self, version: Version) -> Iterator[Source]:
        """Access to a version's files, if the policy allows it."""
        policy, origin = self._policy, self._origins(version.registry)
        own = self._sources(version)
        try:
            place = policy.place(version, origin, own=own is not None)
            source = own if own is not None else self._engines(place)
        except BaseException:
            if own is not None:
                own.close()
            raise
        try:
            yield source
        finally:
            source.close()

    def _engines(self, place: Place) -> Source:
        """Access of our own, for what a registry names and gives no access to."""
        s3 = self._settings.s3
        match place:
            case LocalPlace():
                return LocalFiles(place.roots)
            case S3Place():
                return S3Files(
                    S3Access(s3.endpoint, s3.region, s3.access_key, s3.secret_key, self._settings.stall)
                )
            case HttpPlace():
                raise NotSupported("files on https cannot be fetched yet")
        raise NotSupported(f"nobody here can fetch {place.uri!r}")

    def _again_and_again(self, job: _Job) -> None:
        until = self._clock() + self._settings.timeout
        for left in reversed(range(_AFRESH + 1)):
            try:
                return self._once(job, until)
            except (ArtifactChanged, DigestMismatch) as problem:
                if not left:
                    raise
                _log.warning("%s; it is fetched anew", problem)
                _empty(job.target)

    def _once(self, job: _Job, until: float) -> None:
        version, settings = job.version, self._settings
        files = job.source.files(version.artifact)
        _check_listing(version, files)
        known = sum(file.size or 0 for file in files)
        total = known if all(file.size is not None for file in files) else None
        pace = Pace(until, settings.stall, settings.slowest)
        with self._space.claim(job.target, known, f"{version.model} {version.version}") as grow:
            hashes = download(
                job.source,
                version.artifact,
                files,
                job.target,
                pace=pace,
                cancel=job.cancel,
                tell=lambda come: job.telling.come(self._clock(), come, total),
                grow=grow,
                clock=self._clock,
            )
        _check_digest(version, hashes)
        sync_tree(job.target)


@dataclass(frozen=True, slots=True)
class _Job:
    version: Version
    source: Source
    target: Path
    telling: _Telling
    cancel: threading.Event | None


class _Telling:
    """Says how far a fetch is: to whoever waits for it often, to the log seldom."""

    def __init__(self, who: str, progress: Progress | None) -> None:
        self._who, self._progress = who, progress
        self._told = self._logged = float("-inf")

    def come(self, now: float, come: int, total: int | None) -> None:
        """So many bytes have come, of so many, if that is known."""
        of = f" of {total / _MIB:.1f}" if total is not None else ""
        text = f"{self._who}: fetched {come / _MIB:.1f}{of} MiB"
        if self._progress is not None and (now - self._told >= _TELL_SECONDS or come == total):
            self._told = now
            self._progress(text)
        if self._logged == float("-inf"):
            self._logged = now  # what takes less than the time between two lines has none
        elif now - self._logged >= _LOG_SECONDS:
            self._logged = now
            _log.info("%s", text)


def _check_listing(version: Version, files: Sequence[RemoteFile]) -> None:
    if not files:
        raise ArtifactMissing(f"{version.artifact} holds no files")
    for file in files:
        if version.digest and any(part.startswith(".") for part in file.path.split("/")):
            raise ArtifactRefused(
                f"{file.path} begins with a dot", hint="a verified artifact has no hidden files"
            )


def _check_digest(version: Version, hashes: Mapping[str, str]) -> None:
    if not version.digest:
        return
    actual = digest_of_hashes(hashes)
    if actual != version.digest:
        raise DigestMismatch(
            f"the files at {version.artifact} hash to {actual}, not to {version.digest} as the registry says",
            hint="register the version again, or bring its files back",
        )


def _empty(folder: Path) -> None:
    """Remove all that is in a folder."""
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for entry in list(entries):
            if entry.is_dir(follow_symlinks=False):
                shutil.rmtree(entry.path, ignore_errors=True)
            else:
                with contextlib.suppress(OSError):
                    os.unlink(entry.path)


def sync_tree(folder: Path) -> None:
    """Put the entries of a folder and of all below it on the disk; their files are there already."""
    for inner, _, _ in os.walk(folder):
        sync_folder(Path(inner))


def sync_folder(folder: Path) -> None:
    """Put a folder's own entries on the disk, so that a rename of it cannot be seen before its content."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
