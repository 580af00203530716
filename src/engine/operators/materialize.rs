//! Keeps the result of a pipeline readable: collects what changes between barriers, applies it at the barrier, publishes.
//!
//! Rows with a key have to come by a hash exchange on exactly the key's columns, rows without a key over changing input by
//! one on all columns: a look-up and a restart find a row by that hash. Append-only rows without a key may come anyhow.
//!
//! State: table `rows` (see `results::row_state`).

use std::sync::{Arc, PoisonError, RwLock};

use arrow::array::RecordBatch;
use arrow::compute::concat_batches;
use arrow::datatypes::SchemaRef;

use crate::engine::graph::MaterializeSpec;
use crate::engine::message::{Barrier, CHUNK_ROWS_TARGET, Chunk, Watermark, Weights};
use crate::engine::operator::{Operator, Output, Result, StateSize};
use crate::engine::operators::BuildContext;
use crate::engine::operators::columns::{batch_of, weights_of};
use crate::engine::operators::group_state::rebased_range;
use crate::engine::results::row_state::{ROWS_TABLE, RowState};
use crate::engine::results::store::{Applied, Ownership, RowIdentity, Store};
use crate::engine::results::{Publisher, ResultDescription, Version};
use crate::ids::Epoch;
use crate::state::table::{Distribution, SnapshotContext, StateReader, TableKind, TableWrite};

pub(crate) struct Materialize {
    schema: SchemaRef,
    /// Shared with look-ups.
    store: Arc<RwLock<Store>>,
    state: RowState,
    publisher: Publisher,
    /// Look-ups need the rows of before while other subtasks are behind.
    keeps_undo: bool,
    pending: Vec<RecordBatch>,
    pending_weights: Vec<i64>,
    pending_bytes: usize,
}

impl Materialize {
    pub fn new(spec: &MaterializeSpec, schema: &SchemaRef, context: &BuildContext) -> Result<Materialize> {
        let identity = RowIdentity::of(spec);
        let ownership = Ownership {
            key_groups: context.key_groups,
            owned: context.key_groups.range_of(context.subtask.0, context.parallelism),
        };
        let description = ResultDescription {
            schema: Arc::clone(schema),
            key: spec.key.clone().filter(|key| !key.is_empty()),
            append_only: spec.append_only,
            parallelism: context.parallelism,
            key_groups: context.key_groups,
        };
        let state = RowState::new(schema, &identity);
        let has_key = matches!(identity, RowIdentity::Key(_));
        let store = Arc::new(RwLock::new(Store::new(schema, identity, ownership)?));
        let publisher = context
            .results
            .attach(spec.pipeline, description, context.subtask.0, &store);
        Ok(Materialize {
            schema: Arc::clone(schema),
            state,
            keeps_undo: has_key && publisher.parallelism() > 1,
            publisher,
            store,
            pending: Vec::new(),
            pending_weights: Vec::new(),
            pending_bytes: 0,
        })
    }

    fn apply_pending(&mut self, epoch: Epoch) -> Result<()> {
        let visible = self.publisher.visible_epoch();
        let store = Arc::clone(&self.store);
        // Held until the epoch is published, so that a look-up never sees rows of an epoch that is not.
        let mut store = store.write().unwrap_or_else(PoisonError::into_inner);
        let mut changes = Vec::new();
        if !self.pending.is_empty() {
            let rows = match self.pending.as_slice() {
                [only] => only.clone(),
                several => concat_batches(&self.schema, several)?,
            };
            let applied = store.apply(&rows, &self.pending_weights, epoch, visible, self.keeps_undo)?;
            changes = change_chunks(&applied);
            self.state.note_appended(applied.added, applied.key_groups);
            self.pending.clear();
            self.pending_weights.clear();
            self.pending_bytes = 0;
        }
        self.publisher.publish(version(&store, epoch), changes);
        Ok(())
    }
}

fn version(store: &Store, epoch: Epoch) -> Version {
    Version {
        epoch,
        segments: store.views(),
        rows: store.live_rows(),
    }
}

/// Rows that went, then rows that came, in chunks of a useful size.
fn change_chunks(applied: &Applied) -> Vec<Chunk> {
    let mut chunks = Vec::new();
    for (rows, weight) in [(&applied.removed, -1), (&applied.added, 1)] {
        for start in (0..rows.num_rows()).step_by(CHUNK_ROWS_TARGET) {
            let length = CHUNK_ROWS_TARGET.min(rows.num_rows() - start);
            chunks.push(Chunk {
                weights: match weight {
                    1 => Weights::AllInsert,
                    other => Weights::Signed(vec![other; length].into()),
                },
                ..Chunk::insert(rows.slice(start, length))
            });
        }
    }
    chunks
}

impl Operator for Materialize {
    fn name(&self) -> &'static str {
        "materialize"
    }

    fn process(&mut self, _input: usize, chunk: Chunk, _output: &mut Output) -> Result<()> {
        match weights_of(&chunk) {
            Some(weights) => self.pending_weights.extend_from_slice(weights),
            None => self.pending_weights.extend(std::iter::repeat_n(1, chunk.len())),
        }
        self.pending_bytes += chunk.memory_bytes();
        let rows = if chunk.rows.schema_ref() == &self.schema {
            chunk.rows
        } else {
            batch_of(&self.schema, chunk.rows.columns().to_vec(), chunk.rows.num_rows())?
        };
        self.pending.push(rows);
        Ok(())
    }

    fn on_watermark(&mut self, _watermark: Watermark, _output: &mut Output) -> Result<()> {
        Ok(())
    }

    fn on_barrier(&mut self, barrier: Barrier, _output: &mut Output) -> Result<()> {
        self.apply_pending(barrier.epoch)
    }

    fn snapshot(&mut self, context: &SnapshotContext) -> Result<Vec<TableWrite>> {
        let mut store = self.store.write().unwrap_or_else(PoisonError::into_inner);
        Ok(vec![TableWrite {
            table: ROWS_TABLE,
            kind: TableKind::GlobalKeyed,
            distribution: Distribution::KeyGroups,
            rebased: rebased_range(context),
            expired_before: None,
            rows: self.state.write(&mut store, context)?,
        }])
    }

    fn restore(&mut self, state: &dyn StateReader) -> Result<()> {
        let mut store = self.store.write().unwrap_or_else(PoisonError::into_inner);
        state.read(ROWS_TABLE, &mut |rows| Ok(self.state.read(&mut store, &rows)?))?;
        store.settle_restored();
        self.publisher.publish(version(&store, Epoch(0)), Vec::new());
        Ok(())
    }

    fn state_size(&self) -> StateSize {
        let store = self.store.read().unwrap_or_else(PoisonError::into_inner);
        StateSize {
            rows: store.live_rows(),
            bytes: (store.memory_bytes() + self.pending_bytes) as u64,
        }
    }
}
