//! The only way to start: begin a generation, find the newest usable checkpoint, compile, finish what sinks had prepared.
//!
//! The order is what makes it right: the generation comes first, so that no older run can decide an epoch unseen; undone
//! sink commits come before any input starts. A damaged checkpoint is skipped with a warning that names the file.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tracing::{info, warn};

use crate::catalog;
use crate::catalog::jobs::{CheckpointRecord, JobRecord};
use crate::catalog::objects::Pipeline;
use crate::catalog::snapshot::CatalogSnapshot;
use crate::engine::coordinator::Shared;
use crate::engine::coordinator::commit::{CheckpointPlace, Committers, commit_sinks, mark_committed};
use crate::engine::coordinator::commit_watch::CommitWatch;
use crate::engine::coordinator::evolution::evolve;
use crate::engine::coordinator::kept_table::{job_owner, settings_of};
use crate::engine::coordinator::persistence::{self, OpenCheckpoint, PartOfCheckpoint, open_checkpoint};
use crate::engine::coordinator::settings::PipelineSettings;
use crate::engine::error::Error;
use crate::engine::graph::JobGraph;
use crate::engine::job_context::{NothingSaved, RestorePoint};
use crate::error::Report;
use crate::ids::{Epoch, Generation, JobId, Oid};
use crate::state::commit::{DecidedEpoch, RestorePlan, plan_restore};
use crate::state::key_group::KeyGroups;
use crate::state::manifest::Manifest;

/// How far back a usable checkpoint is looked for.
pub(super) const CHECKPOINTS_TRIED: usize = 100;

/// How long a statement waits for the systems behind the sinks of a definition that it replaces.
const SETTLE_TIMEOUT: Duration = Duration::from_secs(30);

/// From where a run starts, when not from the newest checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StartFrom {
    Newest,
    /// This one; `Epoch(0)`: from nothing.
    Checkpoint(Epoch),
}

/// Everything that a deployment needs.
pub struct StartPoint {
    pub graph: JobGraph,
    pub key_groups: KeyGroups,
    pub settings: PipelineSettings,
    pub place: CheckpointPlace,
    pub generation: Generation,
    pub restored: Arc<dyn RestorePoint>,
    /// The checkpoint that it continues; unchanged state is taken from it.
    pub manifest: Option<Arc<Manifest>>,
    pub next_epoch: Epoch,
    pub committers: Committers,
    /// The state is not that of the newest checkpoint: it must be saved before anything new happens, so that a crash
    /// does not go back to the newest.
    pub save_first: bool,
    /// The checkpoint says that all input was processed: there is nothing to run.
    pub nothing_left: bool,
}

/// One start of a run.
#[derive(Clone, Debug)]
pub struct Attempt {
    pub from: StartFrom,
    /// The run that it continues; nothing starts when that is not the newest any more.
    pub after: Option<Generation>,
    /// The generation that it was given; 0 before.
    pub begun: Arc<AtomicU64>,
}

