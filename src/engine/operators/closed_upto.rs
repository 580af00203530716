//! The watermark up to which an operator is done with its rows, kept in its state so that late rows stay late after a
//! restore.
//!
//! Table `watermark`, broadcast: a former set of subtasks gives the least of theirs.

use std::sync::Arc;

use arrow::array::{ArrayRef, Int8Array, RecordBatch, UInt16Array};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};

use crate::engine::operator::Result;
use crate::engine::operators::columns::{as_int64, int64};
use crate::engine::operators::group_state::check_schema;
use crate::state::table::{Distribution, OP_PUT, StateReader, TableKind, TableWrite, leading_fields};

const WATERMARK_TABLE: &str = "watermark";

fn schema() -> SchemaRef {
    let mut fields = leading_fields(TableKind::GlobalKeyed);
    fields.push(Field::new("watermark", DataType::Int64, false));
    Arc::new(Schema::new(fields))
}

pub(crate) fn write(watermark: Option<i64>) -> Result<TableWrite> {
    let columns: Vec<ArrayRef> = vec![
        Arc::new(UInt16Array::from(vec![0])),
        Arc::new(Int8Array::from(vec![OP_PUT])),
        int64(vec![watermark.unwrap_or(i64::MIN)]),
    ];
    Ok(TableWrite {
        table: WATERMARK_TABLE,
        kind: TableKind::GlobalKeyed,
        distribution: Distribution::Broadcast,
        rebased: None,
        expired_before: None,
        rows: vec![RecordBatch::try_new(schema(), columns)?],
    })
}

pub(crate) fn read(state: &dyn StateReader) -> Result<Option<i64>> {
    let mut least: Option<i64> = None;
    state.read(WATERMARK_TABLE, &mut |rows| {
        check_schema(&schema(), &rows)?;
        for &watermark in as_int64(rows.column(2))?.values() {
            least = Some(least.map_or(watermark, |least| least.min(watermark)));
        }
        Ok(())
    })?;
    Ok(least.filter(|&watermark| watermark != i64::MIN))
}
