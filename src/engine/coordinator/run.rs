//! One run of a job on the shards: injects barriers, one at a time, collects what drivers tell, commits epochs.
//!
//! Says what happened as [`News`]; what follows from that is decided by `job.rs`. Ticks go on while a checkpoint is being
//! written; the next checkpoint waits until the one before is committed, so that commits are in order.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tracing::warn;

use crate::clock::Clock;
use crate::engine::coordinator::checkpoint::{BarrierTracker, PassedBarrier};
use crate::engine::coordinator::commit::{CheckpointPlace, CommitOutcome, CommitTask, Committers};
use crate::engine::coordinator::evolution::SavedLineages;
use crate::engine::coordinator::persistence::{CarriedOutput, CheckpointIdentity};
use crate::engine::coordinator::settings::PipelineSettings;
use crate::engine::error::Error;
use crate::engine::graph::{AggregatePhase, EmitMode, JobGraph, OperatorSpec};
use crate::engine::job_context::{DriverId, JobEvent, RebaseRule};
use crate::engine::message::{Barrier, BarrierKind};
use crate::engine::worker::Deployment;
use crate::error::{ErrorReport, Report};
use crate::ids::{Epoch, Generation};
use crate::state::manifest::Manifest;
use crate::state::snapshot::{rebase_range, rebase_range_seldom};

/// How often a job is asked whether it has caught up while somebody waits for that.
const CAUGHT_UP_STEP: Duration = Duration::from_millis(10);

/// What happened in a run.
#[derive(Debug)]
pub enum News {
    /// Every driver is restored, and inputs may start.
    Deployed,
    InputEnded,
    /// An epoch is decided and committed.
    Committed(Epoch),
    /// The epoch of the stop barrier is committed.
    FinalCommitted,
    /// An epoch could not be written; the job runs on.
    Aborted(ErrorReport),
    ClientServed,
    Failed(ErrorReport),
    Fenced,
}

pub struct Run {
    deployment: Deployment,
    events: mpsc::UnboundedReceiver<JobEvent>,
    clock: Arc<dyn Clock>,
    tracker: BarrierTracker,
    not_ready: BTreeSet<DriverId>,
    not_ended: BTreeSet<DriverId>,
    next_epoch: Epoch,
    /// Ticks are of use to this graph.
    ticks: bool,
    /// See [`PipelineSettings::on_demand`].
    on_demand: bool,
    tick_interval: Duration,
    next_tick: Instant,
    /// `None` for foreground jobs.
    checkpoints: Option<Checkpoints>,
    stop_due: bool,
    stopping: bool,
    caught_up: CaughtUpWaiters,
}

/// The part of a run that persists.
pub struct Checkpoints {
    place: CheckpointPlace,
    generation: Generation,
    parent: Option<Arc<Manifest>>,
    /// The operators' change marks are lost, or are about nothing: the next checkpoint holds everything.
    full: bool,
    /// Must be committed before inputs start.
    first: bool,
    interval: Duration,
    next: Instant,
    committers: Option<Committers>,
    committing: Option<JoinHandle<(CommitOutcome, Committers)>>,
    /// Of the epoch under way.
    current: EpochInfo,
    requests: Vec<CheckpointRequest>,
    /// What sinks prepared for epochs that were aborted since.
    carried: Vec<CarriedOutput>,
}

#[derive(Default)]
struct EpochInfo {
    label: Option<String>,
    is_final: bool,
    is_stop: bool,
    answers: Vec<oneshot::Sender<Result<Epoch, ErrorReport>>>,
}

/// Somebody wants a checkpoint now.
pub struct CheckpointRequest {
    pub label: Option<String>,
    pub answer: oneshot::Sender<Result<Epoch, ErrorReport>>,
}

pub type CaughtUpAnswer = oneshot::Sender<Result<(), ErrorReport>>;

#[derive(Default)]
struct CaughtUpWaiters {
    /// Asked before the barrier under way was injected.
    asked: Vec<CaughtUpAnswer>,
    /// Asked since.
    new: Vec<CaughtUpAnswer>,
}

/// Where a run's checkpoints continue.
pub struct CheckpointStart {
    pub place: CheckpointPlace,
    pub generation: Generation,
    pub parent: Option<Arc<Manifest>>,
    pub committers: Committers,
    pub save_first: bool,
}

impl Checkpoints {
    pub fn new(start: CheckpointStart, interval: Duration) -> Checkpoints {
        Checkpoints {
            place: start.place,
            generation: start.generation,
            parent: start.parent,
            full: true,
            first: start.save_first,
            interval,
            next: Instant::now() + interval,
            committers: Some(start.committers),
            committing: None,
            current: EpochInfo::default(),
            requests: Vec::new(),
            carried: Vec::new(),
        }
    }
}

