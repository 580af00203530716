//! All aggregates of one operator over numbered groups, with the count of rows that says whether a group exists.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, RecordBatch, UInt32Array};
use arrow::compute::prep_null_mask_filter;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::physical_expr::PhysicalExpr;

use crate::engine::error::Error;
use crate::engine::graph::{AggregateCall, AggregateFunction, AggregatePhase, AggregateSpec};
use crate::engine::operator::Result;
use crate::engine::operators::accumulators::distinct::without_nulls;
use crate::engine::operators::accumulators::other::argument_expressions;
use crate::engine::operators::accumulators::{
    self, Accumulator, DistinctValues, GroupedRows, KeptValues, ROW_COUNT_COLUMN,
};
use crate::engine::operators::columns::{as_int64, evaluate, take_columns};

/// What an aggregation is, worked out once and shared by all its tables.
#[derive(Debug)]
pub(crate) struct AggregateLayout {
    pub spec: AggregateSpec,
    pub input: SchemaRef,
    /// State columns of all aggregates in order.
    pub state_fields: Vec<Field>,
    /// How many of them each aggregate has.
    state_widths: Vec<usize>,
    /// Result type of each aggregate.
    pub output_types: Vec<DataType>,
    /// In the `Final` phase, the input column that counts rows.
    row_count_column: Option<usize>,
}

impl AggregateLayout {
    pub fn new(spec: &AggregateSpec, input: &SchemaRef) -> Result<Arc<AggregateLayout>> {
        let mut state_fields = Vec::new();
        let mut state_widths = Vec::new();
        for call in &spec.aggregates {
            let fields = accumulators::state_fields(call, input, spec.append_only_input)?;
            state_widths.push(fields.len());
            state_fields.extend(fields);
        }
        let row_count_column = match spec.phase {
            AggregatePhase::Final => Some(input.index_of(ROW_COUNT_COLUMN).map_err(|_| {
                Error::Internal(format!(
                    "input of a final aggregate has no column \"{ROW_COUNT_COLUMN}\""
                ))
            })?),
            AggregatePhase::Single | AggregatePhase::Partial => None,
        };
        Ok(Arc::new(AggregateLayout {
            output_types: spec.aggregates.iter().map(|call| call.return_type.clone()).collect(),
            spec: spec.clone(),
            input: Arc::clone(input),
            state_fields,
            state_widths,
            row_count_column,
        }))
    }

    /// Types of the key columns.
    pub fn key_types(&self) -> Vec<DataType> {
        let key_type = |&key: &usize| self.input.field(key).data_type().clone();
        self.spec.keys.iter().map(key_type).collect()
    }

    /// The key columns of a chunk.
    pub fn key_columns(&self, rows: &RecordBatch) -> Vec<ArrayRef> {
        self.spec.keys.iter().map(|&key| Arc::clone(rows.column(key))).collect()
    }

    /// How many rows of the query's input each row stands for, when it is not one.
    pub fn represented_rows<'a>(&self, rows: &'a RecordBatch) -> Result<Option<&'a [i64]>> {
        match self.row_count_column {
            Some(column) => Ok(Some(as_int64(rows.column(column))?.values())),
            None => Ok(None),
        }
    }
}

/// Columnar memory of one table of groups.
pub(crate) struct Aggregates {
    layout: Arc<AggregateLayout>,
    calls: Vec<BoundCall>,
    distinct: Vec<SharedDistinct>,
    row_counts: Vec<i64>,
}

/// The values of all DISTINCT aggregates over the same arguments.
struct SharedDistinct {
    arguments: Vec<usize>,
    /// Which calls.
    members: Vec<usize>,
    values: DistinctValues,
}

struct BoundCall {
    accumulator: Box<dyn Accumulator>,
    arguments: Arguments,
    filter: Option<usize>,
    /// Gets its rows from a [`SharedDistinct`].
    is_distinct: bool,
}

enum Arguments {
    Columns(Vec<usize>),
    Expressions(Vec<Arc<dyn PhysicalExpr>>),
}

