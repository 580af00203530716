//! The rows of one subtask of a result: segments, the index into them, and what a snapshot does not hold yet.
//!
//! Three forms: with a key, at most one row a key; without a key over changing input, rows told apart by all their columns,
//! each as often as it counts; append-only without a key, no index at all, where a row's key group is that of the hash
//! of all its columns, so that rows spread over subtasks again when they are restored.
//!
//! [`Store::apply`] takes the changes of one epoch at once, so what they amount to is what counts, not their order.

use std::collections::VecDeque;
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, UInt32Array};
use arrow::datatypes::{DataType, SchemaRef};
use hashbrown::HashMap;
use tracing::warn;

use crate::engine::error::Error;
use crate::engine::graph::MaterializeSpec;
use crate::engine::operator::Result;
use crate::engine::operators::changes::any_differs;
use crate::engine::operators::columns::{batch_of, take_batch};
use crate::engine::operators::keys::key_hashes;
use crate::engine::results::index::RowIndex;
use crate::engine::results::segments::{Location, SegmentView, Segments};
use crate::ids::Epoch;
use crate::state::hash::hash_columns;
use crate::state::key_group::{KeyGroupRange, KeyGroups};

/// How rows are told apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum RowIdentity {
    Key(Vec<usize>),
    AllColumns,
    /// Append-only: nothing is ever taken away.
    None,
}

impl RowIdentity {
    pub fn of(spec: &MaterializeSpec) -> RowIdentity {
        match &spec.key {
            Some(key) if !key.is_empty() => RowIdentity::Key(key.clone()),
            // Of a result with one row at most, all columns tell it apart well enough.
            _ if spec.append_only => RowIdentity::None,
            _ => RowIdentity::AllColumns,
        }
    }
}

/// Which rows may come to this store.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ownership {
    pub key_groups: KeyGroups,
    pub owned: KeyGroupRange,
}

pub(crate) struct Store {
    schema: SchemaRef,
    identity: RowIdentity,
    ownership: Ownership,
    segments: Segments,
    index: Option<RowIndex>,
    /// How keys were before the latest epochs, while not every subtask has published those.
    undo: VecDeque<Undo>,
    warned: bool,
}

struct Undo {
    epoch: Epoch,
    before: HashMap<u32, Option<(RecordBatch, usize)>>,
}

/// Changes of one epoch with nothing superfluous.
#[derive(Debug)]
pub(crate) struct Applied {
    pub removed: RecordBatch,
    pub added: RecordBatch,
    /// Of an append-only store, the key group of each added row.
    pub key_groups: Vec<u32>,
}

/// What became of the keys: places to clear and rows (of the changes) to add.
#[derive(Default)]
struct Plan {
    removed: Vec<Location>,
    /// Row of the changes, group.
    added: Vec<(u32, u32)>,
    touched: Vec<u32>,
}

impl Store {
    pub fn new(schema: &SchemaRef, identity: RowIdentity, ownership: Ownership) -> Result<Store> {
        let data_type = |column: usize| schema.field(column).data_type().clone();
        let key_types: Option<Vec<DataType>> = match &identity {
            RowIdentity::Key(key) => Some(key.iter().map(|&column| data_type(column)).collect()),
            RowIdentity::AllColumns => Some((0..schema.fields().len()).map(data_type).collect()),
            RowIdentity::None => None,
        };
        Ok(Store {
            schema: Arc::clone(schema),
            segments: Segments::new(schema),
            index: key_types.map(|types| RowIndex::new(&types)).transpose()?,
            identity,
            ownership,
            undo: VecDeque::new(),
            warned: false,
        })
    }

    pub fn segments(&self) -> &Segments {
        &self.segments
    }

    pub fn index(&self) -> Option<&RowIndex> {
        self.index.as_ref()
    }

    pub fn index_mut(&mut self) -> Option<&mut RowIndex> {
        self.index.as_mut()
    }

    pub fn views(&self) -> Vec<SegmentView> {
        self.segments.views()
    }

    pub fn live_rows(&self) -> u64 {
        self.segments.live()
    }

    pub fn memory_bytes(&self) -> usize {
        self.segments.memory_bytes() + self.index.as_ref().map_or(0, RowIndex::memory_bytes)
    }

