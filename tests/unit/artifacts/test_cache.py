"""The disk cache: by digest, verified on use, within its budget, whole after a crash."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Mapping
from pathlib import Path

import pytest

from router.artifacts import cache as cache_module
from router.artifacts.cache import ArtifactCache, Seen, listing_of
from router.artifacts.digest import digest_of, file_digest
from router.artifacts.handing import LINKED_FROM
from router.errors import ArtifactError
from router.model import ModelName, Version, VersionId
from router.ports import RemoteFile

LARGE = bytes(LINKED_FROM)


@pytest.fixture
def cache(tmp_path: Path) -> ArtifactCache:
    """A cache with room for three large files."""
    return ArtifactCache(tmp_path / "cache", 3 * LINKED_FROM + 100)


def put(cache: ArtifactCache, files: Mapping[str, bytes]) -> str:
    """Keep files; their digest, or "" where they were not kept."""
    with cache.incoming() as folder:
        for path, content in files.items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_bytes(content)
        digest = digest_of(folder)
        return (
            digest if cache.keep(digest, folder, {path: file_digest(folder / path) for path in files}) else ""
        )


def taken(cache: ArtifactCache, digest: str, folder: Path) -> Path | None:
    """A new folder with the files of a digest."""
    folder.mkdir()
    return folder if cache.take(digest, folder) else None


def test_what_is_kept_is_handed_out_whole(cache: ArtifactCache, tmp_path: Path) -> None:
    """Large files are links, small ones copies that may be written to."""
    digest = put(cache, {"weights": LARGE, "sub/config": b"small"})
    assert cache.room_for(digest, tmp_path) == 0
    one, two = taken(cache, digest, tmp_path / "one"), taken(cache, digest, tmp_path / "two")

    assert one is not None
    assert two is not None
    assert digest_of(one) == digest_of(two) == digest
    assert (one / "weights").stat().st_ino == (two / "weights").stat().st_ino
    assert (one / "weights").stat().st_mode & 0o222 == 0
    (one / "sub/config").write_bytes(b"edited")
    assert digest_of(two) == digest


def test_what_is_not_there_is_not_handed_out(cache: ArtifactCache, tmp_path: Path) -> None:
    """No folder, no files."""
    assert taken(cache, "sha256:0", tmp_path / "x") is None
    assert list((tmp_path / "x").iterdir()) == []


@pytest.mark.parametrize("damage", [b"wrong bytes of the same size", b"cut", None])
def test_a_damaged_entry_is_dropped(cache: ArtifactCache, tmp_path: Path, damage: bytes | None) -> None:
    """Changed, cut or gone: it is not handed out, and may be kept anew."""
    content = b"right bytes of the same size"
    digest = put(cache, {"a": b"1", "b": content})
    (file,) = (tmp_path / "cache").rglob("files/b")
    file.unlink()
    if damage is not None:
        file.write_bytes(damage)

    assert taken(cache, digest, tmp_path / "x") is None
    assert put(cache, {"a": b"1", "b": content}) == digest
    assert taken(cache, digest, tmp_path / "y") is not None


@pytest.mark.parametrize("size", [1, LINKED_FROM])
@pytest.mark.parametrize("name", ["link", "pipe", "folder"])
def test_what_others_put_in_the_place_of_a_file_is_not_handed_out(
    cache: ArtifactCache, tmp_path: Path, name: str, size: int
) -> None:
    """A link, a pipe or a folder; whatever it leads to, nothing of it gets into a model folder."""
    digest = put(cache, {"f": bytes(size), "g": b"1"})
    (file,) = (tmp_path / "cache").rglob("files/f")
    status = file.stat()
    secret = tmp_path / "secret"
    secret.write_bytes(bytes(size))
    file.rename(tmp_path / "away")
    match name:
        case "link":
            file.symlink_to(secret)
        case "pipe":
            os.mkfifo(file)
        case "folder":
            file.mkdir()
    if name != "link":
        os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))

    assert taken(cache, digest, tmp_path / "x") is None
    assert list((tmp_path / "x").iterdir()) == []
    assert put(cache, {"f": bytes(size), "g": b"1"}) == digest
    assert taken(cache, digest, tmp_path / "y") is not None


def test_an_entry_that_somebody_else_wrote_is_not_believed(
    cache: ArtifactCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither its times, nor that its files stay as they are: they are hashed as they are copied."""
    digest = put(cache, {"f": LARGE})
    (file,) = (tmp_path / "cache").rglob("files/f")
    monkeypatch.setattr("router.artifacts.handing._ROOT", -1)
    monkeypatch.setattr(os, "geteuid", lambda: 4711)
    assert cache.room_for(digest, tmp_path) == LINKED_FROM
    folder = taken(cache, digest, tmp_path / "x")
    assert folder is not None
    assert (folder / "f").stat().st_nlink == 1

    before = file.stat()
    with file.open("r+b") as opened:
        opened.write(b"other")
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert taken(cache, digest, tmp_path / "y") is None


