//! Runs a job graph on the thread of the test: its real drivers, exchanges and operators, in a random order that a seed gives.
//!
//! Barriers come at random places, and so do crashes: everything is dropped and built again, from any checkpoint taken so far, at
//! another parallelism. Checkpoints stay in memory. The same seed gives the same run, on any machine; not so of jobs that ask
//! systems outside, whose answers come when they come.
//!
//! Not covered, because other tests do: threads, the files of checkpoints, sinks and their commits.

#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use arrow::array::{AsArray, RecordBatch};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::sync::mpsc;

use crate::clock::SystemClock;
use crate::engine::connectors::Wake;
use crate::engine::dead_letters::DeadLetters;
use crate::engine::driver::Driver;
use crate::engine::error::Error;
use crate::engine::fragment::FragmentPlan;
use crate::engine::graph::{GraphNode, JobGraph, OperatorSpec};
use crate::engine::job_context::{
    JobContext, JobEvent, OperatorPart, PartContent, RebasePolicy, RebaseRule, RestorePoint, RestoreSlot, RunName,
};
use crate::engine::job_metrics::JobMetrics;
use crate::engine::memory_budget::MemoryBudget;
use crate::engine::message::{Barrier, BarrierKind, Chunk, Watermark};
use crate::engine::operator::{Operator, Output, StateSize};
use crate::engine::operators::{BuildContext, build};
use crate::engine::results::Results;
use crate::engine::shard::{Control, ShardTask, Turn};
use crate::engine::source_head::OFFSETS_TABLE;
use crate::engine::worker::drivers_alone;
use crate::error::{ErrorReport, Report, SqlState};
use crate::ids::{Epoch, Oid, OperatorId, SubtaskIndex};
use crate::state::key_group::{KeyGroupRange, KeyGroups};
use crate::state::table::{SnapshotContext, StateReader, TableWrite};
use crate::testing::memory_state::MemoryState;

/// Turns after which a job is taken to hang.
const TURNS_MAX: usize = 2_000_000;

/// Under which the result is kept: graphs are to be compiled for this pipeline.
pub(crate) const SIMULATED_PIPELINE: Oid = Oid(1);

/// What a simulation does to a job.
#[derive(Clone, Debug)]
pub(crate) struct Adversity {
    pub crashes: u32,
    /// Each run's is one of these.
    pub parallelism: RangeInclusive<u32>,
    /// One turn in so many begins with a barrier.
    pub turns_a_barrier: u32,
}

/// What came of a job.
pub(crate) struct Finished {
    /// As readers of the kept result get it.
    pub kept: Vec<RecordBatch>,
    /// Every change that reached the kept result, since the beginning of the run that ended and before it.
    pub changes: ChangeLog,
    pub checkpoints: Vec<Arc<SavedCheckpoint>>,
    /// Operators that dropped rows for being late, and how many.
    pub late_rows: Vec<(&'static str, u64)>,
    /// At which parallelism it ran, one after the other.
    pub runs: Vec<u32>,
}

/// What reached the kept result: by epoch, the chunks before its barrier.
#[derive(Clone, Debug, Default)]
pub(crate) struct ChangeLog {
    epochs: BTreeMap<u64, Vec<Chunk>>,
}

impl ChangeLog {
    /// Everything up to the barrier of `epoch`.
    pub fn upto(&self, epoch: u64) -> impl Iterator<Item = &Chunk> {
        self.epochs.range(..=epoch).flat_map(|(_, chunks)| chunks)
    }

    pub fn epochs(&self) -> impl Iterator<Item = u64> {
        self.epochs.keys().copied()
    }

