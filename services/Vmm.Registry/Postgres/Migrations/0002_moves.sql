-- VMs that are to go from one worker to another while they run. The row holds their place on the target, and its presence is what
-- lets the move be committed; it goes with the commit, with either worker's loss or new beginning, and with the VM.

CREATE TABLE moves (
    ticket text PRIMARY KEY,
    vm text NOT NULL UNIQUE REFERENCES vms (name) ON DELETE CASCADE,
    source text NOT NULL REFERENCES workers (name),
    source_incarnation bigint NOT NULL,
    target text NOT NULL REFERENCES workers (name),
    target_incarnation bigint NOT NULL,
    -- Of the placement on the source.
    generation bigint NOT NULL,
    vcpus integer NOT NULL,
    memory_mib bigint NOT NULL,
    create_time timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE INDEX moves_source ON moves (source);
CREATE INDEX moves_target ON moves (target);

CREATE FUNCTION reserve_for_move() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'DELETE' THEN
        UPDATE workers SET
            reserved_vms = reserved_vms - 1,
            reserved_vcpus = reserved_vcpus - OLD.vcpus,
            reserved_memory_mib = reserved_memory_mib - OLD.memory_mib
        WHERE name = OLD.target;
    ELSE
        UPDATE workers SET
            reserved_vms = reserved_vms + 1,
            reserved_vcpus = reserved_vcpus + NEW.vcpus,
            reserved_memory_mib = reserved_memory_mib + NEW.memory_mib
        WHERE name = NEW.target;
    END IF;
    RETURN NULL;
END
$$;
CREATE TRIGGER moves_reserve AFTER INSERT OR DELETE ON moves
    FOR EACH ROW EXECUTE FUNCTION reserve_for_move();
