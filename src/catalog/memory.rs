//! A metadata store that ends with the process: `--metadata memory:` and tests.
//!
//! Keeps every guarantee of the others but durability.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::catalog::error::{Error, Result};
use crate::catalog::jobs::{CheckpointRecord, Decision, JobFilter, JobRecord, JobState, abandoned};
use crate::catalog::objects::Object;
use crate::catalog::store::{CatalogStore, CommitOutcome, JOBS_KEPT, StoreTransaction, StoredCatalog};
use crate::ids::{Epoch, FIRST_USER_OID, Generation, Oid};

#[derive(Default)]
pub struct MemoryStore {
    state: Mutex<State>,
}

struct State {
    version: u64,
    next_oid: u32,
    objects: BTreeMap<Oid, (Object, Vec<Oid>)>,
    runs: BTreeMap<Oid, Run>,
    jobs: Vec<JobRecord>,
    checkpoints: BTreeMap<(Oid, Epoch), CheckpointRecord>,
}

#[derive(Default)]
struct Run {
    generation: Generation,
    epoch: Epoch,
}

impl Default for State {
    fn default() -> State {
        State {
            version: 0,
            next_oid: FIRST_USER_OID,
            objects: BTreeMap::new(),
            runs: BTreeMap::new(),
            jobs: Vec::new(),
            checkpoints: BTreeMap::new(),
        }
    }
}

impl MemoryStore {
    pub fn new() -> MemoryStore {
        MemoryStore::default()
    }

    /// A panic while the lock is held cannot leave it half changed: every change is made after its last check.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait::async_trait]
impl CatalogStore for MemoryStore {
    fn kind(&self) -> &'static str {
        "memory"
    }

    async fn migrate(&self) -> Result<()> {
        Ok(())
    }

    async fn load(&self) -> Result<StoredCatalog> {
        let state = self.state();
        Ok(StoredCatalog {
            version: state.version,
            next_oid: state.next_oid,
            objects: state.objects.values().cloned().collect(),
        })
    }

    async fn version(&self) -> Result<u64> {
        Ok(self.state().version)
    }

    async fn commit(&self, transaction: StoreTransaction) -> Result<CommitOutcome> {
        let mut state = self.state();
        if state.version != transaction.expected_version {
            return Ok(CommitOutcome::VersionChanged);
        }
        for oid in transaction.deletes {
            state.objects.remove(&oid);
        }
        for (object, depends_on) in transaction.upserts {
            state.objects.insert(object.oid(), ((*object).clone(), depends_on));
        }
        state.version += 1;
        state.next_oid = transaction.next_oid;
        Ok(CommitOutcome::Committed)
    }

    async fn begin_generation(
        &self,
        pipeline: Oid,
        mut job: JobRecord,
        last: Option<Generation>,
    ) -> Result<Generation> {
        let mut state = self.state();
        let seen = state.runs.get(&pipeline).map_or(Generation(0), |run| run.generation);
        if let Some(known) = state.jobs.iter().find(|other| other.job == job.job) {
            return match (known.pipeline, known.generation) == (pipeline, seen) {
                true => Ok(seen),
                false => Err(Error::Internal(format!("job {} was recorded before", job.job))),
            };
        }
        if last.is_some_and(|last| last != seen) {
            return Err(Error::Replaced);
        }
        let generation = seen.next();
        state.runs.entry(pipeline).or_default().generation = generation;
        for other in state
            .jobs
            .iter_mut()
            .filter(|other| other.pipeline == pipeline && !other.state.is_terminal())
        {
            other.state = JobState::Failed;
            other.finished_at_micros = Some(job.started_at_micros);
            other.error = Some(abandoned());
        }
        state
            .jobs
            .retain(|other| other.pipeline != pipeline || other.generation.0 + JOBS_KEPT > generation.0);
        job.pipeline = pipeline;
        job.generation = generation;
        state.jobs.push(job);
        Ok(generation)
    }

    async fn generation(&self, pipeline: Oid) -> Result<Option<Generation>> {
        Ok(self.state().runs.get(&pipeline).map(|run| run.generation))
    }

