//! The task that runs one pipeline: turns what happens into events for the table in `job.rs` and carries its actions out.
//!
//! Guarantees: nothing of one run goes on when the next begins; what a client was told (stopped, checkpointed) is recorded
//! before it is told; a zombie says and records nothing.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tracing::{error, info, warn};

use crate::catalog::change::Change;
use crate::catalog::jobs::{Decision, JobRecord, JobState};
use crate::catalog::objects::Object;
use crate::engine::coordinator::Shared;
use crate::engine::coordinator::commit::CheckpointPlace;
use crate::engine::coordinator::commit_watch::CommitWatch;
use crate::engine::coordinator::deploy::deploy;
use crate::engine::coordinator::garbage::collect_garbage;
use crate::engine::coordinator::job::{Action, Event, Outcome, Phase, StopGoal, transition};
use crate::engine::coordinator::kept_table::settings_of;
use crate::engine::coordinator::progress::Progress;
use crate::engine::coordinator::recovery::{Attempt, StartFrom, StartPoint, find_start, new_job, pipeline_of};
use crate::engine::coordinator::restart::{self, HEALTHY_AFTER};
use crate::engine::coordinator::result_load::load_results;
use crate::engine::coordinator::run::{CaughtUpAnswer, CheckpointRequest, CheckpointStart, Checkpoints, News, Run};
use crate::engine::error::Error;
use crate::engine::events::{EventKind, JobEvent};
use crate::engine::job_context::RunName;
use crate::engine::job_metrics::JobMetrics;
use crate::error::{Blame, ErrorReport, Report, Retry};
use crate::ids::{Epoch, Generation, Oid};

/// Epochs in a row that could not be written before a job is called degraded.
const ABORTS_UNTIL_DEGRADED: u32 = 3;

/// Committed checkpoints between two collections of files that no kept checkpoint needs.
const GARBAGE_EVERY: u32 = 10;

/// How often the end of a job is tried to be recorded.
const RECORD_ATTEMPTS: u32 = 5;

pub enum Command {
    Stop {
        goal: StopGoal,
        at_once: bool,
        answer: oneshot::Sender<Result<(), ErrorReport>>,
    },
    Checkpoint(CheckpointRequest),
    /// Answered when all input at hand has been processed and is visible.
    CaughtUp(CaughtUpAnswer),
}

/// What others see of a job.
#[derive(Clone, Debug)]
pub struct JobSummary {
    pub record: JobRecord,
    /// The newest committed epoch of this run or the one it started from.
    pub committed_epoch: Option<Epoch>,
    /// When that was.
    pub committed_at_micros: Option<i64>,
    /// What went wrong last, and when; stays when it is over.
    pub last_error: Option<(i64, ErrorReport)>,
    /// Inputs are let go, and not yet stopped.
    pub runs: bool,
    /// The task is gone and nothing will change any more.
    pub ended: bool,
}

/// The counters of the newest run.
pub type SharedMetrics = Arc<Mutex<Arc<JobMetrics>>>;

pub struct JobTask {
    shared: Arc<Shared>,
    pipeline: Oid,
    job: JobRecord,
    phase: Phase,
    from: StartFrom,
    commands: mpsc::Receiver<Command>,
    summary: watch::Sender<JobSummary>,
    metrics: SharedMetrics,
    watch: Arc<CommitWatch>,
    starting: Option<JoinHandle<(JobRecord, Result<StartPoint, Error>)>>,
    /// The generation that the start under way was given; 0 before.
    begun: Arc<AtomicU64>,
    /// The generation of the last run of this task.
    last: Option<Generation>,
    run: Option<Run>,
    place: Option<CheckpointPlace>,
    /// Of what went wrong last, for waiters and the record.
    failure: Option<ErrorReport>,
    stop_answers: Vec<(StopGoal, oneshot::Sender<Result<(), ErrorReport>>)>,
    caught_up_later: Vec<CaughtUpAnswer>,
    /// Asked for before the run was there.
    checkpoints_later: Vec<CheckpointRequest>,
    wake_at: Option<Instant>,
    aborts_in_row: u32,
    /// While it is expected to get on.
    progress: Option<Progress>,
    /// Why it is degraded.
    trouble: Option<ErrorReport>,
    /// Its name in the metric that says so; it may have been renamed or dropped since.
    shown_as: Option<String>,
    last_error: Option<(i64, ErrorReport)>,
    commits: u32,
    committed_epoch: Option<Epoch>,
    committed_at_micros: Option<i64>,
    /// Epochs of this process are not used again, even when they were never decided: readers have seen them.
    epoch_floor: Epoch,
    garbage: Option<JoinHandle<()>>,
}

