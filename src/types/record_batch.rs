//! A batch that has rows even where it has no columns.
//!
//! Arrow takes the number of rows from the columns, unless it is told; a query that only counts reads none.

use arrow::array::{ArrayRef, RecordBatch, RecordBatchOptions};
use arrow::datatypes::SchemaRef;
use arrow::error::ArrowError;

/// `rows` rows of `columns`; an error when they do not fit `schema`.
pub fn batch_of_rows(schema: SchemaRef, columns: Vec<ArrayRef>, rows: usize) -> Result<RecordBatch, ArrowError> {
    let options = RecordBatchOptions::new().with_row_count(Some(rows));
    RecordBatch::try_new_with_options(schema, columns, &options)
}
