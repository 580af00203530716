//! Joins small chunks into one, so that the fixed cost of a message is paid once.

use arrow::compute::concat_batches;

use crate::engine::error::Error;
use crate::engine::message::{Chunk, Weights};

/// The rows of `chunks` in order. All chunks come from one edge: they have one schema, and either all or none has event
/// time and hashes.
pub fn concat_chunks(chunks: &[Chunk]) -> Result<Chunk, Error> {
    let Some(first) = chunks.first() else {
        return Err(Error::Internal("no chunks to join".into()));
    };
    let rows = concat_batches(&first.rows.schema(), chunks.iter().map(|chunk| &chunk.rows))?;
    let weights = if chunks.iter().all(|chunk| chunk.weights == Weights::AllInsert) {
        Weights::AllInsert
    } else {
        let weights = chunks
            .iter()
            .flat_map(|chunk| (0..chunk.len()).map(|row| chunk.weight(row)));
        Weights::Signed(weights.collect())
    };
    let event_time = join(chunks.iter().map(|chunk| chunk.event_time.as_deref()));
    let key_hashes = join(chunks.iter().map(|chunk| chunk.key_hashes.as_deref()));
    Ok(Chunk {
        rows,
        weights,
        event_time: event_time.map(Into::into),
        key_hashes: key_hashes.map(Into::into),
    })
}

fn join<'a, T: Copy + 'a>(parts: impl Iterator<Item = Option<&'a [T]>>) -> Option<Vec<T>> {
    let mut joined = Vec::new();
    for part in parts {
        joined.extend_from_slice(part?);
    }
    Some(joined)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::sync::Arc;

    use arrow::array::{Int64Array, RecordBatch};

    use super::*;

    fn chunk(values: &[i64]) -> Chunk {
        let column: arrow::array::ArrayRef = Arc::new(Int64Array::from(values.to_vec()));
        let mut chunk = Chunk::insert(RecordBatch::try_from_iter([("v", column)]).unwrap());
        chunk.event_time = Some(values.to_vec().into());
        chunk
    }

    #[test]
    fn keeps_order_times_and_weights() {
        let mut second = chunk(&[3]);
        second.weights = Weights::Signed(vec![-1].into());
        let joined = concat_chunks(&[chunk(&[1, 2]), second]).unwrap();
        assert_eq!(joined.len(), 3);
        assert_eq!((0..3).map(|row| joined.weight(row)).collect::<Vec<_>>(), [1, 1, -1]);
        assert_eq!(joined.event_time.as_deref(), Some(&[1, 2, 3][..]));
        assert_eq!(joined.key_hashes, None);
        let plain = concat_chunks(&[chunk(&[1]), chunk(&[2])]).unwrap();
        assert_eq!(plain.weights, Weights::AllInsert);
    }
}
