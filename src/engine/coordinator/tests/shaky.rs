//! A metadata store that is down for a while, or that does what it is told and loses the answer.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use crate::catalog::error::{Error, Result};
use crate::catalog::jobs::{CheckpointRecord, Decision, JobFilter, JobRecord};
use crate::catalog::memory::MemoryStore;
use crate::catalog::store::{CatalogStore, CommitOutcome, StoreTransaction, StoredCatalog};
use crate::ids::{Epoch, Generation, Oid};

/// A metadata store that can lose the answers of what jobs ask of it.
#[derive(Default)]
pub struct ShakyStore {
    pub inner: Arc<MemoryStore>,
    /// Of how many of the next decisions the answer is lost after they took effect.
    pub lose_decisions: AtomicU32,
    /// The same of beginnings of runs.
    pub lose_beginnings: AtomicU32,
    /// Nothing that jobs ask is answered or takes effect.
    pub down: AtomicBool,
    pub unanswered: AtomicU32,
}

fn unreachable_store() -> Error {
    Error::StoreUnreachable {
        reason: "connection reset".into(),
    }
}

impl ShakyStore {
    fn up(&self) -> Result<()> {
        if self.down.load(Ordering::SeqCst) {
            self.unanswered.fetch_add(1, Ordering::SeqCst);
            return Err(unreachable_store());
        }
        Ok(())
    }

    /// `answer`, unless it gets lost.
    fn answer<T>(&self, losses_left: &AtomicU32, answer: T) -> Result<T> {
        let lose = |left: u32| left.checked_sub(1);
        match losses_left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, lose) {
            Ok(_) => {
                self.unanswered.fetch_add(1, Ordering::SeqCst);
                Err(unreachable_store())
            }
            Err(_) => Ok(answer),
        }
    }
}

#[async_trait::async_trait]
impl CatalogStore for ShakyStore {
    fn kind(&self) -> &'static str {
        "shaky"
    }
    async fn migrate(&self) -> Result<()> {
        self.inner.migrate().await
    }
    async fn load(&self) -> Result<StoredCatalog> {
        self.inner.load().await
    }
    async fn version(&self) -> Result<u64> {
        self.inner.version().await
    }
    async fn commit(&self, transaction: StoreTransaction) -> Result<CommitOutcome> {
        self.inner.commit(transaction).await
    }
    async fn begin_generation(&self, pipeline: Oid, job: JobRecord, last: Option<Generation>) -> Result<Generation> {
        self.up()?;
        let begun = self.inner.begin_generation(pipeline, job, last).await?;
        self.answer(&self.lose_beginnings, begun)
    }
    async fn generation(&self, pipeline: Oid) -> Result<Option<Generation>> {
        self.inner.generation(pipeline).await
    }
    async fn decide_epoch(&self, checkpoint: CheckpointRecord) -> Result<Decision> {
        self.up()?;
        let decision = self.inner.decide_epoch(checkpoint).await?;
        self.answer(&self.lose_decisions, decision)
    }
    async fn mark_committed(&self, pipeline: Oid, epoch: Epoch) -> Result<()> {
        self.up()?;
        self.inner.mark_committed(pipeline, epoch).await
    }
    async fn epochs_needed_of(&self, pipeline: Oid) -> Result<Vec<Epoch>> {
        self.up()?;
        self.inner.epochs_needed_of(pipeline).await
    }
    async fn latest_checkpoints(&self, pipeline: Oid, limit: usize) -> Result<Vec<CheckpointRecord>> {
        self.up()?;
        self.inner.latest_checkpoints(pipeline, limit).await
    }
    async fn label_checkpoint(&self, pipeline: Oid, epoch: Epoch, label: Option<String>) -> Result<Decision> {
        self.inner.label_checkpoint(pipeline, epoch, label).await
    }
    async fn delete_checkpoints(&self, pipeline: Oid, epochs: &[Epoch]) -> Result<()> {
        self.up()?;
        self.inner.delete_checkpoints(pipeline, epochs).await
    }
    async fn update_job(&self, job: JobRecord) -> Result<Decision> {
        self.up()?;
        self.inner.update_job(job).await
    }
    async fn jobs(&self, filter: JobFilter) -> Result<Vec<JobRecord>> {
        self.inner.jobs(filter).await
    }
    async fn pipelines_with_records(&self) -> Result<Vec<Oid>> {
        self.inner.pipelines_with_records().await
    }
    async fn drop_pipeline_records(&self, pipeline: Oid) -> Result<()> {
        self.inner.drop_pipeline_records(pipeline).await
    }
    async fn ping(&self) -> Result<()> {
        self.up()
    }
}
