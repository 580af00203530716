//! Puts jobs on the shards of this process: makes the channels, builds one driver a fragment and subtask, restores it.
//!
//! Subtask i of every fragment of a job lives on one shard, so that edges between equal subtasks stay on their thread.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use crate::engine::client_tail::ClientTail;
use crate::engine::connectors::{Sink, SinkContext, Source, SourceContext, Wake};
use crate::engine::driver::{Body, Driver, Head, Stage, in_operator, panic_message};
use crate::engine::error::Error;
use crate::engine::exchange::channel::{Receiver, Sender, channel};
use crate::engine::exchange::input::InputMerge;
use crate::engine::exchange::output::ExchangeOutput;
use crate::engine::exchange::partition::Partitioner;
use crate::engine::fragment::{Fragment, FragmentHead};
use crate::engine::graph::{Exchange, GraphNode, OperatorSpec, SinkSpec, SourceSpec};
use crate::engine::job_context::{DriverId, JobContext, JobEvent, OperatorPlace, Outside, RestorePoint};
use crate::engine::job_metrics::OperatorMetrics;
use crate::engine::message::Barrier;
use crate::engine::shard::{Control, JobKey, ShardPool, ShardTask, TaskWaker};
use crate::engine::sink_tail::SinkTail;
use crate::engine::source_head::{SavedSplits, SourceHead};
use crate::engine::values_source::ValuesSource;
use crate::error::Report;
use crate::ids::{Epoch, SubtaskIndex};

/// The shards of this process.
pub struct Worker {
    pool: Arc<ShardPool>,
    next_job: AtomicU64,
    /// Where subtask 0 of the next job goes.
    next_shard: AtomicUsize,
}

/// A job on the shards. Dropping it leaves the drivers running: call [`Deployment::cancel`].
pub struct Deployment {
    pool: Arc<ShardPool>,
    job: JobKey,
    context: Arc<JobContext>,
    /// By fragment, then subtask.
    drivers: Vec<Vec<Arc<TaskWaker>>>,
}

/// What one driver is built from, on its own thread.
struct DriverParts {
    id: DriverId,
    waker: Arc<dyn Wake>,
    /// With the number of the head's input that each belongs to.
    inputs: Vec<(usize, Receiver)>,
    /// By stage.
    outputs: Vec<Vec<ExchangeOutput>>,
    context: Arc<JobContext>,
}

impl Worker {
    /// Starts `shards` threads.
    pub fn start(shards: usize, pin: bool) -> std::io::Result<Worker> {
        Ok(Worker {
            pool: Arc::new(ShardPool::start(shards, pin)?),
            next_job: AtomicU64::new(0),
            next_shard: AtomicUsize::new(0),
        })
    }

    pub fn shards(&self) -> usize {
        self.pool.count()
    }

    /// Ends all threads; jobs should have been cancelled before.
    pub fn shutdown(&self) {
        self.pool.shutdown();
    }

    /// Builds and restores every driver. Each tells `Ready`; inputs wait for [`Deployment::activate`].
    pub fn deploy(&self, context: Arc<JobContext>) -> Deployment {
        let job = JobKey(self.next_job.fetch_add(1, Ordering::Relaxed));
        let widest = context.plan.fragments.iter().map(|fragment| fragment.parallelism).max();
        let base = self
            .next_shard
            .fetch_add(widest.unwrap_or(1) as usize, Ordering::Relaxed);
        let place = |fragment: &Fragment| {
            let subtasks = 0..fragment.parallelism as usize;
            subtasks
                .map(|subtask| self.pool.place(base + subtask, job))
                .collect::<Vec<_>>()
        };
        let drivers: Vec<Vec<Arc<TaskWaker>>> = context.plan.fragments.iter().map(place).collect();
        for parts in connect(&context, &drivers) {
            let waker = Arc::clone(&drivers[parts.id.fragment][parts.id.subtask as usize]);
            waker.start(Box::new(move || start_driver(parts)));
        }
        Deployment {
            pool: Arc::clone(&self.pool),
            job,
            context,
            drivers,
        }
    }
}

