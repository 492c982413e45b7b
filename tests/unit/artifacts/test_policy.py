"""What may be fetched and what may run, decided before a byte moves."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from router.artifacts.checks import check_digest, check_first, check_listing
from router.artifacts.policy import (
    Allow,
    Code,
    HttpPlace,
    LocalPlace,
    Origin,
    Policy,
    RegistryPlace,
    S3Place,
    check_bucket_entry,
    check_host_entry,
    shown,
)
from router.errors import ArtifactError, ArtifactRefused
from router.model import ModelName, Version, VersionId

MLFLOW = Origin("mlflow", uri="https://mlflow.example:5000")
FOLDER = Origin("folder", Path("/models"))
BUCKET = Origin("s3", uri="s3://ours/models/")
POLICY = Policy(
    Allow(
        buckets=("shared", "team/prod"),
        hosts=("models.example", "http://minio.example:9000", "files.example:8443"),
        files=(Path("/srv/artifacts"),),
    ),
    code=("trusted-*", "one"),
    signed=("bank-*",),
)


def version(artifact: str, model: str = "m") -> Version:
    """A version with that artifact."""
    return Version("r", ModelName(model), VersionId("1"), artifact=artifact)


@pytest.mark.parametrize(
    ("artifact", "origin", "place"),
    [
        (
            "/models/m/1/x.onnx",
            FOLDER,
            LocalPlace(Path("/models/m/1/x.onnx"), (Path("/srv/artifacts"), Path("/models"))),
        ),
        (
            "file:///models/a%20b",
            FOLDER,
            LocalPlace(Path("/models/a b"), (Path("/srv/artifacts"), Path("/models"))),
        ),
        ("file:///srv/artifacts/1", MLFLOW, LocalPlace(Path("/srv/artifacts/1"), (Path("/srv/artifacts"),))),
        ("s3://shared/any/key", MLFLOW, S3Place("shared", "any/key")),
        ("S3://team/prod/m", MLFLOW, S3Place("team", "prod/m")),
        ("s3://team/prod", MLFLOW, S3Place("team", "prod")),
        ("s3://ours/models/m/1/", BUCKET, S3Place("ours", "models/m/1/")),
        ("https://models.example/m.onnx", MLFLOW, HttpPlace("https://models.example/m.onnx")),
        ("https://Models.Example.:443/m", MLFLOW, HttpPlace("https://Models.Example.:443/m")),
        ("http://minio.example:9000/m", MLFLOW, HttpPlace("http://minio.example:9000/m")),
        ("https://files.example:8443/m?v=1", MLFLOW, HttpPlace("https://files.example:8443/m?v=1")),
        ("https://mlflow.example:5000/m", MLFLOW, HttpPlace("https://mlflow.example:5000/m")),
    ],
)
def test_places_that_are_allowed(artifact: str, origin: Origin, place: object) -> None:
    """The registry's own, and what the operator listed."""
    assert POLICY.place(version(artifact), origin) == place


@pytest.mark.parametrize(
    ("artifact", "key"),
    [
        # files of this machine
        *(
            ("/etc/passwd", "allow.files"),
            ("file:///etc/passwd", "allow.files"),
            ("file:/etc/passwd", "allow.files"),
        ),
        *(("FILE:///etc/passwd", "allow.files"), ("file://localhost/etc/passwd", "allow.files")),
        *(("/srv/artifacts-of-others/x", "allow.files"), ("/srv/artifacts/../../etc/passwd", "'..'")),
        *(
            ("file:///srv/artifacts/%2e%2e/%2e%2e/etc/passwd", "'..'"),
            ("file:///srv/artifacts%2f..%2f..", "'..'"),
        ),
        *(("file://host/srv/artifacts/x", "another host"), ("file:srv/artifacts/x", "no absolute path")),
        *(("srv/artifacts", "no absolute path"), ("file:///srv/artifacts/x?y", "more than a path")),
        *(("file:///srv/artifacts/%00", "no absolute path"), ("", "no URI"), ("/srv/artifacts/\n", "no URI")),
        # buckets
        *(("s3://other/key", "allow.buckets"), ("s3://team/production/m", "allow.buckets")),
        *(
            ("s3://team/", "allow.buckets"),
            ("s3://team/prod/../secret", "'..'"),
            ("s3://shared//x", "empty part"),
        ),
        *(
            ("s3://key@shared/x", "no s3://"),
            ("s3:///x", "no s3://"),
            ("s3:shared/x", "no s3://"),
            ("s3://.../x", "no s3://"),
        ),
        *(("s3://shared:80/x", "no s3://"), ("s3://169.254.169.254/x", "allow.buckets")),
        # web servers
        *(
            ("http://169.254.169.254/latest/meta-data", "allow.hosts"),
            ("http://models.example/m", "allow.hosts"),
        ),
        *(
            ("https://models.example:444/m", "allow.hosts"),
            ("https://models.example.evil.example/m", "allow.hosts"),
        ),
        *(
            ("https://evil.example/models.example", "allow.hosts"),
            ("https://[::ffff:169.254.169.254]/", "allow.hosts"),
        ),
        *(("http://2852039166/", "unusual form"), ("http://0xa9.0xfe.0xa9.0xfe/", "unusual form")),
        *(("http://0251.0376.0251.0376/", "unusual form"), ("http://127.1/", "unusual form")),
        *(
            ("https://models.example@evil.example/", "user name"),
            ("https://user:word@models.example/", "user name"),
        ),
        *(("https://evil.example\\@models.example/", "refused"), ("https://models.example/../x", "'..'")),
        *(
            ("https://models.example/%2e%2e/x", "'..'"),
            ("https:/models.example/x", "no URL"),
            ("https://", "refused"),
        ),
        *(("https://models.example:x/", "refused"), ("https://models。example/", "not ASCII")),
        # other schemes
        *(("gopher://models.example/x", "scheme 'gopher'"), ("ftp://models.example/x", "scheme 'ftp'")),
        *(("mlflow-artifacts:/1/x", "scheme 'mlflow-artifacts'"), ("data:text/plain,x", "scheme 'data'")),
        *(("dbfs:/x", "scheme 'dbfs'"), ("jar:file:///etc/passwd!/", "scheme 'jar'"), ("x" * 3000, "no URI")),
    ],
)
def test_places_that_are_refused(artifact: str, key: str) -> None:
    """With the key of the configuration that would allow it, or what is wrong with the URI."""
    with pytest.raises(ArtifactRefused) as refused:
        POLICY.place(version(artifact), MLFLOW)

    assert key in str(refused.value)
    assert "m 1" in refused.value.message


