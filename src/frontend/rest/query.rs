//! Parameters of addresses, paging, and names with wildcards.

use axum::extract::{FromRequestParts, Query};
use axum::http::request::Parts;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use utoipa::IntoParams;

use super::error::{ApiError, ApiResult};

/// Parameters after `?`; what does not fit is 400.
pub struct Params<T>(pub T);

impl<S: Send + Sync, T: DeserializeOwned + Send> FromRequestParts<S> for Params<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> ApiResult<Params<T>> {
        match Query::<T>::from_request_parts(parts, state).await {
            Ok(Query(params)) => Ok(Params(params)),
            Err(error) => Err(ApiError::invalid(format!("wrong parameters: {}", error.body_text()))),
        }
    }
}

const LIMIT_DEFAULT: usize = 20;
const LIMIT_MAX: usize = 100;

#[derive(Clone, Debug, Default, Deserialize, IntoParams)]
pub struct TableParams {
    /// `source`, `sink` or `lookup`.
    pub r#type: Option<String>,
    pub connector: Option<String>,
    /// 20 when left out, at most 100.
    pub limit: Option<usize>,
    pub offset: Option<usize>,
}

#[derive(Clone, Debug, Default, Deserialize, IntoParams)]
pub struct PipelineParams {
    /// 20 when left out, at most 100.
    pub limit: Option<usize>,
    pub offset: Option<usize>,
    /// The id of the last pipeline of the page before.
    pub starting_after: Option<String>,
    /// `*` stands for any text.
    pub name: Option<String>,
    pub state: Option<String>,
}

#[derive(Clone, Debug, Default, Deserialize, IntoParams)]
pub struct ConnectorParams {
    pub category: Option<String>,
    /// `source` or `sink`.
    pub r#type: Option<String>,
}

/// How many to give, within what is allowed.
pub fn limit(given: Option<usize>) -> ApiResult<usize> {
    match given {
        None => Ok(LIMIT_DEFAULT),
        Some(limit @ 1..=LIMIT_MAX) => Ok(limit),
        Some(other) => Err(ApiError::invalid(format!(
            "\"limit\" must be between 1 and {LIMIT_MAX}, not {other}"
        ))),
    }
}

/// Whether `name` is what `pattern` says; `*` and `%` stand for any text, letters are compared without case.
pub fn matches_pattern(pattern: &str, name: &str) -> bool {
    let pattern: Vec<char> = pattern.to_lowercase().chars().collect();
    let name: Vec<char> = name.to_lowercase().chars().collect();
    let is_any = |at: usize| matches!(pattern.get(at), Some('*' | '%'));
    let (mut p, mut n) = (0, 0);
    // Where to go on when what follows the last wildcard does not fit.
    let mut retry = None;
    while n < name.len() {
        if is_any(p) {
            retry = Some((p + 1, n));
            p += 1;
        } else if pattern.get(p) == Some(&name[n]) {
            p += 1;
            n += 1;
        } else if let Some((after, from)) = retry {
            retry = Some((after, from + 1));
            p = after;
            n = from + 1;
        } else {
            return false;
        }
    }
    (p..pattern.len()).all(is_any)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wildcards() {
        for (pattern, name, expected) in [
            ("orders", "Orders", true),
            ("orders", "orders2", false),
            ("ord*", "orders", true),
            ("*ders", "orders", true),
            ("%d%s", "orders", true),
            ("*x*", "orders", false),
            ("*", "", true),
            ("", "a", false),
            ("a*b*c", "aXbXbXc", true),
        ] {
            assert_eq!(matches_pattern(pattern, name), expected, "{pattern} {name}");
        }
    }

    #[test]
    fn limits_are_bounded() {
        assert_eq!(limit(None).ok(), Some(20));
        assert_eq!(limit(Some(100)).ok(), Some(100));
        assert!(limit(Some(0)).is_err());
        assert!(limit(Some(101)).is_err());
    }
}