impl Deployment {
    /// Lets the inputs start.
    pub fn activate(&self) {
        self.to_inputs(Control::Activate);
    }

    /// Puts a barrier into every input.
    pub fn inject(&self, barrier: Barrier) {
        self.to_inputs(Control::Barrier(barrier));
    }

    /// Tells the inputs that a restart will not go back behind the checkpoint.
    pub fn tell_decided(&self, epoch: Epoch) {
        self.to_inputs(Control::Decided(epoch));
    }

    fn to_inputs(&self, control: Control) {
        for (fragment, drivers) in self.context.plan.fragments.iter().zip(&self.drivers) {
            if fragment.is_input() {
                drivers.iter().for_each(|driver| driver.control(control));
            }
        }
    }

    /// Every driver.
    pub fn driver_ids(&self) -> Vec<DriverId> {
        let fragments = self.context.plan.fragments.iter().enumerate();
        fragments
            .flat_map(|(index, fragment)| {
                (0..fragment.parallelism).map(move |subtask| DriverId {
                    fragment: index,
                    subtask,
                })
            })
            .collect()
    }

    pub fn context(&self) -> &Arc<JobContext> {
        &self.context
    }

    /// Drops every driver; nothing of the job runs after this.
    pub async fn cancel(&self) {
        self.pool.cancel(self.job).await;
    }
}

/// Makes all channels of the job and deals out their ends. `drivers`: what wakes each, by fragment, then subtask.
fn connect<W: Wake + 'static>(context: &Arc<JobContext>, drivers: &[Vec<Arc<W>>]) -> Vec<DriverParts> {
    let plan = &context.plan;
    let mut receivers: Vec<Vec<Vec<(usize, Receiver)>>> = drivers
        .iter()
        .map(|subtasks| subtasks.iter().map(|_| Vec::new()).collect())
        .collect();
    // By edge, then producer subtask.
    let mut outputs: Vec<Vec<Option<ExchangeOutput>>> = Vec::new();
    for (index, edge) in plan.edges.iter().enumerate() {
        let input = plan.fragments[edge.to_fragment].head.input_of(index);
        let consumers = &drivers[edge.to_fragment];
        let mut of_edge = Vec::new();
        for (subtask, producer) in drivers[edge.from_fragment].iter().enumerate() {
            let mut open = |consumer: usize| -> Sender {
                let (sender, receiver) = channel(
                    Arc::clone(producer) as Arc<dyn Wake>,
                    Arc::clone(&consumers[consumer]) as Arc<dyn Wake>,
                );
                receivers[edge.to_fragment][consumer].push((input, receiver));
                sender
            };
            of_edge.push(Some(match &edge.exchange {
                Exchange::Forward => ExchangeOutput::direct(open(subtask)),
                Exchange::Single => ExchangeOutput::direct(open(0)),
                Exchange::Hash { columns } => {
                    let senders = (0..consumers.len()).map(&mut open).collect();
                    let partitioner = Partitioner::new(columns.clone(), context.key_groups, consumers.len() as u32);
                    ExchangeOutput::hash(partitioner, senders)
                }
            }));
        }
        outputs.push(of_edge);
    }
    let mut all = Vec::new();
    for (fragment, (plan, inputs)) in plan.fragments.iter().zip(receivers).enumerate() {
        for (subtask, inputs) in inputs.into_iter().enumerate() {
            let mut of_stage = Vec::with_capacity(plan.stages.len());
            for stage in &plan.stages {
                let edges = stage.outputs.iter();
                of_stage.push(edges.filter_map(|edge| outputs[*edge][subtask].take()).collect());
            }
            all.push(DriverParts {
                id: DriverId {
                    fragment,
                    subtask: subtask as u32,
                },
                waker: Arc::clone(&drivers[fragment][subtask]) as Arc<dyn Wake>,
                inputs,
                outputs: of_stage,
                context: Arc::clone(context),
            });
        }
    }
    all
}