    pub fn of(&self, epoch: u64) -> &[Chunk] {
        &self.epochs[&epoch]
    }
}

/// Hands on to the operator that keeps the result what it notes.
struct Tap {
    inner: Box<dyn Operator>,
    log: Arc<Mutex<ChangeLog>>,
    since_barrier: Vec<Chunk>,
}

impl Operator for Tap {
    fn name(&self) -> &'static str {
        self.inner.name()
    }
    fn process(&mut self, input: usize, chunk: Chunk, output: &mut Output) -> Result<(), Error> {
        self.since_barrier.push(chunk.clone());
        self.inner.process(input, chunk, output)
    }
    fn resume(&mut self, output: &mut Output) -> Result<bool, Error> {
        self.inner.resume(output)
    }
    fn on_watermark(&mut self, watermark: Watermark, output: &mut Output) -> Result<(), Error> {
        self.inner.on_watermark(watermark, output)
    }
    fn on_barrier(&mut self, barrier: Barrier, output: &mut Output) -> Result<(), Error> {
        let mut log = self.log.lock().unwrap();
        let chunks = std::mem::take(&mut self.since_barrier);
        log.epochs.entry(barrier.epoch.0).or_default().extend(chunks);
        self.inner.on_barrier(barrier, output)
    }
    fn snapshot(&mut self, context: &SnapshotContext) -> Result<Vec<TableWrite>, Error> {
        self.inner.snapshot(context)
    }
    fn restore(&mut self, state: &dyn StateReader) -> Result<(), Error> {
        self.inner.restore(state)
    }
    fn on_input_end(&mut self, input: usize, output: &mut Output) -> Result<(), Error> {
        self.inner.on_input_end(input, output)
    }
    fn on_end(&mut self, output: &mut Output) -> Result<(), Error> {
        self.inner.on_end(output)
    }
    fn state_size(&self) -> StateSize {
        self.inner.state_size()
    }
    fn late_rows(&self) -> u64 {
        self.inner.late_rows()
    }
}

/// What a run can start from.
#[derive(Debug, Default)]
pub(crate) struct SavedCheckpoint {
    pub epoch: u64,
    states: BTreeMap<OperatorId, Arc<MemoryState>>,
    watermarks: BTreeMap<OperatorId, Option<i64>>,
    /// By operator, the splits' names and offsets.
    pub offsets: BTreeMap<OperatorId, Vec<(String, String)>>,
    /// Those that put out what they hold once more.
    repeats: BTreeSet<OperatorId>,
}

impl SavedCheckpoint {
    /// What another query goes on with; by operator, whether it repeats what it holds.
    pub fn part(&self, used: &BTreeMap<OperatorId, bool>) -> SavedCheckpoint {
        let mut part = SavedCheckpoint {
            epoch: self.epoch,
            states: self.states.clone(),
            watermarks: self.watermarks.clone(),
            offsets: BTreeMap::new(),
            repeats: used
                .iter()
                .filter(|(_, again)| **again)
                .map(|(id, _)| id.clone())
                .collect(),
        };
        part.states.retain(|id, _| used.contains_key(id));
        part.watermarks.retain(|id, _| used.contains_key(id));
        part
    }

    fn of(epoch: u64, parent: &SavedCheckpoint, parts: Vec<OperatorPart>) -> SavedCheckpoint {
        let mut saved = SavedCheckpoint {
            epoch,
            states: parent.states.clone(),
            ..SavedCheckpoint::default()
        };
        let mut writes: BTreeMap<OperatorId, Vec<Vec<TableWrite>>> = BTreeMap::new();
        for part in parts {
            let of_operator = writes.entry(part.operator.clone()).or_default();
            of_operator.resize_with(part.parallelism as usize, Vec::new);
            of_operator[part.subtask.0 as usize] = match part.content {
                PartContent::State(tables) => tables,
                PartContent::Input(offsets) => {
                    let table = offsets.into_table();
                    let known = saved.offsets.entry(part.operator.clone()).or_default();
                    known.extend(splits_of(&table));
                    vec![table]
                }
                PartContent::Sink { .. } => Vec::new(),
            };
            let least = saved.watermarks.entry(part.operator).or_insert(Some(i64::MAX));
            *least = least.and_then(|least| part.watermark.map(|own| own.min(least)));
        }
        for (operator, writes) in writes {
            let mut state = saved
                .states
                .get(&operator)
                .map_or_else(MemoryState::default, |state| (**state).clone());
            state.commit(writes);
            saved.states.insert(operator, Arc::new(state));
        }
        saved
    }
}

