"""The section `artifacts` becomes the settings that fetches go by."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.config import GatewayConfig, describe_problems, parse_config
from router.artifacts.policy import MIB, Allow, ArtifactSettings, SignatureSettings
from router.errors import ArtifactUnavailable, ConfigInvalid

BASE = Path("/base")


def read(text: str, environ: dict[str, str] | None = None) -> GatewayConfig:
    """A configuration of that text."""
    return parse_config(text, "f.yaml", BASE, environ or {})


def problems(text: str) -> list[str]:
    """What is told of that text, a line each."""
    with pytest.raises(ConfigInvalid) as caught:
        read(text)
    return list(describe_problems(caught.value))


def test_nothing_said_is_the_default() -> None:
    """That of the part that fetches: the page and the code cannot disagree."""
    assert read("").artifacts.to_settings() == ArtifactSettings()


def test_every_key_reaches_the_fetcher() -> None:
    """Typed, with paths relative to the file, and secrets read when they are needed."""
    environ = {"KEY": "abc"}
    settings = read(
        """\
artifacts:
  cache: {path: ./cache, size: 50GiB}
  timeout: 10m
  stall: 5s
  slowest: 64KiB
  reserve: 1GiB
  s3: {endpoint: "http://127.0.0.1:8333", region: eu-1, access_key: {env: KEY}, secret_key: {env: GONE}}
  allow: {buckets: [models, other/prefix], hosts: ["files.example:8443"], files: [./extra]}
  signature: {required: ["fraud*"], public_key: key.pem}
  code: [digits]
""",
        environ,
    ).artifacts.to_settings()

    assert (settings.cache.path, settings.cache.size) == (BASE / "cache", 50 << 30)
    assert (settings.timeout, settings.stall, settings.slowest) == (600.0, 5.0, 64 << 10)
    assert (settings.reserve, settings.code) == (1024 * MIB, ("digits",))
    assert settings.allow == Allow(("models", "other/prefix"), ("files.example:8443",), (BASE / "extra",))
    assert settings.signature == SignatureSettings(("fraud*",), BASE / "key.pem")
    assert (settings.s3.endpoint, settings.s3.region) == ("http://127.0.0.1:8333", "eu-1")
    assert settings.s3.access_key is not None
    assert settings.s3.access_key() == "abc"
    assert settings.s3.secret_key is not None
    with pytest.raises(ArtifactUnavailable, match="environment variable GONE is not set"):
        settings.s3.secret_key()


def test_all_mistakes_come_at_once() -> None:
    """With what would be right."""
    text = """\
artifacts:
  cach: {}
  timeout: soon
  s3: {access_key: hunter2}
  allow:
    buckets: ["s3://a/../b"]
    hosts: ["host/path"]
  signature: {required: ["*"], public_keys: a}
  code: [""]
"""

    assert [tuple(line.split(": ")[1:3]) for line in problems(text)] == [
        ("artifacts.cach", "unknown key; did you mean cache?"),
        ("artifacts.timeout", "'soon' is not a duration; write a number with ms, s, m or h, such as 30s"),
        ("artifacts.s3.access_key", "needs secret_key beside it"),
        ("artifacts.s3.access_key", "a secret is named, not written"),
        ("artifacts.allow.buckets[0]", "'s3://a/../b' is neither a bucket nor bucket/prefix"),
        ("artifacts.allow.hosts[0]", "'host/path' has a path; a host, or host:port, is enough"),
        ("artifacts.signature.public_keys", "unknown key; did you mean public_key?"),
        ("artifacts.signature.required", "needs public_key or certificates to check with"),
        ("artifacts.code[0]", "must not be empty; '*' is every model"),
    ]


def test_a_signature_is_checked_by_one_kind_of_key() -> None:
    """Both at once would leave open which of them has to fit."""
    (line,) = problems("artifacts: {signature: {public_key: a, certificates: [b]}}")

    assert line == "f.yaml:1: artifacts.signature.certificates: is given beside public_key; one of the two"
