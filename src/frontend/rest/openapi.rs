//! The OpenAPI document, made from the handlers.
//!
//! Paths of the API are below `/api/v1`; `/v1` and the other names of resources answer the same and are not listed again.

use utoipa::OpenApi;
use utoipa::openapi::security::{Http, HttpAuthScheme, SecurityScheme};

use super::{connectors, health, pipelines, profiles, tables};

/// Where the document is.
pub const DOCUMENT_PATH: &str = "/api/v1/api-docs/openapi.json";

#[derive(OpenApi)]
#[openapi(paths(
    health::ping,
    connectors::list,
    connectors::get,
    profiles::create,
    profiles::list,
    profiles::get,
    profiles::delete,
    tables::create,
    tables::list,
    tables::get,
    tables::delete,
    pipelines::create,
    pipelines::list,
    pipelines::get,
    pipelines::delete,
    pipelines::start,
    pipelines::stop,
    pipelines::jobs,
    pipelines::validate_query,
))]
struct Api;

#[derive(OpenApi)]
#[openapi(
    info(title = "Laminar", description = "Streaming SQL over HTTP: profiles, tables, pipelines, jobs."),
    paths(health::healthz, health::readyz, health::metrics),
    nest((path = "/api/v1", api = Api)),
)]
struct Whole;

/// The document.
pub fn document() -> utoipa::openapi::OpenApi {
    let mut document = Whole::openapi();
    let token = SecurityScheme::Http(Http::new(HttpAuthScheme::Bearer));
    document
        .components
        .get_or_insert_default()
        .add_security_scheme("token", token);
    document
}