enum Input {
    Command(Option<Command>),
    News(News),
    Started(Box<(JobRecord, Result<StartPoint, Error>)>),
    Woken,
}

impl JobTask {
    pub fn new(
        shared: Arc<Shared>,
        job: JobRecord,
        from: StartFrom,
        commands: mpsc::Receiver<Command>,
        summary: watch::Sender<JobSummary>,
        metrics: SharedMetrics,
        watch: Arc<CommitWatch>,
    ) -> JobTask {
        JobTask {
            shared,
            pipeline: job.pipeline,
            job,
            phase: Phase::Starting {
                attempt: 0,
                rescaling: false,
            },
            from,
            commands,
            summary,
            metrics,
            watch,
            starting: None,
            begun: Arc::default(),
            last: None,
            run: None,
            place: None,
            failure: None,
            stop_answers: Vec::new(),
            caught_up_later: Vec::new(),
            checkpoints_later: Vec::new(),
            wake_at: None,
            aborts_in_row: 0,
            progress: None,
            trouble: None,
            shown_as: None,
            last_error: None,
            commits: 0,
            committed_epoch: None,
            committed_at_micros: None,
            epoch_floor: Epoch::default(),
            garbage: None,
        }
    }

    /// Runs the pipeline to its end.
    pub async fn run(mut self) {
        self.tell(EventKind::Created, None);
        self.act(Action::Start).await;
        while !self.phase.is_ended() {
            let input = self.next_input().await;
            self.handle(input).await;
        }
        self.end().await;
    }

    async fn next_input(&mut self) -> Input {
        let far = Duration::from_secs(3600);
        let look_at = self.progress.as_ref().map(Progress::due);
        let wake_at = [self.wake_at, look_at].into_iter().flatten().min();
        let wake_at = wake_at.unwrap_or_else(|| Instant::now() + far);
        tokio::select! {
            command = self.commands.recv() => Input::Command(command),
            news = next_news(&mut self.run) => Input::News(news),
            started = next_start(&mut self.starting) => {
                self.starting = None;
                match started {
                    Ok(started) => Input::Started(Box::new(started)),
                    Err(join) => {
                        let operator = "start".to_owned();
                        let message = join.to_string();
                        let error = Error::Panicked { operator, message };
                        Input::Started(Box::new((self.job.clone(), Err(error))))
                    }
                }
            }
            () = tokio::time::sleep_until(tokio::time::Instant::from_std(wake_at)) => Input::Woken,
        }
    }

    async fn handle(&mut self, input: Input) {
        match input {
            Input::Command(Some(command)) => self.command(command).await,
            // The coordinator is gone: the process ends.
            Input::Command(None) => {
                let goal = StopGoal::Shutdown;
                self.event(Event::Stop { goal, at_once: true }).await;
            }
            Input::News(news) => self.news(news).await,
            Input::Started(started) => self.started(started.0, started.1).await,
            Input::Woken => self.woken().await,
        }
    }

    async fn woken(&mut self) {
        let now = Instant::now();
        if self.progress.as_mut().is_some_and(|progress| progress.look(now)) {
            self.stalled().await;
        }
        if self.wake_at.is_none_or(|wake_at| wake_at > now) {
            return;
        }
        self.wake_at = None;
        match self.phase {
            Phase::Recovering { .. } => self.event(Event::BackoffOver).await,
            Phase::Running { .. } => self.event(Event::Healthy).await,
            _ => {}
        }
    }

