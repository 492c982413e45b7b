"""Field types of the schema: `Annotated[int, Size(low, high)]` and its like.

Each takes the text of a scalar, checks it against its bounds and says in one sentence what is right.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, GetCoreSchemaHandler, PlainValidator, ValidationInfo
from pydantic_core import CoreSchema, core_schema

from gateway.config.units import format_duration, format_size, parse_duration, parse_size


class Section(BaseModel):
    """Base of all sections: frozen, and an unknown key is a mistake."""

    model_config = ConfigDict(frozen=True, extra="forbid")


def scalar(value: object) -> str:
    """The text of a scalar. Raises ValueError for a list, a mapping, or nothing."""
    if value is None:
        raise ValueError("has no value; give one or remove the key")
    if not isinstance(value, str):
        raise ValueError(f"must be one value, not a {'list' if isinstance(value, list) else 'mapping'}")
    return value


class _Field:
    """Base: `parse` is the whole validation."""

    def parse(self, value: object) -> object:
        """The typed value, or ValueError."""
        raise NotImplementedError

    def __get_pydantic_core_schema__(self, source: object, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(self.parse)


@dataclass(frozen=True, slots=True)
class Size(_Field):
    """Bytes, both bounds included."""

    low: int
    high: int

    def parse(self, value: object) -> int:
        """Bytes of `64MiB`."""
        size = parse_size(scalar(value))
        if not self.low <= size <= self.high:
            raise ValueError(f"{value!r} is not between {format_size(self.low)} and {format_size(self.high)}")
        return size


@dataclass(frozen=True, slots=True)
class Duration(_Field):
    """Seconds, both bounds included; with `never`, that word is None."""

    low: float
    high: float
    never: bool = False

    def parse(self, value: object) -> float | None:
        """Seconds of `30s`."""
        text = scalar(value)
        if self.never and text == "never":
            return None
        seconds = parse_duration(text)
        if not self.low <= seconds <= self.high:
            low, high = format_duration(self.low), format_duration(self.high)
            raise ValueError(f"{text!r} is not between {low} and {high}")
        return seconds


@dataclass(frozen=True, slots=True)
class Whole(_Field):
    """A whole number, both bounds included; with `off`, that word is None."""

    low: int
    high: int
    off: bool = False

    def parse(self, value: object) -> int | None:
        """The number of `256`."""
        text = scalar(value)
        if self.off and text == "off":
            return None
        # isdecimal() takes other scripts' digits too, and int() underscores: both would surprise.
        number = int(text) if text.isascii() and text.isdigit() and len(text) <= len(str(self.high)) else None
        if number is None or not self.low <= number <= self.high:
            raise ValueError(f"{text!r} is not a whole number between {self.low} and {self.high}")
        return number


@dataclass(frozen=True, slots=True)
class Word(_Field):
    """One of a few words. `later`: words that the design has and this version does not serve."""

    words: tuple[str, ...]
    later: tuple[str, ...] = ()

    def parse(self, value: object) -> str:
        """The word itself."""
        text = scalar(value)
        if text in self.later:
            raise ValueError(f"{text!r} is not served by this version; use {' or '.join(self.words)}")
        if text not in self.words:
            choice = f"one of {', '.join(self.words)}" if len(self.words) > 1 else self.words[0]
            raise ValueError(f"{text!r} is not {choice}")
        return text


@dataclass(frozen=True, slots=True)
class Text(_Field):
    """A scalar read by a function that raises ValueError, such as `parse_remote_address`."""

    read: Callable[[str], object]

    def parse(self, value: object) -> object:
        """What the function makes of it."""
        return self.read(scalar(value))


def in_folder(value: object, info: ValidationInfo) -> Path:
    """A path relative to the folder of the configuration file (`folder` in the validation context)."""
    return path_in((info.context or {}).get("folder", Path()), value)


def path_in(folder: Path, value: object) -> Path:
    """The path that a scalar names, relative to a folder. Raises ValueError."""
    text = scalar(value)
    if not text or "\0" in text:
        raise ValueError("must be a path")
    return folder / Path(text).expanduser()


FilePath = Annotated[Path, PlainValidator(in_folder)]
"""A path relative to the folder of the configuration file."""