/// Does everything up to the deployment. `job` is recorded under the new generation, which `attempt` shows at once.
pub async fn find_start(
    shared: &Shared,
    job: &mut JobRecord,
    attempt: &Attempt,
    watch: &Arc<CommitWatch>,
) -> Result<StartPoint, Error> {
    let from = attempt.from;
    let pipeline = pipeline_of(shared, job.pipeline)?;
    let settings = settings_of(&shared.catalog.snapshot(), &pipeline, shared.defaults)?;
    job.parallelism = settings.parallelism;
    let store = shared.catalog.store();
    begin(shared, &pipeline, job, attempt).await?;
    let place = place_of(shared, &pipeline, job, watch);
    let records = store
        .latest_checkpoints(job.pipeline, CHECKPOINTS_TRIED)
        .await
        .map_err(catalog_error)?;
    let graph = compile(shared, &pipeline, settings.parallelism).await?;
    let key_groups = key_groups_of(&pipeline)?;
    let mut committers = Committers::open(&graph, &pipeline.header.public_id).await?;
    watch.know(&graph);
    let chosen = choose(shared, &pipeline, &records, from).await?;
    let newest = records.first().map(|record| record.epoch);
    let restored_epoch = chosen.as_ref().map(|(record, _)| record.epoch);
    let decided: Vec<DecidedEpoch> = records.iter().map(decided_epoch).collect();
    // What is newer than the chosen one was found damaged, or is not wanted.
    let plan = plan_restore(&decided, |epoch| Some(epoch) == restored_epoch);
    if from == StartFrom::Newest && !plan.repeated.is_empty() {
        warn!(pipeline = %place.pipeline, epochs = ?plan.repeated, "output of damaged checkpoints is published again");
    }
    finish_commits(&place, &mut committers, &records, &plan).await?;
    let is_earlier = |record: &CheckpointRecord| record.generation <= pipeline.counts_after;
    // An earlier definition had come to its end, not this one.
    let nothing_left = chosen
        .as_ref()
        .is_some_and(|(record, _)| record.final_ && Some(record.epoch) == newest && !is_earlier(record));
    // Saved at once as what it is now, the checkpoint of another definition is not looked at again.
    let of_earlier = chosen.as_ref().is_some_and(|(record, _)| is_earlier(record));
    let (manifest, restored): (_, Arc<dyn RestorePoint>) = match chosen {
        // Nothing is carried over: the operators write down all that they have.
        Some((_, checkpoint)) if of_earlier => (None, usable_part(&place, checkpoint, &graph, key_groups)),
        Some((_, checkpoint)) => {
            if let Some(detail) = persistence::mismatch(&checkpoint.manifest, &graph) {
                let pipeline = pipeline.header.name;
                return Err(Error::StateMismatch { pipeline, detail });
            }
            (Some(checkpoint.manifest), checkpoint.restored)
        }
        None => (None, Arc::new(NothingSaved { key_groups })),
    };
    job.restored_epoch = restored_epoch;
    Ok(StartPoint {
        graph,
        key_groups,
        settings,
        place,
        generation: job.generation,
        restored,
        next_epoch: plan.first,
        committers,
        save_first: of_earlier || newest.is_some() && restored_epoch != newest && from != StartFrom::Newest,
        nothing_left,
        manifest,
    })
}

/// Records `job` under a generation of its own.
async fn begin(shared: &Shared, pipeline: &Pipeline, job: &mut JobRecord, attempt: &Attempt) -> Result<(), Error> {
    let store = shared.catalog.store();
    let begun = store.begin_generation(job.pipeline, job.clone(), attempt.after).await;
    job.generation = begun.map_err(|error| match error {
        catalog::error::Error::Replaced => Error::Fenced {
            pipeline: pipeline.header.name.clone(),
        },
        error => catalog_error(error),
    })?;
    attempt.begun.store(job.generation.0, Ordering::SeqCst);
    Ok(())
}

/// What this definition can use of a checkpoint of an earlier one.
fn usable_part(
    place: &CheckpointPlace,
    checkpoint: OpenCheckpoint,
    graph: &JobGraph,
    key_groups: KeyGroups,
) -> Arc<dyn RestorePoint> {
    let evolution = evolve(&persistence::saved_lineages(&checkpoint.manifest), graph);
    let used = evolution.used(graph);
    info!(pipeline = %place.pipeline, epoch = %checkpoint.manifest.epoch(), kept = used.len(), dropped = evolution.dropped.len(),
        "starting from a checkpoint of an earlier definition");
    Arc::new(PartOfCheckpoint::new(checkpoint.restored, key_groups, used))
}

