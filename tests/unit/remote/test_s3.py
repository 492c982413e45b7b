"""Clients of AWS and of what speaks like it."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest

from router.errors import ArtifactRefused
from router.remote.s3 import S3Access, guarded_client
from tests.servers.between import Answer, between


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
