//! Errors as REST tells them: a status, a code word, the message, and in `details` what SQL clients get too.

use axum::Json;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::ToSchema;

use crate::error::{ErrorReport, SqlState};

/// An error on its way to a client.
#[derive(Clone, Debug, PartialEq)]
pub struct ApiError {
    pub status: StatusCode,
    report: ErrorReport,
}

pub type ApiResult<T> = Result<T, ApiError>;

/// The body of every error.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct ErrorBody {
    pub error: ErrorContent,
}

#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct ErrorContent {
    /// `VALIDATION_ERROR`, `UNAUTHORIZED`, `NOT_FOUND`, `CONFLICT`, ..
    pub code: &'static str,
    pub message: String,
    pub details: ErrorDetails,
}

#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct ErrorDetails {
    /// As in <https://www.postgresql.org/docs/16/errcodes-appendix.html>.
    pub sqlstate: String,
    /// In characters of the query in the request, from 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub position: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

impl ApiError {
    /// 400: the request says something that cannot be.
    pub fn invalid(message: impl Into<String>) -> ApiError {
        ApiError::new(
            StatusCode::BAD_REQUEST,
            ErrorReport::new(SqlState::INVALID_PARAMETER_VALUE, message),
        )
    }

    /// 404: the address names nothing.
    pub fn not_found(what: &str, id: &str) -> ApiError {
        let message = format!("{what} \"{id}\" does not exist");
        ApiError::new(
            StatusCode::NOT_FOUND,
            ErrorReport::new(SqlState::UNDEFINED_OBJECT, message),
        )
    }

    pub fn unauthorized() -> ApiError {
        let report = ErrorReport::new(
            SqlState::INVALID_AUTHORIZATION_SPECIFICATION,
            "this request needs a valid bearer token",
        );
        ApiError::new(
            StatusCode::UNAUTHORIZED,
            report.with_hint("Send the header Authorization: Bearer <token>."),
        )
    }

    pub fn new(status: StatusCode, report: ErrorReport) -> ApiError {
        ApiError { status, report }
    }

    pub fn with_hint(mut self, hint: impl Into<String>) -> ApiError {
        self.report.hint = Some(hint.into());
        self
    }

    /// The position counted in the request's query, which begins after `prefix` characters of the statement that was run.
    pub fn with_position_after(mut self, prefix: usize) -> ApiError {
        self.report.position = self.report.position.and_then(|position| position.checked_sub(prefix));
        self
    }
}

impl From<ErrorReport> for ApiError {
    fn from(report: ErrorReport) -> ApiError {
        ApiError::new(status_of(report.code), report)
    }
}

/// 404 is for addresses only: a name inside of a statement that does not exist makes the request invalid.
fn status_of(code: SqlState) -> StatusCode {
    match code {
        SqlState::FEATURE_NOT_SUPPORTED => StatusCode::UNPROCESSABLE_ENTITY,
        SqlState::DUPLICATE_TABLE
        | SqlState::DUPLICATE_OBJECT
        | SqlState::DUPLICATE_SCHEMA
        | SqlState::DEPENDENT_OBJECTS_STILL_EXIST
        | SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE
        | SqlState::OBJECT_IN_USE
        | SqlState::SERIALIZATION_FAILURE
        | SqlState::UNIQUE_VIOLATION => StatusCode::CONFLICT,
        SqlState::INSUFFICIENT_PRIVILEGE
        | SqlState::INVALID_PASSWORD
        | SqlState::INVALID_AUTHORIZATION_SPECIFICATION => StatusCode::UNAUTHORIZED,
        other => match &other.as_str()[..2] {
            "08" | "53" | "57" | "58" | "XX" => StatusCode::INTERNAL_SERVER_ERROR,
            _ => StatusCode::BAD_REQUEST,
        },
    }
}

fn code_word(status: StatusCode) -> &'static str {
    match status {
        StatusCode::UNAUTHORIZED => "UNAUTHORIZED",
        StatusCode::NOT_FOUND => "NOT_FOUND",
        StatusCode::METHOD_NOT_ALLOWED => "METHOD_NOT_ALLOWED",
        StatusCode::CONFLICT => "CONFLICT",
        StatusCode::PAYLOAD_TOO_LARGE => "PAYLOAD_TOO_LARGE",
        StatusCode::UNPROCESSABLE_ENTITY => "NOT_SUPPORTED",
        StatusCode::SERVICE_UNAVAILABLE => "NOT_READY",
        status if status.is_server_error() => "INTERNAL_ERROR",
        _ => "VALIDATION_ERROR",
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let body = ErrorBody {
            error: ErrorContent {
                code: code_word(self.status),
                message: self.report.message,
                details: ErrorDetails {
                    sqlstate: self.report.code.as_str().to_owned(),
                    position: self.report.position,
                    detail: self.report.detail,
                    hint: self.report.hint,
                },
            },
        };
        let mut response = (self.status, Json(body)).into_response();
        if self.status == StatusCode::UNAUTHORIZED {
            let challenge = axum::http::HeaderValue::from_static("Bearer");
            response
                .headers_mut()
                .insert(axum::http::header::WWW_AUTHENTICATE, challenge);
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sqlstates_have_their_status() {
        let cases = [
            (SqlState::SYNTAX_ERROR, 400),
            (SqlState::UNDEFINED_TABLE, 400),
            (SqlState::DUPLICATE_TABLE, 409),
            (SqlState::DEPENDENT_OBJECTS_STILL_EXIST, 409),
            (SqlState::FEATURE_NOT_SUPPORTED, 422),
            (SqlState::INTERNAL_ERROR, 500),
            (SqlState::DISK_FULL, 500),
            (SqlState::INVALID_PASSWORD, 401),
        ];
        for (code, status) in cases {
            assert_eq!(status_of(code).as_u16(), status, "{code}");
        }
    }

    #[test]
    fn positions_are_those_of_the_query() {
        let report = ErrorReport::new(SqlState::SYNTAX_ERROR, "x").with_position(30);
        assert_eq!(
            ApiError::from(report.clone()).with_position_after(22).report.position,
            Some(8)
        );
        assert_eq!(ApiError::from(report).with_position_after(31).report.position, None);
    }
}