@pytest.mark.parametrize("path", ["../../../out", "/out", "a/../../out"])
def test_an_entry_whose_list_lies_is_dropped(cache: ArtifactCache, tmp_path: Path, path: str) -> None:
    """It must be the list that hashes to the digest, and no path may lead out."""
    digest = put(cache, {"f": b"1"})
    (told,) = (tmp_path / "cache").rglob("entry.json")
    listed = json.loads(told.read_text())
    changes: list[dict[str, object]] = [{"path": path}, {"sha256": "0" * 64}, {"path": 1}]
    for number, change in enumerate(changes):
        told.write_text(json.dumps({"files": [{**listed["files"][0], **change}]}))
        assert cache.size_of(digest) is None
        assert cache.room_for(digest, tmp_path) is None
        assert taken(cache, digest, tmp_path / f"x{number}") is None
        put(cache, {"f": b"1"})

    assert not (tmp_path / "out").exists()
    assert taken(cache, digest, tmp_path / "y") is not None


@pytest.mark.parametrize("damage", ["", "{", '{"files": []}'])
def test_an_entry_without_its_list_is_kept_anew(cache: ArtifactCache, tmp_path: Path, damage: str) -> None:
    """Without a start in between."""
    digest = put(cache, {"f": b"1"})
    (told,) = (tmp_path / "cache").rglob("entry.json")
    told.unlink()
    if damage:
        told.write_text(damage)

    assert put(cache, {"f": b"1"}) == digest
    assert taken(cache, digest, tmp_path / "x") is not None


def test_what_is_just_taken_in_is_dropped_by_nobody(cache: ArtifactCache, tmp_path: Path) -> None:
    """Others want room at that very moment; they look elsewhere, or go without."""
    with cache.incoming() as folder:
        (folder / "f").write_bytes(LARGE)
        digest = digest_of(folder)
        with cache.keeping(digest, folder, {"f": file_digest(folder / "f")}) as kept:
            others = ArtifactCache(tmp_path / "cache", 3 * LINKED_FROM + 100)
            evicted = others.evict()
            there = taken(cache, digest, tmp_path / "x")
    (tmp_path / "x/f").unlink()

    assert (kept, evicted, there is not None) == (True, False, True)
    assert cache.evict()


def test_a_file_that_was_only_touched_is_hashed_and_kept(cache: ArtifactCache, tmp_path: Path) -> None:
    """Its time is no proof of damage."""
    digest = put(cache, {"a": b"1"})
    (file,) = (tmp_path / "cache").rglob("files/a")
    os.utime(file, (1, 1))

    assert taken(cache, digest, tmp_path / "x") is not None


def ages(cache_folder: Path) -> None:
    """Let every use so far be long ago, one second apart in order."""
    entries = sorted(cache_folder.rglob("entry.json"), key=lambda entry: entry.stat().st_mtime_ns)
    for index, entry in enumerate(entries):
        os.utime(entry, (1000 + index, 1000 + index))