    async fn command(&mut self, command: Command) {
        match command {
            Command::Stop { goal, at_once, answer } => {
                self.stop_answers.push((goal, answer));
                self.event(Event::Stop { goal, at_once }).await;
            }
            Command::Checkpoint(request) => match &mut self.run {
                // The final checkpoint is as good as another.
                Some(run) if matches!(self.phase, Phase::Running { .. } | Phase::Finishing { .. }) => {
                    run.request_checkpoint(request);
                }
                _ if matches!(self.phase, Phase::Starting { .. } | Phase::Recovering { .. }) => {
                    self.checkpoints_later.push(request);
                }
                _ => {
                    // Who asked may have gone.
                    let _ = request.answer.send(Err(self.busy().report()));
                }
            },
            Command::CaughtUp(answer) => match &mut self.run {
                Some(run) if matches!(self.phase, Phase::Running { .. }) => run.wait_caught_up(answer),
                _ => self.caught_up_later.push(answer),
            },
        }
    }

    fn busy(&self) -> Error {
        Error::Busy {
            pipeline: self.name(),
            state: self.phase.job_state().as_str(),
        }
    }

    fn name(&self) -> String {
        match self.shared.catalog.snapshot().get(self.pipeline) {
            Some(object) => object.header().name.clone(),
            None => self.pipeline.to_string(),
        }
    }

    async fn news(&mut self, news: News) {
        match news {
            News::Deployed => self.event(Event::Deployed).await,
            News::InputEnded => self.event(Event::InputEnded).await,
            News::Committed(epoch) => self.committed(epoch).await,
            News::FinalCommitted => {
                self.committed_epoch = self.committed_epoch.max(self.run.as_ref().map(Run::last_epoch));
                self.committed_at_micros = Some(self.shared.clock.now_micros());
                self.event(Event::FinalCommitted).await;
            }
            News::Aborted(report) => self.aborted(report).await,
            // Background jobs have no client.
            News::ClientServed => {}
            News::Failed(report) => self.failed(report).await,
            News::Fenced => self.event(Event::Fenced).await,
        }
    }

    async fn committed(&mut self, epoch: Epoch) {
        self.committed_epoch = Some(epoch);
        self.committed_at_micros = Some(self.shared.clock.now_micros());
        self.commits += 1;
        self.got_on().await;
        self.publish(false);
        let idle = self.garbage.as_ref().is_none_or(JoinHandle::is_finished);
        if self.commits.is_multiple_of(GARBAGE_EVERY)
            && idle
            && let Some(place) = self.place.clone()
        {
            let generation = self.job.generation;
            self.garbage = Some(crate::spawn::named("garbage", async move {
                if let Err(error) = collect_garbage(&place, generation).await {
                    warn!(pipeline = %place.pipeline, %error, "could not remove old checkpoints");
                }
            }));
        }
    }

    async fn aborted(&mut self, report: ErrorReport) {
        warn!(pipeline = %self.pipeline, error = %report, detail = report.detail, "could not write a checkpoint");
        self.aborts_in_row += 1;
        self.tell(EventKind::CheckpointFailed, Some(&report));
        self.note_error(&report);
        if self.aborts_in_row == ABORTS_UNTIL_DEGRADED {
            self.degraded(report).await;
        }
        self.publish(false);
    }

    /// Nothing was committed for several intervals.
    async fn stalled(&mut self) {
        let Some(progress) = &self.progress else { return };
        let mut waits = self.watch.read().waits();
        waits.extend(self.run.as_ref().and_then(Run::waits));
        let error = Error::Stalled {
            pipeline: self.name(),
            seconds: progress.limit().as_secs_f64(),
            waits,
        };
        let report = error.report();
        warn!(pipeline = %self.pipeline, job = %self.job.job, error = %report, detail = report.detail, "job does not get on");
        self.note_error(&report);
        self.degraded(report).await;
    }

