//! The durable epochs of every pipeline's result, for pipelines that read it: from the metadata store and the checkpoints.
//!
//! Guarantee: a pinned epoch is not collected by this process. What keeps it over a restart is the record of the reader's
//! checkpoint, which names it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use arrow::array::RecordBatch;
use futures::future::BoxFuture;
use tokio::sync::watch;

use crate::engine::coordinator::Shared;
use crate::engine::coordinator::kept_table::settings_of;
use crate::engine::coordinator::persistence::open_checkpoint;
use crate::engine::coordinator::recovery::{catalog_error, compile, pipeline_of};
use crate::engine::error::Error;
use crate::engine::graph::{JobGraph, MaterializeSpec, OperatorSpec};
use crate::engine::results::history::{DurableEpoch, PinnedEpoch, ResultHistory};
use crate::engine::results::saved_rows::saved_rows;
use crate::engine::results::{PipelineResult, Results};
use crate::ids::{Epoch, Oid, OperatorId, SubtaskIndex};

type Result<T, E = Error> = std::result::Result<T, E>;

pub struct CheckpointHistory {
    /// Of the coordinator that owns this.
    shared: Weak<Shared>,
    results: Results,
    changed: Mutex<HashMap<Oid, watch::Sender<u64>>>,
    pins: Pins,
    /// Held while a newest epoch is looked up and pinned, and while unpinned ones are forgotten.
    collecting: tokio::sync::Mutex<()>,
}

/// How often each epoch is pinned.
type Pins = Arc<Mutex<HashMap<(Oid, Epoch), usize>>>;

struct HeldPin {
    pins: Pins,
    key: (Oid, Epoch),
}

impl Drop for HeldPin {
    fn drop(&mut self) {
        let mut pins = self.pins.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = pins.get_mut(&self.key) {
            *count -= 1;
            if *count == 0 {
                pins.remove(&self.key);
            }
        }
    }
}

impl CheckpointHistory {
    pub fn new(shared: Weak<Shared>, results: Results) -> CheckpointHistory {
        CheckpointHistory {
            shared,
            results,
            changed: Mutex::default(),
            pins: Pins::default(),
            collecting: tokio::sync::Mutex::default(),
        }
    }

    /// As long as this is held, nobody pins what is about to be forgotten.
    pub async fn hold_pins(&self) -> tokio::sync::MutexGuard<'_, ()> {
        self.collecting.lock().await
    }

    /// An epoch of the pipeline was decided.
    pub fn note_durable(&self, pipeline: Oid) {
        if let Some(changed) = self.watches().get(&pipeline) {
            changed.send_modify(|count| *count = count.wrapping_add(1));
        }
    }

    /// Nobody shall read what an earlier definition of the pipeline had.
    pub fn forget_result(&self, pipeline: Oid) {
        self.results.remove(pipeline);
    }

    /// Epochs of the pipeline that readers of this process need.
    pub fn pinned(&self, pipeline: Oid) -> Vec<Epoch> {
        let pins = self.pins.lock().unwrap_or_else(PoisonError::into_inner);
        let of = pins.keys().filter(|(pinned, _)| *pinned == pipeline);
        of.map(|(_, epoch)| *epoch).collect()
    }

    fn watches(&self) -> MutexGuard<'_, HashMap<Oid, watch::Sender<u64>>> {
        self.changed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn shared(&self) -> Result<Arc<Shared>> {
        self.shared.upgrade().ok_or(Error::Stopped)
    }

    async fn read(&self, pipeline: Oid, epoch: Epoch) -> Result<Vec<RecordBatch>> {
        let shared = self.shared()?;
        let store = shared.catalog.store();
        let records = store
            .latest_checkpoints(pipeline, usize::MAX >> 1)
            .await
            .map_err(catalog_error)?;
        let object = pipeline_of(&shared, pipeline)?;
        let Some(record) = records.into_iter().find(|record| record.epoch == epoch) else {
            return Err(Error::UnknownCheckpoint {
                pipeline: object.header.name,
                epoch: epoch.0,
            });
        };
        let parallelism = settings_of(&shared.catalog.snapshot(), &object, shared.defaults)?.parallelism;
        let graph = compile(&shared, &object, parallelism).await?;
        let Some((operator, spec, schema)) = kept(&graph) else {
            return Err(Error::Internal(format!("\"{}\" keeps no result", object.header.name)));
        };
        let runtime = shared.runtime.clone();
        let checkpoint = open_checkpoint(&shared.storage, &record.manifest_path, runtime).await?;
        let key_groups = super::recovery::key_groups_of(&object)?;
        let read = move || {
            let reader = checkpoint.restored.reader(&operator, SubtaskIndex(0), 1);
            saved_rows(reader.as_ref(), &spec, &schema, key_groups)
        };
        match tokio::task::spawn_blocking(read).await {
            Ok(rows) => rows,
            Err(join) => Err(Error::Panicked {
                operator: "result".into(),
                message: join.to_string(),
            }),
        }
    }
}

/// The operator that keeps the result.
fn kept(graph: &JobGraph) -> Option<(OperatorId, MaterializeSpec, arrow::datatypes::SchemaRef)> {
    graph.nodes.iter().find_map(|node| match &node.operator {
        OperatorSpec::Materialize(spec) => Some((node.id.clone(), spec.clone(), Arc::clone(&node.output.schema))),
        _ => None,
    })
}

impl ResultHistory for CheckpointHistory {
    fn newest(&self, pipeline: Oid) -> BoxFuture<'_, Result<Option<DurableEpoch>>> {
        Box::pin(async move {
            let shared = self.shared()?;
            // What an earlier definition saved is not yet what this one has.
            let counts_after = pipeline_of(&shared, pipeline)?.counts_after;
            let _held = self.hold_pins().await;
            let records = shared.catalog.store().latest_checkpoints(pipeline, 1).await;
            let records = records.map_err(catalog_error)?;
            let newest = records.first().filter(|record| record.generation > counts_after);
            Ok(newest.map(|record| DurableEpoch {
                pinned: self.pin(pipeline, record.epoch),
                is_final: record.final_,
            }))
        })
    }

    fn changed(&self, pipeline: Oid) -> watch::Receiver<u64> {
        let mut watches = self.watches();
        let sender = watches.entry(pipeline).or_insert_with(|| watch::channel(0).0);
        sender.subscribe()
    }

    fn rows(&self, pipeline: Oid, epoch: Epoch) -> BoxFuture<'_, Result<Vec<RecordBatch>>> {
        Box::pin(self.read(pipeline, epoch))
    }

    fn result(&self, pipeline: Oid) -> Option<Arc<PipelineResult>> {
        self.results.get(pipeline)
    }

    fn pin(&self, pipeline: Oid, epoch: Epoch) -> PinnedEpoch {
        let key = (pipeline, epoch);
        let pins = Arc::clone(&self.pins);
        *pins
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .entry(key)
            .or_insert(0) += 1;
        PinnedEpoch {
            epoch,
            pin: Arc::new(HeldPin { pins, key }),
        }
    }
}
