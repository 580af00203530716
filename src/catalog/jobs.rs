//! What becomes of pipelines: records of runs and checkpoints, as the metadata store keeps them.

use serde_json::{Value, json};

use crate::error::{Blame, ErrorReport, Retry, SqlState};
use crate::ids::{Epoch, Generation, JobId, Oid};

/// One run of a pipeline.
#[derive(Clone, Debug, PartialEq)]
pub struct JobRecord {
    pub job: JobId,
    pub pipeline: Oid,
    /// Filled by `begin_generation`.
    pub generation: Generation,
    pub state: JobState,
    pub desired_running: bool,
    pub started_at_micros: i64,
    pub finished_at_micros: Option<i64>,
    /// The checkpoint it started from; `None` = from nothing.
    pub restored_epoch: Option<Epoch>,
    pub error: Option<ErrorReport>,
    pub parallelism: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum JobState {
    Created,
    Scheduling,
    Running,
    Stopping,
    Stopped,
    Failed,
    Finished,
    Rescaling,
    Recovering,
    Degraded,
}

const JOB_STATES: [JobState; 10] = [
    JobState::Created,
    JobState::Scheduling,
    JobState::Running,
    JobState::Stopping,
    JobState::Stopped,
    JobState::Failed,
    JobState::Finished,
    JobState::Rescaling,
    JobState::Recovering,
    JobState::Degraded,
];

impl JobState {
    pub fn as_str(self) -> &'static str {
        match self {
            JobState::Created => "Created",
            JobState::Scheduling => "Scheduling",
            JobState::Running => "Running",
            JobState::Stopping => "Stopping",
            JobState::Stopped => "Stopped",
            JobState::Failed => "Failed",
            JobState::Finished => "Finished",
            JobState::Rescaling => "Rescaling",
            JobState::Recovering => "Recovering",
            JobState::Degraded => "Degraded",
        }
    }

    pub fn parse(text: &str) -> Option<JobState> {
        JOB_STATES.into_iter().find(|state| state.as_str() == text)
    }

    /// Nothing runs any more, and nothing will without a new job.
    pub fn is_terminal(self) -> bool {
        matches!(self, JobState::Stopped | JobState::Failed | JobState::Finished)
    }
}

/// A decided epoch.
#[derive(Clone, Debug, PartialEq)]
pub struct CheckpointRecord {
    /// `chk_..`
    pub id: String,
    pub pipeline: Oid,
    pub job: JobId,
    pub epoch: Epoch,
    pub generation: Generation,
    /// In the checkpoint storage.
    pub manifest_path: String,
    pub kind: CheckpointKind,
    pub state_rows: u64,
    pub bytes: u64,
    /// Microseconds since 1970, as `finished_at`.
    pub started_at: i64,
    pub finished_at: i64,
    /// The sinks have committed what belongs to it.
    pub committed: bool,
    /// Kept by name, not collected.
    pub kept_label: Option<String>,
    /// All input had ended.
    pub final_: bool,
    /// The epochs of other pipelines' results that it continues from; they are kept as long as this is.
    pub inputs: Vec<InputEpoch>,
}

/// An epoch of a result that another pipeline reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct InputEpoch {
    pub pipeline: Oid,
    pub epoch: Epoch,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CheckpointKind {
    /// Taken at an interval or by CHECKPOINT PIPELINE.
    Checkpoint,
    /// Taken by CREATE CHECKPOINT label, or before a change of the pipeline.
    Savepoint,
    /// Taken by a stop or by the end of input.
    Stop,
}

impl CheckpointKind {
    pub fn as_str(self) -> &'static str {
        match self {
            CheckpointKind::Checkpoint => "checkpoint",
            CheckpointKind::Savepoint => "savepoint",
            CheckpointKind::Stop => "stop",
        }
    }

    pub fn parse(text: &str) -> Option<CheckpointKind> {
        [
            CheckpointKind::Checkpoint,
            CheckpointKind::Savepoint,
            CheckpointKind::Stop,
        ]
        .into_iter()
        .find(|kind| kind.as_str() == text)
    }
}

/// Whether a conditional write took effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    Committed,
    /// A newer run exists, or the pipeline is gone, or the epoch is not above the last: nothing was changed.
    Fenced,
}

