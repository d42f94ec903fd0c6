PRAGMA journal_mode=WAL;
BEGIN TRANSACTION;
CREATE TABLE audit (seq INTEGER PRIMARY KEY, line TEXT NOT NULL);
INSERT INTO "audit" VALUES(1,'');
INSERT INTO "audit" VALUES(2,'{"time": "2030-01-01T00:00:00.000000Z", "event": "granted", "lease": "live", "device": 0, "deviceId": "GPU-a", "memoryBytes": 1073741824, "computePercent": 1.0, "user": "", "owner": "", "token": 2, "expiresAt": "2030-01-01T01:00:00.000000Z", "uid": 0}');
INSERT INTO "audit" VALUES(3,'{"time": "2030-01-01T00:00:00.000000Z", "event": "released", "lease": "ended", "device": 0, "deviceId": "GPU-a", "memoryBytes": 1073741824, "computePercent": 1.0, "user": "", "owner": "", "token": 1, "expiresAt": "2030-01-01T01:00:00.000000Z", "uid": 0}');
CREATE TABLE cgroup (
    lease TEXT NOT NULL,
    directory TEXT NOT NULL,
    PRIMARY KEY (lease, directory)
) WITHOUT ROWID;
CREATE TABLE device (
    id TEXT PRIMARY KEY,
    number INTEGER NOT NULL UNIQUE,
    present INTEGER NOT NULL,
    name TEXT NOT NULL,
    vendor TEXT NOT NULL,
    type TEXT NOT NULL,
    memory_bytes INTEGER NOT NULL CHECK (memory_bytes > 0),
    driver TEXT NOT NULL,
    platform_index INTEGER NOT NULL,
    device_index INTEGER NOT NULL,
    enforcement TEXT NOT NULL DEFAULT 'none',
    token INTEGER NOT NULL DEFAULT 0,
    used_memory INTEGER NOT NULL DEFAULT 0 CHECK (used_memory BETWEEN 0 AND memory_bytes),
    used_compute INTEGER NOT NULL DEFAULT 0 CHECK (used_compute BETWEEN 0 AND 1000)
);
INSERT INTO "device" VALUES('GPU-a',0,1,'H100','NVIDIA','gpu',85899345920,'',-1,-1,'none',2,1073741824,10);
CREATE TABLE lease (
    seq INTEGER PRIMARY KEY,
    id TEXT NOT NULL UNIQUE,
    device_id TEXT NOT NULL REFERENCES device (id),
    memory_bytes INTEGER NOT NULL CHECK (memory_bytes > 0),
    compute INTEGER NOT NULL CHECK (compute BETWEEN 1 AND 1000),
    user TEXT NOT NULL,
    owner TEXT NOT NULL,
    grace REAL NOT NULL,
    seconds REAL NOT NULL,
    token INTEGER NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('Active', 'Ending', 'Ended')),
    granted_at TEXT NOT NULL,
    expires_at TEXT NOT NULL,
    deadline REAL NOT NULL,
    ending_since REAL,
    end_reason TEXT,
    ended_at TEXT NOT NULL DEFAULT '',
    ended_since REAL
);
INSERT INTO "lease" VALUES(1,'ended','GPU-a',1073741824,10,'','',0.2,3600.0,1,'Ended','2030-01-01T00:00:00.000000Z','2030-01-01T01:00:00.000000Z',4600.0,1000.0,'released','2030-01-01T00:00:00.000000Z',1000.0);
INSERT INTO "lease" VALUES(2,'live','GPU-a',1073741824,10,'','',0.2,3600.0,2,'Active','2030-01-01T00:00:00.000000Z','2030-01-01T01:00:00.000000Z',4600.0,NULL,NULL,'',NULL);
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
INSERT INTO "meta" VALUES('boot','boot-1');
INSERT INTO "meta" VALUES('discovered','boot-1');
INSERT INTO "meta" VALUES('enforcement','1000.0');
CREATE TABLE process (
    lease TEXT NOT NULL,
    pid INTEGER NOT NULL,
    start INTEGER NOT NULL,
    role TEXT NOT NULL CHECK (role IN ('root', 'supervisor', 'holder')),
    PRIMARY KEY (lease, pid, start)
) WITHOUT ROWID;
CREATE TABLE session (
    lease TEXT NOT NULL,
    sid INTEGER NOT NULL,
    start INTEGER NOT NULL,
    PRIMARY KEY (lease, sid)
) WITHOUT ROWID;
CREATE INDEX by_state ON lease (state, deadline);
CREATE INDEX ended ON lease (ended_since) WHERE state = 'Ended';
CREATE TRIGGER taken AFTER INSERT ON lease BEGIN
    UPDATE device SET used_memory = used_memory + new.memory_bytes, used_compute = used_compute + new.compute,
        token = max(token, new.token) WHERE id = new.device_id;
END;
CREATE TRIGGER freed AFTER UPDATE OF state ON lease WHEN new.state = 'Ended' AND old.state <> 'Ended' BEGIN
    UPDATE device SET used_memory = used_memory - old.memory_bytes, used_compute = used_compute - old.compute
        WHERE id = old.device_id;
    DELETE FROM process WHERE lease = old.id;
    DELETE FROM session WHERE lease = old.id;
END;
COMMIT;
PRAGMA user_version=1;
