//! UNNEST: one row an element of the list columns; struct columns become one column a field.
//!
//! Several lists of one row are walked together, the shorter ones ending in NULLs. A column with `depth` levels to take off
//! goes level by level, deepest columns first, as in the batch engine. NULL and empty lists give no row, unless
//! `preserve_nulls` asks for one row of NULLs.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, ListArray, UInt32Array, new_null_array};
use arrow::compute::{cast, take};
use arrow::datatypes::{DataType, SchemaRef};

use crate::engine::error::Error;
use crate::engine::graph::{UnnestColumn, UnnestSpec};
use crate::engine::message::{CHUNK_ROWS_TARGET, Chunk, Weights};
use crate::engine::operator::{Operator, Output, Result};
use crate::engine::operators::columns::{batch_of, take_buffer, take_columns};

pub(crate) struct Unnest {
    spec: UnnestSpec,
    schema: SchemaRef,
}

/// Output columns on their way: values so far, and levels still to take off.
struct Expanding {
    columns: Vec<ArrayRef>,
    levels: Vec<usize>,
    /// For each row, the input row it came from.
    origin: UInt32Array,
}

impl Unnest {
    pub fn new(spec: &UnnestSpec, schema: &SchemaRef) -> Unnest {
        Unnest {
            spec: spec.clone(),
            schema: Arc::clone(schema),
        }
    }

    fn start(&self, chunk: &Chunk) -> Result<Expanding> {
        let mut columns = Vec::with_capacity(self.spec.columns.len());
        let mut levels = Vec::with_capacity(self.spec.columns.len());
        for column in &self.spec.columns {
            let (values, level) = match *column {
                UnnestColumn::Repeat { input } => (Arc::clone(chunk.rows.column(input)), 0),
                UnnestColumn::List { input, depth } => (Arc::clone(chunk.rows.column(input)), depth),
                UnnestColumn::StructField { input, field } => (struct_field(chunk.rows.column(input), field)?, 0),
            };
            columns.push(values);
            levels.push(level);
        }
        Ok(Expanding {
            columns,
            levels,
            origin: (0..chunk.len() as u32).collect(),
        })
    }
}

/// A field's values, NULL where the struct itself is.
fn struct_field(column: &ArrayRef, field: usize) -> Result<ArrayRef> {
    let structs = column
        .as_struct_opt()
        .ok_or_else(|| Error::Internal(format!("expected a struct column, found {}", column.data_type())))?;
    let values = structs.column(field);
    match structs.nulls() {
        Some(nulls) if nulls.null_count() > 0 => {
            let indices: UInt32Array = (0..values.len())
                .map(|row| nulls.is_valid(row).then_some(row as u32))
                .collect();
            Ok(take(values, &indices, None)?)
        }
        _ => Ok(Arc::clone(values)),
    }
}

/// Every list form as the plain one.
fn as_list(column: &ArrayRef) -> Result<ListArray> {
    let plain = match column.data_type() {
        DataType::List(_) => Arc::clone(column),
        DataType::LargeList(item) | DataType::FixedSizeList(item, _) => {
            cast(column, &DataType::List(Arc::clone(item)))?
        }
        DataType::Null => {
            let item = Arc::new(arrow::datatypes::Field::new_list_field(DataType::Null, true));
            new_null_array(&DataType::List(item), column.len())
        }
        other => return Err(Error::Internal(format!("cannot unnest {other}"))),
    };
    Ok(plain.as_list::<i32>().clone())
}

fn list_length(list: &ListArray, row: usize) -> usize {
    if list.is_null(row) {
        0
    } else {
        list.value_length(row) as usize
    }
}

/// Takes one level off the columns that have `level` levels to go (or more).
fn expand(state: Expanding, level: usize, preserve_nulls: bool) -> Result<Expanding> {
    let lists: Vec<Option<ListArray>> = state
        .columns
        .iter()
        .zip(&state.levels)
        .map(|(column, &levels)| {
            if levels >= level {
                as_list(column).map(Some)
            } else {
                Ok(None)
            }
        })
        .collect::<Result<_>>()?;
    let mut lengths = Vec::with_capacity(state.origin.len());
    let mut parents: Vec<u32> = Vec::new();
    for row in 0..state.origin.len() {
        let longest = lists
            .iter()
            .flatten()
            .map(|list| list_length(list, row))
            .max()
            .unwrap_or(0);
        let length = if longest == 0 {
            usize::from(preserve_nulls)
        } else {
            longest
        };
        lengths.push(length);
        parents.extend(std::iter::repeat_n(row as u32, length));
    }
    let parents = UInt32Array::from(parents);
    let mut columns = Vec::with_capacity(state.columns.len());
    for (column, list) in state.columns.iter().zip(&lists) {
        columns.push(match list {
            None => take(column, &parents, None)?,
            Some(list) => take(list.values(), &element_indices(list, &lengths), None)?,
        });
    }
    let origin = take_columns(&[Arc::new(state.origin) as ArrayRef], &parents)?.swap_remove(0);
    Ok(Expanding {
        columns,
        levels: state
            .levels
            .iter()
            .map(|&levels| if levels >= level { level - 1 } else { levels })
            .collect(),
        origin: origin.as_primitive().clone(),
    })
}

/// Where in the values each output row finds its element.
fn element_indices(list: &ListArray, lengths: &[usize]) -> UInt32Array {
    let mut indices: Vec<Option<u32>> = Vec::with_capacity(lengths.iter().sum());
    for (row, &length) in lengths.iter().enumerate() {
        let own = list_length(list, row);
        let start = list.value_offsets()[row] as usize;
        indices.extend((0..length).map(|at| (at < own).then(|| (start + at) as u32)));
    }
    UInt32Array::from(indices)
}

impl Operator for Unnest {
    fn name(&self) -> &'static str {
        "unnest"
    }

    fn process(&mut self, _input: usize, chunk: Chunk, output: &mut Output) -> Result<()> {
        let mut state = self.start(&chunk)?;
        let deepest = state.levels.iter().copied().max().unwrap_or(0);
        for level in (1..=deepest).rev() {
            state = expand(state, level, self.spec.preserve_nulls)?;
        }
        // Long lists would make chunks of any size.
        for start in (0..state.origin.len()).step_by(CHUNK_ROWS_TARGET) {
            let length = CHUNK_ROWS_TARGET.min(state.origin.len() - start);
            let origin = state.origin.slice(start, length);
            let columns = state.columns.iter().map(|column| column.slice(start, length)).collect();
            output.data(Chunk {
                rows: batch_of(&self.schema, columns, length)?,
                weights: match &chunk.weights {
                    Weights::AllInsert => Weights::AllInsert,
                    Weights::Signed(weights) => Weights::Signed(take_buffer(weights, &origin)),
                },
                event_time: chunk.event_time.as_ref().map(|times| take_buffer(times, &origin)),
                key_hashes: None,
            });
        }
        Ok(())
    }
}
