"""The types of registries that there are: our own, and those that installed packages offer.

A type's module is imported when a registry of that type is asked for, so that nobody pays for, or trips
over, what is not used.
"""

from __future__ import annotations

import difflib
import importlib
import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points

from router.errors import InvalidInput, NotSupported
from router.ports import Registry
from router.registries.options import GROUP, RegistryType


@dataclass(frozen=True, slots=True)
class Place:
    """Where a type of ours is found.

    Attributes:
        module: exports it as `TYPE`.
        extra: what has to be installed for it, as `stagegate[EXTRA]`; "" for nothing.
    """

    module: str
    extra: str = ""


BUILT_IN: Mapping[str, Place] = {
    "folder": Place("router.registries.folder"),
    "mlflow": Place("router.registries.mlflow", "mlflow"),
    "s3": Place("router.registries.s3", "s3"),
    "huggingface": Place("router.registries.hub", "hub"),
    "dvc": Place("router.registries.dvc", "dvc"),
    "sagemaker": Place("router.registries.sagemaker", "sagemaker"),
}
"""Our own types, by what `type:` says. No package can offer another of the same name."""


def known_types() -> tuple[str, ...]:
    """What `type:` may say here, ours first."""
    return (*built_in_types(), *sorted({entry.name for entry in _offered()} - BUILT_IN.keys()))


def built_in_types() -> tuple[str, ...]:
    """Our own types that this version has."""
    return tuple(kind for kind, place in BUILT_IN.items() if _exists(place))


def registry_type(kind: str) -> RegistryType:
    """The type that `type:` names.

    Raises:
        InvalidInput: there is none of that name, or a package offers it and it is broken.
        NotSupported: this version does not have it, or a package that it needs is not installed.
    """
    place = BUILT_IN.get(kind)
    if place is None:
        return _third_party(kind)
    if not _exists(place):
        known = " or ".join(known_types())
        raise NotSupported(f"registry type {kind!r} is not served by this version", hint=f"use {known}")
    try:
        found = importlib.import_module(place.module).TYPE
    except ImportError as missing:
        raise _needs(kind, place, missing) from missing
    return _checked(kind, found, f"module {place.module}")


def open_registry(name: str, kind: str, options: Mapping[str, object]) -> Registry:
    """Make the adapter of one registry; nothing is read yet.

    Args:
        name: its key in the configuration.
        kind: its `type`.
        options: its other keys, typed as its `RegistryType` declares them.

    Raises:
        InvalidInput: the type is unknown or broken, or options contradict each other.
        NotSupported: this version does not have that type, or a package is missing.
    """
    found = registry_type(kind)
    try:
        return found.open(name, options)
    except ImportError as missing:
        place = BUILT_IN.get(kind)
        if place is None:
            raise NotSupported(f"registry {name!r}: type {kind!r} lacks a package: {missing}") from missing
        raise _needs(kind, place, missing) from missing


def _exists(place: Place) -> bool:
    return importlib.util.find_spec(place.module) is not None


def _needs(kind: str, place: Place, missing: ImportError) -> NotSupported:
    hint = f"pip install 'stagegate[{place.extra}]'" if place.extra else ""
    return NotSupported(f"registry type {kind!r} lacks a package: {missing}", hint=hint)


def _offered() -> tuple[EntryPoint, ...]:
    return tuple(entry_points(group=GROUP))


def _third_party(kind: str) -> RegistryType:
    entries = {(entry.value, _package(entry)): entry for entry in _offered() if entry.name == kind}
    if not entries:
        raise InvalidInput(f"{kind!r} is no type of registry", hint=_nearest(kind))
    if len(entries) > 1:
        packages = " and ".join(sorted(package for _, package in entries))
        raise InvalidInput(
            f"registry type {kind!r} is offered twice, by {packages}", hint="uninstall one of the two"
        )
    ((_, package), entry) = next(iter(entries.items()))
    try:
        found = entry.load()
    except Exception as broken:  # somebody else's code: whatever it raises concerns this type only
        raise InvalidInput(
            f"registry type {kind!r} of {package} cannot be used: {type(broken).__name__}: {broken}"[:500]
        ) from broken
    return _checked(kind, found, package)


def _package(entry: EntryPoint) -> str:
    return f"package {entry.dist.name}" if entry.dist is not None else f"entry point {entry.value}"


def _checked(kind: str, found: object, whose: str) -> RegistryType:
    if not isinstance(found, RegistryType):
        raise InvalidInput(
            f"registry type {kind!r} of {whose} cannot be used: it is {type(found).__name__}, no RegistryType"
        )
    return found


def _nearest(kind: str) -> str:
    known = known_types()
    near = difflib.get_close_matches(kind.lower(), known, n=1)
    return f"did you mean {near[0]!r}?" if near else f"known are {', '.join(known)}"
