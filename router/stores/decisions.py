"""Write-backs and moves of pointers as the store keeps them: canonical JSON with a format number."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from typing import Any

from router.errors import InvalidInput, StateUnavailable
from router.model import PointerKind
from router.ports import (
    Accepted,
    AliasChange,
    Decision,
    PointerChange,
    PointerMove,
    StageTransition,
    TagChange,
    WriteBack,
    WriteState,
)
from router.stores.changes import check_routes
from router.stores.codec import canonical

DECISION_FORMAT = 1
"""Raised when a reader of the old format could not read the new one."""

MOST_MOVES = 20
"""Moves that are kept of one pointer."""

MOST_ENDED = 200
"""Ended write-backs that are kept."""

WRITE_BACK = "write_back"
"""The audit log's action where a write-back comes to another state."""


def target_of(registry: str, model: str, kind: str, name: str) -> str:
    """A pointer's name in the audit log; no logical model can have it, because of the slashes."""
    return f"{registry}/{model}/{kind}/{name}"


def pointer_of(write: WriteBack) -> tuple[str, str, str, str]:
    """Which pointer a write-back moves: registry, model, kind, name."""
    return write.registry, write.model, write.kind.value, write.name


def check_decision(decision: Decision) -> None:
    """Raises InvalidInput where it changes nothing, or one thing twice."""
    if decision.routes:
        check_routes(decision.routes)
    elif not decision.writes and not decision.accepted:
        raise InvalidInput("the decision changes nothing")
    pointers = [pointer_of(write) for write in decision.writes]
    for pointer in pointers:
        if pointers.count(pointer) > 1:
            raise InvalidInput(f"{pointer[2]} {pointer[3]!r} of model {pointer[1]!r} is moved twice")


def superseded(write: WriteBack, by: str, now: float) -> WriteBack:
    """An open write-back whose place another one takes."""
    note = f"a later decision took its place: {by}"
    return replace(write, state=WriteState.SUPERSEDED, note=note, ended=now)


def decided(decision: Decision) -> tuple[dict[str, str | None], dict[str, str | None]]:
    """Before and after of what a decision moves and accepts, for the audit log."""
    was = {(m.registry, m.model, m.kind, m.name): m.before for m in decision.moves}
    before: dict[str, str | None] = {}
    after: dict[str, str | None] = {}
    for write in decision.writes:
        target = target_of(*pointer_of(write))
        version = was.get((write.registry, write.model, write.kind.value, write.name))
        before[target] = canonical({"version": version}) if version is not None else None
        after[target] = audited(write)
    for one in decision.accepted:
        target = target_of(one.registry, one.model, "contract", one.version)
        before[target], after[target] = None, _audited_acceptance(one)
    return before, after


def _audited_acceptance(accepted: Accepted) -> str:
    return canonical({"version": accepted.version, "accepted": True, "files": accepted.files})


def audited(write: WriteBack) -> str:
    """What the audit log says of a pointer that a write-back moves."""
    return canonical({"version": write.version, "state": write.state.value, "note": write.note})


def encode_write_back(write: WriteBack) -> str:
    """A write-back as text; without its id, which the store gives."""
    document = asdict(replace(write, id=0))
    document["change"] = {"kind": write.kind.value, **asdict(write.change)}
    return canonical({"format": DECISION_FORMAT, "write_back": document})


def decode_write_back(number: int, text: str) -> WriteBack:
    """What `encode_write_back` wrote. Raises StateUnavailable where it cannot be read."""
    what = f"stored registry change {number}"
    document = _document(text, "write_back", what)
    try:
        change = _change(document.pop("change"))
        tags = tuple(TagChange(**tag) for tag in document.pop("tags"))
        state = WriteState(document.pop("state"))
        before = tuple(document.pop("before"))
        return WriteBack(
            **{**document, "id": number, "change": change, "tags": tags, "state": state, "before": before}
        )
    except (KeyError, TypeError, ValueError) as error:
        raise StateUnavailable(f"{what} cannot be read: {error}") from error


def _change(document: dict[str, Any]) -> PointerChange:
    alias = PointerKind(document.pop("kind")) is PointerKind.ALIAS
    return AliasChange(**document) if alias else StageTransition(**document)


def encode_move(move: PointerMove) -> str:
    """A move as text."""
    return canonical({"format": DECISION_FORMAT, "move": asdict(move)})


def decode_move(text: str) -> PointerMove:
    """What `encode_move` wrote. Raises StateUnavailable where it cannot be read."""
    document = _document(text, "move", "a stored move of a pointer")
    try:
        return PointerMove(**document)
    except TypeError as error:
        raise StateUnavailable(f"a stored move of a pointer cannot be read: {error}") from error


def _document(text: str, key: str, what: str) -> dict[str, Any]:
    try:
        document = json.loads(text)
        if document["format"] != DECISION_FORMAT:
            raise StateUnavailable(
                f"{what} has format {document['format']!r}; this version reads {DECISION_FORMAT}",
                hint="use the version that wrote it",
            )
        found: dict[str, Any] = document[key]
        return found
    except (KeyError, TypeError, ValueError) as error:
        raise StateUnavailable(f"{what} cannot be read: {error}") from error
