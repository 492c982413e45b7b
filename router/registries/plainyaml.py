"""The part of YAML that nearly every manifest keeps to, read many times faster than all of YAML is.

A document is taken apart where its top-level keys are. A plain value or a small mapping is read here; another
part is given to the parser, by itself, once for all documents that have the very same part (the versions of a
model mostly have the same contract). What is not surely as simple as that is left to the parser as a whole,
so that what is read here is what it would have read; `tests/property` holds both against each other.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import NamedTuple

_SAFE = r"A-Za-z0-9_./+@=~%-"
# A colon or a space inside, where YAML can take it for nothing else; in `{...}` no colon at all.
_PLAIN = rf"-?[A-Za-z0-9_./](?:[{_SAFE}]|[: ](?=[{_SAFE}]))*+"
_FLOW_PLAIN = rf"-?[A-Za-z0-9_./](?:[{_SAFE}]| (?=[{_SAFE}]))*+"
_QUOTED = r'"[ !#-\[\]-~]*+"'
_KEY = r"[A-Za-z0-9_][A-Za-z0-9_./-]{0,127}"

# YAML has other characters that end a line: after one, `...` ends a document in the middle of a part.
_IN_LINE = r"[^\n\r\x85\u2028\u2029]"

_PREAMBLE = re.compile(r"(?:#[ -~]*+\n|\n)*+")
_TOP = r"[A-Za-z_][A-Za-z0-9_-]{0,127}"
_FLOW_ENTRY = rf"{_KEY}: +(?:{_FLOW_PLAIN}|{_QUOTED})"
_PART = re.compile(
    rf"(?P<key>{_TOP}):(?:"
    rf"(?: +(?:(?P<plain>{_PLAIN})|(?P<quoted>{_QUOTED})"
    rf"|\{{(?P<flow>(?:{_FLOW_ENTRY}(?:, *{_FLOW_ENTRY})*+)?)\}}))?(?:\n++|\Z)(?=[A-Za-z_]|\Z)"
    rf"|(?P<rest>(?: {_IN_LINE}*+)?)(?:\n|\Z)"
    rf"(?P<below>(?:[ #]{_IN_LINE}*+\n|\n)*+(?:[ #]{_IN_LINE}*+\Z)?))"
)
"""A top-level key and all that belongs to it: on one line and simple, or anything (`rest`, `below`). Where a
value goes on in the first column, that is no whole one, which the parser tells."""

_FLOW_ENTRIES = re.compile(rf"({_KEY}): +({_FLOW_PLAIN}|{_QUOTED})")
_BLOCK_ENTRY = rf"{_KEY}: +(?:{_PLAIN}|{_QUOTED})"
_BLOCK = re.compile(rf"(?P<indent> +){_BLOCK_ENTRY}(?:\n(?P=indent){_BLOCK_ENTRY})*+\n*+")
_BLOCK_ENTRIES = re.compile(rf" +({_KEY}): +({_PLAIN}|{_QUOTED})\n*+")

_MOST_KEPT = 1024
LONGEST_KEPT = 2048
"""Characters of a part that is remembered with what it says."""
_MOST_PARSED = 16

_UNKNOWN = object()
# Of all registries, each of which reads in threads of its own: another may forget all of it at any time.
_kept: dict[str, object] = {}


class Plain(NamedTuple):
    """A document that was simple.

    Attributes:
        value: as `textyaml.Document` has it. Parts may be shared with other documents: not to be changed.
        sources: the text of the parts that the parser read, by their keys.
    """

    value: dict[str, object]
    sources: dict[str, str]


def read_plain(text: str, parse: Callable[[str], object]) -> Plain | None:
    """Read a document that is simple.

    Args:
        text: all of it.
        parse: reads any document. Raises ValueError.

    Returns:
        None where it is not simple, or where something is wrong with it.
    """
    preamble = _PREAMBLE.match(text)
    at = preamble.end() if preamble else 0
    value: dict[str, object] = {}
    sources: dict[str, str] = {}
    while at < len(text):
        part = _PART.match(text, at)
        if part is None or part["key"] in value:
            return None  # the parser says what is wrong, with its line
        at = part.end()
        try:
            value[part["key"]] = _value(part, sources, parse)
        except ValueError:
            return None
    return Plain(value, sources) if value else None


def _value(part: re.Match[str], sources: dict[str, str], parse: Callable[[str], object]) -> object:
    """The value of a part; its text is put into `sources` where the parser read it. Raises ValueError."""
    key, plain, quoted, flow, rest, below = part.groups()
    if plain is not None:
        return plain
    if quoted is not None:
        return quoted[1:-1]
    if flow is not None:
        return _entries(_FLOW_ENTRIES.findall(flow))
    if rest is None:
        return None
    if not rest and _BLOCK.fullmatch(below):
        return _entries(_BLOCK_ENTRIES.findall(below))
    if len(sources) >= _MOST_PARSED:
        # To begin the parser for each costs more than to read the whole by it.
        raise ValueError("it has too many parts that are not simple")
    sources[key] = part[0]
    return _by_parser(key, part[0], parse)


def _entries(pairs: list[tuple[str, str]]) -> dict[str, object]:
    """A small mapping. Raises ValueError where a key is given twice."""
    found: dict[str, object] = {key: to[1:-1] if to[0] == '"' else to for key, to in pairs}
    if len(found) != len(pairs):
        raise ValueError("a key is given twice")
    return found


def _by_parser(key: str, source: str, parse: Callable[[str], object]) -> object:
    """The value of a part as the parser reads it. Raises ValueError where it is none by itself."""
    known = _kept.get(source, _UNKNOWN)
    if known is not _UNKNOWN:
        return known
    read = parse(source)
    if not isinstance(read, dict) or list(read) != [key]:
        raise ValueError("it is more than one part")
    if len(source) <= LONGEST_KEPT:
        if len(_kept) >= _MOST_KEPT:
            _kept.clear()
        _kept[source] = read[key]
    return read[key]


def kept() -> int:
    """How many parts are remembered."""
    return len(_kept)


def forget() -> None:
    """Remember no part any more."""
    _kept.clear()
