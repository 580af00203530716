//! `/tables`: connected tables.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;

use super::backend::Backend;
use super::body::JsonBody;
use super::error::{ApiError, ApiResult, ErrorBody};
use super::model::{ConnectionTable, CountedPage, CreateConnectionTable, PageMeta, Wrapped};
use super::query::{Params, TableParams, limit};
use super::resource;
use super::statement::{create_table, qualified};
use crate::catalog::objects::{Object, ObjectKind};
use crate::catalog::snapshot::CatalogSnapshot;

/// Creates a connected table.
#[utoipa::path(post, path = "/tables", tag = "tables", request_body = CreateConnectionTable,
    responses((status = 201, body = Wrapped<ConnectionTable>), (status = 400, body = ErrorBody), (status = 401, body = ErrorBody), (status = 409, body = ErrorBody), (status = 422, body = ErrorBody)))]
pub async fn create<B: Backend>(
    State(backend): State<Arc<B>>,
    JsonBody(body): JsonBody<CreateConnectionTable>,
) -> ApiResult<(StatusCode, Json<Wrapped<ConnectionTable>>)> {
    let statement = {
        let snapshot = backend.snapshot();
        let profile = profile_name(&snapshot, &body)?;
        create_table(&body, profile.as_deref())?
    };
    backend.run(&statement).await?;
    let data = read(backend.as_ref(), &body.name)?;
    Ok((StatusCode::CREATED, Json(Wrapped { data })))
}

/// The name of the connection that the request names by id or name. That it does not exist is the body's fault: 400.
fn profile_name(snapshot: &CatalogSnapshot, body: &CreateConnectionTable) -> ApiResult<Option<String>> {
    let Some(id) = body.connection_profile_id.as_ref().or(body.profile.as_ref()) else {
        return Ok(None);
    };
    match resource::find(snapshot, ObjectKind::Connection, id) {
        Ok(object) => Ok(Some(object.header().name.clone())),
        Err(_) => Err(ApiError::invalid(format!("connection profile \"{id}\" does not exist"))
            .with_hint("GET /connection-profiles lists them.")),
    }
}

/// Connected tables, in the order they were created.
#[utoipa::path(get, path = "/tables", tag = "tables", params(TableParams),
    responses((status = 200, body = CountedPage<ConnectionTable>), (status = 400, body = ErrorBody), (status = 401, body = ErrorBody)))]
pub async fn list<B: Backend>(
    State(backend): State<Arc<B>>,
    Params(params): Params<TableParams>,
) -> ApiResult<Json<CountedPage<ConnectionTable>>> {
    let limit = limit(params.limit)?;
    let offset = params.offset.unwrap_or(0);
    let snapshot = backend.snapshot();
    let fits = |wanted: &Option<String>, has: &Option<String>| wanted.is_none() || wanted == has;
    let all: Vec<ConnectionTable> = snapshot
        .tables()
        .map(|table| resource::table(&snapshot, table))
        .filter(|table| fits(&params.r#type, &table.table_type) && fits(&params.connector, &table.connector))
        .collect();
    let total = all.len();
    let data = all.into_iter().skip(offset).take(limit).collect();
    let meta = PageMeta { total, limit, offset };
    Ok(Json(CountedPage { data, meta }))
}

/// One table, by id or name.
#[utoipa::path(get, path = "/tables/{id}", tag = "tables", params(("id" = String, Path)),
    responses((status = 200, body = Wrapped<ConnectionTable>), (status = 401, body = ErrorBody), (status = 404, body = ErrorBody)))]
pub async fn get<B: Backend>(
    State(backend): State<Arc<B>>,
    Path(id): Path<String>,
) -> ApiResult<Json<Wrapped<ConnectionTable>>> {
    let data = read(backend.as_ref(), &id)?;
    Ok(Json(Wrapped { data }))
}

/// Deletes a table that nothing uses.
#[utoipa::path(delete, path = "/tables/{id}", tag = "tables", params(("id" = String, Path)),
    responses((status = 204), (status = 401, body = ErrorBody), (status = 404, body = ErrorBody), (status = 409, body = ErrorBody)))]
pub async fn delete<B: Backend>(State(backend): State<Arc<B>>, Path(id): Path<String>) -> ApiResult<StatusCode> {
    let statement = {
        let snapshot = backend.snapshot();
        let header = resource::find(&snapshot, ObjectKind::Table, &id)?.header();
        format!("DROP TABLE {}", qualified(header.schema.as_deref(), &header.name))
    };
    backend.run(&statement).await?;
    Ok(StatusCode::NO_CONTENT)
}

fn read<B: Backend>(backend: &B, id: &str) -> ApiResult<ConnectionTable> {
    let snapshot = backend.snapshot();
    match resource::find(&snapshot, ObjectKind::Table, id)? {
        Object::Table(table) => Ok(resource::table(&snapshot, table)),
        _ => Err(ApiError::not_found("table", id)),
    }
}
