//! The order of rows inside a partition: total, and the same whatever the order of arrival.
//!
//! Rows that ORDER BY does not tell apart come in the order of their other columns' values, from left to right. Rows that
//! agree in all columns are interchangeable. (Columns of types that have no order, such as MAP, are not looked at.)

use std::ops::Range;
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, UInt32Array};
use arrow::compute::{SortOptions, partition};
use arrow::datatypes::SchemaRef;
use arrow::row::{RowConverter, SortField};

use crate::engine::operator::Result;
use crate::engine::operators::columns::take_columns;
use crate::engine::over_spec::OrderColumn;

pub(super) struct RowOrder {
    converter: RowConverter,
    columns: Vec<usize>,
}

impl RowOrder {
    /// By `first`, then by `order`, then by whatever else there is.
    pub fn new(first: &[usize], order: &[OrderColumn], input: &SchemaRef) -> Result<RowOrder> {
        let plain = SortOptions::default();
        let mut sort: Vec<(usize, SortOptions)> = first.iter().map(|&column| (column, plain)).collect();
        sort.extend(order.iter().map(|order| {
            let options = SortOptions {
                descending: order.descending,
                nulls_first: order.nulls_first,
            };
            (order.column, options)
        }));
        for column in 0..input.fields().len() {
            if sort.iter().all(|(known, _)| *known != column) {
                sort.push((column, plain));
            }
        }
        let field = |(column, options): &(usize, SortOptions)| {
            SortField::new_with_options(input.field(*column).data_type().clone(), *options)
        };
        sort.retain(|of| RowConverter::supports_fields(&[field(of)]));
        Ok(RowOrder {
            converter: RowConverter::new(sort.iter().map(field).collect())?,
            columns: sort.into_iter().map(|(column, _)| column).collect(),
        })
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
        let columns: Vec<ArrayRef> = self
            .columns
            .iter()
            .map(|&column| Arc::clone(rows.column(column)))
            .collect();
        let encoded = self
            .converter
            .convert_columns(&take_columns(&columns, &UInt32Array::from(tied.clone()))?)?;
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
        let columns: Vec<ArrayRef> = self
            .columns
            .iter()
            .map(|&column| Arc::clone(rows.column(column)))
            .collect();
        let encoded = self.converter.convert_columns(&columns)?;
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

/// Ranges of rows, which are sorted, that agree in `columns`; NULL is equal to NULL.
pub(super) fn agreeing(rows: &RecordBatch, columns: &[usize]) -> Result<Vec<Range<usize>>> {
    if rows.num_rows() == 0 {
        return Ok(Vec::new());
    }
    if columns.is_empty() {
        return Ok(vec![Range {
            start: 0,
            end: rows.num_rows(),
        }]);
    }
    let columns: Vec<ArrayRef> = columns.iter().map(|&column| Arc::clone(rows.column(column))).collect();
    Ok(partition(&columns)?.ranges())
}
