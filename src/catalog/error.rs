//! What can go wrong with the catalog: names, dependencies, the metadata store, secrets.
//!
//! Messages and codes of definition errors are those of Postgres. A secret's value is never part of an error.

use std::path::PathBuf;

use crate::catalog::objects::ObjectKind;
use crate::error::{Blame, ErrorReport, Report, Retry, SqlState};

pub type Result<T, E = Error> = std::result::Result<T, E>;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{} \"{name}\" does not exist", .kind.word())]
    Undefined {
        kind: ObjectKind,
        name: String,
        nearest: Option<String>,
    },
    #[error("object with OID {oid} does not exist")]
    UndefinedOid { oid: u32 },
    #[error("{} \"{name}\" already exists", noun(*.existing))]
    Duplicate { existing: ObjectKind, name: String },
    #[error("\"{name}\" is not a {}", .expected.word())]
    WrongKind {
        name: String,
        expected: ObjectKind,
        actual: ObjectKind,
    },
    #[error("cannot {action} {target} because other objects depend on it")]
    Dependents {
        action: &'static str,
        target: String,
        /// Lines such as `view v depends on table t`.
        lines: Vec<String>,
        hint: &'static str,
    },
    #[error("{message}")]
    CannotReplace { message: String },
    #[error("CREATE OR REPLACE is not supported for a {}", .kind.word())]
    ReplaceUnsupported { kind: ObjectKind },
    #[error("permission denied to create \"{schema}.{name}\"")]
    SystemSchema { schema: String, name: String },
    #[error("unacceptable schema name \"{name}\"")]
    ReservedSchemaName { name: String },
    #[error("schema \"{schema}\" cannot be renamed or dropped")]
    SystemSchemaFixed { schema: String },
    #[error("{} \"{name}\" has no options", .kind.word())]
    NoOptions { kind: ObjectKind, name: String },
    #[error("object \"{name}\" would depend on itself")]
    Cycle { name: String },
    #[error("environment variable \"{variable}\" named by {context} is not set")]
    VariableNotSet { variable: String, context: String },
    #[error("option \"{option}\" has an unclosed \"{{{{\"")]
    UnclosedVariable { option: String },
    #[error("could not read file \"{path}\" of secret \"{name}\": {reason}")]
    SecretFile { name: String, path: String, reason: String },
    #[error("secret \"{name}\" cannot be decrypted with the key of this server")]
    SecretNotOpened { name: String },
    #[error("the sealed value does not belong to secret \"{name}\"")]
    SealedForAnother { name: String },
    #[error("the secret key is not usable: {reason}")]
    InvalidKey { reason: String },
    #[error("could not {action} key file \"{path}\": {reason}")]
    KeyFile {
        action: &'static str,
        path: PathBuf,
        reason: String,
    },
    #[error("the catalog was changed by others at the same time, {attempts} times in a row")]
    Contention { attempts: u32 },
    #[error("another server is using the data directory: \"{path}\" is locked")]
    StoreLocked { path: PathBuf },
    #[error("metadata store address \"{url}\" is not usable: {reason}")]
    InvalidStoreUrl { url: String, reason: String },
    #[error("metadata store was written by a newer version of Laminar")]
    NewerStore { detail: String },
    #[error("could not reach the metadata store: {reason}")]
    StoreUnreachable { reason: String },
    #[error("metadata store could not {action}: {reason}")]
    Store { action: &'static str, reason: String },
    #[error("no space left for the metadata store: {reason}")]
    StoreFull { reason: String },
    #[error("metadata store holds unreadable data in {place}: {reason}")]
    Corrupted { place: String, reason: String },
    /// Said to a run that wants to go on.
    #[error("a newer run of the pipeline exists")]
    Replaced,
    #[error("internal error in the catalog: {0}")]
    Internal(String),
}

/// Relations are named `relation` in Postgres's messages.
fn noun(kind: ObjectKind) -> &'static str {
    if kind.is_relation() { "relation" } else { kind.word() }
}