/// Before the definition is exchanged: commits what sinks had prepared. The next definition need not have these sinks.
pub(super) async fn settle_commits(shared: &Shared, pipeline: Oid) -> Result<(), Error> {
    let store = shared.catalog.store();
    let records = store
        .latest_checkpoints(pipeline, CHECKPOINTS_TRIED)
        .await
        .map_err(catalog_error)?;
    if records.iter().all(|record| record.committed) {
        return Ok(());
    }
    let pipeline = pipeline_of(shared, pipeline)?;
    let settings = settings_of(&shared.catalog.snapshot(), &pipeline, shared.defaults)?;
    let graph = compile(shared, &pipeline, settings.parallelism).await?;
    let mut committers = Committers::open(&graph, &pipeline.header.public_id).await?;
    let job = new_job(shared, pipeline.header.oid, crate::catalog::jobs::JobState::Scheduling);
    let place = place_of(shared, &pipeline, &job, &Arc::default());
    let decided: Vec<DecidedEpoch> = records.iter().map(decided_epoch).collect();
    let plan = plan_restore(&decided, |_| true);
    let commits = finish_commits(&place, &mut committers, &records, &plan);
    let Ok(finished) = tokio::time::timeout(SETTLE_TIMEOUT, commits).await else {
        return Err(Error::TimedOut {
            pipeline: pipeline.header.name,
            what: "commit its output",
            seconds: SETTLE_TIMEOUT.as_secs(),
        });
    };
    finished?;
    // Must not get lost here, as it may at a start: nobody could repeat these commits.
    match plan.restore {
        Some(newest) => store
            .mark_committed(pipeline.header.oid, newest)
            .await
            .map_err(catalog_error),
        None => Ok(()),
    }
}

fn place_of(shared: &Shared, pipeline: &Pipeline, job: &JobRecord, watch: &Arc<CommitWatch>) -> CheckpointPlace {
    CheckpointPlace {
        store: shared.catalog.store(),
        storage: shared.storage.clone(),
        clock: Arc::clone(&shared.clock),
        pipeline: job.pipeline,
        job: job.job.clone(),
        path: pipeline.header.public_id.clone(),
        history: Arc::clone(&shared.history),
        watch: Arc::clone(watch),
    }
}

pub fn pipeline_of(shared: &Shared, oid: Oid) -> Result<Pipeline, Error> {
    job_owner(&shared.catalog.snapshot(), oid).ok_or_else(|| Error::UnknownPipeline {
        pipeline: oid.to_string(),
    })
}

pub fn key_groups_of(pipeline: &Pipeline) -> Result<KeyGroups, Error> {
    KeyGroups::new(pipeline.key_groups)
        .ok_or_else(|| Error::Internal(format!("pipeline has {} key groups", pipeline.key_groups)))
}

/// Compiles off the I/O threads; a panic of the planner is an error of this job.
pub async fn compile(shared: &Shared, pipeline: &Pipeline, parallelism: u32) -> Result<JobGraph, Error> {
    compile_in(shared, pipeline, parallelism, shared.catalog.snapshot()).await
}

/// The same in a catalog that may be an earlier one.
pub async fn compile_in(
    shared: &Shared,
    pipeline: &Pipeline,
    parallelism: u32,
    snapshot: Arc<CatalogSnapshot>,
) -> Result<JobGraph, Error> {
    let compiler = Arc::clone(&shared.compiler);
    let pipeline = pipeline.clone();
    let compiled = tokio::task::spawn_blocking(move || compiler.compile(&pipeline, parallelism, &snapshot));
    match compiled.await {
        Ok(graph) => graph.map_err(Error::Reported),
        Err(join) => Err(Error::Panicked {
            operator: "planner".into(),
            message: join.to_string(),
        }),
    }
}

pub fn catalog_error(error: catalog::error::Error) -> Error {
    Error::Reported(error.report())
}

fn decided_epoch(record: &CheckpointRecord) -> DecidedEpoch {
    DecidedEpoch {
        epoch: record.epoch,
        committed: record.committed,
    }
}

