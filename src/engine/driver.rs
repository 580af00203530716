//! Runs one subtask of one fragment: takes messages from its head, calls the operators, hands results on, owns every wait.
//!
//! One rule keeps memory bounded and order right: new input is taken only when everything that followed from the last
//! message has been handed on. While an exchange, a sink or a client does not take more, the driver waits for its wake-up.
//! So it does while the operator behind the channels waits for answers from outside: rows and watermarks may follow meanwhile,
//! as many as the operator takes, but a barrier or the end of input is held back until nothing waits any more, so that no
//! checkpoint has to know of questions under way.
//!
//! Guarantees: operators see the calls in the order that `operator.rs` promises; a barrier is acknowledged only after all
//! sinks of the fragment have prepared and their blocking work has succeeded; an error or a panic ends this job and
//! nothing else.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::engine::client_tail::ClientTail;
use crate::engine::connectors::Prepared;
use crate::engine::error::Error;
use crate::engine::exchange::input::{InputItem, InputMerge};
use crate::engine::exchange::output::ExchangeOutput;
use crate::engine::job_context::{BarrierAck, DriverId, JobContext, JobEvent, OperatorPart, PartContent};
use crate::engine::job_metrics::OperatorMetrics;
use crate::engine::memory_budget::{LOOK_AT_STATE, MemoryShare};
use crate::engine::message::{Barrier, BarrierKind, Message, Watermark};
use crate::engine::operator::{Operator, Output, OutputItem, Waits};
use crate::engine::shard::{Control, ShardTask, Turn};
use crate::engine::sink_tail::{SinkProgress, SinkTail};
use crate::engine::source_head::{HeadItem, SourceHead};
use crate::error::Report;
use crate::ids::{Epoch, OperatorId, SubtaskIndex};
use crate::state::table::SnapshotContext;

/// A driver gives way to others after this long or this many rows.
#[derive(Clone, Copy, Debug)]
struct TurnBudget {
    time: Duration,
    rows: usize,
}

const TURN: TurnBudget = TurnBudget {
    time: Duration::from_millis(1),
    rows: 64 * 1024,
};

/// How often the splits of a source are looked at between barriers.
const LOOK_AT_SPLITS: Duration = Duration::from_secs(1);

pub struct Driver {
    id: DriverId,
    parallelism: u32,
    turn: TurnBudget,
    head: Head,
    /// Parents before children; the first is the head's.
    stages: Vec<Stage>,
    context: Arc<JobContext>,
    /// A barrier that has passed the operators but not yet all sinks.
    barrier: Option<PassingBarrier>,
    /// Which input of the first operator the last chunk came by.
    input: usize,
    /// The first operator has more to put out for that chunk, or an answer may have come for it.
    unfinished: bool,
    /// A barrier or the end, which waits until the first operator waits for nothing.
    held: Option<HeadItem>,
    ended: bool,
    end_told: bool,
    served_told: bool,
    blocked_since: Option<Instant>,
    /// For errors: the stage at work.
    current: usize,
    /// When the splits of the source were last looked at.
    looked_at: Option<Instant>,
    /// When the state was last looked at.
    state_looked_at: Instant,
    memory: MemoryShare,
}

pub enum Head {
    Source(Box<SourceHead>),
    Channels(InputMerge),
}

pub struct Stage {
    /// For errors and metrics: `window_aggregate`.
    pub name: &'static str,
    pub body: Body,
    pub children: Vec<usize>,
    pub outputs: Vec<ExchangeOutput>,
    pub metrics: Arc<OperatorMetrics>,
    /// Under which its state is saved; `None` for a head that only merges channels.
    pub id: Option<OperatorId>,
    pub watermark: Option<i64>,
}

pub enum Body {
    /// Hands on what it gets: heads.
    Pass,
    Operator(Box<dyn Operator>),
    Sink(SinkTail),
    Client(ClientTail),
}

struct PassingBarrier {
    barrier: Barrier,
    caught_up: bool,
    parts: Vec<OperatorPart>,
    work: Vec<SinkWork>,
}

type SinkWork = Box<dyn FnOnce() -> Result<(), Error> + Send>;

impl Driver {
    pub fn new(id: DriverId, parallelism: u32, head: Head, stages: Vec<Stage>, context: Arc<JobContext>) -> Driver {
        Driver {
            state_looked_at: Instant::now(),
            memory: MemoryShare::new(&context.memory),
            id,
            parallelism,
            turn: TURN,
            head,
            stages,
            context,
            barrier: None,
            input: 0,
            unfinished: false,
            held: None,
            ended: false,
            end_told: false,
            served_told: false,
            blocked_since: None,
            current: 0,
            looked_at: None,
        }
    }

