//! What goes wrong between a client's bytes and a session, and how any error is told to a client.

use arrow::datatypes::Field;

use crate::error::{Blame, ErrorReport, Report, Retry, SqlState};

#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// From the session; passed on as it is.
    #[error("{0}")]
    Statement(ErrorReport),
    /// The client broke the protocol, but the next message can be found.
    #[error("{message}")]
    Protocol { message: String },
    /// Ends the connection: FATAL to the client.
    #[error("{0}")]
    Fatal(ErrorReport),
    #[error("prepared statement \"{name}\" does not exist")]
    UnknownStatement { name: String },
    #[error("prepared statement \"{name}\" already exists")]
    DuplicateStatement { name: String },
    #[error("portal \"{name}\" does not exist")]
    UnknownPortal { name: String },
    #[error("portal \"{name}\" already exists")]
    DuplicatePortal { name: String },
    #[error("{message}")]
    Limit { message: String, hint: &'static str },
    #[error("{message}")]
    BadValue { code: SqlState, message: String },
    #[error("{what} is not supported")]
    Unsupported { what: String, hint: String },
    #[error("timestamp out of range")]
    TimestampOutOfRange,
    #[error("multidimensional arrays must have sub-arrays with matching dimensions")]
    RaggedArray,
    #[error("a result can have at most 1664 columns, not {columns}")]
    TooManyColumns { columns: usize },
    #[error("a value of {bytes} bytes is too long to be sent")]
    ValueTooLong { bytes: usize },
    /// Nobody is there to be told.
    #[error("the client is gone")]
    Disconnected,
    #[error("{message}")]
    Internal { message: String },
}

impl Error {
    pub fn protocol(message: impl Into<String>) -> Error {
        Error::Protocol {
            message: message.into(),
        }
    }

    pub fn internal(message: impl Into<String>) -> Error {
        Error::Internal {
            message: message.into(),
        }
    }

    pub fn fatal(code: SqlState, message: impl Into<String>) -> Error {
        Error::Fatal(ErrorReport::new(code, message))
    }

    pub fn unsupported_column(field: &Field) -> Error {
        Error::Unsupported {
            what: format!("column \"{}\" of type {}", field.name(), field.data_type()),
            hint: "Cast it to a type that Postgres has, such as TEXT.".into(),
        }
    }
}

impl From<ErrorReport> for Error {
    fn from(report: ErrorReport) -> Error {
        Error::Statement(report)
    }
}

impl From<std::io::Error> for Error {
    /// Whatever the reason, no reply can be delivered.
    fn from(_: std::io::Error) -> Error {
        Error::Disconnected
    }
}

impl Report for Error {
    fn code(&self) -> SqlState {
        match self {
            Error::Statement(report) | Error::Fatal(report) => report.code,
            Error::Protocol { .. } => SqlState::PROTOCOL_VIOLATION,
            Error::UnknownStatement { .. } => SqlState::INVALID_SQL_STATEMENT_NAME,
            Error::DuplicateStatement { .. } => SqlState::DUPLICATE_PREPARED_STATEMENT,
            Error::UnknownPortal { .. } => SqlState::INVALID_CURSOR_NAME,
            Error::DuplicatePortal { .. } => SqlState::DUPLICATE_CURSOR,
            Error::Limit { .. } | Error::TooManyColumns { .. } | Error::ValueTooLong { .. } => {
                SqlState::PROGRAM_LIMIT_EXCEEDED
            }
            Error::BadValue { code, .. } => *code,
            Error::Unsupported { .. } => SqlState::FEATURE_NOT_SUPPORTED,
            Error::TimestampOutOfRange => SqlState::DATETIME_FIELD_OVERFLOW,
            Error::RaggedArray => SqlState::DATA_EXCEPTION,
            Error::Disconnected => SqlState::CONNECTION_FAILURE,
            Error::Internal { .. } => SqlState::INTERNAL_ERROR,
        }
    }

    fn detail(&self) -> Option<String> {
        match self {
            Error::Statement(report) | Error::Fatal(report) => report.detail.clone(),
            _ => None,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Error::Statement(report) | Error::Fatal(report) => report.hint.clone(),
            Error::Limit { hint, .. } => Some((*hint).to_owned()),
            Error::Unsupported { hint, .. } => Some(hint.clone()),
            Error::RaggedArray => Some("Cast the column to JSON, or read it in text format.".into()),
            _ => None,
        }
    }

    fn position(&self) -> Option<usize> {
        match self {
            Error::Statement(report) | Error::Fatal(report) => report.position,
            _ => None,
        }
    }

    fn blame(&self) -> Blame {
        match self {
            Error::Statement(report) | Error::Fatal(report) => report.blame,
            Error::Disconnected => Blame::External,
            Error::Internal { .. } => Blame::Internal,
            _ => Blame::User,
        }
    }

    fn retry(&self) -> Retry {
        match self {
            Error::Statement(report) | Error::Fatal(report) => report.retry,
            _ => Retry::Never,
        }
    }
}

/// S and V of an ErrorResponse.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// The statement failed.
    Error,
    /// The connection ends.
    Fatal,
}

impl Severity {
    pub fn as_str(self) -> &'static str {
        match self {
            Severity::Error => "ERROR",
            Severity::Fatal => "FATAL",
        }
    }
}

/// The fields of an ErrorResponse or NoticeResponse, in Postgres's order.
pub fn response_fields(severity: &str, report: &ErrorReport) -> Vec<(u8, String)> {
    let mut fields = vec![
        (b'S', severity.to_owned()),
        (b'V', severity.to_owned()),
        (b'C', report.code.as_str().to_owned()),
        (b'M', printable(&report.message)),
    ];
    let optional = [
        (b'D', report.detail.as_deref().map(printable)),
        (b'H', report.hint.as_deref().map(printable)),
        (b'P', report.position.map(|position| position.to_string())),
    ];
    fields.extend(optional.into_iter().filter_map(|(kind, text)| Some((kind, text?))));
    fields
}

/// What a terminal would obey and what ends a string of the protocol is shown instead: a message may hold text of others.
pub fn printable(text: &str) -> String {
    if !text.chars().any(|c| c.is_control() && !matches!(c, '\n' | '\t')) {
        return text.to_owned();
    }
    let mut shown = String::with_capacity(text.len());
    for character in text.chars() {
        if character.is_control() && !matches!(character, '\n' | '\t') {
            shown.extend(character.escape_default());
        } else {
            shown.push(character);
        }
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_in_order_and_complete() {
        let report = ErrorReport::new(SqlState::UNDEFINED_TABLE, "relation \"x\" does not exist")
            .with_detail("d")
            .with_hint("h")
            .with_position(15);
        let kinds: String = response_fields(Severity::Error.as_str(), &report)
            .iter()
            .map(|(kind, _)| char::from(*kind))
            .collect();
        assert_eq!(kinds, "SVCMDHP");
    }

    #[test]
    fn terminal_escapes_are_shown_not_sent() {
        assert_eq!(printable("a\u{1b}[31m\0b\nc"), "a\\u{1b}[31m\\u{0}b\nc");
    }
}
