//! Checkpointed state in memory, as the contract of [`crate::state::table`] describes it and no kinder: dead rows of expiring
//! tables stay, batches keep their order only from epoch to epoch.

use std::collections::BTreeMap;

use arrow::array::{AsArray, BooleanArray, RecordBatch};
use arrow::compute::filter_record_batch;
use arrow::datatypes::UInt16Type;

use crate::engine::message::{Barrier, BarrierKind};
use crate::engine::operator::Operator;
use crate::ids::Epoch;
use crate::state::error::Error;
use crate::state::key_group::{KeyGroup, KeyGroupRange, KeyGroups};
use crate::state::table::{Distribution, SnapshotContext, StateReader, TableWrite};

/// What all subtasks of one operator have handed over.
#[derive(Clone, Debug, Default)]
pub(crate) struct MemoryState {
    keyed: BTreeMap<&'static str, Vec<RecordBatch>>,
    /// By table, then by subtask.
    broadcast: BTreeMap<&'static str, BTreeMap<u32, Vec<RecordBatch>>>,
}

impl MemoryState {
    /// Adds what the subtasks (by index) wrote at one epoch.
    pub fn commit(&mut self, epoch: Vec<Vec<TableWrite>>) {
        for writes in self.broadcast.values_mut() {
            writes.clear();
        }
        for (subtask, writes) in epoch.into_iter().enumerate() {
            for write in writes {
                match write.distribution {
                    Distribution::Broadcast => {
                        let subtasks = self.broadcast.entry(write.table).or_default();
                        subtasks.insert(subtask as u32, write.rows);
                    }
                    Distribution::KeyGroups => self.commit_keyed(write),
                }
            }
        }
    }

    fn commit_keyed(&mut self, write: TableWrite) {
        let batches = self.keyed.entry(write.table).or_default();
        if let Some(range) = write.rebased {
            for batch in batches.iter_mut() {
                *batch = keep(batch, |group| !range.contains(group));
            }
        }
        batches.extend(write.rows);
        batches.retain(|batch| batch.num_rows() > 0);
    }

    /// Rows held, dead ones too.
    pub fn rows(&self, table: &str) -> usize {
        self.keyed
            .get(table)
            .map_or(0, |batches| batches.iter().map(RecordBatch::num_rows).sum())
    }

    pub fn reader(&self, subtask: u32, parallelism: u32) -> MemoryReader<'_> {
        let key_groups = KeyGroups::default();
        MemoryReader {
            state: self,
            key_groups,
            owned: key_groups.range_of(subtask, parallelism),
        }
    }
}

/// The checkpoints of one operator over all its runs: the first of a run is full, the later ones have a rolling base.
#[derive(Debug, Default)]
pub(crate) struct Checkpoints {
    pub state: MemoryState,
    /// Of the last barrier.
    pub epoch: Epoch,
    snapshots_of_run: u64,
}

impl Checkpoints {
    /// The next barrier, of every kind.
    pub fn barrier(&mut self, kind: BarrierKind) -> Barrier {
        self.epoch = self.epoch.next();
        let epoch = self.epoch;
        Barrier { epoch, kind }
    }

    /// A run begins; its operators are restored from [`Checkpoints::state`].
    pub fn begin_run(&mut self) {
        self.snapshots_of_run = 0;
    }

    /// Saves all subtasks, which the last barrier has passed.
    pub fn save(&mut self, operators: &mut [Box<dyn Operator>]) {
        let parallelism = operators.len() as u32;
        let part = (self.snapshots_of_run % 4) as u16;
        let rebase = if self.snapshots_of_run == 0 { (0, 1) } else { (part, 4) };
        self.snapshots_of_run += 1;
        let mut epoch = Vec::new();
        for (subtask, operator) in operators.iter_mut().enumerate() {
            let context = snapshot_context(self.epoch.0, subtask as u32, parallelism, Some(rebase));
            epoch.push(operator.snapshot(&context).expect("a snapshot can be taken"));
        }
        self.state.commit(epoch);
    }
}

fn keep(batch: &RecordBatch, wanted: impl Fn(KeyGroup) -> bool) -> RecordBatch {
    let groups = batch.column(0).as_primitive::<UInt16Type>();
    let mask: BooleanArray = groups
        .values()
        .iter()
        .map(|&group| Some(wanted(KeyGroup(group))))
        .collect();
    filter_record_batch(batch, &mask).expect("the mask has the batch's length")
}

pub(crate) struct MemoryReader<'a> {
    state: &'a MemoryState,
    key_groups: KeyGroups,
    owned: KeyGroupRange,
}

impl StateReader for MemoryReader<'_> {
    fn read(
        &self,
        table: &str,
        visit: &mut dyn FnMut(RecordBatch) -> Result<(), Box<dyn std::error::Error + Send + Sync>>,
    ) -> Result<(), Error> {
        let failed = |error: Box<dyn std::error::Error + Send + Sync>| Error::Restore {
            table: table.to_owned(),
            reason: error.to_string(),
        };
        if let Some(subtasks) = self.state.broadcast.get(table) {
            for batch in subtasks.values().flatten() {
                visit(batch.clone()).map_err(failed)?;
            }
        }
        for batch in self.state.keyed.get(table).into_iter().flatten() {
            let own = keep(batch, |group| self.owned.contains(group));
            if own.num_rows() > 0 {
                visit(own).map_err(failed)?;
            }
        }
        Ok(())
    }

    fn key_groups(&self) -> KeyGroups {
        self.key_groups
    }

    fn owned(&self) -> KeyGroupRange {
        self.owned
    }
}

/// The context of a snapshot of subtask `subtask`; `rebase` says which part of its groups is written in full: `None`
/// none, `Some((i, n))` the i-th of n parts.
pub(crate) fn snapshot_context(
    epoch: u64,
    subtask: u32,
    parallelism: u32,
    rebase: Option<(u16, u16)>,
) -> SnapshotContext {
    let key_groups = KeyGroups::default();
    let owned = key_groups.range_of(subtask, parallelism);
    let rebase = match rebase {
        None => KeyGroupRange {
            start: owned.start,
            end: owned.start,
        },
        Some((part, parts)) => {
            let width = u32::from(owned.end - owned.start);
            let at = |n: u16| owned.start + (width * u32::from(n) / u32::from(parts)) as u16;
            KeyGroupRange {
                start: at(part),
                end: at(part + 1),
            }
        }
    };
    SnapshotContext {
        epoch: Epoch(epoch),
        key_groups,
        owned,
        rebase,
    }
}