impl Run {
    pub fn new(
        deployment: Deployment,
        events: mpsc::UnboundedReceiver<JobEvent>,
        settings: PipelineSettings,
        next_epoch: Epoch,
        checkpoints: Option<Checkpoints>,
    ) -> Run {
        let drivers: BTreeSet<DriverId> = deployment.driver_ids().into_iter().collect();
        let plan = &deployment.context().plan;
        let is_input = |driver: &&DriverId| plan.fragments[driver.fragment].is_input();
        let inputs = drivers.iter().filter(is_input).copied().collect();
        Run {
            clock: Arc::clone(&deployment.context().clock),
            ticks: wants_ticks(&deployment.context().graph) && !settings.on_demand,
            on_demand: settings.on_demand,
            tracker: BarrierTracker::new(drivers.clone(), inputs),
            not_ready: drivers.clone(),
            not_ended: drivers,
            deployment,
            events,
            next_epoch,
            tick_interval: settings.barrier_interval,
            next_tick: Instant::now() + settings.barrier_interval,
            checkpoints,
            stop_due: false,
            stopping: false,
            caught_up: CaughtUpWaiters::default(),
        }
    }

    /// Lets inputs start.
    pub fn activate(&mut self) {
        self.next_tick = Instant::now() + self.tick_interval;
        if let Some(checkpoints) = &mut self.checkpoints {
            checkpoints.next = Instant::now() + checkpoints.interval;
        }
        self.deployment.activate();
    }

    /// A checkpoint after which inputs give nothing more, as soon as no other barrier is under way.
    pub fn stop(&mut self) {
        self.stop_due = true;
    }

    pub fn request_checkpoint(&mut self, request: CheckpointRequest) {
        match &mut self.checkpoints {
            Some(checkpoints) => checkpoints.requests.push(request),
            None => drop(request),
        }
    }

    pub fn wait_caught_up(&mut self, answer: CaughtUpAnswer) {
        self.caught_up.new.push(answer);
        self.next_tick = self.next_tick.min(Instant::now() + CAUGHT_UP_STEP);
    }

    /// The epoch that would be the next.
    pub fn next_epoch(&self) -> Epoch {
        self.next_epoch
    }

    /// The last epoch that was given to a barrier.
    pub fn last_epoch(&self) -> Epoch {
        Epoch(self.next_epoch.0.saturating_sub(1))
    }

    /// Who holds the barrier under way up, in words.
    pub fn waits(&self) -> Option<String> {
        let (barrier, missing) = self.tracker.missing()?;
        let context = self.deployment.context();
        let last_operator = |driver: &DriverId| {
            let node = context.plan.fragments[driver.fragment]
                .stages
                .iter()
                .rev()
                .find_map(|stage| stage.node)?;
            let waits = context.metrics.of_subtask(node, driver.subtask).waits_for();
            let waits = waits.map_or_else(String::new, |wait| format!(", which waits for {}", wait.what));
            Some(format!(
                "\"{}\" subtask {}{waits}",
                context.graph.nodes[node].description, driver.subtask
            ))
        };
        // The one farthest down is the one that all others may wait for.
        let behind = missing.iter().next_back().and_then(last_operator)?;
        Some(format!("the barrier of epoch {} to pass {behind}", barrier.epoch))
    }

    /// Drops all drivers and whatever is being written. `reason` goes to those who wait for a checkpoint, or the epoch of the
    /// final one when all input has been processed; those who wait until the job has caught up are given back.
    pub async fn tear_down(mut self, reason: Option<ErrorReport>, finished: Option<Epoch>) -> Vec<CaughtUpAnswer> {
        if let Some(checkpoints) = &mut self.checkpoints {
            if let Some(committing) = checkpoints.committing.take() {
                committing.abort();
                // Wait: nothing of this run may go on when the next begins.
                let _ = committing.await;
            }
            let (plain, mut unanswered): (Vec<_>, Vec<_>) = checkpoints
                .requests
                .drain(..)
                .partition(|request| request.label.is_none());
            for request in plain {
                match finished {
                    // Who asked may have gone.
                    Some(epoch) => drop(request.answer.send(Ok(epoch))),
                    None => unanswered.push(request),
                }
            }
            let unanswered = unanswered.into_iter().map(|request| request.answer);
            for answer in unanswered.chain(checkpoints.current.answers.drain(..)) {
                let report = reason.clone().unwrap_or_else(|| Error::Stopped.report());
                let _ = answer.send(Err(report));
            }
        }
        self.deployment.cancel().await;
        let mut waiters = std::mem::take(&mut self.caught_up);
        waiters.asked.append(&mut waiters.new);
        waiters.asked
    }

