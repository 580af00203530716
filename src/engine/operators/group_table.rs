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
    pub aggregates: Aggregates,
    /// Wall-clock milliseconds of the last change, kept only where groups expire.
    pub stamps: Option<Vec<i64>>,
    /// Changed since the last snapshot.
    pub changed: Bits,
    /// Part of the last snapshot.
    pub persisted: Bits,
}

impl GroupTable {
    /// A table of groups by `key_types`, which are the layout's, or more.
    pub fn new(layout: &Arc<AggregateLayout>, key_types: &[DataType], stamped: bool) -> Result<GroupTable> {
        Ok(GroupTable {
            keys: GroupKeys::new(key_types)?,
            aggregates: Aggregates::new(layout)?,
            layout: Arc::clone(layout),
            stamps: stamped.then(Vec::new),
            changed: Bits::default(),
            persisted: Bits::default(),
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

    /// Forgets all groups, keeping memory for the next ones.
    pub fn clear(&mut self) {
        self.keys.clear();
        self.aggregates.clear();
        self.changed.clear();
        self.persisted.clear();
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
