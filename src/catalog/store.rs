//! The metadata store as the rest sees it: objects under one version, and the fence under which epochs are decided.
//!
//! Guarantees of every implementation (one test suite runs against all): a transaction is applied whole or not at all and
//! only on the version it was made for; what was acknowledged survives a crash of the machine (but for the memory store);
//! at most one run of a pipeline can decide, and epochs only grow.
//!
//! Order matters to whoever starts a run: `begin_generation` first, `latest_checkpoints` after, so that no older run can
//! decide an epoch unseen.

use std::sync::Arc;

use crate::catalog::error::Result;
use crate::catalog::jobs::{CheckpointRecord, Decision, JobFilter, JobRecord};
use crate::catalog::objects::Object;
use crate::ids::{Epoch, Generation, Oid};

/// All objects at one version.
#[derive(Clone, Debug, PartialEq)]
pub struct StoredCatalog {
    pub version: u64,
    pub next_oid: u32,
    /// Each with the OIDs it depends on.
    pub objects: Vec<(Object, Vec<Oid>)>,
}

/// The row changes of one catalog change; deletes come before upserts.
#[derive(Clone, Debug, PartialEq)]
pub struct StoreTransaction {
    /// The version it was made for; the store is at the next one afterwards.
    pub expected_version: u64,
    pub next_oid: u32,
    pub deletes: Vec<Oid>,
    pub upserts: Vec<(Arc<Object>, Vec<Oid>)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CommitOutcome {
    Committed,
    /// The store is at another version: nothing was changed.
    VersionChanged,
}

#[async_trait::async_trait]
pub trait CatalogStore: Send + Sync {
    /// What it is, for messages and `/readyz`: `sqlite`, `postgres`, `memory`.
    fn kind(&self) -> &'static str;

    /// Brings the tables to the newest form. Called once before anything else.
    async fn migrate(&self) -> Result<()>;

    async fn load(&self) -> Result<StoredCatalog>;

    /// The version alone, to see whether another process has changed something.
    async fn version(&self) -> Result<u64>;

    async fn commit(&self, transaction: StoreTransaction) -> Result<CommitOutcome>;

    /// Starts a run: the pipeline's generation is raised by one and `job` recorded under it. Runs that ended without
    /// saying so are closed as failed. Asking again for the newest job (its answer having been lost) gives the same
    /// generation again.
    ///
    /// `last`: what the caller's last run had, if this is to go on where that stopped. [`Error::Replaced`] when another run has
    /// begun since, so that a server which was stopped for a while does not take the pipeline away from its successor.
    ///
    /// [`Error::Replaced`]: crate::catalog::error::Error::Replaced
    async fn begin_generation(&self, pipeline: Oid, job: JobRecord, last: Option<Generation>) -> Result<Generation>;

    /// The generation that may decide now; `None` before the first run.
    async fn generation(&self, pipeline: Oid) -> Result<Option<Generation>>;

    /// THE commit point of a checkpoint: takes effect only for the current generation and an epoch above the last.
    /// Asking again for a checkpoint that was decided (its answer having been lost) gives `Committed` again.
    async fn decide_epoch(&self, checkpoint: CheckpointRecord) -> Result<Decision>;

    /// The sinks have committed what belongs to this epoch and to those before.
    async fn mark_committed(&self, pipeline: Oid, epoch: Epoch) -> Result<()>;

    /// Newest first.
    async fn latest_checkpoints(&self, pipeline: Oid, limit: usize) -> Result<Vec<CheckpointRecord>>;

    /// Names a checkpoint so that it is kept, or takes the name away. `Fenced` when there is no such checkpoint.
    async fn label_checkpoint(&self, pipeline: Oid, epoch: Epoch, label: Option<String>) -> Result<Decision>;

    /// The epochs of this pipeline's result that kept checkpoints of other pipelines continue from, in any order.
    async fn epochs_needed_of(&self, pipeline: Oid) -> Result<Vec<Epoch>>;

    async fn delete_checkpoints(&self, pipeline: Oid, epochs: &[Epoch]) -> Result<()>;

    /// Only while the job's generation is the current one.
    async fn update_job(&self, job: JobRecord) -> Result<Decision>;

    /// Newest first.
    async fn jobs(&self, filter: JobFilter) -> Result<Vec<JobRecord>>;

    /// Pipelines that have a fence, jobs or checkpoints; those no longer in the catalog can be collected.
    async fn pipelines_with_records(&self) -> Result<Vec<Oid>>;

    /// Forgets jobs, checkpoints and the fence; a zombie of this pipeline is fenced for ever, since OIDs are not reused.
    async fn drop_pipeline_records(&self, pipeline: Oid) -> Result<()>;

    /// Whether the store answers.
    async fn ping(&self) -> Result<()>;
}

/// How many runs of a pipeline are remembered.
pub(crate) const JOBS_KEPT: u64 = 100;
