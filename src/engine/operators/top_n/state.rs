//! How the rows of a ranking are written down and read back.
//!
//! Table `rows`, of which the whole row is the key: columns `c0..` of the input, `weight`, with a TTL `touched` (wall-clock
//! milliseconds; the partition's is the latest of its rows). In a ranking inside windows they expire: `_time` is the moment when
//! the window is over, so a row with `_time` at or before the watermark is dead. Table `watermark` (broadcast) says how far it
//! has come, so that late rows stay late. What was last shown is not stored: it is what the rows at the barrier of the snapshot give.

use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, Int8Array, RecordBatch, UInt16Array, new_null_array};
use arrow::datatypes::{DataType, Field, Int8Type, Schema, SchemaRef};

use crate::engine::operator::Result;
use crate::engine::operators::columns::{as_int64, batch_of, int64};
use crate::engine::operators::group_state::{check_schema, rebased_range};
use crate::engine::operators::top_n::TopN;
use crate::engine::operators::top_n::row_key::RowKey;
use crate::state::table::{
    Distribution, OP_PUT, OP_TOMBSTONE, STATE_BATCH_ROWS, SnapshotContext, StateReader, TableKind, TableWrite,
    leading_fields,
};

pub(super) const TABLE: &str = "rows";

/// The form of the table.
pub(super) struct RowTable {
    kind: TableKind,
    schema: SchemaRef,
    columns: usize,
    stamped: bool,
}

/// A row to be written.
struct Written {
    row: RowKey,
    hash: u64,
    moment: i64,
    /// `None`: it is gone.
    weight: Option<i64>,
    stamp: i64,
}

impl RowTable {
    pub fn new(input: &Schema, timed: bool, stamped: bool) -> RowTable {
        let kind = if timed {
            TableKind::ExpiringTimeKey
        } else {
            TableKind::GlobalKeyed
        };
        let mut fields = leading_fields(kind);
        let column = |(at, field): (usize, &Arc<Field>)| Field::new(format!("c{at}"), field.data_type().clone(), true);
        fields.extend(input.fields().iter().enumerate().map(column));
        fields.push(Field::new("weight", DataType::Int64, true));
        if stamped {
            fields.push(Field::new("touched", DataType::Int64, true));
        }
        RowTable {
            kind,
            schema: Arc::new(Schema::new(fields)),
            columns: input.fields().len(),
            stamped,
        }
    }

    fn leading(&self) -> usize {
        match self.kind {
            TableKind::GlobalKeyed => 2,
            TableKind::ExpiringTimeKey => 3,
        }
    }
}

impl TopN {
    /// Writes what changed, all of the rebased groups, and what is gone.
    pub(super) fn write_rows(&mut self, context: &SnapshotContext) -> Result<TableWrite> {
        let is_rebased = |hash: u64| context.rebase.contains(context.key_groups.group_of(hash));
        let gone: Vec<Written> = std::mem::take(&mut self.dead)
            .into_iter()
            .filter(|(_, (hash, _))| !is_rebased(*hash))
            .map(|(row, (hash, moment))| Written {
                row,
                hash,
                moment,
                weight: None,
                stamp: 0,
            })
            .collect();
        let mut kept = Vec::new();
        for (group, row) in std::mem::take(&mut self.changed) {
            if !self.keys.is_live(group) {
                continue;
            }
            let hash = self.keys.hash_of(group);
            if !is_rebased(hash) {
                kept.extend(self.written(group, &row, hash));
            }
        }
        if !context.rebase.is_empty() {
            for group in 0..self.partitions.len() as u32 {
                let hash = self.keys.hash_of(group);
                if self.keys.is_live(group) && is_rebased(hash) {
                    kept.extend(self.all_written(group, hash));
                }
            }
        }
        let mut rows = Vec::new();
        for part in gone.chunks(STATE_BATCH_ROWS).chain(kept.chunks(STATE_BATCH_ROWS)) {
            rows.push(self.batch(context, part)?);
        }
        Ok(TableWrite {
            table: TABLE,
            kind: self.table.kind,
            distribution: Distribution::KeyGroups,
            rebased: rebased_range(context),
            expired_before: self.watermark.map(|at| at.saturating_add(1)),
            rows,
        })
    }

