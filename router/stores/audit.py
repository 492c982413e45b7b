"""The audit log: one entry for every revision, each sealed over the one before.

An edit is found at its entry and a deletion at the next one. A log whose end was cut off verifies; only a
copy kept elsewhere shows that.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, replace

from router.errors import StateUnavailable
from router.model import ModelName
from router.ports import RouteChangeRecord
from router.stores.codec import canonical, decode_route, digest


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """One change.

    Attributes:
        revision: the revision that it made; they count up by one from 1.
        at: unix seconds, for people; the order is that of the revisions.
        action: `put_routes`, `delete_route`, `promote`, `rollback` or `write_back`.
        targets: what it changed, sorted: models by their name, for their routes; stages and aliases as
            `REGISTRY/MODEL/stage/NAME`.
        before, after: canonical JSON by target of what was there and what is, null where nothing is.
        before_hash, after_hash: SHA-256 of these.
        previous: `hash` of the entry before, "" for the first.
        hash: SHA-256 over all other fields but the two texts, which their own hashes cover.
    """

    revision: int
    at: float
    actor: str
    reason: str
    action: str
    targets: tuple[str, ...]
    before: str
    after: str
    before_hash: str
    after_hash: str
    previous: str
    hash: str = ""

    def sealed(self) -> AuditEntry:
        """The entry with its hash."""
        return replace(self, hash=self._seal())

    def holds(self, previous: str) -> bool:
        """Whether nothing in it was changed and it follows `previous`."""
        return (
            self.previous == previous
            and self.before_hash == digest(self.before)
            and self.after_hash == digest(self.after)
            and self.hash == self._seal()
        )

    def _seal(self) -> str:
        fields = (self.previous, self.revision, repr(self.at), self.actor, self.reason, self.action)
        return digest(canonical([*fields, list(self.targets), self.before_hash, self.after_hash]))


def seal(
    *,
    revision: int,
    at: float,
    actor: str,
    reason: str,
    action: str,
    before: dict[str, str | None],
    after: dict[str, str | None],
    previous: str,
) -> AuditEntry:
    """Make the entry of a change; `before` and `after` are texts by target, None where nothing is."""
    before_text, after_text = canonical(before), canonical(after)
    return AuditEntry(
        revision=revision,
        at=at,
        actor=actor,
        reason=reason,
        action=action,
        targets=tuple(sorted(after)),
        before=before_text,
        after=after_text,
        before_hash=digest(before_text),
        after_hash=digest(after_text),
        previous=previous,
    ).sealed()


def change_of(model: ModelName, entry: AuditEntry) -> RouteChangeRecord:
    """What an entry says of one model. Raises StateUnavailable where its routes cannot be read."""
    before, after = json.loads(entry.before)[model], json.loads(entry.after)[model]
    return RouteChangeRecord(
        revision=entry.revision,
        before=None if before is None else decode_route(model, before),
        after=None if after is None else decode_route(model, after),
        actor=entry.actor,
        reason=entry.reason,
        at=entry.at,
    )


def verify_chain(entries: Iterable[AuditEntry], revision: int) -> None:
    """Check a whole log, oldest first, against the store's revision.

    Raises:
        StateUnavailable: names the first entry that is missing or was changed.
    """
    previous, expected = "", 1
    for entry in entries:
        if entry.revision != expected:
            raise StateUnavailable(f"audit log: entry {expected} is missing")
        if not entry.holds(previous):
            raise StateUnavailable(f"audit log: entry {expected} was changed after it was written")
        previous, expected = entry.hash, expected + 1
    if expected - 1 != revision:
        raise StateUnavailable(f"audit log: has {expected - 1} entries for {revision} revisions")
