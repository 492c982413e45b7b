"""A cache of artifacts on disk, by digest, with a budget of its own.

    objects/<64 hex>/entry.json      what is in `files`; its time is that of the last use
    objects/<64 hex>/files/...       read-only
    seen/<64 hex>.json               digests of versions whose registry names none, from their first fetch;
                                     its time is that of the last one
    incoming/<name>/                 what is being fetched
    lock                             held while the folders above change

There is no index beside this: what is there after a crash is what is in the cache. Several processes may use
one folder. A file of some size is handed out as a hard link where cache and target share a disk: copying
would cost the time and the room a second time. It is read-only, and smaller files, which are those that
people and tools edit, are copied. Whoever writes into a linked file all the same changes its time: then the
file is hashed again before it is handed out the next time, and an entry that fails is dropped. What belongs
to another user of this machine, who might put something else there at any time, is hashed as it is copied.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import logging
import os
import secrets
import shutil
import stat
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from router.artifacts.digest import digest_of_hashes
from router.artifacts.folders import empty, sync_folder, sync_tree
from router.artifacts.handing import Kept, hand_out, is_own
from router.artifacts.paths import check_names
from router.errors import ArtifactError
from router.model import Version
from router.ports import RemoteFile

MOST_SEEN = 10_000
"""Versions without a digest whose first fetch is remembered."""

_READ_ONLY = 0o444
_OPEN = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_LONGEST_LIST = 64 << 20
"""Bytes of `entry.json`; that of the most files with the longest names has a quarter."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Seen:
    """What was found at the first fetch of a version whose registry names no digest.

    Attributes:
        listing: a hash over what its store told of the files then, so that a change is seen without fetching.
    """

    digest: str
    listing: str


