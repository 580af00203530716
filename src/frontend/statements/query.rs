//! SELECT: over what is kept, answered once; over connected tables, a job that runs while the client reads.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use datafusion::common::{DataFusionError, ScalarValue};
use datafusion::sql::sqlparser::ast;
use futures::StreamExt;

use crate::catalog::objects::{Object, Table};
use crate::catalog::snapshot::CatalogSnapshot;
use crate::engine::coordinator::foreground::ForegroundJob;
use crate::engine::message::Weights;
use crate::error::{ErrorReport, Report, SqlState};
use crate::frontend::body::query_body;
use crate::frontend::error::{Error, Result};
use crate::frontend::inline_tables;
use crate::frontend::parameter::Parameter;
use crate::frontend::relations::SessionRelations;
use crate::frontend::response::{Description, Response, Rows, RowsTag};
use crate::frontend::session::Session;
use crate::frontend::sql::placeholders;
use crate::frontend::sql::statement::QueryText;
use crate::frontend::statements::create_pipeline::{tell_notices, warn_of_missing_input};
use crate::frontend::statements::dml::durable;
use crate::frontend::statements::query_kind::{can_be_read_to_the_end, kind_of, reads_streams, scans};
use crate::ids::Oid;
use crate::planner::batch::{self, Classification};
use crate::planner::bind::names;
use crate::planner::bind::positions::SourceText;
use crate::planner::compiled::{Compiled, Target};
use crate::planner::parameters::infer_parameter_types;
use crate::types::SqlType;

pub async fn select(
    session: &mut Session,
    query: &QueryText,
    source: &str,
    parameters: &[Parameter],
) -> Result<Response> {
    let (schema, rows) = rows_of(session, query, source, parameters).await?;
    Ok(Response::Rows {
        schema,
        rows,
        tag: RowsTag::SELECT,
    })
}

/// The rows of a query of either kind.
pub(crate) async fn rows_of(
    session: &mut Session,
    query: &QueryText,
    source: &str,
    parameters: &[Parameter],
) -> Result<(SchemaRef, Rows)> {
    if !reads_streams(session, &query.query) {
        return one_shot(session, query, source, parameters).await;
    }
    let mut bound = query.clone();
    placeholders::bind_query(&mut bound.query, parameters)?;
    match kind_of(session, &bound, source) {
        Classification::Batch => {
            for graph in scans(session, &query.query) {
                warn_of_missing_input(session, &graph).await;
            }
            let answer = one_shot(session, query, source, parameters).await;
            answer.map_err(|error| refused_by_both(session, &bound, source, error))
        }
        Classification::Stream => foreground(session, &bound, source).await,
    }
}

/// When neither engine supports the query, what the streaming one misses says more: the batch engine was the second choice.
fn refused_by_both(session: &Session, query: &QueryText, source: &str, error: Error) -> Error {
    if error.code() != SqlState::FEATURE_NOT_SUPPORTED {
        return error;
    }
    compile_foreground(session, query, source).err().unwrap_or(error)
}

/// Runs a query over what is kept.
pub(crate) async fn one_shot(
    session: &mut Session,
    query: &QueryText,
    source: &str,
    parameters: &[Parameter],
) -> Result<(SchemaRef, Rows)> {
    refuse_emit(query)?;
    let wanted = placeholders::count_in_query(&query.query);
    if wanted > parameters.len() {
        return Err(Error::user(
            SqlState::UNDEFINED_PARAMETER,
            format!("there is no parameter ${wanted}"),
        ));
    }
    let snapshot = session.snapshot();
    let values: Vec<ScalarValue> = parameters.iter().map(|parameter| parameter.value.clone()).collect();
    let settings = session.planner_settings();
    let planned = loop {
        wait_for_read_results(session, query.query.as_ref()).await;
        let runs = durable::runs_of(session, &tables_read(session, &query.query)).await?;
        let relations = SessionRelations::of(session);
        let planned = batch::plan_select(&query.query, source, &snapshot, &settings, &relations, &values)?;
        if durable::are_durable(session, &runs, &relations.tables_read()).await {
            break planned;
        }
    };
    let schema = planned.schema();
    let stream = planned.execute().await?;
    let rows = stream.map(|batch| batch.map_err(row_error));
    Ok((schema, rows.boxed()))
}

