"""Clients of AWS and of what speaks like it."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from router.artifacts.download import Pace, list_files
from router.errors import ArtifactRefused, ArtifactUnavailable, StagegateError
from router.ports import RemoteFile
from router.remote import s3
from router.remote.s3 import S3Access, S3Files, guarded_client
from tests.servers.between import Answer, Between, between

LIST = '<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">{}</ListBucketResult>'
AGAIN = "<IsTruncated>true</IsTruncated><NextContinuationToken>again</NextContinuationToken>"
OBJECT = "<Contents><Key>{}</Key><Size>{}</Size><ETag>e</ETag></Contents>"
LAUGHS = "".join(
    (
        '<!DOCTYPE x [<!ENTITY z0 "xxxxxxxxxx">',
        *('<!ENTITY z{} "{}">'.format(n, f"&z{n - 1};" * 10) for n in range(1, 10)),
        "]><ListBucketResult><Name>&z9;</Name></ListBucketResult>",
    )
)


@pytest.mark.parametrize(
    ("endpoint", "asked"),
    [
        ("", True),
        ("https://vpce-1.s3.eu-central-1.vpce.amazonaws.com/", True),
        ("https://s3.example.com", False),
        ("https://amazonaws.com.example.com", False),
    ],
)
def test_the_role_of_the_machine_is_for_aws_alone(
    endpoint: str, asked: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Private endpoints of AWS are AWS; nobody else has such a role, and nobody is asked for it."""
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE", "AWS_EC2_METADATA_DISABLED"):
        monkeypatch.delenv(name, raising=False)
    with between() as metadata:
        metadata.script = lambda _: Answer(404)
        monkeypatch.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", metadata.uri)
        wire, client = guarded_client(S3Access(endpoint=endpoint, region="eu-central-1"))
        with contextlib.closing(wire), contextlib.closing(client):
            assert bool(metadata.asked) == asked


def test_mistakes_name_the_service() -> None:
    """An endpoint that is no URL."""
    with pytest.raises(ArtifactRefused, match=r"^S3 at ftp://host cannot be used"):
        guarded_client(S3Access(endpoint="ftp://host", region="x"))
    with pytest.raises(ArtifactRefused, match=r"^sagemaker at ftp://host cannot be used"):
        guarded_client(S3Access(endpoint="ftp://host", region="x"), "sagemaker")


@pytest.fixture
def store() -> Iterator[tuple[Between, S3Files]]:
    """A store that answers what a test says, and access to it."""
    with between() as server:
        access = S3Access(server.uri, "x", lambda: "key", lambda: "hidden", timeout=5)
        files = S3Files(access)
        with contextlib.closing(files):
            yield server, files


def test_a_list_that_leads_back_to_itself_is_given_up(
    store: tuple[Between, S3Files], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With objects or without."""
    monkeypatch.setattr(s3, "_MOST_PAGES", 5)
    server, files = store
    server.script = lambda _: Answer(200, LIST.format(AGAIN).encode())
    with pytest.raises(ArtifactRefused, match="does not end"):
        files.files("s3://bucket/m")
    assert len(server.asked) == 5


def test_an_answer_that_fills_the_memory_is_given_up(
    store: tuple[Between, S3Files], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A list, and an error; a file may be as large as it is."""
    monkeypatch.setattr(s3, "_LONGEST_ANSWER", 1 << 20)
    server, files = store
    for status in (200, 403):
        server.script = lambda _, status=status: Answer(status, b"<a>" + b" " * (2 << 20))  # type: ignore[misc]
        with pytest.raises(ArtifactUnavailable, match="more than 1048576 bytes"):
            files.files("s3://bucket/m")
    whole = {"ETag": "e", "Content-Range": "bytes 0-2097151/2097152"}
    server.script = lambda _: Answer(206, bytes(2 << 20), whole)
    read = files.read("s3://bucket/m", RemoteFile("m", 2 << 20, seen="e m"), 0, None)
    assert sum(map(len, read)) == 2 << 20


@pytest.mark.parametrize(
    "body",
    [
        "<html>please log in</html>",
        "no xml",
        "",
        LAUGHS,
        LIST.format(OBJECT.format("m/a", "9" * 6_000)),
        LIST.format(OBJECT.format("m/a", "-1e3")),
        LIST.format("<Contents></Contents>"),
        LIST.format("<IsTruncated>true</IsTruncated>"),
        "<a>" * 100_000,
    ],
)
def test_what_is_no_answer_of_a_store_is_an_error_of_ours(
    store: tuple[Between, S3Files], body: str, tmp_path: Path
) -> None:
    """For a listing as a fetch asks for it."""
    server, files = store
    server.script = lambda asked: Answer(200, body.encode())
    pace = Pace(until=time.monotonic() + 30, pause=0.001)
    with pytest.raises(StagegateError):
        list_files(files, "s3://bucket/m", pace=pace)


def test_one_that_is_closed_asks_nobody_again(store: tuple[Between, S3Files]) -> None:
    """Whoever still is at it in a thread that was left behind ends with its next question."""
    server, files = store
    files.close()
    with pytest.raises(ArtifactUnavailable, match="closed"):
        files.files("s3://bucket/key")

    assert not server.asked
