//! How a store is written down and read back: table `rows`.
//!
//! Columns after the leading ones: with a key, the key columns, then the others; without, all columns, and over changing
//! input `count`, how often the row is there. An append-only store without a key writes each row once (and again when its
//! key group is rebased), under the key group of the hash of all its columns.

use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, Int8Array, RecordBatch, UInt16Array, UInt32Array, new_null_array};
use arrow::datatypes::{DataType, Field, Int8Type, Schema, SchemaRef};

use crate::engine::operator::Result;
use crate::engine::operators::columns::{as_int64, batch_of, int64, take_batch};
use crate::engine::operators::group_state::check_schema;
use crate::engine::results::store::{RowIdentity, Store};
use crate::ids::Epoch;
use crate::state::key_group::KeyGroup;
use crate::state::table::{OP_PUT, OP_TOMBSTONE, STATE_BATCH_ROWS, SnapshotContext, TableKind, leading_fields};
use crate::types::record_batch::batch_of_rows;

pub(crate) const ROWS_TABLE: &str = "rows";

const LEADING: usize = 2;

pub(crate) struct RowState {
    identity: RowIdentity,
    schema: SchemaRef,
    /// Columns of the schema in the order they are written in.
    order: Vec<usize>,
    stored: SchemaRef,
    /// Rows of an append-only store that no snapshot holds, with their key groups.
    unsaved: Vec<(RecordBatch, Vec<u32>)>,
}

impl RowState {
    pub fn new(schema: &SchemaRef, identity: &RowIdentity) -> RowState {
        let order: Vec<usize> = match identity {
            RowIdentity::Key(key) => {
                let others = (0..schema.fields().len()).filter(|column| !key.contains(column));
                key.iter().copied().chain(others).collect()
            }
            RowIdentity::AllColumns | RowIdentity::None => (0..schema.fields().len()).collect(),
        };
        let mut fields = leading_fields(TableKind::GlobalKeyed);
        let column = |&at: &usize| Field::new(format!("c{at}"), schema.field(at).data_type().clone(), true);
        fields.extend(order.iter().map(column));
        if *identity == RowIdentity::AllColumns {
            fields.push(Field::new("count", DataType::Int64, true));
        }
        RowState {
            identity: identity.clone(),
            schema: Arc::clone(schema),
            order,
            stored: Arc::new(Schema::new(fields)),
            unsaved: Vec::new(),
        }
    }

    /// Rows that an append-only store got.
    pub fn note_appended(&mut self, rows: RecordBatch, key_groups: Vec<u32>) {
        if self.identity == RowIdentity::None && rows.num_rows() > 0 {
            self.unsaved.push((rows, key_groups));
        }
    }

    pub fn write(&mut self, store: &mut Store, context: &SnapshotContext) -> Result<Vec<RecordBatch>> {
        match self.identity {
            RowIdentity::None => self.write_appended(store, context),
            RowIdentity::Key(_) | RowIdentity::AllColumns => self.write_changed(store, context),
        }
    }

    fn write_appended(&mut self, store: &Store, context: &SnapshotContext) -> Result<Vec<RecordBatch>> {
        let is_rebased = |group: u32| context.rebase.contains(KeyGroup(group as u16));
        let mut parts = Vec::new();
        for (rows, key_groups) in self.unsaved.drain(..) {
            if !key_groups.iter().any(|&group| is_rebased(group)) {
                parts.push((rows, key_groups));
                continue;
            }
            let others: Vec<u32> = (0..key_groups.len() as u32)
                .filter(|&row| !is_rebased(key_groups[row as usize]))
                .collect();
            let groups = others.iter().map(|&row| key_groups[row as usize]).collect();
            parts.push((take_batch(&rows, &UInt32Array::from(others))?, groups));
        }
        if !context.rebase.is_empty() {
            parts.extend(store.segments().select(is_rebased)?);
        }
        let mut batches = Vec::new();
        for (rows, key_groups) in parts {
            if rows.num_rows() > 0 {
                let groups = key_groups.iter().map(|&group| group as u16).collect();
                batches.push(self.batch(groups, OP_PUT, rows.columns().to_vec(), None)?);
            }
        }
        Ok(batches)
    }

