//! From one set of rows to another: which went and which came, each row as often as it is there.
//!
//! Rows are compared by all their columns in Arrow's row format, where NULL equals NULL and NaN equals NaN. The order of
//! what is given follows from the order of the inputs alone: the same inputs give the same pieces.

use arrow::array::{Int64Array, RecordBatch, UInt32Array};
use arrow::buffer::ScalarBuffer;
use arrow::row::{RowConverter, SortField};
use hashbrown::HashMap;

use crate::engine::message::Chunk;
use crate::engine::operator::Result;
use crate::engine::operators::columns::take_batch;

/// Rows with a weight each.
#[derive(Clone, Debug)]
pub struct WeightedRows {
    pub rows: RecordBatch,
    pub weights: ScalarBuffer<i64>,
}

impl WeightedRows {
    fn all(rows: RecordBatch, weight: i64) -> WeightedRows {
        let weights = ScalarBuffer::from(vec![weight; rows.num_rows()]);
        WeightedRows { rows, weights }
    }

    pub fn len(&self) -> usize {
        self.rows.num_rows()
    }

    pub fn takes_rows_away(&self) -> bool {
        self.weights.iter().any(|&weight| weight < 0)
    }
}

/// What leads from `before` to `after`: the rows that went, then those that came.
pub fn difference(before: &[RecordBatch], after: &[RecordBatch]) -> Result<Vec<WeightedRows>> {
    if before.iter().all(|rows| rows.num_rows() == 0) {
        let came = after.iter().filter(|rows| rows.num_rows() > 0);
        return Ok(came.map(|rows| WeightedRows::all(rows.clone(), 1)).collect());
    }
    let mut counter = RowCounter::of(before)?;
    counter.add(before, 1)?;
    let mut came = Vec::new();
    for rows in after {
        let new = counter.select(rows, |left| {
            let is_new = *left <= 0;
            *left -= i64::from(!is_new);
            is_new
        })?;
        came.extend(new.map(|rows| WeightedRows::all(rows, 1)));
    }
    let mut changes = Vec::new();
    for rows in before {
        let gone = counter.select(rows, |left| {
            let is_gone = *left > 0;
            *left -= i64::from(is_gone);
            is_gone
        })?;
        changes.extend(gone.map(|rows| WeightedRows::all(rows, -1)));
    }
    changes.extend(came);
    Ok(changes)
}

/// What several changes, one after the other, amount to: no row is in it twice, and none that went as often as it came.
pub fn consolidated(changes: &[Chunk]) -> Result<Vec<WeightedRows>> {
    let weighted = |chunk: &Chunk| WeightedRows {
        rows: chunk.rows.clone(),
        weights: (0..chunk.len()).map(|row| chunk.weight(row)).collect(),
    };
    let all: Vec<WeightedRows> = changes.iter().filter(|chunk| !chunk.is_empty()).map(weighted).collect();
    if all.len() <= 1 || !all.iter().any(WeightedRows::takes_rows_away) {
        return Ok(all);
    }
    let batches: Vec<RecordBatch> = all.iter().map(|changes| changes.rows.clone()).collect();
    let mut counter = RowCounter::of(&batches)?;
    for changes in &all {
        counter.add_weights(&changes.rows, &changes.weights)?;
    }
    let (mut gone, mut came) = (Vec::new(), Vec::new());
    for rows in &batches {
        let mut weights = Vec::new();
        // The first time that a row is met it says all that is left of it.
        let left = counter.select(rows, |left| {
            let weight = std::mem::take(left);
            weights.extend((weight != 0).then_some(weight));
            weight != 0
        })?;
        let Some(rows) = left else {
            continue;
        };
        let places = |keep: fn(i64) -> bool| -> Vec<u32> {
            let all = weights.iter().enumerate();
            all.filter(|(_, weight)| keep(**weight))
                .map(|(at, _)| at as u32)
                .collect()
        };
        for (into, at) in [
            (&mut gone, places(|weight| weight < 0)),
            (&mut came, places(|weight| weight > 0)),
        ] {
            if !at.is_empty() {
                let weights = at.iter().map(|&at| weights[at as usize]).collect();
                let rows = take_batch(&rows, &UInt32Array::from(at))?;
                into.push(WeightedRows { rows, weights });
            }
        }
    }
    gone.extend(came);
    Ok(gone)
}

