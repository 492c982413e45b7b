"""YAML in which every scalar is its own text: `1.10` stays `1.10`, `on` and `no` stay words.

Duplicate keys, anchors and tags that build objects are refused; lines are kept for messages.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import yaml

from router.artifacts.bounded_yaml import events
from router.registries.plainyaml import read_plain

MAX_DEPTH = 32
"""Deeper nesting is refused; no document of ours needs more than six."""

Path = tuple[str | int, ...]
"""Where in a document: keys and list indexes."""


class YamlProblem(ValueError):
    """A document that cannot be read; `line` is 1-based."""

    def __init__(self, line: int, message: str) -> None:
        super().__init__(message)
        self.line = line
        self.message = message


class Span(NamedTuple):
    """Where a node stands in the text: characters `start` to `end`, and its 1-based line."""

    start: int
    end: int
    line: int


class Document:
    """A parsed document.

    Args:
        text: all of it.
        value: dicts, lists and text; None for a key without a value and for an empty document. Parts of it
            may be shared with other documents: it is not to be changed.
        sources: the text of some top-level keys, each with all that belongs to it; where two documents have
            the same text for a key, they have the same value.
    """

    def __init__(self, text: str, value: object, sources: Mapping[str, str]) -> None:
        self.value = value
        self.sources = sources
        self._text = text

    @property
    def keys(self) -> Mapping[Path, Span]:
        """Where the key of each path stands."""
        return self._places[0]

    @property
    def values(self) -> Mapping[Path, Span]:
        """Where the value of each path stands."""
        return self._places[1]

    def line(self, path: Path) -> int:
        """The line of a path, else of the nearest thing around it; 1 for the document."""
        while path:
            span = self.keys.get(path) or self.values.get(path)
            if span:
                return span.line
            path = path[:-1]
        return 1

    @functools.cached_property
    def _places(self) -> tuple[Mapping[Path, Span], Mapping[Path, Span]]:
        # Only who has something to say about a document, or to change in it, asks.
        builder = _Builder(events(self._text))
        builder.value()
        return builder.keys, builder.values


def parse(text: str) -> Document:
    """Parse one YAML document.

    Raises:
        YamlProblem: it is not YAML, holds several documents, a duplicate key, an anchor, or is too deep.
    """
    plain = read_plain(text, parse_whole)
    if plain is not None:
        return Document(text, plain.value, plain.sources)
    return Document(text, parse_whole(text), {})


def parse_whole(text: str) -> object:
    """The value of a document, by the parser of all of YAML. Raises YamlProblem as `parse` does."""
    try:
        # Event by event: the parser's time grows with the square of the depth, and the builder stops it.
        return _Builder(events(text)).value()
    except yaml.MarkedYAMLError as error:
        raise _syntax_problem(text, error) from error
    except yaml.YAMLError as error:
        raise YamlProblem(1, " ".join(str(error).split())) from error


def _syntax_problem(text: str, error: yaml.MarkedYAMLError) -> YamlProblem:
    mark = error.problem_mark or error.context_mark
    # The parser puts the end of a text on a line of its own, where people see none.
    lines = text.count("\n") + (not text.endswith("\n"))
    line = min(mark.line + 1, lines) if mark else 1
    if mark and text[mark.index : mark.index + 1] == "@":
        return YamlProblem(line, "a value that begins with '@' must be quoted, such as \"@champion\"")
    return YamlProblem(line, f"not valid YAML: {error.problem or error.context}")


class _Builder:
    """Turns the parser's events into values and spans."""

    def __init__(self, events: Iterator[yaml.Event]) -> None:
        self.keys: dict[Path, Span] = {}
        self.values: dict[Path, Span] = {}
        self._events = events

    def value(self) -> object:
        value: object = None
        documents = 0
        for event in self._events:
            if isinstance(event, yaml.DocumentStartEvent):
                documents += 1
                if documents > 1:
                    raise YamlProblem(_line(event), "holds more than one document")
                value = self._node(next(self._events), ())
        return value

    def _node(self, event: yaml.Event, path: Path) -> object:
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
            raise YamlProblem(_line(event), "anchors and references are not supported; write it out")
        if len(path) > MAX_DEPTH:
            raise YamlProblem(_line(event), f"is nested deeper than {MAX_DEPTH} levels")
        if isinstance(event, yaml.ScalarEvent):
            self.values[path] = _span(event, event)
            # A plain nothing is "no value"; a quoted nothing is an empty text.
            return None if event.value == "" and not event.style else str(event.value)
        if isinstance(event, yaml.MappingStartEvent):
            return self._mapping(event, path)
        return self._sequence(event, path)

    def _mapping(self, start: yaml.Event, path: Path) -> dict[str, object]:
        found: dict[str, object] = {}
        for event in self._events:
            if isinstance(event, yaml.MappingEndEvent):
                self.values[path] = _span(start, event)
                return found
            if not isinstance(event, yaml.ScalarEvent):
                raise YamlProblem(_line(event), "a key must be plain text")
            key = str(event.value)
            if key in found:
                raise YamlProblem(_line(event), f"key {key!r} is given twice")
            self.keys[(*path, key)] = _span(event, event)
            found[key] = self._node(next(self._events), (*path, key))
        raise YamlProblem(_line(start), "ends in the middle of a mapping")

    def _sequence(self, start: yaml.Event, path: Path) -> list[object]:
        found: list[object] = []
        for event in self._events:
            if isinstance(event, yaml.SequenceEndEvent):
                self.values[path] = _span(start, event)
                return found
            found.append(self._node(event, (*path, len(found))))
        raise YamlProblem(_line(start), "ends in the middle of a list")


def _line(event: yaml.Event) -> int:
    mark = event.start_mark
    return mark.line + 1 if mark else 1


def _span(start: yaml.Event, end: yaml.Event) -> Span:
    first, last = start.start_mark, end.end_mark
    return Span(first.index if first else 0, last.index if last else 0, _line(start))
