//! Rows as bytes that compare as the ranking orders them, and back.
//!
//! A key is the order columns, each ascending or descending with its NULLs first or last, then the whole row, ascending with
//! NULLs last: rows that the query calls equal still have an order of their own, which depends on nothing but the rows. Order
//! columns compare as in Postgres: text by bytes, NaN greater than every number and equal to itself, -0 equal to 0.
//!
//! The bytes live in memory only; snapshots hold columns.

use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch};
use arrow::compute::SortOptions;
use arrow::datatypes::{FieldRef, Schema};
use arrow::row::{RowConverter, Rows, SortField};

use crate::engine::operator::Result;
use crate::engine::order_column::OrderColumn;
use crate::state::canonical::canonical_floats;

/// A row in its place.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct RowKey {
    bytes: Arc<[u8]>,
    /// How many of the bytes are the order columns.
    order_length: u32,
}

impl RowKey {
    /// `space` is used and left with what does not matter: many keys are made one after the other.
    pub fn new(order: &[u8], row: &[u8], space: &mut Vec<u8>) -> RowKey {
        space.clear();
        space.extend_from_slice(order);
        space.extend_from_slice(row);
        RowKey {
            bytes: Arc::from(space.as_slice()),
            order_length: order.len() as u32,
        }
    }

    /// Equal for ties.
    pub fn order(&self) -> &[u8] {
        &self.bytes[..self.order_length as usize]
    }

    fn row(&self) -> &[u8] {
        &self.bytes[self.order_length as usize..]
    }

    pub fn len(&self) -> usize {
        self.bytes.len()
    }
}

pub(super) struct RowCodec {
    order_columns: Vec<usize>,
    order: RowConverter,
    rows: RowConverter,
}

impl RowCodec {
    pub fn new(schema: &Schema, order: &[OrderColumn]) -> Result<RowCodec> {
        let order_field =
            |of: &OrderColumn| SortField::new_with_options(schema.field(of.column).data_type().clone(), of.options());
        Ok(RowCodec {
            order_columns: order.iter().map(|of| of.column).collect(),
            order: RowConverter::new(order.iter().map(order_field).collect())?,
            rows: RowConverter::new(whole_row(schema))?,
        })
    }

    /// The order columns of every row.
    pub fn order(&self, rows: &RecordBatch) -> Result<EncodedOrder> {
        if self.order_columns.is_empty() {
            // A converter of no columns counts no rows.
            return Ok(EncodedOrder(None));
        }
        let columns: Vec<ArrayRef> = self
            .order_columns
            .iter()
            .map(|&column| canonical_floats(rows.column(column)))
            .collect();
        Ok(EncodedOrder(Some(self.order.convert_columns(&columns)?)))
    }

    pub fn whole(&self, rows: &RecordBatch) -> Result<Rows> {
        Ok(self.rows.convert_columns(rows.columns())?)
    }

    /// The columns of rows.
    pub fn decode<'a>(&self, keys: impl Iterator<Item = &'a RowKey>) -> Result<Vec<ArrayRef>> {
        let parser = self.rows.parser();
        Ok(self.rows.convert_rows(keys.map(|key| parser.parse(key.row())))?)
    }
}

/// The order columns of a chunk's rows.
pub(super) struct EncodedOrder(Option<Rows>);

impl EncodedOrder {
    pub fn of(&self, row: usize) -> &[u8] {
        self.0.as_ref().map_or(&[], |rows| rows.row(row).data())
    }
}

fn whole_row(schema: &Schema) -> Vec<SortField> {
    let options = SortOptions {
        descending: false,
        nulls_first: false,
    };
    let field = |field: &FieldRef| SortField::new_with_options(field.data_type().clone(), options);
    schema.fields().iter().map(field).collect()
}

/// Whether rows of these columns can be ranked.
pub(crate) fn can_rank(schema: &Schema) -> bool {
    RowConverter::supports_fields(&whole_row(schema))
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::Float64Array;
    use arrow::datatypes::{DataType, Field};

    fn keys(values: Vec<Option<f64>>, descending: bool, nulls_first: bool) -> Vec<RowKey> {
        let schema = Arc::new(Schema::new(vec![Field::new("v", DataType::Float64, true)]));
        let order = OrderColumn {
            column: 0,
            descending,
            nulls_first,
        };
        let codec = RowCodec::new(&schema, &[order]).expect("floats can be ranked");
        let rows = RecordBatch::try_new(schema, vec![Arc::new(Float64Array::from(values))]).expect("a batch");
        let (order, whole) = (codec.order(&rows).expect("order"), codec.whole(&rows).expect("rows"));
        (0..rows.num_rows())
            .map(|row| RowKey::new(order.of(row), whole.row(row).data(), &mut Vec::new()))
            .collect()
    }

    #[test]
    fn floats_compare_as_in_postgres() {
        let values = vec![
            Some(-1.0),
            Some(-0.0),
            Some(0.0),
            Some(f64::INFINITY),
            Some(-f64::NAN),
            None,
        ];
        let ascending = keys(values.clone(), false, false);
        assert!(ascending.is_sorted());
        assert_eq!(ascending[1].order(), ascending[2].order());
        let descending = keys(values.into_iter().rev().collect(), true, true);
        assert_eq!(descending[3].order(), descending[4].order());
        assert!(descending.iter().map(RowKey::order).is_sorted());
    }
}
