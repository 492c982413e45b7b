PRAGMA user_version = 3;
PRAGMA application_id = 1398032212;
BEGIN TRANSACTION;
CREATE TABLE accepted (
    registry TEXT NOT NULL, model TEXT NOT NULL, version TEXT NOT NULL,
    actor TEXT NOT NULL, reason TEXT NOT NULL, revision INTEGER NOT NULL, at REAL NOT NULL,
    PRIMARY KEY (registry, model, version)
) STRICT, WITHOUT ROWID;
INSERT INTO "accepted" VALUES('prod','digits','2','ana','new clients',1,1750000000.0);
CREATE TABLE audit (
    revision INTEGER PRIMARY KEY, at REAL NOT NULL, actor TEXT NOT NULL, reason TEXT NOT NULL,
    action TEXT NOT NULL, targets TEXT NOT NULL, before TEXT NOT NULL, after TEXT NOT NULL,
    before_hash TEXT NOT NULL, after_hash TEXT NOT NULL, previous TEXT NOT NULL, hash TEXT NOT NULL
) STRICT;
INSERT INTO "audit" VALUES(1,1750000000.0,'ana','new clients','accept','["prod/digits/contract/2"]','{"prod/digits/contract/2":null}','{"prod/digits/contract/2":"{\"accepted\":true,\"version\":\"2\"}"}','6cdc0129a4554319281d2b88183be34c8d2e971d6410190cfbb7af66703dfa24','2569f57c1da24c51000087c5d47d5a33dc6f2a0bb728487c21859c6671d6d69c','','54932e254db41e8b90b1ebb68c9802715b7601d5b16754d455d2251430a5473d');
CREATE TABLE audit_target (
    model TEXT NOT NULL, revision INTEGER NOT NULL REFERENCES audit, PRIMARY KEY (model, revision)
) STRICT, WITHOUT ROWID;
INSERT INTO "audit_target" VALUES('prod/digits/contract/2',1);
CREATE TABLE pointer_move (
    id INTEGER PRIMARY KEY AUTOINCREMENT, registry TEXT NOT NULL, model TEXT NOT NULL, kind TEXT NOT NULL,
    name TEXT NOT NULL, document TEXT NOT NULL
) STRICT;
CREATE TABLE route (
    model TEXT PRIMARY KEY, document TEXT NOT NULL, revision INTEGER NOT NULL,
    actor TEXT NOT NULL, reason TEXT NOT NULL, at REAL NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE state (id INTEGER PRIMARY KEY CHECK (id = 1), revision INTEGER NOT NULL) STRICT;
INSERT INTO "state" VALUES(1,1);
CREATE TABLE write_back (
    id INTEGER PRIMARY KEY AUTOINCREMENT, registry TEXT NOT NULL, model TEXT NOT NULL, kind TEXT NOT NULL,
    name TEXT NOT NULL, open INTEGER NOT NULL, document TEXT NOT NULL
) STRICT;
CREATE TRIGGER audit_is_append_only_1 BEFORE UPDATE ON audit
    BEGIN SELECT RAISE(ABORT, 'the audit log is append-only'); END;
CREATE TRIGGER audit_is_append_only_2 BEFORE DELETE ON audit
    BEGIN SELECT RAISE(ABORT, 'the audit log is append-only'); END;
CREATE INDEX write_back_open ON write_back (registry, model, kind, name) WHERE open;
CREATE INDEX pointer_move_of ON pointer_move (registry, model, kind, name);
DELETE FROM "sqlite_sequence";
COMMIT;
