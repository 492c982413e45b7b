"""Secrets are named, not written."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.config import Secret, parse_secret
from router.errors import ConfigInvalid


def test_a_secret_comes_from_the_environment() -> None:
    """By the variable that the configuration names."""
    assert parse_secret({"env": "TOKEN"}, Path("/base")).reveal({"TOKEN": "s3cret"}) == "s3cret"


def test_a_secret_comes_from_a_file(tmp_path: Path) -> None:
    """Relative to the configuration, without the newline that editors add."""
    (tmp_path / "token").write_text("s3cret\n")

    assert parse_secret({"file": "token"}, tmp_path).reveal({}) == "s3cret"


@pytest.mark.parametrize(
    "value", ["s3cret", {}, {"env": "A", "file": "b"}, {"value": "s3cret"}, {"env": None}, None]
)
def test_a_written_secret_is_refused_and_not_repeated(value: object) -> None:
    """The message would end in a log."""
    with pytest.raises(ValueError, match=r".") as caught:
        parse_secret(value, Path())

    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize("secret", [Secret(env="TOKEN"), Secret(file=Path("/nowhere/token"))])
def test_a_secret_that_is_not_there_is_named_by_its_place(secret: Secret) -> None:
    """A variable that is not set, a file that does not exist."""
    with pytest.raises(ConfigInvalid) as caught:
        secret.reveal({})

    assert caught.value.problems[0].path in ("environment variable TOKEN", "file /nowhere/token")