    async fn degraded(&mut self, report: ErrorReport) {
        if self.trouble.is_none() {
            self.tell(EventKind::Degraded, Some(&report));
        }
        self.trouble = Some(report);
        self.show_degraded();
        self.record().await;
        self.publish(false);
    }

    /// Something was committed.
    async fn got_on(&mut self) {
        self.aborts_in_row = 0;
        if let Some(progress) = &mut self.progress {
            progress.made(Instant::now());
        }
        if self.trouble.take().is_some() {
            self.tell(EventKind::Recovered, None);
            self.show_degraded();
            self.record().await;
        }
    }

    /// Follows it from now on, or no more.
    fn expect_progress(&mut self, expect: bool) {
        self.trouble = None;
        self.aborts_in_row = 0;
        self.progress = None;
        self.show_degraded();
        let snapshot = self.shared.catalog.snapshot();
        if expect
            && let Ok(pipeline) = pipeline_of(&self.shared, self.pipeline)
            && let Ok(settings) = settings_of(&snapshot, &pipeline, self.shared.defaults)
            && !settings.on_demand
        {
            let (interval, least) = (settings.checkpoint_interval, settings.stall_least);
            self.progress = Some(Progress::new(interval, least, Instant::now()));
        }
    }

    /// For `/metrics`.
    fn show_degraded(&mut self) {
        let gauge = |name: &str| metrics::gauge!("laminar_pipeline_degraded", "pipeline" => name.to_owned());
        if self.trouble.is_some() && self.shown_as.is_none() {
            let name = self.name();
            gauge(&name).set(1.0);
            self.shown_as = Some(name);
        } else if self.trouble.is_none()
            && let Some(name) = self.shown_as.take()
        {
            gauge(&name).set(0.0);
        }
    }

    fn note_error(&mut self, report: &ErrorReport) {
        self.last_error = Some((self.shared.clock.now_micros(), report.clone()));
    }

    async fn failed(&mut self, report: ErrorReport) {
        let again = report.retry == Retry::Backoff && report.blame != Blame::User;
        warn!(pipeline = %self.pipeline, code = %report.code, error = %report, detail = report.detail, again, "job failed");
        self.tell(EventKind::Failed, Some(&report));
        self.note_error(&report);
        self.failure = Some(report);
        self.event(Event::Failed { again }).await;
    }

    async fn started(&mut self, job: JobRecord, result: Result<StartPoint, Error>) {
        self.job = job;
        let start = match result {
            Ok(start) => start,
            Err(Error::Fenced { .. }) => return self.event(Event::Fenced).await,
            Err(error) => return self.failed(error.report()).await,
        };
        self.place = Some(start.place.clone());
        self.committed_epoch = self.job.restored_epoch;
        self.committed_at_micros = start.manifest.as_ref().map(|manifest| manifest.created_at_micros);
        if start.nothing_left {
            return self.event(Event::NothingLeft).await;
        }
        // A later attempt goes on from what this one has saved first.
        if let Err(error) = self.deploy(start) {
            self.failed(error.report()).await;
        }
    }

    fn deploy(&mut self, start: StartPoint) -> Result<(), Error> {
        let run = RunName {
            pipeline: start.place.path.clone(),
            generation: start.generation,
        };
        let (deployment, events) = deploy(
            &self.shared,
            run,
            start.graph,
            start.key_groups,
            start.restored,
            None,
            &start.settings,
        )?;
        *self.metrics.lock().unwrap_or_else(PoisonError::into_inner) = Arc::clone(&deployment.context().metrics);
        let checkpoints = CheckpointStart {
            place: start.place,
            generation: start.generation,
            parent: start.manifest,
            committers: start.committers,
            save_first: start.save_first,
        };
        let checkpoints = Checkpoints::new(checkpoints, start.settings.checkpoint_interval);
        let next_epoch = start.next_epoch.max(self.epoch_floor);
        self.run = Some(Run::new(
            deployment,
            events,
            start.settings,
            next_epoch,
            Some(checkpoints),
        ));
        Ok(())
    }