    /// Turns no longer depend on the machine's speed: each takes one chunk.
    #[cfg(test)]
    pub(crate) fn take_one_chunk_a_turn(&mut self) {
        self.turn = TurnBudget {
            time: Duration::MAX,
            rows: 1,
        };
    }

    /// Tells operators, and all that comes after them, the watermark that was known before the restart; rows older than
    /// it were late then and must be late now.
    pub fn say_restored_watermark(&mut self) -> Result<(), Error> {
        match &self.head {
            Head::Channels(input) => match input.watermark() {
                Some(at) => self.emit(0, OutputItem::Watermark(Watermark::At(at))),
                None => Ok(()),
            },
            // A source says its own, see `SourceHead`.
            Head::Source(_) => Ok(()),
        }
    }

    fn work(&mut self) -> Result<Turn, Error> {
        let started = Instant::now();
        if started.duration_since(self.state_looked_at) >= LOOK_AT_STATE {
            self.state_looked_at = started;
            self.look_at_state();
        }
        let mut rows = 0;
        // It may be an answer that has woken the driver.
        self.unfinished |= self.waits() != Waits::Nothing;
        loop {
            if !self.drain()? {
                self.blocked_since.get_or_insert_with(Instant::now);
                return Ok(Turn::Wait(None));
            }
            if let Some(since) = self.blocked_since.take() {
                self.stages[0].metrics.add_blocked(since.elapsed());
            }
            if let Some(passed) = self.barrier.take()
                && self.acknowledge(passed)? == Turn::Done
            {
                return Ok(Turn::Done);
            }
            self.tell_end();
            if rows >= self.turn.rows || started.elapsed() >= self.turn.time {
                return Ok(Turn::Again);
            }
            if self.unfinished {
                self.resume()?;
                continue;
            }
            self.current = 0;
            match self.next_in_order()? {
                HeadItem::Data(chunk) => {
                    rows += chunk.len();
                    self.stages[0].metrics.add_rows_in(chunk.len());
                    self.emit(0, OutputItem::Data(chunk))?;
                    self.unfinished = self.input_is_merged();
                }
                HeadItem::Watermark(watermark) => self.emit(0, OutputItem::Watermark(watermark))?,
                HeadItem::Barrier(barrier) => self.pass_barrier(barrier)?,
                HeadItem::InputEnd(input) => {
                    if self.input_is_merged() {
                        self.call(1, |operator, output| operator.on_input_end(input, output))?;
                    }
                }
                HeadItem::End => self.end()?,
                HeadItem::Nothing(until) => {
                    for stage in &mut self.stages {
                        for output in &mut stage.outputs {
                            output.flush_collected()?;
                        }
                    }
                    if self.drain()? {
                        return Ok(Turn::Wait(until));
                    }
                }
            }
        }
    }

    /// The next item that may come before what the first operator waits for.
    fn next_in_order(&mut self) -> Result<HeadItem, Error> {
        let waits = self.waits();
        if waits == Waits::Full {
            return Ok(HeadItem::Nothing(None));
        }
        let item = match self.held.take() {
            Some(held) => held,
            None => self.next()?,
        };
        match item {
            HeadItem::Barrier(_) | HeadItem::End if waits != Waits::Nothing => {
                self.held = Some(item);
                Ok(HeadItem::Nothing(None))
            }
            item => Ok(item),
        }
    }

    fn waits(&self) -> Waits {
        match self.stages.get(1).map(|stage| &stage.body) {
            Some(Body::Operator(operator)) if matches!(self.head, Head::Channels(_)) => operator.waits(),
            _ => Waits::Nothing,
        }
    }

    fn next(&mut self) -> Result<HeadItem, Error> {
        match &mut self.head {
            Head::Source(source) => {
                let started = Instant::now();
                let item = source.next_item();
                self.stages[0].metrics.add_busy(started.elapsed());
                self.stages[0].metrics.set_bytes_in(source.bytes_read());
                if self
                    .looked_at
                    .is_none_or(|at| started.duration_since(at) >= LOOK_AT_SPLITS)
                {
                    self.looked_at = Some(started);
                    self.look_at_splits();
                }
                item
            }
            Head::Channels(input) => Ok(match input.next_item()? {
                InputItem::Data(from, chunk) => {
                    self.input = from;
                    HeadItem::Data(chunk)
                }
                InputItem::Watermark(watermark) => HeadItem::Watermark(watermark),
                InputItem::Barrier(barrier) => HeadItem::Barrier(barrier),
                InputItem::InputEnd(input) => HeadItem::InputEnd(input),
                InputItem::End => HeadItem::End,
                InputItem::Nothing => HeadItem::Nothing(None),
            }),
        }
    }

