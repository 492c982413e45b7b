"""What may not be fetched is refused before a byte moves: a server that listens there is never asked."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.artifacts.fetch import Fetcher
from router.artifacts.policy import (
    Allow,
    ArtifactSettings,
    HttpPlace,
    LocalPlace,
    Origin,
    Policy,
    S3Place,
    S3Settings,
)
from router.errors import ArtifactError, ArtifactRefused
from router.model import ModelName, Version, VersionId
from router.remote.net import origin_of
from tests.servers.between import Answer, Between, between

MLFLOW = Origin("mlflow", uri="https://mlflow.example:5000")
NO_KEYS = S3Settings()
METADATA = (
    *("169.254.169.254", "::ffff:169.254.169.254", "64:ff9b::a9fe:a9fe", "64:ff9b:1::a9fe:a9fe"),
    *("2002:a9fe:a9fe::", "fe80::1", "fd00:ec2::254", "100.100.100.200", "168.63.129.16"),
)


@pytest.fixture
def inner() -> Iterator[Between]:
    """A server that nobody may reach; it would answer a file."""
    with between() as server:
        server.script = lambda asked: Answer(200, b"secret")
        yield server


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[str]]:
    """What names resolve to, instead of what the system says; and nothing but loopback is connected to."""
    known: dict[str, list[str]] = {}
    connect = socket.create_connection

    def resolved(host: str, port: int, **_: object) -> list[tuple[Any, ...]]:
        addresses = known.get(host, [host])
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in addresses]

    def connected(address: tuple[str, int], *rest: Any) -> socket.socket:
        assert address[0] == "127.0.0.1", f"a connection to {address} was tried"
        return connect(address, *rest)

    monkeypatch.setattr("router.remote.net.socket.getaddrinfo", resolved)
    monkeypatch.setattr("router.remote.net.socket.create_connection", connected)
    return known


def refusal(
    folder: Path, uri: str, allow: Allow, s3: S3Settings = NO_KEYS, origin: Origin = MLFLOW
) -> ArtifactError:
    """What a fetch of it raises; nothing is left in the folder."""
    settings = ArtifactSettings(allow=allow, s3=s3, pause=0.001, timeout=20)
    target = folder / "target"
    target.mkdir()
    with pytest.raises(ArtifactRefused) as raised:
        Fetcher(settings, origins=lambda _: origin).fetch(
            Version("r", ModelName("m"), VersionId("1"), artifact=uri), target
        )
    assert list(target.iterdir()) == []
    assert raised.value.message.startswith("m 1: ")
    return raised.value


@pytest.mark.parametrize(
    "uri",
    [
        *("http://127.0.0.1:{port}/x", "http://localhost:{port}/x", "http://LOCALHOST.:{port}/x"),
        *("http://2130706433:{port}/x", "http://0x7f000001:{port}/x", "http://0177.0.0.1:{port}/x"),
        *("http://127.1:{port}/x", "http://0:{port}/x", "http://127.0.0.1.:{port}/x"),
        *("http://[::ffff:127.0.0.1]:{port}/x", "http://[::1]:{port}/x", "http://[64:ff9b::7f00:1]:{port}/x"),
        *("http://models.example@127.0.0.1:{port}/x", "http://127.0.0.1:{port}\\@models.example/x"),
        *("http://127.0.0.1:{port}#@models.example/x", "http://127.0.0.1:{port}?@models.example/x"),
        *("http://models.example%40127.0.0.1:{port}/x", "http:127.0.0.1:{port}/x", "//127.0.0.1:{port}/x"),
        *("http://①②⑦.0.0.1:{port}/x", "http://127。0。0。1:{port}/x", "http://127.0.0.1\0:{port}/x"),
        *("gopher://127.0.0.1:{port}/x", "ftp://127.0.0.1:{port}/x", "sftp://127.0.0.1:{port}/x"),
        *("file://127.0.0.1:{port}/x", "s3://127.0.0.1:{port}/x", "http+unix://127.0.0.1:{port}/x"),
    ],
)
def test_a_host_that_is_not_listed_is_never_asked(
    tmp_path: Path, inner: Between, names: dict[str, list[str]], uri: str
) -> None:
    """However it is written."""
    port = inner.uri.rpartition(":")[2]
    names |= {"localhost": ["127.0.0.1"], "models.example": ["127.0.0.1"]}
    refusal(tmp_path, uri.format(port=port), Allow(hosts=("models.example",)))

    assert inner.asked == []


@pytest.mark.parametrize("address", METADATA)
def test_a_listed_name_that_leads_to_metadata_is_refused(
    tmp_path: Path, names: dict[str, list[str]], address: str
) -> None:
    """Also as one address among others, and although the operator listed the name."""
    names["models.example"] = ["127.0.0.1", address]

    told = refusal(tmp_path, "http://models.example/x", Allow(hosts=("http://models.example",)))

    assert "nothing is ever fetched from" in told.message


@pytest.mark.parametrize(
    "address", [*METADATA, "127.0.0.1", "10.0.0.1", "::ffff:192.168.0.1", "64:ff9b::a00:1"]
)
def test_amazons_own_names_lead_nowhere_private(
    tmp_path: Path, inner: Between, names: dict[str, list[str]], address: str
) -> None:
    """Without an endpoint in the configuration no private address was written by the operator."""
    for host in ("s3.us-east-1.amazonaws.com", "ours.s3.us-east-1.amazonaws.com", "ours.s3.amazonaws.com"):
        names[host] = [address]
    keys = S3Settings("", "us-east-1", lambda: "a", lambda: "b")

    refusal(tmp_path, "s3://ours/x", Allow(buckets=("ours",)), keys)

    assert inner.asked == []


@pytest.mark.parametrize(
    "uri", ["s3://other/x", "s3://ours/team-b/x", "s3://ours/team/../b", "s3://ours@other/x"]
)
def test_a_bucket_that_is_not_listed_is_never_asked_for(tmp_path: Path, inner: Between, uri: str) -> None:
    """With keys that might open it."""
    keys = S3Settings(inner.uri, "us-east-1", lambda: "a", lambda: "b")
    refusal(tmp_path, uri, Allow(buckets=("ours/team",)), keys)

    assert inner.asked == []


def redirecting(to: str) -> Answer:
    """To somewhere else."""
    return Answer(307, headers={"Location": to})


@pytest.mark.parametrize("kind", ["web", "S3"])
def test_a_redirect_is_not_followed_to_where_nobody_is_listed(
    tmp_path: Path, inner: Between, kind: str
) -> None:
    """One request, to the server that was allowed; none to where it points."""
    with between() as outer:
        outer.script = lambda asked: redirecting(f"{inner.uri}/x")
        port = outer.uri.rpartition(":")[2]
        if kind == "web":
            refusal(tmp_path, f"{outer.uri}/x", Allow(hosts=(f"http://127.0.0.1:{port}",)))
        else:
            keys = S3Settings(outer.uri, "us-east-1", lambda: "a", lambda: "b")
            refusal(tmp_path, "s3://ours/x", Allow(buckets=("ours",)), keys)
        assert len(outer.asked) == 1

    assert inner.asked == []


@pytest.mark.parametrize(
    "uri",
    [
        *("/etc/passwd", "file:///etc/passwd", "file:/etc/passwd", "file://localhost/etc/passwd"),
        *(
            "file://host/{own}/x",
            "file://127.0.0.1{own}/x",
            "{own}/../other/x",
            "file://{own}/%2e%2e/other/x",
        ),
        *("file://{own}%2F..%2Fother/x", "file://{own}/%2E./other/x", "{own}\0/../../etc/passwd", "{own}/\0"),
        *(
            "file://{own}/%00",
            "file://{own}/x?y",
            "{own}-other/x",
            "etc/passwd",
            "../x",
            "~/x",
            "{own}/link/x",
        ),
        *("file://user@{own}/x", "file:////host{own}/x", "file://{own}/%ff/../../x", "file://[{own}/x"),
    ],
)
def test_a_path_outside_is_never_read(tmp_path: Path, uri: str) -> None:
    """The folder that is allowed is `own`; beside it there is another, which a link in it leads to."""
    own, other = tmp_path / "own", tmp_path / "other"
    own.mkdir()
    other.mkdir()
    (other / "x").write_bytes(b"secret")
    (own / "link").symlink_to(other)

    refusal(tmp_path, uri.format(own=own), Allow(files=(own,)))


PIECES = [
    *(
        "file:",
        "s3:",
        "http:",
        "https:",
        "//",
        "/",
        "\\",
        "..",
        ".",
        "%2e",
        "%2F",
        "%00",
        "%ff",
        "%",
        "?",
        "#",
    ),
    *(
        "@",
        ":",
        "[",
        "]",
        "own",
        "models.example",
        "127.0.0.1",
        "::1",
        "80",
        ":0",
        "0x7f",
        "\0",
        "\ud800",
        "é",
        " ",
    ),
]


@given(st.lists(st.sampled_from(PIECES), max_size=12).map("".join))
def test_any_text_is_a_place_or_refused(uri: str) -> None:
    """A registry can write anything there; whatever is taken is where the operator said."""
    policy = Policy(Allow(buckets=("own",), hosts=("models.example",), files=(Path("/own"),)))
    try:
        place = policy.place(Version("r", ModelName("m"), VersionId("1"), artifact=uri), MLFLOW)
    except ArtifactRefused:
        return
    match place:
        case LocalPlace():
            assert place.path.is_relative_to("/own")
            assert ".." not in place.path.parts
        case S3Place():
            assert place.bucket == "own"
        case HttpPlace():
            assert str(origin_of(place.url)) == "https://models.example:443"
        case _:
            raise AssertionError(place)