    /// The columns that tell rows apart.
    fn key_columns(&self, rows: &RecordBatch) -> Vec<ArrayRef> {
        match &self.identity {
            RowIdentity::Key(key) => key.iter().map(|&column| Arc::clone(rows.column(column))).collect(),
            RowIdentity::AllColumns | RowIdentity::None => rows.columns().to_vec(),
        }
    }

    /// Takes what changed in `epoch`: rows with their weights. `visible` is the newest epoch that readers see, kept
    /// reachable for look-ups when `undo` is set.
    pub fn apply(
        &mut self,
        rows: &RecordBatch,
        weights: &[i64],
        epoch: Epoch,
        visible: Epoch,
        undo: bool,
    ) -> Result<Applied> {
        self.forget_undo(visible);
        let keys = self.key_columns(rows);
        let hashes = key_hashes(&keys, rows.num_rows(), None);
        let Some(index) = &mut self.index else {
            return self.append_only(rows, weights, &hashes);
        };
        check_owners(&self.ownership, &hashes)?;
        let groups = index.intern(&keys, &hashes);
        let plan = match self.identity {
            RowIdentity::AllColumns => self.plan_by_count(&groups, weights)?,
            RowIdentity::Key(_) | RowIdentity::None => {
                if undo {
                    self.remember(epoch, &groups);
                }
                self.plan_by_key(rows, &groups, weights)?
            }
        };
        let removed = batch_of(&self.schema, self.segments.gather(&plan.removed)?, plan.removed.len())?;
        let added = self.execute(rows, &plan)?;
        if !undo && let Some(index) = &mut self.index {
            index.bury(plan.touched);
        }
        Ok(Applied {
            removed,
            added,
            key_groups: Vec::new(),
        })
    }

    fn append_only(&mut self, rows: &RecordBatch, weights: &[i64], hashes: &[u64]) -> Result<Applied> {
        if weights.iter().any(|&weight| weight < 0) {
            return Err(Error::Internal(
                "an append-only result was asked to take a row away".into(),
            ));
        }
        let repeated: Vec<u32> = (0..rows.num_rows() as u32)
            .flat_map(|row| std::iter::repeat_n(row, weights[row as usize] as usize))
            .collect();
        let group = |&row: &u32| u32::from(self.ownership.key_groups.group_of(hashes[row as usize]).0);
        let owners: Vec<u32> = repeated.iter().map(group).collect();
        let added = if repeated.len() == rows.num_rows() {
            rows.clone()
        } else {
            take_batch(rows, &UInt32Array::from(repeated))?
        };
        self.segments.append(&added, &owners, |_, _| ())?;
        Ok(Applied {
            removed: RecordBatch::new_empty(Arc::clone(&self.schema)),
            added,
            key_groups: owners,
        })
    }

    /// Rows count: each is there as often as its weights amount to.
    fn plan_by_count(&mut self, groups: &[u32], weights: &[i64]) -> Result<Plan> {
        let Some(index) = &mut self.index else {
            return Ok(Plan::default());
        };
        let mut net: HashMap<u32, (u32, i64)> = HashMap::with_capacity(groups.len());
        let mut plan = Plan::default();
        for (row, (&group, &weight)) in groups.iter().zip(weights).enumerate() {
            let entry = net.entry(group).or_insert_with(|| {
                plan.touched.push(group);
                (row as u32, 0)
            });
            entry.1 += weight;
        }
        let mut below_zero = 0u64;
        for &group in &plan.touched {
            let (row, change) = net[&group];
            let removals = usize::try_from(-change).unwrap_or(0).min(index.copies(group));
            below_zero += change.min(0).unsigned_abs() - removals as u64;
            plan.removed.extend((0..removals).filter_map(|_| index.pop(group)));
            plan.added.extend((0..change.max(0)).map(|_| (row, group)));
            if change != 0 {
                index.changed.insert(group);
            }
        }
        self.warn_below_zero(below_zero);
        Ok(plan)
    }

