//! How the rows of a join are written down and read back.
//!
//! Tables `left` and `right`, of which the whole row is the key (rows of a side that only grows may be there several times): columns `c0..` of the input (last the event time, where the
//! output has one), `weight`, for a side whose partners are counted `matches`, with a TTL `touched` (wall-clock milliseconds).
//! In a join bounded by time they expire: `_time` is the moment at which the row is done, so a row with `_time` at or before
//! the watermark is dead. Table `watermark` (broadcast) is how far the join has come, so that late rows stay late.

use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, Int8Array, RecordBatch, UInt16Array, UInt32Array, new_null_array};
use arrow::datatypes::{DataType, Field, Int8Type, Schema, SchemaRef};

use crate::engine::join_spec::{Moment, Side};
use crate::engine::operator::Result;
use crate::engine::operators::columns::{as_int64, batch_of, int64, take_batch};
use crate::engine::operators::group_state::{check_schema, rebased_range};
use crate::engine::operators::join::arrival::moments_of;
use crate::engine::operators::join::rows::{RowStore, SharedKeys, StoreOptions};
use crate::engine::operators::join::waiting_rows::{WaitingChunk, WaitingRows};
use crate::engine::operators::keys::key_hashes;
use crate::state::table::{
    Distribution, OP_PUT, OP_TOMBSTONE, STATE_BATCH_ROWS, SnapshotContext, TableKind, TableWrite, leading_fields,
};

/// The table of one side.
pub(super) struct SideTable {
    pub name: &'static str,
    kind: TableKind,
    schema: SchemaRef,
    columns: usize,
    options: StoreOptions,
    /// Which of the columns are the key.
    key: Vec<usize>,
}

impl SideTable {
    pub fn new(side: Side, types: &[DataType], key: &[usize], options: StoreOptions) -> SideTable {
        let kind = if options.timed {
            TableKind::ExpiringTimeKey
        } else {
            TableKind::GlobalKeyed
        };
        let mut fields = leading_fields(kind);
        let column = |(at, of): (usize, &DataType)| Field::new(format!("c{at}"), of.clone(), true);
        fields.extend(types.iter().enumerate().map(column));
        fields.push(Field::new("weight", DataType::Int64, true));
        if options.counted {
            fields.push(Field::new("matches", DataType::Int64, true));
        }
        if options.stamped {
            fields.push(Field::new("touched", DataType::Int64, true));
        }
        SideTable {
            name: match side {
                Side::Left => "left",
                Side::Right => "right",
            },
            kind,
            schema: Arc::new(Schema::new(fields)),
            columns: types.len(),
            options,
            key: key.to_vec(),
        }
    }

    fn leading(&self) -> usize {
        match self.kind {
            TableKind::GlobalKeyed => 2,
            TableKind::ExpiringTimeKey => 3,
        }
    }

    /// Writes what changed, all of the rebased groups, and what is gone.
    pub fn write(
        &self,
        store: &mut RowStore,
        keys: &mut SharedKeys,
        context: &SnapshotContext,
        watermark: Option<i64>,
    ) -> Result<TableWrite> {
        let is_rebased = |store: &RowStore, keys: &SharedKeys, row: u32| {
            context
                .rebase
                .contains(context.key_groups.group_of(hash_of(store, keys, row)))
        };
        let chosen: Vec<u32> = if context.rebase.is_empty() {
            store.changed.iter().filter(|&row| store.is_live(row)).collect()
        } else {
            store
                .live()
                .filter(|&row| store.changed.contains(row) || is_rebased(store, keys, row))
                .collect()
        };
        let dead = store.dead();
        let gone: Vec<u32> = dead
            .iter()
            .copied()
            .filter(|&row| !is_rebased(store, keys, row))
            .collect();
        let mut rows = Vec::new();
        for part in gone.chunks(STATE_BATCH_ROWS) {
            rows.push(self.batch(store, keys, context, part, OP_TOMBSTONE)?);
        }
        for part in chosen.chunks(STATE_BATCH_ROWS) {
            rows.push(self.batch(store, keys, context, part, OP_PUT)?);
        }
        for &row in &chosen {
            store.persisted.insert(row);
        }
        store.changed.clear();
        store.free_dead(&dead, keys)?;
        Ok(self.table_write(context, watermark, rows))
    }