/// How long a reader waits for the result of a pipeline that is just starting.
const RESULT_TIMEOUT: Duration = Duration::from_secs(10);
const RESULT_POLL: Duration = Duration::from_millis(5);

/// A pipeline that was started a moment ago has no result yet: whoever reads it means the one that is coming.
pub(crate) async fn wait_for_results(session: &Session, pipelines: &[Oid]) {
    let server = Arc::clone(session.server());
    let coming = |pipeline: &Oid| {
        let is_missing = server.results.get(*pipeline).is_none();
        let is_starting = || {
            server
                .coordinator
                .job(*pipeline)
                .is_some_and(|job| !job.state.is_terminal())
        };
        is_missing && (is_starting() || server.coordinator.is_loading_result(*pipeline))
    };
    let all_there = async {
        while pipelines.iter().any(coming) {
            tokio::time::sleep(RESULT_POLL).await;
        }
    };
    // Whoever reads then says what is missing.
    let _ = tokio::time::timeout(RESULT_TIMEOUT, all_there).await;
}

/// Waits for whatever the statement reads that is just starting.
pub(crate) async fn wait_for_read_results(session: &Session, statement: &impl ast::Visit) {
    let read = pipelines_read(statement, &session.snapshot(), &session.search_path());
    wait_for_results(session, &read).await;
}

fn tables_read(session: &Session, query: &ast::Query) -> Vec<Table> {
    let snapshot = session.snapshot();
    let read = relations_read(query, &snapshot, &session.search_path()).into_iter();
    let internal = read.filter_map(|object| match object {
        Object::Table(table) if table.is_internal() => Some(table.clone()),
        _ => None,
    });
    internal.collect()
}

/// Pipelines that keep a result, and internal tables, that a statement reads, also through views.
fn pipelines_read(statement: &impl ast::Visit, snapshot: &CatalogSnapshot, search_path: &[String]) -> Vec<Oid> {
    let read = relations_read(statement, snapshot, search_path).into_iter();
    let kept = read.filter(|object| match object {
        Object::Pipeline(pipeline) => !pipeline.columns.is_empty(),
        Object::Table(table) => table.is_internal(),
        _ => false,
    });
    kept.map(Object::oid).collect()
}

/// What a query reads, through views too; the views themselves are left out.
pub(crate) fn relations_read<'a>(
    query: &impl ast::Visit,
    snapshot: &'a CatalogSnapshot,
    search_path: &[String],
) -> Vec<&'a Object> {
    let mut found = Vec::new();
    let mut to_look_at = named_relations(query, snapshot, search_path);
    let mut seen = Vec::new();
    while let Some(oid) = to_look_at.pop() {
        if seen.contains(&oid) {
            continue;
        }
        seen.push(oid);
        match snapshot.get(oid) {
            Some(Object::View(_)) => to_look_at.extend(snapshot.dependencies(oid)),
            Some(object) => found.push(object),
            None => {}
        }
    }
    found
}

fn refuse_emit(query: &QueryText) -> Result<()> {
    if query.emit.is_none() {
        return Ok(());
    }
    Err(Error::not_supported(
        "EMIT in a query that is answered once",
        "Leave it out, or create a pipeline: CREATE PIPELINE name AS SELECT .. EMIT ON ...",
    ))
}

/// What went wrong while rows were computed.
fn row_error(error: DataFusionError) -> ErrorReport {
    SourceText("").error(error).report()
}

