//! REST: the same objects, states, ids and errors as SQL, over HTTP.
//!
//! A handler reads a body ([`body`], [`model`]), builds a statement ([`statement`]) and runs it, or reads the catalog
//! ([`resource`]); nothing is decided here. [`backend`] is what is needed of the server, [`guard`] says who may ask,
//! [`listener`] listens, [`openapi`] is the document, [`error`] how errors are told.

pub mod backend;
mod body;
mod connectors;
pub mod error;
mod guard;
mod health;
pub mod listener;
pub mod model;
pub mod openapi;
mod pipelines;
mod profiles;
mod query;
mod resource;
pub mod server_backend;
pub mod statement;
mod tables;

#[cfg(test)]
mod tests;

use std::any::Any;
use std::sync::Arc;

use axum::extract::FromRef;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use tower_http::catch_panic::CatchPanicLayer;
use utoipa_swagger_ui::SwaggerUi;

use self::backend::Backend;
use self::error::ApiError;
use self::guard::Guard;
use crate::error::{Blame, ErrorReport, SqlState};
use crate::metrics::Metrics;

/// What handlers get.
struct RestState<B> {
    backend: Arc<B>,
    metrics: Metrics,
}

impl<B> Clone for RestState<B> {
    fn clone(&self) -> Self {
        RestState {
            backend: Arc::clone(&self.backend),
            metrics: self.metrics.clone(),
        }
    }
}

impl<B> FromRef<RestState<B>> for Arc<B> {
    fn from_ref(state: &RestState<B>) -> Arc<B> {
        Arc::clone(&state.backend)
    }
}

impl<B> FromRef<RestState<B>> for Metrics {
    fn from_ref(state: &RestState<B>) -> Metrics {
        state.metrics.clone()
    }
}

/// All routes.
fn router<B: Backend>(backend: Arc<B>, metrics: Metrics, guard: Guard) -> Router {
    let page = SwaggerUi::new("/api/docs").config(utoipa_swagger_ui::Config::new([openapi::DOCUMENT_PATH]));
    Router::new()
        .route("/healthz", get(health::healthz))
        .route("/readyz", get(health::readyz::<B>))
        .route("/metrics", get(health::metrics))
        .nest("/api/v1", api::<B>())
        .nest("/v1", api::<B>())
        .with_state(RestState { backend, metrics })
        .merge(page)
        .fallback(|| async { ApiError::not_found("route", "this path") })
        .method_not_allowed_fallback(method_not_allowed)
        .layer(CatchPanicLayer::custom(panicked))
        .layer(axum::middleware::from_fn_with_state(guard, guard::guard))
        .layer(axum::middleware::from_fn(guard::measure))
}

fn api<B: Backend>() -> Router<RestState<B>> {
    let mut router = Router::new()
        .route("/ping", get(health::ping))
        .route("/connectors", get(connectors::list))
        .route("/connectors/{id}", get(connectors::get))
        .route("/pipelines", get(pipelines::list::<B>).post(pipelines::create::<B>))
        .route("/pipelines/validate_query", post(pipelines::validate_query::<B>))
        .route(
            "/pipelines/{id}",
            get(pipelines::get::<B>).delete(pipelines::delete::<B>),
        )
        .route("/pipelines/{id}/start", post(pipelines::start::<B>))
        .route("/pipelines/{id}/stop", post(pipelines::stop::<B>))
        .route("/pipelines/{id}/jobs", get(pipelines::jobs::<B>))
        .route("/api-docs/openapi.json", get(|| async { Json(openapi::document()) }));
    for name in ["/connection-profiles", "/connection_profiles", "/profiles"] {
        let one = get(profiles::get::<B>).delete(profiles::delete::<B>);
        router = router
            .route(name, get(profiles::list::<B>).post(profiles::create::<B>))
            .route(&format!("{name}/{{id}}"), one);
    }
    for name in ["/tables", "/connection_tables", "/connection-tables"] {
        let one = get(tables::get::<B>).delete(tables::delete::<B>);
        router = router
            .route(name, get(tables::list::<B>).post(tables::create::<B>))
            .route(&format!("{name}/{{id}}"), one);
    }
    router
}

async fn method_not_allowed() -> ApiError {
    let report = ErrorReport::new(SqlState::FEATURE_NOT_SUPPORTED, "this route has no such method");
    ApiError::new(StatusCode::METHOD_NOT_ALLOWED, report)
}

fn panicked(_: Box<dyn Any + Send>) -> Response {
    metrics::counter!("laminar_panics_total", "component" => "rest").increment(1);
    let mut report = ErrorReport::new(SqlState::INTERNAL_ERROR, "the server has a bug: the request panicked");
    report.blame = Blame::Internal;
    ApiError::from(report).into_response()
}