/// All drivers of a job, restored and in the hands of the caller instead of on shards: tests run them as they like.
#[cfg(test)]
pub(crate) fn drivers_alone<W: Wake + 'static>(
    context: &Arc<JobContext>,
    wakers: &[Vec<Arc<W>>],
) -> Result<Vec<(DriverId, Driver)>, Error> {
    let parts = connect(context, wakers).into_iter();
    parts.map(|parts| Ok((parts.id, parts.build()?))).collect()
}

/// Builds, restores, tells `Ready`; what goes wrong is told, too.
fn start_driver(parts: DriverParts) -> Option<Box<dyn ShardTask>> {
    let events = parts.context.events.clone();
    let id = parts.id;
    let result = catch_unwind(AssertUnwindSafe(|| parts.build())).unwrap_or_else(|panic| {
        Err(Error::Panicked {
            operator: "restore".into(),
            message: panic_message(&*panic),
        })
    });
    // Nobody listens any more once the job is torn down.
    match result {
        Ok(mut driver) => {
            driver.look_at_state();
            let _ = events.send(JobEvent::Ready(id));
            Some(Box::new(driver))
        }
        Err(error) => {
            let _ = events.send(JobEvent::Failed(error.report()));
            None
        }
    }
}

impl DriverParts {
    fn build(mut self) -> Result<Driver, Error> {
        let context = Arc::clone(&self.context);
        let restored = context.restored.get()?;
        let fragment = &context.plan.fragments[self.id.fragment];
        let head = match &fragment.head {
            FragmentHead::Channels(_) => {
                let first = fragment.stages.iter().find_map(|stage| stage.node);
                let watermark = first.and_then(|node| restored.watermark(&context.graph.nodes[node].id));
                let (inputs, channels) = std::mem::take(&mut self.inputs).into_iter().unzip();
                Head::Channels(InputMerge::of_inputs(channels, inputs, watermark))
            }
            FragmentHead::Source | FragmentHead::Values => {
                Head::Source(Box::new(self.source(fragment, restored.as_ref())?))
            }
        };
        let mut outputs = std::mem::take(&mut self.outputs).into_iter();
        let mut stages = Vec::with_capacity(fragment.stages.len());
        for (index, stage) in fragment.stages.iter().enumerate() {
            let node = stage.node.map(|node| (node, &context.graph.nodes[node]));
            let body = match node {
                Some((_, node)) if index > 0 => self
                    .body(node, restored.as_ref())
                    .map_err(|error| in_operator(node.operator.name(), self.id.subtask, error))?,
                _ => Body::Pass,
            };
            stages.push(Stage {
                name: node.map_or("exchange", |(_, node)| node.operator.name()),
                body,
                children: stage.children.clone(),
                outputs: outputs.next().unwrap_or_default(),
                metrics: match node {
                    Some((index, _)) => context.metrics.of_subtask(index, self.id.subtask),
                    None => Arc::new(OperatorMetrics::default()),
                },
                id: node.map(|(_, node)| node.id.clone()),
                watermark: node.and_then(|(_, node)| restored.watermark(&node.id)),
            });
        }
        let mut driver = Driver::new(self.id, fragment.parallelism, head, stages, self.context);
        driver.say_restored_watermark()?;
        Ok(driver)
    }

    fn source(&self, fragment: &Fragment, restored: &dyn RestorePoint) -> Result<SourceHead, Error> {
        let context = &self.context;
        let node = fragment.stages[0]
            .node
            .map(|node| &context.graph.nodes[node])
            .ok_or_else(|| Error::Internal("an input fragment has no node".into()))?;
        let subtask = SubtaskIndex(self.id.subtask);
        let reader = restored.reader(&node.id, subtask, node.parallelism);
        let saved = SavedSplits::read(reader.as_ref())?;
        let wrap = |error| in_operator(node.operator.name(), self.id.subtask, error);
        let (source, spec) = match &node.operator {
            OperatorSpec::Source(spec) => (self.open_source(spec, node, &saved).map_err(wrap)?, Some(spec)),
            OperatorSpec::Values(rows) => {
                let source: Box<dyn Source> = Box::new(ValuesSource::new(rows, subtask.0, &saved.offsets())?);
                (source, None)
            }
            other => return Err(Error::Internal(format!("\"{}\" cannot be an input", other.name()))),
        };
        Ok(SourceHead::new(
            source,
            spec,
            Arc::clone(&node.output.schema),
            Arc::clone(&context.clock),
            &saved,
        ))
    }

