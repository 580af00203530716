//! Keys, their aggregates, and what of them a snapshot does not hold yet: the memory of every aggregate operator.

use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch};
use arrow::buffer::ScalarBuffer;
use arrow::datatypes::DataType;

use crate::engine::operator::Result;
use crate::engine::operators::aggregates::{AggregateLayout, Aggregates};
use crate::engine::operators::bits::Bits;
use crate::engine::operators::keys::{GroupKeys, key_hashes};

pub(crate) struct GroupTable {
    pub layout: Arc<AggregateLayout>,
    pub keys: GroupKeys,
    /// Columns of the key whose hash decides the key group; `None`: all.
    placed_by: Option<Vec<usize>>,
    pub aggregates: Aggregates,
    /// Wall-clock milliseconds of the last change, kept only where groups expire.
    pub stamps: Option<Vec<i64>>,
    /// Changed since the last snapshot.
    pub changed: Bits,
    /// Part of the last snapshot.
    pub persisted: Bits,
    /// Buried groups that the last snapshot still holds.
    dying: Vec<u32>,
}

impl GroupTable {
    /// A table of groups by `key_types`, which are the layout's, or more.
    pub fn new(layout: &Arc<AggregateLayout>, key_types: &[DataType], stamped: bool) -> Result<GroupTable> {
        Ok(GroupTable {
            keys: GroupKeys::new(key_types)?,
            placed_by: layout.spec.placed_by.clone(),
            aggregates: Aggregates::new(layout)?,
            layout: Arc::clone(layout),
            stamps: stamped.then(Vec::new),
            changed: Bits::default(),
            persisted: Bits::default(),
            dying: Vec::new(),
        })
    }

    /// The group of each row; groups not there before are empty.
    pub fn assign(
        &mut self,
        columns: &[ArrayRef],
        rows: usize,
        hashes: Option<&ScalarBuffer<u64>>,
    ) -> Result<Vec<u32>> {
        let hashes = key_hashes(columns, rows, hashes);
        let groups = self.keys.intern(columns, &hashes)?;
        let capacity = self.keys.capacity();
        self.aggregates.resize(capacity);
        if let Some(stamps) = &mut self.stamps
            && stamps.len() < capacity
        {
            stamps.resize(capacity, 0);
        }
        Ok(groups)
    }

    /// Adds rows to the groups that [`GroupTable::assign`] gave them.
    pub fn apply(&mut self, rows: &RecordBatch, groups: &[u32], weights: Option<&[i64]>) -> Result<()> {
        for &group in groups {
            self.changed.insert(group);
        }
        self.aggregates.apply(rows, groups, weights)
    }

    /// For each group the hash that decides its key group.
    pub fn place_hashes(&self, groups: &[u32]) -> Vec<u64> {
        match &self.placed_by {
            None => groups.iter().map(|&group| self.keys.hash_of(group)).collect(),
            Some(columns) => {
                let columns = self.keys.gather_columns(columns, groups);
                key_hashes(&columns, groups.len(), None).into_owned()
            }
        }
    }

    /// Whether the group has rows.
    #[inline]
    pub fn has_rows(&self, group: u32) -> bool {
        self.aggregates.row_count(group) > 0
    }

    /// Groups that exist, in ascending order.
    pub fn live(&self) -> impl Iterator<Item = u32> + '_ {
        (0..self.keys.capacity() as u32).filter(|&group| self.keys.is_live(group))
    }

    /// Forgets a group and everything that is known of it.
    pub fn free(&mut self, group: u32) {
        self.aggregates.reset(group);
        self.changed.remove(group);
        self.persisted.remove(group);
        self.keys.remove(group);
    }

    /// Forgets a group that lost its last row: at once when no snapshot knows it, else with the next snapshot, which needs
    /// its key for the tombstone.
    pub fn bury(&mut self, group: u32) {
        if self.persisted.contains(group) {
            // Rounding of float sums must not outlive the rows it came from.
            self.aggregates.reset(group);
            self.dying.push(group);
        } else {
            self.free(group);
        }
    }

    /// The groups that were buried and are still without rows, for the tombstones of a snapshot.
    pub fn take_dying(&mut self) -> Vec<u32> {
        let mut dying = std::mem::take(&mut self.dying);
        dying.sort_unstable();
        dying.dedup();
        // A group may have come back, and have gone for good since.
        dying.retain(|&group| self.keys.is_live(group) && self.aggregates.row_count(group) == 0);
        dying
    }

    /// Forgets all groups, keeping memory for the next ones.
    pub fn clear(&mut self) {
        self.keys.clear();
        self.aggregates.clear();
        self.changed.clear();
        self.persisted.clear();
        self.dying.clear();
        if let Some(stamps) = &mut self.stamps {
            stamps.clear();
        }
    }

    pub fn memory_bytes(&self) -> usize {
        self.keys.memory_bytes()
            + self.aggregates.memory_bytes()
            + self.changed.memory_bytes()
            + self.persisted.memory_bytes()
            + self.stamps.as_ref().map_or(0, |stamps| stamps.capacity() * 8)
    }
}