    /// What happens next. May be dropped and called again at any time.
    pub async fn next(&mut self) -> News {
        loop {
            if let Err(error) = self.schedule() {
                return News::Failed(error.report());
            }
            let due = tokio::time::Instant::from_std(self.due());
            let committing = self
                .checkpoints
                .as_mut()
                .and_then(|checkpoints| checkpoints.committing.as_mut());
            tokio::select! {
                event = self.events.recv() => {
                    let Some(event) = event else {
                        return News::Failed(Error::Internal("the drivers of a job are gone".into()).report());
                    };
                    match self.on_event(event) {
                        Ok(Some(news)) => return news,
                        Ok(None) => {}
                        Err(error) => return News::Failed(error.report()),
                    }
                }
                committed = wait_for(committing) => {
                    if let Some(news) = self.on_committed(committed) {
                        return news;
                    }
                }
                () = tokio::time::sleep_until(due) => {}
            }
        }
    }

    /// When a barrier may have to be injected although nothing else happens.
    fn due(&self) -> Instant {
        let mut due = Instant::now() + Duration::from_secs(3600);
        if self.tracker.is_busy() || self.stopping || !self.not_ready.is_empty() {
            return due;
        }
        if self.wants_tick() {
            due = due.min(self.next_tick);
        }
        if let Some(checkpoints) = &self.checkpoints
            && checkpoints.committing.is_none()
            && !self.on_demand
        {
            due = due.min(checkpoints.next);
        }
        due
    }

    fn wants_tick(&self) -> bool {
        // Before the last checkpoint nothing else is of use.
        !self.stop_due && (self.ticks || !self.caught_up.new.is_empty())
    }

    /// Injects a barrier when one is due.
    fn schedule(&mut self) -> Result<(), Error> {
        if self.tracker.is_busy() || self.stopping || !self.not_ready.is_empty() {
            return Ok(());
        }
        let now = Instant::now();
        if let Some(checkpoints) = &mut self.checkpoints
            && checkpoints.committing.is_none()
        {
            let kind = if checkpoints.first {
                Some(BarrierKind::Savepoint)
            } else if self.stop_due {
                Some(BarrierKind::Stop)
            } else if checkpoints.requests.iter().any(|request| request.label.is_some()) {
                Some(BarrierKind::Savepoint)
            } else if !checkpoints.requests.is_empty() || checkpoints.next <= now && !self.on_demand {
                Some(BarrierKind::Checkpoint)
            } else {
                None
            };
            if let Some(kind) = kind {
                checkpoints.begin(kind, self.not_ended.is_empty(), self.on_demand, &self.deployment);
                return self.inject(kind);
            }
        }
        if self.wants_tick() && self.next_tick <= now {
            return self.inject(BarrierKind::Tick);
        }
        Ok(())
    }

    fn inject(&mut self, kind: BarrierKind) -> Result<(), Error> {
        let barrier = Barrier {
            epoch: self.next_epoch,
            kind,
        };
        self.next_epoch = self.next_epoch.next();
        self.stopping = kind == BarrierKind::Stop;
        let asked = std::mem::take(&mut self.caught_up.new);
        self.caught_up.asked.extend(asked);
        self.tracker.start(barrier, self.clock.now_micros())?;
        self.next_tick = Instant::now() + self.tick_interval;
        self.deployment.inject(barrier);
        Ok(())
    }

    fn on_event(&mut self, event: JobEvent) -> Result<Option<News>, Error> {
        Ok(match event {
            JobEvent::Ready(driver) => {
                self.not_ready.remove(&driver);
                if self.not_ready.is_empty() {
                    self.deployment.context().restored.release();
                }
                let first = self.checkpoints.as_ref().is_some_and(|checkpoints| checkpoints.first);
                (self.not_ready.is_empty() && !first).then_some(News::Deployed)
            }
            JobEvent::Ended(driver) => {
                self.not_ended.remove(&driver);
                self.not_ended.is_empty().then_some(News::InputEnded)
            }
            JobEvent::Ack(ack) => {
                if let Some(passed) = self.tracker.acknowledge(*ack)? {
                    self.on_passed(passed);
                }
                None
            }
            JobEvent::ClientServed => Some(News::ClientServed),
            JobEvent::Failed(report) => Some(News::Failed(report)),
        })
    }

    fn on_passed(&mut self, passed: PassedBarrier) {
        if passed.caught_up {
            for answer in self.caught_up.asked.drain(..) {
                // Who asked may have gone.
                let _ = answer.send(Ok(()));
            }
        } else if !self.caught_up.asked.is_empty() {
            let asked = std::mem::take(&mut self.caught_up.asked);
            self.caught_up.new.extend(asked);
        }
        if !self.caught_up.new.is_empty() {
            self.next_tick = Instant::now() + CAUGHT_UP_STEP;
        }
        if let Some(checkpoints) = &mut self.checkpoints
            && passed.barrier.kind.persists()
        {
            checkpoints.commit(passed, &self.deployment);
        }
    }

