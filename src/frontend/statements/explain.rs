//! EXPLAIN of every stage, EXPLAIN ANALYZE PIPELINE.

use std::time::Instant;

use arrow::datatypes::SchemaRef;
use futures::StreamExt;

use crate::catalog::objects::Pipeline;
use crate::catalog::snapshot::QualifiedName;
use crate::engine::coordinator::JobStatus;
use crate::error::{Report, SqlState};
use crate::frontend::body::{PlannerBody, planner_body};
use crate::frontend::compiler::{SqlPipelineCompiler, compile_pipeline};
use crate::frontend::error::{Error, Result};
use crate::frontend::pipeline_options;
use crate::frontend::relations::SessionRelations;
use crate::frontend::response::{Response, RowsTag, text_schema};
use crate::frontend::session::Session;
use crate::frontend::sql::statement::{
    BodyStatement, BodyText, Explain, ExplainFormat, ExplainStage, ExplainTarget, QueryText,
};
use crate::frontend::statements::query_kind::{can_be_read_to_the_end, reads_streams};
use crate::frontend::statements::{create_pipeline, query};
use crate::planner::batch;
use crate::planner::compiled::{Compiled, Target};
use crate::planner::explain::{graph, graph_dot, graph_json};
use crate::planner::settings::Environment;

pub(crate) fn schema() -> SchemaRef {
    text_schema(&["QUERY PLAN"])
}

pub async fn explain(session: &mut Session, explain: &Explain) -> Result<Response> {
    let text = match &explain.target {
        ExplainTarget::Pipeline(name) => stage_text(&compiled_pipeline(session, &session.pipeline(name)?)?, explain)?,
        ExplainTarget::Body(body) => explain_body(session, body, explain).await?,
        ExplainTarget::NewPipeline(body, options) => {
            refuse_analyze(explain)?;
            let options = pipeline_options::read(options)?;
            stage_text(&create_pipeline::compile(session, body, &options.kept)?, explain)?
        }
    };
    let rows: Vec<Vec<Option<String>>> = match explain.format {
        // Documents stay in one piece.
        ExplainFormat::Json | ExplainFormat::Dot => vec![vec![Some(text)]],
        ExplainFormat::Text => text.lines().map(|line| vec![Some(line.to_owned())]).collect(),
    };
    Ok(Response::text_table(
        schema(),
        &rows,
        RowsTag::Fixed("EXPLAIN".to_owned()),
    )?)
}

/// A pipeline of the catalog as it would run.
pub(crate) fn compiled_pipeline(session: &Session, pipeline: &Pipeline) -> Result<Compiled> {
    let compiler = SqlPipelineCompiler::new(
        Environment::clone(&session.server.environment),
        session.server.tables.clone(),
    );
    let settings = session.server.coordinator.settings(&pipeline.options)?;
    compile_pipeline(&compiler, pipeline, settings.parallelism, &session.snapshot())
}

async fn explain_body(session: &mut Session, body: &BodyText, explain: &Explain) -> Result<String> {
    if let [BodyStatement::Query(text)] = body.statements.as_slice()
        && !runs_as_pipeline(session, text, &body.source)
        && explain.stage != ExplainStage::Graph
    {
        let (text, source) = (text.clone(), body.source.to_string());
        return one_shot(session, &text, &source, explain).await;
    }
    refuse_analyze(explain)?;
    let snapshot = session.snapshot();
    let PlannerBody { body, updating_ttl_ms } = planner_body(body, &snapshot, &session.search_path())?;
    let mut settings = session.planner_settings();
    settings.updating_ttl_ms = updating_ttl_ms.or(settings.updating_ttl_ms);
    let compiled = crate::planner::compile(&body, Target::Validate, &snapshot, &settings)?;
    stage_text(&compiled, explain)
}

fn refuse_analyze(explain: &Explain) -> Result<()> {
    if !explain.analyze {
        return Ok(());
    }
    Err(Error::not_supported(
        "EXPLAIN ANALYZE of a continuous query",
        "Create the pipeline and look at it while it runs: EXPLAIN ANALYZE PIPELINE name.",
    ))
}

/// What a pipeline can do is shown as the pipeline does it, also where a SELECT would not need one.
fn runs_as_pipeline(session: &Session, text: &QueryText, source: &str) -> bool {
    let refused = || match query::compile_foreground(session, text, source) {
        Ok(_) => false,
        Err(error) => error.code() == SqlState::FEATURE_NOT_SUPPORTED,
    };
    reads_streams(session, &text.query)
        && !(text.emit.is_none() && can_be_read_to_the_end(session, &text.query) && refused())
}

