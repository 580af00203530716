//! Any other aggregate function of the expression library over append-only input: one of its accumulators a group.
//!
//! Its `state` and `evaluate` may drain, so a read takes the state out and merges it into two fresh accumulators, one to
//! keep and one to read: O(state) a read, and right for every function.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, UInt32Array, new_empty_array};
use arrow::compute::cast;
use arrow::datatypes::DataType;
use datafusion::logical_expr::Accumulator as LibraryAccumulator;
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::aggregate::AggregateFunctionExpr;
use datafusion::scalar::ScalarValue;

use crate::engine::operator::Result;
use crate::engine::operators::accumulators::{Accumulator, GroupedRows};
use crate::engine::operators::columns::{data_error, take_columns};

pub(crate) struct Other {
    function: Arc<AggregateFunctionExpr>,
    result: DataType,
    state_types: Vec<DataType>,
    groups: Vec<Option<Box<dyn LibraryAccumulator>>>,
}

/// What the function's accumulator is fed: its arguments, then what it is ordered by.
pub(crate) fn argument_expressions(function: &AggregateFunctionExpr) -> Vec<Arc<dyn PhysicalExpr>> {
    let mut expressions = function.expressions();
    expressions.extend(function.order_bys().iter().map(|order| Arc::clone(&order.expr)));
    expressions
}

/// One column of single values, in the type that the plan announced.
pub(crate) fn scalars_to_column(values: Vec<ScalarValue>, result: &DataType) -> Result<ArrayRef> {
    if values.is_empty() {
        return Ok(new_empty_array(result));
    }
    let column = ScalarValue::iter_to_array(values)?;
    if column.data_type() == result {
        return Ok(column);
    }
    Ok(cast(&column, result)?)
}

impl Other {
    pub fn new(function: Arc<AggregateFunctionExpr>, result: &DataType) -> Result<Other> {
        let state_types = function
            .state_fields()?
            .iter()
            .map(|field| field.data_type().clone())
            .collect();
        Ok(Other {
            function,
            result: result.clone(),
            state_types,
            groups: Vec::new(),
        })
    }

    /// Calls `feed` once a group with the rows of that group, in their order.
    fn by_group(
        &mut self,
        columns: &[ArrayRef],
        groups: &[u32],
        feed: impl Fn(&mut dyn LibraryAccumulator, &[ArrayRef]) -> datafusion::error::Result<()>,
    ) -> Result<()> {
        let mut order: Vec<u32> = (0..groups.len() as u32).collect();
        order.sort_by_key(|&row| groups[row as usize]);
        let sorted_groups: Vec<u32> = order.iter().map(|&row| groups[row as usize]).collect();
        let sorted = take_columns(columns, &UInt32Array::from(order))?;
        let mut start = 0;
        while start < sorted_groups.len() {
            let group = sorted_groups[start];
            let length = sorted_groups[start..]
                .iter()
                .take_while(|&&other| other == group)
                .count();
            let rows: Vec<ArrayRef> = sorted.iter().map(|column| column.slice(start, length)).collect();
            let accumulator = match &mut self.groups[group as usize] {
                Some(accumulator) => accumulator,
                vacant => vacant.insert(self.function.create_accumulator()?),
            };
            feed(accumulator.as_mut(), &rows).map_err(data_error)?;
            start += length;
        }
        Ok(())
    }

    /// The state of a group, left as it was.
    fn peek(&mut self, group: u32) -> Result<Vec<ScalarValue>> {
        let mut drained = match self.groups[group as usize].take() {
            Some(accumulator) => accumulator,
            None => return Ok(self.function.create_accumulator()?.state()?),
        };
        let state = drained.state().map_err(data_error)?;
        self.groups[group as usize] = Some(self.accumulator_of(&state)?);
        Ok(state)
    }

    fn accumulator_of(&self, state: &[ScalarValue]) -> Result<Box<dyn LibraryAccumulator>> {
        let mut accumulator = self.function.create_accumulator()?;
        let columns = state.iter().map(ScalarValue::to_array).collect::<Result<Vec<_>, _>>()?;
        accumulator.merge_batch(&columns).map_err(data_error)?;
        Ok(accumulator)
    }
}

impl Accumulator for Other {
    fn resize(&mut self, groups: usize) {
        if self.groups.len() < groups {
            self.groups.resize_with(groups, || None);
        }
    }

    fn update(&mut self, arguments: &[ArrayRef], rows: GroupedRows<'_>) -> Result<()> {
        let Some(weights) = rows.weights else {
            return self.by_group(arguments, rows.groups, |accumulator, columns| {
                accumulator.update_batch(columns)
            });
        };
        let repeated: Vec<u32> = (0..rows.groups.len() as u32)
            .flat_map(|row| std::iter::repeat_n(row, usize::try_from(weights[row as usize]).unwrap_or(0)))
            .collect();
        let groups: Vec<u32> = repeated.iter().map(|&row| rows.groups[row as usize]).collect();
        let columns = take_columns(arguments, &UInt32Array::from(repeated))?;
        self.by_group(&columns, &groups, |accumulator, columns| {
            accumulator.update_batch(columns)
        })
    }

    fn merge(&mut self, states: &[ArrayRef], groups: &[u32]) -> Result<()> {
        self.by_group(states, groups, |accumulator, columns| accumulator.merge_batch(columns))
    }

    fn evaluate(&mut self, groups: &[u32]) -> Result<ArrayRef> {
        let mut values = Vec::with_capacity(groups.len());
        for &group in groups {
            let mut reader = match &self.groups[group as usize] {
                Some(_) => {
                    let state = self.peek(group)?;
                    self.accumulator_of(&state)?
                }
                None => self.function.create_accumulator()?,
            };
            values.push(reader.evaluate().map_err(data_error)?);
        }
        scalars_to_column(values, &self.result)
    }

    fn state(&mut self, groups: &[u32]) -> Result<Vec<ArrayRef>> {
        let mut columns: Vec<Vec<ScalarValue>> = vec![Vec::with_capacity(groups.len()); self.state_types.len()];
        for &group in groups {
            for (column, value) in columns.iter_mut().zip(self.peek(group)?) {
                column.push(value);
            }
        }
        columns
            .into_iter()
            .zip(&self.state_types)
            .map(|(values, data_type)| scalars_to_column(values, data_type))
            .collect()
    }

    fn reset(&mut self, group: u32) {
        self.groups[group as usize] = None;
    }

    fn clear(&mut self) {
        self.groups.clear();
    }

    fn memory_bytes(&self) -> usize {
        let held: usize = self.groups.iter().flatten().map(|accumulator| accumulator.size()).sum();
        held + self.groups.capacity() * size_of::<Option<Box<dyn LibraryAccumulator>>>()
    }
}