    /// For those who watch, and for the limits of memory.
    pub fn look_at_state(&mut self) {
        let mut bytes = 0;
        for stage in &self.stages {
            if let Body::Operator(operator) = &stage.body {
                let size = operator.state_size();
                bytes += size.bytes;
                stage.metrics.set_state(size, operator.late_rows());
            }
        }
        self.memory.set(bytes);
    }

    /// For those who watch.
    fn look_at_splits(&self) {
        if let Head::Source(source) = &self.head {
            let (splits, waits_for) = source.status();
            let metrics = &self.stages[0].metrics;
            metrics.set_splits(splits);
            metrics.set_waits_for(waits_for, self.context.clock.now_micros());
        }
    }

    /// Hands `item`, which stage `from` has produced, to all that take it.
    fn emit(&mut self, from: usize, item: OutputItem) -> Result<(), Error> {
        let stage = &mut self.stages[from];
        match &item {
            OutputItem::Data(chunk) => stage.metrics.add_rows_out(chunk.len()),
            OutputItem::Watermark(watermark) => {
                stage.metrics.set_watermark(*watermark);
                if let Watermark::At(at) = watermark {
                    stage.watermark = Some(*at);
                }
            }
        }
        for output in &mut stage.outputs {
            output.item(&item)?;
        }
        let Some((last, others)) = stage.children.split_last() else {
            return Ok(());
        };
        let (last, others) = (*last, others.to_vec());
        for child in others {
            let copy = match &item {
                OutputItem::Data(chunk) => OutputItem::Data(chunk.clone()),
                OutputItem::Watermark(watermark) => OutputItem::Watermark(*watermark),
            };
            self.consume(child, copy)?;
        }
        self.consume(last, item)
    }

    fn consume(&mut self, index: usize, item: OutputItem) -> Result<(), Error> {
        self.current = index;
        let stage = &mut self.stages[index];
        if let OutputItem::Data(chunk) = &item {
            stage.metrics.add_rows_in(chunk.len());
        }
        let started = Instant::now();
        // The operator behind the channels, which alone may have several inputs, is stage 1.
        let input = if index == 1 { self.input } else { 0 };
        match (&mut stage.body, item) {
            (Body::Pass, item) => return self.emit(index, item),
            (Body::Operator(_), item) => {
                return self.call(index, |operator, output| match item {
                    OutputItem::Data(chunk) => operator.process(input, chunk, output),
                    OutputItem::Watermark(watermark) => operator.on_watermark(watermark, output),
                });
            }
            (Body::Sink(sink), OutputItem::Data(chunk)) => {
                sink.write(chunk)?;
                stage.metrics.set_bytes_out(sink.bytes_written());
            }
            (Body::Client(client), OutputItem::Data(chunk)) => client.write(chunk),
            (Body::Sink(_) | Body::Client(_), OutputItem::Watermark(watermark)) => {
                stage.metrics.set_watermark(watermark);
                if let Watermark::At(at) = watermark {
                    stage.watermark = Some(at);
                }
            }
        }
        stage.metrics.add_busy(started.elapsed());
        Ok(())
    }

    /// Calls the operator of stage `index`, then hands on what it emitted.
    fn call(
        &mut self,
        index: usize,
        method: impl FnOnce(&mut dyn Operator, &mut Output) -> Result<(), Error>,
    ) -> Result<(), Error> {
        self.current = index;
        let stage = &mut self.stages[index];
        let Body::Operator(operator) = &mut stage.body else {
            return Ok(());
        };
        let mut output = Output::default();
        let started = Instant::now();
        method(operator.as_mut(), &mut output)?;
        stage.metrics.add_busy(started.elapsed());
        for item in output.take() {
            self.emit(index, item)?;
        }
        Ok(())
    }

    /// Whether stage 1 is an operator that reads channels: the only place where one may leave work for later.
    fn input_is_merged(&self) -> bool {
        matches!(self.head, Head::Channels(_))
            && matches!(self.stages.get(1).map(|stage| &stage.body), Some(Body::Operator(_)))
    }

