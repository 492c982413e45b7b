"""Files out of DVC's remotes, on disk and on S3, as the real DVC put them there."""

from __future__ import annotations

import contextlib
import socket

import pytest

from router.errors import (
    ArtifactChanged,
    ArtifactError,
    ArtifactMissing,
    ArtifactRefused,
    ArtifactUnavailable,
    InvalidInput,
)
from router.model import ModelName, Version
from router.ports import Registry, Source
from tests.servers.between import Answer, between
from tests.servers.dvc import Repository
from tests.servers.s3 import Server
from tests.unit.registries.dvc.conftest import Opened


async def source_of(registry: Registry, model: str) -> tuple[Source, Version]:
    """Access to the files of the newest version of a model."""
    version = list((await registry.read()).models[ModelName(model)].versions.values())[-1]
    source = registry.source(version.artifact)
    assert source is not None
    return source, version


def content(source: Source, uri: str) -> dict[str, bytes]:
    """All files, each read whole."""
    return {file.path: b"".join(source.read(uri, file, 0, None)) for file in source.files(uri)}


async def test_a_file_and_a_folder(opened: Opened, dvc_repository: Repository) -> None:
    """On disk."""
    dvc_repository.tag("digits@v1.0.0", "2")
    dvc_repository.tag("tree@v1.0.0", "3")
    registry = opened(dvc_repository)
    digits, one = await source_of(registry, "digits")
    tree, other = await source_of(registry, "tree")

    assert content(digits, one.artifact) == {"digits.onnx": b"digits 2"}
    assert content(tree, other.artifact) == {"1/model.py": b"VERSION = 3", "config.pbtxt": b'name: "tree3"'}
    assert [file.size for file in tree.files(other.artifact)] == [11, 13]
    (file,) = digits.files(one.artifact)
    assert b"".join(digits.read(one.artifact, file, 2, 5)) == b"git"
    assert registry.source("s3://bucket/x") is None
    await registry.close()


async def test_a_file_that_is_not_the_one_of_the_commit(opened: Opened, dvc_repository: Repository) -> None:
    """Its MD5 is proved before its last piece is given."""
    dvc_repository.tag("digits@v1.0.0", "1")
    source, version = await source_of(opened(dvc_repository), "digits")
    (file,) = source.files(version.artifact)
    stored = dvc_repository.remote / file.seen
    stored.chmod(0o644)
    stored.write_bytes(b"digits X")
    pieces = source.read(version.artifact, file, 0, None)

    with pytest.raises(ArtifactChanged, match="MD5"):
        next(pieces)
    stored.unlink()
    with pytest.raises(ArtifactMissing, match="dvc push"):
        b"".join(source.read(version.artifact, file, 0, None))


@pytest.mark.parametrize(
    ("listed", "error"),
    [
        (b'[{"md5": "25d902b2750a84f4db28a445b9d7ef5b", "relpath": "../../out"}]', ArtifactChanged),
        (b"[]", ArtifactChanged),
        (None, ArtifactMissing),
    ],
)
async def test_a_list_that_somebody_changed(
    opened: Opened, dvc_repository: Repository, listed: bytes | None, error: type[ArtifactError]
) -> None:
    """The commit has its MD5."""
    dvc_repository.tag("tree@v1.0.0", "1")
    source, version = await source_of(opened(dvc_repository, format="triton"), "tree")
    md5 = version.lineage["md5"]
    stored = dvc_repository.remote / "files" / "md5" / md5[:2] / f"{md5[2:]}.dir"
    stored.chmod(0o644)
    stored.unlink() if listed is None else stored.write_bytes(listed)

    with pytest.raises(error):
        source.files(version.artifact)


@pytest.mark.parametrize("path", ["0" * 40 + "/models/digits.onnx", "main/models/digits.onnx", "", "../x/y"])
async def test_a_uri_that_names_nothing(opened: Opened, dvc_repository: Repository, path: str) -> None:
    """No commit, no file."""
    source = opened(dvc_repository).source(f"dvc://models/{path}")
    assert source is not None
    with pytest.raises(ArtifactMissing):
        source.files(f"dvc://models/{path}")


async def test_a_repository_that_is_away(opened: Opened, dvc_repository: Repository) -> None:
    """That may pass."""
    commit = dvc_repository.commit("1")
    source = opened(dvc_repository).source(f"dvc://models/{commit}/models/digits.onnx")
    assert source is not None
    dvc_repository.path.rename(dvc_repository.path.with_name("away"))
    with pytest.raises(ArtifactUnavailable):
        source.files(f"dvc://models/{commit}/models/digits.onnx")


async def test_the_layout_of_old_remotes(opened: Opened, dvc_repository: Repository) -> None:
    """DVC before 3 wrote no `hash` and kept files at the top of the remote."""
    md5 = "25d902b2750a84f4db28a445b9d7ef5b"
    old = dvc_repository.remote / md5[:2]
    old.mkdir()
    (old / md5[2:]).write_bytes(b"onnx-1")
    text = f"outs:\n- {{md5: {md5}, size: 6, path: digits.onnx}}\n"
    dvc_repository.tag("digits@v1.0.0", dvc_repository.write({"models/digits.onnx.dvc": text}))
    source, version = await source_of(opened(dvc_repository), "digits")

    assert content(source, version.artifact) == {"digits.onnx": b"onnx-1"}