    /// Looks the event up in the table and does what it says.
    async fn event(&mut self, event: Event) {
        let before = self.phase;
        let (phase, actions) = transition(self.phase, event);
        self.phase = phase;
        if before.job_state() != phase.job_state() {
            info!(pipeline = %self.pipeline, job = %self.job.job, state = phase.job_state().as_str(), "job state");
        }
        if let Some(kind) = told_of(before, phase) {
            self.tell(kind, None);
        }
        for action in actions {
            self.act(action).await;
        }
        if before.job_state() != self.phase.job_state() && !self.phase.is_ended() {
            self.record().await;
        }
        if matches!(self.phase, Phase::Running { .. }) && !matches!(before, Phase::Running { .. }) {
            self.on_running();
        } else {
            self.publish(false);
        }
    }

    fn on_running(&mut self) {
        self.from = StartFrom::Newest;
        self.expect_progress(true);
        self.wake_at = Some(Instant::now() + HEALTHY_AFTER);
        self.failure = None;
        // Who is answered must see it.
        self.publish(false);
        for (_, answer) in self.stop_answers.drain(..) {
            // A rescale has come to its end; who asked may have gone.
            let _ = answer.send(Ok(()));
        }
        if let Some(run) = &mut self.run {
            for answer in self.caught_up_later.drain(..) {
                run.wait_caught_up(answer);
            }
            for request in self.checkpoints_later.drain(..) {
                run.request_checkpoint(request);
            }
        }
    }

    async fn act(&mut self, action: Action) {
        match action {
            Action::Start => self.start(),
            Action::Activate => {
                if let Some(run) = &mut self.run {
                    run.activate();
                }
            }
            Action::InjectStop => {
                if let Some(run) = &mut self.run {
                    run.stop();
                }
            }
            Action::TearDown => self.tear_down().await,
            Action::Backoff { attempt } => {
                let delay = restart::delay(attempt, rand::random());
                self.wake_at = Some(Instant::now() + delay);
                self.close_record().await;
            }
        }
    }

    fn start(&mut self) {
        self.wake_at = None;
        if self.job.generation.0 > 0 {
            self.last = Some(self.job.generation);
            // Each run is recorded under its own name.
            self.job = new_job(&self.shared, self.pipeline, self.phase.job_state());
        }
        self.job.state = self.phase.job_state();
        let shared = Arc::clone(&self.shared);
        let mut job = self.job.clone();
        self.expect_progress(true);
        let watch = Arc::clone(&self.watch);
        self.begun = Arc::default();
        let attempt = Attempt {
            from: self.from,
            after: self.last,
            begun: Arc::clone(&self.begun),
        };
        self.starting = Some(crate::spawn::named("start", async move {
            let mut result = Box::pin(find_start(&shared, &mut job, &attempt, &watch)).await;
            if let Ok(start) = &result
                && start.nothing_left
                && let Err(error) = Box::pin(load_results(&shared, start)).await
            {
                result = Err(error);
            }
            (job, result)
        }));
    }

    async fn tear_down(&mut self) {
        self.expect_progress(false);
        if let Some(starting) = self.starting.take() {
            starting.abort();
            // Wait: nothing of it may go on.
            let _ = starting.await;
            self.job.generation = Generation(self.begun.load(Ordering::SeqCst));
        }
        if let Some(run) = self.run.take() {
            self.epoch_floor = run.next_epoch();
            let has_finished = matches!(self.phase, Phase::Ended(Outcome::Finished));
            let reason = self.failure.clone().filter(|_| !has_finished);
            let finished = self.committed_epoch.filter(|_| has_finished);
            // They wait for the next run, or hear how the last one ended.
            self.caught_up_later.extend(run.tear_down(reason, finished).await);
        }
        self.watch.give_up();
    }