    /// A key has one row: the one that was inserted and not taken away again. Insertions and retractions of an epoch may
    /// come in any order, since they may come from different places.
    fn plan_by_key(&mut self, rows: &RecordBatch, groups: &[u32], weights: &[i64]) -> Result<Plan> {
        let Some(index) = &mut self.index else {
            return Ok(Plan::default());
        };
        let mut order: Vec<u32> = (0..groups.len() as u32).collect();
        order.sort_by_key(|&row| groups[row as usize]);
        let mut row_hashes: Option<Vec<u64>> = None;
        // Group, and the row that it ends up with; `None` when it ends up without.
        let mut decided: Vec<(u32, Option<u32>)> = Vec::new();
        for run in order.chunk_by(|&a, &b| groups[a as usize] == groups[b as usize]) {
            let group = groups[run[0] as usize];
            let kept = match *run {
                [only] if weights[only as usize] > 0 => Some(only),
                [old, new] if weights[old as usize] == -1 && weights[new as usize] == 1 => Some(new),
                _ => {
                    let hashes = row_hashes.get_or_insert_with(|| {
                        let mut hashes = Vec::new();
                        hash_columns(rows.columns(), &mut hashes);
                        hashes
                    });
                    surviving_insert(run, weights, hashes)
                }
            };
            let sum: i64 = run.iter().map(|&row| weights[row as usize]).sum();
            match kept {
                Some(row) => decided.push((group, Some(row))),
                None if sum < 0 => decided.push((group, None)),
                // What came went again: the key stays as it is.
                None => {}
            }
        }
        let mut touched: Vec<u32> = groups.to_vec();
        touched.sort_unstable();
        touched.dedup();
        let decided = drop_unchanged(&self.segments, index, rows, decided)?;
        let mut plan = Plan {
            touched,
            ..Plan::default()
        };
        let mut below_zero = 0;
        for (group, row) in decided {
            let before = index.pop(group);
            if before.is_none() && row.is_none() {
                below_zero += 1;
                continue;
            }
            plan.removed.extend(before);
            plan.added.extend(row.map(|row| (row, group)));
            index.changed.insert(group);
        }
        self.warn_below_zero(below_zero);
        Ok(plan)
    }

    fn warn_below_zero(&mut self, rows: u64) {
        if rows > 0 && !self.warned {
            self.warned = true;
            warn!(rows, "a result was asked to take away rows that it does not have");
        }
    }

    fn remember(&mut self, epoch: Epoch, touched: &[u32]) {
        let Some(index) = &self.index else {
            return;
        };
        let row = |&group: &u32| {
            (
                group,
                index.location(group).and_then(|location| self.segments.row(location)),
            )
        };
        self.undo.push_back(Undo {
            epoch,
            before: touched.iter().map(row).collect(),
        });
    }

    fn forget_undo(&mut self, visible: Epoch) {
        while self.undo.front().is_some_and(|undo| undo.epoch <= visible)
            && let Some(undo) = self.undo.pop_front()
        {
            let rest = &self.undo;
            let free = undo
                .before
                .into_keys()
                .filter(|group| !rest.iter().any(|undo| undo.before.contains_key(group)));
            if let Some(index) = &mut self.index {
                index.bury(free);
            }
        }
    }

    /// Whether a look-up at an older epoch may still ask for the group.
    pub fn is_remembered(&self, group: u32) -> bool {
        self.undo.iter().any(|undo| undo.before.contains_key(&group))
    }

    fn execute(&mut self, rows: &RecordBatch, plan: &Plan) -> Result<RecordBatch> {
        let Some(index) = &mut self.index else {
            return Ok(RecordBatch::new_empty(Arc::clone(&self.schema)));
        };
        for &location in &plan.removed {
            self.segments.delete(location);
        }
        let indices: UInt32Array = plan.added.iter().map(|&(row, _)| row).collect();
        let owners: Vec<u32> = plan.added.iter().map(|&(_, group)| group).collect();
        let added = take_batch(rows, &indices)?;
        self.segments
            .append(&added, &owners, |group, location| index.push(group, location))?;
        self.segments
            .compact(|group, from, to| index.relocate(group, from, to))?;
        Ok(added)
    }

    /// The row of a key as of epoch `visible`, as a batch and the place in it.
    pub fn lookup(&self, keys: &[ArrayRef], visible: Epoch) -> Option<(RecordBatch, usize)> {
        let index = self.index.as_ref()?;
        let hashes = key_hashes(keys, 1, None);
        let group = index.find(keys, &hashes)?;
        // The oldest epoch after the visible one says how it was before.
        if let Some(undo) = self
            .undo
            .iter()
            .find(|undo| undo.epoch > visible && undo.before.contains_key(&group))
        {
            return undo.before[&group].clone();
        }
        self.segments.row(index.location(group)?)
    }

