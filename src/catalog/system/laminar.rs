//! The views of schema `laminar`: what SHOW lists, as relations.
//!
//! Guarantee: no value of a secret, and no option that names one, shows more than the name.

use std::collections::HashMap;

use super::definitions;
use super::rows::{Rows, Value, row};
use crate::catalog::jobs::{CheckpointRecord, JobRecord, JobState};
use crate::catalog::objects::{Object, Pipeline, SecretSource, Table};
use crate::catalog::snapshot::CatalogSnapshot;
use crate::ids::Oid;
use crate::options::{RawOptionValue, RawOptions};
use arrow::array::RecordBatch;

/// What tables and pipelines promise about deliveries, in words, where that is known.
#[derive(Debug, Default)]
pub struct Deliveries {
    pub tables: HashMap<Oid, &'static str>,
    pub pipelines: HashMap<Oid, &'static str>,
}

/// The rows of `laminar.<name>`; `None` when there is no such view here. `jobs` and `checkpoints` may be those of any
/// pipelines, in any order.
pub fn laminar_rows(
    name: &str,
    snapshot: &CatalogSnapshot,
    jobs: &[JobRecord],
    checkpoints: &[CheckpointRecord],
    deliveries: &Deliveries,
) -> Option<RecordBatch> {
    let mut rows = Rows::of(definitions::find("laminar", name)?);
    match name {
        "pipelines" => pipelines(&mut rows, snapshot, jobs, checkpoints, deliveries),
        "jobs" => jobs.iter().for_each(|job| job_row(&mut rows, snapshot, job)),
        "checkpoints" => checkpoints
            .iter()
            .for_each(|checkpoint| checkpoint_row(&mut rows, snapshot, checkpoint)),
        "connections" => connections(&mut rows, snapshot),
        "secrets" => secrets(&mut rows, snapshot),
        "tables" => snapshot
            .tables()
            .for_each(|table| table_row(&mut rows, snapshot, table, deliveries)),
        "views" => views(&mut rows, snapshot),
        _ => return None,
    }
    Some(rows.finish())
}

fn pipelines(
    rows: &mut Rows,
    snapshot: &CatalogSnapshot,
    jobs: &[JobRecord],
    checkpoints: &[CheckpointRecord],
    deliveries: &Deliveries,
) {
    let mut latest_jobs: HashMap<Oid, &JobRecord> = HashMap::new();
    for job in jobs {
        let latest = latest_jobs.entry(job.pipeline).or_insert(job);
        if job.generation > latest.generation {
            *latest = job;
        }
    }
    let mut latest_checkpoints: HashMap<Oid, &CheckpointRecord> = HashMap::new();
    for checkpoint in checkpoints {
        let latest = latest_checkpoints.entry(checkpoint.pipeline).or_insert(checkpoint);
        if checkpoint.epoch > latest.epoch {
            *latest = checkpoint;
        }
    }
    for pipeline in snapshot.pipelines() {
        let oid = pipeline.header.oid;
        pipeline_row(
            rows,
            pipeline,
            latest_jobs.get(&oid).copied(),
            latest_checkpoints.get(&oid).copied(),
            deliveries.pipelines.get(&oid).copied(),
        );
    }
}

fn pipeline_row(
    rows: &mut Rows,
    pipeline: &Pipeline,
    job: Option<&JobRecord>,
    checkpoint: Option<&CheckpointRecord>,
    delivery: Option<&'static str>,
) {
    let header = &pipeline.header;
    let asked: Option<u32> = pipeline
        .options
        .text("parallelism")
        .and_then(|text| text.trim().parse().ok());
    row!(
        rows,
        name = &header.name,
        schema_name = header.schema.clone(),
        state = job.map_or(JobState::Created, |job| job.state).as_str(),
        last_error = job
            .and_then(|job| job.error.as_ref())
            .map(|error| error.message.clone()),
        id = &header.public_id,
        oid = header.oid,
        owner = &header.owner,
        job = job.map(|job| job.job.0.clone()),
        parallelism = job.map(|job| job.parallelism).or(asked),
        desired_running = pipeline.desired_running,
        materialized_view = pipeline.materialized_view,
        keeps_result = !pipeline.columns.is_empty(),
        delivery = delivery,
        unique_key = names(&pipeline.unique_key),
        checkpoint_epoch = checkpoint.map(|checkpoint| checkpoint.epoch.0),
        checkpoint_at = checkpoint.map(|checkpoint| checkpoint.finished_at),
        started_at = job.map(|job| job.started_at_micros),
        finished_at = job.and_then(|job| job.finished_at_micros),
        created_at = header.created_at_micros,
        updated_at = header.updated_at_micros,
        query = &pipeline.query,
        comment = header.comment.clone(),
    );
}

