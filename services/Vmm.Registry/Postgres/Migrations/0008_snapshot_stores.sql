-- Whether a worker has a directory that workers share, where checkpoints are kept. Null of one that does not say.
ALTER TABLE workers ADD COLUMN snapshot_store boolean;