    /// All rows of a partition.
    fn all_written(&mut self, group: u32, hash: u64) -> Vec<Written> {
        for (_, entry) in self.partitions[group as usize].rows.iter_mut() {
            entry.changed = true;
        }
        let rows: Vec<RowKey> = self.partitions[group as usize].rows.keys().cloned().collect();
        rows.iter().filter_map(|row| self.written(group, row, hash)).collect()
    }

    /// A changed row as it is now; `None` when it has gone, or was written already.
    fn written(&mut self, group: u32, row: &RowKey, hash: u64) -> Option<Written> {
        let partition = self.partitions.get_mut(group as usize)?;
        let entry = partition.rows.get_mut(row).filter(|entry| entry.changed)?;
        entry.changed = false;
        entry.persisted = true;
        Some(Written {
            row: row.clone(),
            hash,
            moment: partition.moment,
            weight: Some(entry.weight),
            stamp: partition.stamp,
        })
    }

    fn batch(&self, context: &SnapshotContext, rows: &[Written]) -> Result<RecordBatch> {
        let key_groups: UInt16Array = rows.iter().map(|of| context.key_groups.group_of(of.hash).0).collect();
        let op = |of: &Written| if of.weight.is_some() { OP_PUT } else { OP_TOMBSTONE };
        let ops: Int8Array = rows.iter().map(op).collect();
        let mut columns: Vec<ArrayRef> = vec![Arc::new(key_groups), Arc::new(ops)];
        if self.table.kind == TableKind::ExpiringTimeKey {
            columns.push(int64(rows.iter().map(|of| of.moment).collect()));
        }
        columns.extend(self.codec.decode(rows.iter().map(|of| &of.row))?);
        if rows.first().is_some_and(|of| of.weight.is_some()) {
            columns.push(int64(rows.iter().filter_map(|of| of.weight).collect()));
            if self.table.stamped {
                columns.push(int64(rows.iter().map(|of| of.stamp).collect()));
            }
        } else {
            for field in &self.table.schema.fields()[columns.len()..] {
                columns.push(new_null_array(field.data_type(), rows.len()));
            }
        }
        batch_of(&self.table.schema, columns, rows.len())
    }

    pub(super) fn read_all_rows(&mut self, state: &dyn StateReader) -> Result<()> {
        state.read(TABLE, &mut |rows| Ok(self.read_rows(&rows)?))?;
        Ok(())
    }

    /// Applies a batch that was read back, its rows in order.
    fn read_rows(&mut self, batch: &RecordBatch) -> Result<()> {
        check_schema(&self.table.schema, batch)?;
        let leading = self.table.leading();
        let columns = batch.columns()[leading..leading + self.table.columns].to_vec();
        let rows = batch_of(&self.input, columns, batch.num_rows())?;
        let groups = self.intern(&rows, None)?;
        let (order, whole) = (self.codec.order(&rows)?, self.codec.whole(&rows)?);
        let ops = batch.column(1).as_primitive::<Int8Type>();
        let moments = match self.table.kind {
            TableKind::GlobalKeyed => None,
            TableKind::ExpiringTimeKey => Some(as_int64(batch.column(2))?),
        };
        let weights = as_int64(batch.column(leading + self.table.columns))?;
        let stamps = match self.table.stamped {
            true => Some(as_int64(batch.column(leading + self.table.columns + 1))?),
            false => None,
        };
        let mut space = Vec::new();
        for (at, &group) in groups.iter().enumerate() {
            let row = RowKey::new(order.of(at), whole.row(at).data(), &mut space);
            let is_over = moments.is_some_and(|moments| self.watermark.is_some_and(|now| moments.value(at) <= now));
            let is_put = ops.value(at) == OP_PUT && !is_over;
            let partition = &mut self.partitions[group as usize];
            if let Some(moments) = moments {
                partition.moment = moments.value(at);
            }
            if let Some(stamps) = stamps.filter(|_| is_put) {
                partition.stamp = partition.stamp.max(stamps.value(at));
            }
            self.restore_row(group, row, if is_put { weights.value(at) } else { 0 });
        }
        Ok(())
    }
}
