//! The control plane: starts, stops, checkpoints and recovers pipelines, one task a pipeline.
//!
//!     Coordinator (handle) --commands--> job_task: phase --job::transition--> actions
//!                                          |  start:  recovery (generation, checkpoint, compile, undone commits) > deploy
//!                                          |  run:    barriers > acks (checkpoint) > commit (write, decide, sinks)
//!                                          +- result_load, garbage, restart
//!
//! The only part of the engine that knows the catalog. Compiling is the planner's, given as a [`PipelineCompiler`].
//!
//! Guarantees: a pipeline has at most one run that can commit, over all processes; every result row is committed exactly
//! once to sinks that can do that; restoring from a checkpoint is the only way to start.

pub mod checkpoint;
pub mod commit;
pub mod commit_watch;
mod deploy;
pub mod evolution;
pub mod foreground;
pub mod forget;
pub mod garbage;
pub mod history;
pub mod job;
mod job_task;
pub mod kept_table;
mod persistence;
mod progress;
pub mod recovery;
pub mod replace;
pub mod restart;
mod result_load;
mod run;
pub mod settings;
#[cfg(test)]
mod tests;

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};
use tracing::{info, warn};

use crate::catalog::Catalog;
use crate::catalog::change::Change;
use crate::catalog::jobs::{JobFilter, JobRecord, JobState};
use crate::catalog::objects::{Pipeline, Table};
use crate::catalog::snapshot::CatalogSnapshot;
use crate::clock::Clock;
use crate::engine::coordinator::commit_watch::{CommitWatch, Commits};
use crate::engine::coordinator::foreground::ForegroundJob;
use crate::engine::coordinator::history::CheckpointHistory;
use crate::engine::coordinator::job::StopGoal;
use crate::engine::coordinator::job_task::{Command, JobSummary, JobTask, SharedMetrics};
use crate::engine::coordinator::kept_table::keeper;
use crate::engine::coordinator::recovery::{StartFrom, catalog_error, new_job, pipeline_of};
use crate::engine::coordinator::run::CheckpointRequest;
use crate::engine::coordinator::settings::PipelineSettings;
use crate::engine::dead_letters::DeadLetters;
use crate::engine::error::Error;
use crate::engine::events::Events;
use crate::engine::graph::{GraphNode, JobGraph};
use crate::engine::job_context::{OperatorFactory, OperatorPlace};
use crate::engine::job_metrics::OperatorStatus;
use crate::engine::memory_budget::MemoryBudget;
use crate::engine::operators::{self, BuildContext};
use crate::engine::results::Results;
use crate::engine::worker::Worker;
use crate::error::ErrorReport;
use crate::ids::{Epoch, JobId, Oid};
use crate::state::gc;
use crate::state::storage::CheckpointStorage;

type Result<T, E = Error> = std::result::Result<T, E>;

/// Commands that wait for a job's task at most.
const COMMANDS_MAX: usize = 64;

/// How long a shutdown waits for the last checkpoints.
pub const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(10);

/// Turns a pipeline's SQL into the graph that runs.
pub trait PipelineCompiler: Send + Sync {
    fn compile(
        &self,
        pipeline: &Pipeline,
        parallelism: u32,
        snapshot: &CatalogSnapshot,
    ) -> std::result::Result<JobGraph, ErrorReport>;
}

/// What the coordinator works with.
pub struct CoordinatorParts {
    pub catalog: Catalog,
    pub storage: CheckpointStorage,
    pub compiler: Arc<dyn PipelineCompiler>,
    /// Where pipelines keep results that can be read.
    pub results: Results,
    pub worker: Arc<Worker>,
    pub dead_letters: DeadLetters,
    pub clock: Arc<dyn Clock>,
    /// For I/O and for the tasks of jobs.
    pub runtime: tokio::runtime::Handle,
    /// For pipelines whose options say nothing.
    pub defaults: PipelineSettings,
    /// Bytes that the state of all jobs may take.
    pub memory_limit: Option<u64>,
}

/// A cheap handle.
#[derive(Clone)]
pub struct Coordinator {
    shared: Arc<Shared>,
    jobs: Arc<Mutex<HashMap<Oid, JobHandle>>>,
    /// Pipelines that do not run and whose kept result is being made readable.
    loading: Arc<Mutex<HashSet<Oid>>>,
    /// Pipelines whose definition is being exchanged.
    replacing: Arc<Mutex<HashSet<Oid>>>,
}

