//! The metadata store over SQL, written once for SQLite and Postgres.
//!
//! A driver gives transactions with `execute` and `query`; everything else is here. Statements use only what both
//! databases understand, and number their parameters in the order in which they first appear (SQLite binds by that).
//! A transaction that is dropped without `commit` is rolled back by the driver.

use std::sync::Arc;

use crate::catalog::error::{Error, Result};
use crate::catalog::jobs::{
    CheckpointKind, CheckpointRecord, Decision, InputEpoch, JobFilter, JobRecord, JobState, abandoned, error_from_json,
    error_to_json, inputs_from_json, inputs_to_json,
};
use crate::catalog::objects::Object;
use crate::catalog::snapshot::Namespace;
use crate::catalog::store::{CatalogStore, CommitOutcome, JOBS_KEPT, StoreTransaction, StoredCatalog};
use crate::ids::{Epoch, Generation, JobId, Oid};

/// A parameter or a column.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum SqlValue {
    Integer(Option<i64>),
    Text(Option<String>),
}

pub(crate) type SqlRow = Vec<SqlValue>;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    /// Sees one state of the database throughout.
    Read,
    Write,
}

/// A database that can run the statements of this file.
#[async_trait::async_trait]
pub(crate) trait SqlDriver: Send + Sync {
    fn kind(&self) -> &'static str;
    async fn migrate(&self) -> Result<()>;
    async fn begin(&self, access: Access) -> Result<Box<dyn SqlTransaction>>;
}

