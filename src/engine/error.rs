//! What can go wrong while running a job.

use crate::error::{Blame, ErrorReport, Report, Retry, SqlState};
use crate::state;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("connector \"{name}\" does not exist")]
    UnknownConnector { name: String, nearest: Option<String> },
    #[error("connector \"{connector}\" cannot be read from")]
    NoSource { connector: &'static str },
    #[error("connector \"{connector}\" cannot be written to")]
    NoSink { connector: &'static str },
    /// Wrong options, with everything a client needs already said.
    #[error("{0}")]
    Option(ErrorReport),
    /// A system outside failed.
    #[error("{message}")]
    External {
        code: SqlState,
        message: String,
        hint: Option<String>,
        retry: Retry,
    },
    /// A row could not be decoded or evaluated and the policy is to fail.
    #[error("{message}")]
    Data {
        code: SqlState,
        message: String,
        detail: Option<String>,
    },
    #[error(transparent)]
    State(#[from] state::error::Error),
    #[error("could not evaluate an expression: {0}")]
    Expression(#[from] datafusion::error::DataFusionError),
    #[error("could not compute on columns: {0}")]
    Arrow(#[from] arrow::error::ArrowError),
    #[error("{what} is not supported")]
    NotSupported { what: String, hint: Option<String> },
    #[error("job was stopped")]
    Stopped,
    #[error("internal error: {0}")]
    Internal(String),
}

impl Report for Error {
    fn code(&self) -> SqlState {
        match self {
            Error::UnknownConnector { .. } => SqlState::INVALID_PARAMETER_VALUE,
            Error::NoSource { .. } | Error::NoSink { .. } => SqlState::WRONG_OBJECT_TYPE,
            Error::Option(report) => report.code,
            Error::External { code, .. } | Error::Data { code, .. } => *code,
            Error::State(error) => error.code(),
            Error::Expression(error) => expression_code(&error.to_string()),
            Error::Arrow(error) => expression_code(&error.to_string()),
            Error::NotSupported { .. } => SqlState::FEATURE_NOT_SUPPORTED,
            Error::Stopped => SqlState::QUERY_CANCELED,
            Error::Internal(_) => SqlState::INTERNAL_ERROR,
        }
    }

    fn detail(&self) -> Option<String> {
        match self {
            Error::Option(report) => report.detail.clone(),
            Error::Data { detail, .. } => detail.clone(),
            Error::State(error) => error.detail(),
            _ => None,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Error::UnknownConnector { nearest, .. } => Some(match nearest {
                Some(nearest) => format!("Perhaps you meant \"{nearest}\"; SHOW CONNECTORS lists them."),
                None => "SHOW CONNECTORS lists them.".into(),
            }),
            Error::Option(report) => report.hint.clone(),
            Error::External { hint, .. } | Error::NotSupported { hint, .. } => hint.clone(),
            Error::State(error) => error.hint(),
            _ => None,
        }
    }

    fn blame(&self) -> Blame {
        match self {
            Error::External { .. } => Blame::External,
            Error::State(error) => error.blame(),
            Error::Internal(_) => Blame::Internal,
            _ => Blame::User,
        }
    }

    fn retry(&self) -> Retry {
        match self {
            Error::External { retry, .. } => *retry,
            Error::State(error) => error.retry(),
            _ => Retry::Never,
        }
    }
}

/// Evaluation errors of the expression library carry no code; the few that Postgres users know by code are told apart by
/// their text.
pub fn expression_code(message: &str) -> SqlState {
    let message = message.to_lowercase();
    if message.contains("divide by zero") || message.contains("division by zero") {
        SqlState::DIVISION_BY_ZERO
    } else if message.contains("overflow") {
        SqlState::NUMERIC_VALUE_OUT_OF_RANGE
    } else if message.contains("cannot cast string") || message.contains("parsing") || message.contains("parse") {
        SqlState::INVALID_TEXT_REPRESENTATION
    } else {
        SqlState::DATA_EXCEPTION
    }
}