/// What all jobs share.
pub struct Shared {
    pub catalog: Catalog,
    pub storage: CheckpointStorage,
    pub compiler: Arc<dyn PipelineCompiler>,
    pub operators: OperatorFactory,
    pub worker: Arc<Worker>,
    pub dead_letters: DeadLetters,
    pub events: Events,
    pub clock: Arc<dyn Clock>,
    pub runtime: tokio::runtime::Handle,
    pub defaults: PipelineSettings,
    pub history: Arc<CheckpointHistory>,
    pub memory: Arc<MemoryBudget>,
}

struct JobHandle {
    commands: mpsc::Sender<Command>,
    summary: watch::Receiver<JobSummary>,
    metrics: SharedMetrics,
    watch: Arc<CommitWatch>,
}

#[derive(Clone, Debug)]
pub struct StartRequest {
    pub pipeline: Oid,
    /// `Some(Epoch(0))`: from empty state. `None`: from the newest checkpoint.
    pub restart_from: Option<Epoch>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StopMode {
    /// A last checkpoint, then stop: nothing is processed again at the next start.
    Checkpoint,
    /// The default; the same.
    Graceful,
    /// At once: the next start goes on from the last checkpoint.
    Immediate,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WaitFor {
    Running,
    Finished,
    /// All input at hand has been processed and its results are visible; also when finished.
    CaughtUp,
    /// This epoch or a later one is committed.
    Epoch(Epoch),
}

/// A job as views and REST show it.
#[derive(Clone, Debug)]
pub struct JobStatus {
    pub pipeline: Oid,
    pub job: JobId,
    pub state: JobState,
    pub error: Option<ErrorReport>,
    pub record: JobRecord,
    pub committed_epoch: Option<Epoch>,
    /// When that epoch was committed.
    pub committed_at_micros: Option<i64>,
    /// What went wrong last, in any of its runs in this process, and when.
    pub last_error: Option<(i64, ErrorReport)>,
    pub commits: Commits,
    /// Of the newest run.
    pub operators: Vec<OperatorStatus>,
}

/// Builds the operators of `engine::operators`; kept results go to `results`, late rows to `dead_letters`.
pub fn standard_operators(results: Results, dead_letters: DeadLetters) -> OperatorFactory {
    Arc::new(move |node: &GraphNode, place: OperatorPlace<'_>| {
        let context = BuildContext {
            subtask: place.subtask,
            parallelism: place.parallelism,
            key_groups: place.key_groups,
            clock: place.clock,
            outside: Some(place.outside),
            results: results.clone(),
            dead_letters: dead_letters.clone(),
        };
        operators::build(&node.operator, place.input, &node.output, &context)
    })
}

impl Coordinator {
    pub fn new(parts: CoordinatorParts) -> Coordinator {
        let shared = |shared: &Weak<Shared>| Shared {
            history: Arc::new(CheckpointHistory::new(Weak::clone(shared), parts.results.clone())),
            catalog: parts.catalog,
            storage: parts.storage,
            compiler: parts.compiler,
            operators: standard_operators(parts.results, parts.dead_letters.clone()),
            worker: parts.worker,
            dead_letters: parts.dead_letters,
            events: Events::default(),
            clock: parts.clock,
            runtime: parts.runtime,
            defaults: parts.defaults,
            memory: MemoryBudget::new(parts.memory_limit),
        };
        Coordinator {
            shared: Arc::new_cyclic(shared),
            jobs: Arc::default(),
            loading: Arc::default(),
            replacing: Arc::default(),
        }
    }

    pub fn dead_letters(&self) -> &DeadLetters {
        &self.shared.dead_letters
    }

    /// What happened to the jobs of this process.
    pub fn events(&self) -> &Events {
        &self.shared.events
    }

    /// What a pipeline's options mean, for checking them in statements.
    pub fn settings(&self, options: &crate::options::RawOptions) -> Result<PipelineSettings> {
        PipelineSettings::of(options, self.shared.defaults)
    }

