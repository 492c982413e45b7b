PRAGMA application_id = 1398032212;
PRAGMA user_version = 1;
BEGIN TRANSACTION;
CREATE TABLE audit (
    revision INTEGER PRIMARY KEY, at REAL NOT NULL, actor TEXT NOT NULL, reason TEXT NOT NULL,
    action TEXT NOT NULL, targets TEXT NOT NULL, before TEXT NOT NULL, after TEXT NOT NULL,
    before_hash TEXT NOT NULL, after_hash TEXT NOT NULL, previous TEXT NOT NULL, hash TEXT NOT NULL
) STRICT;
INSERT INTO "audit" VALUES(1,1700000000.0,'ana','before the upgrade','put_routes','["digits"]','{"digits":null}','{"digits":"{\"format\":1,\"route\":{\"arms\":[{\"name\":\"stable\",\"version\":\"production\",\"weight\":100}],\"model\":\"digits\"}}"}','71d320dc302e3134a22da73b4354988d82420ef7895d43e7ee1b07eb9ec74785','90303b730d602b0858ef0c0dab59746e69279bd221504f4e171855817a12b58c','','9c99bfcf8d79fe410f329a6544e485ce854c688831490c9b2aa04ac5bb754d44');
INSERT INTO "audit" VALUES(2,1700000060.0,'ana','before the upgrade','put_routes','["digits"]','{"digits":"{\"format\":1,\"route\":{\"arms\":[{\"name\":\"stable\",\"version\":\"production\",\"weight\":100}],\"model\":\"digits\"}}"}','{"digits":"{\"buckets\":[[\"stable\",9000],[\"canary\",1000]],\"format\":1,\"route\":{\"arms\":[{\"name\":\"stable\",\"version\":\"production\",\"weight\":90},{\"name\":\"canary\",\"version\":\"@challenger\",\"weight\":10}],\"model\":\"digits\"}}"}','90303b730d602b0858ef0c0dab59746e69279bd221504f4e171855817a12b58c','9ec73a8f87426d29baf8d03bb983d56e3211437b3534a4830bdbce3988d1c7db','9c99bfcf8d79fe410f329a6544e485ce854c688831490c9b2aa04ac5bb754d44','117523d6482468522ba315438fa3363ef4bc1e48940d5a03298a9707937f0415');
INSERT INTO "audit" VALUES(3,1700000120.0,'ana','before the upgrade','put_routes','["fraud"]','{"fraud":null}','{"fraud":"{\"format\":1,\"route\":{\"arms\":[{\"name\":\"stable\",\"version\":\"3\",\"weight\":100}],\"model\":\"fraud\"}}"}','98530e45ffdb7c4251805d61f7d58388b5f0832e60da6dbab60d2c76724bf53a','50a0c8363af89997d90e4e771bf51ea6f043f186473bf311cc05d7ee0caa13b7','117523d6482468522ba315438fa3363ef4bc1e48940d5a03298a9707937f0415','5b7c713b8d710f333bb23459002ce06a33eed8141dfef1a0dad258a94ce927b3');
INSERT INTO "audit" VALUES(4,1700000180.0,'ben','gone','delete_route','["fraud"]','{"fraud":"{\"format\":1,\"route\":{\"arms\":[{\"name\":\"stable\",\"version\":\"3\",\"weight\":100}],\"model\":\"fraud\"}}"}','{"fraud":null}','50a0c8363af89997d90e4e771bf51ea6f043f186473bf311cc05d7ee0caa13b7','98530e45ffdb7c4251805d61f7d58388b5f0832e60da6dbab60d2c76724bf53a','5b7c713b8d710f333bb23459002ce06a33eed8141dfef1a0dad258a94ce927b3','360818f4efa858ab78c085effba00f82139ed0720bfa5e7410c6fb739de3a0f1');
CREATE TABLE audit_target (
    model TEXT NOT NULL, revision INTEGER NOT NULL REFERENCES audit, PRIMARY KEY (model, revision)
) STRICT, WITHOUT ROWID;
INSERT INTO "audit_target" VALUES('digits',1);
INSERT INTO "audit_target" VALUES('digits',2);
INSERT INTO "audit_target" VALUES('fraud',3);
INSERT INTO "audit_target" VALUES('fraud',4);
CREATE TABLE route (
    model TEXT PRIMARY KEY, document TEXT NOT NULL, revision INTEGER NOT NULL,
    actor TEXT NOT NULL, reason TEXT NOT NULL, at REAL NOT NULL
) STRICT, WITHOUT ROWID;
INSERT INTO "route" VALUES('digits','{"buckets":[["stable",9000],["canary",1000]],"format":1,"route":{"arms":[{"name":"stable","version":"production","weight":90},{"name":"canary","version":"@challenger","weight":10}],"model":"digits"}}',2,'ana','before the upgrade',1700000060.0);
CREATE TABLE state (id INTEGER PRIMARY KEY CHECK (id = 1), revision INTEGER NOT NULL) STRICT;
INSERT INTO "state" VALUES(1,4);
CREATE TRIGGER audit_is_append_only_1 BEFORE UPDATE ON audit
    BEGIN SELECT RAISE(ABORT, 'the audit log is append-only'); END;
CREATE TRIGGER audit_is_append_only_2 BEFORE DELETE ON audit
    BEGIN SELECT RAISE(ABORT, 'the audit log is append-only'); END;
COMMIT;
