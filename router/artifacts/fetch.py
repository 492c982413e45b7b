"""Brings the files of a version beside where they will stay, and proves that they are the right ones."""

from __future__ import annotations

import contextlib
import errno
import logging
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from weakref import WeakValueDictionary

from router.artifacts.archives import is_archive, unpack
from router.artifacts.cache import ArtifactCache, Seen, listing_of
from router.artifacts.checks import check_digest, check_first, check_listing
from router.artifacts.digest import copy_file, files_of
from router.artifacts.download import Pace, check_wanted, download, list_files
from router.artifacts.files import LocalFiles
from router.artifacts.folders import empty, sync_tree
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
from router.artifacts.signature import check_signature
from router.artifacts.space import DiskFailed, Space, of_disk
from router.artifacts.telling import Progress, Telling
from router.artifacts.web import WebFile
from router.errors import (
    ArtifactChanged,
    ArtifactUnavailable,
    DigestMismatch,
    NoSpace,
    NotSupported,
    StagegateError,
)
from router.model import Version
from router.ports import RemoteFile, Source
from router.remote.net import Guard
from router.remote.s3 import S3Access, S3Files

_CHANGES, _DAMAGES = 2, 1
"""How often a fetch begins again from nothing because what it fetched was replaced, or came damaged."""

