//! What can go wrong between a client's text and the parts that do the work.
//!
//! Errors of the planner, the catalog and the engine arrive as [`ErrorReport`]s: they already say everything.

use crate::error::{Blame, ErrorReport, Report, Retry, SqlState};

pub type Result<T, E = Error> = std::result::Result<T, E>;

#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// Position in characters of the text as sent, from 1.
    #[error("{message}")]
    Syntax {
        message: String,
        position: usize,
        expected: Option<String>,
    },
    #[error("{what}")]
    TooComplex { what: String, hint: String },
    #[error("{what} is not supported")]
    NotSupported { what: String, hint: String },
    /// An object of some kind, a setting, a prepared statement.
    #[error("{what} \"{name}\" does not exist")]
    Undefined {
        code: SqlState,
        what: &'static str,
        name: String,
        nearest: Option<String>,
    },
    #[error("\"{name}\" is not a {expected}")]
    WrongKind {
        name: String,
        expected: &'static str,
        hint: Option<String>,
    },
    #[error("unrecognized configuration parameter \"{name}\"")]
    UnknownSetting { name: String, nearest: Option<String> },
    #[error("invalid value for parameter \"{name}\": \"{value}\"")]
    SettingValue {
        name: String,
        value: String,
        expected: String,
    },
    #[error("parameter \"{name}\" cannot be changed")]
    SettingReadOnly { name: String },
    #[error("current transaction is aborted, commands ignored until end of transaction block")]
    FailedTransaction,
    #[error("canceling statement due to {reason}")]
    Canceled { reason: &'static str },
    /// Reported in full by another part.
    #[error("{0}")]
    Reported(Box<ErrorReport>),
    #[error("internal error: {0}")]
    Internal(String),
}

impl Error {
    /// A user error that only needs a code and a sentence.
    pub fn user(code: SqlState, message: impl Into<String>) -> Error {
        Error::Reported(Box::new(ErrorReport::new(code, message)))
    }

    pub fn user_with_hint(code: SqlState, message: impl Into<String>, hint: impl Into<String>) -> Error {
        Error::Reported(Box::new(ErrorReport::new(code, message).with_hint(hint)))
    }

    pub fn not_supported(what: impl Into<String>, hint: impl Into<String>) -> Error {
        Error::NotSupported {
            what: what.into(),
            hint: hint.into(),
        }
    }
}

impl Report for Error {
    fn code(&self) -> SqlState {
        match self {
            Error::Syntax { .. } => SqlState::SYNTAX_ERROR,
            Error::TooComplex { .. } => SqlState::STATEMENT_TOO_COMPLEX,
            Error::NotSupported { .. } => SqlState::FEATURE_NOT_SUPPORTED,
            Error::Undefined { code, .. } => *code,
            Error::WrongKind { .. } => SqlState::WRONG_OBJECT_TYPE,
            Error::UnknownSetting { .. } => SqlState::UNDEFINED_OBJECT,
            Error::SettingValue { .. } => SqlState::INVALID_PARAMETER_VALUE,
            Error::SettingReadOnly { .. } => SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE,
            Error::FailedTransaction => SqlState::IN_FAILED_SQL_TRANSACTION,
            Error::Canceled { .. } => SqlState::QUERY_CANCELED,
            Error::Reported(report) => report.code,
            Error::Internal(_) => SqlState::INTERNAL_ERROR,
        }
    }

    fn detail(&self) -> Option<String> {
        match self {
            Error::Syntax { expected, .. } => expected.as_ref().map(|expected| format!("Expected {expected}.")),
            Error::Reported(report) => report.detail.clone(),
            _ => None,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Error::TooComplex { hint, .. } | Error::NotSupported { hint, .. } => Some(hint.clone()),
            Error::Undefined { nearest, .. } => nearest
                .as_ref()
                .map(|nearest| format!("Perhaps you meant \"{nearest}\".")),
            Error::WrongKind { hint, .. } => hint.clone(),
            Error::UnknownSetting { nearest, .. } => Some(match nearest {
                Some(nearest) => format!("Perhaps you meant \"{nearest}\"; SHOW ALL lists them."),
                None => "SHOW ALL lists them.".to_owned(),
            }),
            Error::SettingValue { expected, .. } => Some(format!("Expected {expected}.")),
            Error::Reported(report) => report.hint.clone(),
            Error::FailedTransaction => Some("End it with ROLLBACK.".to_owned()),
            _ => None,
        }
    }

    fn position(&self) -> Option<usize> {
        match self {
            Error::Syntax { position, .. } => Some(*position),
            Error::Reported(report) => report.position,
            _ => None,
        }
    }

    fn blame(&self) -> Blame {
        match self {
            Error::Reported(report) => report.blame,
            Error::Internal(_) => Blame::Internal,
            _ => Blame::User,
        }
    }

    fn retry(&self) -> Retry {
        match self {
            Error::Reported(report) => report.retry,
            _ => Retry::Never,
        }
    }
}

impl From<ErrorReport> for Error {
    fn from(report: ErrorReport) -> Error {
        Error::Reported(Box::new(report))
    }
}

impl From<Error> for ErrorReport {
    fn from(error: Error) -> ErrorReport {
        match error {
            Error::Reported(report) => *report,
            other => other.report(),
        }
    }
}

impl From<crate::catalog::error::Error> for Error {
    fn from(error: crate::catalog::error::Error) -> Error {
        error.report().into()
    }
}

impl From<crate::planner::error::Error> for Error {
    fn from(error: crate::planner::error::Error) -> Error {
        error.report().into()
    }
}

impl From<crate::engine::error::Error> for Error {
    fn from(error: crate::engine::error::Error) -> Error {
        error.report().into()
    }
}