/// Which jobs to list; everything by default.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct JobFilter {
    pub pipeline: Option<Oid>,
    /// Only the newest run of each pipeline.
    pub latest_only: bool,
}

/// The error of a job as text for the store.
pub fn error_to_json(error: &ErrorReport) -> String {
    json!({
        "code": error.code.as_str(),
        "message": error.message,
        "detail": error.detail,
        "hint": error.hint,
        "position": error.position,
        "blame": match error.blame {
            Blame::User => "user",
            Blame::External => "external",
            Blame::Internal => "internal",
        },
        "retry": matches!(error.retry, Retry::Backoff),
    })
    .to_string()
}

/// The inverse of [`error_to_json`]; `None` when `text` is not such an object.
pub fn error_from_json(text: &str) -> Option<ErrorReport> {
    let value: Value = serde_json::from_str(text).ok()?;
    let text_of = |name: &str| value.get(name).and_then(Value::as_str).map(str::to_owned);
    let mut report = ErrorReport::new(SqlState::from_code(&text_of("code")?), text_of("message")?);
    report.detail = text_of("detail");
    report.hint = text_of("hint");
    report.position = value
        .get("position")
        .and_then(Value::as_u64)
        .and_then(|n| usize::try_from(n).ok());
    report.blame = match text_of("blame").as_deref() {
        Some("external") => Blame::External,
        Some("internal") => Blame::Internal,
        _ => Blame::User,
    };
    if value.get("retry").and_then(Value::as_bool) == Some(true) {
        report.retry = Retry::Backoff;
    }
    Some(report)
}

/// Inputs of a checkpoint as text for the store: `[[oid, epoch], ..]`.
pub fn inputs_to_json(inputs: &[InputEpoch]) -> String {
    Value::from_iter(inputs.iter().map(|input| json!([input.pipeline.0, input.epoch.0]))).to_string()
}

/// The inverse of [`inputs_to_json`]; `None` when `text` is not such a list.
pub fn inputs_from_json(text: &str) -> Option<Vec<InputEpoch>> {
    let value: Vec<(u32, u64)> = serde_json::from_str(text).ok()?;
    let input = |(pipeline, epoch)| InputEpoch {
        pipeline: Oid(pipeline),
        epoch: Epoch(epoch),
    };
    Some(value.into_iter().map(input).collect())
}

/// What a run that ended without saying so is closed with when the next one begins.
pub fn abandoned() -> ErrorReport {
    ErrorReport {
        blame: Blame::External,
        retry: Retry::Backoff,
        ..ErrorReport::new(SqlState::CRASH_SHUTDOWN, "the server ended while the job was running")
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn names_round_trip() {
        for state in JOB_STATES {
            assert_eq!(JobState::parse(state.as_str()), Some(state));
        }
        assert_eq!(JobState::parse("running"), None);
        assert_eq!(CheckpointKind::parse("stop"), Some(CheckpointKind::Stop));
    }

    #[test]
    fn inputs_round_trip() {
        let of = |pipeline, epoch| InputEpoch {
            pipeline: Oid(pipeline),
            epoch: Epoch(epoch),
        };
        let inputs = vec![of(7, 1), of(u32::MAX, u64::MAX)];
        assert_eq!(inputs_to_json(&inputs), "[[7,1],[4294967295,18446744073709551615]]");
        assert_eq!(inputs_from_json(&inputs_to_json(&inputs)), Some(inputs));
        assert_eq!(inputs_from_json("[]"), Some(Vec::new()));
        assert_eq!(inputs_from_json("[7]"), None);
    }

    #[test]
    fn errors_round_trip() {
        let mut error = ErrorReport::new(SqlState::DISK_FULL, "no \"space\"")
            .with_hint("Free some.")
            .with_detail("d")
            .with_position(7);
        error.blame = Blame::External;
        error.retry = Retry::Backoff;
        assert_eq!(error_from_json(&error_to_json(&error)), Some(error));
        let plain = ErrorReport::new(SqlState::SYNTAX_ERROR, "m");
        assert_eq!(error_from_json(&error_to_json(&plain)), Some(plain));
        assert_eq!(error_from_json("{}"), None);
    }
}