    fn jobs_map(&self) -> MutexGuard<'_, HashMap<Oid, JobHandle>> {
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts the pipeline and notes that it shall run. Returns before it runs: see [`Coordinator::wait`].
    pub async fn start(&self, request: StartRequest) -> Result<JobId> {
        let pipeline = pipeline_of(&self.shared, request.pipeline)?;
        PipelineSettings::of(&pipeline.options, self.shared.defaults)?;
        if self.is_running(request.pipeline) {
            return Err(Error::AlreadyRunning {
                pipeline: pipeline.header.name,
            });
        }
        self.set_desired(request.pipeline, true).await?;
        let from = request.restart_from.map_or(StartFrom::Newest, StartFrom::Checkpoint);
        self.launch(&pipeline, from)
    }

    fn is_running(&self, pipeline: Oid) -> bool {
        self.jobs_map()
            .get(&pipeline)
            .is_some_and(|handle| !handle.summary.borrow().ended)
    }

    async fn set_desired(&self, pipeline: Oid, running: bool) -> Result<()> {
        let change = Change::SetDesiredRunning { pipeline, running };
        self.shared.catalog.apply(vec![change]).await.map_err(catalog_error)?;
        Ok(())
    }

    fn launch(&self, pipeline: &Pipeline, from: StartFrom) -> Result<JobId> {
        let oid = pipeline.header.oid;
        self.check_not_replaced(pipeline)?;
        let record = new_job(&self.shared, oid, JobState::Scheduling);
        let id = record.job.clone();
        let (commands, received) = mpsc::channel(COMMANDS_MAX);
        let (summary, watched) = watch::channel(JobSummary {
            record: record.clone(),
            committed_epoch: None,
            committed_at_micros: None,
            last_error: None,
            runs: false,
            ended: false,
        });
        let metrics = SharedMetrics::default();
        let watch = Arc::<CommitWatch>::default();
        let task = JobTask::new(
            Arc::clone(&self.shared),
            record,
            from,
            received,
            summary,
            Arc::clone(&metrics),
            Arc::clone(&watch),
        );
        let mut jobs = self.jobs_map();
        if jobs.get(&oid).is_some_and(|handle| !handle.summary.borrow().ended) {
            return Err(Error::AlreadyRunning {
                pipeline: pipeline.header.name.clone(),
            });
        }
        let _entered = self.shared.runtime.enter();
        crate::spawn::named("job", Box::pin(task.run()));
        jobs.insert(
            oid,
            JobHandle {
                commands,
                summary: watched,
                metrics,
                watch,
            },
        );
        Ok(id)
    }

    /// Ends the pipeline's run and notes that it shall not run.
    pub async fn stop(&self, pipeline: Oid, mode: StopMode, timeout: Duration) -> Result<()> {
        if !self.is_running(pipeline) {
            let name = pipeline_of(&self.shared, pipeline)?.header.name;
            self.set_desired(pipeline, false).await?;
            return Err(Error::NotRunning { pipeline: name });
        }
        self.set_desired(pipeline, false).await?;
        let at_once = mode == StopMode::Immediate;
        let goal = StopGoal::User;
        let stopped = self.ask(pipeline, |answer| Command::Stop { goal, at_once, answer });
        match tokio::time::timeout(timeout, stopped).await {
            Ok(result) => result?,
            Err(_) => {
                return Err(Error::TimedOut {
                    pipeline: pipeline_of(&self.shared, pipeline)?.header.name,
                    what: "stop",
                    seconds: timeout.as_secs(),
                });
            }
        }
        self.wait_ended(pipeline).await;
        Ok(())
    }

    /// Stops a running pipeline with a checkpoint and starts it with the options that the catalog has now.
    pub async fn rescale(&self, pipeline: Oid) -> Result<()> {
        let goal = StopGoal::Rescale;
        let at_once = false;
        self.ask(pipeline, |answer| Command::Stop { goal, at_once, answer })
            .await
    }

    /// Takes a checkpoint now; with a label it is kept until the label is taken away.
    pub async fn checkpoint(&self, pipeline: Oid, label: Option<String>) -> Result<Epoch> {
        self.ask(pipeline, |answer| {
            Command::Checkpoint(CheckpointRequest { label, answer })
        })
        .await
    }