impl BoundCall {
    fn new(call: &AggregateCall, spec: &AggregateSpec, input: &Schema) -> Result<BoundCall> {
        let arguments = match &call.function {
            AggregateFunction::Other(function) if spec.phase != AggregatePhase::Final => {
                Arguments::Expressions(argument_expressions(function))
            }
            _ => Arguments::Columns(call.arguments.clone()),
        };
        Ok(BoundCall {
            accumulator: accumulators::build(call, input, spec.phase, spec.append_only_input)?,
            arguments,
            filter: call.filter,
            is_distinct: accumulators::is_distinct(call, spec.append_only_input),
        })
    }

    fn argument_columns(&self, rows: &RecordBatch) -> Result<Vec<ArrayRef>> {
        match &self.arguments {
            Arguments::Columns(columns) => Ok(columns.iter().map(|&column| Arc::clone(rows.column(column))).collect()),
            Arguments::Expressions(expressions) => expressions
                .iter()
                .map(|expression| evaluate(expression, rows))
                .collect(),
        }
    }

    fn update(&mut self, rows: &RecordBatch, grouped: GroupedRows<'_>) -> Result<()> {
        let Some(filter) = self.filter else {
            let arguments = self.argument_columns(rows)?;
            return self.accumulator.update(&arguments, grouped);
        };
        let wanted = filtered(rows, filter)?;
        self.update_filtered(rows, &wanted, grouped)
    }

    fn update_filtered(&mut self, rows: &RecordBatch, wanted: &BooleanArray, grouped: GroupedRows<'_>) -> Result<()> {
        let indices: Vec<u32> = wanted.values().set_indices_u32().collect();
        if indices.is_empty() {
            return Ok(());
        }
        let groups: Vec<u32> = indices.iter().map(|&row| grouped.groups[row as usize]).collect();
        let weights: Option<Vec<i64>> = grouped
            .weights
            .map(|weights| indices.iter().map(|&row| weights[row as usize]).collect());
        // Only what passed the filter is evaluated: it may guard an error.
        let indices = UInt32Array::from(indices);
        let arguments = match &self.arguments {
            Arguments::Columns(_) => take_columns(&self.argument_columns(rows)?, &indices)?,
            Arguments::Expressions(_) => {
                let kept = crate::engine::operators::columns::take_batch(rows, &indices)?;
                self.argument_columns(&kept)?
            }
        };
        let grouped = GroupedRows {
            groups: &groups,
            weights: weights.as_deref(),
        };
        self.accumulator.update(&arguments, grouped)
    }
}

/// The rows for which FILTER is true.
fn filtered(rows: &RecordBatch, filter: usize) -> Result<BooleanArray> {
    let wanted = rows
        .column(filter)
        .as_boolean_opt()
        .ok_or_else(|| Error::Internal("the FILTER of an aggregate is not boolean".into()))?;
    Ok(match wanted.null_count() {
        0 => wanted.clone(),
        _ => prep_null_mask_filter(wanted),
    })
}

impl SharedDistinct {
    /// One for each list of arguments.
    fn all(layout: &AggregateLayout) -> Result<Vec<SharedDistinct>> {
        let spec = &layout.spec;
        let mut members: Vec<(&[usize], Vec<usize>)> = Vec::new();
        for (at, call) in spec.aggregates.iter().enumerate() {
            if !accumulators::is_distinct(call, spec.append_only_input) {
                continue;
            }
            match members.iter_mut().find(|(arguments, _)| *arguments == call.arguments) {
                Some((_, calls)) => calls.push(at),
                None => members.push((&call.arguments, vec![at])),
            }
        }
        let shared = |(arguments, members): (&[usize], Vec<usize>)| {
            let value_type = |&argument: &usize| layout.input.field(argument).data_type().clone();
            let types = arguments.iter().map(value_type).collect();
            Ok(SharedDistinct {
                arguments: arguments.to_vec(),
                values: DistinctValues::new(types, members.len(), spec.append_only_input)?,
                members,
            })
        };
        members.into_iter().map(shared).collect()
    }

