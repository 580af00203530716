//! `/pipelines`: continuous queries and their jobs.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;

use super::backend::Backend;
use super::body::JsonBody;
use super::error::{ApiError, ApiResult, ErrorBody};
use super::model::{CreatePipeline, JobResource, Page, PipelineResource, StopPipeline, ValidateQuery, ValidatedQuery};
use super::query::{Params, PipelineParams, limit, matches_pattern};
use super::resource;
use super::statement::{create_pipeline, qualified};
use crate::catalog::objects::{Object, ObjectKind, Pipeline};
use crate::error::{ErrorReport, SqlState};
use crate::ids::Oid;

/// How long stopping may take unless the request says so.
const STOP_TIMEOUT_DEFAULT_SECONDS: u64 = 30;
/// States after which a job does nothing any more.
const ENDED: [&str; 3] = ["Stopped", "Failed", "Finished"];

/// Creates a pipeline; it runs once it is started.
#[utoipa::path(post, path = "/pipelines", tag = "pipelines", request_body = CreatePipeline,
    responses((status = 201, body = PipelineResource), (status = 400, body = ErrorBody), (status = 401, body = ErrorBody), (status = 409, body = ErrorBody), (status = 422, body = ErrorBody)))]
pub async fn create<B: Backend>(
    State(backend): State<Arc<B>>,
    JsonBody(body): JsonBody<CreatePipeline>,
) -> ApiResult<(StatusCode, Json<PipelineResource>)> {
    let is_file = backend.statement_count(&body.query)? > 1;
    let statement = create_pipeline(&body, is_file)?;
    let created = backend.run(&statement.text).await;
    created.map_err(|report| ApiError::from(report).with_position_after(statement.query_offset))?;
    let pipeline = find(backend.as_ref(), &body.name)?;
    let graph = backend.graph(&pipeline);
    Ok((StatusCode::CREATED, Json(resource::pipeline(&pipeline, None, graph))))
}

/// Pipelines, newest first.
#[utoipa::path(get, path = "/pipelines", tag = "pipelines", params(PipelineParams),
    responses((status = 200, body = Page<PipelineResource>), (status = 400, body = ErrorBody), (status = 401, body = ErrorBody)))]
pub async fn list<B: Backend>(
    State(backend): State<Arc<B>>,
    Params(params): Params<PipelineParams>,
) -> ApiResult<Json<Page<PipelineResource>>> {
    let limit = limit(params.limit)?;
    let newest = newest_jobs(backend.jobs(None).await?);
    let snapshot = backend.snapshot();
    let mut pipelines: Vec<&Pipeline> = snapshot.pipelines().collect();
    pipelines.sort_by_key(|pipeline| std::cmp::Reverse(pipeline.header.oid));
    if let Some(last) = &params.starting_after {
        let last = resource::find(&snapshot, ObjectKind::Pipeline, last)?.oid();
        pipelines.retain(|pipeline| pipeline.header.oid < last);
    }
    if let Some(pattern) = &params.name {
        pipelines.retain(|pipeline| matches_pattern(pattern, &pipeline.header.name));
    }
    if let Some(state) = &params.state {
        let state_of = |pipeline: &Pipeline| {
            let job = newest.get(&pipeline.header.public_id);
            job.map_or("Created", |job| job.state.as_str()).to_owned()
        };
        pipelines.retain(|pipeline| state_of(pipeline).eq_ignore_ascii_case(state));
    }
    let rest = pipelines.into_iter().skip(params.offset.unwrap_or(0));
    let mut page: Vec<&Pipeline> = rest.take(limit + 1).collect();
    let has_more = page.len() > limit;
    page.truncate(limit);
    let data = page
        .into_iter()
        .map(|pipeline| {
            resource::pipeline(
                pipeline,
                newest.get(&pipeline.header.public_id),
                backend.graph(pipeline),
            )
        })
        .collect();
    Ok(Json(Page { data, has_more }))
}

/// The first job of each pipeline, from a list with the newest first.
fn newest_jobs(jobs: Vec<JobResource>) -> HashMap<String, JobResource> {
    let mut newest = HashMap::new();
    for job in jobs {
        newest.entry(job.pipeline_id.clone()).or_insert(job);
    }
    newest
}

/// One pipeline, by id or name.
#[utoipa::path(get, path = "/pipelines/{id}", tag = "pipelines", params(("id" = String, Path)),
    responses((status = 200, body = PipelineResource), (status = 401, body = ErrorBody), (status = 404, body = ErrorBody)))]
pub async fn get<B: Backend>(
    State(backend): State<Arc<B>>,
    Path(id): Path<String>,
) -> ApiResult<Json<PipelineResource>> {
    let pipeline = find(backend.as_ref(), &id)?;
    let newest = newest_job(backend.as_ref(), pipeline.header.oid).await?;
    let graph = backend.graph(&pipeline);
    Ok(Json(resource::pipeline(&pipeline, newest.as_ref(), graph)))
}

/// Stops and deletes a pipeline that nothing reads.
#[utoipa::path(delete, path = "/pipelines/{id}", tag = "pipelines", params(("id" = String, Path)),
    responses((status = 204), (status = 401, body = ErrorBody), (status = 404, body = ErrorBody), (status = 409, body = ErrorBody)))]