fn splits_of(table: &TableWrite) -> Vec<(String, String)> {
    assert_eq!(table.table, OFFSETS_TABLE);
    let mut splits = Vec::new();
    for rows in &table.rows {
        let text = |name: &str| rows.column_by_name(name).expect("a column").as_string::<i32>().clone();
        let (names, offsets) = (text("split"), text("offset"));
        splits.extend((0..rows.num_rows()).map(|row| (names.value(row).to_owned(), offsets.value(row).to_owned())));
    }
    splits
}

struct Restored(Arc<SavedCheckpoint>);

impl RestorePoint for Restored {
    fn reader(&self, operator: &OperatorId, subtask: SubtaskIndex, parallelism: u32) -> Box<dyn StateReader> {
        let state = self.0.states.get(operator).map_or_else(Arc::default, Arc::clone);
        Box::new(OwnedReader {
            state,
            subtask: subtask.0,
            parallelism,
        })
    }
    fn sink_positions(&self, _operator: &OperatorId) -> Vec<String> {
        Vec::new()
    }
    fn watermark(&self, operator: &OperatorId) -> Option<i64> {
        self.0.watermarks.get(operator).copied().flatten()
    }
    fn repeats(&self, operator: &OperatorId) -> bool {
        self.0.repeats.contains(operator)
    }
}

struct OwnedReader {
    state: Arc<MemoryState>,
    subtask: u32,
    parallelism: u32,
}

impl StateReader for OwnedReader {
    fn read(
        &self,
        table: &str,
        visit: &mut dyn FnMut(RecordBatch) -> Result<(), Box<dyn std::error::Error + Send + Sync>>,
    ) -> Result<(), crate::state::error::Error> {
        self.state.reader(self.subtask, self.parallelism).read(table, visit)
    }
    fn key_groups(&self) -> KeyGroups {
        KeyGroups::default()
    }
    fn owned(&self) -> KeyGroupRange {
        self.key_groups().range_of(self.subtask, self.parallelism)
    }
}

#[derive(Default)]
struct Flag(AtomicBool);

