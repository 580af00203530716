//! What can go wrong while running a job.

use crate::error::{Blame, ErrorReport, Report, Retry, SqlState};
use crate::state;
use crate::types::byte_size::print_byte_size;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("connector \"{name}\" does not exist")]
    UnknownConnector { name: String, nearest: Option<String> },
    #[error("connector \"{connector}\" cannot be read from")]
    NoSource { connector: &'static str },
    #[error("connector \"{connector}\" cannot be written to")]
    NoSink { connector: &'static str },
    #[error("rows cannot be looked up in tables of connector \"{connector}\"")]
    NoLookup { connector: &'static str },
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
    /// Another error, and where it happened; reads like the other error.
    #[error("{source}")]
    InOperator {
        operator: String,
        subtask: u32,
        #[source]
        source: Box<Error>,
    },
    #[error("operator \"{operator}\" panicked: {message}")]
    Panicked { operator: String, message: String },
    /// An error of another folder, with everything a client needs already said.
    #[error("{0}")]
    Reported(ErrorReport),
    #[error("pipeline \"{pipeline}\" does not exist")]
    UnknownPipeline { pipeline: String },
    #[error("state takes {}, more than memory_limit allows: {}", print_byte_size(*.used), print_byte_size(*.limit))]
    JobOutOfMemory { used: u64, limit: u64 },
    #[error(
        "state of all pipelines takes {}, more than the server's memory_limit of {}; this one's takes most, {}",
        print_byte_size(*.used), print_byte_size(*.limit), print_byte_size(*.used_by_job)
    )]
    ProcessOutOfMemory { used_by_job: u64, used: u64, limit: u64 },
    #[error("pipeline \"{pipeline}\" is not running")]
    NotRunning { pipeline: String },
    #[error("pipeline \"{pipeline}\" is already running")]
    AlreadyRunning { pipeline: String },
    #[error("pipeline \"{pipeline}\" is busy: {state}")]
    Busy { pipeline: String, state: &'static str },
    #[error("pipeline \"{pipeline}\" has no checkpoint {epoch}")]
    UnknownCheckpoint { pipeline: String, epoch: u64 },
    #[error("no checkpoint of pipeline \"{pipeline}\" can be read")]
    NoUsableCheckpoint { pipeline: String, reasons: Vec<String> },
    #[error("pipeline \"{pipeline}\" has changed: its checkpoint does not fit the operators it has now")]
    StateMismatch { pipeline: String, detail: String },
    /// A newer run of the pipeline exists.
    #[error("this run of pipeline \"{pipeline}\" was replaced by a newer one")]
    Fenced { pipeline: String },
    #[error("pipeline \"{pipeline}\" did not {what} within {seconds} s")]
    TimedOut {
        pipeline: String,
        what: &'static str,
        seconds: u64,
    },
    /// It runs, but nothing comes of it.
    #[error("pipeline \"{pipeline}\" has committed nothing for {seconds} s")]
    Stalled {
        pipeline: String,
        seconds: f64,
        waits: Vec<String>,
    },
    #[error("the server is shutting down")]
    ShuttingDown,
    #[error("internal error: {0}")]
    Internal(String),
}

impl Report for Error {
    fn code(&self) -> SqlState {
        match self {
            Error::UnknownConnector { .. } => SqlState::INVALID_PARAMETER_VALUE,
            Error::NoSource { .. } | Error::NoSink { .. } | Error::NoLookup { .. } => SqlState::WRONG_OBJECT_TYPE,
            Error::Option(report) | Error::Reported(report) => report.code,
            Error::InOperator { source, .. } => source.code(),
            Error::UnknownPipeline { .. } => SqlState::UNDEFINED_TABLE,
            Error::NotRunning { .. }
            | Error::AlreadyRunning { .. }
            | Error::StateMismatch { .. }
            | Error::Fenced { .. } => SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE,
            Error::JobOutOfMemory { .. } | Error::ProcessOutOfMemory { .. } => SqlState::OUT_OF_MEMORY,
            Error::Busy { .. } => SqlState::OBJECT_IN_USE,
            Error::UnknownCheckpoint { .. } => SqlState::UNDEFINED_OBJECT,
            Error::NoUsableCheckpoint { .. } => SqlState::DATA_CORRUPTED,
            Error::TimedOut { .. } => SqlState::QUERY_CANCELED,
            Error::Stalled { .. } => SqlState::CANNOT_CONNECT_NOW,
            Error::ShuttingDown => SqlState::ADMIN_SHUTDOWN,
            Error::External { code, .. } | Error::Data { code, .. } => *code,
            Error::State(error) => error.code(),
            Error::Expression(error) => expression_code(&error.to_string()),
            Error::Arrow(error) => expression_code(&error.to_string()),
            Error::NotSupported { .. } => SqlState::FEATURE_NOT_SUPPORTED,
            Error::Stopped => SqlState::QUERY_CANCELED,
            Error::Panicked { .. } | Error::Internal(_) => SqlState::INTERNAL_ERROR,
        }
    }

    fn detail(&self) -> Option<String> {
        match self {
            Error::Option(report) | Error::Reported(report) => report.detail.clone(),
            Error::Data { detail, .. } => detail.clone(),
            Error::InOperator {
                operator,
                subtask,
                source,
            } => Some(match source.detail() {
                Some(detail) => format!("{detail}\nIn operator \"{operator}\", subtask {subtask}."),
                None => format!("In operator \"{operator}\", subtask {subtask}."),
            }),
            Error::NoUsableCheckpoint { reasons, .. } => Some(reasons.join("\n")),
            Error::StateMismatch { detail, .. } => Some(detail.clone()),
            Error::Stalled { waits, .. } if !waits.is_empty() => Some(format!("Waiting for {}.", waits.join("; "))),
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
            Error::Option(report) | Error::Reported(report) => report.hint.clone(),
            Error::InOperator { source, .. } => source.hint(),
            Error::JobOutOfMemory { .. } | Error::ProcessOutOfMemory { .. } => Some(
                "Let it forget rows (state_ttl, a window, a bound on time between joined rows), or give it more with memory_limit; laminar.operators \
                 says where the bytes are. START PIPELINE goes on from the last checkpoint."
                    .into(),
            ),
            Error::NotRunning { .. } => Some("Start it with START PIPELINE.".into()),
            Error::AlreadyRunning { .. } => Some("Stop it with STOP PIPELINE, or use RESTART PIPELINE.".into()),
            Error::Stalled { .. } => Some(
                "It goes on by itself; laminar.sinks, laminar.splits and laminar.operators say what is waited for.".into(),
            ),
            Error::Busy { .. } => Some("Wait until that has ended and try again.".into()),
            Error::StateMismatch { .. } => Some(
                "Use CREATE OR REPLACE PIPELINE with its definition, which keeps what it can, or start it from empty state with RESTART PIPELINE .. FROM CHECKPOINT 0."
                    .into(),
            ),
            Error::NoUsableCheckpoint { .. } => Some(
                "Restore the files in checkpoint storage, or start from empty state with RESTART PIPELINE .. FROM CHECKPOINT 0."
                    .into(),
            ),
            Error::UnknownCheckpoint { .. } => Some("The view laminar.checkpoints lists those that are kept.".into()),
            Error::External { hint, .. } | Error::NotSupported { hint, .. } => hint.clone(),
            Error::State(error) => error.hint(),
            _ => None,
        }
    }

    fn blame(&self) -> Blame {
        match self {
            Error::External { .. } | Error::NoUsableCheckpoint { .. } | Error::Stalled { .. } | Error::ShuttingDown => {
                Blame::External
            }
            Error::State(error) => error.blame(),
            Error::Reported(report) | Error::Option(report) => report.blame,
            Error::InOperator { source, .. } => source.blame(),
            Error::Panicked { .. } | Error::Internal(_) => Blame::Internal,
            _ => Blame::User,
        }
    }

    fn retry(&self) -> Retry {
        match self {
            Error::External { retry, .. } => *retry,
            Error::State(error) => error.retry(),
            Error::Reported(report) | Error::Option(report) => report.retry,
            Error::InOperator { source, .. } => source.retry(),
            // The same rows may well pass the second time; the number of attempts is bounded.
            Error::Panicked { .. } => Retry::Backoff,
            _ => Retry::Never,
        }
    }
}

impl From<Error> for ErrorReport {
    fn from(error: Error) -> ErrorReport {
        error.report()
    }
}

/// Evaluation errors of the expression library carry no code; the few that Postgres users know by code are told apart by
/// their text.
pub fn expression_code(message: &str) -> SqlState {
    let message = message.to_lowercase();
    if message.contains("divide by zero") || message.contains("division by zero") {
        SqlState::DIVISION_BY_ZERO
    } else if message.contains("value too long for type") {
        SqlState::STRING_DATA_RIGHT_TRUNCATION
    } else if message.contains("overflow") || message.ends_with(" out of range") || message.contains("can't cast value")
    {
        SqlState::NUMERIC_VALUE_OUT_OF_RANGE
    } else if message.contains("cannot cast string") || message.contains("parsing") || message.contains("parse") {
        SqlState::INVALID_TEXT_REPRESENTATION
    } else {
        SqlState::DATA_EXCEPTION
    }
}
