"""Adapters that read registries of models, and the table of their types."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from pathlib import Path

from router.errors import InvalidInput, NotSupported
from router.ports import Registry
from router.registries.folder import FolderRegistry

__all__ = ["REGISTRY_TYPES", "FolderRegistry", "open_registry"]

_LATER = ("mlflow", "s3", "hub", "dvc", "sagemaker")


def _folder(name: str, options: Mapping[str, object], base: Path) -> Registry:
    unknown = sorted(options.keys() - {"type", "path"})
    if unknown:
        raise InvalidInput(f"registry {name!r}: unknown key {unknown[0]!r}", hint="known: type, path")
    path = options.get("path")
    if not isinstance(path, (str, Path)) or not str(path):
        raise InvalidInput(
            f"registry {name!r}: path is missing", hint="give the folder that holds the models"
        )
    return FolderRegistry(name, base / path)


REGISTRY_TYPES: Mapping[str, Callable[[str, Mapping[str, object], Path], Registry]] = {"folder": _folder}
"""Makes a registry from its name, its section in the configuration, and the configuration's folder."""


def open_registry(name: str, options: Mapping[str, object], base: Path) -> Registry:
    """Make the adapter for one section of `registries:`; nothing is read yet.

    Args:
        name: the section's key.
        options: the section, `type` included.
        base: the folder that relative paths start from.

    Raises:
        InvalidInput: the type is unknown, or an option is missing or unknown.
        NotSupported: this version does not have that type yet.
    """
    kind = str(options.get("type", ""))
    make = REGISTRY_TYPES.get(kind)
    if make is not None:
        return make(name, options, base)
    known = ", ".join(sorted(REGISTRY_TYPES))
    if kind in _LATER:
        raise NotSupported(
            f"registry {name!r}: this version does not serve type {kind!r}", hint=f"known: {known}"
        )
    near = difflib.get_close_matches(kind, REGISTRY_TYPES, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"known: {known}"
    raise InvalidInput(f"registry {name!r}: type {kind!r} is not known", hint=hint)
