//! From a passed barrier to a committed epoch: write, decide, let the sinks commit, say that they have.
//!
//! The order of the steps is that of [`crate::state::commit`]; here are their effects, and what a failure of each means:
//! 1. write files: the epoch is aborted, nothing happened; the next one has to hold all state again, and the output that
//!    sinks had prepared;
//! 2. decide (the commit point): an unknown answer is asked again until it is known; `Fenced`: a newer run exists;
//! 3. sinks commit: an outage is waited out, while rows go on being processed; after another error the job starts again, which
//!    commits before anything else, or fails;
//! 4. note that they have: may be lost, commits are idempotent.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::sync::Mutex;
use tracing::{info, warn};

use crate::catalog::jobs::{CheckpointKind, CheckpointRecord, Decision, InputEpoch};
use crate::catalog::store::CatalogStore;
use crate::clock::Clock;
use crate::engine::connectors::{Committer, CommitterContext};
use crate::engine::coordinator::checkpoint::PassedBarrier;
use crate::engine::coordinator::commit_watch::CommitWatch;
use crate::engine::coordinator::history::CheckpointHistory;
use crate::engine::coordinator::persistence::{self, CarriedOutput, CheckpointIdentity, Committables};
use crate::engine::coordinator::restart;
use crate::engine::error::Error;
use crate::engine::graph::{JobGraph, OperatorSpec};
use crate::engine::message::BarrierKind;
use crate::engine::results::history::PinnedInput;
use crate::error::{ErrorReport, Report, Retry, SqlState};
use crate::failpoint;
use crate::ids::{Epoch, JobId, Oid, OperatorId, PublicIdKind, new_public_id};
use crate::state::commit::{Action, Stage, next_action};
use crate::state::manifest::Manifest;
use crate::state::snapshot::SubtaskSnapshot;
use crate::state::storage::CheckpointStorage;

/// How often writing is tried for an epoch after which the job ends; others are tried again by the next epoch.
const LAST_WRITE_ATTEMPTS: u32 = 5;

/// How long the system behind a sink may be away before the log says so again.
const SINK_OUTAGE_WARNING: u32 = 8;

/// How long the decision may stay unknown before the log says so again.
const UNKNOWN_DECISION_WARNING: u32 = 8;

/// The committers of a job's sinks, by operator. The lock is never contended: it only lets futures that hold a committer
/// move between threads.
#[derive(Default)]
pub struct Committers(BTreeMap<OperatorId, Mutex<Box<dyn Committer>>>);

impl Committers {
    /// `pipeline`: its public id.
    pub async fn open(graph: &JobGraph, pipeline: &str) -> Result<Committers, Error> {
        let mut committers = BTreeMap::new();
        for node in &graph.nodes {
            if let OperatorSpec::Sink(spec) = &node.operator {
                let context = CommitterContext {
                    sink: format!("{pipeline}/{}", node.id),
                };
                let committer = spec.table.open_committer(context).await?;
                committers.insert(node.id.clone(), Mutex::new(committer));
            }
        }
        Ok(Committers(committers))
    }

    /// There are no sinks: what is decided is committed.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Commits what the sinks prepared for `epoch`. Idempotent.
    pub async fn commit(
        &mut self,
        place: &CheckpointPlace,
        epoch: Epoch,
        prepared: &Committables,
    ) -> Result<(), Error> {
        failed_on_purpose("sink.before_commit")?;
        let watch = &place.watch;
        for (operator, committables) in prepared {
            let committer = self
                .0
                .get_mut(operator)
                .ok_or_else(|| Error::Internal(format!("checkpoint {epoch} has output of an unknown sink")))?;
            watch.asked(operator, epoch, place.clock.now_micros());
            if let Err(error) = committer.get_mut().commit(epoch, committables.clone()).await {
                watch.refused(operator, epoch, error.to_string(), place.clock.now_micros());
                return Err(error);
            }
            watch.committed(operator, epoch, place.clock.now_micros());
        }
        // Those without output for this epoch, too.
        for operator in self.0.keys() {
            watch.committed(operator, epoch, place.clock.now_micros());
        }
        failed_on_purpose("sink.after_commit")
    }
}

