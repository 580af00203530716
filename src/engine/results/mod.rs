//! Results that pipelines keep: published epoch by epoch, readable without stopping the pipeline.
//!
//! Reading order: `segments` holds rows in immutable pieces; `index` finds them by key; `store` applies an epoch's changes
//! to both; `pipeline_result` decides which epoch readers see; `snapshot` and `subscription` are what readers get;
//! `follow` is the pipeline that reads another's result, over durable epochs (`history`).
//!
//! Guarantees: a snapshot, and all look-ups between two advances of the latest epoch, see one epoch of all subtasks; a
//! subscription gets every later epoch once and in order, or ends with an error. A reader never makes the pipeline wait
//! for longer than a look-up of one key. Not guaranteed: an order of rows; that an epoch is durable when it is visible
//! (ticks are visible and not persisted).
//!
//! Each run of a pipeline has its own [`PipelineResult`], which begins, as epoch 0, with what the run restored. Until all
//! of that is there, readers get the last run's; it stays readable after its run has ended.

mod difference;
pub mod follow;
pub mod history;
mod index;
mod pipeline_result;
pub(crate) mod row_state;
pub(crate) mod saved_rows;
mod segments;
mod snapshot;
pub(crate) mod store;
mod subscription;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use hashbrown::HashMap;

use crate::engine::results::store::Store;
use crate::ids::Oid;

pub(crate) use crate::engine::results::pipeline_result::Publisher;
pub use crate::engine::results::pipeline_result::{PipelineResult, ResultDescription};
pub use crate::engine::results::snapshot::ResultSnapshot;
pub(crate) use crate::engine::results::snapshot::Version;
pub use crate::engine::results::subscription::{EpochChanges, SUBSCRIPTION_BYTES_DEFAULT, Subscription};

/// All results of this process, by pipeline. A handle: clones see the same.
#[derive(Clone, Default)]
pub struct Results {
    pipelines: Arc<Mutex<HashMap<Oid, Runs>>>,
}

/// The runs of one pipeline that matter.
#[derive(Default)]
struct Runs {
    /// The newest that readers may see.
    current: Option<Arc<PipelineResult>>,
    /// Started and not yet ready.
    next: Option<Arc<PipelineResult>>,
}

impl Runs {
    fn settle(&mut self) {
        if self.next.as_ref().is_some_and(|next| next.is_ready()) {
            self.current = self.next.take();
        }
    }
}

impl Results {
    /// The result of a pipeline; `None` when it keeps none, has not been started by this process, or is still being restored:
    /// nobody shall take that for a result without rows.
    pub fn get(&self, pipeline: Oid) -> Option<Arc<PipelineResult>> {
        let mut pipelines = self.lock();
        let runs = pipelines.get_mut(&pipeline)?;
        runs.settle();
        runs.current.as_ref().map(Arc::clone)
    }

    /// Forgets a pipeline that was dropped. Who holds its result keeps it.
    pub fn remove(&self, pipeline: Oid) {
        self.lock().remove(&pipeline);
    }

    /// A subtask's place in the result of its run. The first subtask of a run makes the result; a run is a new one when
    /// the place is taken, or a subtask of the former one has gone.
    pub(crate) fn attach(
        &self,
        pipeline: Oid,
        description: ResultDescription,
        subtask: u32,
        store: &Arc<RwLock<Store>>,
    ) -> Publisher {
        let mut pipelines = self.lock();
        let runs = pipelines.entry(pipeline).or_default();
        runs.settle();
        let result = match &runs.next {
            Some(next) if next.accepts(&description, subtask) => Arc::clone(next),
            _ => {
                let next = Arc::new(PipelineResult::new(description));
                runs.next = Some(Arc::clone(&next));
                next
            }
        };
        result.attach(subtask, store)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Oid, Runs>> {
        self.pipelines.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod follow_tests;
#[cfg(test)]
mod tests;
