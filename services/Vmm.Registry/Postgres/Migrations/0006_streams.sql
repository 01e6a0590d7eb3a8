-- Streams under way in projects, and the front ends that have them. What a front end has counts as long as it renews its lease.
CREATE TABLE stream_holders (
    name text PRIMARY KEY,
    lease_until timestamptz NOT NULL
) WITH (fillfactor = 50);

-- One of a holder that is not there counts as little as one whose lease has ended.
CREATE TABLE streams (
    id text PRIMARY KEY,
    holder text NOT NULL,
    project text NOT NULL
);
CREATE INDEX streams_project ON streams (project);
CREATE INDEX streams_holder ON streams (holder);