#[async_trait::async_trait]
pub(crate) trait SqlTransaction: Send {
    /// The number of rows changed.
    async fn execute(&mut self, sql: &'static str, parameters: Vec<SqlValue>) -> Result<u64>;
    async fn query(&mut self, sql: &'static str, parameters: Vec<SqlValue>) -> Result<Vec<SqlRow>>;
    async fn commit(self: Box<Self>) -> Result<()>;
}

pub(crate) struct SqlStore<D> {
    driver: D,
}

impl<D: SqlDriver> SqlStore<D> {
    pub(crate) fn new(driver: D) -> SqlStore<D> {
        SqlStore { driver }
    }

    async fn read(&self, sql: &'static str, parameters: Vec<SqlValue>) -> Result<Vec<SqlRow>> {
        let mut transaction = self.driver.begin(Access::Read).await?;
        let rows = transaction.query(sql, parameters).await?;
        transaction.commit().await?;
        Ok(rows)
    }

    async fn write(&self, statements: Vec<(&'static str, Vec<SqlValue>)>) -> Result<u64> {
        let mut transaction = self.driver.begin(Access::Write).await?;
        let mut changed = 0;
        for (sql, parameters) in statements {
            changed += transaction.execute(sql, parameters).await?;
        }
        transaction.commit().await?;
        Ok(changed)
    }
}

#[async_trait::async_trait]
impl<D: SqlDriver> CatalogStore for SqlStore<D> {
    fn kind(&self) -> &'static str {
        self.driver.kind()
    }

    async fn migrate(&self) -> Result<()> {
        self.driver.migrate().await
    }

    async fn load(&self) -> Result<StoredCatalog> {
        let mut transaction = self.driver.begin(Access::Read).await?;
        let head = transaction
            .query("SELECT version, next_oid FROM laminar_catalog WHERE id = 1", vec![])
            .await?;
        let rows = transaction
            .query("SELECT oid, definition FROM laminar_object ORDER BY oid", vec![])
            .await?;
        let edges = transaction
            .query(
                "SELECT oid, depends_on FROM laminar_dependency ORDER BY oid, depends_on",
                vec![],
            )
            .await?;
        transaction.commit().await?;
        let head = head.first().ok_or_else(|| Error::Corrupted {
            place: "laminar_catalog".into(),
            reason: "its row is missing".into(),
        })?;
        Ok(StoredCatalog {
            version: unsigned(head, 0)?,
            next_oid: oid(head, 1)?.0,
            objects: objects_of(&rows, &edges)?,
        })
    }

    async fn version(&self) -> Result<u64> {
        let rows = self
            .read("SELECT version FROM laminar_catalog WHERE id = 1", vec![])
            .await?;
        rows.first().map_or(Ok(0), |row| unsigned(row, 0))
    }

    async fn commit(&self, change: StoreTransaction) -> Result<CommitOutcome> {
        let mut transaction = self.driver.begin(Access::Write).await?;
        // Also takes the lock under which the rest of the transaction is alone.
        let raised = transaction
            .execute(
                "UPDATE laminar_catalog SET version = version + 1, next_oid = $1 WHERE id = 1 AND version = $2",
                vec![integer(change.next_oid), integer(change.expected_version)],
            )
            .await?;
        if raised == 0 {
            return Ok(CommitOutcome::VersionChanged);
        }
        for oid in &change.deletes {
            delete_object(transaction.as_mut(), *oid).await?;
        }
        // Those replaced go first, so that two objects of one statement can swap names.
        for (object, _) in &change.upserts {
            delete_object(transaction.as_mut(), object.oid()).await?;
        }
        for (object, depends_on) in &change.upserts {
            insert_object(transaction.as_mut(), object, depends_on).await?;
        }
        transaction.commit().await?;
        Ok(CommitOutcome::Committed)
    }

    async fn begin_generation(
        &self,
        pipeline: Oid,
        mut job: JobRecord,
        last: Option<Generation>,
    ) -> Result<Generation> {
        job.pipeline = pipeline;
        // Lost races are over in a moment: whoever won has raised the generation by then.
        for _ in 0..16 {
            let mut transaction = self.driver.begin(Access::Write).await?;
            transaction
                .execute(
                    "INSERT INTO laminar_pipeline_run (pipeline, generation, epoch) VALUES ($1, 0, 0) \
                     ON CONFLICT (pipeline) DO NOTHING",
                    vec![integer(pipeline.0)],
                )
                .await?;
            let rows = transaction
                .query(
                    "SELECT generation FROM laminar_pipeline_run WHERE pipeline = $1",
                    vec![integer(pipeline.0)],
                )
                .await?;
            let Some(row) = rows.first() else { continue };
            let seen = Generation(unsigned(row, 0)?);
            if is_job_of(transaction.as_mut(), &job, seen).await? {
                return Ok(seen);
            }
            if last.is_some_and(|last| last != seen) {
                return Err(Error::Replaced);
            }
            job.generation = seen.next();
            let raised = transaction
                .execute(
                    "UPDATE laminar_pipeline_run SET generation = $1 WHERE pipeline = $2 AND generation = $3",
                    vec![integer(job.generation.0), integer(pipeline.0), integer(seen.0)],
                )
                .await?;
            if raised == 1 {
                record_job(transaction.as_mut(), &job).await?;
                transaction.commit().await?;
                return Ok(job.generation);
            }
        }
        Err(Error::Contention { attempts: 16 })
    }

    async fn generation(&self, pipeline: Oid) -> Result<Option<Generation>> {
        let sql = "SELECT generation FROM laminar_pipeline_run WHERE pipeline = $1";
        let rows = self.read(sql, vec![integer(pipeline.0)]).await?;
        rows.first().map(|row| unsigned(row, 0).map(Generation)).transpose()
    }

    async fn decide_epoch(&self, checkpoint: CheckpointRecord) -> Result<Decision> {
        let mut transaction = self.driver.begin(Access::Write).await?;
        let decided = transaction
            .execute(
                "UPDATE laminar_pipeline_run SET epoch = $1 WHERE pipeline = $2 AND generation = $3 AND epoch < $1",
                vec![
                    integer(checkpoint.epoch.0),
                    integer(checkpoint.pipeline.0),
                    integer(checkpoint.generation.0),
                ],
            )
            .await?;
        if decided == 1 {
            transaction
                .execute(INSERT_CHECKPOINT, checkpoint_parameters(&checkpoint))
                .await?;
            transaction.commit().await?;
            return Ok(Decision::Committed);
        }
        let before = transaction
            .query(
                "SELECT epoch FROM laminar_checkpoint \
                 WHERE pipeline = $1 AND epoch = $2 AND generation = $3 AND id = $4",
                vec![
                    integer(checkpoint.pipeline.0),
                    integer(checkpoint.epoch.0),
                    integer(checkpoint.generation.0),
                    text(&checkpoint.id),
                ],
            )
            .await?;
        transaction.commit().await?;
        Ok(if before.is_empty() {
            Decision::Fenced
        } else {
            Decision::Committed
        })
    }

    async fn mark_committed(&self, pipeline: Oid, epoch: Epoch) -> Result<()> {
        let sql = "UPDATE laminar_checkpoint SET committed = 1 WHERE pipeline = $1 AND epoch <= $2 AND committed = 0";
        self.write(vec![(sql, vec![integer(pipeline.0), integer(epoch.0)])])
            .await?;
        Ok(())
    }

    async fn latest_checkpoints(&self, pipeline: Oid, limit: usize) -> Result<Vec<CheckpointRecord>> {
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let parameters = vec![integer(pipeline.0), SqlValue::Integer(Some(limit))];
        let rows = self.read(SELECT_CHECKPOINTS, parameters).await?;
        rows.iter().map(checkpoint_of).collect()
    }

    async fn label_checkpoint(&self, pipeline: Oid, epoch: Epoch, label: Option<String>) -> Result<Decision> {
        let sql = "UPDATE laminar_checkpoint SET kept_label = $1 WHERE pipeline = $2 AND epoch = $3";
        let parameters = vec![SqlValue::Text(label), integer(pipeline.0), integer(epoch.0)];
        Ok(decision(self.write(vec![(sql, parameters)]).await?))
    }

    async fn epochs_needed_of(&self, pipeline: Oid) -> Result<Vec<Epoch>> {
        let sql = "SELECT inputs FROM laminar_checkpoint WHERE inputs <> '[]'";
        let mut epochs = Vec::new();
        for row in self.read(sql, vec![]).await? {
            let inputs = inputs_at(&row, 0)?;
            let needed = inputs.into_iter().filter(|input| input.pipeline == pipeline);
            epochs.extend(needed.map(|input| input.epoch));
        }
        Ok(epochs)
    }

    async fn delete_checkpoints(&self, pipeline: Oid, epochs: &[Epoch]) -> Result<()> {
        let sql = "DELETE FROM laminar_checkpoint WHERE pipeline = $1 AND epoch = $2";
        let delete = |epoch: &Epoch| (sql, vec![integer(pipeline.0), integer(epoch.0)]);
        self.write(epochs.iter().map(delete).collect()).await?;
        Ok(())
    }

    async fn update_job(&self, job: JobRecord) -> Result<Decision> {
        let sql = "UPDATE laminar_job SET state = $1, desired_running = $2, started_at = $3, finished_at = $4, \
                   restored_epoch = $5, parallelism = $6, error = $7 WHERE job = $8 AND generation = $9 AND EXISTS \
                   (SELECT 1 FROM laminar_pipeline_run r WHERE r.pipeline = laminar_job.pipeline AND r.generation = $9)";
        let parameters = vec![
            text(job.state.as_str()),
            integer(job.desired_running),
            SqlValue::Integer(Some(job.started_at_micros)),
            SqlValue::Integer(job.finished_at_micros),
            SqlValue::Integer(job.restored_epoch.map(|epoch| signed(epoch.0))),
            integer(job.parallelism),
            SqlValue::Text(job.error.as_ref().map(error_to_json)),
            text(&job.job.0),
            integer(job.generation.0),
        ];
        Ok(decision(self.write(vec![(sql, parameters)]).await?))
    }

    async fn jobs(&self, filter: JobFilter) -> Result<Vec<JobRecord>> {
        let parameters = vec![
            integer(filter.pipeline.map_or(0, |pipeline| pipeline.0)),
            integer(filter.latest_only),
        ];
        let rows = self.read(SELECT_JOBS, parameters).await?;
        rows.iter().map(job_of).collect()
    }

    async fn pipelines_with_records(&self) -> Result<Vec<Oid>> {
        let sql = "SELECT pipeline FROM laminar_pipeline_run UNION SELECT pipeline FROM laminar_job \
                   UNION SELECT pipeline FROM laminar_checkpoint ORDER BY 1";
        self.read(sql, vec![]).await?.iter().map(|row| oid(row, 0)).collect()
    }

    async fn drop_pipeline_records(&self, pipeline: Oid) -> Result<()> {
        let parameters = || vec![integer(pipeline.0)];
        self.write(vec![
            ("DELETE FROM laminar_pipeline_run WHERE pipeline = $1", parameters()),
            ("DELETE FROM laminar_job WHERE pipeline = $1", parameters()),
            ("DELETE FROM laminar_checkpoint WHERE pipeline = $1", parameters()),
        ])
        .await?;
        Ok(())
    }

    async fn ping(&self) -> Result<()> {
        self.version().await.map(|_| ())
    }
}

const INSERT_CHECKPOINT: &str = "INSERT INTO laminar_checkpoint (pipeline, epoch, generation, id, job, manifest_path, \
    kind, state_rows, bytes, started_at, finished_at, committed, kept_label, input_ended, \
    inputs) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15)";

const SELECT_CHECKPOINTS: &str = "SELECT pipeline, epoch, generation, id, job, manifest_path, kind, state_rows, bytes, \
    started_at, finished_at, committed, kept_label, input_ended, inputs \
    FROM laminar_checkpoint WHERE pipeline = $1 ORDER BY epoch DESC LIMIT $2";

const INSERT_JOB: &str = "INSERT INTO laminar_job (job, pipeline, generation, state, desired_running, started_at, \
    finished_at, restored_epoch, parallelism, error) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)";

/// `$1` = 0: of every pipeline. `$2` = 1: the newest of each.
const SELECT_JOBS: &str = "SELECT job, pipeline, generation, state, desired_running, started_at, finished_at, \
    restored_epoch, parallelism, error FROM laminar_job j WHERE ($1 = 0 OR pipeline = $1) AND ($2 = 0 OR EXISTS \
    (SELECT 1 FROM laminar_pipeline_run r WHERE r.pipeline = j.pipeline AND r.generation = j.generation)) \
    ORDER BY started_at DESC, pipeline DESC, generation DESC";

async fn delete_object(transaction: &mut dyn SqlTransaction, oid: Oid) -> Result<()> {
    for sql in [
        "DELETE FROM laminar_object WHERE oid = $1",
        "DELETE FROM laminar_dependency WHERE oid = $1",
    ] {
        transaction.execute(sql, vec![integer(oid.0)]).await?;
    }
    Ok(())
}

async fn insert_object(transaction: &mut dyn SqlTransaction, object: &Arc<Object>, depends_on: &[Oid]) -> Result<()> {
    let header = object.header();
    let definition = serde_json::to_string(object.as_ref())
        .map_err(|error| Error::Internal(format!("could not write {}: {error}", header.name)))?;
    let parameters = vec![
        integer(header.oid.0),
        text(object.kind().word()),
        text(Namespace::of(object.kind()).as_str()),
        text(header.schema.as_deref().unwrap_or_default()),
        text(&header.name),
        text(&header.public_id),
        SqlValue::Text(Some(definition)),
    ];
    let sql = "INSERT INTO laminar_object (oid, kind, namespace, schema_name, name, public_id, definition) \
               VALUES ($1, $2, $3, $4, $5, $6, $7)";
    transaction.execute(sql, parameters).await?;
    for dependency in depends_on {
        let sql = "INSERT INTO laminar_dependency (oid, depends_on) VALUES ($1, $2)";
        let parameters = vec![integer(header.oid.0), integer(dependency.0)];
        transaction.execute(sql, parameters).await?;
    }
    Ok(())
}

/// Whether `generation` was begun for this very job.
async fn is_job_of(transaction: &mut dyn SqlTransaction, job: &JobRecord, generation: Generation) -> Result<bool> {
    let sql = "SELECT job FROM laminar_job WHERE job = $1 AND pipeline = $2 AND generation = $3";
    let parameters = vec![text(&job.job.0), integer(job.pipeline.0), integer(generation.0)];
    Ok(!transaction.query(sql, parameters).await?.is_empty())
}

/// Closes what earlier runs left open, forgets the oldest, adds `job`.
async fn record_job(transaction: &mut dyn SqlTransaction, job: &JobRecord) -> Result<()> {
    let close = "UPDATE laminar_job SET state = $1, finished_at = $2, error = $3 \
                 WHERE pipeline = $4 AND state NOT IN ('Stopped', 'Failed', 'Finished')";
    let parameters = vec![
        text(JobState::Failed.as_str()),
        SqlValue::Integer(Some(job.started_at_micros)),
        SqlValue::Text(Some(error_to_json(&abandoned()))),
        integer(job.pipeline.0),
    ];
    transaction.execute(close, parameters).await?;
    let oldest = job.generation.0.saturating_sub(JOBS_KEPT);
    let forget = "DELETE FROM laminar_job WHERE pipeline = $1 AND generation <= $2";
    transaction
        .execute(forget, vec![integer(job.pipeline.0), integer(oldest)])
        .await?;
    let parameters = vec![
        text(&job.job.0),
        integer(job.pipeline.0),
        integer(job.generation.0),
        text(job.state.as_str()),
        integer(job.desired_running),
        SqlValue::Integer(Some(job.started_at_micros)),
        SqlValue::Integer(job.finished_at_micros),
        SqlValue::Integer(job.restored_epoch.map(|epoch| signed(epoch.0))),
        integer(job.parallelism),
        SqlValue::Text(job.error.as_ref().map(error_to_json)),
    ];
    transaction.execute(INSERT_JOB, parameters).await?;
    Ok(())
}

fn checkpoint_parameters(checkpoint: &CheckpointRecord) -> Vec<SqlValue> {
    vec![
        integer(checkpoint.pipeline.0),
        integer(checkpoint.epoch.0),
        integer(checkpoint.generation.0),
        text(&checkpoint.id),
        text(&checkpoint.job.0),
        text(&checkpoint.manifest_path),
        text(checkpoint.kind.as_str()),
        integer(checkpoint.state_rows),
        integer(checkpoint.bytes),
        SqlValue::Integer(Some(checkpoint.started_at)),
        SqlValue::Integer(Some(checkpoint.finished_at)),
        integer(checkpoint.committed),
        SqlValue::Text(checkpoint.kept_label.clone()),
        integer(checkpoint.final_),
        text(&inputs_to_json(&checkpoint.inputs)),
    ]
}

fn inputs_at(row: &SqlRow, column: usize) -> Result<Vec<InputEpoch>> {
    let json = text_at(row, column)?;
    inputs_from_json(json).ok_or_else(|| unreadable("laminar_checkpoint", json))
}

fn checkpoint_of(row: &SqlRow) -> Result<CheckpointRecord> {
    let kind = text_at(row, 6)?;
    Ok(CheckpointRecord {
        pipeline: oid(row, 0)?,
        epoch: Epoch(unsigned(row, 1)?),
        generation: Generation(unsigned(row, 2)?),
        id: text_at(row, 3)?.to_owned(),
        job: JobId(text_at(row, 4)?.to_owned()),
        manifest_path: text_at(row, 5)?.to_owned(),
        kind: CheckpointKind::parse(kind).ok_or_else(|| unreadable("laminar_checkpoint", kind))?,
        state_rows: unsigned(row, 7)?,
        bytes: unsigned(row, 8)?,
        started_at: integer_at(row, 9)?,
        finished_at: integer_at(row, 10)?,
        committed: integer_at(row, 11)? != 0,
        kept_label: optional_text_at(row, 12)?.map(str::to_owned),
        final_: integer_at(row, 13)? != 0,
        inputs: inputs_at(row, 14)?,
    })
}

fn job_of(row: &SqlRow) -> Result<JobRecord> {
    let state = text_at(row, 3)?;
    let error = optional_text_at(row, 9)?
        .map(|json| error_from_json(json).ok_or_else(|| unreadable("laminar_job", json)))
        .transpose()?;
    Ok(JobRecord {
        job: JobId(text_at(row, 0)?.to_owned()),
        pipeline: oid(row, 1)?,
        generation: Generation(unsigned(row, 2)?),
        state: JobState::parse(state).ok_or_else(|| unreadable("laminar_job", state))?,
        desired_running: integer_at(row, 4)? != 0,
        started_at_micros: integer_at(row, 5)?,
        finished_at_micros: optional_integer_at(row, 6)?,
        restored_epoch: optional_integer_at(row, 7)?.map(|epoch| Epoch(epoch.unsigned_abs())),
        parallelism: u32::try_from(unsigned(row, 8)?).map_err(|_| unreadable("laminar_job", "parallelism"))?,
        error,
    })
}

fn objects_of(rows: &[SqlRow], edges: &[SqlRow]) -> Result<Vec<(Object, Vec<Oid>)>> {
    let mut edges = edges.iter().peekable();
    let mut objects = Vec::with_capacity(rows.len());
    for row in rows {
        let object_oid = oid(row, 0)?;
        let object: Object = serde_json::from_str(text_at(row, 1)?).map_err(|error| Error::Corrupted {
            place: format!("the definition of object {object_oid}"),
            reason: error.to_string(),
        })?;
        let mut depends_on = Vec::new();
        while let Some(edge) = edges.peek() {
            if oid(edge, 0)? > object_oid {
                break;
            }
            if oid(edge, 0)? == object_oid {
                depends_on.push(oid(edge, 1)?);
            }
            edges.next();
        }
        objects.push((object, depends_on));
    }
    Ok(objects)
}

fn decision(changed: u64) -> Decision {
    if changed == 0 {
        Decision::Fenced
    } else {
        Decision::Committed
    }
}

trait Number {
    fn into_i64(self) -> i64;
}

impl Number for u32 {
    fn into_i64(self) -> i64 {
        i64::from(self)
    }
}

impl Number for u64 {
    fn into_i64(self) -> i64 {
        signed(self)
    }
}

impl Number for bool {
    fn into_i64(self) -> i64 {
        i64::from(self)
    }
}

fn integer(number: impl Number) -> SqlValue {
    SqlValue::Integer(Some(number.into_i64()))
}

/// Counters start at zero and grow by one: the upper half of u64 is never reached.
fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn text(text: &str) -> SqlValue {
    SqlValue::Text(Some(text.to_owned()))
}

fn unreadable(place: &str, what: &str) -> Error {
    Error::Corrupted {
        place: place.to_owned(),
        reason: format!("\"{what}\" is not understood"),
    }
}

fn optional_integer_at(row: &SqlRow, column: usize) -> Result<Option<i64>> {
    match row.get(column) {
        Some(SqlValue::Integer(number)) => Ok(*number),
        // SQLite's NULL has no type.
        Some(SqlValue::Text(None)) => Ok(None),
        other => Err(Error::Internal(format!("column {column} is {other:?}, not a number"))),
    }
}

fn integer_at(row: &SqlRow, column: usize) -> Result<i64> {
    optional_integer_at(row, column)?.ok_or_else(|| Error::Internal(format!("column {column} is NULL")))
}

fn unsigned(row: &SqlRow, column: usize) -> Result<u64> {
    let number = integer_at(row, column)?;
    u64::try_from(number).map_err(|_| unreadable("a counter", &number.to_string()))
}

fn oid(row: &SqlRow, column: usize) -> Result<Oid> {
    let number = integer_at(row, column)?;
    u32::try_from(number)
        .map(Oid)
        .map_err(|_| unreadable("an OID", &number.to_string()))
}

fn optional_text_at(row: &SqlRow, column: usize) -> Result<Option<&str>> {
    match row.get(column) {
        Some(SqlValue::Text(text)) => Ok(text.as_deref()),
        other => Err(Error::Internal(format!("column {column} is {other:?}, not text"))),
    }
}

fn text_at(row: &SqlRow, column: usize) -> Result<&str> {
    optional_text_at(row, column)?.ok_or_else(|| Error::Internal(format!("column {column} is NULL")))
}