    /// The failed run is closed with its error; the next attempt is another run.
    async fn close_record(&mut self) {
        let mut record = self.record_now();
        if record.generation.0 == 0 {
            return;
        }
        record.state = JobState::Failed;
        record.finished_at_micros = Some(self.shared.clock.now_micros());
        match self.shared.catalog.store().update_job(record).await {
            Ok(Decision::Committed) => {}
            // What went wrong is most likely that its files are not its own any more.
            Ok(Decision::Fenced) => self.phase = transition(self.phase, Event::Fenced).0,
            Err(error) => warn!(pipeline = %self.pipeline, %error, "could not record the failure of a job"),
        }
    }

    fn record_now(&self) -> JobRecord {
        let mut record = self.job.clone();
        record.state = self.phase.job_state();
        record.error = self.failure.clone();
        let is_expected_to_get_on = matches!(
            self.phase,
            Phase::Starting { .. } | Phase::Running { .. } | Phase::Finishing { .. }
        );
        if let Some(trouble) = &self.trouble {
            record.error.get_or_insert_with(|| trouble.clone());
            if is_expected_to_get_on {
                record.state = JobState::Degraded;
            }
        }
        record
    }

    /// Puts the state into the metadata store; a store that does not answer does not stop the job.
    async fn record(&mut self) {
        let record = self.record_now();
        if record.generation.0 == 0 || record.state == JobState::Recovering {
            // Between runs there is no row of this run that could change.
            return;
        }
        match self.shared.catalog.store().update_job(record).await {
            Ok(Decision::Committed) => {}
            Ok(Decision::Fenced) => {
                let (phase, _) = transition(self.phase, Event::Fenced);
                self.phase = phase;
                self.tear_down().await;
            }
            Err(error) => warn!(pipeline = %self.pipeline, %error, "could not record the state of a job"),
        }
    }

    async fn end(&mut self) {
        let Phase::Ended(mut outcome) = self.phase else {
            return;
        };
        self.tear_down().await;
        self.job.finished_at_micros = Some(self.shared.clock.now_micros());
        self.job.desired_running = matches!(outcome, Outcome::ShutDown | Outcome::Failed);
        if outcome == Outcome::Finished {
            self.failure = None;
        }
        if outcome != Outcome::Fenced && self.record_end().await == Decision::Fenced {
            // It failed because it was replaced, or came to its end too late; others count.
            outcome = Outcome::Fenced;
            self.phase = Phase::Ended(outcome);
        }
        match outcome {
            Outcome::Fenced => {
                warn!(pipeline = %self.pipeline, job = %self.job.job, "a newer run of the pipeline exists, this one ends")
            }
            Outcome::Failed => {
                error!(pipeline = %self.pipeline, job = %self.job.job, error = self.failure.as_ref().map(|f| f.message.as_str()), "job failed for good")
            }
            Outcome::Stopped | Outcome::Finished | Outcome::ShutDown => {}
        }
        let failure = self.failure.clone().filter(|_| outcome == Outcome::Failed);
        self.tell(end_of(outcome), failure.as_ref());
        self.publish(true);
        self.answer_at_end(outcome);
    }

    async fn record_end(&mut self) -> Decision {
        let mut attempt = 1;
        loop {
            let error = match self.try_record_end().await {
                Ok(decision) => return decision,
                Err(error) => error,
            };
            if attempt >= RECORD_ATTEMPTS {
                error!(pipeline = %self.pipeline, %error, "could not record the end of a job");
                return Decision::Committed;
            }
            tokio::time::sleep(restart::delay(attempt, rand::random())).await;
            attempt += 1;
        }
    }