def test_what_was_used_longest_ago_goes_first(cache: ArtifactCache, tmp_path: Path) -> None:
    """A use counts, not the time of keeping."""
    digests = []
    for name in "abc":
        digests.append(put(cache, {name: LARGE}))
        ages(tmp_path / "cache")
    folder = taken(cache, digests[0], tmp_path / "used")
    assert folder is not None
    (folder / "a").unlink()
    put(cache, {"d": LARGE})
    left = [cache.size_of(digest) is not None for digest in digests]

    assert left == [True, False, True]


def test_what_a_model_folder_shares_is_not_dropped(cache: ArtifactCache, tmp_path: Path) -> None:
    """It would free nothing; what does not fit beside it is not kept."""
    digests = [put(cache, {name: LARGE}) for name in "abc"]
    for digest in digests:
        assert taken(cache, digest, tmp_path / digest[-8:]) is not None

    assert put(cache, {"d": LARGE}) == ""
    assert not cache.evict()
    assert all(cache.size_of(digest) == LINKED_FROM for digest in digests)


def test_what_is_larger_than_the_budget_is_not_kept(cache: ArtifactCache) -> None:
    """And costs no other entry its place."""
    digest = put(cache, {"a": b"1"})

    assert put(cache, {"b": LARGE * 4}) == ""
    assert cache.size_of(digest) == 1


def test_nothing_is_left_of_what_was_not_kept(cache: ArtifactCache, tmp_path: Path) -> None:
    """A fetch that fails leaves the cache as it was."""
    with cache.incoming() as folder:
        (folder / "half").write_bytes(b"x")

    assert list((tmp_path / "cache/incoming").iterdir()) == []


def test_a_crash_leaves_a_whole_cache(tmp_path: Path) -> None:
    """What a dead process was fetching goes, and an entry without its list; the rest is served."""
    path = tmp_path / "cache"
    first = ArtifactCache(path, 1000)
    digest = put(first, {"a": b"1"})
    (path / "incoming/dead/files").mkdir(parents=True)
    (path / "objects/half/files").mkdir(parents=True)
    with first.incoming() as alive:
        second = ArtifactCache(path, 1000)
        assert alive.is_dir()
        assert {entry.name for entry in (path / "incoming").iterdir()} == {alive.parent.name}

    assert [entry.name for entry in (path / "objects").iterdir()] != ["half"]
    assert taken(second, digest, tmp_path / "x") is not None