    fn update(&mut self, calls: &mut [BoundCall], rows: &RecordBatch, grouped: GroupedRows<'_>) -> Result<()> {
        let filter = |&member: &usize| calls[member].filter.map(|filter| filtered(rows, filter)).transpose();
        let filters: Vec<Option<BooleanArray>> = self.members.iter().map(filter).collect::<Result<_>>()?;
        let arguments: Vec<ArrayRef> = self.arguments.iter().map(|&at| Arc::clone(rows.column(at))).collect();
        let passes =
            |filter: &Option<BooleanArray>, row: u32| filter.as_ref().is_none_or(|wanted| wanted.value(row as usize));
        let mut kept = without_nulls(&arguments, rows.num_rows());
        if filters.iter().all(Option::is_some) {
            let all = kept.unwrap_or_else(|| (0..rows.num_rows() as u32).collect());
            let wanted = |&row: &u32| filters.iter().any(|filter| passes(filter, row));
            kept = Some(all.into_iter().filter(wanted).collect());
        }
        let Some(kept) = kept else {
            let amount = |row: usize, member: usize| match passes(&filters[member], row as u32) {
                true => grouped.weight(row),
                false => 0,
            };
            return self.add(calls, &arguments, grouped.groups, amount);
        };
        if kept.is_empty() {
            return Ok(());
        }
        let groups: Vec<u32> = kept.iter().map(|&row| grouped.groups[row as usize]).collect();
        let arguments = take_columns(&arguments, &UInt32Array::from(kept.clone()))?;
        let amount = |at: usize, member: usize| match passes(&filters[member], kept[at]) {
            true => grouped.weight(kept[at] as usize),
            false => 0,
        };
        self.add(calls, &arguments, &groups, amount)
    }

    /// Adds to the values, and to the accumulators what that changes.
    fn add(
        &mut self,
        calls: &mut [BoundCall],
        arguments: &[ArrayRef],
        groups: &[u32],
        amount: impl Fn(usize, usize) -> i64,
    ) -> Result<()> {
        let crossings = self.values.add(arguments, groups, amount)?;
        for (&member, crossings) in self.members.iter().zip(crossings) {
            if crossings.rows.is_empty() {
                continue;
            }
            let groups: Vec<u32> = crossings.rows.iter().map(|&row| groups[row as usize]).collect();
            let arguments = take_columns(arguments, &UInt32Array::from(crossings.rows))?;
            let changed = GroupedRows {
                groups: &groups,
                weights: Some(&crossings.weights),
            };
            calls[member].accumulator.update(&arguments, changed)?;
        }
        Ok(())
    }

    fn absorb(&mut self, calls: &mut [BoundCall], from: u32, into: u32) -> Result<()> {
        let entries = self.values.entries_of(from);
        let groups = vec![into; entries.groups.len()];
        self.add(calls, &entries.values, &groups, |row, member| {
            entries.counts[member][row]
        })
    }
}

impl Aggregates {
    pub fn new(layout: &Arc<AggregateLayout>) -> Result<Aggregates> {
        let spec = &layout.spec;
        let calls = spec
            .aggregates
            .iter()
            .map(|call| BoundCall::new(call, spec, &layout.input));
        Ok(Aggregates {
            calls: calls.collect::<Result<_>>()?,
            distinct: SharedDistinct::all(layout)?,
            layout: Arc::clone(layout),
            row_counts: Vec::new(),
        })
    }

    pub fn resize(&mut self, groups: usize) {
        if self.row_counts.len() < groups {
            self.row_counts.resize(groups, 0);
            for call in &mut self.calls {
                call.accumulator.resize(groups);
            }
            for shared in &mut self.distinct {
                shared.values.resize(groups);
            }
        }
    }