    async fn ask<T>(
        &self,
        pipeline: Oid,
        command: impl FnOnce(oneshot::Sender<std::result::Result<T, ErrorReport>>) -> Command,
    ) -> Result<T> {
        let commands = self
            .jobs_map()
            .get(&pipeline)
            .filter(|handle| !handle.summary.borrow().ended)
            .map(|handle| handle.commands.clone());
        let not_running = || Error::NotRunning {
            pipeline: pipeline_of(&self.shared, pipeline).map_or_else(|_| pipeline.to_string(), |p| p.header.name),
        };
        let Some(commands) = commands else {
            return Err(not_running());
        };
        let (answer, answered) = oneshot::channel();
        if commands.send(command(answer)).await.is_err() {
            return Err(not_running());
        }
        match answered.await {
            Ok(result) => result.map_err(Error::Reported),
            // It ended before it saw the command.
            Err(_) => Err(not_running()),
        }
    }

    async fn wait_ended(&self, pipeline: Oid) {
        let watched = self.jobs_map().get(&pipeline).map(|handle| handle.summary.clone());
        if let Some(mut watched) = watched {
            // An error means that the task is gone.
            let _ = watched.wait_for(|summary| summary.ended).await;
        }
    }

    /// The pipeline's newest run in this process.
    pub fn job(&self, pipeline: Oid) -> Option<JobStatus> {
        self.jobs_map().get(&pipeline).map(JobHandle::status)
    }

    pub fn jobs(&self) -> Vec<JobStatus> {
        self.jobs_map().values().map(JobHandle::status).collect()
    }

    /// Waits until the pipeline is where `goal` says; an error when it will never be.
    pub async fn wait(&self, pipeline: Oid, goal: WaitFor) -> Result<()> {
        let watched = self.jobs_map().get(&pipeline).map(|handle| handle.summary.clone());
        let Some(mut watched) = watched else {
            return self.wait_without_run(pipeline, goal).await;
        };
        if goal == WaitFor::CaughtUp && !watched.borrow().ended {
            match self.ask(pipeline, Command::CaughtUp).await {
                Err(Error::NotRunning { .. }) => {}
                other => return other,
            }
        }
        let reached = |summary: &JobSummary| match goal {
            WaitFor::Running => summary.runs || summary.record.state == JobState::Finished,
            WaitFor::Finished | WaitFor::CaughtUp => summary.ended && summary.record.state == JobState::Finished,
            WaitFor::Epoch(epoch) => summary.committed_epoch >= Some(epoch),
        };
        let settled = watched.wait_for(|summary| summary.ended || reached(summary)).await;
        let summary = match settled {
            Ok(summary) => summary.clone(),
            // The task is gone; its last word counts.
            Err(_) => self.last_summary(pipeline)?,
        };
        if reached(&summary) {
            return Ok(());
        }
        Err(match summary.record.error {
            Some(report) => Error::Reported(report),
            None => Error::Stopped,
        })
    }

    /// A pipeline that this process has not run may have ended in an earlier one.
    async fn wait_without_run(&self, pipeline: Oid, goal: WaitFor) -> Result<()> {
        let filter = JobFilter {
            pipeline: Some(pipeline),
            latest_only: true,
        };
        let records = self.shared.catalog.store().jobs(filter).await.map_err(catalog_error)?;
        let finished = records.first().is_some_and(|record| record.state == JobState::Finished);
        if finished && !matches!(goal, WaitFor::Epoch(_)) {
            return Ok(());
        }
        Err(Error::NotRunning {
            pipeline: pipeline_of(&self.shared, pipeline)?.header.name,
        })
    }

    fn last_summary(&self, pipeline: Oid) -> Result<JobSummary> {
        match self.jobs_map().get(&pipeline) {
            Some(handle) => Ok(handle.summary.borrow().clone()),
            None => Err(Error::Stopped),
        }
    }

    /// Runs `graph` for one client.
    pub async fn run_foreground(&self, graph: JobGraph) -> Result<ForegroundJob> {
        foreground::start(&self.shared, graph)
    }

    /// Starts the job of an internal table unless it runs.
    pub fn start_table(&self, table: &Table) -> Result<()> {
        match keeper(table) {
            Some(keeper) if !self.is_running(table.header.oid) => self.launch(&keeper, StartFrom::Newest).map(drop),
            _ => Ok(()),
        }
    }

