//! What all drivers of one run of a job share, and what they tell the job's coordinator.

use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use tokio::sync::mpsc;

use crate::clock::Clock;
use crate::engine::client_tail::ClientQueue;
use crate::engine::connectors::Wake;
use crate::engine::dead_letters::DeadLetters;
use crate::engine::error::Error;
use crate::engine::fragment::FragmentPlan;
use crate::engine::graph::{GraphNode, JobGraph, StreamShape};
use crate::engine::job_metrics::{JobMetrics, OperatorMetrics};
use crate::engine::memory_budget::JobMemory;
use crate::engine::message::Barrier;
use crate::engine::operator::Operator;
use crate::engine::results::history::ResultHistory;
use crate::engine::source_head::SourceOffsets;
use crate::error::ErrorReport;
use crate::ids::{Epoch, Generation, OperatorId, SubtaskIndex};
use crate::state;
use crate::state::key_group::{KeyGroupRange, KeyGroups};
use crate::state::table::{StateReader, TableWrite};

pub struct JobContext {
    pub run: RunName,
    pub graph: JobGraph,
    pub plan: FragmentPlan,
    pub key_groups: KeyGroups,
    pub clock: Arc<dyn Clock>,
    /// For I/O; shard threads never wait.
    pub runtime: tokio::runtime::Handle,
    pub events: mpsc::UnboundedSender<JobEvent>,
    pub restored: RestoreSlot,
    pub rebase: RebasePolicy,
    pub operators: OperatorFactory,
    pub dead_letters: DeadLetters,
    /// Results of other pipelines, for those that read them.
    pub results: Arc<dyn ResultHistory>,
    /// Foreground jobs only.
    pub client: Option<Arc<ClientQueue>>,
    pub metrics: Arc<JobMetrics>,
    pub memory: Arc<JobMemory>,
}

/// Which run of which pipeline this is, in what its sinks leave outside.
#[derive(Clone, Debug, Default)]
pub struct RunName {
    /// The public id; empty for jobs without sinks.
    pub pipeline: String,
    pub generation: Generation,
}

/// Builds the operator of a node that is neither an input nor a sink.
pub type OperatorFactory = Arc<dyn Fn(&GraphNode, OperatorPlace<'_>) -> Result<Box<dyn Operator>, Error> + Send + Sync>;

/// Where an operator will run.
pub struct OperatorPlace<'a> {
    pub input: Option<&'a StreamShape>,
    pub subtask: SubtaskIndex,
    pub parallelism: u32,
    pub key_groups: KeyGroups,
    pub clock: Arc<dyn Clock>,
    pub outside: Outside,
}

/// How an operator asks systems outside without waiting for them.
#[derive(Clone)]
pub struct Outside {
    /// Where questions run.
    pub runtime: tokio::runtime::Handle,
    /// To be called when an answer has come.
    pub waker: Arc<dyn Wake>,
    /// To say what is waited for.
    pub metrics: Arc<OperatorMetrics>,
    pub clock: Arc<dyn Clock>,
}

/// The state that a run starts from.
pub trait RestorePoint: Send + Sync {
    fn reader(&self, operator: &OperatorId, subtask: SubtaskIndex, parallelism: u32) -> Box<dyn StateReader>;
    /// What all former subtasks of a sink reported.
    fn sink_positions(&self, operator: &OperatorId) -> Vec<String>;
    /// The least of all former subtasks; `None` when one had none.
    fn watermark(&self, operator: &OperatorId) -> Option<i64>;
    /// Those that the operator feeds have not seen what it put out: see [`Operator::repeat`].
    fn repeats(&self, _operator: &OperatorId) -> bool {
        false
    }
}

/// Holds what the run starts from until every driver has taken its part; it may be as large as the state itself.
pub struct RestoreSlot {
    point: Mutex<Option<Arc<dyn RestorePoint>>>,
}

impl RestoreSlot {
    pub fn new(point: Arc<dyn RestorePoint>) -> RestoreSlot {
        RestoreSlot {
            point: Mutex::new(Some(point)),
        }
    }

