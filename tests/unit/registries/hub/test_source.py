"""Files from a Hub and its store of large files."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Callable
from typing import Protocol

import pytest

from router.errors import (
    ArtifactChanged,
    ArtifactError,
    ArtifactMissing,
    ArtifactRefused,
    ArtifactUnavailable,
    StagegateError,
)
from router.ports import Source
from router.registries import hub as adapter
from router.registries.hub import PUBLIC, _stores
from router.remote.net import origin_of
from tests.servers.hub import Hub, Repo, blob_id, running

LARGE = bytes(range(256)) * 4000


@pytest.fixture
def commit(hub: Hub) -> str:
    """A commit with a large file, a small one, and one with an odd name."""
    hub.repos["org/m"] = repo = Repo()
    return repo.commit({"model.onnx": LARGE, "a b/\u00e4?.txt": b"small", ".git/config": b"x"}, "main")


class SourceOf(Protocol):
    """Gives access to `org/m`, whose store is allowed; all that is opened is closed after the test."""

    def __call__(self, **more: object) -> Source:
        """With these options beside its own."""


@pytest.fixture
async def source_of(hub: Hub) -> AsyncIterator[SourceOf]:
    """Sources of the server."""
    registries, sources = [], []

    def make(**more: object) -> Source:
        own = {"endpoint": hub.endpoint, "models": ("org/m",), "hosts": (hub.own_store,), "timeout": 5.0}
        registries.append(adapter.TYPE.open("hub", {**own, **more}))
        source = registries[-1].source("hf://")
        assert source is not None
        sources.append(source)
        return source

    yield make
    for source in sources:
        source.close()
    for registry in registries:
        await registry.close()


def test_files_and_their_content(source_of: SourceOf, hub: Hub, commit: str) -> None:
    """Hidden ones are left out; what is large comes from its store, whole and in parts, without the token."""
    hub.token = "good"  # noqa: S105
    uri = f"hf://org/m@{commit}"
    source = source_of(token=lambda: "good")
    large, small = sorted(source.files(uri), key=lambda file: -(file.size or 0))

    assert (large.path, large.size, large.sha256) == (
        "model.onnx",
        len(LARGE),
        hashlib.sha256(LARGE).hexdigest(),
    )
    assert (small.path, small.size, small.sha256) == ("a b/\u00e4?.txt", 5, "")
    assert b"".join(source.read(uri, large, 0, None)) == LARGE
    assert b"".join(source.read(uri, large, 1000, 500_000)) == LARGE[1000:500_000]
    assert b"".join(source.read(uri, large, 1000, None)) == LARGE[1000:]
    assert b"".join(source.read(uri, small, 0, 5)) == b"small"
    assert b"".join(source.read(uri, small, 1, 3)) == b"ma"
    assert b"".join(source.read(uri, small, 3, 3)) == b""
    assert hub.tokens == {"hub": {"good"}, "store": set()}


def drop(hub: Hub) -> None:
    """The repository is deleted."""
    hub.repos.clear()


def change_small(hub: Hub) -> None:
    """Another file is sent under that name."""
    hub.repos["org/m"].commits[hub.repos["org/m"].branches["main"]]["a b/\u00e4?.txt"] = b"SMALL"


def in_trouble(hub: Hub) -> None:
    """The Hub has a fault."""
    hub.status = 503


def denied(hub: Hub) -> None:
    """The Hub wants a token."""
    hub.token = "needed"  # noqa: S105


def cut(hub: Hub) -> None:
    """Files stop early."""
    hub.cut = 3


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        (drop, ArtifactMissing),
        (change_small, ArtifactChanged),
        (in_trouble, ArtifactUnavailable),
        (denied, ArtifactRefused),
        (cut, ArtifactUnavailable),
    ],
)
def test_faults_of_a_small_file(
    source_of: SourceOf, hub: Hub, commit: str, fault: Callable[[Hub], None], error: type[StagegateError]
) -> None:
    """Each has its name, and its last piece is never given."""
    uri = f"hf://org/m@{commit}"
    source = source_of()
    small = next(file for file in source.files(uri) if not file.sha256)
    fault(hub)
    with pytest.raises(error):
        next(iter(source.read(uri, small, 0, None)))


def test_a_file_that_is_cut(source_of: SourceOf, hub: Hub, commit: str) -> None:
    """The part that came is right, and the rest can be asked for."""
    uri = f"hf://org/m@{commit}"
    source = source_of()
    large = next(file for file in source.files(uri) if file.sha256)
    hub.cut = 100_000
    got = bytearray()

    def read() -> None:
        for piece in source.read(uri, large, 0, None):
            got.extend(piece)

    with pytest.raises(ArtifactUnavailable, match="stopped"):
        read()
    hub.cut = -1

    assert 0 < len(got) < len(LARGE)
    assert bytes(got) + b"".join(source.read(uri, large, len(got), None)) == LARGE


def test_a_hub_that_gives_no_parts(source_of: SourceOf, hub: Hub, commit: str) -> None:
    """From the beginning it can be read; a later part is refused, never taken for another one."""
    uri = f"hf://org/m@{commit}"
    source = source_of()
    large = next(file for file in source.files(uri) if file.sha256)
    hub.ranges = False

    assert b"".join(source.read(uri, large, 0, 10)) == LARGE[:10]
    with pytest.raises(ArtifactRefused, match="parts"):
        b"".join(source.read(uri, large, 10, 20))


def test_a_redirect_to_where_nobody_allowed(source_of: SourceOf, hub: Hub, commit: str) -> None:
    """Nothing is asked of that host."""
    uri = f"hf://org/m@{commit}"
    with running() as other:
        hub.store = other.endpoint
        for source in (source_of(), source_of(hosts=())):
            large = next(file for file in source.files(uri) if file.sha256)
            with pytest.raises(ArtifactRefused, match="not allowed"):
                b"".join(source.read(uri, large, 0, None))
        assert other.asked == []


@pytest.mark.parametrize(
    "store", ["http://169.254.169.254", "http://[::ffff:169.254.169.254]", "file:///etc"]
)
def test_a_redirect_to_a_metadata_service(source_of: SourceOf, hub: Hub, commit: str, store: str) -> None:
    """Not even where an operator lists it."""
    uri = f"hf://org/m@{commit}"
    hub.store = store
    source = source_of(hosts=(store,) if store.startswith("http") else ())
    large = next(file for file in source.files(uri) if file.sha256)
    with pytest.raises(ArtifactRefused):
        b"".join(source.read(uri, large, 0, None))


@pytest.mark.parametrize(
    ("uri", "error"),
    [
        ("hf://org/m@main", ArtifactRefused),
        ("hf://org/m", ArtifactRefused),
        ("hf://@" + "0" * 40, ArtifactRefused),
        ("hf://org/secret@" + "0" * 40, ArtifactRefused),
        ("hf://org/m@" + "0" * 40, ArtifactMissing),
    ],
)
def test_a_uri_that_names_nothing(
    source_of: SourceOf, hub: Hub, commit: str, uri: str, error: type[ArtifactError]
) -> None:
    """Commits only, and only of repositories that the operator lists."""
    source = source_of()
    with pytest.raises(error):
        source.files(uri)


def test_no_files(source_of: SourceOf, hub: Hub, commit: str) -> None:
    """A commit of which nothing is taken."""
    source = source_of(files=("*.zip",))
    with pytest.raises(ArtifactMissing, match="look at `files`"):
        source.files(f"hf://org/m@{commit}")


@pytest.mark.parametrize(
    ("url", "allowed"),
    [
        ("https://cdn-lfs.huggingface.co/x", True),
        ("https://cas-bridge.xethub.hf.co/x", True),
        ("https://hf.co/x", True),
        ("https://my.store/x", True),
        ("https://cdn-lfs.huggingface.co:8443/x", False),
        ("http://cdn-lfs.huggingface.co/x", False),
        ("https://evil-huggingface.co/x", False),
        ("https://huggingface.co.evil.example/x", False),
        ("http://my.store/x", False),
    ],
)
def test_stores_of_the_public_hub(url: str, allowed: bool) -> None:
    """Its own domains by https, and what the operator lists."""
    assert _stores(PUBLIC, ("my.store",))(origin_of(url)) is allowed
    assert not _stores("https://hub.example", ())(origin_of(url))


def test_git_ids() -> None:
    """As git makes them."""
    assert blob_id(b"hello\n") == "ce013625030ba8dba906f756967f9e9ca394464a"
