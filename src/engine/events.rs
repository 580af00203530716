//! What happened to jobs: the newest events of this process, for `laminar.events`.
//!
//! A bounded ring in memory: cheap enough for every change of state, gone with the process. What must outlive the server
//! (states, errors, checkpoints of runs) is in the metadata store; this is the story around it.
//! Not guaranteed: that an event of long ago is still there.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::error::{ErrorReport, SqlState};
use crate::ids::{JobId, Oid};

/// Events kept; the oldest go first.
pub const EVENTS_KEPT: usize = 4096;

/// What can happen to a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventKind {
    Created,
    Running,
    /// An attempt failed; another follows.
    Failed,
    /// Another attempt begins.
    Restarted,
    Rescaling,
    CheckpointFailed,
    /// Several checkpoints in a row could not be written, or none was committed for several intervals.
    Degraded,
    /// A checkpoint was committed again.
    Recovered,
    Stopped,
    Finished,
    /// Failed for good: it does not try again by itself.
    GaveUp,
    /// A newer run of the pipeline took over.
    Replaced,
}

/// How much a person should care, in the words of Postgres's log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    Info,
    Warning,
    Error,
}

#[derive(Clone, Debug)]
pub struct JobEvent {
    pub at_micros: i64,
    pub pipeline: Oid,
    /// As it was called then; it may have been renamed or dropped since.
    pub name: String,
    pub schema: Option<String>,
    pub job: JobId,
    pub kind: EventKind,
    pub message: String,
    /// For what went wrong.
    pub error: Option<ErrorReport>,
}

/// The newest events of all jobs; a cheap handle.
#[derive(Clone, Default)]
pub struct Events {
    kept: Arc<Mutex<VecDeque<JobEvent>>>,
}

impl EventKind {
    pub fn as_str(self) -> &'static str {
        match self {
            EventKind::Created => "created",
            EventKind::Running => "running",
            EventKind::Failed => "failed",
            EventKind::Restarted => "restarted",
            EventKind::Rescaling => "rescaling",
            EventKind::CheckpointFailed => "checkpoint failed",
            EventKind::Degraded => "degraded",
            EventKind::Recovered => "recovered",
            EventKind::Stopped => "stopped",
            EventKind::Finished => "finished",
            EventKind::GaveUp => "gave up",
            EventKind::Replaced => "replaced",
        }
    }

    pub fn severity(self) -> Severity {
        match self {
            EventKind::GaveUp => Severity::Error,
            EventKind::Failed | EventKind::CheckpointFailed | EventKind::Degraded | EventKind::Replaced => {
                Severity::Warning
            }
            EventKind::Created
            | EventKind::Running
            | EventKind::Restarted
            | EventKind::Rescaling
            | EventKind::Recovered
            | EventKind::Stopped
            | EventKind::Finished => Severity::Info,
        }
    }

    /// The message of an event that has no error to tell.
    pub fn message(self) -> &'static str {
        match self {
            EventKind::Created => "the job was created",
            EventKind::Running => "the job runs",
            EventKind::Failed => "an attempt failed",
            EventKind::Restarted => "another attempt begins",
            EventKind::Rescaling => "the job stops to go on with other options",
            EventKind::CheckpointFailed => "a checkpoint could not be written",
            EventKind::Degraded => "the job does not get on",
            EventKind::Recovered => "the job gets on again",
            EventKind::Stopped => "the job was stopped",
            EventKind::Finished => "all input was processed",
            EventKind::GaveUp => "the job failed for good",
            EventKind::Replaced => "a newer run of the pipeline exists",
        }
    }
}

impl Severity {
    pub fn as_str(self) -> &'static str {
        match self {
            Severity::Info => "INFO",
            Severity::Warning => "WARNING",
            Severity::Error => "ERROR",
        }
    }
}

impl JobEvent {
    /// The SQLSTATE of what went wrong.
    pub fn code(&self) -> Option<SqlState> {
        self.error.as_ref().map(|error| error.code)
    }
}

impl Events {
    // A panic elsewhere cannot leave the queue half changed.
    fn kept(&self) -> MutexGuard<'_, VecDeque<JobEvent>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn add(&self, event: JobEvent) {
        let mut kept = self.kept();
        if kept.len() == EVENTS_KEPT {
            kept.pop_front();
        }
        kept.push_back(event);
    }

    /// Everything kept, oldest first.
    pub fn list(&self) -> Vec<JobEvent> {
        self.kept().iter().cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_stay() {
        let events = Events::default();
        for at_micros in 0..EVENTS_KEPT as i64 + 5 {
            events.add(JobEvent {
                at_micros,
                pipeline: Oid(1),
                name: "p".to_owned(),
                schema: None,
                job: JobId("job_1".to_owned()),
                kind: EventKind::Running,
                message: String::new(),
                error: None,
            });
        }
        let kept = events.list();
        assert_eq!(kept.len(), EVENTS_KEPT);
        assert_eq!(kept.first().map(|event| event.at_micros), Some(5));
        assert_eq!(kept[0].kind.severity().as_str(), "INFO");
    }
}
