"""Sections of `registries:`, typed by the keys that the type of each declares."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from gateway.config.document import Finding, Value
from gateway.config.document import Path as DocumentPath
from gateway.config.fields import path_in, scalar
from gateway.config.secret import SecretReader, parse_secret
from gateway.config.units import parse_duration, parse_size
from router.errors import StagegateError
from router.registries import known_types, registry_type
from router.registries.options import Option, OptionKind, RegistryType

MOST_DIGITS = 15


@dataclass(frozen=True, slots=True)
class RegistryConfig:
    """One registry.

    Attributes:
        options: all keys of its type, typed; those not given hold their default.
    """

    type: str
    options: Mapping[str, object] = field(default_factory=dict)

    @property
    def poll(self) -> float | None:
        """Seconds between two looks, where its type has that key."""
        poll = self.options.get("poll")
        return poll if isinstance(poll, float) else None


@dataclass(frozen=True, slots=True)
class Around:
    """What values mean something in.

    Attributes:
        folder: that of the configuration file.
        environ: the environment.
    """

    folder: Path
    environ: Mapping[str, str]


class _WrongError(ValueError):
    """A mistake inside a value, at `path` below it."""

    def __init__(self, path: DocumentPath, message: str) -> None:
        super().__init__(message)
        self.path = path


def unknown_key(key: str, known: Iterable[str]) -> str:
    """What is told of a key that is none of the known ones."""
    names = list(known)
    near = difflib.get_close_matches(key.lower(), names, n=1)
    return f"unknown key; did you mean {near[0]}?" if near else f"unknown key; known are {', '.join(names)}"


def type_registries(
    sections: Mapping[str, Value], around: Around
) -> tuple[dict[str, RegistryConfig], list[Finding]]:
    """All sections, typed, and every mistake in them.

    A section with a mistake is there too, without options, so that its name is known.
    """
    configs: dict[str, RegistryConfig] = {}
    findings: list[Finding] = []
    for name, section in sections.items():
        typing = _Typing(around)
        configs[name] = typing.section(section)
        findings += [(("registries", name, *path), message) for path, message in typing.findings]
    return configs, findings


class _Typing:
    """Types one section and keeps what is wrong in it."""

    def __init__(self, around: Around) -> None:
        self._around = around
        self.findings: list[Finding] = []

    def section(self, section: Value) -> RegistryConfig:
        if section is None:
            self.findings.append(((), "has no value; give one or remove the key"))
            return RegistryConfig("")
        if not isinstance(section, dict):
            shape = "a list" if isinstance(section, list) else repr(section)
            self.findings.append(((), f"must be a mapping of keys (type and those of its type), not {shape}"))
            return RegistryConfig("")
        kind = self._type(section)
        declared = self._declared(kind) if kind else None
        if declared is None:
            return RegistryConfig(kind)
        return RegistryConfig(kind, dict(self._options(section, declared)))

    def _type(self, section: Mapping[str, Value]) -> str:
        if "type" not in section:
            self.findings.append((("type",), f"is missing; one of {', '.join(known_types())}"))
            return ""
        try:
            return scalar(section["type"])
        except ValueError as wrong:
            self.findings.append((("type",), str(wrong)))
            return ""

    def _declared(self, kind: str) -> RegistryType | None:
        try:
            return registry_type(kind)
        except StagegateError as problem:
            self.findings.append((("type",), "; ".join(filter(None, (problem.message, problem.hint)))))
            return None

    def _options(self, section: Mapping[str, Value], declared: RegistryType) -> Iterator[tuple[str, object]]:
        options = {option.name: option for option in declared.options}
        for key in section.keys() - options.keys() - {"type"}:
            self.findings.append(((key,), unknown_key(key, ("type", *options))))
        for name, option in options.items():
            if name not in section:
                if option.required:
                    self.findings.append(((name,), "is missing"))
                yield name, option.default
                continue
            try:
                yield name, _typed(option, section[name], self._around)
            except _WrongError as wrong:
                self.findings.append(((name, *wrong.path), str(wrong)))
            except ValueError as wrong:
                self.findings.append(((name,), str(wrong)))


def _typed(option: Option, value: Value, around: Around) -> object:
    """The value of a key as its adapter gets it. Raises ValueError with what would be right."""
    if value is None:
        raise ValueError("has no value; give one or remove the key")
    typed = _READERS[option.kind](value, around)
    if typed == "" and option.required:
        raise ValueError("must not be empty")
    if option.check is not None:
        option.check(typed)
    return typed


def _text(value: Value, around: Around) -> str:
    return scalar(value)


def _texts(value: Value, around: Around) -> tuple[str, ...]:
    if not isinstance(value, list):
        raise ValueError(f"must be a list, not {'a mapping' if isinstance(value, dict) else repr(value)}")
    return tuple(_within(index, item) for index, item in enumerate(value))


def _names(value: Value, around: Around) -> dict[str, str]:
    if not isinstance(value, dict):
        raise ValueError(f"must be a mapping, not {'a list' if isinstance(value, list) else repr(value)}")
    return {key: _within(key, item) for key, item in value.items()}


def _within(key: str | int, value: Value) -> str:
    try:
        return scalar(value)
    except ValueError as wrong:
        raise _WrongError((key,), str(wrong)) from None


def _duration(value: Value, around: Around) -> float:
    return parse_duration(scalar(value))


def _size(value: Value, around: Around) -> int:
    return parse_size(scalar(value))


def _whole(value: Value, around: Around) -> int:
    text = scalar(value)
    # isdecimal() takes other scripts' digits too, and int() underscores: both would surprise.
    if not (text.isascii() and text.isdigit() and len(text) <= MOST_DIGITS):
        raise ValueError(f"{text!r} is not a whole number")
    return int(text)


def _flag(value: Value, around: Around) -> bool:
    text = scalar(value)
    if text not in ("true", "false"):
        raise ValueError(f"{text!r} is neither true nor false")
    return text == "true"


def _path(value: Value, around: Around) -> Path:
    return path_in(around.folder, value)


def _secret(value: Value, around: Around) -> SecretReader:
    return SecretReader(parse_secret(value, around.folder), around.environ)


_READERS: Final[Mapping[OptionKind, Callable[[Value, Around], object]]] = {
    OptionKind.TEXT: _text,
    OptionKind.TEXTS: _texts,
    OptionKind.NAMES: _names,
    OptionKind.DURATION: _duration,
    OptionKind.SIZE: _size,
    OptionKind.WHOLE: _whole,
    OptionKind.FLAG: _flag,
    OptionKind.PATH: _path,
    OptionKind.SECRET: _secret,
}
