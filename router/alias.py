"""References: how somebody names a version, and which version that is. Pure.

A reference is a version id, an alias or a stage, looked up in this order when the bare word could be
several; with a leading `@` it is an alias only. Stages are case-insensitive. The data plane applies the
same rules per request; this copy serves the control plane (routes, `resolve`, messages).
"""

from __future__ import annotations

import difflib
import enum
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from router.errors import InvalidReference, VersionNotFound
from router.model import (
    ModelName,
    PointerKind,
    RegisteredModel,
    Version,
    VersionId,
    parse_model_name,
)

MAX_REFERENCE = 128
"""Longest version id, alias or stage, in characters; a leading `@` is not counted."""

_LISTED = 5
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
_NUMBER = re.compile(r"[0-9]+")
_SEMVER = re.compile(
    r"v?(?P<major>[0-9]+)\.(?P<minor>[0-9]+)(?:\.(?P<patch>[0-9]+))?"
    r"(?:-(?P<pre>[0-9A-Za-z.-]+))?(?:\+[0-9A-Za-z.-]+)?"
)


class ReferenceKind(enum.StrEnum):
    """Where a reference may be looked up."""

    ANY = "any"
    ALIAS = "alias"


@dataclass(frozen=True, slots=True)
class Reference:
    """A well-formed reference; `text` is without the leading `@` of an alias."""

    kind: ReferenceKind
    text: str

    def __str__(self) -> str:
        return f"@{self.text}" if self.kind is ReferenceKind.ALIAS else self.text


class ResolvedKind(enum.StrEnum):
    """What a reference turned out to be."""

    VERSION = "version"
    ALIAS = "alias"
    STAGE = "stage"


@dataclass(frozen=True, slots=True)
class Resolved:
    """The answer of `resolve`.

    Attributes:
        kind: what the reference is.
        name: the version id, the alias without `@`, or the stage in lower case.
        version: the version that it names now.
    """

    kind: ResolvedKind
    name: str
    version: VersionId


def parse_reference(text: str) -> Reference:
    """Check the form of a reference.

    Raises:
        InvalidReference: it is empty, too long, holds control characters, or has a second `@`.
    """
    name = text.removeprefix("@")
    if not name:
        raise InvalidReference(
            f"reference {text!r} is empty", hint="name a version, a stage, or an alias such as '@champion'"
        )
    if len(name) > MAX_REFERENCE:
        raise InvalidReference(
            f"reference {text[:40]!r}... has {len(name)} characters; at most {MAX_REFERENCE} are allowed"
        )
    if _CONTROL.search(name):
        raise InvalidReference(f"reference {text!r} holds a control character")
    if name.startswith("@"):
        raise InvalidReference(f"reference {text!r} has more than one leading '@'", hint="write one '@'")
    return Reference(ReferenceKind.ALIAS if text.startswith("@") else ReferenceKind.ANY, name)


def parse_model_reference(text: str) -> tuple[ModelName, Reference | None]:
    """Split `model`, `model@ref` or `model@@alias` as clients and people write it.

    Raises:
        InvalidName: the part before the first `@` cannot be a model name.
        InvalidReference: the part after it cannot be a reference.
    """
    name, at, reference = text.partition("@")
    model = parse_model_name(name)
    return model, parse_reference(reference) if at else None


def resolve(model: RegisteredModel, reference: Reference) -> Resolved:
    """Find the version that a reference names: version id, then alias, then stage.

    Raises:
        VersionNotFound: nothing has that name, or the alias or stage points to a version that the
            registry does not have. The message lists what exists near it.
    """
    text = reference.text
    if reference.kind is ReferenceKind.ANY and text in model.versions:
        return Resolved(ResolvedKind.VERSION, text, VersionId(text))
    if text in model.aliases:
        return _follow(model, PointerKind.ALIAS, text, model.aliases[text])
    stage = text.lower()
    if reference.kind is ReferenceKind.ANY and stage in model.stages:
        return _follow(model, PointerKind.STAGE, stage, model.stages[stage])
    raise VersionNotFound(_not_found(model, reference), hint=_what_exists(model, reference))


