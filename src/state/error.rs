//! What can go wrong with state: the object store, damaged files, a fence, a full disk.

use crate::error::{Blame, Report, Retry, SqlState};

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("checkpoint storage \"{url}\" is not usable: {reason}")]
    InvalidUrl { url: String, reason: String },
    #[error("could not {action} \"{path}\" in checkpoint storage")]
    Storage {
        action: &'static str,
        path: String,
        #[source]
        source: object_store::Error,
    },
    #[error("could not {action} \"{path}\" in checkpoint storage: no space left")]
    DiskFull { action: &'static str, path: String },
    #[error("checkpoint file \"{path}\" was already written by another server")]
    Exists { path: String },
    #[error("checkpoint file \"{path}\" is damaged: {reason}")]
    Damaged { path: String, reason: String },
    #[error("generation {mine} of the pipeline was replaced by a newer run")]
    Fenced { mine: u64 },
    #[error(
        "checkpoint was written by a newer version of Laminar (format {found}, this server reads up to {supported})"
    )]
    NewerFormat { found: u32, supported: u32 },
    #[error("could not restore table \"{table}\": {reason}")]
    Restore { table: String, reason: String },
    #[error("type {data_type} cannot be a key")]
    UnsupportedKey { data_type: String },
    #[error("internal error in state: {0}")]
    Internal(String),
}

impl Report for Error {
    fn code(&self) -> SqlState {
        match self {
            Error::InvalidUrl { .. } => SqlState::INVALID_PARAMETER_VALUE,
            Error::Storage { .. } => SqlState::IO_ERROR,
            Error::DiskFull { .. } => SqlState::DISK_FULL,
            Error::Exists { .. } => SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE,
            Error::UnsupportedKey { .. } => SqlState::FEATURE_NOT_SUPPORTED,
            Error::Damaged { .. } => SqlState::DATA_CORRUPTED,
            Error::Fenced { .. } => SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE,
            Error::NewerFormat { .. } => SqlState::FEATURE_NOT_SUPPORTED,
            Error::Restore { .. } => SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE,
            Error::Internal(_) => SqlState::INTERNAL_ERROR,
        }
    }

    fn detail(&self) -> Option<String> {
        match self {
            Error::Storage { source, .. } => Some(source.to_string()),
            _ => None,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Error::InvalidUrl { .. } => Some(
                "Use file:///path, s3://bucket/prefix, gs://bucket/prefix, az://container/prefix or memory:///.".into(),
            ),
            Error::Storage { .. } => {
                Some("Check that the storage can be reached, has space, and allows this access.".into())
            }
            Error::DiskFull { .. } => {
                Some("Free space; the next checkpoint is tried again, nothing is lost meanwhile.".into())
            }
            Error::Exists { .. } => Some("Check that no two servers use one checkpoint URL and pipeline.".into()),
            Error::UnsupportedKey { .. } => {
                Some("Group, join or partition by columns of plain types, such as casts to TEXT.".into())
            }
            Error::Damaged { .. } => Some("The previous checkpoint is used when there is one.".into()),
            Error::NewerFormat { .. } => Some("Start the version of Laminar that wrote it.".into()),
            _ => None,
        }
    }

    fn blame(&self) -> Blame {
        match self {
            Error::InvalidUrl { .. } | Error::NewerFormat { .. } | Error::UnsupportedKey { .. } => Blame::User,
            Error::Storage { .. } | Error::DiskFull { .. } | Error::Damaged { .. } | Error::Exists { .. } => {
                Blame::External
            }
            Error::Fenced { .. } | Error::Restore { .. } | Error::Internal(_) => Blame::Internal,
        }
    }

    fn retry(&self) -> Retry {
        match self {
            Error::Storage { .. } | Error::DiskFull { .. } => Retry::Backoff,
            _ => Retry::Never,
        }
    }
}
