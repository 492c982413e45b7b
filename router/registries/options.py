"""How a type of registry says what its section in the configuration may hold.

The configuration is read and typed in one place, with line and path in every complaint; an adapter only
declares its keys. Packages of others add theirs by the entry-point group `stagegate.registries`: each entry
is a `RegistryType`, and its name is what `type:` says.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from router.ports import Registry

GROUP = "stagegate.registries"
"""The entry-point group in which packages offer their `RegistryType`s."""


class OptionKind(enum.Enum):
    """What a key holds, and what the adapter is given for it."""

    TEXT = "text"
    """`str`."""
    TEXTS = "list of texts"
    """`tuple[str, ...]`."""
    NAMES = "names to texts"
    """`Mapping[str, str]`, written as a mapping of texts, such as `{fraud: org/m}`."""
    DURATION = "duration"
    """Seconds as `float`, written `5s`, `250ms`, `10m`."""
    SIZE = "size"
    """Bytes as `int`, written `64MiB`."""
    WHOLE = "whole number"
    """`int`, from 0 on."""
    FLAG = "true or false"
    """`bool`."""
    PATH = "path"
    """An absolute `Path`; what is written is relative to the configuration file."""
    SECRET = "secret"  # noqa: S105 - the name of a kind, not a secret
    """`Callable[[], str]`, which reads it anew each time; written `{env: NAME}` or `{file: PATH}`."""


@dataclass(frozen=True, slots=True)
class Option:
    """One key of a section.

    Attributes:
        about: one line for people, with the unit.
        required: whether it must be there.
        default: what the adapter is given where it is not, already typed.
        check: looks at a typed value and raises ValueError with what would be right.
    """

    name: str
    kind: OptionKind
    about: str
    required: bool = False
    default: object = None
    check: Callable[[object], None] | None = None


@dataclass(frozen=True, slots=True)
class RegistryType:
    """A type of registry.

    Attributes:
        about: one line for people.
        options: its keys beside `type`.
        open: makes the adapter from its name and its typed options, `None` for those not given; reads
            nothing yet. Raises InvalidInput, NotSupported (a package is missing; names the extra).
    """

    about: str
    options: tuple[Option, ...]
    open: Callable[[str, Mapping[str, object]], Registry]