    async fn decide_epoch(&self, checkpoint: CheckpointRecord) -> Result<Decision> {
        let mut state = self.state();
        let key = (checkpoint.pipeline, checkpoint.epoch);
        if let Some(run) = state.runs.get_mut(&checkpoint.pipeline)
            && run.generation == checkpoint.generation
            && run.epoch < checkpoint.epoch
        {
            run.epoch = checkpoint.epoch;
            state.checkpoints.insert(key, checkpoint);
            return Ok(Decision::Committed);
        }
        let decided_before = state
            .checkpoints
            .get(&key)
            .is_some_and(|decided| decided.id == checkpoint.id && decided.generation == checkpoint.generation);
        Ok(if decided_before {
            Decision::Committed
        } else {
            Decision::Fenced
        })
    }

    async fn mark_committed(&self, pipeline: Oid, epoch: Epoch) -> Result<()> {
        let mut state = self.state();
        for (_, checkpoint) in state.checkpoints.range_mut((pipeline, Epoch(0))..=(pipeline, epoch)) {
            checkpoint.committed = true;
        }
        Ok(())
    }

    async fn latest_checkpoints(&self, pipeline: Oid, limit: usize) -> Result<Vec<CheckpointRecord>> {
        let state = self.state();
        let range = (pipeline, Epoch(0))..=(pipeline, Epoch(u64::MAX));
        Ok(state
            .checkpoints
            .range(range)
            .rev()
            .take(limit)
            .map(|(_, c)| c.clone())
            .collect())
    }

    async fn label_checkpoint(&self, pipeline: Oid, epoch: Epoch, label: Option<String>) -> Result<Decision> {
        match self.state().checkpoints.get_mut(&(pipeline, epoch)) {
            Some(checkpoint) => {
                checkpoint.kept_label = label;
                Ok(Decision::Committed)
            }
            None => Ok(Decision::Fenced),
        }
    }

    async fn epochs_needed_of(&self, pipeline: Oid) -> Result<Vec<Epoch>> {
        let state = self.state();
        let inputs = state.checkpoints.values().flat_map(|checkpoint| &checkpoint.inputs);
        let needed = inputs.filter(|input| input.pipeline == pipeline);
        Ok(needed.map(|input| input.epoch).collect())
    }

    async fn delete_checkpoints(&self, pipeline: Oid, epochs: &[Epoch]) -> Result<()> {
        let mut state = self.state();
        for epoch in epochs {
            state.checkpoints.remove(&(pipeline, *epoch));
        }
        Ok(())
    }

    async fn update_job(&self, job: JobRecord) -> Result<Decision> {
        let mut state = self.state();
        let current = state.runs.get(&job.pipeline).map(|run| run.generation);
        if current != Some(job.generation) {
            return Ok(Decision::Fenced);
        }
        match state
            .jobs
            .iter_mut()
            .find(|other| other.job == job.job && other.generation == job.generation)
        {
            Some(record) => {
                *record = job;
                Ok(Decision::Committed)
            }
            None => Ok(Decision::Fenced),
        }
    }

    async fn jobs(&self, filter: JobFilter) -> Result<Vec<JobRecord>> {
        let state = self.state();
        let mut jobs: Vec<JobRecord> = state
            .jobs
            .iter()
            .filter(|job| filter.pipeline.is_none_or(|pipeline| job.pipeline == pipeline))
            .filter(|job| {
                !filter.latest_only
                    || state
                        .runs
                        .get(&job.pipeline)
                        .is_some_and(|run| run.generation == job.generation)
            })
            .cloned()
            .collect();
        jobs.sort_by(|a, b| {
            (b.started_at_micros, b.pipeline, b.generation).cmp(&(a.started_at_micros, a.pipeline, a.generation))
        });
        Ok(jobs)
    }

    async fn pipelines_with_records(&self) -> Result<Vec<Oid>> {
        let state = self.state();
        let mut pipelines: BTreeSet<Oid> = state.runs.keys().copied().collect();
        pipelines.extend(state.jobs.iter().map(|job| job.pipeline));
        pipelines.extend(state.checkpoints.keys().map(|(pipeline, _)| *pipeline));
        Ok(pipelines.into_iter().collect())
    }

    async fn drop_pipeline_records(&self, pipeline: Oid) -> Result<()> {
        let mut state = self.state();
        state.runs.remove(&pipeline);
        state.jobs.retain(|job| job.pipeline != pipeline);
        state.checkpoints.retain(|(owner, _), _| *owner != pipeline);
        Ok(())
    }

    async fn ping(&self) -> Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::catalog::store_tests;

    #[tokio::test]
    async fn suite() {
        store_tests::run_all(async || Arc::new(MemoryStore::new()) as Arc<dyn CatalogStore>).await;
    }
}