    fn on_committed(&mut self, committed: Result<(CommitOutcome, Committers), tokio::task::JoinError>) -> Option<News> {
        let checkpoints = self.checkpoints.as_mut()?;
        checkpoints.committing = None;
        let current = std::mem::take(&mut checkpoints.current);
        let (outcome, committers) = match committed {
            Ok(done) => done,
            Err(join) => {
                let error = Error::Panicked {
                    operator: "checkpoint".into(),
                    message: join.to_string(),
                };
                return Some(News::Failed(error.report()));
            }
        };
        checkpoints.committers = Some(committers);
        match outcome {
            CommitOutcome::Committed(manifest) => {
                let epoch = manifest.epoch();
                self.deployment.tell_decided(epoch);
                checkpoints.full = false;
                checkpoints.parent = Some(manifest);
                answer(current.answers, || Ok(epoch));
                if std::mem::take(&mut checkpoints.first) {
                    return Some(News::Deployed);
                }
                Some(if current.is_stop {
                    News::FinalCommitted
                } else {
                    News::Committed(epoch)
                })
            }
            CommitOutcome::Aborted { report, carried } => {
                checkpoints.carried = carried;
                // What operators handed over for it is gone from their marks: the next has to hold everything.
                checkpoints.full = true;
                answer(current.answers, || Err(report.clone()));
                Some(if current.is_stop || checkpoints.first || self.on_demand {
                    News::Failed(report)
                } else {
                    News::Aborted(report)
                })
            }
            CommitOutcome::Fenced => Some(News::Fenced),
            CommitOutcome::SinksFailed(report) => {
                answer(current.answers, || Err(report.clone()));
                Some(News::Failed(report))
            }
        }
    }
}

fn answer<T>(answers: Vec<oneshot::Sender<T>>, mut with: impl FnMut() -> T) {
    for answer in answers {
        // Who asked may have gone.
        let _ = answer.send(with());
    }
}

/// Never ready without a task.
async fn wait_for<T>(task: Option<&mut JoinHandle<T>>) -> Result<T, tokio::task::JoinError> {
    match task {
        Some(task) => task.await,
        None => std::future::pending().await,
    }
}

impl Checkpoints {
    /// The next barrier is one that persists.
    fn begin(&mut self, kind: BarrierKind, all_ended: bool, on_demand: bool, deployment: &Deployment) {
        self.next = Instant::now() + self.interval;
        let mut requests = std::mem::take(&mut self.requests);
        let label = requests.iter_mut().find_map(|request| request.label.take());
        // One label an epoch: who wants another gets the next.
        let (later, now): (Vec<_>, Vec<_>) = requests.into_iter().partition(|request| request.label.is_some());
        self.requests = later;
        self.current = EpochInfo {
            label,
            is_final: all_ended && kind == BarrierKind::Stop,
            is_stop: kind == BarrierKind::Stop,
            answers: now.into_iter().map(|request| request.answer).collect(),
        };
        let rule = match &self.parent {
            Some(parent) if !self.full => {
                let parent = Arc::clone(parent);
                let key_groups = deployment.context().key_groups;
                RebaseRule::Rolling(Arc::new(move |epoch, owned| match on_demand {
                    true => rebase_range_seldom(Some(&parent), key_groups, owned),
                    false => rebase_range(Some(&parent), epoch, key_groups, owned),
                }))
            }
            _ => RebaseRule::Everything,
        };
        deployment.context().rebase.set(rule);
    }

    fn commit(&mut self, passed: PassedBarrier, deployment: &Deployment) {
        let Some(committers) = self.committers.take() else {
            warn!(pipeline = %self.place.pipeline, "a checkpoint passed while another was being committed");
            return;
        };
        let task = CommitTask {
            identity: CheckpointIdentity {
                epoch: passed.barrier.epoch,
                generation: self.generation,
                kind: passed.barrier.kind,
                key_groups: deployment.context().key_groups,
                parent: self.parent.clone(),
                created_at_micros: self.place.clock.now_micros(),
                lineages: Arc::new(SavedLineages::of_graph(&deployment.context().graph)),
            },
            place: self.place.clone(),
            passed,
            label: self.current.label.clone(),
            is_final: self.current.is_final,
            carried: std::mem::take(&mut self.carried),
            committers,
        };
        self.committing = Some(crate::spawn::named("commit", task.run()));
    }
}

/// Whether somebody sees what operators emit at a tick.
fn wants_ticks(graph: &JobGraph) -> bool {
    graph.nodes.iter().any(|node| match &node.operator {
        OperatorSpec::UpdatingAggregate(spec) => spec.phase != AggregatePhase::Partial,
        OperatorSpec::WindowAggregate(spec) => spec.emit == EmitMode::OnUpdate,
        OperatorSpec::Materialize(_) | OperatorSpec::Sink(_) => true,
        _ => false,
    })
}