/// How often each row is there.
struct RowCounter {
    converter: RowConverter,
    counts: HashMap<Vec<u8>, i64>,
}

impl RowCounter {
    fn of(batches: &[RecordBatch]) -> Result<RowCounter> {
        let fields = batches.first().map(|rows| rows.schema());
        let fields = fields.iter().flat_map(|schema| schema.fields().iter());
        let fields = fields.map(|field| SortField::new(field.data_type().clone())).collect();
        Ok(RowCounter {
            converter: RowConverter::new(fields)?,
            counts: HashMap::new(),
        })
    }

    fn add(&mut self, batches: &[RecordBatch], weight: i64) -> Result<()> {
        for rows in batches {
            let weights = Int64Array::from_value(weight, rows.num_rows());
            self.add_weights(rows, weights.values())?;
        }
        Ok(())
    }

    fn add_weights(&mut self, rows: &RecordBatch, weights: &[i64]) -> Result<()> {
        let encoded = self.converter.convert_columns(rows.columns())?;
        for (row, weight) in encoded.iter().zip(weights) {
            *self.counts.entry_ref(row.data()).or_insert(0) += weight;
        }
        Ok(())
    }

    /// The rows for which `keep` says so, given how often the row is left; `None`: no row.
    fn select(&mut self, rows: &RecordBatch, mut keep: impl FnMut(&mut i64) -> bool) -> Result<Option<RecordBatch>> {
        let encoded = self.converter.convert_columns(rows.columns())?;
        let mut kept = Vec::new();
        for (at, row) in encoded.iter().enumerate() {
            if keep(self.counts.entry_ref(row.data()).or_insert(0)) {
                kept.push(at as u32);
            }
        }
        if kept.is_empty() {
            return Ok(None);
        }
        Ok(Some(take_batch(rows, &UInt32Array::from(kept))?))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::sync::Arc;

    use arrow::array::{ArrayRef, AsArray, Float64Array};
    use arrow::datatypes::{DataType, Field, Float64Type, Schema};

    use super::*;
    use crate::engine::message::Weights;

    fn rows(values: &[Option<f64>]) -> RecordBatch {
        let schema = Arc::new(Schema::new(vec![Field::new("v", DataType::Float64, true)]));
        let column: ArrayRef = Arc::new(Float64Array::from(values.to_vec()));
        RecordBatch::try_new(schema, vec![column]).unwrap()
    }

    fn shown(changes: &[WeightedRows]) -> Vec<String> {
        let of = |part: &WeightedRows| -> Vec<String> {
            let values = part.rows.column(0).as_primitive::<Float64Type>();
            let each = values.iter().zip(part.weights.iter());
            each.map(|(value, weight)| format!("{weight:+} {value:?}")).collect()
        };
        changes.iter().flat_map(of).collect()
    }

    #[test]
    fn rows_are_compared_as_often_as_they_are_there() {
        let before = [rows(&[Some(1.0), Some(1.0), None]), rows(&[Some(f64::NAN)])];
        let after = [rows(&[None, Some(2.0), Some(1.0), None]), rows(&[Some(f64::NAN)])];
        let changes = difference(&before, &after).unwrap();
        assert_eq!(shown(&changes), ["-1 Some(1.0)", "+1 Some(2.0)", "+1 None"]);
        assert!(shown(&difference(&before, &before).unwrap()).is_empty());
        assert_eq!(shown(&difference(&[], &before[1..]).unwrap()), ["+1 Some(NaN)"]);
        assert_eq!(shown(&difference(&before[1..], &[]).unwrap()), ["-1 Some(NaN)"]);
    }

    #[test]
    fn what_came_and_went_says_nothing() {
        let signed = |values: &[Option<f64>], weights: Vec<i64>| Chunk {
            weights: Weights::Signed(weights.into()),
            ..Chunk::insert(rows(values))
        };
        let changes = [
            signed(&[Some(1.0), Some(2.0)], vec![-1, 1]),
            signed(&[Some(2.0), Some(3.0)], vec![-1, 1]),
            signed(&[Some(3.0), Some(3.0)], vec![1, 1]),
        ];
        assert_eq!(
            shown(&consolidated(&changes).unwrap()),
            ["-1 Some(1.0)", "+3 Some(3.0)"]
        );
    }
}
