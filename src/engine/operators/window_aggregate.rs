//! GROUP BY a tumbling window: one table of groups for each open window.
//!
//! A window closes when the watermark reaches its end; its result is emitted, once, before the watermark passes on. With
//! [`EmitMode::OnUpdate`] changes are emitted at every barrier while the window is open and the rest when it closes; a
//! closed window's rows stay. At the end of input every window closes. Rows of the result have the last microsecond of
//! the window as their event time.
//!
//! A row is late when its window has closed: it is dropped and counted, and kept as a dead letter when the table says so. A
//! row without event time is dropped and counted.
//!
//! State: tables `windows` and `window_values` (see `group_state`), expiring, with `_time` the end of the window: a row with
//! `_time` at or before the watermark belongs to a closed window and is dead, so `expired_before` is the watermark + 1. Table
//! `watermark` (broadcast) keeps what the operator has closed up to, so that late rows stay late after a restore; a former
//! set of subtasks gives the least of theirs.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{ArrayRef, Int8Array, RecordBatch, UInt16Array, UInt32Array};
use arrow::buffer::ScalarBuffer;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};

use crate::engine::dead_letters::LateRows;
use crate::engine::graph::{EmitMode, WindowAggregateSpec};
use crate::engine::message::{Barrier, CHUNK_ROWS_TARGET, Chunk, Watermark, Weights};
use crate::engine::operator::{Operator, Output, Result, StateSize};
use crate::engine::operators::aggregates::AggregateLayout;
use crate::engine::operators::changes::Changes;
use crate::engine::operators::columns::{as_int64, batch_of, int64, take_chunk, weights_from, weights_of};
use crate::engine::operators::group_state::{SnapshotScope, StateShape, check_schema, rebased_range, split_by_time};
use crate::engine::operators::group_table::GroupTable;
use crate::engine::operators::partial_aggregate::no_event_time;
use crate::engine::operators::window::{Slice, Tumbling};
use crate::state::table::{Distribution, OP_PUT, SnapshotContext, StateReader, TableKind, TableWrite, leading_fields};

const WINDOWS_TABLE: &str = "windows";
const VALUES_TABLE: &str = "window_values";
const WATERMARK_TABLE: &str = "watermark";

/// Tables of closed windows kept for the next ones, and the memory each may hold on to.
const POOLED_TABLES: usize = 2;
const POOLED_BYTES: usize = 64 << 20;

pub(crate) struct WindowAggregate {
    layout: Arc<AggregateLayout>,
    key_types: Vec<DataType>,
    shape: StateShape,
    window: Tumbling,
    emit: EmitMode,
    output: SchemaRef,
    /// By start.
    open: BTreeMap<i64, OpenWindow>,
    pool: Vec<GroupTable>,
    /// Windows that end at or before this are closed.
    watermark: Option<i64>,
    late: u64,
    late_rows: Option<LateRows>,
}

struct OpenWindow {
    table: GroupTable,
    changes: Option<Changes>,
}

impl WindowAggregate {
    pub fn new(spec: &WindowAggregateSpec, input: &SchemaRef, output: &SchemaRef) -> Result<WindowAggregate> {
        let layout = AggregateLayout::new(&spec.aggregate, input)?;
        let key_types = layout.key_types();
        let mut table = GroupTable::new(&layout, &key_types, false)?;
        Ok(WindowAggregate {
            shape: StateShape::new(&mut table, &key_types, TableKind::ExpiringTimeKey),
            layout,
            key_types,
            window: Tumbling::new(spec.window),
            emit: spec.emit,
            output: Arc::clone(output),
            open: BTreeMap::new(),
            pool: vec![table],
            watermark: None,
            late: 0,
            late_rows: None,
        })
    }

    /// Late rows go there, as they come into the aggregate.
    pub fn keeping_late_rows(mut self, late_rows: Option<LateRows>) -> WindowAggregate {
        self.late_rows = late_rows;
        self
    }

    fn is_closed(&self, start: i64) -> bool {
        self.watermark
            .is_some_and(|watermark| self.window.end_of(start) <= watermark)
    }

    fn open_window(&mut self, start: i64) -> Result<&mut OpenWindow> {
        if !self.open.contains_key(&start) {
            let table = match self.pool.pop() {
                Some(table) => table,
                None => GroupTable::new(&self.layout, &self.key_types, false)?,
            };
            let changes = (self.emit == EmitMode::OnUpdate).then(Changes::default);
            self.open.insert(start, OpenWindow { table, changes });
        }
        Ok(self.open.get_mut(&start).expect("it was just put there"))
    }