def test_many_threads_keep_and_take_the_same(tmp_path: Path) -> None:
    """With a budget for one entry, so that keeping always drops the other."""
    cache = ArtifactCache(tmp_path / "cache", 10)
    problems: list[Exception] = []

    def work(mark: int) -> None:
        try:
            for turn in range(20):
                content = {"x": b"%9d" % (turn % 2)}
                digest = put(cache, content)
                folder = tmp_path / f"t{mark}-{turn}"
                folder.mkdir()
                if digest and cache.take(digest, folder):
                    assert digest_of(folder) == digest
        except Exception as problem:
            problems.append(problem)

    threads = [threading.Thread(target=work, args=(mark,)) for mark in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert problems == []
    assert len(list((tmp_path / "cache/objects").iterdir())) <= 1


def test_a_first_fetch_is_remembered(cache: ArtifactCache, tmp_path: Path) -> None:
    """By registry, model and version; also by the next process."""
    version = Version("r", ModelName("m"), VersionId("1"))
    cache.remember(version, Seen("sha256:1", "listing"))
    again = ArtifactCache(tmp_path / "cache", 1)

    assert again.seen(version) == Seen("sha256:1", "listing")
    assert again.seen(Version("r", ModelName("m"), VersionId("2"))) is None
    cache.seen_file(version).write_text("{")
    assert again.seen(version) is None


def test_first_fetches_are_remembered_of_what_was_fetched_last(
    cache: ArtifactCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Versions come and go for years; what still is fetched stays known."""
    monkeypatch.setattr("router.artifacts.cache.MOST_SEEN", 20)
    versions = [Version("r", ModelName("m"), VersionId(str(number))) for number in range(100)]
    for age, version in enumerate(versions):
        cache.remember(version, Seen("sha256:1", "listing"))
        os.utime(cache.seen_file(version), (age, age))
        assert cache.seen(versions[0]) is not None
        os.utime(cache.seen_file(versions[0]), (age + 1, age + 1))

    assert len(list((tmp_path / "cache/seen").iterdir())) <= 20
    assert cache.seen(versions[0]) is not None
    assert cache.seen(versions[-1]) is not None
    assert cache.seen(versions[1]) is None


def test_use_keeps_a_first_fetch_known(cache: ArtifactCache) -> None:
    """Looking at it is what says that it is used."""
    version = Version("r", ModelName("m"), VersionId("1"))
    cache.remember(version, Seen("sha256:1", "listing"))
    os.utime(cache.seen_file(version), (1, 1))
    cache.seen(version)

    assert cache.seen_file(version).stat().st_mtime > 1


def test_of_two_first_fetches_at_once_one_is_the_first(cache: ArtifactCache, tmp_path: Path) -> None:
    """Two gateways that fetch different files of one version hear of each other; a new listing is taken."""
    version = Version("r", ModelName("m"), VersionId("1"))
    other = ArtifactCache(tmp_path / "cache", 1)

    assert cache.remember(version, Seen("sha256:1", "listing")) == Seen("sha256:1", "listing")
    assert other.remember(version, Seen("sha256:2", "other")) == Seen("sha256:1", "listing")
    assert other.remember(version, Seen("sha256:1", "newer")) == Seen("sha256:1", "newer")
    assert cache.seen(version) == Seen("sha256:1", "newer")


def test_a_first_fetch_is_not_lost_to_a_gateway_that_starts(
    cache: ArtifactCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A start cleans up what stopped processes left; what is just being written is none of that."""
    version = Version("r", ModelName("m"), VersionId("1"))
    write = cache_module._write
    starting = threading.Thread(target=ArtifactCache, args=(tmp_path / "cache", 1))

    def slowly(path: Path, text: str) -> None:
        write(path, text)
        starting.start()
        starting.join(0.2)

    monkeypatch.setattr(cache_module, "_write", slowly)
    cache.remember(version, Seen("sha256:1", "listing"))
    starting.join()

    assert cache.seen(version) == Seen("sha256:1", "listing")


def test_what_is_no_file_holds_nobody_up(cache: ArtifactCache, tmp_path: Path) -> None:
    """To open a pipe waits for its other end, unless told not to."""
    digest = put(cache, {"a": b"a"})
    listed = next((tmp_path / "cache/objects").iterdir()) / "entry.json"
    listed.unlink()
    os.mkfifo(listed)
    done = threading.Thread(target=lambda: taken(cache, digest, tmp_path / "x"), daemon=True)
    done.start()
    done.join(10)

    assert not done.is_alive()
    assert list((tmp_path / "x").iterdir()) == []
    assert put(cache, {"a": b"a"}) == digest
    assert taken(cache, digest, tmp_path / "y") is not None


def test_a_file_that_grows_while_it_is_copied_does_not_fill_the_disk(
    cache: ArtifactCache, tmp_path: Path
) -> None:
    """No more is copied than was kept, and that is no whole file."""
    digest = put(cache, {"a": b"small"})
    file = next((tmp_path / "cache/objects").iterdir()) / "files/a"
    file.chmod(0o644)
    checks = []

    def grow() -> None:
        checks.append(1)
        if len(checks) < 20:
            with file.open("ab") as writer:
                writer.write(LARGE)

    (tmp_path / "x").mkdir()

    assert not cache.take(digest, tmp_path / "x", grow)
    assert len(checks) <= 3


def test_a_listing_is_known_again_in_any_order() -> None:
    """And any change of it is seen."""
    files = [RemoteFile("a", 1, seen="x"), RemoteFile("b", 2)]

    assert listing_of(files) == listing_of(files[::-1])
    assert listing_of(files) != listing_of([RemoteFile("a", 1, seen="y"), RemoteFile("b", 2)])


def test_a_folder_that_cannot_be_used_is_told(tmp_path: Path) -> None:
    """With the key to change."""
    (tmp_path / "file").write_text("")
    with pytest.raises(ArtifactError, match=r"artifacts\.cache\.path"):
        ArtifactCache(tmp_path / "file", 1)