    fn resume(&mut self) -> Result<(), Error> {
        let mut more = false;
        self.call(1, |operator, output| {
            more = operator.resume(output)?;
            Ok(())
        })?;
        self.unfinished = more;
        Ok(())
    }

    fn pass_barrier(&mut self, barrier: Barrier) -> Result<(), Error> {
        let mut passing = PassingBarrier {
            barrier,
            caught_up: match &self.head {
                Head::Source(source) => source.is_caught_up(),
                Head::Channels(_) => true,
            },
            parts: Vec::new(),
            work: Vec::new(),
        };
        for index in 0..self.stages.len() {
            self.call(index, |operator, output| operator.on_barrier(barrier, output))?;
            self.current = index;
            if let Some(content) = self.save(index, barrier)? {
                passing.parts.extend(self.part(index, content));
            }
            let stage = &mut self.stages[index];
            match &mut stage.body {
                Body::Sink(sink) => sink.barrier(barrier),
                Body::Pass | Body::Client(_) | Body::Operator(_) => {}
            }
            for output in &mut stage.outputs {
                output.control(&Message::Barrier(barrier))?;
            }
        }
        self.barrier = Some(passing);
        self.look_at_state();
        self.look_at_splits();
        Ok(())
    }

    /// What stage `index` saves at `barrier`; sinks give theirs when they have prepared.
    fn save(&mut self, index: usize, barrier: Barrier) -> Result<Option<PartContent>, Error> {
        if !barrier.kind.persists() {
            return Ok(None);
        }
        if index == 0
            && let Head::Source(source) = &self.head
        {
            return Ok(Some(PartContent::Input(source.snapshot()?)));
        }
        let Body::Operator(operator) = &mut self.stages[index].body else {
            return Ok(None);
        };
        let owned = self.context.key_groups.range_of(self.id.subtask, self.parallelism);
        let full = matches!(barrier.kind, BarrierKind::Savepoint);
        let rebase = if full {
            owned
        } else {
            self.context.rebase.range(barrier.epoch, owned)
        };
        let tables = operator.snapshot(&SnapshotContext {
            epoch: barrier.epoch,
            key_groups: self.context.key_groups,
            owned,
            rebase,
        })?;
        Ok(Some(PartContent::State(tables)))
    }

    fn part(&self, index: usize, content: PartContent) -> Option<OperatorPart> {
        let stage = &self.stages[index];
        Some(OperatorPart {
            operator: stage.id.clone()?,
            subtask: SubtaskIndex(self.id.subtask),
            parallelism: self.parallelism,
            watermark: stage.watermark,
            ended: self.ended,
            content,
        })
    }

    fn end(&mut self) -> Result<(), Error> {
        self.ended = true;
        for index in 0..self.stages.len() {
            self.call(index, |operator, output| operator.on_end(output))?;
            for output in &mut self.stages[index].outputs {
                output.control(&Message::End)?;
            }
        }
        Ok(())
    }

    /// Once the input has ended and all of it is handed on.
    fn tell_end(&mut self) {
        if self.ended && !self.end_told {
            self.end_told = true;
            self.tell(JobEvent::Ended(self.id));
        }
    }

    /// Hands on what exchanges, sinks and clients did not take before; true when nothing is left.
    fn drain(&mut self) -> Result<bool, Error> {
        let mut drained = true;
        let mut prepared = Vec::new();
        let mut served = false;
        for (index, stage) in self.stages.iter_mut().enumerate() {
            for output in &mut stage.outputs {
                drained &= output.drain();
            }
            self.current = index;
            match &mut stage.body {
                Body::Sink(sink) => {
                    match sink.drain()? {
                        SinkProgress::Drained => {}
                        SinkProgress::Blocked => drained = false,
                        SinkProgress::Prepared(parts) => prepared.push((index, parts)),
                    }
                    stage.metrics.set_bytes_out(sink.bytes_written());
                }
                Body::Client(client) => {
                    drained &= client.drain();
                    served |= client.is_done();
                }
                Body::Pass | Body::Operator(_) => {}
            }
        }
        for (index, prepared) in prepared {
            self.sink_prepared(index, prepared);
        }
        if served && !std::mem::replace(&mut self.served_told, true) {
            self.tell(JobEvent::ClientServed);
        }
        Ok(drained)
    }