/// Commits what sinks had prepared for epochs that were decided, and settles those that are given up.
async fn finish_commits(
    place: &CheckpointPlace,
    committers: &mut Committers,
    records: &[CheckpointRecord],
    plan: &RestorePlan,
) -> Result<(), Error> {
    for epoch in &plan.replay {
        let Some(record) = records.iter().find(|record| record.epoch == *epoch) else {
            continue;
        };
        let prepared = match persistence::load_committables(&place.storage, &record.manifest_path).await {
            Ok(prepared) => prepared,
            Err(error) if is_damage(&error) && plan.restore != Some(*epoch) => {
                // Older than the restored one, which was begun after the sinks had committed this: only the note is missing.
                warn!(pipeline = %place.pipeline, %epoch, path = record.manifest_path, %error,
                    "a damaged checkpoint cannot be committed again");
                continue;
            }
            Err(error) => return Err(error),
        };
        info!(pipeline = %place.pipeline, %epoch, "finishing the commit of an earlier run");
        commit_sinks(place, committers, *epoch, &prepared).await?;
        mark_committed(place, *epoch).await;
    }
    if let Some(upto) = plan.settle {
        place
            .store
            .mark_committed(place.pipeline, upto)
            .await
            .map_err(catalog_error)?;
    }
    Ok(())
}

/// The checkpoint to start from; `None`: from nothing.
async fn choose(
    shared: &Shared,
    pipeline: &Pipeline,
    records: &[CheckpointRecord],
    from: StartFrom,
) -> Result<Option<(CheckpointRecord, OpenCheckpoint)>, Error> {
    match from {
        StartFrom::Checkpoint(Epoch(0)) => Ok(None),
        StartFrom::Checkpoint(epoch) => {
            let Some(record) = records.iter().find(|record| record.epoch == epoch) else {
                return Err(Error::UnknownCheckpoint {
                    pipeline: pipeline.header.name.clone(),
                    epoch: epoch.0,
                });
            };
            let runtime = shared.runtime.clone();
            let checkpoint = open_checkpoint(&shared.storage, &record.manifest_path, runtime).await?;
            Ok(Some((record.clone(), checkpoint)))
        }
        StartFrom::Newest => newest_usable(shared, pipeline, records).await,
    }
}

async fn newest_usable(
    shared: &Shared,
    pipeline: &Pipeline,
    records: &[CheckpointRecord],
) -> Result<Option<(CheckpointRecord, OpenCheckpoint)>, Error> {
    let mut reasons = Vec::new();
    for record in records {
        let runtime = shared.runtime.clone();
        match open_checkpoint(&shared.storage, &record.manifest_path, runtime).await {
            Ok(checkpoint) => return Ok(Some((record.clone(), checkpoint))),
            Err(error) if is_damage(&error) => {
                warn!(pipeline = pipeline.header.name, epoch = %record.epoch, %error,
                    "checkpoint is damaged, trying the previous one");
                reasons.push(format!("Checkpoint {}: {error}.", record.epoch));
            }
            Err(error) => return Err(error),
        }
    }
    if reasons.is_empty() {
        return Ok(None);
    }
    Err(Error::NoUsableCheckpoint {
        pipeline: pipeline.header.name.clone(),
        reasons,
    })
}

/// Damaged for good, and not only out of reach.
pub(super) fn is_damage(error: &Error) -> bool {
    match error {
        Error::State(crate::state::error::Error::Damaged { .. }) => true,
        Error::State(error) => error.is_not_found(),
        _ => false,
    }
}

/// A new run's record, before it has a generation.
pub fn new_job(shared: &Shared, pipeline: Oid, state: crate::catalog::jobs::JobState) -> JobRecord {
    JobRecord {
        job: JobId(crate::ids::new_public_id(crate::ids::PublicIdKind::Job)),
        pipeline,
        generation: Generation::default(),
        state,
        desired_running: true,
        started_at_micros: shared.clock.now_micros(),
        finished_at_micros: None,
        restored_epoch: None,
        error: None,
        parallelism: 1,
    }
}