    /// At server start: starts the jobs of internal tables and every pipeline that shall run, and makes the results of the
    /// others readable.
    pub async fn resume_all(&self) {
        let snapshot = self.shared.catalog.snapshot();
        for table in snapshot.tables() {
            if let Err(error) = self.start_table(table) {
                warn!(table = table.header.name, %error, "could not start");
            }
        }
        for pipeline in snapshot.pipelines() {
            if pipeline.desired_running {
                if let Err(error) = self.launch(pipeline, StartFrom::Newest) {
                    warn!(pipeline = pipeline.header.name, %error, "could not start");
                }
                continue;
            }
            self.load_result(pipeline);
        }
    }

    /// Makes the kept result of a pipeline that does not run readable, from its newest checkpoint.
    fn load_result(&self, pipeline: &Pipeline) {
        let shared = Arc::clone(&self.shared);
        let loading = Arc::clone(&self.loading);
        let (oid, name) = (pipeline.header.oid, pipeline.header.name.clone());
        lock(&loading).insert(oid);
        let _entered = self.shared.runtime.enter();
        crate::spawn::named(
            "load result",
            Box::pin(async move {
                if let Err(error) = result_load::load_stopped(&shared, oid).await {
                    warn!(pipeline = name, %error, "could not load the result of a stopped pipeline");
                }
                lock(&loading).remove(&oid);
            }),
        );
    }

    /// Whether the kept result of a pipeline that does not run is about to become readable.
    pub fn is_loading_result(&self, pipeline: Oid) -> bool {
        lock(&self.loading).contains(&pipeline)
    }

    /// Takes a last checkpoint of every running pipeline and ends it; the next server starts them again.
    pub async fn shutdown(&self) {
        let running: Vec<Oid> = self
            .jobs_map()
            .iter()
            .filter(|(_, handle)| !handle.summary.borrow().ended)
            .map(|(oid, _)| *oid)
            .collect();
        let goal = StopGoal::Shutdown;
        let stop_all = |at_once: bool| {
            let stops = running.iter().map(move |oid| async move {
                // One that ends by itself in the meantime is just as well.
                let _ = self.ask(*oid, |answer| Command::Stop { goal, at_once, answer }).await;
                self.wait_ended(*oid).await;
            });
            futures::future::join_all(stops)
        };
        if tokio::time::timeout(SHUTDOWN_TIMEOUT, stop_all(false)).await.is_err() {
            info!("not every pipeline could take a last checkpoint in time");
            stop_all(true).await;
        }
        self.shared.worker.shutdown();
    }

    /// After DROP: forgets the pipeline's runs and removes its checkpoints. The pipeline must have been stopped.
    pub async fn forget(&self, pipeline: &Pipeline) -> Result<()> {
        let oid = pipeline.header.oid;
        if self.is_running(oid) {
            // The catalog has forgotten it already: nothing is left to be kept.
            let (goal, at_once) = (StopGoal::User, true);
            let _ = self.ask(oid, |answer| Command::Stop { goal, at_once, answer }).await;
            self.wait_ended(oid).await;
        }
        self.jobs_map().remove(&oid);
        let store = self.shared.catalog.store();
        store.drop_pipeline_records(oid).await.map_err(catalog_error)?;
        gc::delete_all(&self.shared.storage, &pipeline.header.public_id).await?;
        Ok(())
    }
}

impl JobHandle {
    fn status(&self) -> JobStatus {
        let summary = self.summary.borrow().clone();
        let metrics = Arc::clone(&self.metrics.lock().unwrap_or_else(PoisonError::into_inner));
        JobStatus {
            pipeline: summary.record.pipeline,
            job: summary.record.job.clone(),
            state: summary.record.state,
            error: summary.record.error.clone(),
            committed_epoch: summary.committed_epoch,
            committed_at_micros: summary.committed_at_micros,
            last_error: summary.last_error,
            commits: self.watch.read(),
            operators: metrics.read(),
            record: summary.record,
        }
    }
}

/// A panic elsewhere cannot leave the set half changed.
fn lock(set: &Mutex<HashSet<Oid>>) -> MutexGuard<'_, HashSet<Oid>> {
    set.lock().unwrap_or_else(PoisonError::into_inner)
}
