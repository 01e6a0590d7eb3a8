-- How many VMs each worker has in each state, so that counting those of a fleet reads a few rows of each worker and not one of each VM. VMs that
-- wait for a worker are not in here: they are few, and one row for all of them would be what every failover waits for.
CREATE TABLE vm_counts (
    worker text NOT NULL,
    -- 0 for VMs that an earlier version wrote last.
    state integer NOT NULL,
    vms bigint NOT NULL,
    PRIMARY KEY (worker, state)
) WITH (fillfactor = 50);

-- Rows are locked in order, and after those of workers: whoever changes VMs deletes them, and gives them workers, before anything else.
CREATE FUNCTION count_vms() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'INSERT' THEN
        INSERT INTO vm_counts (worker, state, vms)
        SELECT worker, coalesce(state, 0), count(*) FROM now WHERE vm IS NOT NULL AND worker IS NOT NULL GROUP BY 1, 2 ORDER BY 1, 2
        ON CONFLICT (worker, state) DO UPDATE SET vms = vm_counts.vms + excluded.vms;
    ELSIF TG_OP = 'DELETE' THEN
        INSERT INTO vm_counts (worker, state, vms)
        SELECT worker, coalesce(state, 0), -count(*) FROM before WHERE vm IS NOT NULL AND worker IS NOT NULL GROUP BY 1, 2 ORDER BY 1, 2
        ON CONFLICT (worker, state) DO UPDATE SET vms = vm_counts.vms + excluded.vms;
    ELSE
        INSERT INTO vm_counts (worker, state, vms)
        SELECT worker, state, sum(change) FROM (
            SELECT worker, coalesce(state, 0) AS state, 1 AS change FROM now WHERE vm IS NOT NULL AND worker IS NOT NULL
            UNION ALL
            SELECT worker, coalesce(state, 0), -1 FROM before WHERE vm IS NOT NULL AND worker IS NOT NULL) AS changes
        GROUP BY 1, 2 HAVING sum(change) <> 0 ORDER BY 1, 2
        ON CONFLICT (worker, state) DO UPDATE SET vms = vm_counts.vms + excluded.vms;
    END IF;
    RETURN NULL;
END
$$;
CREATE TRIGGER vms_count_insert AFTER INSERT ON vms
    REFERENCING NEW TABLE AS now FOR EACH STATEMENT EXECUTE FUNCTION count_vms();
CREATE TRIGGER vms_count_delete AFTER DELETE ON vms
    REFERENCING OLD TABLE AS before FOR EACH STATEMENT EXECUTE FUNCTION count_vms();
CREATE TRIGGER vms_count_update AFTER UPDATE ON vms
    REFERENCING OLD TABLE AS before NEW TABLE AS now FOR EACH STATEMENT EXECUTE FUNCTION count_vms();

-- The triggers hold off whoever would change VMs meanwhile.
INSERT INTO vm_counts (worker, state, vms)
SELECT worker, coalesce(state, 0), count(*) FROM vms WHERE vm IS NOT NULL AND worker IS NOT NULL GROUP BY 1, 2;