fn failed_on_purpose(failpoint: &str) -> Result<(), Error> {
    failpoint::reached(failpoint).map_err(|error| Error::External {
        code: SqlState::IO_ERROR,
        message: error.to_string(),
        hint: None,
        retry: Retry::Backoff,
    })
}

/// Where checkpoints of a pipeline go.
#[derive(Clone)]
pub struct CheckpointPlace {
    pub store: Arc<dyn CatalogStore>,
    pub storage: CheckpointStorage,
    pub clock: Arc<dyn Clock>,
    pub pipeline: Oid,
    pub job: JobId,
    /// Prefix in the storage.
    pub path: String,
    /// Told of every epoch that became durable.
    pub history: Arc<CheckpointHistory>,
    /// Told what is waited for.
    pub watch: Arc<CommitWatch>,
}

/// What is to be committed.
pub struct CommitTask {
    pub place: CheckpointPlace,
    pub identity: CheckpointIdentity,
    pub passed: PassedBarrier,
    pub label: Option<String>,
    /// All input had ended before the barrier.
    pub is_final: bool,
    /// Of epochs that were aborted since the last committed one.
    pub carried: Vec<CarriedOutput>,
    pub committers: Committers,
}

pub enum CommitOutcome {
    Committed(Arc<Manifest>),
    /// Not decided: as if it had not been tried.
    Aborted {
        report: ErrorReport,
        carried: Vec<CarriedOutput>,
    },
    Fenced,
    /// Decided, but the sinks could not commit yet.
    SinksFailed(ErrorReport),
}

impl CommitTask {
    pub fn epoch(&self) -> Epoch {
        self.identity.epoch
    }

    /// Takes all steps, as [`next_action`] orders them; gives the committers back.
    pub async fn run(mut self) -> (CommitOutcome, Committers) {
        let outcome = self.advance().await;
        (outcome, self.committers)
    }

    async fn advance(&mut self) -> CommitOutcome {
        let mut parts = std::mem::take(&mut self.passed.parts);
        // Pinned until the record says it.
        let inputs = persistence::take_inputs(&mut parts);
        let snapshots = persistence::snapshots(parts, &self.carried);
        let epoch = self.epoch();
        let mut in_flight = vec![(epoch, Stage::Collected)];
        let mut written: Option<(Arc<Manifest>, String)> = None;
        while let Some((_, action)) = next_action(&in_flight) {
            let stage = match (action, &written) {
                (Action::Write, _) => {
                    failpoint::passed("checkpoint.before_write");
                    match self.write(&snapshots).await {
                        Ok((manifest, path)) => {
                            written = Some((Arc::new(manifest), path));
                            Stage::Written
                        }
                        Err(error) => {
                            return CommitOutcome::Aborted {
                                report: error.report(),
                                carried: persistence::output_to_carry(&snapshots),
                            };
                        }
                    }
                }
                (Action::Decide, Some((manifest, path))) => {
                    let record = self.record(manifest, path.clone(), &inputs);
                    failpoint::passed("checkpoint.before_decide");
                    match self.decide(&record).await {
                        Decision::Committed => {
                            self.place.history.note_durable(self.place.pipeline);
                            self.place.watch.decided(epoch, self.place.clock.now_micros());
                            Stage::Decided
                        }
                        Decision::Fenced => return CommitOutcome::Fenced,
                    }
                }
                (Action::CommitSinks, Some(_)) => {
                    let prepared = persistence::committables(&snapshots);
                    match commit_sinks(&self.place, &mut self.committers, epoch, &prepared).await {
                        Ok(()) => Stage::SinksCommitted,
                        Err(error) => return CommitOutcome::SinksFailed(error.report()),
                    }
                }
                (Action::MarkCommitted, _) => {
                    // The decision has said so where there are no sinks.
                    if !self.committers.is_empty() {
                        mark_committed(&self.place, epoch).await;
                    }
                    failpoint::passed("checkpoint.after_mark");
                    break;
                }
                (Action::Decide | Action::CommitSinks, None) => break,
            };
            in_flight = vec![(epoch, stage)];
        }
        match written {
            Some((manifest, _)) => CommitOutcome::Committed(manifest),
            None => CommitOutcome::Aborted {
                report: Error::Internal(format!("checkpoint {epoch} was not written")).report(),
                carried: persistence::output_to_carry(&snapshots),
            },
        }
    }