def test_a_registrys_own_scheme_needs_its_own_access() -> None:
    """What only its own source understands is allowed with one; that opens nothing else."""
    assert POLICY.place(version("mlflow-artifacts:/1/x"), MLFLOW, own=True) == RegistryPlace(
        "mlflow-artifacts:/1/x"
    )
    for artifact in ("file:///etc/passwd", "s3://other/x", "https://evil.example/x"):
        with pytest.raises(ArtifactRefused):
            POLICY.place(version(artifact), MLFLOW, own=True)


@pytest.mark.parametrize(
    ("model", "origin", "kind", "allowed"),
    [
        ("m", FOLDER, Code.PYTHON, True),
        ("m", FOLDER, Code.PICKLE, False),
        ("m", MLFLOW, Code.PYTHON, False),
        ("trusted-1", MLFLOW, Code.PYTHON, True),
        ("trusted-1", MLFLOW, Code.PICKLE, True),
        ("one", FOLDER, Code.PICKLE, True),
        ("onerous", MLFLOW, Code.PICKLE, False),
        ("Trusted-1", MLFLOW, Code.PYTHON, False),
    ],
)
def test_code_is_for_listed_models(model: str, origin: Origin, kind: Code, allowed: bool) -> None:
    """A folder of this machine may bring source; everything else needs the operator's word."""
    assert POLICY.may_run_code(version("/x", model), kind, origin) is allowed
    if not allowed:
        with pytest.raises(ArtifactRefused, match=r"artifacts\.code"):
            POLICY.check_code(version("/x", model), kind, origin)


def test_nothing_is_allowed_by_default() -> None:
    """An empty configuration lets a remote registry name only its own."""
    for artifact in ("/x", "s3://b/x", "https://h.example/x"):
        with pytest.raises(ArtifactRefused):
            Policy().place(version(artifact), Origin("sagemaker"))


def test_who_must_sign() -> None:
    """Globs of models."""
    assert POLICY.must_be_signed(version("/x", "bank-1"))
    assert not POLICY.must_be_signed(version("/x", "m"))


@pytest.mark.parametrize("entry", ["h/path", "user@h", "0x7f000001", "h:port", "ftp://h", ""])
def test_a_wrong_entry_of_hosts_is_told(entry: str) -> None:
    """So that the configuration complains, not the first fetch."""
    with pytest.raises(ValueError):  # noqa: PT011 - any text: it is shown beside the line
        check_host_entry(entry)


@pytest.mark.parametrize("entry", ["", "a b", "/x", "b/../x"])
def test_a_wrong_entry_of_buckets_is_told(entry: str) -> None:
    """Likewise."""
    with pytest.raises(ValueError, match="neither a bucket"):
        check_bucket_entry(entry)


HIDDEN = "abc123"


@pytest.mark.parametrize(
    "artifact",
    [
        f"https://evil.example/x?X-Amz-Signature={HIDDEN}",
        f"https://h.example?sig={HIDDEN}@y",
        f"https://user:{HIDDEN}@h.example/x",
        f"https://{HIDDEN}@h.example/x?y",
        f"s3://key:{HIDDEN}@bucket/x",
        f"gs://bucket/x?token={HIDDEN}",
        f"https://h.example/a\nb?sig={HIDDEN}",
        f"HTTPS://h.example/x#{HIDDEN}",
    ],
)
def test_a_refusal_does_not_tell_what_lets_others_in(artifact: str) -> None:
    """Passwords and signed queries of a URI: logs, states and commands show the text."""
    with pytest.raises(ArtifactRefused) as raised:
        POLICY.place(version(artifact), MLFLOW)
    assert HIDDEN not in f"{raised.value}{raised.value.hint}"


def test_a_place_is_still_told() -> None:
    """What people look for is there."""
    assert shown("https://h.example/a@1/x?sig=1") == "https://h.example/a@1/x?***"
    assert shown("s3://b/a@1/x") == "s3://b/a@1/x"
    assert (shown("file:///a?b"), shown("/a?b")) == ("file:///a?b", "/a?b")


def test_a_listing_that_is_empty_or_wrong_does_not_tell_either() -> None:
    """The same of what is found out later."""
    signed = replace(version(f"https://h.example/x?sig={HIDDEN}"), digest="sha256:" + "0" * 64)
    for check in (
        lambda: check_listing(signed, []),
        lambda: check_digest(signed, {"x": "0" * 64}),
        lambda: check_first(signed, "a", "b", Path("/seen")),
    ):
        with pytest.raises(ArtifactError) as raised:
            check()
        assert HIDDEN not in str(raised.value)
        assert "https://h.example/x" in str(raised.value)
