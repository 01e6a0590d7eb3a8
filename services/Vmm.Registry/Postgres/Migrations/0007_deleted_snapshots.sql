-- Snapshots that were deleted while their worker was lost, which has files of them when it comes back; workers that share a directory remove what is in that.
CREATE TABLE deleted_snapshots (
    uid text PRIMARY KEY,
    worker text NOT NULL,
    delete_time timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE INDEX deleted_snapshots_worker ON deleted_snapshots (worker);
CREATE INDEX deleted_snapshots_age ON deleted_snapshots (delete_time);
