//! WHERE, and HAVING: rows for which the predicate is not true are left out.
//!
//! On an updating stream the retraction of a row that was left out is left out too, since it has the same values; so an
//! update that leaves the predicate becomes a delete.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, Int64Array};
use arrow::buffer::ScalarBuffer;
use arrow::compute::{FilterBuilder, FilterPredicate};
use arrow::datatypes::Int64Type;
use datafusion::logical_expr::ColumnarValue;
use datafusion::physical_expr::PhysicalExpr;
use datafusion::scalar::ScalarValue;

use crate::engine::error::Error;
use crate::engine::message::{Chunk, Weights};
use crate::engine::operator::{Operator, Output, Result};
use crate::engine::operators::columns::evaluate_value;

pub(crate) struct Filter {
    predicate: Arc<dyn PhysicalExpr>,
}

impl Filter {
    pub fn new(predicate: Arc<dyn PhysicalExpr>) -> Filter {
        Filter { predicate }
    }
}

impl Operator for Filter {
    fn name(&self) -> &'static str {
        "filter"
    }

    fn process(&mut self, _input: usize, mut chunk: Chunk, output: &mut Output) -> Result<()> {
        chunk.key_hashes = None;
        match evaluate_value(&self.predicate, &chunk.rows)? {
            ColumnarValue::Scalar(ScalarValue::Boolean(Some(true))) => output.data(chunk),
            ColumnarValue::Scalar(ScalarValue::Boolean(_) | ScalarValue::Null) => {}
            ColumnarValue::Scalar(other) => return Err(not_boolean(&other.data_type())),
            ColumnarValue::Array(values) => {
                let keep = values.as_boolean_opt().ok_or_else(|| not_boolean(values.data_type()))?;
                let kept = keep.true_count();
                if kept == chunk.len() {
                    output.data(chunk);
                } else if kept > 0 {
                    output.data(filter_chunk(&chunk, keep)?);
                }
            }
        }
        Ok(())
    }
}

fn not_boolean(found: &arrow::datatypes::DataType) -> Error {
    Error::Internal(format!("a predicate gave {found} instead of boolean"))
}

fn filter_chunk(chunk: &Chunk, keep: &BooleanArray) -> Result<Chunk> {
    // Columns share one walk over the mask.
    let predicate = FilterBuilder::new(keep).optimize().build();
    Ok(Chunk {
        rows: predicate.filter_record_batch(&chunk.rows)?,
        weights: match &chunk.weights {
            Weights::AllInsert => Weights::AllInsert,
            Weights::Signed(weights) => Weights::Signed(filter_buffer(weights, &predicate)?),
        },
        event_time: match &chunk.event_time {
            Some(times) => Some(filter_buffer(times, &predicate)?),
            None => None,
        },
        key_hashes: None,
    })
}

fn filter_buffer(buffer: &ScalarBuffer<i64>, predicate: &FilterPredicate) -> Result<ScalarBuffer<i64>> {
    let column: ArrayRef = Arc::new(Int64Array::new(buffer.clone(), None));
    let filtered = predicate.filter(&column)?;
    Ok(filtered.as_primitive::<Int64Type>().values().clone())
}
