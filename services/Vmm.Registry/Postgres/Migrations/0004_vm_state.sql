-- What state a VM is in, as in its record: for counting. Null in rows that an earlier version wrote last.
ALTER TABLE vms ADD COLUMN state integer;
