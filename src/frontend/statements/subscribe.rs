//! SUBSCRIBE: the rows of a result and then every change of it, as rows with an epoch and a sign.
//!
//! Columns: `lm_epoch`, with PROGRESS `lm_progressed`, `lm_diff`, then the result's; with ENVELOPE those of
//! [`envelope`](super::envelope), which wait for the end of each epoch. A subscription ends when its pipeline does.

use std::sync::Arc;

use arrow::array::{ArrayRef, BooleanArray, Int64Array, RecordBatch, new_null_array};
use arrow::datatypes::{DataType, Field, FieldRef, Schema, SchemaRef};
use futures::StreamExt;

use crate::catalog::objects::Object;
use crate::catalog::snapshot::QualifiedName;
use crate::engine::coordinator::foreground::ForegroundJob;
use crate::engine::message::{Chunk, Weights};
use crate::engine::results::{PipelineResult, Subscription};
use crate::error::{ErrorReport, Report, SqlState};
use crate::frontend::error::{Error, Result};
use crate::frontend::response::{Response, Rows, RowsTag};
use crate::frontend::session::Session;
use crate::frontend::sql::identifier::quote;
use crate::frontend::sql::statement::{QueryText, Subscribe, SubscribeTarget};
use crate::frontend::statements::envelope::KeyedForm;
use crate::frontend::statements::query;
use crate::frontend::statements::query_kind::reads_streams;
use crate::ids::{Epoch, Oid};

pub async fn subscribe(session: &mut Session, subscribe: &Subscribe, source: &str) -> Result<Response> {
    let (schema, rows) = changes(session, subscribe, source).await?;
    Ok(Response::Rows {
        schema,
        rows,
        tag: RowsTag::Counted("SUBSCRIBE"),
    })
}

/// The columns without running anything.
pub(crate) fn columns(session: &Session, subscribe: &Subscribe, source: &str) -> Result<SchemaRef> {
    let schema = match &subscribe.target {
        SubscribeTarget::Relation(name) => {
            let (_, pipeline) = find(session, name)?;
            Arc::clone(result_of(session, pipeline, name)?.schema())
        }
        SubscribeTarget::Query(query) => compile(session, query, source)?.0,
    };
    Ok(Form::of(subscribe, &schema)?.schema)
}

/// The stream of changes.
pub(crate) async fn changes(session: &mut Session, subscribe: &Subscribe, source: &str) -> Result<(SchemaRef, Rows)> {
    match &subscribe.target {
        SubscribeTarget::Relation(name) => {
            let (_, pipeline) = find(session, name)?;
            query::wait_for_results(session, &[pipeline]).await;
            let result = result_of(session, pipeline, name)?;
            check_epoch(subscribe, &result)?;
            let form = Form::of(subscribe, result.schema())?;
            let subscription = result.subscribe(subscribe.snapshot);
            Ok((Arc::clone(&form.schema), follow(subscription, form)))
        }
        SubscribeTarget::Query(query) => {
            let (output, graph) = compile(session, query, source)?;
            let form = Form::of(subscribe, &output)?;
            let job = session.server.coordinator.run_foreground(graph).await?;
            Ok((Arc::clone(&form.schema), follow_job(job, form)))
        }
    }
}

/// Only the present is kept.
fn check_epoch(subscribe: &Subscribe, result: &PipelineResult) -> Result<()> {
    match subscribe.as_of_epoch {
        None => Ok(()),
        Some(epoch) if Epoch(epoch) == result.latest_epoch() => Ok(()),
        Some(epoch) => Err(Error::not_supported(
            format!(
                "SUBSCRIBE AS OF EPOCH {epoch} (the result is at epoch {})",
                result.latest_epoch()
            ),
            "Leave AS OF out: the snapshot is of the present epoch, and every later change follows.",
        )),
    }
}

