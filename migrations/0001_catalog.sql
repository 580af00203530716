-- The metadata store. One portable set for SQLite and Postgres: only BIGINT and TEXT, no engine's own syntax.
-- Forward only: a file that was released is never edited, a new one is added.

-- One row: the version that every change compares and raises, and the next OID to give.
CREATE TABLE laminar_catalog (
    id BIGINT NOT NULL PRIMARY KEY,
    version BIGINT NOT NULL,
    next_oid BIGINT NOT NULL
);
INSERT INTO laminar_catalog (id, version, next_oid) VALUES (1, 0, 16384);

-- One row an object. The columns beside the definition exist for people and for the uniqueness of names: relations share
-- one namespace. A schema has the empty schema name.
CREATE TABLE laminar_object (
    oid BIGINT NOT NULL PRIMARY KEY,
    kind TEXT NOT NULL,
    namespace TEXT NOT NULL,
    schema_name TEXT NOT NULL,
    name TEXT NOT NULL,
    public_id TEXT NOT NULL UNIQUE,
    definition TEXT NOT NULL,
    UNIQUE (namespace, schema_name, name)
);

CREATE TABLE laminar_dependency (
    oid BIGINT NOT NULL,
    depends_on BIGINT NOT NULL,
    PRIMARY KEY (oid, depends_on)
);

-- The fence of a pipeline: which run may decide epochs, and which epoch was decided last.
CREATE TABLE laminar_pipeline_run (
    pipeline BIGINT NOT NULL PRIMARY KEY,
    generation BIGINT NOT NULL,
    epoch BIGINT NOT NULL
);

CREATE TABLE laminar_job (
    job TEXT NOT NULL PRIMARY KEY,
    pipeline BIGINT NOT NULL,
    generation BIGINT NOT NULL,
    state TEXT NOT NULL,
    desired_running BIGINT NOT NULL,
    started_at BIGINT NOT NULL,
    finished_at BIGINT,
    restored_epoch BIGINT,
    parallelism BIGINT NOT NULL,
    error TEXT
);
CREATE INDEX laminar_job_by_pipeline ON laminar_job (pipeline, generation);

CREATE TABLE laminar_checkpoint (
    pipeline BIGINT NOT NULL,
    epoch BIGINT NOT NULL,
    generation BIGINT NOT NULL,
    id TEXT NOT NULL UNIQUE,
    job TEXT NOT NULL,
    manifest_path TEXT NOT NULL,
    kind TEXT NOT NULL,
    state_rows BIGINT NOT NULL,
    bytes BIGINT NOT NULL,
    started_at BIGINT NOT NULL,
    finished_at BIGINT NOT NULL,
    committed BIGINT NOT NULL,
    kept_label TEXT,
    input_ended BIGINT NOT NULL,
    PRIMARY KEY (pipeline, epoch)
);
