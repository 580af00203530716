//! Request bodies: JSON objects with known keys, in snake_case or camelCase.
//!
//! The known keys of a body are the properties of its schema in the OpenAPI document, so the two cannot differ. A key that
//! is not known is 400 with the nearest one.

use axum::body::{Body, to_bytes};
use axum::extract::{FromRequest, Request};
use axum::http::StatusCode;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use utoipa::ToSchema;
use utoipa::openapi::RefOr;
use utoipa::openapi::schema::Schema;

use super::error::{ApiError, ApiResult};
use crate::error::{ErrorReport, SqlState, nearest};
use crate::options::normalize_name;

/// Longer bodies are 413.
pub const BODY_BYTES_MAX: usize = 8 * 1024 * 1024;

/// A body of type `T`.
pub struct JsonBody<T>(pub T);

impl<S: Send + Sync, T: DeserializeOwned + ToSchema> FromRequest<S> for JsonBody<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, _state: &S) -> ApiResult<JsonBody<T>> {
        let bytes = bytes(request.into_body()).await?;
        let value = if bytes.is_empty() {
            Value::Object(Map::new())
        } else {
            serde_json::from_slice(&bytes).map_err(|error| {
                let report = ErrorReport::new(
                    SqlState::INVALID_TEXT_REPRESENTATION,
                    format!("the body is not JSON: {error}"),
                );
                ApiError::new(StatusCode::BAD_REQUEST, report)
            })?
        };
        read("the body", value).map(JsonBody)
    }
}

async fn bytes(body: Body) -> ApiResult<bytes::Bytes> {
    to_bytes(body, BODY_BYTES_MAX).await.map_err(|_| {
        let report = ErrorReport::new(
            SqlState::PROGRAM_LIMIT_EXCEEDED,
            format!("the body is longer than {BODY_BYTES_MAX} bytes"),
        );
        ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, report)
    })
}

/// `value` as a `T`, with its keys checked; `place` names it in errors.
pub fn read<T: DeserializeOwned + ToSchema>(place: &str, value: Value) -> ApiResult<T> {
    let Value::Object(given) = value else {
        return Err(ApiError::invalid(format!("{place} must be a JSON object")));
    };
    let known = known_keys::<T>();
    let mut normalized = Map::new();
    for (key, value) in given {
        let name = normalize_name(&key);
        if !known.contains(&name) {
            return Err(unknown_key(place, &key, &known));
        }
        normalized.insert(name, value);
    }
    serde_json::from_value(Value::Object(normalized)).map_err(|error| ApiError::invalid(format!("{place}: {error}")))
}

fn unknown_key(place: &str, key: &str, known: &[String]) -> ApiError {
    let error = ApiError::invalid(format!("unknown key \"{key}\" in {place}"));
    match nearest(&normalize_name(key), known.iter().map(String::as_str)) {
        Some(near) => error.with_hint(format!("Perhaps you meant \"{near}\".")),
        None => error.with_hint(format!("Known keys: {}.", known.join(", "))),
    }
}

/// The properties of `T` in the OpenAPI document.
pub fn known_keys<T: ToSchema>() -> Vec<String> {
    match T::schema() {
        RefOr::T(Schema::Object(object)) => object.properties.keys().cloned().collect(),
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use serde::Deserialize;
    use serde_json::json;

    use super::*;

    #[derive(Debug, Deserialize, ToSchema)]
    struct Example {
        checkpoint_interval_micros: Option<u64>,
        name: String,
    }

    #[test]
    fn both_spellings_are_read() {
        for key in ["checkpointIntervalMicros", "checkpoint_interval_micros"] {
            let example: Example = read("x", json!({"name": "n", key: 5})).unwrap();
            assert_eq!(
                (example.checkpoint_interval_micros, example.name.as_str()),
                (Some(5), "n")
            );
        }
    }

    #[test]
    fn unknown_keys_get_the_nearest() {
        let error = read::<Example>("x", json!({"nam": "n"})).unwrap_err();
        assert_eq!(error.status, StatusCode::BAD_REQUEST);
        assert!(
            format!("{error:?}").contains("Perhaps you meant \\\"name\\\""),
            "{error:?}"
        );
    }

    #[test]
    fn wrong_types_say_what() {
        let error = read::<Example>("x", json!({"name": 5})).unwrap_err();
        assert!(format!("{error:?}").contains("invalid type"), "{error:?}");
        assert!(read::<Example>("x", json!([])).is_err());
    }
}