    async fn write(&self, snapshots: &[SubtaskSnapshot]) -> Result<(Manifest, String), Error> {
        let attempts = if self.identity.kind == BarrierKind::Stop {
            LAST_WRITE_ATTEMPTS
        } else {
            1
        };
        let mut attempt = 1;
        loop {
            let place = &self.place;
            match persistence::save(&place.storage, &place.path, &self.identity, snapshots.to_vec()).await {
                Err(error) if attempt < attempts => {
                    warn!(pipeline = %place.pipeline, epoch = %self.identity.epoch, %error, "could not write the last checkpoint, trying again");
                    tokio::time::sleep(restart::delay(attempt, rand::random())).await;
                    attempt += 1;
                }
                result => return result,
            }
        }
    }

    fn record(&self, manifest: &Manifest, manifest_path: String, inputs: &[PinnedInput]) -> CheckpointRecord {
        let input = |input: &PinnedInput| InputEpoch {
            pipeline: input.pipeline,
            epoch: input.pinned.epoch,
        };
        CheckpointRecord {
            id: new_public_id(PublicIdKind::Checkpoint),
            pipeline: self.place.pipeline,
            job: self.place.job.clone(),
            epoch: self.identity.epoch,
            generation: self.identity.generation,
            manifest_path,
            kind: match self.identity.kind {
                BarrierKind::Tick | BarrierKind::Checkpoint => CheckpointKind::Checkpoint,
                BarrierKind::Savepoint => CheckpointKind::Savepoint,
                BarrierKind::Stop => CheckpointKind::Stop,
            },
            state_rows: manifest.state_rows(),
            bytes: manifest.bytes(),
            started_at: self.passed.started_at_micros,
            finished_at: self.place.clock.now_micros(),
            committed: self.committers.is_empty(),
            kept_label: self.label.clone(),
            final_: self.is_final,
            inputs: inputs.iter().map(input).collect(),
        }
    }

    /// An error leaves open whether the epoch is decided; only the store knows, so it is asked until it answers. Asking
    /// again for the same checkpoint gives the same answer.
    async fn decide(&self, record: &CheckpointRecord) -> Decision {
        let mut attempt = 1;
        loop {
            match self.place.store.decide_epoch(record.clone()).await {
                Ok(decision) => return decision,
                Err(error) => {
                    let now = self.place.clock.now_micros();
                    self.place.watch.undecided(record.epoch, error.to_string(), now);
                    if attempt % UNKNOWN_DECISION_WARNING == 1 {
                        warn!(pipeline = %self.place.pipeline, epoch = %record.epoch, %error, "could not record a checkpoint, trying again");
                    }
                    tokio::time::sleep(restart::delay(attempt, rand::random())).await;
                    attempt = attempt.saturating_add(1);
                }
            }
        }
    }
}

/// Lets the sinks commit a decided epoch. Idempotent. A system that is away is asked until it is back: nothing can be done
/// without it, and starting again would not help. Who does not want to wait any more drops this.
pub async fn commit_sinks(
    place: &CheckpointPlace,
    committers: &mut Committers,
    epoch: Epoch,
    prepared: &Committables,
) -> Result<(), Error> {
    let mut attempt: u32 = 1;
    loop {
        match committers.commit(place, epoch, prepared).await {
            Ok(()) => return Ok(()),
            Err(error) if error.retry() == Retry::Backoff => {
                if attempt.is_multiple_of(SINK_OUTAGE_WARNING) {
                    warn!(pipeline = %place.pipeline, %epoch, attempt, %error, "sink cannot commit, trying again");
                } else {
                    info!(pipeline = %place.pipeline, %epoch, %error, "sink could not commit, trying again");
                }
                tokio::time::sleep(restart::delay(attempt, rand::random())).await;
                attempt = attempt.saturating_add(1);
            }
            Err(error) => return Err(error),
        }
    }
}

/// Notes that the sinks of every epoch up to `epoch` have committed. May be lost: the commits are then repeated at the next
/// start, to the effect of once.
pub async fn mark_committed(place: &CheckpointPlace, epoch: Epoch) {
    if let Err(error) = place.store.mark_committed(place.pipeline, epoch).await {
        warn!(pipeline = %place.pipeline, %epoch, %error, "could not note that sinks have committed");
    }
}