class ArtifactCache:
    """Keeps the files of artifacts. Safe in several threads and processes.

    What its disk refuses is raised as OSError: an artifact can do without a cache.
    """

    def __init__(self, path: Path, size: int) -> None:
        """Make the folder if it is not there; clean up what a stopped process left, or fits no more.

        Args:
            size: bytes that all artifacts together may have.

        Raises:
            ArtifactError: the folder cannot be used.
        """
        self._path, self.size = path, size
        self._objects, self._seen, self._incoming = path / "objects", path / "seen", path / "incoming"
        try:
            path.mkdir(parents=True, exist_ok=True)
            self._make_folders()
            self._clean()
        except OSError as problem:
            raise ArtifactError(
                f"the cache {path} cannot be used: {problem.strerror}",
                hint="name a folder in artifacts.cache.path that this process may write to",
            ) from None

    def take(self, digest: str, target: Path, check: Callable[[], None] = lambda: None) -> bool:
        """Put the files of a digest into an empty folder; False where they are not here or were damaged.

        `check`: called again and again; raises to give up.

        Raises:
            OSError: the target cannot be written.
        """
        entry = self._entry(digest)
        with self._in_use(entry) as used:
            if not used:
                return False
            kept = _read_entry_of(entry, digest)
            whole = kept is not None and all(
                hand_out(entry / "files" / one.path, target / one.path, one, own=kept.own, check=check)
                for one in kept.files
            )
        if not whole:
            _log.warning("the cache's files of %s were damaged; they are dropped", digest)
            empty(target)
            self._drop(entry)
            return False
        sync_tree(target)
        with contextlib.suppress(OSError):
            os.utime(entry / "entry.json")
        return True

    def size_of(self, digest: str) -> int | None:
        """Bytes of the files of a digest; None where they are not here."""
        kept = _read_entry_of(self._entry(digest), digest)
        return None if kept is None else sum(one.size for one in kept.files)

    def room_for(self, digest: str, target: Path) -> int | None:
        """Bytes of a folder's disk that the files of a digest take there; None where they are not here.

        Links take none; what may not be linked is copied, also on the same disk.
        """
        kept = _read_entry_of(self._entry(digest), digest)
        if kept is None:
            return None
        return 0 if kept.own and self.same_disk(target) else sum(one.size for one in kept.files)

    def same_disk(self, target: Path) -> bool:
        """Whether a folder can have links to what is kept here."""
        with contextlib.suppress(OSError):
            return target.stat().st_dev == self._objects.stat().st_dev
        return False

    @contextlib.contextmanager
    def incoming(self) -> Iterator[Path]:
        """A new empty folder on the cache's disk, gone afterwards if it was not kept.

        Raises:
            OSError: the cache's disk refuses.
        """
        self._make_folders()
        with self._locked():
            work = self._incoming / secrets.token_hex(8)
            work.mkdir()
            held = _lock(work, fcntl.LOCK_EX)
        try:
            (work / "files").mkdir()
            yield work / "files"
        finally:
            shutil.rmtree(work, ignore_errors=True)
            os.close(held)

    def keep(self, digest: str, files: Path, hashes: Mapping[str, str]) -> bool:
        """Take in verified files from a folder of `incoming`; False where there is no room for them.

        Raises:
            OSError: the disk refuses.
        """
        with self.keeping(digest, files, hashes) as there:
            return there

    @contextlib.contextmanager
    def keeping(self, digest: str, files: Path, hashes: Mapping[str, str]) -> Iterator[bool]:
        """As `keep`; while the block lasts nobody drops what was taken in, however short room is.

        Where another process was first, its files are there, and these stay where they are.
        """
        kept = []
        for path, sha256 in hashes.items():
            file = files / path
            file.chmod(_READ_ONLY)
            status = file.lstat()
            kept.append(Kept(path, status.st_size, sha256, status.st_mtime_ns, status.st_ino))
        work, entry = files.parent, self._entry(digest)
        _write(work / "entry.json", json.dumps({"files": [asdict(one) for one in kept]}))
        sync_tree(work)
        held = -1
        with self._locked():
            if _read_entry_of(entry, digest) is not None or self._move_in(work, entry, kept):
                held = _lock(entry / "entry.json", fcntl.LOCK_SH)
        with _until_done(held) as is_held:
            yield is_held

    def _move_in(self, work: Path, entry: Path, kept: Sequence[Kept]) -> bool:
        """Give files their place; what is there is damaged. False where there is no room."""
        if not self._make_room(sum(one.size for one in kept)):
            return False
        if entry.is_dir() and not self._drop_unused(entry):
            return False
        work.rename(entry)
        sync_folder(self._objects)
        return True

    def _make_folders(self) -> None:
        """Also anew, where somebody emptied the cache while it is in use."""
        for folder in (self._path, self._objects, self._seen, self._incoming):
            folder.mkdir(exist_ok=True)

    def evict(self) -> bool:
        """Drop what was used longest ago and nobody uses now; False where there is no such thing."""
        with self._locked():
            return self._evict()

    def seen(self, version: Version) -> Seen | None:
        """What the first fetch of a version found, if there was one."""
        file = self._seen_file(version)
        try:
            told = json.loads(file.read_text())
            found = Seen(str(told["digest"]), str(told["listing"]))
        except (OSError, ValueError, KeyError, TypeError):
            return None
        with contextlib.suppress(OSError):
            os.utime(file)
        return found

    def remember(self, version: Version, seen: Seen) -> Seen:
        """Keep what a fetch found, of the versions that were fetched last.

        Returns:
            What holds: where another process found other files first, that. It is left as it is.

        Raises:
            OSError: the disk refuses.
        """
        file = self._seen_file(version)
        about = {"registry": version.registry, "model": version.model, "version": version.version}
        with self._locked():
            before = self.seen(version)
            if before is not None and before.digest != seen.digest:
                return before
            if not file.exists():
                self._forget_seen()
            # Under the lock: a gateway that starts meanwhile would take it for what a stopped one left.
            new = self._seen / f".{secrets.token_hex(8)}"
            _write(new, json.dumps({**about, **asdict(seen)}))
            new.rename(file)
            sync_folder(self._seen)
        return seen

    def seen_file(self, version: Version) -> Path:
        """Where a version's first fetch is remembered; whoever deletes the file lets it be seen anew."""
        return self._seen_file(version)

    def _forget_seen(self) -> None:
        """Make room for one more: what was fetched longest ago goes, some of it at once."""
        known = list(self._seen.glob("*.json"))
        if len(known) < MOST_SEEN:
            return
        for old in sorted(known, key=_changed)[: len(known) - MOST_SEEN + 1 + MOST_SEEN // 10]:
            old.unlink(missing_ok=True)

    def _seen_file(self, version: Version) -> Path:
        identity = json.dumps([version.registry, version.model, version.version])
        return self._seen / f"{hashlib.sha256(identity.encode()).hexdigest()}.json"

    def _entry(self, digest: str) -> Path:
        return self._objects / hashlib.sha256(digest.encode()).hexdigest()

    def _make_room(self, size: int) -> bool:
        if size > self.size:
            return False
        while sum(_size_of(entry) for entry in self._objects.iterdir()) + size > self.size:
            if not self._evict():
                return False
        return True

    def _evict(self) -> bool:
        for entry in sorted(self._objects.iterdir(), key=_last_use):
            if not _is_linked(entry) and self._drop_unused(entry):
                return True
        return False

    def _drop(self, entry: Path) -> None:
        with self._locked():
            self._drop_unused(entry)

    def _drop_unused(self, entry: Path) -> bool:
        """Remove an entry that nobody is taking files from; out of sight first."""
        try:
            held = _lock(entry / "entry.json", fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError:
            held = -1
        try:
            away = self._incoming / secrets.token_hex(8)
            entry.rename(away)
            shutil.rmtree(away, ignore_errors=True)
        except OSError:
            return False
        finally:
            if held >= 0:
                os.close(held)
        return True

    @contextlib.contextmanager
    def _in_use(self, entry: Path) -> Iterator[bool]:
        """Hold an entry so that it is not dropped; False where there is none."""
        held = -1
        with contextlib.suppress(OSError), self._locked():
            held = _lock(entry / "entry.json", fcntl.LOCK_SH)
        with _until_done(held) as is_held:
            yield is_held

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        descriptor = os.open(self._path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def _clean(self) -> None:
        with self._locked():
            for work in self._incoming.iterdir():
                with contextlib.suppress(OSError):
                    os.close(_lock(work, fcntl.LOCK_EX | fcntl.LOCK_NB))
                    shutil.rmtree(work, ignore_errors=True)
            for entry in self._objects.iterdir():
                if _read_entry(entry) is None:
                    shutil.rmtree(entry, ignore_errors=True)
            for left in self._seen.glob(".*"):
                left.unlink(missing_ok=True)
            self._make_room(0)


def listing_of(files: Sequence[RemoteFile]) -> str:
    """A hash over what a store tells of an artifact's files."""
    told = sorted((file.path, file.size, file.sha256, file.md5, file.seen) for file in files)
    return hashlib.sha256(json.dumps(told).encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class _Entry:
    """What an entry says of itself.

    Attributes:
        own: whether nobody else can have written that.
    """

    files: Sequence[Kept]
    own: bool


def _read_entry(entry: Path) -> _Entry | None:
    """None where it is damaged."""
    try:
        with open(os.open(entry / "entry.json", _OPEN)) as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode) or status.st_size > _LONGEST_LIST:
                return None
            own = is_own(status)
            return _Entry([Kept(**one) for one in json.load(file)["files"]], own)
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _read_entry_of(entry: Path, digest: str) -> _Entry | None:
    """As `_read_entry`; also None where its files are not those of the digest."""
    found = _read_entry(entry)
    if found is None:
        return None
    try:
        check_names(one.path for one in found.files)
        actual = digest_of_hashes({one.path: one.sha256 for one in found.files})
    except (TypeError, AttributeError, ArtifactError):
        return None
    return found if actual == digest else None


def _size_of(entry: Path) -> int:
    found = _read_entry(entry)
    return sum(one.size for one in found.files) if found else 0


def _last_use(entry: Path) -> float:
    return _changed(entry / "entry.json")


def _changed(file: Path) -> float:
    try:
        return file.stat().st_mtime
    except OSError:
        return 0.0


def _is_linked(entry: Path) -> bool:
    """Whether a model folder shares a file with an entry: dropping it would free nothing."""
    found = _read_entry(entry)
    for one in found.files if found else ():
        with contextlib.suppress(OSError):
            if (entry / "files" / one.path).lstat().st_nlink > 1:
                return True
    return False


@contextlib.contextmanager
def _until_done(held: int) -> Iterator[bool]:
    """Whether there is a lock, which is given up at the end; `held` is its descriptor, -1 for none."""
    try:
        yield held >= 0
    finally:
        if held >= 0:
            os.close(held)


def _lock(path: Path, how: int) -> int:
    descriptor = os.open(path, _OPEN)
    try:
        fcntl.flock(descriptor, how)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def _write(path: Path, text: str) -> None:
    with path.open("x") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