fn find(session: &Session, name: &QualifiedName) -> Result<(String, Oid)> {
    let snapshot = session.snapshot();
    match snapshot.resolve_relation(name, &session.search_path()) {
        Some(Object::Pipeline(pipeline)) => Ok((pipeline.header.name.clone(), pipeline.header.oid)),
        Some(Object::Table(table)) if table.is_internal() => Ok((table.header.name.clone(), table.header.oid)),
        Some(other) => Err(Error::WrongKind {
            name: name.name.clone(),
            expected: "pipeline",
            hint: Some(format!(
                "Follow the {} with SUBSCRIBE (SELECT * FROM {}).",
                other.kind().word(),
                quote(&name.name)
            )),
        }),
        None => {
            let names: Vec<&str> = snapshot
                .pipelines()
                .map(|pipeline| pipeline.header.name.as_str())
                .collect();
            Err(Error::Undefined {
                code: SqlState::UNDEFINED_TABLE,
                what: "relation",
                name: name.to_string(),
                nearest: crate::error::nearest(&name.name, names).map(str::to_owned),
            })
        }
    }
}

fn result_of(session: &Session, pipeline: Oid, name: &QualifiedName) -> Result<Arc<PipelineResult>> {
    if let Some(result) = session.server.results.get(pipeline) {
        return Ok(result);
    }
    let snapshot = session.snapshot();
    let delivers = matches!(snapshot.get(pipeline), Some(Object::Pipeline(found)) if found.columns.is_empty());
    if delivers {
        return Err(Error::user(
            SqlState::WRONG_OBJECT_TYPE,
            format!("pipeline \"{}\" delivers to a table and keeps no result", name.name),
        ));
    }
    if matches!(snapshot.get(pipeline), Some(Object::Table(_))) {
        return Err(Error::user_with_hint(
            SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE,
            format!("table \"{}\" is not there yet", name.name),
            "Its rows are being restored: try again.",
        ));
    }
    Err(Error::user_with_hint(
        SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE,
        format!("pipeline \"{}\" has no result yet", name.name),
        format!(
            "Start it: START PIPELINE {0}; or wait: WAIT FOR PIPELINE {0} RUNNING.",
            quote(&name.name)
        ),
    ))
}

/// A query over streams runs as a job of its own.
fn compile(session: &Session, text: &QueryText, source: &str) -> Result<(SchemaRef, crate::engine::graph::JobGraph)> {
    if !reads_streams(session, &text.query) {
        return Err(Error::not_supported(
            "SUBSCRIBE to a query over kept results",
            "SUBSCRIBE name follows a pipeline; a query has to read connected tables or views over them.",
        ));
    }
    let compiled = query::compile_foreground(session, text, source)?;
    let output = compiled
        .output
        .ok_or_else(|| Error::Internal("a query without columns".to_owned()))?;
    Ok((output, compiled.graph))
}

struct Form {
    schema: SchemaRef,
    progress: bool,
    /// With an envelope, and what has come of an epoch that is not complete.
    keyed: Option<KeyedForm>,
    waiting: Vec<Chunk>,
}

impl Form {
    fn of(subscribe: &Subscribe, result: &SchemaRef) -> Result<Form> {
        let keyed = KeyedForm::of(&subscribe.envelope, result)?;
        let progress = subscribe.progress;
        let mut fields = vec![Field::new("lm_epoch", DataType::Int64, false)];
        if progress {
            fields.push(Field::new("lm_progressed", DataType::Boolean, false));
        }
        match &keyed {
            Some(keyed) => fields.extend(keyed.fields()),
            None => {
                fields.push(Field::new("lm_diff", DataType::Int64, progress));
                // A progress row has no values.
                let nullable = |field: &FieldRef| field.as_ref().clone().with_nullable(true);
                fields.extend(result.fields().iter().map(nullable));
            }
        }
        Ok(Form {
            schema: Arc::new(Schema::new(fields)),
            progress,
            keyed,
            waiting: Vec::new(),
        })
    }

