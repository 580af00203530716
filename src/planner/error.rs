//! What can be wrong with a query.

use crate::engine;
use crate::error::{Blame, ErrorReport, Report, Retry, SqlState};

#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// A relation, column or function that is not there.
    #[error("{kind} \"{name}\" does not exist")]
    Undefined {
        kind: Undefined,
        name: String,
        hint: Option<String>,
        position: Option<usize>,
    },
    #[error("{message}")]
    NotSupported {
        message: String,
        hint: String,
        position: Option<usize>,
    },
    /// Anything else wrong with the text, told apart by its code.
    #[error("{0}")]
    Query(ErrorReport),
    /// Said by a connector or by the catalog about the options of a table.
    #[error("{0}")]
    Table(ErrorReport),
    #[error("internal error: {0}")]
    Internal(String),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Undefined {
    Relation,
    Column,
    Function,
    Schema,
    Type,
}

impl std::fmt::Display for Undefined {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Undefined::Relation => "relation",
            Undefined::Column => "column",
            Undefined::Function => "function",
            Undefined::Schema => "schema",
            Undefined::Type => "type",
        })
    }
}

pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    pub fn not_supported(message: impl Into<String>, hint: impl Into<String>) -> Error {
        Error::NotSupported {
            message: message.into(),
            hint: hint.into(),
            position: None,
        }
    }

    pub fn query(code: SqlState, message: impl Into<String>) -> Error {
        Error::Query(ErrorReport::new(code, message))
    }

    /// The same error, pointing at character `at` unless it points somewhere already.
    pub fn at(mut self, at: Option<usize>) -> Error {
        match &mut self {
            Error::Undefined { position, .. } | Error::NotSupported { position, .. } => *position = position.or(at),
            Error::Query(report) | Error::Table(report) => report.position = report.position.or(at),
            Error::Internal(_) => {}
        }
        self
    }

    /// The same error pointing nowhere, for text that the user did not send with this statement.
    pub fn nowhere(mut self) -> Error {
        match &mut self {
            Error::Undefined { position, .. } | Error::NotSupported { position, .. } => *position = None,
            Error::Query(report) | Error::Table(report) => report.position = None,
            Error::Internal(_) => {}
        }
        self
    }
}

impl Report for Error {
    fn code(&self) -> SqlState {
        match self {
            Error::Undefined { kind, .. } => match kind {
                Undefined::Relation => SqlState::UNDEFINED_TABLE,
                Undefined::Column => SqlState::UNDEFINED_COLUMN,
                Undefined::Function => SqlState::UNDEFINED_FUNCTION,
                Undefined::Schema => SqlState::INVALID_SCHEMA_NAME,
                Undefined::Type => SqlState::UNDEFINED_OBJECT,
            },
            Error::NotSupported { .. } => SqlState::FEATURE_NOT_SUPPORTED,
            Error::Query(report) | Error::Table(report) => report.code,
            Error::Internal(_) => SqlState::INTERNAL_ERROR,
        }
    }

    fn detail(&self) -> Option<String> {
        match self {
            Error::Query(report) | Error::Table(report) => report.detail.clone(),
            _ => None,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Error::Undefined { hint, .. } => hint.clone(),
            Error::NotSupported { hint, .. } => Some(hint.clone()),
            Error::Query(report) | Error::Table(report) => report.hint.clone(),
            Error::Internal(_) => None,
        }
    }

    fn position(&self) -> Option<usize> {
        match self {
            Error::Undefined { position, .. } | Error::NotSupported { position, .. } => *position,
            Error::Query(report) | Error::Table(report) => report.position,
            Error::Internal(_) => None,
        }
    }

    fn blame(&self) -> Blame {
        match self {
            Error::Query(report) | Error::Table(report) => report.blame,
            Error::Internal(_) => Blame::Internal,
            _ => Blame::User,
        }
    }

    fn retry(&self) -> Retry {
        match self {
            Error::Table(report) => report.retry,
            _ => Retry::Never,
        }
    }
}

impl From<engine::error::Error> for Error {
    fn from(error: engine::error::Error) -> Error {
        Error::Table(error.report())
    }
}

impl From<ErrorReport> for Error {
    fn from(report: ErrorReport) -> Error {
        Error::Query(report)
    }
}
