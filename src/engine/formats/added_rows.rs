//! The rows that formats write which can only add: a row that counts twice is two of them, and none can be taken back.

use arrow::array::UInt32Array;
use arrow::compute::take_record_batch;

use crate::engine::error::Error;
use crate::engine::message::{Chunk, Weights};

/// Calls `write` with the place of each row of `chunk`, as often as the row counts. `0A000` for a row that goes.
pub fn for_each_added(chunk: &Chunk, mut write: impl FnMut(usize) -> Result<(), Error>) -> Result<(), Error> {
    match &chunk.weights {
        Weights::AllInsert => (0..chunk.len()).try_for_each(write),
        Weights::Signed(weights) => {
            for (row, weight) in weights.iter().enumerate() {
                for _ in 0..times(*weight)? {
                    write(row)?;
                }
            }
            Ok(())
        }
    }
}

/// `chunk` with every row once for each time that it counts.
pub fn chunk_of_added(chunk: &Chunk) -> Result<Chunk, Error> {
    if matches!(chunk.weights, Weights::AllInsert) {
        return Ok(chunk.clone());
    }
    let mut rows = Vec::with_capacity(chunk.len());
    for_each_added(chunk, |row| {
        rows.push(row as u32);
        Ok(())
    })?;
    let event_time = chunk.event_time.as_deref();
    Ok(Chunk {
        event_time: event_time.map(|times| rows.iter().map(|&row| times[row as usize]).collect()),
        ..Chunk::insert(take_record_batch(&chunk.rows, &UInt32Array::from(rows))?)
    })
}

fn times(weight: i64) -> Result<i64, Error> {
    if weight < 0 {
        return Err(Error::NotSupported {
            what: "a retraction in a format that can only add rows".into(),
            hint: Some("Use format = 'debezium_json'.".into()),
        });
    }
    Ok(weight)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::sync::Arc;

    use arrow::array::{AsArray, Int64Array, RecordBatch};
    use arrow::datatypes::Int64Type;

    use super::*;

    fn chunk(weights: &[i64]) -> Chunk {
        let numbers = Int64Array::from_iter_values(10..10 + weights.len() as i64);
        let mut chunk = Chunk::insert(RecordBatch::try_from_iter([("n", Arc::new(numbers) as _)]).unwrap());
        chunk.weights = Weights::Signed(weights.to_vec().into());
        chunk
    }

    #[test]
    fn rows_come_as_often_as_they_count() {
        let added = chunk_of_added(&chunk(&[2, 0, 1])).unwrap();
        assert!(matches!(added.weights, Weights::AllInsert));
        assert_eq!(added.rows.column(0).as_primitive::<Int64Type>().values(), &[10, 10, 12]);
    }

    #[test]
    fn a_row_that_goes_is_refused() {
        let refusal = chunk_of_added(&chunk(&[1, -1])).unwrap_err().to_string();
        assert!(refusal.contains("retraction"), "{refusal}");
    }
}
