//! What every error of Laminar can tell: SQLSTATE, message, detail, hint, position, whom to blame, whether to retry.
//!
//! Each folder has one error enum that implements [`Report`]; clients and job records get an [`ErrorReport`], which is
//! the same facts without the type. Codes and wording follow Postgres:
//! <https://www.postgresql.org/docs/16/errcodes-appendix.html>, <https://www.postgresql.org/docs/16/error-style-guide.html>.
//!
//! Guarantee: every error that reaches a client has a code; `XX000` is always a bug of ours.

use std::fmt;

/// A five-character SQLSTATE.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct SqlState(&'static str);

macro_rules! sql_states {
    ($($(#[$doc:meta])* $name:ident = $code:literal;)*) => {
        impl SqlState {
            $($(#[$doc])* pub const $name: SqlState = SqlState($code);)*

            /// The constant for a code seen on a wire or in a store; unknown codes are internal errors.
            pub fn from_code(code: &str) -> SqlState {
                match code { $($code => SqlState::$name,)* _ => SqlState::INTERNAL_ERROR }
            }
        }
    };
}

sql_states! {
    SUCCESSFUL_COMPLETION = "00000";
    WARNING = "01000";
    CONNECTION_FAILURE = "08006";
    PROTOCOL_VIOLATION = "08P01";
    FEATURE_NOT_SUPPORTED = "0A000";
    CARDINALITY_VIOLATION = "21000";
    STRING_DATA_RIGHT_TRUNCATION = "22001";
    NULL_VALUE_NOT_ALLOWED = "22004";
    NUMERIC_VALUE_OUT_OF_RANGE = "22003";
    INVALID_DATETIME_FORMAT = "22007";
    DATETIME_FIELD_OVERFLOW = "22008";
    DIVISION_BY_ZERO = "22012";
    CHARACTER_NOT_IN_REPERTOIRE = "22021";
    INVALID_PARAMETER_VALUE = "22023";
    INVALID_TEXT_REPRESENTATION = "22P02";
    INVALID_BINARY_REPRESENTATION = "22P03";
    BAD_COPY_FILE_FORMAT = "22P04";
    DATA_EXCEPTION = "22000";
    NOT_NULL_VIOLATION = "23502";
    UNIQUE_VIOLATION = "23505";
    CHECK_VIOLATION = "23514";
    ACTIVE_SQL_TRANSACTION = "25001";
    READ_ONLY_SQL_TRANSACTION = "25006";
    NO_ACTIVE_SQL_TRANSACTION = "25P01";
    IN_FAILED_SQL_TRANSACTION = "25P02";
    INVALID_SQL_STATEMENT_NAME = "26000";
    INVALID_AUTHORIZATION_SPECIFICATION = "28000";
    INVALID_PASSWORD = "28P01";
    DEPENDENT_OBJECTS_STILL_EXIST = "2BP01";
    INVALID_CURSOR_NAME = "34000";
    INVALID_CATALOG_NAME = "3D000";
    INVALID_SCHEMA_NAME = "3F000";
    SERIALIZATION_FAILURE = "40001";
    TRANSACTION_RESOLUTION_UNKNOWN = "08007";
    SYNTAX_ERROR = "42601";
    INSUFFICIENT_PRIVILEGE = "42501";
    CANNOT_COERCE = "42846";
    GROUPING_ERROR = "42803";
    WINDOWING_ERROR = "42P20";
    INVALID_NAME = "42602";
    DATATYPE_MISMATCH = "42804";
    INDETERMINATE_DATATYPE = "42P18";
    AMBIGUOUS_PARAMETER = "42P08";
    WRONG_OBJECT_TYPE = "42809";
    /// A value for a column that is always computed.
    GENERATED_ALWAYS = "428C9";
    UNDEFINED_COLUMN = "42703";
    UNDEFINED_FUNCTION = "42883";
    UNDEFINED_TABLE = "42P01";
    UNDEFINED_PARAMETER = "42P02";
    UNDEFINED_OBJECT = "42704";
    DUPLICATE_COLUMN = "42701";
    DUPLICATE_CURSOR = "42P03";
    DUPLICATE_SCHEMA = "42P06";
    DUPLICATE_TABLE = "42P07";
    DUPLICATE_PREPARED_STATEMENT = "42P05";
    DUPLICATE_ALIAS = "42712";
    DUPLICATE_OBJECT = "42710";
    AMBIGUOUS_COLUMN = "42702";
    AMBIGUOUS_FUNCTION = "42725";
    INVALID_COLUMN_REFERENCE = "42P10";
    INVALID_TABLE_DEFINITION = "42P16";
    INVALID_OBJECT_DEFINITION = "42P17";
    INSUFFICIENT_RESOURCES = "53000";
    DISK_FULL = "53100";
    OUT_OF_MEMORY = "53200";
    TOO_MANY_CONNECTIONS = "53300";
    CONFIGURATION_LIMIT_EXCEEDED = "53400";
    PROGRAM_LIMIT_EXCEEDED = "54000";
    STATEMENT_TOO_COMPLEX = "54001";
    OBJECT_NOT_IN_PREREQUISITE_STATE = "55000";
    OBJECT_IN_USE = "55006";
    QUERY_CANCELED = "57014";
    ADMIN_SHUTDOWN = "57P01";
    CRASH_SHUTDOWN = "57P02";
    CANNOT_CONNECT_NOW = "57P03";
    SYSTEM_ERROR = "58000";
    IO_ERROR = "58030";
    UNDEFINED_FILE = "58P01";
    DUPLICATE_FILE = "58P02";
    FDW_ERROR = "HV000";
    FDW_UNABLE_TO_ESTABLISH_CONNECTION = "HV00N";
    FDW_INVALID_OPTION_NAME = "HV00D";
    INTERNAL_ERROR = "XX000";
    DATA_CORRUPTED = "XX001";
}

impl SqlState {
    /// The five characters.
    pub fn as_str(self) -> &'static str {
        self.0
    }
}

impl fmt::Debug for SqlState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

impl fmt::Display for SqlState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

/// Who has to act.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blame {
    /// The statement or its data: nothing changes until the user changes it.
    User,
    /// A system outside: broker, disk, object store, metadata store.
    External,
    /// Laminar.
    Internal,
}

/// Whether doing the same again can help.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retry {
    Never,
    Backoff,
}

/// Implemented by the error enum of each folder. `Display` is the primary message: lower case, no full stop, names in
/// double quotes. `detail` and `hint` are sentences.
pub trait Report: std::error::Error {
    fn code(&self) -> SqlState;
    fn detail(&self) -> Option<String> {
        None
    }
    fn hint(&self) -> Option<String> {
        None
    }
    /// 1-based, in characters of the statement as sent.
    fn position(&self) -> Option<usize> {
        None
    }
    fn blame(&self) -> Blame {
        Blame::User
    }
    fn retry(&self) -> Retry {
        Retry::Never
    }

    /// The same facts without the type.
    fn report(&self) -> ErrorReport {
        ErrorReport {
            code: self.code(),
            message: self.to_string(),
            detail: self.detail(),
            hint: self.hint(),
            position: self.position(),
            blame: self.blame(),
            retry: self.retry(),
        }
    }
}

/// An error as it is sent to a client or kept with a job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ErrorReport {
    pub code: SqlState,
    pub message: String,
    pub detail: Option<String>,
    pub hint: Option<String>,
    pub position: Option<usize>,
    pub blame: Blame,
    pub retry: Retry,
}

