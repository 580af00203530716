//! `count(*)` and `count(x)`.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, Int64Array};

use crate::engine::operator::Result;
use crate::engine::operators::accumulators::{Accumulator, GroupedRows};
use crate::engine::operators::columns::as_int64;

pub(crate) struct Count {
    counts: Vec<i64>,
    /// Count rows where any argument is NULL too.
    rows: bool,
}

impl Count {
    pub fn rows() -> Count {
        Count {
            counts: Vec::new(),
            rows: true,
        }
    }

    pub fn values() -> Count {
        Count {
            counts: Vec::new(),
            rows: false,
        }
    }

    fn gather(&self, groups: &[u32]) -> ArrayRef {
        Arc::new(
            groups
                .iter()
                .map(|&group| self.counts[group as usize])
                .collect::<Int64Array>(),
        )
    }
}

impl Accumulator for Count {
    fn resize(&mut self, groups: usize) {
        if self.counts.len() < groups {
            self.counts.resize(groups, 0);
        }
    }

    fn update(&mut self, arguments: &[ArrayRef], rows: GroupedRows<'_>) -> Result<()> {
        if self.rows || arguments.iter().all(|argument| argument.logical_null_count() == 0) {
            match rows.weights {
                None => rows.groups.iter().for_each(|&group| self.counts[group as usize] += 1),
                Some(weights) => {
                    for (&group, &weight) in rows.groups.iter().zip(weights) {
                        self.counts[group as usize] += weight;
                    }
                }
            }
            return Ok(());
        }
        let nulls: Vec<_> = arguments
            .iter()
            .filter_map(|argument| argument.logical_nulls())
            .collect();
        for (row, &group) in rows.groups.iter().enumerate() {
            if nulls.iter().all(|nulls| nulls.is_valid(row)) {
                self.counts[group as usize] += rows.weight(row);
            }
        }
        Ok(())
    }

    fn merge(&mut self, states: &[ArrayRef], groups: &[u32]) -> Result<()> {
        let counts = as_int64(&states[0])?;
        for (&group, &count) in groups.iter().zip(counts.values()) {
            self.counts[group as usize] += count;
        }
        Ok(())
    }

    fn evaluate(&mut self, groups: &[u32]) -> Result<ArrayRef> {
        Ok(self.gather(groups))
    }

    fn state(&mut self, groups: &[u32]) -> Result<Vec<ArrayRef>> {
        Ok(vec![self.gather(groups)])
    }

    fn reset(&mut self, group: u32) {
        self.counts[group as usize] = 0;
    }

    fn clear(&mut self) {
        self.counts.clear();
    }

    fn memory_bytes(&self) -> usize {
        self.counts.capacity() * 8
    }
}