    fn sink_prepared(&mut self, index: usize, prepared: Prepared) {
        let part = self.part(
            index,
            PartContent::Sink {
                committable: prepared.committable,
                position: prepared.position,
            },
        );
        if let Some(passing) = &mut self.barrier {
            passing.parts.extend(part);
            passing.work.extend(prepared.work);
        }
    }

    /// The barrier has passed everything; tells so, after the sinks' blocking work is done on the I/O side.
    fn acknowledge(&mut self, passed: PassingBarrier) -> Result<Turn, Error> {
        let stop = passed.barrier.kind == BarrierKind::Stop;
        let ack = JobEvent::Ack(Box::new(BarrierAck {
            driver: self.id,
            barrier: passed.barrier,
            caught_up: passed.caught_up,
            parts: passed.parts,
        }));
        if passed.work.is_empty() {
            self.tell(ack);
        } else {
            let events = self.context.events.clone();
            let subtask = self.id.subtask;
            let runtime = self.context.runtime.clone();
            let preparing = Preparing::begin(self, passed.barrier.epoch);
            let _entered = runtime.enter();
            crate::spawn::named("sink prepare", async move {
                let finished = finish_sink_work(passed.work).await;
                drop(preparing);
                let event = match finished {
                    Ok(()) => ack,
                    Err(error) => JobEvent::Failed(in_operator("sink", subtask, error).report()),
                };
                // Nobody listens any more once the job is torn down.
                let _ = events.send(event);
            });
        }
        Ok(if stop { Turn::Done } else { Turn::Again })
    }

    fn tell(&self, event: JobEvent) {
        // Nobody listens any more once the job is torn down.
        let _ = self.context.events.send(event);
    }

    fn fail(&mut self, error: Error) -> Turn {
        let name = self.stages.get(self.current).map_or("driver", |stage| stage.name);
        self.tell(JobEvent::Failed(in_operator(name, self.id.subtask, error).report()));
        Turn::Done
    }
}

impl ShardTask for Driver {
    fn run(&mut self) -> Turn {
        match catch_unwind(AssertUnwindSafe(|| self.work())) {
            Ok(Ok(turn)) => turn,
            Ok(Err(error)) => self.fail(error),
            Err(panic) => {
                let operator = self
                    .stages
                    .get(self.current)
                    .map_or("driver", |stage| stage.name)
                    .to_owned();
                self.fail(Error::Panicked {
                    operator,
                    message: panic_message(&*panic),
                })
            }
        }
    }

    fn control(&mut self, control: Control) {
        if let Head::Source(source) = &mut self.head {
            match control {
                Control::Activate => source.activate(),
                Control::Barrier(barrier) => source.inject(barrier),
                Control::Decided(epoch) => source.epoch_decided(epoch),
            }
        }
    }
}

/// The sinks of a driver prepare on the I/O side; says so as long as they do.
struct Preparing {
    sinks: Vec<Arc<OperatorMetrics>>,
}

impl Preparing {
    fn begin(driver: &Driver, epoch: Epoch) -> Preparing {
        let sinks = driver.stages.iter().filter(|stage| matches!(stage.body, Body::Sink(_)));
        let sinks: Vec<_> = sinks.map(|stage| Arc::clone(&stage.metrics)).collect();
        for sink in &sinks {
            let what = format!("what belongs to epoch {epoch} to be prepared");
            sink.set_waits_for(Some(what), driver.context.clock.now_micros());
        }
        Preparing { sinks }
    }
}

impl Drop for Preparing {
    fn drop(&mut self) {
        for sink in &self.sinks {
            sink.set_waits_for(None, 0);
        }
    }
}

async fn finish_sink_work(work: Vec<SinkWork>) -> Result<(), Error> {
    for piece in work {
        match tokio::task::spawn_blocking(piece).await {
            Ok(result) => result?,
            Err(join) => {
                return Err(Error::Panicked {
                    operator: "sink".into(),
                    message: join.to_string(),
                });
            }
        }
    }
    Ok(())
}

/// `error`, with where it happened.
pub fn in_operator(operator: &str, subtask: u32, error: Error) -> Error {
    Error::InOperator {
        operator: operator.to_owned(),
        subtask,
        source: Box::new(error),
    }
}

/// The text of a panic.
pub fn panic_message(panic: &(dyn std::any::Any + Send)) -> String {
    match (panic.downcast_ref::<&str>(), panic.downcast_ref::<String>()) {
        (Some(text), _) => (*text).to_owned(),
        (_, Some(text)) => text.clone(),
        _ => "unknown reason".to_owned(),
    }
}
