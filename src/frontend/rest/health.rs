//! Liveness, readiness, metrics.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use serde::Serialize;
use utoipa::ToSchema;

use super::backend::Backend;
use super::error::{ApiError, ApiResult, ErrorBody};
use crate::metrics::Metrics;

#[derive(Clone, Copy, Debug, Serialize, ToSchema)]
pub struct Health {
    /// `ok`, `ready`.
    pub status: &'static str,
}

/// Answers `Pong`.
#[utoipa::path(get, path = "/ping", tag = "server", responses((status = 200, body = String)))]
pub async fn ping() -> Json<&'static str> {
    Json("Pong")
}

/// The process lives.
#[utoipa::path(get, path = "/healthz", tag = "server", responses((status = 200, body = Health)))]
pub async fn healthz() -> Json<Health> {
    Json(Health { status: "ok" })
}

/// The server can do its work.
#[utoipa::path(get, path = "/readyz", tag = "server",
    responses((status = 200, body = Health), (status = 503, body = ErrorBody)))]
pub async fn readyz<B: Backend>(State(backend): State<Arc<B>>) -> ApiResult<Json<Health>> {
    match backend.ready().await {
        Ok(()) => Ok(Json(Health { status: "ready" })),
        Err(report) => Err(ApiError::new(StatusCode::SERVICE_UNAVAILABLE, report)),
    }
}

/// All metrics, for Prometheus.
#[utoipa::path(get, path = "/metrics", tag = "server",
    responses((status = 200, content_type = "text/plain", body = String), (status = 401, body = ErrorBody)))]
pub async fn metrics(State(metrics): State<Metrics>) -> impl IntoResponse {
    let content_type = [(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")];
    (content_type, metrics.render())
}