fn job_row(rows: &mut Rows, snapshot: &CatalogSnapshot, job: &JobRecord) {
    let pipeline = snapshot.get(job.pipeline).map(Object::header);
    row!(
        rows,
        job = &job.job.0,
        pipeline = pipeline.map(|header| header.name.clone()),
        pipeline_schema = pipeline.and_then(|header| header.schema.clone()),
        pipeline_oid = job.pipeline,
        generation = job.generation.0,
        state = job.state.as_str(),
        parallelism = job.parallelism,
        desired_running = job.desired_running,
        restored_epoch = job.restored_epoch.map(|epoch| epoch.0),
        started_at = job.started_at_micros,
        finished_at = job.finished_at_micros,
        error_code = job.error.as_ref().map(|error| error.code.as_str()),
        error = job.error.as_ref().map(|error| error.message.clone()),
        error_detail = job.error.as_ref().and_then(|error| error.detail.clone()),
        error_hint = job.error.as_ref().and_then(|error| error.hint.clone()),
    );
}

fn checkpoint_row(rows: &mut Rows, snapshot: &CatalogSnapshot, checkpoint: &CheckpointRecord) {
    let pipeline = snapshot.get(checkpoint.pipeline).map(Object::header);
    row!(
        rows,
        pipeline = pipeline.map(|header| header.name.clone()),
        pipeline_schema = pipeline.and_then(|header| header.schema.clone()),
        pipeline_oid = checkpoint.pipeline,
        epoch = checkpoint.epoch.0,
        id = &checkpoint.id,
        job = &checkpoint.job.0,
        generation = checkpoint.generation.0,
        kind = checkpoint.kind.as_str(),
        state_rows = checkpoint.state_rows,
        bytes = checkpoint.bytes,
        started_at = checkpoint.started_at,
        finished_at = checkpoint.finished_at,
        committed = checkpoint.committed,
        kept_label = checkpoint.kept_label.clone(),
        input_ended = checkpoint.final_,
        manifest_path = &checkpoint.manifest_path,
    );
}

fn connections(rows: &mut Rows, snapshot: &CatalogSnapshot) {
    for connection in snapshot.connections() {
        let header = &connection.header;
        row!(
            rows,
            name = &header.name,
            schema_name = header.schema.clone(),
            connector = &connection.connector,
            id = &header.public_id,
            oid = header.oid,
            owner = &header.owner,
            options = shown_options(&connection.options),
            description = connection.description.clone(),
            created_at = header.created_at_micros,
            updated_at = header.updated_at_micros,
            comment = header.comment.clone(),
        );
    }
}

fn secrets(rows: &mut Rows, snapshot: &CatalogSnapshot) {
    for object in snapshot.objects() {
        let Object::Secret(secret) = object else { continue };
        let header = &secret.header;
        let source = match &secret.source {
            SecretSource::Sealed(_) => "value".to_owned(),
            SecretSource::Environment(variable) => format!("environment {variable}"),
            SecretSource::File(path) => format!("file {path}"),
        };
        row!(
            rows,
            name = &header.name,
            schema_name = header.schema.clone(),
            source = source,
            id = &header.public_id,
            oid = header.oid,
            owner = &header.owner,
            created_at = header.created_at_micros,
            updated_at = header.updated_at_micros,
            comment = header.comment.clone(),
        );
    }
}

fn table_row(rows: &mut Rows, snapshot: &CatalogSnapshot, table: &Table, deliveries: &Deliveries) {
    let header = &table.header;
    let connection = table.connection.and_then(|oid| match snapshot.get(Oid(oid)) {
        Some(Object::Connection(connection)) => Some(connection),
        _ => None,
    });
    let connector = table
        .options
        .text("connector")
        .or(connection.map(|connection| connection.connector.as_str()));
    row!(
        rows,
        name = &header.name,
        schema_name = header.schema.clone(),
        connector = connector,
        connection = connection.map(|connection| connection.header.name.clone()),
        id = &header.public_id,
        oid = header.oid,
        owner = &header.owner,
        columns = i32::try_from(table.columns.len()).unwrap_or(i32::MAX),
        primary_key = names(&table.primary_key),
        watermark = table.watermark.as_ref().map(|watermark| match &watermark.expression {
            Some(expression) => format!("{} AS ({expression})", watermark.column),
            None => watermark.column.clone(),
        }),
        delivery = deliveries.tables.get(&header.oid).copied(),
        options = shown_options(&table.options),
        created_at = header.created_at_micros,
        updated_at = header.updated_at_micros,
        comment = header.comment.clone(),
    );
}

fn views(rows: &mut Rows, snapshot: &CatalogSnapshot) {
    for view in snapshot.views() {
        let header = &view.header;
        row!(
            rows,
            name = &header.name,
            schema_name = header.schema.clone(),
            id = &header.public_id,
            oid = header.oid,
            owner = &header.owner,
            query = &view.query,
            created_at = header.created_at_micros,
            updated_at = header.updated_at_micros,
            comment = header.comment.clone(),
        );
    }
}

fn names(names: &[String]) -> Value {
    if names.is_empty() {
        Value::Null
    } else {
        Value::from(names.to_vec())
    }
}

/// As the statement wrote them.
fn shown_options(options: &RawOptions) -> Vec<String> {
    let shown = |(name, value): &(String, RawOptionValue)| match value {
        RawOptionValue::Text(text) => format!("{name}={text}"),
        RawOptionValue::Secret(secret) => format!("{name}=SECRET {secret}"),
    };
    options.0.iter().map(shown).collect()
}