    fn table_write(&self, context: &SnapshotContext, watermark: Option<i64>, rows: Vec<RecordBatch>) -> TableWrite {
        TableWrite {
            table: self.name,
            kind: self.kind,
            distribution: Distribution::KeyGroups,
            rebased: rebased_range(context),
            expired_before: watermark.map(|at| at.saturating_add(1)),
            rows,
        }
    }

    fn batch(
        &self,
        store: &RowStore,
        keys: &SharedKeys,
        context: &SnapshotContext,
        rows: &[u32],
        op: i8,
    ) -> Result<RecordBatch> {
        let key_group = |&row: &u32| context.key_groups.group_of(hash_of(store, keys, row)).0;
        let key_groups: UInt16Array = rows.iter().map(key_group).collect();
        let mut columns: Vec<ArrayRef> = vec![Arc::new(key_groups), Arc::new(Int8Array::from(vec![op; rows.len()]))];
        let of = |values: &[i64]| int64(rows.iter().map(|&row| values[row as usize]).collect());
        columns.extend(store.done.as_deref().map(of));
        let all: Vec<usize> = (0..self.columns).collect();
        columns.extend(store.rows.gather(&all, rows)?);
        if op == OP_PUT {
            columns.push(of(&store.weight));
            columns.extend(store.counted.as_ref().map(|counted| of(&counted.matches)));
            columns.extend(store.stamps.as_deref().map(of));
        } else {
            for field in &self.schema.fields()[columns.len()..] {
                columns.push(new_null_array(field.data_type(), rows.len()));
            }
        }
        batch_of(&self.schema, columns, rows.len())
    }

    /// Applies a batch that was read back; `is_done` says of a moment that rows done then are dead.
    pub fn read(
        &self,
        store: &mut RowStore,
        keys: &mut SharedKeys,
        rows: &RecordBatch,
        is_done: impl Fn(i64) -> bool,
    ) -> Result<()> {
        check_schema(&self.schema, rows)?;
        let leading = self.leading();
        let columns = &rows.columns()[leading..leading + self.columns];
        let key_columns: Vec<ArrayRef> = self.key.iter().map(|&at| Arc::clone(&columns[at])).collect();
        let hashes = key_hashes(&key_columns, rows.num_rows(), None);
        let key_numbers = keys.intern(&key_columns, &hashes)?;
        let numbers = store.intern(columns, &key_numbers, keys)?;
        let ops = rows.column(1).as_primitive::<Int8Type>();
        let times = match self.kind {
            TableKind::GlobalKeyed => None,
            TableKind::ExpiringTimeKey => Some(as_int64(rows.column(2))?),
        };
        let mut next = leading + self.columns;
        let mut column = |present: bool| {
            let at = next;
            next += usize::from(present);
            present.then(|| as_int64(rows.column(at))).transpose()
        };
        let (weights, matches, stamps) = (
            column(true)?,
            column(self.options.counted)?,
            column(self.options.stamped)?,
        );
        for (at, &row) in numbers.iter().enumerate() {
            let done = times.map(|times| times.value(at));
            let is_put = ops.value(at) == OP_PUT && !done.is_some_and(&is_done);
            let weight = weights.filter(|_| is_put).map_or(0, |weights| weights.value(at));
            if weight == 0 {
                if store.is_known(row) {
                    store.drop_done(row, keys)?;
                }
                continue;
            }
            store.restore(row, weight, done);
            if let (Some(counted), Some(matches)) = (&mut store.counted, matches) {
                counted.matches[row as usize] = matches.value(at);
            }
            if let (Some(column), Some(stamps)) = (&mut store.stamps, stamps) {
                column[row as usize] = stamps.value(at);
            }
        }
        Ok(())
    }
}