    fn write_changed(&self, store: &mut Store, context: &SnapshotContext) -> Result<Vec<RecordBatch>> {
        let Some(index) = store.index() else {
            return Ok(Vec::new());
        };
        let is_rebased = |group: u32| {
            context
                .rebase
                .contains(context.key_groups.group_of(index.hash_of(group)))
        };
        let chosen: Vec<u32> = if context.rebase.is_empty() {
            index.changed.iter().collect()
        } else {
            let live = index.live_groups();
            live.filter(|&group| index.changed.contains(group) || is_rebased(group))
                .collect()
        };
        let (present, gone): (Vec<u32>, Vec<u32>) = chosen.into_iter().partition(|&group| index.copies(group) > 0);
        let key_groups = |groups: &[u32]| -> Vec<u16> {
            groups
                .iter()
                .map(|&group| context.key_groups.group_of(index.hash_of(group)).0)
                .collect()
        };
        let mut batches = Vec::new();
        for groups in present.chunks(STATE_BATCH_ROWS) {
            let locations: Vec<_> = groups.iter().filter_map(|&group| index.location(group)).collect();
            let rows = store.segments().gather(&locations)?;
            let columns = self.order.iter().map(|&at| Arc::clone(&rows[at])).collect();
            let counts = groups.iter().map(|&group| index.copies(group) as i64).collect();
            batches.push(self.batch(key_groups(groups), OP_PUT, columns, Some(counts))?);
        }
        let tombstones: Vec<u32> = gone
            .iter()
            .copied()
            .filter(|&group| index.persisted.contains(group) && !is_rebased(group))
            .collect();
        for groups in tombstones.chunks(STATE_BATCH_ROWS) {
            let mut columns = index.gather_keys(groups);
            for &at in &self.order[columns.len()..] {
                columns.push(new_null_array(self.schema.field(at).data_type(), groups.len()));
            }
            batches.push(self.batch(key_groups(groups), OP_TOMBSTONE, columns, Some(vec![0; groups.len()]))?);
        }
        let forgettable: Vec<u32> = gone
            .iter()
            .copied()
            .filter(|&group| !store.is_remembered(group))
            .collect();
        if let Some(index) = store.index_mut() {
            index.changed.clear();
            for &group in &present {
                index.persisted.insert(group);
            }
            for &group in &gone {
                index.persisted.remove(group);
            }
            index.bury(forgettable);
        }
        Ok(batches)
    }

    fn batch(
        &self,
        key_groups: Vec<u16>,
        op: i8,
        columns: Vec<ArrayRef>,
        counts: Option<Vec<i64>>,
    ) -> Result<RecordBatch> {
        let rows = key_groups.len();
        let mut all: Vec<ArrayRef> = vec![
            Arc::new(UInt16Array::from(key_groups)),
            Arc::new(Int8Array::from(vec![op; rows])),
        ];
        all.extend(columns);
        if self.identity == RowIdentity::AllColumns {
            all.push(int64(counts.unwrap_or_default()));
        }
        Ok(batch_of_rows(Arc::clone(&self.stored), all, rows)?)
    }

    /// Applies a batch that was read back.
    pub fn read(&self, store: &mut Store, rows: &RecordBatch) -> Result<()> {
        check_schema(&self.stored, rows)?;
        let ops = rows.column(1).as_primitive::<Int8Type>().values().clone();
        let mut start = 0;
        for run in ops.chunk_by(|a, b| a == b) {
            let part = rows.slice(start, run.len());
            start += run.len();
            if run[0] == OP_PUT {
                self.read_puts(store, &part)?;
            } else {
                let width = match &self.identity {
                    RowIdentity::Key(key) => key.len(),
                    RowIdentity::AllColumns | RowIdentity::None => self.order.len(),
                };
                store.restore_removals(&part.columns()[LEADING..LEADING + width], part.num_rows());
            }
        }
        Ok(())
    }

    fn read_puts(&self, store: &mut Store, part: &RecordBatch) -> Result<()> {
        let mut columns: Vec<(usize, ArrayRef)> = self
            .order
            .iter()
            .enumerate()
            .map(|(written, &at)| (at, Arc::clone(part.column(LEADING + written))))
            .collect();
        columns.sort_by_key(|column| column.0);
        let columns = columns.into_iter().map(|column| column.1).collect();
        let rows = batch_of(&self.schema, columns, part.num_rows())?;
        if self.identity == RowIdentity::AllColumns {
            let counts = as_int64(part.column(LEADING + self.order.len()))?;
            return store.restore_counts(&rows, counts.values());
        }
        let weights = vec![1; rows.num_rows()];
        store.apply(&rows, &weights, Epoch(0), Epoch(0), false)?;
        Ok(())
    }
}
