//! SUBSCRIBE: the rows of a result and then every change of it, as rows with an epoch and a sign.
//!
//! Columns: `lm_epoch`, with PROGRESS `lm_progressed`, `lm_diff`, then the result's. A subscription ends when its pipeline
//! does.

use std::sync::Arc;

use arrow::array::{ArrayRef, BooleanArray, Int64Array, RecordBatch, new_null_array};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
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
use crate::frontend::sql::statement::{Envelope, QueryText, Subscribe, SubscribeTarget};
use crate::frontend::statements::query;
use crate::ids::{Epoch, Oid};
use crate::planner::batch::Classification;

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
    check(subscribe)?;
    let schema = match &subscribe.target {
        SubscribeTarget::Relation(name) => {
            let (_, pipeline) = find(session, name)?;
            Arc::clone(result_of(session, pipeline, name)?.schema())
        }
        SubscribeTarget::Query(query) => compile(session, query, source)?.0,
    };
    Ok(with_change_columns(&schema, subscribe.progress))
}

/// The stream of changes.
pub(crate) async fn changes(session: &mut Session, subscribe: &Subscribe, source: &str) -> Result<(SchemaRef, Rows)> {
    check(subscribe)?;
    match &subscribe.target {
        SubscribeTarget::Relation(name) => {
            let (_, pipeline) = find(session, name)?;
            query::wait_for_results(session, &[pipeline]).await;
            let result = result_of(session, pipeline, name)?;
            check_epoch(subscribe, &result)?;
            let schema = with_change_columns(result.schema(), subscribe.progress);
            let subscription = result.subscribe(subscribe.snapshot);
            let form = Form {
                schema: Arc::clone(&schema),
                progress: subscribe.progress,
            };
            Ok((schema, follow(subscription, form)))
        }
        SubscribeTarget::Query(query) => {
            let (output, graph) = compile(session, query, source)?;
            let schema = with_change_columns(&output, subscribe.progress);
            let job = session.server.coordinator.run_foreground(graph).await?;
            let form = Form {
                schema: Arc::clone(&schema),
                progress: subscribe.progress,
            };
            Ok((schema, follow_job(job, form)))
        }
    }
}

fn check(subscribe: &Subscribe) -> Result<()> {
    if subscribe.envelope != Envelope::None {
        return Err(Error::not_supported(
            "SUBSCRIBE .. ENVELOPE",
            "Leave it out: lm_diff tells insertions (1) from deletions (-1).",
        ));
    }
    Ok(())
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
    if query::kind_of(session, text) == Classification::Batch {
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

fn with_change_columns(schema: &Schema, progress: bool) -> SchemaRef {
    let mut fields = vec![Field::new("lm_epoch", DataType::Int64, false)];
    if progress {
        fields.push(Field::new("lm_progressed", DataType::Boolean, false));
    }
    fields.push(Field::new("lm_diff", DataType::Int64, progress));
    // A progress row has no values.
    fields.extend(
        schema
            .fields()
            .iter()
            .map(|field| field.as_ref().clone().with_nullable(true)),
    );
    Arc::new(Schema::new(fields))
}

#[derive(Clone)]
struct Form {
    schema: SchemaRef,
    progress: bool,
}

impl Form {
    /// The rows of a chunk with their epoch and sign.
    fn rows(&self, epoch: Epoch, chunk: &Chunk) -> Result<RecordBatch, ErrorReport> {
        let count = chunk.len();
        let mut columns: Vec<ArrayRef> = vec![epochs(epoch, count)];
        if self.progress {
            columns.push(Arc::new(BooleanArray::from(vec![false; count])));
        }
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
    let pieces = futures::stream::unfold(subscription, |mut subscription| async move {
        let piece = subscription.next().await?;
        Some((piece, subscription))
    });
    let rows = pieces.flat_map(move |piece| {
        let batches: Vec<Result<RecordBatch, ErrorReport>> = match piece {
            Err(error) => vec![Err(error.report())],
            Ok(changes) => {
                let chunks = changes.chunks.iter().filter(|chunk| !chunk.is_empty());
                let rows = chunks.map(|chunk| form.rows(changes.epoch, chunk));
                let progress = (form.progress && changes.progress).then(|| form.progress_row(changes.epoch));
                rows.chain(progress).collect()
            }
        };
        futures::stream::iter(batches)
    });
    rows.boxed()
}

/// A foreground job has no epochs that anybody could go back to: all of its rows are of epoch 0.
fn follow_job(job: ForegroundJob, form: Form) -> Rows {
    let rows = futures::stream::unfold((job, form), |(mut job, form)| async move {
        let chunk = job.rows.recv().await?;
        let batch = chunk.and_then(|chunk| form.rows(Epoch(0), &chunk));
        Some((batch, (job, form)))
    });
    rows.boxed()
}
