//! An order of rows, as inside a partition of OVER: total, and the same whatever the order of arrival.
//!
//! Rows that ORDER BY does not tell apart come in the order of their other columns' values, from left to right. Rows that
//! agree in all columns are interchangeable. (Columns of types that have no order, such as MAP, are not looked at.) To ORDER BY
//! and PARTITION BY, zeros of both signs are one value, and so are all NaNs; what still differs orders last.

use std::ops::Range;
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, UInt32Array};
use arrow::compute::{SortOptions, partition};
use arrow::datatypes::SchemaRef;
use arrow::row::{RowConverter, Rows, SortField};

use crate::engine::operator::Result;
use crate::engine::operators::columns::take_columns;
use crate::engine::order_column::OrderColumn;
use crate::state::canonical::{canonical_floats, has_floats};

pub(crate) struct RowOrder {
    converter: RowConverter,
    columns: Vec<Compared>,
}

struct Compared {
    column: usize,
    options: SortOptions,
    /// As ORDER BY sees it, and not bit by bit.
    as_value: bool,
}

impl RowOrder {
    /// By `first`, then by `order`, then by whatever else there is.
    pub fn new(first: &[usize], order: &[OrderColumn], input: &SchemaRef) -> Result<RowOrder> {
        let plain = SortOptions::default();
        let compared = |column, options, as_value| Compared {
            column,
            options,
            as_value,
        };
        let mut columns: Vec<Compared> = first.iter().map(|&column| compared(column, plain, true)).collect();
        columns.extend(order.iter().map(|order| compared(order.column, order.options(), true)));
        for column in 0..input.fields().len() {
            let known = columns.iter().any(|known| known.column == column);
            if !known || has_floats(input.field(column).data_type()) {
                columns.push(compared(column, plain, false));
            }
        }
        let field = |of: &Compared| SortField::new_with_options(input.field(of.column).data_type().clone(), of.options);
        columns.retain(|of| RowConverter::supports_fields(&[field(of)]));
        Ok(RowOrder {
            converter: RowConverter::new(columns.iter().map(field).collect())?,
            columns,
        })
    }

    /// What is compared of rows with all their columns.
    fn encoded(&self, columns: &[ArrayRef]) -> Result<Rows> {
        let compared = |of: &Compared| match of.as_value {
            true => canonical_floats(&columns[of.column]),
            false => Arc::clone(&columns[of.column]),
        };
        let compared: Vec<ArrayRef> = self.columns.iter().map(compared).collect();
        Ok(self.converter.convert_columns(&compared)?)
    }

    /// The rows in order: by `rank` of each, then by this.
    pub fn sort<R: Ord + Copy>(&self, rows: &RecordBatch, rank: &[R]) -> Result<Vec<u32>> {
        let mut sorted: Vec<u32> = (0..rows.num_rows() as u32).collect();
        sorted.sort_unstable_by_key(|&row| rank[row as usize]);
        let is_tied = |range: &Range<usize>| range.len() > 1;
        let ties: Vec<Range<usize>> = runs(sorted.len(), |one, other| {
            rank[sorted[one] as usize] == rank[sorted[other] as usize]
        })
        .into_iter()
        .filter(is_tied)
        .collect();
        if ties.is_empty() {
            return Ok(sorted);
        }
        let tied: Vec<u32> = ties.iter().flat_map(|range| &sorted[range.clone()]).copied().collect();
        let encoded = self.encoded(&take_columns(rows.columns(), &UInt32Array::from(tied.clone()))?)?;
        let mut start = 0;
        for range in ties {
            let mut places: Vec<usize> = (start..start + range.len()).collect();
            places.sort_by(|&one, &other| encoded.row(one).cmp(&encoded.row(other)));
            start += range.len();
            for (at, place) in range.zip(places) {
                sorted[at] = tied[place];
            }
        }
        Ok(sorted)
    }

    /// Ranges of rows, which are in this order, that agree in all columns.
    pub fn equal(&self, rows: &RecordBatch) -> Result<Vec<Range<usize>>> {
        let encoded = self.encoded(rows.columns())?;
        Ok(runs(rows.num_rows(), |one, other| {
            encoded.row(one) == encoded.row(other)
        }))
    }
}

/// Ranges of neighbours for which `same` holds.
fn runs(len: usize, same: impl Fn(usize, usize) -> bool) -> Vec<Range<usize>> {
    let mut runs = Vec::new();
    let mut start = 0;
    for at in 1..=len {
        if at == len || !same(at - 1, at) {
            runs.push(start..at);
            start = at;
        }
    }
    runs
}

/// Ranges of rows, which are sorted, that agree in `columns`; NULL is equal to NULL, NaN to NaN.
pub(crate) fn agreeing(rows: &RecordBatch, columns: &[usize]) -> Result<Vec<Range<usize>>> {
    if rows.num_rows() == 0 {
        return Ok(Vec::new());
    }
    if columns.is_empty() {
        return Ok(vec![Range {
            start: 0,
            end: rows.num_rows(),
        }]);
    }
    let columns: Vec<ArrayRef> = columns
        .iter()
        .map(|&column| canonical_floats(rows.column(column)))
        .collect();
    Ok(partition(&columns)?.ranges())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use arrow::array::{Float64Array, Int64Array};
    use arrow::datatypes::{DataType, Field, Schema};

    use super::*;

    #[test]
    fn zeros_and_nans_are_peers_and_still_have_an_order() {
        let fields = [("x", DataType::Float64), ("v", DataType::Int64)];
        let fields = fields.map(|(name, of)| Field::new(name, of, true));
        let schema = Arc::new(Schema::new(fields.to_vec()));
        let order = [OrderColumn {
            column: 0,
            descending: false,
            nulls_first: false,
        }];
        let row_order = RowOrder::new(&[], &order, &schema).unwrap();
        let rows = |x: Vec<f64>, v: Vec<i64>| {
            let columns: Vec<ArrayRef> = vec![Arc::new(Float64Array::from(x)), Arc::new(Int64Array::from(v))];
            RecordBatch::try_new(Arc::clone(&schema), columns).unwrap()
        };
        let one = rows(vec![f64::NAN, 0.0, -0.0, -f64::NAN, -0.0], vec![1, 2, 3, 0, 2]);
        let sorted = row_order.sort(&one, &[(); 5]).unwrap();
        assert_eq!(sorted, [4, 2, 1, 3, 0]);
        let sorted = crate::engine::operators::columns::take_batch(&one, &UInt32Array::from(sorted)).unwrap();
        assert_eq!(agreeing(&sorted, &[0]).unwrap(), [0..3, 3..5]);
        assert_eq!(row_order.equal(&sorted).unwrap().len(), 5);
        // The other way round it is the same.
        let other = rows(vec![-0.0, -f64::NAN, -0.0, 0.0, f64::NAN], vec![2, 0, 3, 2, 1]);
        assert_eq!(row_order.sort(&other, &[(); 5]).unwrap(), [0, 2, 3, 1, 4]);
    }
}