def _follow(model: RegisteredModel, kind: PointerKind, name: str, version: VersionId) -> Resolved:
    if version not in model.versions:
        raise VersionNotFound(
            f"{kind} {name!r} of model {model.name!r} points to version {version!r}, "
            f"which registry {model.registry!r} does not have",
            hint=f"move the {kind}, or register that version",
        )
    return Resolved(ResolvedKind(kind.value), name, version)


def _not_found(model: RegisteredModel, reference: Reference) -> str:
    if reference.kind is ReferenceKind.ALIAS:
        return f"model {model.name!r} has no alias {reference.text!r}"
    return f"model {model.name!r} has no version, alias or stage {reference.text!r}"


def _what_exists(model: RegisteredModel, reference: Reference) -> str:
    aliases = [f"@{alias}" for alias in sorted(model.aliases)]
    if reference.kind is ReferenceKind.ALIAS:
        return _near(str(reference), aliases) or "it has no aliases"
    stages = sorted(model.stages)
    versions = [str(version) for version in reversed(list(model.versions))]
    parts = [
        f"{label} {names}"
        for label, names in (
            ("versions", _near(reference.text, versions)),
            ("aliases", _near(f"@{reference.text}", aliases)),
            ("stages", _near(reference.text.lower(), stages)),
        )
        if names
    ]
    return "; ".join(parts) or "it has no versions"


def _near(text: str, names: Sequence[str]) -> str:
    """At most a handful of names, the most alike first, the rest in their order."""
    close = difflib.get_close_matches(text, names, n=_LISTED, cutoff=0.6)
    ordered = [*close, *(name for name in names if name not in close)]
    more = "" if len(ordered) <= _LISTED else f" and {len(ordered) - _LISTED} more"
    return ", ".join(ordered[:_LISTED]) + more


VersionOrder = tuple[int, tuple[int, int, int], tuple[tuple[int, int, str], ...], float, str]
"""What `version_order` returns; compare only."""

_RELEASE: tuple[tuple[int, int, str], ...] = ((2, 0, ""),)


def version_order(version: Version) -> VersionOrder:
    """Sort key of versions of one model, oldest first: integer, else semver, else creation time.

    Integers and semantic versions share one scale (`7` is `7.0.0`) and come after all other ids, so
    that a version with an odd id never becomes the highest of a model that counts. Two or three
    numbers and a leading `v` are taken as semver. Equal ranks are ordered by the id's text.
    """
    text = version.version
    if _NUMBER.fullmatch(text):
        return 1, (int(text), 0, 0), _RELEASE, 0.0, text
    if found := _SEMVER.fullmatch(text):
        numbers = (int(found["major"]), int(found["minor"]), int(found["patch"] or 0))
        return 1, numbers, _prerelease(found["pre"]), 0.0, text
    created = float("-inf") if version.created is None else version.created
    return 0, (0, 0, 0), (), created, text


def _prerelease(text: str | None) -> tuple[tuple[int, int, str], ...]:
    """Semver 2.0 precedence: numbers below words, fewer fields below more, a release above all."""
    if text is None:
        return _RELEASE
    return tuple((0, int(part), "") if _NUMBER.fullmatch(part) else (1, 0, part) for part in text.split("."))


def in_order(versions: Iterable[Version]) -> dict[VersionId, Version]:
    """Versions by id, oldest first; what `RegisteredModel.versions` wants."""
    return {version.version: version for version in sorted(versions, key=version_order)}


def highest(versions: Mapping[VersionId, Version]) -> VersionId | None:
    """The highest version by `version_order`, or None where there is none."""
    if not versions:
        return None
    return max(versions.values(), key=version_order).version