    /// Adds the rows of a chunk: rows of the input, or states in the `Final` phase.
    pub fn apply(&mut self, rows: &RecordBatch, groups: &[u32], weights: Option<&[i64]>) -> Result<()> {
        if let Some(column) = self.layout.row_count_column {
            let counts = as_int64(rows.column(column))?;
            let mut states = Vec::with_capacity(self.calls.len());
            for call in &self.calls {
                states.push(call.argument_columns(rows)?);
            }
            return self.merge(&states, counts.values(), groups);
        }
        match weights {
            None => groups.iter().for_each(|&group| self.row_counts[group as usize] += 1),
            Some(weights) => {
                for (&group, &weight) in groups.iter().zip(weights) {
                    self.row_counts[group as usize] += weight;
                }
            }
        }
        let grouped = GroupedRows { groups, weights };
        for call in self.calls.iter_mut().filter(|call| !call.is_distinct) {
            call.update(rows, grouped)?;
        }
        for shared in &mut self.distinct {
            shared.update(&mut self.calls, rows, grouped)?;
        }
        Ok(())
    }

    /// Adds states as [`Aggregates::states`] gives them, all columns in a row.
    pub fn merge_states(&mut self, states: &[ArrayRef], counts: &[i64], groups: &[u32]) -> Result<()> {
        let mut rest = states;
        let mut by_call = Vec::with_capacity(self.calls.len());
        for &width in &self.layout.state_widths {
            let (own, others) = rest.split_at(width);
            by_call.push(own.to_vec());
            rest = others;
        }
        self.merge(&by_call, counts, groups)
    }

    fn merge(&mut self, states: &[Vec<ArrayRef>], counts: &[i64], groups: &[u32]) -> Result<()> {
        for (&group, &count) in groups.iter().zip(counts) {
            self.row_counts[group as usize] += count;
        }
        for (call, columns) in self.calls.iter_mut().zip(states) {
            if !columns.is_empty() {
                call.accumulator.merge(columns, groups)?;
            }
        }
        Ok(())
    }

    /// The result columns.
    pub fn outputs(&mut self, groups: &[u32]) -> Result<Vec<ArrayRef>> {
        self.calls
            .iter_mut()
            .map(|call| call.accumulator.evaluate(groups))
            .collect()
    }

    /// The state columns.
    pub fn states(&mut self, groups: &[u32]) -> Result<Vec<ArrayRef>> {
        let mut columns = Vec::with_capacity(self.layout.state_fields.len());
        for call in &mut self.calls {
            columns.extend(call.accumulator.state(groups)?);
        }
        Ok(columns)
    }

    /// Adds all that group `from` has to group `into`.
    pub fn absorb(&mut self, from: u32, into: u32) -> Result<()> {
        self.row_counts[into as usize] += self.row_counts[from as usize];
        for call in self.calls.iter_mut().filter(|call| !call.is_distinct) {
            call.accumulator.absorb(from, into)?;
        }
        for shared in &mut self.distinct {
            shared.absorb(&mut self.calls, from, into)?;
        }
        Ok(())
    }

    /// Rows inserted minus rows retracted.
    #[inline]
    pub fn row_count(&self, group: u32) -> i64 {
        self.row_counts[group as usize]
    }

    pub fn reset(&mut self, group: u32) {
        self.row_counts[group as usize] = 0;
        for call in &mut self.calls {
            call.accumulator.reset(group);
        }
        for shared in &mut self.distinct {
            shared.values.reset(group);
        }
    }

    pub fn clear(&mut self) {
        self.row_counts.clear();
        for call in &mut self.calls {
            call.accumulator.clear();
        }
        for shared in &mut self.distinct {
            shared.values.clear();
        }
    }

    /// All that is kept as values, always in the same order.
    pub fn kept_values(&mut self) -> impl Iterator<Item = &mut dyn KeptValues> {
        let shared = self
            .distinct
            .iter_mut()
            .map(|shared| &mut shared.values as &mut dyn KeptValues);
        let own = self.calls.iter_mut().filter_map(|call| call.accumulator.multiset());
        shared.chain(own.map(|values| values as &mut dyn KeptValues))
    }

    pub fn memory_bytes(&self) -> usize {
        let accumulators: usize = self.calls.iter().map(|call| call.accumulator.memory_bytes()).sum();
        let distinct: usize = self.distinct.iter().map(|shared| shared.values.memory_bytes()).sum();
        accumulators + distinct + self.row_counts.capacity() * 8
    }
}
