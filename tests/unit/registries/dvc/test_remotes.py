"""Where a repository may say that its files lie."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from router.errors import ArtifactMissing, ArtifactRefused
from router.registries.dvc.files import Unusable
from router.registries.dvc.remotes import open_remote, plain_place, where
from router.remote.s3 import S3Access

ALLOWED = ("s3://models/team-a", "/srv/dvc")
ACCESS = S3Access()


def config(url: str, more: str = "") -> str:
    """A `.dvc/config` with one remote."""
    return f"[core]\n    remote = r\n['remote \"r\"']\n    url = {url}\n    {more}\n"


@pytest.mark.parametrize(
    ("url", "place"),
    [
        ("s3://models/team-a", "s3://models/team-a"),
        ("s3://models/team-a/x/", "s3://models/team-a/x"),
        ("/srv/dvc", "/srv/dvc"),
        ("file:///srv/dvc/x", "/srv/dvc/x"),
        ("../../../srv/dvc/y", "/srv/dvc/y"),
    ],
)
def test_an_allowed_place(url: str, place: str) -> None:
    """It is one of the operator's, or below one."""
    assert where(config(url), "", Path("/home/repo"), ALLOWED) == place


@pytest.mark.parametrize(
    "url",
    [
        *("s3://models", "s3://models/team-ab", "s3://other/team-a", "s3://models/team-a/../team-b"),
        *("s3://models/team-a/%2e%2e/b", "s3://key:secret@models/team-a", "s3:///team-a"),
        *("/srv/dvc-other", "/srv/dvc/../../etc", "/srv", "/", "file://host/srv/dvc", "file:///etc"),
        *("../../etc", "http://169.254.169.254/latest", "https://models/team-a", "gs://models/team-a"),
        *(
            "ssh://host/srv/dvc",
            "S3://other",
            "remote://r/x",
            "s3://models/team-a?x=1",
            "//srv/dvc/x/../../../etc",
        ),
    ],
)
def test_a_place_that_is_not_allowed(url: str) -> None:
    """Whoever can push to the repository does not choose what we read."""
    with pytest.raises(ArtifactRefused):
        where(config(url), "", Path("/home/repo"), ALLOWED)


def test_a_relative_place_without_a_checkout() -> None:
    """There is nothing that it could be relative to."""
    with pytest.raises(ArtifactRefused, match="checkout"):
        where(config("../../srv/dvc"), "", None, ALLOWED)


def test_nothing_is_allowed_by_default() -> None:
    """The message says where to allow it."""
    with pytest.raises(ArtifactRefused, match="list it under `remotes`"):
        where(config("/srv/dvc"), "", None, ())


@pytest.mark.parametrize(
    "text", ["", "[core]\n remote = x\n", "['remote \"r\"']\n url = /srv/dvc\n", config("")]
)
def test_no_remote(text: str) -> None:
    """One that is not there, is not the default, or has no address."""
    with pytest.raises(Unusable):
        where(text, "", None, ALLOWED)


def test_remotes_that_keep_files_otherwise() -> None:
    """Versions of a cloud are not MD5s."""
    with pytest.raises(ArtifactRefused, match="version_aware"):
        where(config("s3://models/team-a", "version_aware = true"), "", None, ALLOWED)


@pytest.mark.parametrize("text", ["models", "https://x/y", "s3://", "~/x", "s3://a/../b"])
def test_a_place_that_is_none(text: str) -> None:
    """An operator is told."""
    with pytest.raises(ValueError, match=r"odd prefix|neither"):
        plain_place(text)


def test_a_folder_is_read_in_parts(tmp_path: Path) -> None:
    """And by size."""
    (tmp_path / "a").write_bytes(b"0123456789")
    remote = open_remote(str(tmp_path), ACCESS)

    assert remote.size("a") == 10
    assert b"".join(remote.read("a", 0, None)) == b"0123456789"
    assert b"".join(remote.read("a", 3, 7)) == b"3456"
    assert b"".join(remote.read("a", 8, 20)) == b"89"
    with pytest.raises(ArtifactMissing, match="dvc push"):
        remote.size("b")


def test_a_folder_is_not_left(tmp_path: Path) -> None:
    """By no link, and nothing but files is opened."""
    root = tmp_path / "root"
    root.mkdir()
    (tmp_path / "secret").write_text("s")
    (root / "link").symlink_to(tmp_path / "secret")
    (root / "here").symlink_to(root / "file")
    (root / "file").write_text("f")
    (root / "out").symlink_to(tmp_path)
    os.mkfifo(root / "pipe")
    remote = open_remote(str(root), ACCESS)

    for key in ("link", "out/secret", "../secret", "pipe"):
        with pytest.raises(ArtifactRefused):
            remote.size(key)
