//! CREATE PIPELINE and CREATE MATERIALIZED VIEW: snapshot, compile, apply, start, respond.

use crate::catalog::change::{Change, NewObject};
use crate::catalog::objects::{Object, Pipeline};
use crate::catalog::snapshot::QualifiedName;
use crate::engine::coordinator::WaitFor;
use crate::engine::graph::{GraphNode, JobGraph, OperatorSpec};
use crate::error::SqlState;
use crate::frontend::body::{PlannerBody, fresh_sinks, new_header, planner_body};
use crate::frontend::error::{Error, Result};
use crate::frontend::notice::{Notice, Severity};
use crate::frontend::pipeline_options::{self, PipelineOptions, allowed_lateness_ms, disabled_rewrites, state_ttl_ms};
use crate::frontend::response::Response;
use crate::frontend::session::{Outcome, Session};
use crate::frontend::settings::definitions;
use crate::frontend::sql::identifier::quote;
use crate::frontend::sql::statement::{BodyText, CreatePipeline, WaitUntil};
use crate::frontend::statements::replace_pipeline;
use crate::ids::Oid;
use crate::options::{RawOptionValue, RawOptions};
use crate::planner::compiled::{Compiled, Target};
use crate::state::key_group::KEY_GROUPS_DEFAULT;
use crate::types::SqlType;

pub async fn create(session: &mut Session, create: &CreatePipeline) -> Result<Response> {
    let name = session.name_to_create(&create.name)?;
    if create.or_replace
        && !create.if_not_exists
        && let Some(old) = replace_pipeline::to_be_replaced(session, create, &name)?
    {
        return replace_pipeline::replace(session, create, &name, old).await;
    }
    let options = pipeline_options::read(&create.options)?;
    let compiled = compile(session, &create.body, &options.kept)?;
    refuse_to_destroy(&compiled, |_| true)?;
    warn_of_missing_input(session, &compiled.graph).await;
    let (pipeline, depends_on) = definition(session, create, &name, &options, &compiled)?;
    let object = Object::Pipeline(pipeline);
    let mut changes = vec![Change::Create {
        object: NewObject { object, depends_on },
        if_not_exists: create.if_not_exists,
        or_replace: false,
    }];
    changes.extend(inferred_sinks(&compiled));
    tell_notices(session, &compiled);
    let outcome = session.apply(changes).await?;
    respond(session, create, &name, &options, &outcome).await
}

/// Plans a body as a pipeline with these options would run it.
pub fn compile(session: &Session, body: &BodyText, options: &RawOptions) -> Result<Compiled> {
    let snapshot = session.snapshot();
    let search_path = session.search_path();
    let PlannerBody {
        mut body,
        updating_ttl_ms,
    } = planner_body(body, &snapshot, &search_path)?;
    body.local_objects.extend(fresh_sinks(&body, &snapshot, &search_path));
    let mut settings = session.planner_settings();
    settings.time_zone = "UTC".to_owned();
    settings.updating_ttl_ms = updating_ttl_ms.or(state_ttl_ms(options)?).or(settings.updating_ttl_ms);
    settings.allowed_lateness_ms = allowed_lateness_ms(options)?;
    settings.disabled_rewrites = disabled_rewrites(options)?;
    if let Some(parallelism) = options.text("parallelism").and_then(|text| text.trim().parse().ok()) {
        settings.parallelism = parallelism;
    }
    Ok(crate::planner::compile(&body, Target::Validate, &snapshot, &settings)?)
}

/// A pattern that matches no file is most often misspelt; what reads it would end at once without a row.
pub(crate) async fn warn_of_missing_input(session: &mut Session, graph: &JobGraph) {
    for node in &graph.nodes {
        if let OperatorSpec::Source(source) = &node.operator
            && let Some(warning) = source.table.input_warning().await
        {
            session.tell(Notice::warning(SqlState::WARNING, warning).with_hint(format!(
                "Table \"{}\" reads as empty; files are looked for when a query or a pipeline starts.",
                source.table_name
            )));
        }
    }
}

/// A sink begins with an empty file: what somebody else may have written there is only overwritten when the table says so.
/// `is_fresh`: whether the sink at this node may find what somebody else has written.
pub(crate) fn refuse_to_destroy(compiled: &Compiled, is_fresh: impl Fn(&GraphNode) -> bool) -> Result<()> {
    for node in &compiled.graph.nodes {
        if let OperatorSpec::Sink(sink) = &node.operator
            && is_fresh(node)
            && let Some(path) = sink.table.would_destroy()
        {
            return Err(Error::user_with_hint(
                SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE,
                format!(
                    "table \"{}\" would overwrite file \"{path}\", which has content",
                    sink.table_name
                ),
                "Declare the table with type = 'sink' to let a pipeline overwrite the file, or name another path.",
            ));
        }
    }
    Ok(())
}