    /// Takes the rows of keys away, as a tombstone says.
    pub fn restore_removals(&mut self, keys: &[ArrayRef], rows: usize) {
        let hashes = key_hashes(keys, rows, None);
        let Some(index) = &mut self.index else {
            return;
        };
        let groups = index.intern(keys, &hashes);
        for &group in &groups {
            while let Some(location) = index.pop(group) {
                self.segments.delete(location);
            }
        }
        index.bury(groups);
    }

    /// Makes rows be there as often as `counts` says, whatever was there before.
    pub fn restore_counts(&mut self, rows: &RecordBatch, counts: &[i64]) -> Result<()> {
        let keys = self.key_columns(rows);
        let hashes = key_hashes(&keys, rows.num_rows(), None);
        let Some(index) = &mut self.index else {
            return Ok(());
        };
        let groups = index.intern(&keys, &hashes);
        // The last count of a row is the one that holds: what an earlier one said is taken back.
        let mut have: HashMap<u32, i64> = HashMap::with_capacity(groups.len());
        let mut weights = Vec::with_capacity(groups.len());
        for (&group, &count) in groups.iter().zip(counts) {
            let before = have.insert(group, count).unwrap_or(index.copies(group) as i64);
            weights.push(count - before);
        }
        self.apply(rows, &weights, Epoch(0), Epoch(0), false)?;
        Ok(())
    }

    /// Says that all rows are as the last snapshot holds them.
    pub fn settle_restored(&mut self) {
        let Some(index) = &mut self.index else {
            return;
        };
        index.changed.clear();
        let live: Vec<u32> = index.live_groups().collect();
        for &group in &live {
            if index.copies(group) > 0 {
                index.persisted.insert(group);
            }
        }
        index.bury(live);
    }
}

/// A look-up and a restart find a row by its key's group of keys: a row elsewhere would be lost.
fn check_owners(ownership: &Ownership, hashes: &[u64]) -> Result<()> {
    let at_home = |&hash: &u64| ownership.owned.contains(ownership.key_groups.group_of(hash));
    if hashes.iter().all(at_home) {
        Ok(())
    } else {
        Err(Error::Internal(
            "rows of a result came to a subtask that does not own their key; they need an exchange by that key".into(),
        ))
    }
}

/// The last inserted row that no retraction of an equal row cancels.
fn surviving_insert(run: &[u32], weights: &[i64], hashes: &[u64]) -> Option<u32> {
    let mut net: HashMap<u64, i64> = HashMap::with_capacity(run.len());
    for &row in run {
        *net.entry(hashes[row as usize]).or_default() += weights[row as usize];
    }
    run.iter()
        .rev()
        .copied()
        .find(|&row| weights[row as usize] > 0 && net[&hashes[row as usize]] > 0)
}

/// Leaves out keys whose row would be replaced by an equal one.
fn drop_unchanged(
    segments: &Segments,
    index: &RowIndex,
    rows: &RecordBatch,
    decided: Vec<(u32, Option<u32>)>,
) -> Result<Vec<(u32, Option<u32>)>> {
    let mut compared = Vec::new();
    let (mut places, mut new_rows) = (Vec::new(), Vec::new());
    for (at, &(group, row)) in decided.iter().enumerate() {
        if let (Some(location), Some(row)) = (index.location(group), row) {
            compared.push(at);
            places.push(location);
            new_rows.push(row);
        }
    }
    if compared.is_empty() {
        return Ok(decided);
    }
    let before = segments.gather(&places)?;
    let now = take_batch(rows, &UInt32Array::from(new_rows))?;
    let differs = any_differs(&before, now.columns(), compared.len())?;
    let equal: hashbrown::HashSet<usize> = compared
        .into_iter()
        .zip(differs)
        .filter_map(|(at, differs)| (!differs).then_some(at))
        .collect();
    Ok(decided
        .into_iter()
        .enumerate()
        .filter_map(|(at, decision)| (!equal.contains(&at)).then_some(decision))
        .collect())
}