pub async fn delete<B: Backend>(State(backend): State<Arc<B>>, Path(id): Path<String>) -> ApiResult<StatusCode> {
    let pipeline = find(backend.as_ref(), &id)?;
    backend.run(&format!("DROP PIPELINE {}", sql_name(&pipeline))).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Starts a pipeline from its last checkpoint, or from nothing; answers the job. A pipeline that runs keeps its job.
#[utoipa::path(post, path = "/pipelines/{id}/start", tag = "pipelines", params(("id" = String, Path)),
    responses((status = 200, body = JobResource), (status = 401, body = ErrorBody), (status = 404, body = ErrorBody), (status = 409, body = ErrorBody)))]
pub async fn start<B: Backend>(State(backend): State<Arc<B>>, Path(id): Path<String>) -> ApiResult<Json<JobResource>> {
    let pipeline = find(backend.as_ref(), &id)?;
    let oid = pipeline.header.oid;
    let running = newest_job(backend.as_ref(), oid).await?;
    if let Some(job) = running.filter(|job| job.running_desired && !ENDED.contains(&job.state.as_str())) {
        return Ok(Json(job));
    }
    backend.run(&format!("START PIPELINE {}", sql_name(&pipeline))).await?;
    job_or_conflict(newest_job(backend.as_ref(), oid).await?, &pipeline)
}

/// Stops a pipeline; answers its job, which may still be stopping when the time is over.
#[utoipa::path(post, path = "/pipelines/{id}/stop", tag = "pipelines", params(("id" = String, Path)), request_body = StopPipeline,
    responses((status = 200, body = JobResource), (status = 400, body = ErrorBody), (status = 401, body = ErrorBody), (status = 404, body = ErrorBody), (status = 409, body = ErrorBody)))]
pub async fn stop<B: Backend>(
    State(backend): State<Arc<B>>,
    Path(id): Path<String>,
    JsonBody(body): JsonBody<StopPipeline>,
) -> ApiResult<Json<JobResource>> {
    let pipeline = find(backend.as_ref(), &id)?;
    let how = match body.mode.as_deref() {
        None | Some("graceful") => "STOP PIPELINE",
        Some("checkpoint") => "STOP WITH CHECKPOINT PIPELINE",
        Some("immediate" | "force") => "STOP NOW PIPELINE",
        Some(other) => {
            return Err(ApiError::invalid(format!("unknown stop mode \"{other}\""))
                .with_hint("Use checkpoint, graceful, immediate or force."));
        }
    };
    let statement = format!("{how} {}", sql_name(&pipeline));
    let timeout = Duration::from_secs(body.timeout_seconds.unwrap_or(STOP_TIMEOUT_DEFAULT_SECONDS));
    // When the time is over the stop goes on; the job says so.
    if let Ok(stopped) = tokio::time::timeout(timeout, backend.run(&statement)).await {
        stopped?;
    }
    job_or_conflict(newest_job(backend.as_ref(), pipeline.header.oid).await?, &pipeline)
}

/// The jobs of a pipeline, newest first.
#[utoipa::path(get, path = "/pipelines/{id}/jobs", tag = "pipelines", params(("id" = String, Path)),
    responses((status = 200, body = Page<JobResource>), (status = 401, body = ErrorBody), (status = 404, body = ErrorBody)))]
pub async fn jobs<B: Backend>(
    State(backend): State<Arc<B>>,
    Path(id): Path<String>,
) -> ApiResult<Json<Page<JobResource>>> {
    let pipeline = find(backend.as_ref(), &id)?;
    let data = backend.jobs(Some(pipeline.header.oid)).await?;
    Ok(Json(Page { data, has_more: false }))
}

/// Compiles a query without creating anything.
#[utoipa::path(post, path = "/pipelines/validate_query", tag = "pipelines", request_body = ValidateQuery,
    responses((status = 200, body = ValidatedQuery), (status = 400, body = ErrorBody), (status = 401, body = ErrorBody)))]
pub async fn validate_query<B: Backend>(
    State(backend): State<Arc<B>>,
    JsonBody(body): JsonBody<ValidateQuery>,
) -> Json<ValidatedQuery> {
    Json(match backend.compile(&body.query) {
        Ok(graph) => ValidatedQuery {
            graph: Some(graph),
            errors: Vec::new(),
        },
        Err(report) => ValidatedQuery {
            graph: None,
            errors: vec![error_text(&report)],
        },
    })
}

/// One line, with all that helps to find the place.
fn error_text(report: &ErrorReport) -> String {
    let mut text = report.message.clone();
    if let Some(position) = report.position {
        text.push_str(&format!(" (at character {position})"));
    }
    if let Some(hint) = &report.hint {
        text.push_str(&format!(". {hint}"));
    }
    text
}

fn find<B: Backend>(backend: &B, id: &str) -> ApiResult<Pipeline> {
    match resource::find(&backend.snapshot(), ObjectKind::Pipeline, id)? {
        Object::Pipeline(pipeline) => Ok(pipeline.clone()),
        _ => Err(ApiError::not_found("pipeline", id)),
    }
}

fn sql_name(pipeline: &Pipeline) -> String {
    qualified(pipeline.header.schema.as_deref(), &pipeline.header.name)
}

async fn newest_job<B: Backend>(backend: &B, pipeline: Oid) -> ApiResult<Option<JobResource>> {
    Ok(backend.jobs(Some(pipeline)).await?.into_iter().next())
}

fn job_or_conflict(job: Option<JobResource>, pipeline: &Pipeline) -> ApiResult<Json<JobResource>> {
    job.map(Json).ok_or_else(|| {
        let report = ErrorReport::new(
            SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE,
            format!("pipeline \"{}\" is not running", pipeline.header.name),
        );
        report.into()
    })
}
