-- The registry of a fleet. Messages of the API are kept as they are on the wire; what is searched by has a column of its own.

-- One row: whose history the positions of watches are positions in.
CREATE TABLE registry (
    epoch text NOT NULL
);
INSERT INTO registry (epoch) VALUES (replace(gen_random_uuid()::text, '-', ''));

CREATE SEQUENCE incarnations;

CREATE TABLE workers (
    name text PRIMARY KEY,
    directory text NOT NULL,
    address text NOT NULL,
    version text NOT NULL,
    incarnation bigint NOT NULL,
    labels jsonb NOT NULL,
    engines integer[] NOT NULL,
    state integer NOT NULL,
    capacity_vms integer NOT NULL,
    capacity_vcpus integer NOT NULL,
    capacity_memory_mib bigint NOT NULL,
    -- Kept by the trigger below.
    reserved_vms integer NOT NULL DEFAULT 0,
    reserved_vcpus bigint NOT NULL DEFAULT 0,
    reserved_memory_mib bigint NOT NULL DEFAULT 0,
    running_vms integer NOT NULL DEFAULT 0,
    register_time timestamptz NOT NULL,
    lease_until timestamptz NOT NULL,
    -- The end of the lease has been acted on.
    lost boolean NOT NULL DEFAULT false
);

CREATE TABLE vms (
    name text PRIMARY KEY,
    project text NOT NULL,
    generation bigint NOT NULL,
    -- Null while the VM waits for another worker than the one that was lost.
    worker text REFERENCES workers (name),
    vcpus integer NOT NULL,
    memory_mib bigint NOT NULL,
    labels jsonb NOT NULL,
    spec bytea NOT NULL,
    -- As its worker reported it last; null until it is made.
    vm bytea,
    -- Placed again, and not yet reported by its new worker.
    moving boolean NOT NULL DEFAULT false,
    -- Goes to another worker when its own is lost.
    moves boolean NOT NULL,
    request_id text,
    fingerprint bytea,
    create_time timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE INDEX vms_project ON vms (project, name);
CREATE INDEX vms_worker ON vms (worker);
CREATE INDEX vms_unplaced ON vms (name) WHERE worker IS NULL;
CREATE INDEX vms_pending ON vms (create_time) WHERE vm IS NULL;
CREATE INDEX vms_labels ON vms USING gin (labels jsonb_path_ops);

CREATE FUNCTION reserve_for_vm() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP <> 'INSERT' AND OLD.worker IS NOT NULL THEN
        UPDATE workers SET
            reserved_vms = reserved_vms - 1,
            reserved_vcpus = reserved_vcpus - OLD.vcpus,
            reserved_memory_mib = reserved_memory_mib - OLD.memory_mib
        WHERE name = OLD.worker;
    END IF;
    IF TG_OP <> 'DELETE' AND NEW.worker IS NOT NULL THEN
        UPDATE workers SET
            reserved_vms = reserved_vms + 1,
            reserved_vcpus = reserved_vcpus + NEW.vcpus,
            reserved_memory_mib = reserved_memory_mib + NEW.memory_mib
        WHERE name = NEW.worker;
    END IF;
    RETURN NULL;
END
$$;
CREATE TRIGGER vms_reserve AFTER INSERT OR DELETE OR UPDATE OF worker ON vms
    FOR EACH ROW EXECUTE FUNCTION reserve_for_vm();

CREATE TABLE images (
    name text NOT NULL,
    worker text NOT NULL REFERENCES workers (name),
    project text NOT NULL,
    image bytea NOT NULL,
    PRIMARY KEY (name, worker)
);
CREATE INDEX images_project ON images (project, name);
CREATE INDEX images_worker ON images (worker);

CREATE TABLE snapshots (
    name text PRIMARY KEY,
    worker text NOT NULL REFERENCES workers (name),
    project text NOT NULL,
    snapshot bytea NOT NULL
);
CREATE INDEX snapshots_project ON snapshots (project, name);
CREATE INDEX snapshots_worker ON snapshots (worker);

CREATE TABLE requests (
    project text NOT NULL,
    request_id text NOT NULL,
    fingerprint bytea NOT NULL,
    response bytea NOT NULL,
    complete_time timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (project, request_id)
);
CREATE INDEX requests_age ON requests (complete_time);

-- How far the history of each project has come. Its row is locked by whoever adds to it, so that sequences have no gaps and are
-- seen in order.
CREATE TABLE projects (
    name text PRIMARY KEY,
    sequence bigint NOT NULL
);

CREATE TABLE vm_events (
    project text NOT NULL,
    sequence bigint NOT NULL,
    time timestamptz NOT NULL DEFAULT clock_timestamp(),
    before bytea,
    after bytea,
    PRIMARY KEY (project, sequence)
);

CREATE TABLE worker_events (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    time timestamptz NOT NULL DEFAULT clock_timestamp(),
    worker text NOT NULL,
    incarnation bigint NOT NULL,
    event text NOT NULL
);
