//! One epoch of a result, immutable: readers take as long as they like.

use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;

use crate::engine::operator::Result;
use crate::engine::results::segments::SegmentView;
use crate::ids::Epoch;

/// What one subtask had at one epoch.
#[derive(Debug)]
pub(crate) struct Version {
    pub epoch: Epoch,
    pub segments: Vec<SegmentView>,
    pub rows: u64,
}

/// A result at one epoch. Cheap to clone; holds the memory of its rows as long as it lives.
#[derive(Clone, Debug)]
pub struct ResultSnapshot {
    pub(super) schema: SchemaRef,
    pub(super) epoch: Epoch,
    /// Of every subtask.
    pub(super) versions: Vec<Arc<Version>>,
}

impl ResultSnapshot {
    pub fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    pub fn row_count(&self) -> u64 {
        self.versions.iter().map(|version| version.rows).sum()
    }

    /// The rows, made one batch at a time when asked for: nothing is copied but segments with deleted rows. In no order;
    /// no batch is empty.
    pub fn batches(&self) -> impl Iterator<Item = Result<RecordBatch>> + Send + 'static {
        let versions = self.versions.clone();
        let places = versions
            .into_iter()
            .flat_map(|version| (0..version.segments.len()).map(move |at| (Arc::clone(&version), at)));
        places
            .map(|(version, at)| version.segments[at].rows())
            .filter(|batch| !matches!(batch, Ok(batch) if batch.num_rows() == 0))
    }
}
