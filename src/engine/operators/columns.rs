//! Small things that every operator does with columns: pick rows, build a batch of a known schema, name an error.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, Int64Array, RecordBatch, UInt32Array};
use arrow::buffer::ScalarBuffer;
use arrow::compute::{cast, take};
use arrow::datatypes::SchemaRef;
use datafusion::error::DataFusionError;
use datafusion::logical_expr::ColumnarValue;
use datafusion::physical_expr::PhysicalExpr;

use crate::engine::error::{Error, expression_code};
use crate::engine::message::{Chunk, Weights};
use crate::engine::operator::Result;
use crate::error::SqlState;
use crate::types::record_batch::batch_of_rows;

/// A batch of `schema`. Columns whose type differs only in how it is written down (names inside nested types, time zone
/// spelling) are cast, so that every chunk of a stream has exactly the stream's schema.
pub(crate) fn batch_of(schema: &SchemaRef, columns: Vec<ArrayRef>, rows: usize) -> Result<RecordBatch> {
    if columns.len() != schema.fields().len() {
        return Err(Error::Internal(format!(
            "{} columns were computed for a stream of {}",
            columns.len(),
            schema.fields().len()
        )));
    }
    let mut aligned = Vec::with_capacity(columns.len());
    for (column, field) in columns.into_iter().zip(schema.fields()) {
        if column.data_type() == field.data_type() {
            aligned.push(column);
        } else {
            aligned.push(cast(&column, field.data_type())?);
        }
    }
    Ok(batch_of_rows(Arc::clone(schema), aligned, rows)?)
}

/// The rows `indices` of every column.
pub(crate) fn take_columns(columns: &[ArrayRef], indices: &UInt32Array) -> Result<Vec<ArrayRef>> {
    columns
        .iter()
        .map(|column| take(column, indices, None).map_err(Error::from))
        .collect()
}

/// The rows `indices` of `batch`.
pub(crate) fn take_batch(batch: &RecordBatch, indices: &UInt32Array) -> Result<RecordBatch> {
    let columns = take_columns(batch.columns(), indices)?;
    Ok(batch_of_rows(batch.schema(), columns, indices.len())?)
}

/// The entries `indices` of a buffer that runs beside the rows.
pub(crate) fn take_buffer(buffer: &ScalarBuffer<i64>, indices: &UInt32Array) -> ScalarBuffer<i64> {
    indices.values().iter().map(|&row| buffer[row as usize]).collect()
}

/// The rows `indices` of a chunk with all that goes beside them; the hashes of the last exchange are dropped.
pub(crate) fn take_chunk(chunk: &Chunk, indices: &UInt32Array) -> Result<Chunk> {
    Ok(Chunk {
        rows: take_batch(&chunk.rows, indices)?,
        weights: match &chunk.weights {
            Weights::AllInsert => Weights::AllInsert,
            Weights::Signed(weights) => Weights::Signed(take_buffer(weights, indices)),
        },
        event_time: chunk.event_time.as_ref().map(|times| take_buffer(times, indices)),
        key_hashes: None,
    })
}

/// The weights as a slice, or `None` when every row is an insert.
pub(crate) fn weights_of(chunk: &Chunk) -> Option<&[i64]> {
    match &chunk.weights {
        Weights::AllInsert => None,
        Weights::Signed(weights) => Some(weights),
    }
}

/// Weights in their cheapest form.
pub(crate) fn weights_from(weights: Vec<i64>) -> Weights {
    if weights.iter().all(|&weight| weight == 1) {
        Weights::AllInsert
    } else {
        Weights::Signed(weights.into())
    }
}

pub(crate) fn int64(values: Vec<i64>) -> ArrayRef {
    Arc::new(Int64Array::from(values))
}

/// Column `index` of a batch that was read back from state or came from a partial aggregate, as 64-bit integers.
pub(crate) fn as_int64(column: &ArrayRef) -> Result<&Int64Array> {
    column
        .as_any()
        .downcast_ref()
        .ok_or_else(|| Error::Internal(format!("expected a bigint column, found {}", column.data_type())))
}

/// Evaluates to one value a row.
pub(crate) fn evaluate(expression: &Arc<dyn PhysicalExpr>, rows: &RecordBatch) -> Result<ArrayRef> {
    let value = evaluate_value(expression, rows)?;
    value.into_array_of_size(rows.num_rows()).map_err(data_error)
}

/// Evaluates without widening a constant to a column.
pub(crate) fn evaluate_value(expression: &Arc<dyn PhysicalExpr>, rows: &RecordBatch) -> Result<ColumnarValue> {
    expression.evaluate(rows).map_err(data_error)
}

/// An evaluation error as the user's data caused it: with a code, and without the layers it came through. Errors that
/// no data can cause keep their own form.
pub(crate) fn data_error(error: DataFusionError) -> Error {
    let root = error.find_root();
    match root {
        DataFusionError::Internal(_) | DataFusionError::NotImplemented(_) => Error::Expression(error),
        _ => {
            let text = root.to_string();
            let code = expression_code(&text);
            let message = if code == SqlState::DIVISION_BY_ZERO {
                "division by zero".to_owned()
            } else {
                plain_message(&text)
            };
            Error::Data {
                code,
                message,
                detail: None,
            }
        }
    }
}

/// Takes off the prefixes that say which library noticed.
fn plain_message(text: &str) -> String {
    let mut text = text.lines().next().unwrap_or_default().trim();
    for prefix in [
        "Execution error: ",
        "Arrow error: ",
        "Compute error: ",
        "Cast error: ",
        "Parser error: ",
        "Arithmetic overflow: ",
    ] {
        text = text.strip_prefix(prefix).unwrap_or(text);
    }
    let mut characters = text.chars();
    match characters.next() {
        Some(first) => first.to_lowercase().chain(characters).collect(),
        None => "expression could not be evaluated".into(),
    }
}

/// A value that does not fit the type its aggregate gives.
pub(crate) fn out_of_range(type_name: &str, label: &str) -> Error {
    Error::Data {
        code: SqlState::NUMERIC_VALUE_OUT_OF_RANGE,
        message: format!("{type_name} out of range"),
        detail: Some(format!("The result of {label} does not fit.")),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::error::Report;
    use arrow::error::ArrowError;

    #[test]
    fn division_by_zero_reads_like_postgres() {
        let error = data_error(DataFusionError::ArrowError(Box::new(ArrowError::DivideByZero), None));
        assert_eq!(error.to_string(), "division by zero");
        assert_eq!(error.code(), SqlState::DIVISION_BY_ZERO);
    }

    #[test]
    fn layers_are_taken_off() {
        let inner = ArrowError::CastError("Cannot cast string 'x' to value of Int64 type".into());
        let error = data_error(DataFusionError::ArrowError(Box::new(inner), None));
        assert_eq!(error.to_string(), "cannot cast string 'x' to value of Int64 type");
        assert_eq!(error.code(), SqlState::INVALID_TEXT_REPRESENTATION);
    }
}
