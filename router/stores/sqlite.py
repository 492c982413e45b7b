"""State in one SQLite file on a local disk, for one process.

Every change is one transaction that moves the revision, writes the routes and appends to the audit log, on
disk before the call returns. All database work happens on one thread of its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import astuple, replace
from pathlib import Path
from typing import TypeVar

from router.errors import StateUnavailable
from router.model import ModelName, Route, VersionId
from router.ports import Accepted, Decision, PointerMove, RouteChangeRecord, StoredRoute, WriteBack
from router.stores.audit import AuditEntry, change_of, seal, verify_chain
from router.stores.changes import check_revision, check_routes, no_route, with_buckets
from router.stores.codec import canonical, decode_route, encode_route
from router.stores.decisions import (
    MOST_ENDED,
    MOST_MOVES,
    WRITE_BACK,
    audited,
    check_decision,
    decided,
    decode_move,
    decode_write_back,
    encode_move,
    encode_write_back,
    pointer_of,
    superseded,
    target_of,
)
from router.stores.lockfile import LockFile

APPLICATION_ID = 0x53544754
"""Marks the file as ours in its header ("STGT")."""

_FIRST = """
CREATE TABLE state (id INTEGER PRIMARY KEY CHECK (id = 1), revision INTEGER NOT NULL) STRICT;
INSERT INTO state VALUES (1, 0);
CREATE TABLE route (
    model TEXT PRIMARY KEY, document TEXT NOT NULL, revision INTEGER NOT NULL,
    actor TEXT NOT NULL, reason TEXT NOT NULL, at REAL NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE audit (
    revision INTEGER PRIMARY KEY, at REAL NOT NULL, actor TEXT NOT NULL, reason TEXT NOT NULL,
    action TEXT NOT NULL, targets TEXT NOT NULL, before TEXT NOT NULL, after TEXT NOT NULL,
    before_hash TEXT NOT NULL, after_hash TEXT NOT NULL, previous TEXT NOT NULL, hash TEXT NOT NULL
) STRICT;
CREATE TABLE audit_target (
    model TEXT NOT NULL, revision INTEGER NOT NULL REFERENCES audit, PRIMARY KEY (model, revision)
) STRICT, WITHOUT ROWID;
CREATE TRIGGER audit_is_append_only_1 BEFORE UPDATE ON audit
    BEGIN SELECT RAISE(ABORT, 'the audit log is append-only'); END;
CREATE TRIGGER audit_is_append_only_2 BEFORE DELETE ON audit
    BEGIN SELECT RAISE(ABORT, 'the audit log is append-only'); END;
"""

_WRITE_BACKS = """
CREATE TABLE write_back (
    id INTEGER PRIMARY KEY AUTOINCREMENT, registry TEXT NOT NULL, model TEXT NOT NULL, kind TEXT NOT NULL,
    name TEXT NOT NULL, open INTEGER NOT NULL, document TEXT NOT NULL
) STRICT;
CREATE INDEX write_back_open ON write_back (registry, model, kind, name) WHERE open;
CREATE TABLE pointer_move (
    id INTEGER PRIMARY KEY AUTOINCREMENT, registry TEXT NOT NULL, model TEXT NOT NULL, kind TEXT NOT NULL,
    name TEXT NOT NULL, document TEXT NOT NULL
) STRICT;
CREATE INDEX pointer_move_of ON pointer_move (registry, model, kind, name);
"""

_ACCEPTED = """
CREATE TABLE accepted (
    registry TEXT NOT NULL, model TEXT NOT NULL, version TEXT NOT NULL,
    actor TEXT NOT NULL, reason TEXT NOT NULL, revision INTEGER NOT NULL, at REAL NOT NULL,
    PRIMARY KEY (registry, model, version)
) STRICT, WITHOUT ROWID;
"""

_ACCEPTED_FILES = """
ALTER TABLE accepted ADD COLUMN files TEXT NOT NULL DEFAULT '';
ALTER TABLE accepted ADD COLUMN contract TEXT NOT NULL DEFAULT '';
"""

_ACCEPTED_COLUMNS = "registry, model, version, files, contract, actor, reason, revision, at"

_ACCEPT = f"INSERT OR REPLACE INTO accepted ({_ACCEPTED_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"  # noqa: S608 - constant

_SCHEMAS = (_FIRST, _WRITE_BACKS, _ACCEPTED, _ACCEPTED_FILES)
"""What each version of the schema adds to the one before; a file is brought from where it is to the last."""

SCHEMA_VERSION = len(_SCHEMAS)

_POINTER = "registry = ? AND model = ? AND kind = ? AND name = ?"

_AUDIT_COLUMNS = (
    "revision, at, actor, reason, action, targets, before, after, before_hash, after_hash, previous, hash"
)

_ROUTE_COLUMNS = "model, document, revision, actor, reason, at"

_RouteRow = tuple[str, str, int, str, str, float]

_Answer = TypeVar("_Answer")


class SqliteStore:
    """`ports.StateStore` in a SQLite file. Make one with `open`."""

    def __init__(self, path: Path, clock: Callable[[], float]) -> None:
        self._path = path
        self._clock = clock
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="stagegate-state")
        self._closed = False
        self._lock: LockFile | None = None
        self._connection: sqlite3.Connection | None = None
        self._known: tuple[int, dict[ModelName, StoredRoute]] = (0, {})

    @classmethod
    async def open(cls, path: Path, *, clock: Callable[[], float] = time.time) -> SqliteStore:
        """Open or make the file, check all of it, and hold it for this process.

        Args:
            path: absolute path of the database file; its folder is made where only that one is missing.
                A lock file `<path>.lock` stands beside it.
            clock: unix seconds, for the audit log.

        Raises:
            StateUnavailable: another process holds it, it is damaged, its audit log was changed, a newer
                version wrote it, it is no state of ours, or it cannot be read or written.
        """
        store = cls(path, clock)
        try:
            await store._run(store._open)
        except BaseException:
            await store.close()
            raise
        return store

    async def revision(self) -> int:
        """The current revision; 0 for a new store. Raises StateUnavailable."""
        return await self._run(lambda: _revision(self._db))

    async def routes(self) -> tuple[int, dict[ModelName, StoredRoute]]:
        """The revision and all routes at it, read in one transaction. Raises StateUnavailable."""
        return await self._run(self._routes)

    async def put_routes(
        self, routes: Sequence[Route], *, expected_revision: int | None, actor: str, reason: str
    ) -> int:
        """Write several routes in one change. Raises InvalidInput, Conflict, StateUnavailable.

        A cancelled call may have been carried out; the revision tells.
        """
        check_routes(routes)
        after: dict[ModelName, Route | None] = {route.model: route for route in routes}
        return await self._run(lambda: self._change("put_routes", after, expected_revision, actor, reason))

    async def delete_route(
        self, model: ModelName, *, expected_revision: int | None, actor: str, reason: str
    ) -> int:
        """Remove a route. Raises RouteNotFound, Conflict, StateUnavailable."""
        return await self._run(
            lambda: self._change("delete_route", {model: None}, expected_revision, actor, reason)
        )

    async def history(self, model: ModelName, limit: int) -> tuple[RouteChangeRecord, ...]:
        """Changes of one route, newest first, at most `limit`. Raises StateUnavailable."""
        return await self._run(lambda: self._history(model, limit))

    async def decide(
        self, decision: Decision, *, expected_revision: int | None, actor: str, reason: str
    ) -> int:
        """Write a decision, all of it or nothing. Raises InvalidInput, Conflict, StateUnavailable.

        A cancelled call may have been carried out; the revision tells.
        """
        check_decision(decision)
        return await self._run(lambda: self._decide(decision, expected_revision, actor, reason))

    async def accepted(self) -> tuple[Accepted, ...]:
        """All versions that were accepted. Raises StateUnavailable."""
        return await self._run(self._accepted)

    async def write_backs(self, ended: int = 0) -> tuple[WriteBack, ...]:
        """The open ones, oldest first, and then the newest ended ones. Raises StateUnavailable."""
        return await self._run(lambda: self._write_backs(ended))

    async def save_write_back(self, write: WriteBack, *, actor: str = "", reason: str = "") -> bool:
        """Keep how far an open one came. Raises StateUnavailable."""
        return await self._run(lambda: self._save_write_back(write, actor, reason))

    async def note_moves(self, moves: Sequence[PointerMove]) -> None:
        """Remember moves that nobody decided here. Raises StateUnavailable."""
        await self._run(lambda: self._note_moves(moves))

    async def moves(self, registry: str, model: ModelName, kind: str, name: str) -> tuple[PointerMove, ...]:
        """The last moves of a pointer, newest first. Raises StateUnavailable."""
        return await self._run(lambda: self._moves(registry, model, kind, name))

    async def audit_log(self) -> tuple[AuditEntry, ...]:
        """The whole log, oldest first. Raises StateUnavailable."""
        return await self._run(lambda: tuple(_entries(self._db)))

    async def lend(self) -> None:
        """Let another process have it; until `take_back` every call raises StateUnavailable."""
        await self._run(self._close)

    async def take_back(self) -> None:
        """Hold it again after `lend`. Raises StateUnavailable, as `open` does."""
        try:
            await self._run(self._open)
        except BaseException:
            await self._run(self._close)
            raise

    async def close(self) -> None:
        """Close the file and give the lock back; a second call does nothing."""
        if self._closed:
            return
        self._closed = True
        await asyncio.get_running_loop().run_in_executor(self._thread, self._close)
        self._thread.shutdown(wait=False)

    async def _run(self, work: Callable[[], _Answer]) -> _Answer:
        """Do database work on the thread; what goes wrong there names the file."""
        if self._closed:
            raise StateUnavailable(f"state {self._path} is closed")
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, work)
        except sqlite3.Error as error:
            raise StateUnavailable(f"state {self._path}: {error}") from error

    # On the thread

    @property
    def _db(self) -> sqlite3.Connection:
        if self._connection is None:
            raise StateUnavailable(f"state {self._path} is not open")
        return self._connection

    def _open(self) -> None:
        try:
            self._path.parent.mkdir(mode=0o700, exist_ok=True)  # one level: a mistyped path stays an error
        except OSError as error:
            raise StateUnavailable(f"folder {self._path.parent} cannot be made: {error.strerror}") from error
        self._lock = LockFile(self._path.with_name(self._path.name + ".lock"), f"state {self._path}")
        try:
            # Made here and not by SQLite, so that nobody else can read it from the first moment.
            os.close(os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600))
        except OSError as error:
            raise StateUnavailable(f"state {self._path} cannot be opened: {error.strerror}") from error
        self._connection = sqlite3.connect(self._path, isolation_level=None)
        self._prepare(self._connection)
        verify_chain(_entries(self._connection), _revision(self._connection))

    def _prepare(self, db: sqlite3.Connection) -> None:
        application, schema = _pragma(db, "application_id"), _pragma(db, "user_version")
        tables = db.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0]
        if tables and application != APPLICATION_ID:
            raise StateUnavailable(f"{self._path} is a database of something else, not a Stagegate state")
        if schema > SCHEMA_VERSION:
            raise StateUnavailable(
                f"state {self._path} has schema {schema}; this version reads up to {SCHEMA_VERSION}",
                hint="use the version that wrote it, or a newer one",
            )
        found = db.execute("PRAGMA integrity_check(1)").fetchone()[0]
        if found != "ok":
            raise StateUnavailable(f"state {self._path} is damaged: {found}", hint="restore a backup")
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = FULL")
        db.execute("PRAGMA foreign_keys = ON")
        if schema < SCHEMA_VERSION:
            with _transaction(db):
                for statement in _statements("".join(_SCHEMAS[schema:])):
                    db.execute(statement)
                db.execute(f"PRAGMA application_id = {APPLICATION_ID}")
                db.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")

    def _routes(self) -> tuple[int, dict[ModelName, StoredRoute]]:
        """All routes; only those that changed since the last call are read."""
        known_revision, known = self._known
        with _transaction(self._db, "BEGIN"):
            revision = _revision(self._db)
            changed = self._changed_since(known_revision) if known_revision else None
            rows = self._route_rows() if changed is None else map(self._route_row, changed)
            found = [row for row in rows if row is not None]
        if changed is not None and not changed:
            return revision, dict(known)
        routes = {} if changed is None else {name: one for name, one in known.items() if name not in changed}
        for model, document, written, actor, reason, at in found:
            routes[ModelName(model)] = StoredRoute(decode_route(model, document), written, actor, reason, at)
        self._known = revision, routes
        return revision, dict(routes)

    def _changed_since(self, revision: int) -> frozenset[str]:
        """Models of the audit log's entries after a revision."""
        rows = self._db.execute("SELECT targets FROM audit WHERE revision > ?", (revision,))
        return frozenset(str(model) for (targets,) in rows for model in json.loads(targets))

    def _route_rows(self) -> list[_RouteRow]:
        return self._db.execute(f"SELECT {_ROUTE_COLUMNS} FROM route").fetchall()  # noqa: S608 - constant

    def _route_row(self, model: str) -> _RouteRow | None:
        query = f"SELECT {_ROUTE_COLUMNS} FROM route WHERE model = ?"  # noqa: S608 - constant
        row: _RouteRow | None = self._db.execute(query, (model,)).fetchone()
        return row

    def _history(self, model: ModelName, limit: int) -> tuple[RouteChangeRecord, ...]:
        where = (
            "WHERE revision IN (SELECT revision FROM audit_target WHERE model = ? "
            "ORDER BY revision DESC LIMIT ?)"
        )
        entries = list(_entries(self._db, where, (model, max(limit, 0))))
        return tuple(change_of(model, entry) for entry in reversed(entries))

    def _change(
        self,
        action: str,
        after: dict[ModelName, Route | None],
        expected: int | None,
        actor: str,
        reason: str,
    ) -> int:
        with _transaction(self._db):
            check_revision(_revision(self._db), expected)
            for model, route in after.items():
                if route is None and self._document(model) is None:
                    raise no_route(model)
            before, encoded = self._routed(after)
            entry = self._record(action, before, encoded, actor, reason)
            self._put(encoded, entry)
        return entry.revision

    def _routed(
        self, routes: dict[ModelName, Route | None]
    ) -> tuple[dict[str, str | None], dict[str, str | None]]:
        """Routes before and after a change, as they are stored."""
        before: dict[str, str | None] = {model: self._document(model) for model in routes}
        after: dict[str, str | None] = {
            model: encode_route(with_buckets(_decoded(model, before[model]), route)) if route else None
            for model, route in routes.items()
        }
        return before, after

    def _record(
        self,
        action: str,
        before: dict[str, str | None],
        after: dict[str, str | None],
        actor: str,
        reason: str,
    ) -> AuditEntry:
        """Append to the audit log and move the revision on, inside a transaction."""
        last = self._db.execute("SELECT hash FROM audit ORDER BY revision DESC LIMIT 1").fetchone()
        entry = seal(
            revision=_revision(self._db) + 1,
            at=self._clock(),
            actor=actor,
            reason=reason,
            action=action,
            before=before,
            after=after,
            previous=last[0] if last else "",
        )
        _append(self._db, entry)
        self._db.execute("UPDATE state SET revision = ?", (entry.revision,))
        return entry

    def _decide(self, decision: Decision, expected: int | None, actor: str, reason: str) -> int:
        with _transaction(self._db):
            check_revision(_revision(self._db), expected)
            before, after = self._routed({route.model: route for route in decision.routes})
            moved_from, moved_to = decided(decision)
            entry = self._record(decision.action, before | moved_from, after | moved_to, actor, reason)
            self._put(after, entry)
            for write in decision.writes:
                self._supersede(write, f"{decision.action} at revision {entry.revision}", entry.at)
                made = replace(write, actor=actor, reason=reason, at=entry.at, revision=entry.revision)
                self._db.execute(
                    "INSERT INTO write_back (registry, model, kind, name, open, document) "
                    "VALUES (?, ?, ?, ?, 1, ?)",
                    (*pointer_of(made), encode_write_back(made)),
                )
            self._prune()
            for move in decision.moves:
                self._note(replace(move, actor=actor, reason=reason, revision=entry.revision, at=entry.at))
            for one in decision.accepted:
                self._db.execute(
                    _ACCEPT,
                    astuple(replace(one, actor=actor, reason=reason, revision=entry.revision, at=entry.at)),
                )
        return entry.revision

    def _accepted(self) -> tuple[Accepted, ...]:
        rows = self._db.execute(f"SELECT {_ACCEPTED_COLUMNS} FROM accepted")  # noqa: S608 - constant
        return tuple(
            Accepted(registry, ModelName(model), VersionId(version), *rest)
            for registry, model, version, *rest in rows
        )

    def _supersede(self, write: WriteBack, by: str, now: float) -> None:
        query = f"SELECT id, document FROM write_back WHERE open AND {_POINTER}"  # noqa: S608 - constant
        for number, text in self._db.execute(query, pointer_of(write)).fetchall():
            known = decode_write_back(number, text)
            if known.state.overrides:
                self._update(superseded(known, by, now))

    def _update(self, write: WriteBack) -> None:
        self._db.execute(
            "UPDATE write_back SET open = ?, document = ? WHERE id = ?",
            (int(not write.state.ended), encode_write_back(write), write.id),
        )

    def _write_backs(self, ended: int) -> tuple[WriteBack, ...]:
        found = self._db.execute("SELECT id, document FROM write_back WHERE open ORDER BY id").fetchall()
        if ended > 0:
            query = "SELECT id, document FROM write_back WHERE NOT open ORDER BY id DESC LIMIT ?"
            found += self._db.execute(query, (ended,)).fetchall()
        return tuple(decode_write_back(number, text) for number, text in found)

    def _save_write_back(self, write: WriteBack, actor: str, reason: str) -> bool:
        with _transaction(self._db):
            query = "SELECT document FROM write_back WHERE open AND id = ?"
            row = self._db.execute(query, (write.id,)).fetchone()
            if row is None:
                return False
            known = decode_write_back(write.id, row[0])
            if write.state.ended:
                write = replace(write, ended=self._clock())
            self._update(write)
            if write.state is not known.state:
                target = target_of(*pointer_of(write))
                self._record(WRITE_BACK, {target: audited(known)}, {target: audited(write)}, actor, reason)
            self._prune()
        return True

    def _prune(self) -> None:
        self._db.execute(
            "DELETE FROM write_back WHERE NOT open AND id NOT IN "
            "(SELECT id FROM write_back WHERE NOT open ORDER BY id DESC LIMIT ?)",
            (MOST_ENDED,),
        )

    def _note_moves(self, moves: Sequence[PointerMove]) -> None:
        with _transaction(self._db):
            revision = _revision(self._db)
            for move in moves:
                self._note(replace(move, revision=revision, at=self._clock()))

    def _note(self, move: PointerMove) -> None:
        pointer = (move.registry, move.model, move.kind, move.name)
        self._db.execute(
            "INSERT INTO pointer_move (registry, model, kind, name, document) VALUES (?, ?, ?, ?, ?)",
            (*pointer, encode_move(move)),
        )
        self._db.execute(
            f"DELETE FROM pointer_move WHERE {_POINTER} AND id NOT IN "  # noqa: S608 - constant
            f"(SELECT id FROM pointer_move WHERE {_POINTER} ORDER BY id DESC LIMIT ?)",
            (*pointer, *pointer, MOST_MOVES),
        )

    def _moves(self, *pointer: str) -> tuple[PointerMove, ...]:
        query = f"SELECT document FROM pointer_move WHERE {_POINTER} ORDER BY id DESC"  # noqa: S608 - constant
        return tuple(decode_move(text) for (text,) in self._db.execute(query, pointer))

    def _document(self, model: str) -> str | None:
        row = self._db.execute("SELECT document FROM route WHERE model = ?", (model,)).fetchone()
        return str(row[0]) if row else None

    def _put(self, routes: dict[str, str | None], entry: AuditEntry) -> None:
        """Write routes as `_routed` has them; None deletes one."""
        for model, document in routes.items():
            if document is None:
                self._db.execute("DELETE FROM route WHERE model = ?", (model,))
                continue
            self._db.execute(
                "INSERT OR REPLACE INTO route VALUES (?, ?, ?, ?, ?, ?)",
                (model, document, entry.revision, entry.actor, entry.reason, entry.at),
            )

    def _close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        if self._lock is not None:
            self._lock.release()


def _decoded(model: str, text: str | None) -> Route | None:
    return decode_route(model, text) if text else None


@contextlib.contextmanager
def _transaction(db: sqlite3.Connection, begin: str = "BEGIN IMMEDIATE") -> Iterator[None]:
    db.execute(begin)
    try:
        yield
        db.execute("COMMIT")
    except BaseException:
        # SQLite itself rolls back on a full disk; then there is nothing left to roll back.
        if db.in_transaction:
            db.execute("ROLLBACK")
        raise


def _revision(db: sqlite3.Connection) -> int:
    return int(db.execute("SELECT revision FROM state").fetchone()[0])


def _pragma(db: sqlite3.Connection, name: str) -> int:
    return int(db.execute(f"PRAGMA {name}").fetchone()[0])


def _statements(script: str) -> Iterator[str]:
    """Split a script, so that it can run inside a transaction (`executescript` commits first)."""
    statement = ""
    for line in script.splitlines(keepends=True):
        statement += line
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""


def _append(db: sqlite3.Connection, entry: AuditEntry) -> None:
    db.execute(
        f"INSERT INTO audit ({_AUDIT_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",  # noqa: S608 - constant
        (
            entry.revision,
            entry.at,
            entry.actor,
            entry.reason,
            entry.action,
            canonical(list(entry.targets)),
            entry.before,
            entry.after,
            entry.before_hash,
            entry.after_hash,
            entry.previous,
            entry.hash,
        ),
    )
    targets = [(model, entry.revision) for model in entry.targets]
    db.executemany("INSERT INTO audit_target VALUES (?, ?)", targets)


def _entries(
    db: sqlite3.Connection, where: str = "", values: tuple[str | int, ...] = ()
) -> Iterator[AuditEntry]:
    query = f"SELECT {_AUDIT_COLUMNS} FROM audit {where} ORDER BY revision"  # noqa: S608 - constants only
    for row in db.execute(query, values):
        fields = list(row)
        try:
            fields[5] = tuple(json.loads(fields[5]))
        except (ValueError, TypeError) as error:
            raise StateUnavailable(
                f"audit log: entry {fields[0]} was changed after it was written"
            ) from error
        yield AuditEntry(*fields)