/// Of rows that wait without an index: the same tables.
impl SideTable {
    /// Writes the rows that came since the last snapshot, and all of the rebased groups. Nothing is ever taken back but by time.
    pub fn write_waiting(
        &self,
        waiting: &mut WaitingRows,
        context: &SnapshotContext,
        watermark: Option<i64>,
    ) -> Result<TableWrite> {
        let mut rows = Vec::new();
        for chunk in &mut waiting.chunks {
            let is_rebased = |row: u32| {
                let group = context.key_groups.group_of(chunk.hashes[row as usize]);
                context.rebase.contains(group)
            };
            let is_live = |row: u32| watermark.is_none_or(|watermark| chunk.done[row as usize] > watermark);
            let chosen: Vec<u32> = (0..chunk.len() as u32)
                .filter(|&row| is_live(row) && (!chunk.persisted || is_rebased(row)))
                .collect();
            for part in chosen.chunks(STATE_BATCH_ROWS) {
                rows.push(self.waiting_batch(&chunk.take(part)?, context)?);
            }
            chunk.persisted = true;
        }
        Ok(self.table_write(context, watermark, rows))
    }

    fn waiting_batch(&self, chunk: &WaitingChunk, context: &SnapshotContext) -> Result<RecordBatch> {
        let key_groups: UInt16Array = chunk
            .hashes
            .iter()
            .map(|&hash| context.key_groups.group_of(hash).0)
            .collect();
        let puts = Int8Array::from(vec![OP_PUT; chunk.len()]);
        let mut columns: Vec<ArrayRef> = vec![Arc::new(key_groups), Arc::new(puts), int64(chunk.done.to_vec())];
        columns.extend(chunk.columns.iter().map(Arc::clone));
        columns.push(int64(match &chunk.weights {
            Some(weights) => weights.to_vec(),
            None => vec![1; chunk.len()],
        }));
        batch_of(&self.schema, columns, chunk.len())
    }

    /// Adds a batch that was read back, as far as its rows are not done.
    pub fn read_waiting(
        &self,
        waiting: &mut WaitingRows,
        rows: &RecordBatch,
        late: &Moment,
        is_done: impl Fn(i64) -> bool,
    ) -> Result<()> {
        check_schema(&self.schema, rows)?;
        let ops = rows.column(1).as_primitive::<Int8Type>();
        let done = as_int64(rows.column(2))?;
        let live: Vec<u32> = (0..rows.num_rows() as u32)
            .filter(|&row| ops.value(row as usize) == OP_PUT && !is_done(done.value(row as usize)))
            .collect();
        if live.is_empty() {
            return Ok(());
        }
        let rows = take_batch(rows, &UInt32Array::from(live))?;
        let leading = self.leading();
        let columns = rows.columns()[leading..leading + self.columns].to_vec();
        let key_columns: Vec<ArrayRef> = self.key.iter().map(|&at| Arc::clone(&columns[at])).collect();
        let hashes = key_hashes(&key_columns, rows.num_rows(), None).into_owned();
        let weights = as_int64(rows.column(leading + self.columns))?.values();
        let late = moments_of(&columns[late.column], late.offset_micros)?;
        let mut chunk = WaitingChunk::new(
            columns,
            hashes.into(),
            weights.iter().any(|&weight| weight != 1).then(|| weights.clone()),
            as_int64(rows.column(2))?.values().to_vec(),
            late,
        );
        chunk.persisted = true;
        waiting.add(chunk)
    }
}

fn hash_of(store: &RowStore, keys: &SharedKeys, row: u32) -> u64 {
    keys.table.hash_of(store.key[row as usize])
}
