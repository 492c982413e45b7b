"""YAML that strangers wrote: a few lines whose references double again and again would fill the memory."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import yaml

MOST_NODES = 100_000
"""Scalars, lists and mappings of a document with all its references written out."""

_DEEPEST = 64
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def load(text: str) -> Any:  # noqa: ANN401 - whatever was written
    """What a document says, by plain types only.

    Raises:
        ValueError: it is no YAML, refers to itself, is nested too deep, or is too large written out.
    """
    try:
        _check(text)
        return yaml.load(text, _LOADER)  # noqa: S506 - a safe loader, the faster one where there is one
    except (yaml.YAMLError, RecursionError, OverflowError) as problem:
        raise ValueError(str(problem)) from None


def _check(text: str) -> None:
    """Go through a document without making anything of it. Raises ValueError, YAMLError."""
    sizes: dict[str, int] = {}
    inside: list[tuple[str | None, int]] = [(None, 0)]
    for event in events(text):
        anchor, size = getattr(event, "anchor", None), 1
        if isinstance(event, yaml.CollectionStartEvent):
            inside.append((anchor, 1))
            if len(inside) > _DEEPEST:
                raise ValueError(f"it is nested deeper than {_DEEPEST} levels")
            continue
        if isinstance(event, yaml.CollectionEndEvent):
            anchor, size = inside.pop()
        elif isinstance(event, yaml.AliasEvent):
            anchor, size = None, sizes.get(str(anchor), MOST_NODES + 1)
        elif not isinstance(event, yaml.ScalarEvent):
            continue
        if anchor is not None:
            sizes[anchor] = size
        around, before = inside[-1]
        inside[-1] = (around, before + size)
        if before + size > MOST_NODES:
            raise ValueError("it is too large with its references written out")


def events(text: str) -> Iterator[yaml.Event]:
    """What a parser tells of a text, up to its end. Like `yaml.parse`, but that looks at each event twice.

    Raises:
        YAMLError: it is no YAML.
    """
    loader = _LOADER(text)
    try:
        while not isinstance(event := loader.get_event(), yaml.StreamEndEvent):
            yield event
    finally:
        loader.dispose()
