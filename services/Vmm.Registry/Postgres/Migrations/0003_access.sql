-- Projects with quotas, tokens, and the audit log.

-- The message, with its name left out; null where there is no such project, or not any more: its history goes on if it is made again.
ALTER TABLE projects ADD COLUMN record bytea;
ALTER TABLE projects ALTER COLUMN sequence SET DEFAULT 0;
-- Projects existed without being created.
INSERT INTO projects (name) SELECT project FROM vms UNION SELECT project FROM images UNION SELECT project FROM snapshots UNION SELECT 'projects/default'
    ON CONFLICT DO NOTHING;
UPDATE projects SET record = '';

-- Images that are being uploaded, and count as there.
CREATE TABLE image_uploads (
    name text PRIMARY KEY,
    project text NOT NULL,
    begin_time timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE INDEX image_uploads_project ON image_uploads (project);

CREATE TABLE tokens (
    name text PRIMARY KEY,
    -- Empty for all.
    project text NOT NULL,
    token bytea NOT NULL,
    secret_sha256 bytea NOT NULL,
    create_time timestamptz NOT NULL DEFAULT clock_timestamp(),
    expire_time timestamptz,
    last_use_time timestamptz,
    request_id text NOT NULL,
    fingerprint bytea NOT NULL
);
CREATE INDEX tokens_project ON tokens (project);

CREATE TABLE audit_entries (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    time timestamptz NOT NULL DEFAULT clock_timestamp(),
    project text NOT NULL,
    entry bytea NOT NULL
);
CREATE INDEX audit_entries_project ON audit_entries (project, id);
CREATE INDEX audit_entries_age ON audit_entries (time);
