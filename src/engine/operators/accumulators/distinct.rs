//! `count`, `sum`, `avg` with DISTINCT: a value enters the columnar accumulator when its first row comes and leaves it
//! when its last row goes.

use arrow::array::{Array, ArrayRef, UInt32Array};
use arrow::datatypes::DataType;

use crate::engine::operator::Result;
use crate::engine::operators::accumulators::{Accumulator, GroupedRows, Multiset};
use crate::engine::operators::columns::take_columns;

pub(crate) struct Distinct {
    inner: Box<dyn Accumulator>,
    values: Multiset,
}

impl Distinct {
    pub fn new(inner: Box<dyn Accumulator>, types: Vec<DataType>) -> Result<Distinct> {
        Ok(Distinct {
            inner,
            values: Multiset::new(types)?,
        })
    }
}

impl Accumulator for Distinct {
    fn resize(&mut self, groups: usize) {
        self.inner.resize(groups);
        self.values.resize(groups);
    }

    fn update(&mut self, arguments: &[ArrayRef], rows: GroupedRows<'_>) -> Result<()> {
        let nulls: Vec<_> = arguments
            .iter()
            .filter_map(|argument| argument.logical_nulls())
            .collect();
        if nulls.iter().any(|nulls| nulls.null_count() > 0) {
            let valid: UInt32Array = (0..rows.groups.len() as u32)
                .filter(|&row| nulls.iter().all(|nulls| nulls.is_valid(row as usize)))
                .collect();
            let groups: Vec<u32> = valid.values().iter().map(|&row| rows.groups[row as usize]).collect();
            let weights: Vec<i64> = valid.values().iter().map(|&row| rows.weight(row as usize)).collect();
            let kept = GroupedRows {
                groups: &groups,
                weights: Some(&weights),
            };
            return self.update_valid(&take_columns(arguments, &valid)?, kept);
        }
        self.update_valid(arguments, rows)
    }

    fn merge(&mut self, states: &[ArrayRef], groups: &[u32]) -> Result<()> {
        self.inner.merge(states, groups)
    }

    fn evaluate(&mut self, groups: &[u32]) -> Result<ArrayRef> {
        self.inner.evaluate(groups)
    }

    fn state(&mut self, groups: &[u32]) -> Result<Vec<ArrayRef>> {
        self.inner.state(groups)
    }

    fn reset(&mut self, group: u32) {
        self.inner.reset(group);
        self.values.reset(group);
    }

    fn clear(&mut self) {
        self.inner.clear();
        self.values.clear();
    }

    fn memory_bytes(&self) -> usize {
        self.inner.memory_bytes() + self.values.memory_bytes()
    }

    fn multiset(&mut self) -> Option<&mut Multiset> {
        Some(&mut self.values)
    }
}

impl Distinct {
    fn update_valid(&mut self, arguments: &[ArrayRef], rows: GroupedRows<'_>) -> Result<()> {
        let mut crossing: Vec<u32> = Vec::new();
        let mut weights: Vec<i64> = Vec::new();
        self.values.update(arguments, rows, |row, before, after| {
            let step = i64::from(after > 0) - i64::from(before > 0);
            if step != 0 {
                crossing.push(row as u32);
                weights.push(step);
            }
        })?;
        if crossing.is_empty() {
            return Ok(());
        }
        let groups: Vec<u32> = crossing.iter().map(|&row| rows.groups[row as usize]).collect();
        let arguments = take_columns(arguments, &UInt32Array::from(crossing))?;
        let changed = GroupedRows {
            groups: &groups,
            weights: Some(&weights),
        };
        self.inner.update(&arguments, changed)
    }
}