/// Runs a query over connected tables until it ends, its LIMIT is reached, or the client drops the rows.
async fn foreground(session: &mut Session, query: &QueryText, source: &str) -> Result<(SchemaRef, Rows)> {
    let compiled = compile_foreground(session, query, source)?;
    if !compiled.append_only {
        return Err(Error::not_supported(
            "a SELECT over streams whose rows change later",
            "Follow its changes with SUBSCRIBE (SELECT ..), or keep its result: CREATE PIPELINE name AS SELECT ...",
        ));
    }
    tell_notices(session, &compiled);
    warn_of_missing_input(session, &compiled.graph).await;
    let schema = compiled
        .output
        .clone()
        .ok_or_else(|| Error::Internal("a query without columns".to_owned()))?;
    let job = session.server.coordinator.run_foreground(compiled.graph).await?;
    Ok((schema, inserted_rows(job)))
}

pub(crate) fn compile_foreground(session: &Session, query: &QueryText, source: &str) -> Result<Compiled> {
    let snapshot = session.snapshot();
    let body = query_body(query, source, &snapshot, &session.search_path())?;
    Ok(crate::planner::compile(
        &body,
        Target::Foreground,
        &snapshot,
        &session.planner_settings(),
    )?)
}

fn inserted_rows(job: ForegroundJob) -> Rows {
    let rows = futures::stream::unfold(job, |mut job| async move {
        let chunk = job.rows.recv().await?;
        let batch = chunk.and_then(|chunk| match chunk.weights {
            Weights::AllInsert => Ok(chunk.rows),
            Weights::Signed(_) => Err(ErrorReport::new(
                SqlState::INTERNAL_ERROR,
                "a query of insertions gave a deletion",
            )),
        });
        Some((batch, job))
    });
    rows.boxed()
}

/// Columns of a query, without running it, and what it uses.
pub(crate) struct PlannedColumns {
    pub schema: SchemaRef,
    pub depends_on: Vec<Oid>,
}

/// For views, whose query may be of either kind.
pub(crate) fn plan_columns(session: &Session, query: &QueryText, source: &str) -> Result<PlannedColumns> {
    let snapshot = session.snapshot();
    let settings = session.planner_settings();
    let schema = match kind_of(session, query, source) {
        Classification::Batch => {
            let relations = SessionRelations::of(session);
            batch::describe_select(&query.query, source, &snapshot, &settings, &relations, &[])?
        }
        Classification::Stream => {
            let body = query_body(query, source, &snapshot, &settings.search_path)?;
            let compiled = crate::planner::compile(&body, Target::Validate, &snapshot, &settings)?;
            compiled
                .output
                .ok_or_else(|| Error::Internal("a query without columns".to_owned()))?
        }
    };
    let depends_on = named_relations(query.query.as_ref(), &snapshot, &settings.search_path);
    Ok(PlannedColumns { schema, depends_on })
}

/// The relations that a query names, as far as they are the catalog's.
pub(crate) fn named_relations(query: &impl ast::Visit, snapshot: &CatalogSnapshot, search_path: &[String]) -> Vec<Oid> {
    let mut oids = Vec::new();
    let _: ControlFlow<()> = ast::visit_relations(query, |relation| {
        let Some(name) = names::qualified(relation) else {
            return ControlFlow::Continue(());
        };
        if let Some(object) = snapshot.resolve_relation(&name, search_path)
            && !oids.contains(&object.oid())
        {
            oids.push(object.oid());
        }
        ControlFlow::Continue(())
    });
    oids
}

