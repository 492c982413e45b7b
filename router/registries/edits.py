"""Changes to the text of `model.yaml` and `version.yaml`: text in, text out. No files are touched here.

Comments and layout are kept where the change is one value or one more line; a removal writes the text anew.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeVar

import yaml

from router.errors import Conflict, InvalidInput
from router.model import PointerKind, VersionId
from router.ports import AliasChange, StageTransition
from router.registries.manifest import Unreadable, read_model, read_version
from router.registries.textyaml import Document, Span, parse

_Manifest = TypeVar("_Manifest")

_SECTIONS = {PointerKind.STAGE: "stages", PointerKind.ALIAS: "aliases"}
_TAG_KEY = re.compile(r"[^\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]{1,250}")
_MOST_VALUE = 5000
NOTHING = "{}\n"
"""The text of a file that says nothing."""


def with_change(where: str, text: str, change: StageTransition | AliasChange) -> str:
    """`model.yaml` with a stage or alias moved; a stage names one version, so nothing has to be archived.

    Taking a version out of its stage (`stage` is "") removes the stages that name it.

    Args:
        where: the file, for messages.
        text: all of it; `NOTHING` where there is none.

    Raises:
        Conflict: the stage or alias names another version than expected.
        InvalidInput: the text cannot be read.
    """
    kind = PointerKind.ALIAS if isinstance(change, AliasChange) else PointerKind.STAGE
    name = change.alias if isinstance(change, AliasChange) else change.stage.lower()
    manifest = _trusted(where, text, read_model)
    now = manifest.aliases if kind is PointerKind.ALIAS else manifest.stages
    if change.expected is not None and now.get(name, "") not in (change.expected, change.version):
        raise Conflict(
            f"{kind} {name!r} of model {change.model!r} names {now.get(name) or 'nothing'}, "
            f"not {change.expected or 'nothing'}; it was left as it is",
            current_revision=0,
        )
    if name:
        return with_pointer(where, text, kind, name, change.version)
    for stage in [stage for stage, to in now.items() if to == change.version]:
        text = with_pointer(where, text, kind, stage, None)
    return text


def with_pointer(where: str, text: str, kind: PointerKind, name: str, version: VersionId | None) -> str:
    """`model.yaml` with a stage (in lower case) or alias that names a version, or with None without it.

    Raises:
        InvalidInput: the text cannot be read.
    """
    manifest = _trusted(where, text, read_model)
    now = manifest.stages if kind is PointerKind.STAGE else manifest.aliases
    if now.get(name) == version:
        return text
    # Stages may be written in any case.
    means = str.lower if kind is PointerKind.STAGE else str
    return _with_entry(text, _Entry(_SECTIONS[kind], name, version, means), read_model)


def with_tag(where: str, text: str, key: str, value: str | None) -> str:
    """`version.yaml` with a tag set, or with None taken away.

    Raises:
        InvalidInput: the text cannot be read, or a tag cannot be so.
    """
    if not _TAG_KEY.fullmatch(key):
        raise InvalidInput(f"tag {key[:80]!r} is not allowed", hint="1 to 250 printable characters")
    if value is not None and (len(value) > _MOST_VALUE or not _is_unicode(value)):
        raise InvalidInput(f"tag {key[:80]!r}: its value is no text of at most {_MOST_VALUE} characters")
    manifest = _trusted(where, text, read_version)
    if manifest.tags.get(key) == value:
        return text
    return _with_entry(text, _Entry("tags", key, value), read_version)


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _trusted(where: str, text: str, read: Callable[[str], _Manifest]) -> _Manifest:
    try:
        return read(text)
    except Unreadable as error:
        message = f"{where} cannot be read, so it is not changed: {error}"
        raise InvalidInput(message[:500], hint="mend it") from error


@dataclass(frozen=True)
class _Entry:
    """One entry of a section as it should be; `means` says which written keys are its name."""

    section: str
    name: str
    value: str | None
    means: Callable[[str], str] = str


def _with_entry(text: str, entry: _Entry, read: Callable[[str], object]) -> str:
    document = parse(text)
    wanted = _wanted(document.value, entry)
    edited = None if entry.value is None else _edited(text, document, entry, _quoted(entry.value))
    if edited is not None and _says(edited, wanted, read):
        return edited
    return yaml.safe_dump(wanted, sort_keys=False, allow_unicode=True, default_style=None)


def _wanted(document: object, entry: _Entry) -> dict[str, object]:
    """The whole document as it should be afterwards."""
    root = dict(document) if isinstance(document, dict) else {}
    old = root.get(entry.section)
    entries = {str(key): to for key, to in old.items()} if isinstance(old, dict) else {}
    # Of several that mean this name, the first stays.
    same = [key for key in entries if entry.means(key) == entry.name]
    for key in same if entry.value is None else same[1:]:
        del entries[key]
    if entry.value is not None:
        entries[same[0] if same else entry.name] = entry.value
    return {**root, entry.section: entries}


def _edited(text: str, document: Document, entry: _Entry, value: str) -> str | None:
    """The text with one value replaced or one entry added; None where that is not simple."""
    name, section = _quoted(entry.name), entry.section
    root = document.value if isinstance(document.value, dict) else {}
    entries = root.get(section)
    if not isinstance(entries, dict):
        if section in root or not root:
            return None
        end = "" if text.endswith("\n") else "\n"
        return f"{text}{end}{section}:\n  {name}: {value}\n"
    key = next((key for key in entries if entry.means(key) == entry.name), None)
    if key is not None:
        return _spliced(text, document.values[section, key], value)
    if not entries:
        return _spliced(text, document.values[(section,)], f"{{{name}: {value}}}")
    first = document.keys[section, next(iter(entries))]
    line_start = text.rfind("\n", 0, first.start) + 1
    indent = text[line_start : first.start]
    # In front of the first entry, where no comment can be in the way.
    between = f"\n{indent}" if not indent.strip() else ", "
    return f"{text[: first.start]}{name}: {value}{between}{text[first.start :]}"


def _spliced(text: str, span: Span, value: str) -> str:
    return text[: span.start] + value + text[span.end :]


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def _says(text: str, wanted: Mapping[str, object], read: Callable[[str], object]) -> bool:
    try:
        read(text)
        return parse(text).value == wanted
    except Exception:  # whatever the edit broke, the file is then written anew
        return False