    fn add(&mut self, start: i64, chunk: &Chunk, hashes: Option<&ScalarBuffer<u64>>) -> Result<()> {
        let keys = self.layout.key_columns(&chunk.rows);
        let window = self.open_window(start)?;
        let groups = window.table.assign(&keys, chunk.len(), hashes)?;
        if let Some(changes) = &mut window.changes {
            changes.before_update(&mut window.table, &groups)?;
        }
        window.table.apply(&chunk.rows, &groups, weights_of(chunk))
    }

    fn count_late(&mut self, chunk: &Chunk, slice: &Slice) -> Result<()> {
        self.late += match (self.layout.represented_rows(&chunk.rows)?, &slice.rows) {
            (None, None) => chunk.len() as u64,
            (None, Some(rows)) => rows.len() as u64,
            (Some(counts), None) => counts.iter().map(|count| count.unsigned_abs()).sum(),
            (Some(counts), Some(rows)) => rows.iter().map(|&row| counts[row as usize].unsigned_abs()).sum(),
        };
        if let (Some(letters), Some(watermark)) = (&self.late_rows, self.watermark) {
            let end = self.window.end_of(slice.start);
            letters.keep(chunk, slice.rows.as_deref(), (slice.start, end), watermark)?;
        }
        Ok(())
    }

    fn close(&mut self, start: i64, output: &mut Output) -> Result<()> {
        let Some(mut window) = self.open.remove(&start) else {
            return Ok(());
        };
        if window.changes.is_some() {
            self.emit_changes(start, &mut window, output)?;
        } else {
            let groups: Vec<u32> = window
                .table
                .live()
                .filter(|&group| window.table.has_rows(group))
                .collect();
            for part in groups.chunks(CHUNK_ROWS_TARGET) {
                let keys = window.table.keys.gather(part);
                let results = window.table.aggregates.outputs(part)?;
                output.data(self.result_chunk(start, keys, results, part.len(), Weights::AllInsert)?);
            }
        }
        if self.pool.len() < POOLED_TABLES && window.table.memory_bytes() < POOLED_BYTES {
            window.table.clear();
            self.pool.push(window.table);
        }
        Ok(())
    }

    fn emit_changes(&self, start: i64, window: &mut OpenWindow, output: &mut Output) -> Result<()> {
        let Some(changes) = &mut window.changes else {
            return Ok(());
        };
        changes.drain(&mut window.table, |rows| {
            let count = rows.weights.len();
            let weights = weights_from(rows.weights);
            output.data(self.result_chunk(start, rows.keys, rows.outputs, count, weights)?);
            Ok(())
        })?;
        Ok(())
    }

    fn result_chunk(
        &self,
        start: i64,
        keys: Vec<ArrayRef>,
        results: Vec<ArrayRef>,
        rows: usize,
        weights: Weights,
    ) -> Result<Chunk> {
        let mut columns = keys;
        columns.extend(self.window.columns(start, rows));
        columns.extend(results);
        let last_moment = self.window.end_of(start) - 1;
        Ok(Chunk {
            rows: batch_of(&self.output, columns, rows)?,
            weights,
            event_time: Some(vec![last_moment; rows].into()),
            key_hashes: None,
        })
    }

    fn watermark_rows(&self) -> Result<RecordBatch> {
        let mut columns: Vec<ArrayRef> = vec![
            Arc::new(UInt16Array::from(vec![0])),
            Arc::new(Int8Array::from(vec![OP_PUT])),
        ];
        columns.push(int64(vec![self.watermark.unwrap_or(i64::MIN)]));
        Ok(RecordBatch::try_new(watermark_schema(), columns)?)
    }

    fn restore_watermark(&mut self, state: &dyn StateReader) -> Result<()> {
        let mut least: Option<i64> = None;
        state.read(WATERMARK_TABLE, &mut |rows| {
            check_schema(&watermark_schema(), &rows)?;
            for &watermark in as_int64(rows.column(2))?.values() {
                least = Some(least.map_or(watermark, |least| least.min(watermark)));
            }
            Ok(())
        })?;
        self.watermark = least.filter(|&watermark| watermark != i64::MIN);
        Ok(())
    }

    /// Hands each open window its part of the rows.
    fn restore_rows(
        &mut self,
        rows: &RecordBatch,
        apply: impl Fn(&StateShape, &mut GroupTable, &RecordBatch) -> Result<()>,
    ) -> Result<()> {
        for (end, part) in split_by_time(rows)? {
            let start = self.window.start_of_end(end);
            if self.is_closed(start) {
                continue;
            }
            self.open_window(start)?;
            if let Some(window) = self.open.get_mut(&start) {
                apply(&self.shape, &mut window.table, &part)?;
            }
        }
        Ok(())
    }
}