async def test_a_remote_on_s3(opened: Opened, dvc_repository: Repository, s3_server: Server) -> None:
    """Put there by `dvc push`; read with the operator's keys, at the operator's endpoint."""
    bucket = s3_server.bucket("dvc-remote")
    dvc_repository.dvc("remote", "add", "--quiet", "-d", "cloud", f"s3://{bucket}/team/a")
    dvc_repository.dvc("remote", "modify", "cloud", "endpointurl", s3_server.endpoint)
    dvc_repository.git("commit", "--quiet", "--all", "-m", "cloud")
    dvc_repository.dvc("push", "--quiet", **s3_server.environment())
    for name in ("digits@v1.0.0", "tree@v1.0.0"):
        dvc_repository.tag(name, "HEAD")
    keys = {"access_key": lambda: s3_server.access_key, "secret_key": lambda: s3_server.secret_key}
    place = {"endpoint": s3_server.endpoint, "region": s3_server.region, "remotes": (f"s3://{bucket}/team",)}
    registry = opened(dvc_repository, **keys, **place)
    digits, one = await source_of(registry, "digits")
    tree, other = await source_of(registry, "tree")

    assert (one.format, other.format) == ("onnx", "triton")
    assert content(digits, one.artifact) == {"digits.onnx": b"digits 10"}
    assert content(tree, other.artifact) == {"1/model.py": b"VERSION = 10", "config.pbtxt": b'name: "tree10"'}
    (file,) = digits.files(one.artifact)
    assert b"".join(digits.read(one.artifact, file, 7, 9)) == b"10"
    with contextlib.closing(s3_server.client()) as client:
        client.delete_object(Bucket=bucket, Key=f"team/a/{file.seen}")
    with pytest.raises(ArtifactMissing):
        b"".join(digits.read(one.artifact, file, 0, None))
    wrong = opened(dvc_repository, **{**keys, "secret_key": lambda: "wrong"}, **place)
    source = wrong.source(one.artifact)
    assert source is not None
    with pytest.raises(ArtifactRefused, match="store refuses") as refused:
        source.files(other.artifact)
    assert "wrong" not in str(refused.value)
    for each in (digits, tree, source):
        each.close()
    with pytest.raises(ArtifactUnavailable, match="closed"):
        digits.files(one.artifact)


async def cloud(opened: Opened, repository: Repository, endpoint: str) -> tuple[Source, Version]:
    """Access to a model in a bucket of a server that the operator wrote."""
    repository.dvc("remote", "add", "--quiet", "-d", "cloud", "s3://models")
    repository.git("commit", "--quiet", "--all", "-m", "cloud")
    repository.tag("digits@v1.0.0", "HEAD")
    keys = {"access_key": lambda: "a", "secret_key": lambda: "b"}
    return await source_of(
        opened(repository, remotes=("s3://models",), endpoint=endpoint, region="us-east-1", **keys), "digits"
    )


@pytest.mark.parametrize(
    "endpoint", ["http://169.254.169.254", "http://[fd00:ec2::254]", "http://0xa9fea9fe"]
)
async def test_a_remote_where_nothing_is_fetched_from(
    opened: Opened, dvc_repository: Repository, monkeypatch: pytest.MonkeyPatch, endpoint: str
) -> None:
    """The service that hands out a machine's credentials is no store, also where the operator wrote it."""

    def connected(address: object, *_: object, **__: object) -> socket.socket:
        raise AssertionError(f"a connection to {address} was tried")

    source, version = await cloud(opened, dvc_repository, endpoint)
    monkeypatch.setattr(socket.socket, "connect", connected)
    monkeypatch.setattr(socket, "create_connection", connected)
    with contextlib.closing(source), pytest.raises(ArtifactRefused, match=r"nothing is ever|cannot be used"):
        content(source, version.artifact)


async def test_a_remote_that_sends_us_on(opened: Opened, dvc_repository: Repository) -> None:
    """Nobody is asked whom the operator did not write, and the keys stay here."""
    with between() as inner, between() as store:
        inner.script = lambda _: Answer(200, b"digits 10")
        to = {"location": f"{inner.uri}/x", "x-amz-bucket-region": "eu-west-1"}
        store.script = lambda _: Answer(307, b"", to)
        source, version = await cloud(opened, dvc_repository, store.uri)
        with contextlib.closing(source), pytest.raises(ArtifactRefused, match="redirects to"):
            content(source, version.artifact)

    assert (len(store.asked), inner.asked) == (1, [])


async def test_half_a_key(opened: Opened, dvc_repository: Repository) -> None:
    """Is a mistake of the configuration; other keys are not taken in its place."""
    with pytest.raises(InvalidInput, match="both"):
        opened(dvc_repository, access_key=lambda: "a")
