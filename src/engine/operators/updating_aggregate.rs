//! GROUP BY without a window, and SELECT DISTINCT: results that change as rows come and go.
//!
//! At every barrier, and at the end of input, the groups touched since the last one emit what became of them: `-old`,
//! `+new`, nothing when the result is the same, only `-old` when the last row of the group has gone. So consumers see one
//! consistent state a barrier and never anything between.
//!
//! A global aggregate (no keys) always has one row, from the first barrier on, even when there was no input; subtask 0 has
//! it. With `state_ttl_ms` a group that no row has touched for that long is retracted and forgotten; rows for it start
//! anew, and a retraction of one of its former rows then counts below zero and shows nothing.
//!
//! State: tables `groups` and `values` (see `group_state`). What was last emitted is not stored: it equals the result at
//! the barrier of the snapshot. So what was emitted can be emitted once more, for consumers that are new.

use std::sync::Arc;

use arrow::datatypes::SchemaRef;

use crate::clock::Clock;
use crate::engine::graph::AggregateSpec;
use crate::engine::message::{Barrier, Chunk};
use crate::engine::operator::{Operator, Output, Result, StateSize};
use crate::engine::operators::BuildContext;
use crate::engine::operators::aggregates::AggregateLayout;
use crate::engine::operators::changes::Changes;
use crate::engine::operators::columns::{batch_of, weights_from, weights_of};
use crate::engine::operators::group_state::{StateShape, TableNames};
use crate::engine::operators::group_table::GroupTable;
use crate::state::table::{SnapshotContext, StateReader, TableKind, TableWrite};

const TABLES: TableNames = TableNames {
    groups: "groups",
    values: "values",
};

/// At least so many groups are looked at for expiry at each barrier; of a large table a sixteenth.
const EXPIRY_STEP: usize = 4096;

pub(crate) struct UpdatingAggregate {
    table: GroupTable,
    shape: StateShape,
    changes: Changes,
    output: SchemaRef,
    ttl_ms: Option<u64>,
    clock: Arc<dyn Clock>,
    /// Emits the row of a global aggregate.
    owns_global: bool,
    global: bool,
    /// Where the search for expired groups goes on.
    expiry_cursor: u32,
}

impl UpdatingAggregate {
    pub fn new(
        spec: &AggregateSpec,
        input: &SchemaRef,
        output: &SchemaRef,
        context: &BuildContext,
    ) -> Result<UpdatingAggregate> {
        let layout = AggregateLayout::new(spec, input)?;
        let key_types = layout.key_types();
        let global = spec.keys.is_empty();
        let ttl_ms = spec.state_ttl_ms.filter(|_| !global);
        let mut table = GroupTable::new(&layout, &key_types, ttl_ms.is_some())?;
        Ok(UpdatingAggregate {
            shape: StateShape::new(TABLES, &mut table, &key_types, TableKind::GlobalKeyed),
            table,
            changes: if global {
                Changes::of_global()
            } else {
                Changes::default()
            },
            output: Arc::clone(output),
            ttl_ms,
            clock: Arc::clone(&context.clock),
            owns_global: context.subtask.0 == 0,
            global,
            expiry_cursor: 0,
        })
    }

    fn emit(&mut self, output: &mut Output) -> Result<()> {
        if self.owns_global && self.changes.is_global_pending() && !self.changes.is_touched(0) {
            self.table.assign(&[], 1, None)?;
            self.table.changed.insert(0);
            self.changes.before_update(&mut self.table, &[0])?;
        }
        self.expire()?;
        let schema = &self.output;
        let touched = self.changes.drain(&mut self.table, |rows| {
            let mut columns = rows.keys;
            columns.extend(rows.outputs);
            output.data(Chunk {
                rows: batch_of(schema, columns, rows.weights.len())?,
                weights: weights_from(rows.weights),
                event_time: None,
                key_hashes: None,
            });
            Ok(())
        })?;
        if !self.global {
            for group in touched {
                if self.table.aggregates.row_count(group) == 0 {
                    self.table.bury(group);
                }
            }
        }
        Ok(())
    }

    fn expire(&mut self) -> Result<()> {
        let Some(ttl_ms) = self.ttl_ms else {
            return Ok(());
        };
        let deadline = self
            .clock
            .now_millis()
            .saturating_sub(i64::try_from(ttl_ms).unwrap_or(i64::MAX));
        let capacity = self.table.keys.capacity();
        let step = EXPIRY_STEP.max(capacity.div_ceil(16)).min(capacity);
        let mut expired = Vec::new();
        for _ in 0..step {
            let group = self.expiry_cursor;
            self.expiry_cursor = if (group + 1) as usize >= capacity { 0 } else { group + 1 };
            let stamp = self.table.stamps.as_ref().and_then(|stamps| stamps.get(group as usize));
            let is_old = stamp.is_some_and(|&stamp| stamp <= deadline);
            let holds_rows = is_old && self.table.keys.is_live(group) && self.table.aggregates.row_count(group) != 0;
            if holds_rows && !self.changes.is_touched(group) {
                expired.push(group);
            }
        }
        self.changes.before_update(&mut self.table, &expired)?;
        for group in expired {
            self.table.aggregates.reset(group);
            self.table.changed.insert(group);
        }
        Ok(())
    }
}

impl Operator for UpdatingAggregate {
    fn name(&self) -> &'static str {
        "updating_aggregate"
    }

    fn process(&mut self, _input: usize, chunk: Chunk, _output: &mut Output) -> Result<()> {
        let keys = self.table.layout.key_columns(&chunk.rows);
        let groups = self.table.assign(&keys, chunk.len(), chunk.key_hashes.as_ref())?;
        self.changes.before_update(&mut self.table, &groups)?;
        self.table.aggregates.apply(&chunk.rows, &groups, weights_of(&chunk))?;
        if let Some(stamps) = &mut self.table.stamps {
            let now = self.clock.now_millis();
            for &group in &groups {
                stamps[group as usize] = now;
            }
        }
        Ok(())
    }

    fn on_barrier(&mut self, _barrier: Barrier, output: &mut Output) -> Result<()> {
        self.emit(output)
    }

    fn on_end(&mut self, output: &mut Output) -> Result<()> {
        self.emit(output)
    }

    fn snapshot(&mut self, context: &SnapshotContext) -> Result<Vec<TableWrite>> {
        self.shape.snapshot(&mut self.table, context, !self.global)
    }

    fn restore(&mut self, state: &dyn StateReader) -> Result<()> {
        self.shape.restore(&mut self.table, state)?;
        if self.global && self.table.keys.is_live(0) {
            self.changes.set_global_emitted();
        }
        Ok(())
    }

    fn repeat(&mut self) -> Result<()> {
        self.changes.show_again(&mut self.table);
        Ok(())
    }

    fn state_size(&self) -> StateSize {
        StateSize {
            rows: self.table.keys.len() as u64,
            bytes: self.table.memory_bytes() as u64,
        }
    }
}