/// Parameter types and columns for the extended protocol.
pub(crate) fn description(
    session: &Session,
    query: &QueryText,
    source: &str,
    declared: &[Option<SqlType>],
) -> Result<Description> {
    let snapshot = session.snapshot();
    let settings = session.planner_settings();
    let mut types = placeholders::said_types(&query.query);
    types.resize(types.len().max(declared.len()), None);
    for (sql_type, by_client) in types.iter_mut().zip(declared) {
        if by_client.is_some() {
            sql_type.clone_from(by_client);
        }
    }
    if reads_streams(session, &query.query) {
        infer_parameters(session, &query.query, source, &mut types)?;
        let parameters: Vec<SqlType> = types.into_iter().map(|known| known.unwrap_or(SqlType::Text)).collect();
        let nulls = parameters.iter().map(null_parameter).collect::<Result<Vec<_>>>()?;
        let mut query = query.clone();
        placeholders::bind_query(&mut query.query, &nulls)?;
        let columns = match kind_of(session, &query, source) {
            Classification::Stream => compile_foreground(session, &query, source)?.output,
            Classification::Batch => {
                let relations = SessionRelations::of(session);
                let described = batch::describe_select(&query.query, source, &snapshot, &settings, &relations, &[])?;
                Some(described)
            }
        };
        return Ok(Description { parameters, columns });
    }
    let relations = SessionRelations::of(session);
    let parameters = batch::parameter_types(&query.query, source, &snapshot, &settings, &relations, &types)?;
    let known: Vec<Option<SqlType>> = parameters.iter().cloned().map(Some).collect();
    let columns = batch::describe_select(&query.query, source, &snapshot, &settings, &relations, &known)?;
    Ok(Description {
        parameters,
        columns: Some(columns),
    })
}

/// Fills in the types that parameters get from their place in a query of either kind.
pub(crate) fn infer_parameters(
    session: &Session,
    query: &ast::Query,
    source: &str,
    types: &mut [Option<SqlType>],
) -> Result<()> {
    let snapshot = session.snapshot();
    let settings = session.planner_settings();
    let relations = SessionRelations::of(session);
    let in_batch = || {
        let found = batch::parameter_types(query, source, &snapshot, &settings, &relations, types)?;
        Ok::<_, Error>(found.into_iter().map(Some).collect())
    };
    let found: Vec<Option<SqlType>> = if reads_streams(session, query) {
        let mut tree = query.clone();
        let local = inline_tables::take(&mut tree, &snapshot, &settings.search_path)?;
        match infer_parameter_types(&tree, source, &local, &snapshot, &settings, &relations, types) {
            Ok(found) => found,
            Err(_) if can_be_read_to_the_end(session, query) => in_batch()?,
            Err(error) => return Err(error.into()),
        }
    } else {
        in_batch()?
    };
    for (known, found) in types.iter_mut().zip(found) {
        if known.is_none() {
            *known = found;
        }
    }
    Ok(())
}

/// A NULL of a type, for planning.
pub(crate) fn null_parameter(sql_type: &SqlType) -> Result<Parameter> {
    let value = ScalarValue::try_from(&sql_type.to_arrow()).map_err(|error| Error::Internal(error.to_string()))?;
    Ok(Parameter {
        sql_type: sql_type.clone(),
        value,
    })
}

/// The value of a constant expression, in a type.
pub(crate) async fn evaluate(session: &mut Session, expression: &ast::Expr, sql_type: &SqlType) -> Result<ScalarValue> {
    let text = format!("SELECT CAST({expression} AS {})", sql_type.to_sql());
    let query = QueryText {
        query: crate::planner::dialect::parse_query(&text)?,
        text: text.clone(),
        emit: None,
    };
    let (_, mut rows) = one_shot(session, &query, &text, &[]).await?;
    let batch: Option<RecordBatch> = rows.next().await.transpose().map_err(Error::from)?;
    let value = batch
        .filter(|batch| batch.num_rows() == 1)
        .map(|batch| ScalarValue::try_from_array(batch.column(0), 0));
    match value {
        Some(Ok(value)) => Ok(value),
        Some(Err(error)) => Err(Error::Internal(error.to_string())),
        None => Err(Error::Internal(format!("{} gave no value", text))),
    }
}