_WAIT_SECONDS = 0.2
_SILENCE = 10.0
"""Seconds without a byte after which one connection is given up; what it was to bring is asked for again."""

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
        self._cache = _cache_of(settings)
        self._busy: WeakValueDictionary[tuple[str, ...], _Turn] = WeakValueDictionary()
        self._guard_busy = threading.Lock()

    def configure(self, settings: ArtifactSettings) -> None:
        """Use other settings from the next fetch on. Raises ArtifactError for a cache that cannot be used."""
        if settings.cache != self._settings.cache:
            self._cache = _cache_of(settings)
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
        until = self._clock() + self._settings.timeout
        try:
            with self._opened(version) as source, self._turn(version, cancel, until):
                job = _Job(version, source, target, Telling(who, progress), cancel, until)
                self._again_and_again(job)
                self._finish(job)
        except OSError as problem:
            empty(target)
            raise of_disk(f"{who}: cannot be put into {target}", problem) from problem
        except StagegateError as problem:
            empty(target)
            if not problem.message.startswith(who):
                problem.message = f"{who}: {problem.message}"
                problem.args = (problem.message,)
            raise

    @contextlib.contextmanager
    def _opened(self, version: Version) -> Iterator[Source]:
        """Access to a version's files, if the policy allows it."""
        policy, origin = self._policy, self._origins(version.registry)
        own = self._sources(version)
        try:
            place = policy.place(version, origin, own=own is not None)
            source = own if own is not None else self._engines(place, origin)
        except BaseException:
            if own is not None:
                own.close()
            raise
        try:
            yield source
        finally:
            source.close()

    def _engines(self, place: Place, origin: Origin) -> Source:
        """Access of our own, for what a registry names and gives no access to."""
        s3, silence = self._settings.s3, min(_SILENCE, self._settings.stall)
        match place:
            case LocalPlace():
                return LocalFiles(place.roots)
            case S3Place():
                return S3Files(S3Access(s3.endpoint, s3.region, s3.access_key, s3.secret_key, silence))
            case HttpPlace():
                policy = self._policy
                return WebFile(
                    Guard(policy.hosts(origin)),
                    lambda to: policy.host_allowed(to.scheme, to.host, to.port),
                    silence,
                )
        raise NotSupported(f"nobody here can fetch {place.uri!r}")

    @contextlib.contextmanager
    def _turn(self, version: Version, cancel: threading.Event | None, until: float) -> Iterator[None]:
        """One fetch of the same files at a time, where those after it find them in the cache."""
        if self._cache is None:
            yield
            return
        digest = version.digest.lower()
        with self._guard_busy:
            key = (digest,) if digest else (version.registry, version.model, version.version)
            turn = self._busy.setdefault(key, _Turn())
        while not turn.lock.acquire(timeout=_WAIT_SECONDS):
            check_wanted(cancel)
            if self._clock() >= until:
                raise ArtifactUnavailable("another fetch of the same files took too long")
        try:
            yield
        finally:
            turn.lock.release()

    def _again_and_again(self, job: _Job) -> None:
        changes, damages = 0, 0
        while True:
            try:
                return self._once(job)
            except (ArtifactChanged, DigestMismatch) as problem:
                changes += isinstance(problem, ArtifactChanged)
                damages += isinstance(problem, DigestMismatch)
                if changes > _CHANGES or damages > _DAMAGES:
                    raise
                _log.warning("%s %s: %s; it is fetched anew", job.version.model, job.version.version, problem)
                empty(job.target)

    def _once(self, job: _Job) -> None:
        """By way of the cache where there is one and the artifact fits."""
        cache = self._cache
        if cache is not None and self._by_cache(cache, job):
            return
        files = self._listed(job)
        with self._space.claim(job.target, _known(files), "it") as grow:
            digest = check_digest(job.version, self._download(job, files, job.target, grow))
        if cache is not None and not job.version.digest:
            seen = cache.seen(job.version)
            check_first(job.version, digest, seen.digest if seen else "", cache.seen_file(job.version))

    def _by_cache(self, cache: ArtifactCache, job: _Job) -> bool:
        """False where the cache's disk is of no use; a fetch can do without."""
        try:
            self._from_cache(cache, job)
        except (OSError, DiskFailed) as problem:
            said = str(problem)
        except NoSpace as problem:
            if cache.same_disk(job.target):
                raise
            said = problem.message
        else:
            return True
        _log.warning("the cache is of no use, so %s goes without: %s", job.version.model, said)
        empty(job.target)
        return False

    def _from_cache(self, cache: ArtifactCache, job: _Job) -> None:
        version = job.version
        if version.digest and self._take(cache, version.digest.lower(), job):
            return
        files = self._listed(job)
        seen = None if version.digest else cache.seen(version)
        unchanged = seen is not None and seen.listing == listing_of(files)
        if seen is not None and unchanged and self._take(cache, seen.digest, job):
            return
        self._through(cache, job, files)

    def _through(self, cache: ArtifactCache, job: _Job, files: Sequence[RemoteFile]) -> None:
        """Fetch into the cache, and from there into the target."""
        version = job.version
        with cache.incoming() as folder:
            with self._room(cache, folder, _known(files)) as grow:
                hashes = self._download(job, files, folder, grow)
            digest = check_digest(version, hashes)
            if not version.digest:
                first = cache.remember(version, Seen(digest, listing_of(files)))
                check_first(version, digest, first.digest, cache.seen_file(version))
            with cache.keeping(digest, folder, hashes) as kept:
                if kept and self._take(cache, digest, job):
                    return
                if not folder.is_dir():
                    raise ArtifactChanged("the cache lost the files", hint="look at the disk of the cache")
                self._move(folder, job.target, hashes)

    @contextlib.contextmanager
    def _room(self, cache: ArtifactCache, folder: Path, size: int) -> Iterator[Callable[[int], None]]:
        """Room on the cache's disk, at the cost of what is in the cache."""
        with contextlib.ExitStack() as stack:
            grow = None
            while grow is None:
                try:
                    grow = stack.enter_context(self._space.claim(folder, size, "it"))
                except NoSpace:
                    if not cache.evict():
                        raise
            yield grow

    def _take(self, cache: ArtifactCache, digest: str, job: _Job) -> bool:
        size = cache.room_for(digest, job.target)
        if size is None:
            return False
        with self._space.claim(job.target, size, "it"):
            return cache.take(digest, job.target, lambda: self._check_going_on(job, "copied from the cache"))

    def _move(self, folder: Path, target: Path, hashes: Mapping[str, str]) -> None:
        """What the cache has no room for goes into the target alone."""
        for path in hashes:
            to = target / path
            to.parent.mkdir(parents=True, exist_ok=True)
            try:
                (folder / path).rename(to)
            except OSError as problem:
                if problem.errno != errno.EXDEV:
                    raise
                copy_file(folder / path, to)

    def _pace(self, job: _Job) -> Pace:
        return Pace(job.until, self._settings.stall, self._settings.slowest, self._settings.pause)

    def _listed(self, job: _Job) -> Sequence[RemoteFile]:
        uri = job.version.artifact
        files = list_files(job.source, uri, pace=self._pace(job), cancel=job.cancel, clock=self._clock)
        check_listing(job.version, files)
        return files

    def _download(
        self, job: _Job, files: Sequence[RemoteFile], folder: Path, grow: Callable[[int], None]
    ) -> dict[str, str]:
        total = _known(files) if all(file.size is not None for file in files) else None
        return download(
            job.source,
            job.version.artifact,
            files,
            folder,
            pace=self._pace(job),
            cancel=job.cancel,
            tell=lambda come: job.telling.come(self._clock(), come, total),
            grow=grow,
            clock=self._clock,
        )

    def _check_going_on(self, job: _Job, doing: str) -> None:
        check_wanted(job.cancel)
        if self._clock() >= job.until:
            raise ArtifactUnavailable(
                f"the fetch took too long; it was being {doing}",
                hint="raise artifacts.timeout for artifacts this large",
            )

    def _finish(self, job: _Job) -> None:
        """Unpack an artifact that is an archive, check its signature, and put it all on the disk."""
        paths = [path for path, _ in files_of(job.target)]
        if is_archive(paths):
            archive = job.target / paths[0]
            with contextlib.ExitStack() as stack, _beside(archive) as moved:

                def claim(size: int) -> None:
                    stack.enter_context(self._space.claim(job.target, size, "it, unpacked,"))

                unpack(moved, job.target, claim, lambda: self._check_going_on(job, "unpacked"))
        if self._policy.must_be_signed(job.version):
            check_signature(job.target, self._settings.signature)
        check_wanted(job.cancel)
        sync_tree(job.target)


@dataclass(eq=False, slots=True, weakref_slot=True)
class _Turn:
    lock: threading.Lock = field(default_factory=threading.Lock)


@dataclass(frozen=True, slots=True)
class _Job:
    version: Version
    source: Source
    target: Path
    telling: Telling
    cancel: threading.Event | None
    until: float


def _cache_of(settings: ArtifactSettings) -> ArtifactCache | None:
    cache = settings.cache
    return None if cache.path is None else ArtifactCache(cache.path, cache.size)


def _known(files: Sequence[RemoteFile]) -> int:
    return sum(file.size or 0 for file in files)


@contextlib.contextmanager
def _beside(archive: Path) -> Iterator[Path]:
    """An archive under a name that nothing in it can have, and gone afterwards."""
    with tempfile.TemporaryDirectory(prefix=".unpack-", dir=archive.parent) as folder:
        moved = Path(folder) / archive.name
        archive.rename(moved)
        yield moved