fn watermark_schema() -> SchemaRef {
    let mut fields = leading_fields(TableKind::GlobalKeyed);
    fields.push(Field::new("watermark", DataType::Int64, false));
    Arc::new(Schema::new(fields))
}

impl Operator for WindowAggregate {
    fn name(&self) -> &'static str {
        "tumbling_aggregate"
    }

    fn process(&mut self, _input: usize, chunk: Chunk, _output: &mut Output) -> Result<()> {
        let times = chunk.event_time.as_ref().ok_or_else(no_event_time)?;
        let (slices, without) = self.window.split(times);
        self.late += without;
        for slice in slices {
            if self.is_closed(slice.start) {
                self.count_late(&chunk, &slice)?;
                continue;
            }
            match slice.rows {
                None => self.add(slice.start, &chunk, chunk.key_hashes.as_ref())?,
                Some(rows) => {
                    let hashes: Option<ScalarBuffer<u64>> = chunk
                        .key_hashes
                        .as_ref()
                        .map(|hashes| rows.iter().map(|&row| hashes[row as usize]).collect());
                    let part = take_chunk(&chunk, &UInt32Array::from(rows))?;
                    self.add(slice.start, &part, hashes.as_ref())?;
                }
            }
        }
        Ok(())
    }

    fn on_watermark(&mut self, watermark: Watermark, output: &mut Output) -> Result<()> {
        if let Watermark::At(time) = watermark
            && self.watermark.is_none_or(|before| before < time)
        {
            self.watermark = Some(time);
            while let Some((&start, _)) = self.open.first_key_value()
                && self.is_closed(start)
            {
                self.close(start, output)?;
            }
        }
        output.watermark(watermark);
        Ok(())
    }

    fn on_barrier(&mut self, _barrier: Barrier, output: &mut Output) -> Result<()> {
        if self.emit == EmitMode::OnUpdate {
            let mut open = std::mem::take(&mut self.open);
            let emitted = open
                .iter_mut()
                .try_for_each(|(&start, window)| self.emit_changes(start, window, output));
            self.open = open;
            emitted?;
        }
        Ok(())
    }

    fn on_end(&mut self, output: &mut Output) -> Result<()> {
        while let Some((&start, _)) = self.open.first_key_value() {
            self.close(start, output)?;
        }
        // What a checkpoint still holds of these windows is dead with them.
        self.watermark = Some(i64::MAX);
        Ok(())
    }

    fn snapshot(&mut self, context: &SnapshotContext) -> Result<Vec<TableWrite>> {
        let mut groups = Vec::new();
        let mut values = Vec::new();
        for (&start, window) in &mut self.open {
            let scope = SnapshotScope {
                context,
                time: Some(self.window.end_of(start)),
            };
            groups.extend(self.shape.write_groups(&mut window.table, &scope, |_, _| false)?);
            values.extend(self.shape.write_values(&mut window.table, &scope)?);
        }
        let write = |table, rows| TableWrite {
            table,
            kind: TableKind::ExpiringTimeKey,
            distribution: Distribution::KeyGroups,
            rebased: rebased_range(context),
            expired_before: self.watermark.map(|watermark| watermark.saturating_add(1)),
            rows,
        };
        let mut writes = vec![write(WINDOWS_TABLE, groups)];
        if self.shape.keeps_values() {
            writes.push(write(VALUES_TABLE, values));
        }
        writes.push(TableWrite {
            table: WATERMARK_TABLE,
            kind: TableKind::GlobalKeyed,
            distribution: Distribution::Broadcast,
            rebased: None,
            expired_before: None,
            rows: vec![self.watermark_rows()?],
        });
        Ok(writes)
    }

    fn restore(&mut self, state: &dyn StateReader) -> Result<()> {
        self.restore_watermark(state)?;
        state.read(WINDOWS_TABLE, &mut |rows| {
            Ok(self.restore_rows(&rows, |shape, table, rows| shape.read_groups(table, rows))?)
        })?;
        if self.shape.keeps_values() {
            state.read(VALUES_TABLE, &mut |rows| {
                Ok(self.restore_rows(&rows, |shape, table, rows| shape.read_values(table, rows))?)
            })?;
        }
        Ok(())
    }

    fn state_size(&self) -> StateSize {
        let rows: usize = self.open.values().map(|window| window.table.keys.len()).sum();
        let held: usize = self.open.values().map(|window| window.table.memory_bytes()).sum();
        let pooled: usize = self.pool.iter().map(GroupTable::memory_bytes).sum();
        StateSize {
            rows: rows as u64,
            bytes: (held + pooled) as u64,
        }
    }

    fn late_rows(&self) -> u64 {
        self.late
    }
}
