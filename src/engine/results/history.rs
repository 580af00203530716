//! What a reader of a result that must survive needs to know: which epochs are durable, and the rows of those.
//!
//! The coordinator implements it over the metadata store and the checkpoint storage; tests over a list of epochs.

use std::sync::Arc;

use arrow::array::RecordBatch;
use futures::future::BoxFuture;
use tokio::sync::watch;

use crate::engine::operator::Result;
use crate::engine::results::PipelineResult;
use crate::ids::{Epoch, Oid};

/// An epoch that a crash does not take back.
#[derive(Clone, Debug)]
pub struct DurableEpoch {
    pub pinned: PinnedEpoch,
    /// All input had ended: no other follows.
    pub is_final: bool,
}

/// Keeps the checkpoint of an epoch from being collected as long as it lives.
pub type Pin = Arc<dyn Send + Sync>;

/// An epoch that stays readable.
#[derive(Clone)]
pub struct PinnedEpoch {
    pub epoch: Epoch,
    pub pin: Pin,
}

impl std::fmt::Debug for PinnedEpoch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.epoch)
    }
}

/// An epoch that a checkpoint of the reader will name as its input; pinned until that checkpoint is recorded, or given up.
#[derive(Clone, Debug)]
pub struct PinnedInput {
    pub pipeline: Oid,
    pub pinned: PinnedEpoch,
}

pub trait ResultHistory: Send + Sync {
    /// The newest durable epoch, pinned; `None` before the first.
    fn newest(&self, pipeline: Oid) -> BoxFuture<'_, Result<Option<DurableEpoch>>>;

    /// Changes whenever an epoch of the pipeline has become durable; nothing else is to be taken from the number.
    fn changed(&self, pipeline: Oid) -> watch::Receiver<u64>;

    /// The rows at a durable epoch. The same rows in the same order each time, as long as the epoch is pinned.
    fn rows(&self, pipeline: Oid, epoch: Epoch) -> BoxFuture<'_, Result<Vec<RecordBatch>>>;

    /// The result of the pipeline's newest run in this process.
    fn result(&self, pipeline: Oid) -> Option<Arc<PipelineResult>>;

    /// Pins an epoch that something else keeps at this moment: a checkpoint that names it.
    fn pin(&self, pipeline: Oid, epoch: Epoch) -> PinnedEpoch;
}

/// Where there are no other pipelines: knows of no epoch.
pub struct NoHistory;

impl ResultHistory for NoHistory {
    fn newest(&self, _pipeline: Oid) -> BoxFuture<'_, Result<Option<DurableEpoch>>> {
        Box::pin(std::future::ready(Ok(None)))
    }

    fn changed(&self, _pipeline: Oid) -> watch::Receiver<u64> {
        watch::channel(0).1
    }

    fn rows(&self, _pipeline: Oid, _epoch: Epoch) -> BoxFuture<'_, Result<Vec<RecordBatch>>> {
        Box::pin(std::future::ready(Ok(Vec::new())))
    }

    fn result(&self, _pipeline: Oid) -> Option<Arc<PipelineResult>> {
        None
    }

    fn pin(&self, _pipeline: Oid, epoch: Epoch) -> PinnedEpoch {
        PinnedEpoch {
            epoch,
            pin: Arc::new(()),
        }
    }
}
