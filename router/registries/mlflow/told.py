"""What MLflow tells of models and versions, checked: its answers are untrusted, and some are wrong."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from router.registries.compact import compact

_MOST_TAGS = 200
_LONGEST_TEXT = 10_000
_PROMPT = "mlflow.prompt.is_prompt"


class Malformed(Exception):
    """An answer, or one entry of it, that is not what MLflow's API says.

    Attributes:
        model: whose entry it is; "" where that cannot be told, or the whole answer is wrong.
    """

    def __init__(self, text: str, model: str = "") -> None:
        super().__init__(text)
        self.model = model


@dataclass(frozen=True, slots=True)
class ToldModel:
    """A registered model; `aliases` name version numbers."""

    name: str
    description: str
    tags: Mapping[str, str]
    aliases: Mapping[str, str]

    @property
    def prompt(self) -> bool:
        """Whether it is one of MLflow's prompts, which are kept among the models."""
        return self.tags.get(_PROMPT, "").lower() == "true"


@dataclass(frozen=True, slots=True)
class ToldVersion:
    """A version of a registered model; `created` in unix seconds."""

    model: str
    version: str
    stage: str
    status: str
    status_text: str
    created: float | None
    source: str
    run: str
    description: str
    tags: Mapping[str, str]


def page_of(answer: Mapping[str, object], key: str) -> tuple[list[object], str]:
    """The entries of one page of a search, and the token of the next page, "" at the last.

    MLflow leaves a list out that has no entries. Raises Malformed.
    """
    found = answer.get(key, [])
    token = answer.get("next_page_token", "")
    if not isinstance(found, list) or not isinstance(token, str):
        raise Malformed(f"{key}: is no list")
    if key not in answer and answer.keys() - {"next_page_token"}:
        raise Malformed(f"{key} is missing, and something else is there: {sorted(answer)[:3]}"[:200])
    return found, token


def model_of(entry: object) -> ToldModel:
    """One registered model. Raises Malformed."""
    found = _object(entry, "a registered model")
    name = _name(found)
    try:
        aliases = {
            _text(one, "alias"): number(_text(one, "version"))
            for one in (_object(each, "an alias") for each in _list(found, "aliases"))
        }
        return ToldModel(name, _text(found, "description", ""), _tags(found), compact(aliases))
    except Malformed as problem:
        raise Malformed(str(problem), name) from None


def version_of(entry: object) -> ToldVersion:
    """One version. Raises Malformed."""
    found = _object(entry, "a version")
    name = _name(found)
    try:
        return ToldVersion(
            model=name,
            version=number(_text(found, "version")),
            stage=sys.intern(_text(found, "current_stage", "None").lower()),
            status=sys.intern(_text(found, "status", "READY")),
            status_text=_text(found, "status_message", ""),
            created=_time(found.get("creation_timestamp")),
            source=_text(found, "source", ""),
            run=_text(found, "run_id", ""),
            description=_text(found, "description", ""),
            tags=_tags(found),
        )
    except Malformed as problem:
        raise Malformed(str(problem), name) from None


def number(text: str) -> str:
    """A version id: MLflow counts from 1. Raises Malformed."""
    if not text.isascii() or not text.isdigit() or len(text) > 18:  # noqa: PLR2004 - as many as fit 64 bits
        raise Malformed(f"{text[:40]!r} is no version number")
    return sys.intern(text)


def pairs(entries: Iterable[object], what: str) -> dict[str, str]:
    """MLflow's `[{"key": ..., "value": ...}]` as a mapping, at most 200 of them. Raises Malformed."""
    found: dict[str, str] = {}
    for entry in entries:
        one = _object(entry, what)
        if len(found) < _MOST_TAGS:
            found[_text(one, "key")] = _text(one, "value", "")
    return found


def _tags(found: Mapping[str, object]) -> Mapping[str, str]:
    return compact(pairs(_list(found, "tags"), "a tag"))


def _object(entry: object, what: str) -> dict[str, object]:
    if not isinstance(entry, dict):
        raise Malformed(f"{what} is no object")
    return entry


def _list(found: Mapping[str, object], key: str) -> list[object]:
    value = found.get(key, [])
    if not isinstance(value, list):
        raise Malformed(f"{key} is no list")
    return value


def _name(found: Mapping[str, object]) -> str:
    name = _text(found, "name")
    if not name:
        raise Malformed("a name is empty")
    return sys.intern(name)


def _text(found: Mapping[str, object], key: str, default: str | None = None) -> str:
    value = found.get(key, default)
    if not isinstance(value, str):
        raise Malformed(f"{key} is {'missing' if value is None else 'no text'}")
    return value[:_LONGEST_TEXT]


def _time(value: object) -> float | None:
    """Milliseconds, which the API writes as a number or as text."""
    try:
        return int(value) / 1000 if isinstance(value, (int, str)) else None
    except (ValueError, OverflowError):
        return None