impl Wake for Flag {
    fn wake(&self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// Simulates the job that `compile` gives for a parallelism. `Err`: it failed.
pub(crate) fn simulate(
    compile: &dyn Fn(u32) -> Result<JobGraph, ErrorReport>,
    adversity: Adversity,
    seed: u64,
    runtime: &tokio::runtime::Handle,
) -> Result<Finished, ErrorReport> {
    simulate_from(SavedCheckpoint::default(), compile, adversity, seed, runtime)
}

/// The same of a job that begins with a checkpoint.
pub(crate) fn simulate_from(
    first: SavedCheckpoint,
    compile: &dyn Fn(u32) -> Result<JobGraph, ErrorReport>,
    adversity: Adversity,
    seed: u64,
    runtime: &tokio::runtime::Handle,
) -> Result<Finished, ErrorReport> {
    let mut random = StdRng::seed_from_u64(seed);
    let results = Results::default();
    let log = Arc::new(Mutex::new(ChangeLog::default()));
    let mut checkpoints = vec![Arc::new(first)];
    let mut crashes_left = adversity.crashes;
    let mut runs = Vec::new();
    loop {
        let parallelism = random.random_range(adversity.parallelism.clone());
        runs.push(parallelism);
        let point = match random.random_range(0..3) {
            0 => random.random_range(0..checkpoints.len()),
            _ => checkpoints.len() - 1,
        };
        checkpoints.truncate(point + 1);
        let from = Arc::clone(&checkpoints[point]);
        log.lock().unwrap().epochs.retain(|epoch, _| *epoch <= from.epoch);
        let graph = compile(parallelism)?;
        let mut run = Run::start(graph, &from, &results, &log, runtime)?;
        let crash_at = (crashes_left > 0).then(|| random.random_range(1..40 + 40 * parallelism as usize));
        let crashed = run.go_on(&mut random, &mut checkpoints, adversity.turns_a_barrier, crash_at)?;
        if crashed {
            crashes_left -= 1;
            continue;
        }
        let late_rows = run.late_rows();
        let result = results.get(SIMULATED_PIPELINE).expect("a result is kept");
        let kept = result
            .snapshot()
            .batches()
            .collect::<Result<Vec<_>, _>>()
            .map_err(|error| error.report())?;
        drop(run);
        return Ok(Finished {
            kept,
            changes: std::mem::take(&mut log.lock().unwrap()),
            checkpoints,
            late_rows,
            runs,
        });
    }
}

struct Run {
    context: Arc<JobContext>,
    events: mpsc::UnboundedReceiver<JobEvent>,
    drivers: Vec<Driver>,
    wakers: Vec<Arc<Flag>>,
    inputs: Vec<usize>,
    ended: usize,
    /// A barrier on its way, and what was said of it.
    barrier: Option<(Barrier, usize, Vec<OperatorPart>)>,
    last_epoch: u64,
}

impl Run {
    fn start(
        graph: JobGraph,
        from: &Arc<SavedCheckpoint>,
        results: &Results,
        log: &Arc<Mutex<ChangeLog>>,
        runtime: &tokio::runtime::Handle,
    ) -> Result<Run, ErrorReport> {
        let (sender, events) = mpsc::unbounded_channel();
        let plan = FragmentPlan::of(&graph).map_err(|error| error.report())?;
        let context = Arc::new(JobContext {
            run: RunName::default(),
            results: Arc::new(crate::engine::results::history::NoHistory),
            metrics: Arc::new(JobMetrics::of(&graph)),
            plan,
            graph,
            key_groups: KeyGroups::default(),
            clock: Arc::new(SystemClock),
            runtime: runtime.clone(),
            events: sender,
            restored: RestoreSlot::new(Arc::new(Restored(Arc::clone(from)))),
            rebase: RebasePolicy::default(),
            operators: operators(results, log),
            dead_letters: DeadLetters::default(),
            client: None,
            memory: MemoryBudget::new(None).job(None, Box::new(drop)),
        });
        let flags = |parallelism: u32| (0..parallelism).map(|_| Arc::new(Flag::default())).collect();
        let wakers: Vec<Vec<Arc<Flag>>> = context
            .plan
            .fragments
            .iter()
            .map(|one| flags(one.parallelism))
            .collect();
        let built = drivers_alone(&context, &wakers).map_err(|error| error.report())?;
        let mut run = Run {
            events,
            drivers: Vec::new(),
            wakers: Vec::new(),
            inputs: Vec::new(),
            ended: 0,
            barrier: None,
            last_epoch: from.epoch,
            context,
        };
        for (id, mut driver) in built {
            driver.take_one_chunk_a_turn();
            if run.context.plan.fragments[id.fragment].is_input() {
                run.inputs.push(run.drivers.len());
            }
            let waker = Arc::clone(&wakers[id.fragment][id.subtask as usize]);
            waker.wake();
            run.drivers.push(driver);
            run.wakers.push(waker);
        }
        run.tell_inputs(Control::Activate);
        Ok(run)
    }

    fn tell_inputs(&mut self, control: Control) {
        for &input in &self.inputs {
            self.drivers[input].control(control);
            self.wakers[input].wake();
        }
    }

    /// True when it crashed, false when it has ended.
    fn go_on(
        &mut self,
        random: &mut StdRng,
        checkpoints: &mut Vec<Arc<SavedCheckpoint>>,
        turns_a_barrier: u32,
        crash_at: Option<usize>,
    ) -> Result<bool, ErrorReport> {
        for turn in 0..TURNS_MAX {
            if crash_at.is_some_and(|at| turn >= at) {
                return Ok(true);
            }
            let all_ended = self.ended == self.drivers.len();
            if self.barrier.is_none() && (all_ended || random.random_range(0..turns_a_barrier) == 0) {
                self.inject(random, all_ended);
            }
            self.turn(random);
            if let Some(last) = self.take_events(checkpoints)?
                && all_ended
                && last.kind == BarrierKind::Savepoint
            {
                return Ok(false);
            }
        }
        Err(ErrorReport::new(SqlState::INTERNAL_ERROR, "the job hangs"))
    }

    fn inject(&mut self, random: &mut StdRng, last: bool) {
        self.last_epoch += 1;
        let kind = match random.random_range(0..10) {
            _ if last => BarrierKind::Savepoint,
            0..5 => BarrierKind::Tick,
            _ => BarrierKind::Checkpoint,
        };
        let (part, parts) = (random.random_range(0..4), random.random_range(1..=4u32));
        self.context.rebase.set(RebaseRule::Rolling(Arc::new(move |_, owned| {
            let width = u32::from(owned.end - owned.start);
            let at = |n: u32| owned.start + (width * n / parts) as u16;
            let part = part.min(parts - 1);
            KeyGroupRange {
                start: at(part),
                end: at(part + 1),
            }
        })));
        let barrier = Barrier {
            epoch: Epoch(self.last_epoch),
            kind,
        };
        self.barrier = Some((barrier, 0, Vec::new()));
        self.tell_inputs(Control::Barrier(barrier));
    }

    /// One of those that have something to do gets a turn.
    fn turn(&mut self, random: &mut StdRng) {
        let awake: Vec<usize> = (0..self.drivers.len())
            .filter(|at| self.wakers[*at].0.load(Ordering::SeqCst))
            .collect();
        if awake.is_empty() {
            if self.asks_outside() {
                // An answer is under way, on another thread.
                std::thread::sleep(Duration::from_micros(20));
            }
            return;
        }
        let chosen = awake[random.random_range(0..awake.len())];
        self.wakers[chosen].0.store(false, Ordering::SeqCst);
        match self.drivers[chosen].run() {
            Turn::Again | Turn::Wait(Some(_)) => self.wakers[chosen].wake(),
            Turn::Wait(None) | Turn::Done => {}
        }
    }

    fn asks_outside(&self) -> bool {
        let asks = |node: &GraphNode| matches!(node.operator, OperatorSpec::LookupJoin(_));
        self.context.graph.nodes.iter().any(asks)
    }

    /// The barrier that has passed everything, if one just did.
    fn take_events(&mut self, checkpoints: &mut Vec<Arc<SavedCheckpoint>>) -> Result<Option<Barrier>, ErrorReport> {
        let mut passed = None;
        while let Ok(event) = self.events.try_recv() {
            match event {
                JobEvent::Failed(report) => return Err(report),
                JobEvent::Ended(_) => self.ended += 1,
                JobEvent::Ready(_) | JobEvent::ClientServed => {}
                JobEvent::Ack(ack) => {
                    let (barrier, count, parts) = self.barrier.as_mut().expect("a barrier is on its way");
                    *count += 1;
                    parts.extend(ack.parts);
                    if *count == self.drivers.len() {
                        passed = Some(*barrier);
                    }
                }
            }
        }
        if passed.is_some()
            && let Some((barrier, _, parts)) = self.barrier.take()
            && barrier.kind.persists()
        {
            let parent = checkpoints.last().expect("the empty one is always there");
            let saved = SavedCheckpoint::of(barrier.epoch.0, parent, parts);
            checkpoints.push(Arc::new(saved));
        }
        Ok(passed)
    }

    fn late_rows(&self) -> Vec<(&'static str, u64)> {
        let all = self
            .context
            .metrics
            .read()
            .into_iter()
            .map(|operator| (operator.name, operator.total().late_rows));
        all.filter(|(_, rows)| *rows > 0).collect()
    }
}

fn operators(results: &Results, log: &Arc<Mutex<ChangeLog>>) -> crate::engine::job_context::OperatorFactory {
    let (results, log) = (results.clone(), Arc::clone(log));
    Arc::new(move |node, place| {
        let context = BuildContext {
            subtask: place.subtask,
            parallelism: place.parallelism,
            key_groups: place.key_groups,
            clock: place.clock,
            outside: Some(place.outside),
            results: results.clone(),
            dead_letters: DeadLetters::default(),
        };
        let operator = build(&node.operator, place.input, &node.output, &context)?;
        Ok(match node.operator {
            OperatorSpec::Materialize(_) => Box::new(Tap {
                inner: operator,
                log: Arc::clone(&log),
                since_barrier: Vec::new(),
            }),
            _ => operator,
        })
    })
}