/// Plans of the batch engine; ANALYZE adds what running it gave.
async fn one_shot(session: &mut Session, text: &QueryText, source: &str, explain: &Explain) -> Result<String> {
    if explain.format != ExplainFormat::Text {
        return Err(Error::not_supported(
            "EXPLAIN (FORMAT ..) of a query that is answered once",
            "Use FORMAT TEXT.",
        ));
    }
    let relations = SessionRelations::of(session);
    let (snapshot, settings) = (session.snapshot(), session.planner_settings());
    let planned = batch::plan_select(&text.query, source, &snapshot, &settings, &relations, &[])?;
    let (logical, optimized) = planned.explain()?;
    let mut shown = match explain.stage {
        ExplainStage::Logical => logical,
        ExplainStage::Rewritten | ExplainStage::Physical | ExplainStage::Graph => optimized,
        ExplainStage::All => format!(
            "Logical plan\n{}\n\nOptimized plan\n{}",
            indented(&logical),
            indented(&optimized)
        ),
    };
    if explain.analyze {
        let begin = Instant::now();
        let (_, mut rows) = query::one_shot(session, text, source, &[]).await?;
        let mut count = 0;
        while let Some(batch) = rows.next().await {
            count += batch.map_err(Error::from)?.num_rows();
        }
        shown.push_str(&format!(
            "\nRows: {count}\nExecution Time: {:.3} ms",
            begin.elapsed().as_secs_f64() * 1000.0
        ));
    }
    Ok(shown)
}

fn stage_text(compiled: &Compiled, explain: &Explain) -> Result<String> {
    match explain.format {
        ExplainFormat::Json => Ok(format!("{:#}", graph_json(&compiled.graph))),
        ExplainFormat::Dot => Ok(graph_dot(&compiled.graph)),
        ExplainFormat::Text => Ok(match explain.stage {
            ExplainStage::Logical => compiled.logical.clone(),
            ExplainStage::Rewritten => compiled.rewritten.clone(),
            ExplainStage::Physical => compiled.physical.clone(),
            ExplainStage::Graph => graph(&compiled.graph),
            ExplainStage::All => all_stages(compiled),
        }),
    }
}

fn all_stages(compiled: &Compiled) -> String {
    let stages = [
        ("Logical plan", compiled.logical.clone()),
        ("Rewritten plan", compiled.rewritten.clone()),
        ("Physical plan", compiled.physical.clone()),
        ("Graph", graph(&compiled.graph)),
    ];
    let shown: Vec<String> = stages
        .iter()
        .map(|(title, text)| format!("{title}\n{}", indented(text)))
        .collect();
    shown.join("\n\n")
}

fn indented(text: &str) -> String {
    text.lines()
        .map(|line| format!("  {line}"))
        .collect::<Vec<_>>()
        .join("\n")
}

pub(crate) fn analyze_schema() -> SchemaRef {
    text_schema(&[
        "operator",
        "subtasks",
        "rows in",
        "rows out",
        "busy",
        "blocked",
        "state rows",
        "state bytes",
        "late rows",
        "watermark",
    ])
}

/// Live counters of every operator of a running pipeline.
pub fn analyze_pipeline(session: &Session, name: &QualifiedName) -> Result<Response> {
    let pipeline = session.pipeline(name)?;
    let Some(job) = session.server.coordinator.job(pipeline.header.oid) else {
        return Err(Error::user_with_hint(
            SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE,
            format!(
                "pipeline \"{}\" has not run since the server started",
                pipeline.header.name
            ),
            format!(
                "START PIPELINE {}.",
                crate::frontend::sql::identifier::quote(&pipeline.header.name)
            ),
        ));
    };
    let rows = analyzed(&job, session.server.clock.now_micros());
    Ok(Response::text_table(
        analyze_schema(),
        &rows,
        RowsTag::Fixed("EXPLAIN".to_owned()),
    )?)
}

fn analyzed(job: &JobStatus, now_micros: i64) -> Vec<Vec<Option<String>>> {
    let ran_micros = job.record.finished_at_micros.unwrap_or(now_micros) - job.record.started_at_micros;
    let row = |operator: &crate::engine::job_metrics::OperatorStatus| {
        let total = operator.total();
        let share = |nanos: u64| {
            let possible = (ran_micros.max(1) as f64) * 1000.0 * operator.subtasks.len().max(1) as f64;
            format!("{:.1}%", 100.0 * nanos as f64 / possible)
        };
        let watermark = total.watermark.and_then(chrono::DateTime::from_timestamp_micros);
        let name = match operator.description.is_empty() {
            true => operator.name.to_owned(),
            false => format!("{}: {}", operator.name, operator.description),
        };
        vec![
            Some(name),
            Some(operator.subtasks.len().to_string()),
            Some(total.rows_in.to_string()),
            Some(total.rows_out.to_string()),
            Some(share(total.busy_nanos)),
            Some(share(total.blocked_nanos)),
            Some(total.state_rows.to_string()),
            Some(total.state_bytes.to_string()),
            Some(total.late_rows.to_string()),
            watermark.map(|at| at.format("%Y-%m-%d %H:%M:%S%.6f").to_string()),
        ]
    };
    job.operators.iter().map(row).collect()
}
