"""Secrets are named in a configuration, never written there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from router.errors import ConfigInvalid, ConfigProblem, RegistryUnavailable, Unavailable


@dataclass(frozen=True, slots=True)
class Secret:
    """Where a secret is found: an environment variable or a file; exactly one of the two.

    The value is read when it is needed, so that it can be rotated, and never stands in a repr.
    """

    env: str = ""
    file: Path | None = None

    def reveal(self, environ: Mapping[str, str]) -> str:
        """The secret itself, without the newline that ends a file.

        Raises:
            ConfigInvalid: the variable is not set, the file cannot be read, or it is empty.
        """
        if self.file is None:
            source, value = f"environment variable {self.env}", environ.get(self.env, "")
        else:
            source, value = f"file {self.file}", self._read(self.file)
        if not value:
            raise ConfigInvalid("secret", [ConfigProblem(source, 0, "is not set or empty")])
        return value

    @staticmethod
    def _read(file: Path) -> str:
        try:
            return file.read_text(encoding="utf-8").rstrip("\r\n")
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "is not UTF-8 text"
            raise ConfigInvalid("secret", [ConfigProblem(f"file {file}", 0, str(reason))]) from None


def parse_secret(value: object, folder: Path) -> Secret:
    """Read `{env: NAME}` or `{file: PATH}`, the path relative to `folder`.

    Raises:
        ValueError: it is anything else; the value itself is not repeated in the message.
    """
    if not isinstance(value, dict) or len(value) != 1 or not set(value) <= {"env", "file"}:
        raise ValueError("a secret is named, not written: {env: NAME} or {file: PATH}")
    ((kind, name),) = value.items()
    if not isinstance(name, str) or not name:
        raise ValueError(f"{kind}: must be text")
    return Secret(env=name) if kind == "env" else Secret(file=folder / name)


@dataclass(frozen=True, slots=True)
class SecretReader:
    """Gives a secret to whoever needs it, read anew each time. Two are equal where they name one place.

    Attributes:
        error: raised where it cannot be read, with the place; never with the value.
    """

    secret: Secret
    environ: Mapping[str, str] = field(compare=False, repr=False)
    error: type[Unavailable] = RegistryUnavailable

    def __call__(self) -> str:
        """The secret itself. Raises `error`."""
        try:
            return self.secret.reveal(self.environ)
        except ConfigInvalid as problem:
            what = problem.problems[0]
            raise self.error(
                f"the secret in {what.path} {what.message}", hint="it is read anew each time"
            ) from None