    fn open_source(&self, spec: &SourceSpec, node: &GraphNode, saved: &SavedSplits) -> Result<Box<dyn Source>, Error> {
        let context = &self.context;
        spec.table.open_source(SourceContext {
            subtask: SubtaskIndex(self.id.subtask),
            parallelism: node.parallelism,
            schema: Arc::clone(&spec.physical_schema),
            key: spec.key.clone(),
            restored: saved.offsets(),
            runtime: context.runtime.clone(),
            waker: Arc::clone(&self.waker),
            clock: Arc::clone(&context.clock),
            bad_rows: context.dead_letters.handler(
                &spec.table_name,
                spec.table.common().bad_data,
                Arc::clone(&context.clock),
            ),
            results: Arc::clone(&context.results),
            reader: (!context.run.pipeline.is_empty()).then(|| format!("{}/{}", context.run.pipeline, spec.table_name)),
        })
    }

    fn body(&self, node: &GraphNode, restored: &dyn RestorePoint) -> Result<Body, Error> {
        match &node.operator {
            OperatorSpec::Sink(spec) => Ok(Body::Sink(SinkTail::new(
                self.open_sink(spec, node, restored)?,
                Arc::clone(&node.output.schema),
                &spec.changelog,
            )?)),
            OperatorSpec::ClientOutput { .. } => match &self.context.client {
                Some(queue) => Ok(Body::Client(ClientTail::new(
                    Arc::clone(queue),
                    Arc::clone(&self.waker),
                    self.context.runtime.clone(),
                ))),
                None => Err(Error::Internal("the job has no client".into())),
            },
            _ => self.operator(node, restored),
        }
    }

    fn open_sink(
        &self,
        spec: &SinkSpec,
        node: &GraphNode,
        restored: &dyn RestorePoint,
    ) -> Result<Box<dyn Sink>, Error> {
        let context = &self.context;
        spec.table.open_sink(SinkContext {
            subtask: SubtaskIndex(self.id.subtask),
            parallelism: node.parallelism,
            schema: Arc::clone(&node.output.schema),
            changelog: spec.changelog.clone(),
            restored: restored.sink_positions(&node.id),
            sink: format!("{}/{}", context.run.pipeline, node.id),
            generation: context.run.generation,
            runtime: context.runtime.clone(),
            waker: Arc::clone(&self.waker),
            clock: Arc::clone(&context.clock),
        })
    }

    fn operator(&self, node: &GraphNode, restored: &dyn RestorePoint) -> Result<Body, Error> {
        let context = &self.context;
        let subtask = SubtaskIndex(self.id.subtask);
        let place = OperatorPlace {
            input: node.inputs.first().map(|edge| &context.graph.nodes[edge.from].output),
            subtask,
            parallelism: node.parallelism,
            key_groups: context.key_groups,
            clock: Arc::clone(&context.clock),
            outside: Outside {
                clock: Arc::clone(&context.clock),
                runtime: context.runtime.clone(),
                waker: Arc::clone(&self.waker),
                metrics: match context.graph.nodes.iter().position(|other| other.id == node.id) {
                    Some(index) => context.metrics.of_subtask(index, self.id.subtask),
                    None => Arc::default(),
                },
            },
        };
        let mut operator = (context.operators)(node, place)?;
        let reader = restored.reader(&node.id, subtask, node.parallelism);
        operator.restore(reader.as_ref())?;
        if restored.repeats(&node.id) {
            operator.repeat()?;
        }
        Ok(Body::Operator(operator))
    }
}