    pub fn get(&self) -> Result<Arc<dyn RestorePoint>, Error> {
        let point = self.point.lock().unwrap_or_else(PoisonError::into_inner);
        match &*point {
            Some(point) => Ok(Arc::clone(point)),
            None => Err(Error::Internal(
                "a driver is restored after the others have been".into(),
            )),
        }
    }

    pub fn release(&self) {
        self.point.lock().unwrap_or_else(PoisonError::into_inner).take();
    }
}

/// A start from nothing.
pub struct NothingSaved {
    pub key_groups: KeyGroups,
}

struct EmptyReader {
    key_groups: KeyGroups,
    owned: KeyGroupRange,
}

impl RestorePoint for NothingSaved {
    fn reader(&self, _operator: &OperatorId, subtask: SubtaskIndex, parallelism: u32) -> Box<dyn StateReader> {
        Box::new(EmptyReader {
            key_groups: self.key_groups,
            owned: self.key_groups.range_of(subtask.0, parallelism),
        })
    }

    fn sink_positions(&self, _operator: &OperatorId) -> Vec<String> {
        Vec::new()
    }

    fn watermark(&self, _operator: &OperatorId) -> Option<i64> {
        None
    }
}

impl StateReader for EmptyReader {
    fn read(
        &self,
        _table: &str,
        _visit: &mut dyn FnMut(arrow::array::RecordBatch) -> Result<(), Box<dyn std::error::Error + Send + Sync>>,
    ) -> Result<(), state::error::Error> {
        Ok(())
    }

    fn key_groups(&self) -> KeyGroups {
        self.key_groups
    }

    fn owned(&self) -> KeyGroupRange {
        self.owned
    }
}

/// Which key groups a snapshot must write in full. The coordinator sets it before it injects a barrier that persists; one
/// such barrier is under way at a time.
pub struct RebasePolicy {
    rule: Mutex<RebaseRule>,
}

#[derive(Clone)]
pub enum RebaseRule {
    Everything,
    /// A function of the epoch and of the groups that the subtask owns.
    Rolling(Arc<dyn Fn(Epoch, KeyGroupRange) -> KeyGroupRange + Send + Sync>),
}

impl Default for RebasePolicy {
    fn default() -> Self {
        RebasePolicy {
            rule: Mutex::new(RebaseRule::Everything),
        }
    }
}

impl RebasePolicy {
    pub fn set(&self, rule: RebaseRule) {
        *self.rule.lock().unwrap_or_else(PoisonError::into_inner) = rule;
    }

    pub fn range(&self, epoch: Epoch, owned: KeyGroupRange) -> KeyGroupRange {
        let rule = self.rule.lock().unwrap_or_else(PoisonError::into_inner).clone();
        match rule {
            RebaseRule::Everything => owned,
            RebaseRule::Rolling(range) => range(epoch, owned),
        }
    }
}

/// Which driver of the job.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DriverId {
    pub fragment: usize,
    pub subtask: u32,
}

/// What drivers tell the coordinator.
#[derive(Debug)]
pub enum JobEvent {
    /// Built, and its state restored.
    Ready(DriverId),
    Ack(Box<BarrierAck>),
    /// Its input has ended, and everything that followed from it is handed on.
    Ended(DriverId),
    /// The client of a foreground job has all that it asked for.
    ClientServed,
    Failed(ErrorReport),
}

/// A driver has passed a barrier; when the barrier persists, here is its part of the checkpoint.
#[derive(Debug)]
pub struct BarrierAck {
    pub driver: DriverId,
    pub barrier: Barrier,
    /// For inputs: nothing more was at hand when the barrier passed.
    pub caught_up: bool,
    pub parts: Vec<OperatorPart>,
}

/// One operator subtask's part of a checkpoint.
#[derive(Debug)]
pub struct OperatorPart {
    pub operator: OperatorId,
    pub subtask: SubtaskIndex,
    pub parallelism: u32,
    pub watermark: Option<i64>,
    pub ended: bool,
    pub content: PartContent,
}

/// What is saved depends on what the operator is; an input cannot be saved without its offsets.
#[derive(Debug)]
pub enum PartContent {
    Input(SourceOffsets),
    State(Vec<TableWrite>),
    Sink {
        committable: Option<Bytes>,
        position: Option<String>,
    },
}