impl ErrorReport {
    /// A user error with only a code and a message.
    pub fn new(code: SqlState, message: impl Into<String>) -> ErrorReport {
        ErrorReport {
            code,
            message: message.into(),
            detail: None,
            hint: None,
            position: None,
            blame: Blame::User,
            retry: Retry::Never,
        }
    }

    pub fn with_hint(mut self, hint: impl Into<String>) -> ErrorReport {
        self.hint = Some(hint.into());
        self
    }

    pub fn with_detail(mut self, detail: impl Into<String>) -> ErrorReport {
        self.detail = Some(detail.into());
        self
    }

    pub fn with_position(mut self, position: usize) -> ErrorReport {
        self.position = Some(position);
        self
    }
}

impl fmt::Display for ErrorReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for ErrorReport {}

/// The candidate that a misspelt `name` most likely meant, for hints; `None` when nothing is near.
pub fn nearest<'a>(name: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let name = name.to_lowercase();
    candidates
        .into_iter()
        .map(|candidate| (strsim::damerau_levenshtein(&name, &candidate.to_lowercase()), candidate))
        .filter(|(distance, candidate)| *distance <= (candidate.chars().count().max(3) / 3).max(1))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nearest_finds_typos_and_nothing_else() {
        let names = ["bootstrap_servers", "topic", "format"];
        assert_eq!(nearest("bootstrap_server", names), Some("bootstrap_servers"));
        assert_eq!(nearest("fromat", names), Some("format"));
        assert_eq!(nearest("delimiter", names), None);
    }

    #[test]
    fn codes_round_trip() {
        assert_eq!(SqlState::from_code("42P01"), SqlState::UNDEFINED_TABLE);
        assert_eq!(SqlState::from_code("?????"), SqlState::INTERNAL_ERROR);
    }
}