/// The pipeline as the catalog keeps it, and what it depends on.
pub(crate) fn definition(
    session: &Session,
    create: &CreatePipeline,
    name: &QualifiedName,
    options: &PipelineOptions,
    compiled: &Compiled,
) -> Result<(Pipeline, Vec<Oid>)> {
    let mut pipeline = new_pipeline(session, name, create.body.text.clone());
    pipeline.options = options.kept.clone();
    keep_session_options(session, &mut pipeline.options);
    pipeline.columns = result_columns(compiled)?;
    pipeline.unique_key.clone_from(&compiled.unique_key);
    pipeline.append_only = compiled.append_only;
    pipeline.bounded = !compiled.unbounded;
    pipeline.materialized_view = create.materialized_view;
    pipeline.desired_running = options.start;
    pipeline.key_groups = options.key_groups;
    let mut depends_on = compiled.depends_on.clone();
    depends_on.retain(|oid| *oid != Oid(0));
    Ok((pipeline, depends_on))
}

/// Sinks that had no columns have those of the query from now on.
pub(crate) fn inferred_sinks(compiled: &Compiled) -> impl Iterator<Item = Change> + '_ {
    compiled
        .inferred_sinks
        .iter()
        .filter(|sink| sink.table != Oid(0))
        .map(|sink| Change::SetColumns {
            table: sink.table,
            columns: sink.columns.clone(),
        })
}

pub(crate) fn new_pipeline(session: &Session, name: &QualifiedName, query: String) -> Pipeline {
    let mut header = new_header(name);
    header.owner.clone_from(&session.user);
    Pipeline {
        header,
        query,
        options: RawOptions::default(),
        columns: Vec::new(),
        unique_key: Vec::new(),
        append_only: false,
        bounded: false,
        materialized_view: false,
        desired_running: true,
        key_groups: KEY_GROUPS_DEFAULT,
        search_path: session.search_path(),
        counts_after: Default::default(),
    }
}

/// Settings of the session that change what the pipeline does become options: it must do the same after a restart.
pub(crate) fn keep_session_options(session: &Session, options: &mut RawOptions) {
    let parallelism = session.settings.get("parallelism");
    let is_default = definitions::find("parallelism").is_some_and(|definition| definition.default == parallelism);
    if !is_default && options.get("parallelism").is_none() {
        options
            .0
            .push(("parallelism".to_owned(), RawOptionValue::Text(parallelism)));
    }
    let ttl = session.settings.get("updating_ttl");
    if !ttl.is_empty() && options.get("state_ttl").is_none() {
        options.0.push(("state_ttl".to_owned(), RawOptionValue::Text(ttl)));
    }
}

fn result_columns(compiled: &Compiled) -> Result<Vec<(String, String)>> {
    let Some(output) = &compiled.output else {
        return Ok(Vec::new());
    };
    let column = |field: &arrow::datatypes::FieldRef| {
        let sql_type = SqlType::from_arrow_field(field).ok_or_else(|| {
            Error::not_supported(
                format!("the type of result column \"{}\" ({})", field.name(), field.data_type()),
                format!("Cast it: {}::TEXT.", quote(field.name())),
            )
        })?;
        Ok((field.name().clone(), sql_type.to_sql()))
    };
    output.fields().iter().map(column).collect()
}

pub(crate) fn tell_notices(session: &mut Session, compiled: &Compiled) {
    for notice in &compiled.notices {
        let mut told = Notice::new(Severity::Notice, notice.code, notice.message.clone());
        told.report.hint.clone_from(&notice.hint);
        session.tell(told);
    }
}

pub(crate) fn tell_started(session: &mut Session, name: &str, outcome: &Outcome) {
    for (_, job) in &outcome.started {
        let shown = quote(name);
        let literal = crate::frontend::sql::identifier::quote_literal(name);
        session.tell(
            Notice::of(format!("pipeline \"{name}\" is starting as job {job}")).with_hint(format!(
                "Watch it: SHOW PIPELINES LIKE {literal}; SUBSCRIBE {shown}; EXPLAIN ANALYZE PIPELINE {shown};"
            )),
        );
    }
}

pub(crate) async fn respond(
    session: &mut Session,
    create: &CreatePipeline,
    name: &QualifiedName,
    options: &PipelineOptions,
    outcome: &Outcome,
) -> Result<Response> {
    let tag = if create.materialized_view {
        "CREATE MATERIALIZED VIEW"
    } else {
        "CREATE PIPELINE"
    };
    let wait = match options.wait {
        None if create.materialized_view => Some(WaitUntil::CaughtUp),
        wait => wait,
    };
    if !create.materialized_view {
        tell_started(session, &name.name, outcome);
    }
    if let (Some(until), Some((pipeline, _))) = (wait, outcome.started.first()) {
        session.server.coordinator.wait(*pipeline, wait_for(until)).await?;
    }
    Ok(Response::complete(tag))
}

pub(crate) fn wait_for(until: WaitUntil) -> WaitFor {
    match until {
        WaitUntil::Running => WaitFor::Running,
        WaitUntil::CaughtUp => WaitFor::CaughtUp,
        WaitUntil::Finished => WaitFor::Finished,
    }
}
