//! `/connection-profiles`: connections.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;

use super::backend::Backend;
use super::body::JsonBody;
use super::error::{ApiError, ApiResult, ErrorBody};
use super::model::{ConnectionProfile, CreateConnectionProfile, Wrapped};
use super::resource;
use super::statement::{create_connection, qualified};
use crate::catalog::objects::{Object, ObjectKind};

/// Creates a connection profile.
#[utoipa::path(post, path = "/connection-profiles", tag = "connection profiles", request_body = CreateConnectionProfile,
    responses((status = 201, body = Wrapped<ConnectionProfile>), (status = 400, body = ErrorBody), (status = 401, body = ErrorBody), (status = 409, body = ErrorBody)))]
pub async fn create<B: Backend>(
    State(backend): State<Arc<B>>,
    JsonBody(body): JsonBody<CreateConnectionProfile>,
) -> ApiResult<(StatusCode, Json<Wrapped<ConnectionProfile>>)> {
    backend.run(&create_connection(&body)?).await?;
    let data = read(backend.as_ref(), &body.name)?;
    Ok((StatusCode::CREATED, Json(Wrapped { data })))
}

/// All connection profiles.
#[utoipa::path(get, path = "/connection-profiles", tag = "connection profiles",
    responses((status = 200, body = Wrapped<Vec<ConnectionProfile>>), (status = 401, body = ErrorBody)))]
pub async fn list<B: Backend>(State(backend): State<Arc<B>>) -> Json<Wrapped<Vec<ConnectionProfile>>> {
    let snapshot = backend.snapshot();
    let data = snapshot.connections().map(resource::profile).collect();
    Json(Wrapped { data })
}

/// One connection profile, by id or name.
#[utoipa::path(get, path = "/connection-profiles/{id}", tag = "connection profiles", params(("id" = String, Path)),
    responses((status = 200, body = Wrapped<ConnectionProfile>), (status = 401, body = ErrorBody), (status = 404, body = ErrorBody)))]
pub async fn get<B: Backend>(
    State(backend): State<Arc<B>>,
    Path(id): Path<String>,
) -> ApiResult<Json<Wrapped<ConnectionProfile>>> {
    let data = read(backend.as_ref(), &id)?;
    Ok(Json(Wrapped { data }))
}

/// Deletes a connection profile that no table uses.
#[utoipa::path(delete, path = "/connection-profiles/{id}", tag = "connection profiles", params(("id" = String, Path)),
    responses((status = 204), (status = 401, body = ErrorBody), (status = 404, body = ErrorBody), (status = 409, body = ErrorBody)))]
pub async fn delete<B: Backend>(State(backend): State<Arc<B>>, Path(id): Path<String>) -> ApiResult<StatusCode> {
    let statement = {
        let snapshot = backend.snapshot();
        let header = resource::find(&snapshot, ObjectKind::Connection, &id)?.header();
        format!("DROP CONNECTION {}", qualified(header.schema.as_deref(), &header.name))
    };
    backend.run(&statement).await?;
    Ok(StatusCode::NO_CONTENT)
}

fn read<B: Backend>(backend: &B, id: &str) -> ApiResult<ConnectionProfile> {
    let snapshot = backend.snapshot();
    match resource::find(&snapshot, ObjectKind::Connection, id)? {
        Object::Connection(connection) => Ok(resource::profile(connection)),
        _ => Err(ApiError::not_found("connection profile", id)),
    }
}