    /// The rows that a piece of an epoch gives, `complete` when nothing more of it follows.
    fn take(&mut self, epoch: Epoch, chunks: &[Chunk], complete: bool) -> Vec<Result<RecordBatch, ErrorReport>> {
        let given = chunks.iter().filter(|chunk| !chunk.is_empty());
        let mut batches: Vec<_> = match &self.keyed {
            None => given.map(|chunk| self.rows(epoch, chunk)).collect(),
            Some(_) => {
                self.waiting.extend(given.cloned());
                Vec::new()
            }
        };
        if complete && !self.waiting.is_empty() {
            let waiting = std::mem::take(&mut self.waiting);
            batches.extend(self.keyed_rows(epoch, &waiting));
        }
        batches
    }

    fn keyed_rows(&self, epoch: Epoch, chunks: &[Chunk]) -> Option<Result<RecordBatch, ErrorReport>> {
        let shown = match self.keyed.as_ref()?.columns(chunks) {
            Ok(shown) => shown,
            Err(error) => return Some(Err(error)),
        };
        let count = shown.first().map_or(0, |column| column.len());
        let batch = || {
            let mut columns = self.leading(epoch, count);
            columns.extend(shown);
            self.batch(columns)
        };
        (count > 0).then(batch)
    }

    fn leading(&self, epoch: Epoch, count: usize) -> Vec<ArrayRef> {
        let mut columns: Vec<ArrayRef> = vec![epochs(epoch, count)];
        if self.progress {
            columns.push(Arc::new(BooleanArray::from(vec![false; count])));
        }
        columns
    }

    /// The rows of a chunk with their epoch and sign.
    fn rows(&self, epoch: Epoch, chunk: &Chunk) -> Result<RecordBatch, ErrorReport> {
        let count = chunk.len();
        let mut columns = self.leading(epoch, count);
        columns.push(match &chunk.weights {
            Weights::AllInsert => Arc::new(Int64Array::from(vec![1; count])),
            Weights::Signed(weights) => Arc::new(Int64Array::new(weights.clone(), None)),
        });
        columns.extend(chunk.rows.columns().iter().map(Arc::clone));
        self.batch(columns)
    }

    /// "This epoch is complete".
    fn progress_row(&self, epoch: Epoch) -> Result<RecordBatch, ErrorReport> {
        let mut columns: Vec<ArrayRef> = vec![epochs(epoch, 1), Arc::new(BooleanArray::from(vec![true]))];
        columns.extend(
            self.schema
                .fields()
                .iter()
                .skip(2)
                .map(|field| new_null_array(field.data_type(), 1)),
        );
        self.batch(columns)
    }

    fn batch(&self, columns: Vec<ArrayRef>) -> Result<RecordBatch, ErrorReport> {
        RecordBatch::try_new(Arc::clone(&self.schema), columns)
            .map_err(|error| ErrorReport::new(SqlState::INTERNAL_ERROR, error.to_string()))
    }
}

fn epochs(epoch: Epoch, count: usize) -> ArrayRef {
    let epoch = i64::try_from(epoch.0).unwrap_or(i64::MAX);
    Arc::new(Int64Array::from(vec![epoch; count]))
}

fn follow(subscription: Subscription, form: Form) -> Rows {
    let pieces = futures::stream::unfold((subscription, form), |(mut subscription, mut form)| async move {
        let batches = match subscription.next().await? {
            Err(error) => vec![Err(error.report())],
            Ok(changes) => {
                let mut batches = form.take(changes.epoch, &changes.chunks, changes.progress);
                batches.extend((form.progress && changes.progress).then(|| form.progress_row(changes.epoch)));
                batches
            }
        };
        Some((futures::stream::iter(batches), (subscription, form)))
    });
    pieces.flatten().boxed()
}

/// A foreground job has no epochs that anybody could go back to: all of its rows are of epoch 0, and each batch is whole.
fn follow_job(job: ForegroundJob, form: Form) -> Rows {
    let pieces = futures::stream::unfold((job, form), |(mut job, mut form)| async move {
        let batches = match job.rows.recv().await? {
            Err(error) => vec![Err(error)],
            Ok(chunk) => form.take(Epoch(0), &[chunk], true),
        };
        Some((futures::stream::iter(batches), (job, form)))
    });
    pieces.flatten().boxed()
}
