//! The rows of a `VALUES` list as a source, so that they are delivered once over all runs of a pipeline.

use arrow::array::RecordBatch;

use crate::engine::connectors::{Source, SourcePoll, SplitOffset};
use crate::engine::error::Error;

const VALUES_SPLIT: &str = "values";

/// Subtask 0 delivers everything.
pub struct ValuesSource {
    rows: Option<RecordBatch>,
    delivered: usize,
}

impl ValuesSource {
    pub fn new(rows: &RecordBatch, subtask: u32, restored: &[SplitOffset]) -> Result<ValuesSource, Error> {
        let delivered = match restored.iter().find(|offset| offset.split == VALUES_SPLIT) {
            Some(offset) => offset
                .offset
                .parse()
                .map_err(|_| Error::Internal(format!("offset of values is \"{}\"", offset.offset)))?,
            None => 0,
        };
        Ok(ValuesSource {
            rows: (subtask == 0).then(|| rows.clone()),
            delivered,
        })
    }
}

impl Source for ValuesSource {
    fn poll(&mut self, rows_max: usize) -> Result<SourcePoll, Error> {
        let Some(rows) = &self.rows else {
            return Ok(SourcePoll::Finished);
        };
        let count = rows_max.min(rows.num_rows().saturating_sub(self.delivered));
        if count == 0 {
            return Ok(SourcePoll::Finished);
        }
        let rows = rows.slice(self.delivered, count);
        self.delivered += count;
        Ok(SourcePoll::Rows { split: 0, rows })
    }

    fn offsets(&self) -> Vec<SplitOffset> {
        let offset = self.rows.as_ref().map(|_| SplitOffset {
            split: VALUES_SPLIT.into(),
            offset: self.delivered.to_string(),
        });
        offset.into_iter().collect()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::sync::Arc;

    use arrow::array::{ArrayRef, Int64Array};

    use super::*;

    #[test]
    fn values_are_delivered_once_over_all_runs() {
        let column: ArrayRef = Arc::new(Int64Array::from(vec![1, 2, 3]));
        let rows = RecordBatch::try_from_iter([("v", column)]).unwrap();
        let mut first = ValuesSource::new(&rows, 0, &[]).unwrap();
        assert!(matches!(first.poll(2).unwrap(), SourcePoll::Rows { rows, .. } if rows.num_rows() == 2));
        let mut second = ValuesSource::new(&rows, 0, &first.offsets()).unwrap();
        assert!(matches!(second.poll(2).unwrap(), SourcePoll::Rows { rows, .. } if rows.num_rows() == 1));
        assert!(matches!(second.poll(2).unwrap(), SourcePoll::Finished));
        let mut other = ValuesSource::new(&rows, 1, &[]).unwrap();
        assert!(matches!(other.poll(2).unwrap(), SourcePoll::Finished));
        assert!(other.offsets().is_empty());
    }
}