    /// The state first: a crash in between starts a pipeline that has finished once more, which finds nothing to do. The
    /// other way round it would be left neither running nor finished.
    async fn try_record_end(&self) -> Result<Decision, crate::catalog::error::Error> {
        if self.job.generation.0 > 0
            && self.shared.catalog.store().update_job(self.record_now()).await? == Decision::Fenced
        {
            return Ok(Decision::Fenced);
        }
        let snapshot = self.shared.catalog.snapshot();
        let is_pipeline = matches!(snapshot.get(self.pipeline), Some(Object::Pipeline(_)));
        if !self.job.desired_running && is_pipeline {
            let change = Change::SetDesiredRunning {
                pipeline: self.pipeline,
                running: false,
            };
            self.shared.catalog.apply(vec![change]).await?;
        }
        Ok(Decision::Committed)
    }

    fn answer_at_end(&mut self, outcome: Outcome) {
        let failure = self.failure.clone();
        for (goal, answer) in self.stop_answers.drain(..) {
            let result = match (outcome, goal) {
                (Outcome::Fenced, _) => Err(Error::Fenced {
                    pipeline: self.pipeline.to_string(),
                }
                .report()),
                (Outcome::Failed, _) | (Outcome::Stopped, StopGoal::User) => failure.clone().map_or(Ok(()), Err),
                _ => Ok(()),
            };
            // Who asked may have gone.
            let _ = answer.send(result);
        }
        for request in self.checkpoints_later.drain(..) {
            let report = failure.clone().unwrap_or_else(|| Error::Stopped.report());
            // Who asked may have gone.
            let _ = request.answer.send(Err(report));
        }
        for answer in self.caught_up_later.drain(..) {
            let result = match outcome {
                Outcome::Finished => Ok(()),
                _ => Err(failure.clone().unwrap_or_else(|| Error::Stopped.report())),
            };
            let _ = answer.send(result);
        }
    }

    /// For `laminar.events`.
    fn tell(&self, kind: EventKind, error: Option<&ErrorReport>) {
        let snapshot = self.shared.catalog.snapshot();
        let header = snapshot.get(self.pipeline).map(|object| object.header());
        self.shared.events.add(JobEvent {
            at_micros: self.shared.clock.now_micros(),
            pipeline: self.pipeline,
            name: header.map_or_else(|| self.pipeline.to_string(), |header| header.name.clone()),
            schema: header.and_then(|header| header.schema.clone()),
            job: self.job.job.clone(),
            kind,
            message: error.map_or_else(|| kind.message().to_owned(), |error| error.message.clone()),
            error: error.cloned(),
        });
    }

    fn publish(&self, ended: bool) {
        self.summary.send_replace(JobSummary {
            record: self.record_now(),
            committed_epoch: self.committed_epoch,
            committed_at_micros: self.committed_at_micros,
            last_error: self.last_error.clone(),
            runs: matches!(self.phase, Phase::Running { .. } | Phase::Finishing { .. }),
            ended,
        });
    }
}

/// What a change of phase is in the list of events; ends are told when they are recorded.
fn told_of(before: Phase, after: Phase) -> Option<EventKind> {
    let was_running = matches!(before, Phase::Running { .. });
    let rescales = |phase: Phase| phase.job_state() == JobState::Rescaling;
    match after {
        Phase::Running { .. } if !was_running => Some(EventKind::Running),
        Phase::Starting { .. } if matches!(before, Phase::Recovering { .. }) => Some(EventKind::Restarted),
        _ if rescales(after) && !rescales(before) => Some(EventKind::Rescaling),
        _ => None,
    }
}

fn end_of(outcome: Outcome) -> EventKind {
    match outcome {
        Outcome::Stopped | Outcome::ShutDown => EventKind::Stopped,
        Outcome::Failed => EventKind::GaveUp,
        Outcome::Finished => EventKind::Finished,
        Outcome::Fenced => EventKind::Replaced,
    }
}

async fn next_news(run: &mut Option<Run>) -> News {
    match run {
        Some(run) => run.next().await,
        None => std::future::pending().await,
    }
}

async fn next_start<T>(starting: &mut Option<JoinHandle<T>>) -> Result<T, tokio::task::JoinError> {
    match starting {
        Some(starting) => starting.await,
        None => std::future::pending().await,
    }
}