impl Report for Error {
    fn code(&self) -> SqlState {
        match self {
            Error::Undefined { kind, .. } | Error::Duplicate { existing: kind, .. } => {
                code_of_name(*kind, matches!(self, Error::Duplicate { .. }))
            }
            Error::UndefinedOid { .. } => SqlState::UNDEFINED_OBJECT,
            Error::WrongKind { .. } | Error::NoOptions { .. } => SqlState::WRONG_OBJECT_TYPE,
            Error::Dependents { .. } => SqlState::DEPENDENT_OBJECTS_STILL_EXIST,
            Error::CannotReplace { .. } => SqlState::INVALID_TABLE_DEFINITION,
            Error::ReplaceUnsupported { .. } | Error::NewerStore { .. } => SqlState::FEATURE_NOT_SUPPORTED,
            Error::SystemSchema { .. } | Error::SystemSchemaFixed { .. } => SqlState::INSUFFICIENT_PRIVILEGE,
            Error::ReservedSchemaName { .. } => SqlState::INVALID_NAME,
            Error::Cycle { .. } => SqlState::INVALID_OBJECT_DEFINITION,
            Error::VariableNotSet { .. }
            | Error::SecretFile { .. }
            | Error::SecretNotOpened { .. }
            | Error::Replaced => SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE,
            Error::UnclosedVariable { .. } | Error::InvalidStoreUrl { .. } | Error::InvalidKey { .. } => {
                SqlState::INVALID_PARAMETER_VALUE
            }
            Error::KeyFile { .. } | Error::Store { .. } => SqlState::IO_ERROR,
            Error::Contention { .. } => SqlState::SERIALIZATION_FAILURE,
            Error::StoreLocked { .. } => SqlState::OBJECT_IN_USE,
            Error::StoreUnreachable { .. } => SqlState::CONNECTION_FAILURE,
            Error::StoreFull { .. } => SqlState::DISK_FULL,
            Error::Corrupted { .. } => SqlState::DATA_CORRUPTED,
            Error::SealedForAnother { .. } | Error::Internal(_) => SqlState::INTERNAL_ERROR,
        }
    }

    fn detail(&self) -> Option<String> {
        match self {
            Error::Dependents { lines, .. } => Some(lines.join("\n")),
            Error::SystemSchema { .. } => Some("System catalog modifications are currently disallowed.".into()),
            Error::ReservedSchemaName { .. } => {
                Some("The prefix \"pg_\" and the names of the system schemas are reserved.".into())
            }
            Error::NewerStore { detail } => Some(detail.clone()),
            _ => None,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Error::Undefined {
                nearest: Some(nearest), ..
            } => Some(format!("Perhaps you meant \"{nearest}\".")),
            Error::WrongKind { actual, .. } => Some(format!(
                "Use {} for a {}.",
                actual.word().to_uppercase(),
                actual.word()
            )),
            Error::Dependents { hint, .. } => Some((*hint).into()),
            Error::ReplaceUnsupported { .. } => Some("Drop it first, or use ALTER.".into()),
            Error::VariableNotSet { .. } => Some("Set it in the environment of the server and start again.".into()),
            Error::UnclosedVariable { .. } => Some("Write {{ NAME }}.".into()),
            Error::SecretNotOpened { .. } => Some(
                "The key differs from the one that sealed it: restore the key file, or set the value again with ALTER SECRET."
                    .into(),
            ),
            Error::InvalidKey { .. } => Some("Give 32 bytes as base64 or as 64 hexadecimal digits.".into()),
            Error::StoreLocked { .. } => {
                Some("Stop the other server, or give this one another --data-dir.".into())
            }
            Error::InvalidStoreUrl { .. } => Some("Use sqlite://path, postgres://user@host/database or memory:.".into()),
            Error::NewerStore { .. } => Some("Start the version of Laminar that wrote it, or a newer one.".into()),
            Error::StoreUnreachable { .. } => {
                Some("Check that it runs and that address, user and password are right.".into())
            }
            Error::StoreFull { .. } => Some("Free some space; nothing was changed.".into()),
            Error::Contention { .. } => Some("Run the statement again.".into()),
            _ => None,
        }
    }

    fn blame(&self) -> Blame {
        match self {
            Error::StoreUnreachable { .. }
            | Error::Store { .. }
            | Error::StoreFull { .. }
            | Error::Corrupted { .. }
            | Error::KeyFile { .. }
            | Error::SecretFile { .. }
            | Error::StoreLocked { .. } => Blame::External,
            Error::Internal(_) | Error::SealedForAnother { .. } | Error::Replaced => Blame::Internal,
            _ => Blame::User,
        }
    }

    fn retry(&self) -> Retry {
        match self {
            Error::StoreUnreachable { .. }
            | Error::Store { .. }
            | Error::StoreFull { .. }
            | Error::Contention { .. } => Retry::Backoff,
            _ => Retry::Never,
        }
    }
}

fn code_of_name(kind: ObjectKind, duplicate: bool) -> SqlState {
    match (kind, duplicate) {
        (ObjectKind::Schema, false) => SqlState::INVALID_SCHEMA_NAME,
        (ObjectKind::Schema, true) => SqlState::DUPLICATE_SCHEMA,
        (kind, false) if kind.is_relation() => SqlState::UNDEFINED_TABLE,
        (kind, true) if kind.is_relation() => SqlState::DUPLICATE_TABLE,
        (_, false) => SqlState::UNDEFINED_OBJECT,
        (_, true) => SqlState::DUPLICATE_OBJECT,
    }
}

impl From<Error> for ErrorReport {
    fn from(error: Error) -> ErrorReport {
        error.report()
    }
}
