//! Aggregates computed from the kept values of a group, for input that takes rows back and for functions with an ORDER BY.
//!
//! `min` and `max` read the first or last value: O(log n). Other functions are computed afresh from all values of the
//! group each time it is read: O(n) a touched group and barrier, and memory for every distinct row; correct for every
//! function there is, whatever it can or cannot undo.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, UInt32Array, new_empty_array, new_null_array};
use arrow::compute::{SortColumn, lexsort_to_indices};
use arrow::datatypes::{DataType, Schema};
use datafusion::physical_expr::aggregate::AggregateFunctionExpr;
use datafusion::scalar::ScalarValue;

use crate::engine::operator::Result;
use crate::engine::operators::accumulators::extreme::Side;
use crate::engine::operators::accumulators::other::{argument_expressions, scalars_to_column};
use crate::engine::operators::accumulators::{Accumulator, GroupedRows, KeptValues, Multiset};
use crate::engine::operators::columns::{data_error, take_columns};

pub(crate) struct RetainedExtreme {
    side: Side,
    data_type: DataType,
    values: Multiset,
}

impl RetainedExtreme {
    pub fn new(side: Side, data_type: DataType) -> Result<RetainedExtreme> {
        Ok(RetainedExtreme {
            side,
            values: Multiset::new(vec![data_type.clone()])?,
            data_type,
        })
    }
}

impl Accumulator for RetainedExtreme {
    fn resize(&mut self, groups: usize) {
        self.values.resize(groups);
    }

    fn update(&mut self, arguments: &[ArrayRef], rows: GroupedRows<'_>) -> Result<()> {
        // NULLs are kept (they sort first) and skipped when read: cheaper than filtering every chunk.
        self.values.update(arguments, rows, |_, _, _| ())
    }

    fn merge(&mut self, _states: &[ArrayRef], _groups: &[u32]) -> Result<()> {
        Ok(())
    }

    fn evaluate(&mut self, groups: &[u32]) -> Result<ArrayRef> {
        if groups.is_empty() {
            return Ok(new_empty_array(&self.data_type));
        }
        let null = self.values.null_value()?;
        let values = groups.iter().map(|&group| {
            let mut existing = self.values.existing(group).map(|(value, _)| value);
            let found = match self.side {
                Side::Min => existing.find(|value| *value != null.as_ref()),
                Side::Max => existing.next_back(),
            };
            found.unwrap_or(null.as_ref())
        });
        Ok(self.values.decode(values)?.swap_remove(0))
    }

    fn state(&mut self, _groups: &[u32]) -> Result<Vec<ArrayRef>> {
        Ok(Vec::new())
    }

    fn reset(&mut self, group: u32) {
        self.values.reset(group);
    }

    fn clear(&mut self) {
        self.values.clear();
    }

    fn memory_bytes(&self) -> usize {
        self.values.memory_bytes()
    }

    fn multiset(&mut self) -> Option<&mut Multiset> {
        Some(&mut self.values)
    }
}

pub(crate) struct RetainedOther {
    function: Arc<AggregateFunctionExpr>,
    result: DataType,
    /// Argument columns, then the columns to order by.
    values: Multiset,
}

impl RetainedOther {
    pub fn new(function: Arc<AggregateFunctionExpr>, input: &Schema, result: &DataType) -> Result<RetainedOther> {
        let types = argument_expressions(&function)
            .iter()
            .map(|expression| expression.data_type(input))
            .collect::<Result<Vec<_>, _>>()?;
        Ok(RetainedOther {
            function,
            result: result.clone(),
            values: Multiset::new(types)?,
        })
    }

    fn compute(&self, group: u32) -> Result<ScalarValue> {
        let existing = self
            .values
            .existing(group)
            .flat_map(|(value, count)| std::iter::repeat_n(value, usize::try_from(count).unwrap_or(0)));
        let mut columns = self.values.decode(existing)?;
        let order_by = self.function.order_bys();
        if !order_by.is_empty() {
            let arguments = columns.len() - order_by.len();
            let sort: Vec<SortColumn> = order_by
                .iter()
                .zip(&columns[arguments..])
                .map(|(order, column)| SortColumn {
                    values: Arc::clone(column),
                    options: Some(order.options),
                })
                .collect();
            let indices: UInt32Array = lexsort_to_indices(&sort, None)?;
            columns = take_columns(&columns, &indices)?;
        }
        let mut accumulator = self.function.create_accumulator()?;
        if columns.first().is_some_and(|column| !column.is_empty()) {
            accumulator.update_batch(&columns).map_err(data_error)?;
        }
        accumulator.evaluate().map_err(data_error)
    }
}

impl Accumulator for RetainedOther {
    fn resize(&mut self, groups: usize) {
        self.values.resize(groups);
    }

    fn update(&mut self, arguments: &[ArrayRef], rows: GroupedRows<'_>) -> Result<()> {
        self.values.update(arguments, rows, |_, _, _| ())
    }

    fn merge(&mut self, _states: &[ArrayRef], _groups: &[u32]) -> Result<()> {
        Ok(())
    }

    fn evaluate(&mut self, groups: &[u32]) -> Result<ArrayRef> {
        let values = groups
            .iter()
            .map(|&group| self.compute(group))
            .collect::<Result<Vec<_>>>()?;
        scalars_to_column(values, &self.result)
    }

    fn state(&mut self, _groups: &[u32]) -> Result<Vec<ArrayRef>> {
        Ok(Vec::new())
    }

    fn reset(&mut self, group: u32) {
        self.values.reset(group);
    }

    fn clear(&mut self) {
        self.values.clear();
    }

    fn memory_bytes(&self) -> usize {
        self.values.memory_bytes()
    }

    fn multiset(&mut self) -> Option<&mut Multiset> {
        Some(&mut self.values)
    }
}

impl Multiset {
    /// The encoding of a row of NULLs.
    fn null_value(&self) -> Result<Box<[u8]>> {
        let nulls: Vec<ArrayRef> = self
            .types()
            .iter()
            .map(|data_type| new_null_array(data_type, 1))
            .collect();
        Ok(self.encode(&nulls)?.row(0).data().into())
    }
}
